"""Listener: who hears how far the work on several runs is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from gendiff.run.directory import Run
from gendiff.training.loop import fit
from gendiff.training.trainer import Trainer


class Listener(Protocol):
    """Who hears how far a comparison or a study is."""

    def working(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A piece of work of so many parts begins; what it returns is told how many are done now."""

    def train(self, what: str, run: Run, trainer: Trainer, until: int | None = None) -> None:
        """Train a run, up to a step where one is given, before whoever wants to watch; ``what`` says which of how many."""

    def together(self) -> AbstractContextManager[Callable[[int, Any], None]]:
        """Several pieces of work at a time begin; what it returns hears what was said of each, which is known by a number."""

    def apart(self, say: Callable[[Any], None]) -> Listener:
        """A listener for the process of one of them: what it hears, it says to the one that is `together`."""


class Silent:
    """A listener that says nothing."""

    @contextmanager
    def working(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Say nothing."""
        yield lambda count: None

    def train(self, what: str, run: Run, trainer: Trainer, until: int | None = None) -> None:
        """Train it, and say nothing."""
        fit(run, trainer, until=until)

    @contextmanager
    def together(self) -> Iterator[Callable[[int, Any], None]]:
        """Say nothing."""
        yield lambda number, said: None

    def apart(self, say: Callable[[Any], None]) -> Listener:
        """Say nothing."""
        return self
