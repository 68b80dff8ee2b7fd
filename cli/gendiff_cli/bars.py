"""Bars: how far a comparison is, for ``gendiff compare`` and ``gendiff reproduce``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gendiff.plugin.registry import Registry
from gendiff_cli.console import Verbosity, err, escape
from gendiff_cli.train import watched

if TYPE_CHECKING:
    from gendiff.run.directory import Run
    from gendiff.training.trainer import Trainer


class Bars:
    """Says on stderr what is being done: a bar on a terminal, and else a line."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    @contextmanager
    def working(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A piece of work of so many parts."""
        from rich.progress import Progress

        live = err.is_terminal and Verbosity.level >= 0
        if not live and Verbosity.level >= 0:
            err.print(what, markup=False)
        with Progress(console=err, disable=not live, transient=True) as bar:
            task = bar.add_task(escape(what), total=total)
            yield lambda count: bar.advance(task, count)

    def train(self, what: str, run: Run, trainer: Trainer) -> None:
        """Train a run as gendiff train does, and say which it is."""
        if not err.is_terminal and Verbosity.level >= 0:
            err.print(f"training {what}", markup=False)
        watched(run, trainer, self.registry, what)
