"""Progress: how far training or a comparison is, on stderr: a bar on a terminal, and else a line now and then."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from gendiff.plugin.hookspecs import hookimpl
from gendiff.plugin.registry import Registry
from gendiff_cli.console import (
    Verbosity,
    aside,
    duration,
    err,
    escape,
    live,
    note,
    plain,
    progress,
    shown,
    warn_in_notes,
)

if TYPE_CHECKING:
    from gendiff.run.directory import Run
    from gendiff.training.trainer import Trainer

TIMED = 10  # steps after which it is known how long the rest will take
REFRESH = 0.1  # seconds between two pictures of bars that no thread draws: none may live where a process is copied
SECONDS = 10  # between two lines that say how far a preview is


def watched(
    run: Run,
    trainer: Trainer,
    registry: Registry,
    what: str = "",
    said_to: Callable[[Any], None] | None = None,
    until: int | None = None,
) -> None:
    """Train under a progress bar, up to a step where one is given; ``what`` tells it from other runs of one command.

    The bar is another process's where there is somebody to whom it is ``said_to``.
    """
    from gendiff.plugin.observers import Observers
    from gendiff.training.loop import fit
    from gendiff.training.preview import Preview

    def failed(name: str, why: str) -> None:
        run.switch_off(name, why)
        note(f"{name} failed and is switched off for this run: {why}")

    held_out = trainer.config.held_out is not None
    about = (what or run.path.name, trainer.step, trainer.settings.steps, held_out)
    with Distant(said_to, *about) if said_to else ProgressBar(*about) as bar:
        observers = Observers([("the progress bar", bar)], failed)
        if trainer.world.main:
            for name, plugin in registry.observers():
                observers.add(name, plugin)
            for logger in trainer.settings.loggers:
                observers.make(f"logger {logger.name}", partial(logger.observer, run.path))
        fit(run, trainer, observers, Preview(run, observers, bar.drawn), until)


class OfTraining(TextColumn):
    """What is said of a training; of other work, which may have a bar below it, nothing."""

    def render(self, task: Task) -> Text:
        """Its text."""
        return super().render(task) if "loss" in task.fields else Text()


def training_bars(held_out: bool, auto_refresh: bool = True) -> Progress:
    """What shows how far trainings are."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        OfTraining("loss {task.fields[loss]}"),
        *([OfTraining("held out {task.fields[held_out]}")] if held_out else []),
        OfTraining("{task.fields[speed]:.0f} images/s"),
        TimeRemainingColumn(),
        console=err(),
        disable=not live(),
        auto_refresh=auto_refresh,
    )


