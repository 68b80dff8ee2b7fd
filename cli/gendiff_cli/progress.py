"""Progress: how far training or a comparison is, on stderr: a bar on a terminal, and else a line now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gendiff.plugin.hookspecs import hookimpl
from gendiff.plugin.registry import Registry
from gendiff_cli.console import Verbosity, aside, duration, err, escape, live, note, plain, progress, shown

if TYPE_CHECKING:
    from gendiff.run.directory import Run
    from gendiff.training.trainer import Trainer

TIMED = 10  # steps after which it is known how long the rest will take
SECONDS = 10  # between two lines that say how far a preview is


def watched(run: Run, trainer: Trainer, registry: Registry, what: str = "") -> None:
    """Train under a progress bar, before everyone who wants to watch; ``what`` tells it from other runs of one command."""
    from gendiff.plugin.observers import Observers
    from gendiff.training.loop import fit
    from gendiff.training.preview import Preview

    def failed(name: str, why: str) -> None:
        run.switch_off(name, why)
        note(f"{name} failed and is switched off for this run: {why}")

    held_out = trainer.config.held_out is not None
    with ProgressBar(what or run.path.name, trainer.step, trainer.settings.steps, held_out) as bar:
        observers = Observers([("the progress bar", bar)], failed)
        if trainer.world.main:
            for name, plugin in registry.observers():
                observers.add(name, plugin)
            for logger in trainer.settings.loggers:
                observers.make(f"logger {logger.name}", partial(logger.observer, run.path))
        fit(run, trainer, observers, Preview(run, observers, bar.drawn))


class ProgressBar:
    """The live line: step, loss, images/s, ETA; a plain line now and then where there is no terminal."""

    def __init__(self, title: str, first: int, last: int, held_out: bool = False) -> None:
        self.live, self.plain = live(), plain()
        self.every = max(1, (last - first) // 10)
        self.last = last
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            *([TextColumn("held out {task.fields[held_out]}")] if held_out else []),
            TextColumn("{task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
            console=err(),
            disable=not self.live,
        )
        self.task = self.bar.add_task(escape(title), total=last, completed=first, loss="-", held_out="-", speed=0.0)
        self.preview: TaskID | None = None
        self.last_line = 0.0  # when a line last said how far a preview is
        self.first = first
        self.warm = 0.0  # when the first step was done

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    @hookimpl
    def gendiff_step(self, step: int, loss: float, images_per_s: float) -> None:
        self.bar.update(self.task, completed=step, loss=shown(loss), speed=images_per_s)
        if step == self.first + 1:
            self.warm = time.monotonic()
        elif step == self.first + TIMED and step < self.last:
            self._say_when((time.monotonic() - self.warm) / (TIMED - 1), step)
        if self.plain and (step % self.every == 0 or step == self.last):
            err().print(f"step {step}/{self.last}  loss {shown(loss)}  {images_per_s:.0f} images/s")

    def _say_when(self, seconds: float, step: int) -> None:
        """Say how long the rest will take, at so many seconds a step."""
        left = self.last - step
        aside({"time": f"about {duration(left * seconds)} for the {left:,} steps to come, {duration(seconds)} each"})

    @hookimpl
    def gendiff_metrics_ready(self, step: int, values: Mapping[str, float]) -> None:
        if (loss := values.get("held_out.loss")) is None:
            return
        self.bar.update(self.task, held_out=shown(loss))
        if self.plain:
            training = shown(values.get("training.loss", math.nan))
            err().print(f"step {step}/{self.last}  held-out loss {shown(loss)}  training {training} at the same noise")

    def drawn(self, step: int, count: int, total: int) -> None:
        """Hear how far the preview of a step is, in evaluations of the network, 0 first and ``total`` last."""
        now = time.monotonic()
        if count == 0:
            self.last_line = now
        if self.live and self.preview is None:
            self.preview = self.bar.add_task("preview", total=total, loss="-", held_out="-", speed=0.0)
        if self.preview is not None:
            self.bar.update(self.preview, completed=count, total=total)
            if count == total:
                self.bar.remove_task(self.preview)
                self.preview = None
        if self.plain and now - self.last_line >= SECONDS:
            self.last_line = now
            err().print(f"preview of step {step}: {count}/{total} evaluations")

    @hookimpl
    def gendiff_samples_ready(self, picture: Path) -> None:
        if Verbosity.level >= 0:
            err().print(f"[dim]{escape(str(picture))}[/]")


class Bars:
    """Says on stderr what is being done: a bar on a terminal, and else a line."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    @contextmanager
    def working(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A piece of work of so many parts."""
        if plain():
            err().print(what, markup=False)
        with progress() as bar:
            task = bar.add_task(escape(what), total=total)
            yield lambda count: bar.advance(task, count)

    def train(self, what: str, run: Run, trainer: Trainer) -> None:
        """Train a run as gendiff train does, and say which it is."""
        if plain():
            err().print(f"training {what}", markup=False)
        watched(run, trainer, self.registry, what)
