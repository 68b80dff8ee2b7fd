"""Errors a user can act on.

Every error says four things: what happened, where the value came from, what is allowed, and how to fix it. The command
line prints them in that order and exits with ``exit_code``; a traceback is shown under ``-v`` only.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

BEGUN = 3  # letters of a word that are enough where one name alone begins with them
ALIKE = 0.5  # of two words, by their common letters: from here on one may be meant by the other
LONGEST_REASON = 500  # characters of somebody else's message
OBJECTS = "it holds Python objects, not only numbers; they are never loaded, for they can run code"


class GendiffError(Exception):
    """Something failed while running (exit code 1)."""

    exit_code = 1

    def __init__(
        self, what: str, *, where: str = "", details: Iterable[str] = (), fix: str = "", subject: str = ""
    ) -> None:
        """Say what happened; ``subject`` is the configuration key at fault (``"schedule.f_max"``), from which the
        configuration finds ``where``: the flag, file or preset that set it.
        """
        super().__init__(what)
        self.what = what
        self.where = where
        self.details = tuple(details)
        self.fix = fix
        self.subject = subject

    @property
    def lines(self) -> list[str]:
        """What happened and where, and what is allowed: all but the fix."""
        head = f"{self.what} (from {self.where})" if self.where else self.what
        return [head, *(f"  {line}" for line in self.details if line)]

    def __str__(self) -> str:
        return "\n".join([*self.lines, *([f"  {self.fix}"] if self.fix else [])])

    def __reduce__(self) -> tuple[object, ...]:
        # An error raised in a data-loading process is pickled on its way to the trainer; keyword-only arguments would be lost.
        return (_rebuild, (type(self), self.what, self.where, self.details, self.fix, self.subject))


def _rebuild(
    cls: type[GendiffError], what: str, where: str, details: tuple[str, ...], fix: str, subject: str
) -> GendiffError:
    return cls(what, where=where, details=details, fix=fix, subject=subject)


class ConfigError(GendiffError):
    """A usage or configuration error (exit code 2)."""

    exit_code = 2


class ArgumentError(GendiffError, ValueError):
    """The library was called with what it cannot take, such as a step outside 0..N (exit code 1)."""


class PluginError(GendiffError):
    """A plugin that was asked for is missing or broken (exit code 3)."""

    exit_code = 3


class DataError(GendiffError):
    """Data or weights are not available or damaged (exit code 4)."""

    exit_code = 4


class CheckError(GendiffError):
    """A check did not pass (exit code 5)."""

    exit_code = 5


class Stopped(GendiffError):
    """Stopped on request after a resumable checkpoint was saved (exit code 75, or 130 for Ctrl-C); ``signal`` asked for it."""

    exit_code = 75
    signal = 0


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """One line with the nearest known word, or an empty string."""
    near = nearest(word, names)
    return f"did you mean '{near}'?" if near else ""


def nearest(word: str, names: Iterable[str]) -> str:
    """The only known word that begins as ``word`` does, or else the one that needs the fewest typing errors to become it.

    An empty string where all need many.
    """
    names, typed = list(names), word.casefold()
    begun = [name for name in names if name.casefold().startswith(typed)]
    if len(typed) >= BEGUN and len(begun) == 1:
        return begun[0]
    ranked = []
    for name in names:
        known = name.casefold()
        likeness = SequenceMatcher(None, typed, known).ratio()
        if likeness >= ALIKE or typing_errors(typed, known) == 1:
            ranked.append((typing_errors(typed, known), -likeness, name))
    return min(ranked)[2] if ranked else ""


def typing_errors(typed: str, meant: str) -> int:
    """How many letters are missing, too many, wrong or exchanged with the next (Damerau 1964; each place at most once)."""
    before, last = [0] * (len(meant) + 1), list(range(len(meant) + 1))
    for row, letter in enumerate(typed, 1):
        line = [row]
        for column, other in enumerate(meant, 1):
            cost = min(last[column] + 1, line[column - 1] + 1, last[column - 1] + (letter != other))
            exchanged = row > 1 and column > 1 and typed[row - 2 : row] == meant[column - 2 : column][::-1]
            line.append(min(cost, before[column - 2] + 1) if exchanged else cost)
        before, last = last, line
    return last[-1]


def printable(text: str, keep: str = "") -> str:
    """``text`` with everything written out that a terminal would obey or cannot show: the name of a file may hold anything."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def failure(error: BaseException) -> Exception:
    """What somebody else's code raised to end the program, as the failure that it is; raised where that was."""
    message = (
        f"it called sys.exit({error.code!r})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
    )
    return RuntimeError(message).with_traceback(error.__traceback__)


def reason(error: BaseException) -> str:
    """What was raised by somebody else's code, in one line, and their line that raised it."""
    if isinstance(error, GendiffError):
        message = "; ".join([error.what, *error.details[:1]])
    else:
        message = without_advice(" ".join(f"{type(error).__name__}: {error}".split()))
    message = message if len(message) <= LONGEST_REASON else f"{message[:LONGEST_REASON]} ..."
    files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(file, line) for file, line in files if file.is_file() and not _is_machinery(file)]
    return f"{message} ({own[-1][0].name}, line {own[-1][1]})" if own else message


def without_advice(text: str) -> str:
    """What a library said of a file; where it advises to load without protection, what is in the file instead."""
    advice = ("allow_pickle", "weights_only", "weights only", "unpickl")
    return OBJECTS if any(word in text.casefold() for word in advice) else text


def _is_machinery(file: Path) -> bool:
    """Whether it is what imports plugins, makes their classes and calls their hooks."""
    return file.is_relative_to(Path(__file__).parent) or not {"pluggy", "pydantic", "importlib"}.isdisjoint(file.parts)


def shown(value: Any) -> Any:
    """The same with every text fit to be shown: a stranger's name must not become a line elsewhere."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): shown(part) for key, part in value.items()}
    return [shown(part) for part in value] if isinstance(value, list) else value
