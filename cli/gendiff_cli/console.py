"""What the user sees: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from gendiff.command import is_repetition
from gendiff.errors import ConfigError, GendiffError, printable
from gendiff.quantities import amount as amount
from gendiff.quantities import counted as counted
from gendiff.quantities import duration as duration
from gendiff.quantities import rate as rate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn


@cache
def out() -> Console:
    """The console of stdout, made when something is said: rich takes as long to import as all else that completion needs."""
    from gendiff_cli.results import Results

    return Results(highlight=False, soft_wrap=True)


@cache
def err() -> Console:
    """The console of stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


WORDS: dict[str, Any] = {"break_on_hyphens": False, "break_long_words": False}  # names and paths stay whole
MAX_LINE = 1000  # characters: an error stays on one screen, whatever was in the file it quotes


def escape(text: str) -> str:
    """``text`` as it is shown: no markup, and nothing that a terminal would obey."""
    from rich import markup

    return markup.escape(printable(text, "\n\t"))


class Verbosity:
    """How much is said on stderr: -1 quiet, 0 normal, 1 verbose (tracebacks)."""

    level = 0


@contextlib.contextmanager
def results_alone() -> Iterator[None]:
    """Inside the block stdout is for `result`, `table` and `json_result`; what anybody prints goes to stderr."""
    before = out()._file
    out().file = out().file  # what sys.stdout is now, if none was set
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        out()._file = before


def is_main_process() -> bool:
    """Whether this process talks: under torchrun only the first does."""
    return os.environ.get("RANK", "0") == "0"


def live() -> bool:
    """Whether somebody watches what is done."""
    return err().is_terminal and Verbosity.level >= 0 and is_main_process()


def plain() -> bool:
    """Whether a line now and then says what is done, since no terminal shows it."""
    return not err().is_terminal and Verbosity.level >= 0 and is_main_process()


def progress(*columns: ProgressColumn, auto_refresh: bool = True) -> Progress:
    """Bars that are gone when all is done, where somebody watches."""
    from rich.progress import Progress

    return Progress(*columns, console=err(), disable=not live(), transient=True, auto_refresh=auto_refresh)


def note(text: str) -> None:
    """A remark on stderr, silent under -q; a terminal shows it in lines of whole words, in a pipe it is one line."""
    if Verbosity.level < 0 or not is_main_process():
        return
    text = printable(text)
    lines = textwrap.wrap(text, max(err().width, 40) - len("note: "), **WORDS) if err().is_terminal else [text]
    for place, line in enumerate(lines or [""]):
        err().print(f"{'      ' if place else '[dim]note:[/] '}{escape(line)}")


def warn_in_notes() -> None:
    """Let this process say warnings as notes; under -v they stay what they are."""
    if Verbosity.level <= 0 and getattr(warnings.showwarning, "func", None) is not _as_note:
        warnings.showwarning = partial(_as_note, set())


def _as_note(
    said: set[str],
    message: Warning | str,
    category: type,
    filename: str,
    lineno: int,
    file: object = None,
    line: object = None,
) -> None:
    """A warning as a user wants to read it: what it says, once, and not which line of code says so."""
    text = " ".join(str(message).split())
    if text not in said:
        said.add(text)
        note(text)


def aside(lines: Mapping[str, str]) -> None:
    """Remarks on stderr, aligned behind what each is about, silent under -q; in a pipe each is one line."""
    if Verbosity.level < 0 or not is_main_process():
        return
    indent = max(map(len, lines)) + 2
    width = max(err().width, indent + 20) if err().is_terminal else MAX_LINE
    for key, value in lines.items():
        first, *rest = textwrap.wrap(printable(value), width - indent, break_on_hyphens=False) or [""]
        err().print(f"[dim]{escape(key):{indent}}[/]{escape(first)}")
        for line in rest:
            err().print(" " * indent + escape(line))


def copied(lines: Iterable[str]) -> None:
    """Lines on stderr that are copied elsewhere, such as code, silent under -q."""
    if Verbosity.level >= 0 and is_main_process():
        for line in lines:
            err().print(escape(line))


def busy(doing: str) -> AbstractContextManager[object]:
    """A sign of life while something takes its time, where a terminal shows it."""
    return err().status(doing) if live() else nullcontext()


def next_step(*commands: str) -> None:
    """The command a user wants next: the first of these that is not the one which was just given."""
    following = next((one for one in commands if not is_repetition(one)), "")
    if following and Verbosity.level >= 0 and is_main_process():
        err().print(f"[dim]next:[/] {escape(following)}")


def result(text: str) -> None:
    """One line of the result."""
    if is_main_process():
        out().print(escape(text))


def paragraph(text: str, indent: int = 0) -> None:
    """A result that a terminal shows in lines of whole words, the second and later ones indented; in a pipe it is one line."""
    width = max(out().width, indent + 20)
    lines = textwrap.wrap(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)  # names stay whole
    for line in lines if out().is_terminal else [text]:
        result(line)


def room(cell: int, indent: int = 0) -> int:
    """How many cells of that many characters a terminal shows in a line of which so many are taken; in a pipe, all."""
    return max((out().width - indent) // cell, 1) if out().is_terminal else MAX_LINE


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns; only the last ones fold, since the first hold names to copy; in a pipe a row is one line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        whole = column.strip() in ("kind", "name", "parameter", "provided by")
        grid.add_column(column, no_wrap=whole, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    if not out().is_terminal:
        out().width = MAX_LINE
    out().print(grid, soft_wrap=False)


def json_result(value: Any) -> None:
    """The result as the only JSON object on stdout; numbers that are not finite are null, and a note says so."""
    import json

    from gendiff.plain import json_text

    if not is_main_process():
        return
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError:
        text = json_text(value, indent=1)
        note("numbers that are not finite are null in the JSON")
    out().print_json(text) if out().is_terminal else out().file.write(text + "\n")


def fail(error: GendiffError) -> int:
    """Print an error and return its exit code; a part of it that holds a line break, as the name of a file may, is one line.

    What is wrong with a command is so in every process of torchrun on a machine, and the first says it.
    """
    if isinstance(error, ConfigError) and error.where != "--device" and os.environ.get("LOCAL_RANK", "0") != "0":
        return error.exit_code
    if Verbosity.level > 0:
        err().print(escape("".join(traceback.format_exception(error))))
    lines = [line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} ..." for line in map(printable, error.lines)]
    head, rest = lines[0], [*lines[1:], *([f"  {printable(error.fix)}"] if error.fix else [])]  # a command is whole
    label = "" if error.exit_code in (75, 130) else "[bold red]error:[/] "  # a stop on request is no error
    err().print(f"{label}{escape(head)}")
    for line in rest:
        err().print(escape(line))
    return error.exit_code


def shown(value: Any, form: str = ".4f") -> str:
    """A number as a table shows it; "-" where there is none, or one that is not finite."""
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:{form}}" if real and math.isfinite(value) else "-"
