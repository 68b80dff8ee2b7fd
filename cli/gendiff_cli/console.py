"""What the user sees: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import traceback
from typing import Any

from rich.console import Console
from rich.markup import escape

from gendiff.errors import GendiffError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Verbosity:
    """How much is said on stderr: -1 quiet, 0 normal, 1 verbose (tracebacks)."""

    level = 0


def is_main_process() -> bool:
    """Whether this process talks: under torchrun only the first does."""
    return os.environ.get("RANK", "0") == "0"


def note(text: str) -> None:
    """A remark on stderr, silent under -q."""
    if Verbosity.level >= 0 and is_main_process():
        err.print(f"[dim]note:[/] {escape(text)}")


def next_step(command: str) -> None:
    """The command a user wants next."""
    if Verbosity.level >= 0 and is_main_process():
        err.print(f"[dim]next:[/] {escape(command)}")


def result(text: str) -> None:
    """One line of the result."""
    if is_main_process():
        out.print(escape(text))


def json_result(value: Any) -> None:
    """The result as the only JSON object on stdout."""
    if is_main_process():
        out.print_json(data=value) if out.is_terminal else out.file.write(_dumps(value) + "\n")


def fail(error: GendiffError) -> int:
    """Print an error and return its exit code."""
    if Verbosity.level > 0:
        err.print(escape("".join(traceback.format_exception(error))))
    head, *rest = str(error).splitlines()
    label = "stopped:" if error.exit_code in (75, 130) else "error:"
    err.print(f"[bold red]{label}[/] {escape(head)}")
    for line in rest:
        err.print(escape(line))
    return error.exit_code


def _dumps(value: Any) -> str:
    import json

    return json.dumps(value, indent=1)
