"""Card: what a check is, which checks a component has, and how they went."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from gendiff.component import Component
from gendiff.errors import reason

Function = TypeVar("Function", bound=Callable[[Any], str])
_CHECKS: dict[str, list[tuple[str, str, Callable[[Any], str]]]] = {}


class CheckFailed(AssertionError):
    """A check does not hold."""

    def __init__(self, expected: str, seen: str, look: str = "") -> None:
        super().__init__(f"expected {expected}; seen: {seen}" + (f"; look at {look}" if look else ""))
        self.expected = expected
        self.seen = seen
        self.look = look


def require(holds: bool, expected: str, seen: str) -> None:
    """Raise `CheckFailed` where it does not hold; NaN in a comparison does not."""
    if not holds:
        raise CheckFailed(expected, seen)


def largest(*errors: float) -> float:
    """The largest, and NaN where there is one: `max` may lose it."""
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def check(kind: str, title: str, look: str = "") -> Callable[[Function], Function]:
    """Mark a function as a check of every component of a kind, or of ``"component"`` for all kinds.

    The function takes the component and returns what it saw, in a few words.

    Args:
        title: the property, as a statement.
        look: where to look when it does not hold.

    """

    def mark(function: Function) -> Function:
        _CHECKS.setdefault(kind, []).append((title, look, function))
        return function

    return mark


@dataclass(frozen=True)
class Check:
    """One check of one component."""

    title: str
    look: str
    function: Callable[[Any], str]
    subject: Any

    def __call__(self) -> str:
        """What was seen; raises `CheckFailed`."""
        try:
            return self.function(self.subject)
        except CheckFailed as error:
            raise CheckFailed(error.expected, error.seen, error.look or self.look) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # somebody else's component may raise anything
            raise CheckFailed("no error", reason(error), self.look) from error

    def __str__(self) -> str:
        return self.title


def checks(subject: Component | Path) -> list[Check]:
    """The checks of a component, or of a preset given by its file."""
    kind = "preset" if isinstance(subject, Path) else subject.kind
    kinds = (kind,) if kind == "preset" else ("component", kind)
    for name in kinds:
        if name.isidentifier() and find_spec(f"gendiff.testing.{name}"):
            import_module(f"gendiff.testing.{name}")
    return [Check(title, look, function, subject) for name in kinds for title, look, function in _CHECKS.get(name, ())]


@dataclass(frozen=True)
class Line:
    """How one check went: ``expected`` and ``look`` are empty where it passed."""

    title: str
    passed: bool
    seen: str
    expected: str = ""
    look: str = ""


def score(subject: Component | Path) -> Iterator[Line]:
    """Every check, one after the other; none of them keeps the next from running."""
    for one in checks(subject):
        try:
            yield Line(one.title, True, one())
        except CheckFailed as error:
            yield Line(one.title, False, error.seen, error.expected, error.look)
