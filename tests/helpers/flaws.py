"""Flaws: a mutant has one, and is marked with the check that must find it and with words that its author must read."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from gendiff import Component
from gendiff.testing import Check, CheckFailed, Line, checks, score
from gendiff.testing.card import _CHECKS

COUNTER = itertools.count()  # another number each time, and no chance in it

# Checks that the tests of several kinds name.

NAMED, WRITTEN = "it has a name to type and a summary to read", "its spec and its table give it again"
FROZEN, SENT = "its parameters do not change", "it can be sent to another process"
F_RANGE, F_SUM = "f(i) is finite and never negative, for every N", "F_i is the sum of f"
F_PROCESS = "with it, every component is only ever destroyed, and the steps compose to the marginal"
SNR = "its terminal signal-to-noise ratio"
FITS = "what it learns from data follows from data and rotation alone"
DESTROYS = "information is only ever destroyed, and the steps compose to the marginal"
SPEED = "its speed, beside dct"


@dataclasses.dataclass(frozen=True)
class Mutant:
    """What ``make`` gives does not pass the check of that title, which says so."""

    title: str
    says: str
    make: Callable[[], Any]
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}: {self.title}"


class Fails(list[Mutant]):
    """The mutants of a module; they stand at its top level, because components are sent to other processes."""

    def __call__(self, title: str, says: str) -> Callable[[type], type]:
        """The check with that title must fail on the class, and say so."""

        def mark(cls: type) -> type:
            self.append(Mutant(title, says, cls, cls.kind, cls.__name__))
            return cls

        return mark

    def each(self, test: Callable[..., None]) -> Any:
        """Run a test of one ``mutant`` for each of them."""
        test = pytest.mark.filterwarnings("default")(test)  # a mutant may do what it likes
        return pytest.mark.parametrize("mutant", self, ids=str)(test)

    @property
    def titles(self) -> set[str]:
        """The checks that find something."""
        return {mutant.title for mutant in self}


def each(*classes: type) -> Any:
    """Run a test of one ``cls`` for each of them."""
    return pytest.mark.parametrize("cls", classes, ids=lambda cls: cls.__name__)


def titles(kind: str) -> set[str]:
    """The checks of a kind."""
    import_module(f"gendiff.testing.{kind}")
    return {title for title, _, _ in _CHECKS[kind]}


def titled(subject: Component | Path, title: str) -> Check:
    """One check of a component or a preset."""
    [one] = [one for one in checks(subject) if one.title == title]
    return one


def broken(subject: Component) -> list[Line]:
    """The lines of its card that say no, or nothing."""
    return [line for line in score(subject) if not (line.passed and line.seen)]


def assert_fails(one: Check, says: str) -> None:
    """The check fails with these words, and with all that an author needs."""
    with pytest.raises(CheckFailed, match=f"(?s){says}") as caught:
        one()
    failed = caught.value
    assert isinstance(failed, AssertionError)
    for text in (failed.expected, failed.seen, failed.look):
        assert text.strip()
        assert "\n" not in text
    assert str(failed) == f"expected {failed.expected}; seen: {failed.seen}; look at {failed.look}"


def assert_found(mutant: Mutant) -> None:
    """Its check finds it."""
    with torch.random.fork_rng(devices=[]):
        assert_fails(titled(mutant.make(), mutant.title), mutant.says)