class ProgressBar:
    """The live line: step, loss, images/s, ETA; a plain line now and then where there is no terminal.

    Args:
        among: what shows it beside others; then each plain line begins with its title.

    """

    def __init__(
        self, title: str, first: int, last: int, held_out: bool = False, among: Progress | None = None
    ) -> None:
        self.live, self.plain = live(), plain()
        self.every = max(1, (last - first) // 10)
        self.last = last
        self.alone = among is None
        self.title = "" if self.alone else f"{title}: "
        self.bar = among or training_bars(held_out)
        self.task = self.bar.add_task(escape(title), total=last, completed=first, loss="-", held_out="-", speed=0.0)
        self.preview: TaskID | None = None
        self.last_line = 0.0  # when a line last said how far a preview is
        self.first = first
        self.warm = 0.0  # when the first step was done

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.alone:
            self.bar.stop()

    @hookimpl
    def gendiff_step(self, step: int, loss: float, images_per_s: float) -> None:
        self.bar.update(self.task, completed=step, loss=shown(loss), speed=images_per_s)
        if step == self.first + 1:
            self.warm = time.monotonic()
        elif step == self.first + TIMED and step < self.last:
            self._say_when((time.monotonic() - self.warm) / (TIMED - 1), step)
        if self.plain and (step % self.every == 0 or step == self.last):
            self._print(f"step {step}/{self.last}  loss {shown(loss)}  {images_per_s:.0f} images/s")

    def _say_when(self, seconds: float, step: int) -> None:
        """Say how long the rest will take, at so many seconds a step."""
        left = self.last - step
        aside(
            {
                "time": f"{self.title}about {duration(left * seconds)} for the {left:,} steps to come, {duration(seconds)} each"
            }
        )

    def _print(self, text: str) -> None:
        err().print(f"{self.title}{text}", markup=False)

    @hookimpl
    def gendiff_metrics_ready(self, step: int, values: Mapping[str, float]) -> None:
        if (loss := values.get("held_out.loss")) is None:
            return
        self.bar.update(self.task, held_out=shown(loss))
        if self.plain:
            training = shown(values.get("training.loss", math.nan))
            self._print(f"step {step}/{self.last}  held-out loss {shown(loss)}  training {training} at the same noise")

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
            self._print(f"preview of step {step}: {count}/{total} evaluations")

    @hookimpl
    def gendiff_samples_ready(self, picture: Path) -> None:
        if Verbosity.level >= 0:
            err().print(f"[dim]{escape(str(picture))}[/]")


class Distant:
    """A progress bar in another process, which is told what one hears here."""

    def __init__(self, say: Callable[[Any], None], *about: Any) -> None:
        self.say = say
        self.say(("train", *about))

    def __enter__(self) -> Distant:
        return self

    def __exit__(self, *error: object) -> None:
        self.say(("trained",))

    @hookimpl
    def gendiff_step(self, step: int, loss: float, images_per_s: float) -> None:
        self.say(("gendiff_step", step, loss, images_per_s))

    @hookimpl
    def gendiff_metrics_ready(self, step: int, values: Mapping[str, float]) -> None:
        self.say(("gendiff_metrics_ready", step, dict(values)))

    def drawn(self, step: int, count: int, total: int) -> None:
        """Hear how far the preview of a step is."""
        self.say(("drawn", step, count, total))

    @hookimpl
    def gendiff_samples_ready(self, picture: Path) -> None:
        self.say(("gendiff_samples_ready", picture))


class Bars:
    """Says on stderr what is being done: a bar on a terminal, and else a line."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.level = Verbosity.level

    @contextmanager
    def working(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A piece of work of so many parts."""
        if plain():
            err().print(what, markup=False)
        with progress() as bar:
            task = bar.add_task(escape(what), total=total)
            yield lambda count: bar.advance(task, count)

    def train(self, what: str, run: Run, trainer: Trainer, until: int | None = None) -> None:
        """Train a run as gendiff train does, and say which it is."""
        if plain():
            err().print(f"training {what}", markup=False)
        watched(run, trainer, self.registry, what, until=until)

    @contextmanager
    def together(self) -> Iterator[Callable[[int, Any], None]]:
        """A bar for each piece of work that is done at the same time."""
        board = Board()
        try:
            yield board.heard
        finally:
            board.stop()

    def apart(self, say: Callable[[Any], None]) -> DistantBars:
        """The same in the process of one of them, which may have begun anew."""
        Verbosity.level = self.level
        warn_in_notes()
        return DistantBars(self.registry, say)


class DistantBars:
    """Says to another process what is being done in this one, and whatever is printed on stderr here."""

    def __init__(self, registry: Registry, say: Callable[[Any], None]) -> None:
        self.registry = registry
        self.say = say
        err().file = cast(IO[str], Lines(say))  # two that write on one terminal would write over each other

    @contextmanager
    def working(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A piece of work of so many parts."""
        self.say(("work", what, total))
        yield lambda count: self.say(("advance", count))

    def train(self, what: str, run: Run, trainer: Trainer, until: int | None = None) -> None:
        """Train a run as gendiff train does."""
        watched(run, trainer, self.registry, what, self.say, until)

    @contextmanager
    def together(self) -> Iterator[Callable[[int, Any], None]]:
        """Nothing is done at the same time here."""
        yield lambda number, said: None

    def apart(self, say: Callable[[Any], None]) -> DistantBars:
        """Nothing is done elsewhere."""
        return self


class Lines(io.TextIOBase):
    """A file whose lines are said to another process."""

    def __init__(self, say: Callable[[Any], None]) -> None:
        self.say = say
        self.rest = ""

    def write(self, text: str) -> int:
        """Say the lines that are whole."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            self.say(("line", line))
        return len(text)


class Board:
    """What several processes say of their work, one bar for each, and lines above them."""

    def __init__(self) -> None:
        self.bar: Progress | None = None
        self.trainings: dict[int, ProgressBar] = {}
        self.works: dict[int, TaskID] = {}
        self.shown = 0.0

    def heard(self, number: int, said: tuple[Any, ...]) -> None:
        """Hear one of them."""
        kind, *rest = said
        match kind:
            case "line":
                err().print(Text.from_ansi(rest[0]))
            case "train":
                if plain():
                    err().print(f"training {rest[0]}", markup=False)
                self._drop(number)
                self.bar = self.bar or training_bars(rest[-1], auto_refresh=False)
                title, first, last, held_out = rest
                self.trainings[number] = ProgressBar(title, first, last, held_out, self.bar).__enter__()
            case "trained":
                bar = self.trainings.pop(number)
                bar.bar.remove_task(bar.task)
            case "work":
                if plain():
                    err().print(rest[0], markup=False)
                self._drop(number)
                self.bar = self.bar or training_bars(True, auto_refresh=False)  # trainings may come beside it
                self.bar.start()
                self.works[number] = self.bar.add_task(escape(rest[0]), total=rest[1])
            case "advance" if self.bar:
                self.bar.advance(self.works[number], rest[0])
                if self.bar.tasks and next(t for t in self.bar.tasks if t.id == self.works[number]).finished:
                    self._drop(number)
            case _:
                getattr(self.trainings[number], kind)(*rest)
        if self.bar and time.monotonic() - self.shown > REFRESH:
            self.shown = time.monotonic()
            self.bar.refresh()

    def _drop(self, number: int) -> None:
        if self.bar and number in self.works:
            self.bar.remove_task(self.works.pop(number))

    def stop(self) -> None:
        """All work is done."""
        if self.bar:
            self.bar.stop()
