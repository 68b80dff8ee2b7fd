"""Explorer: two processes, a picture and a step; what the page shows of them, as a function of what it is set to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from gendiff.data import Data
from gendiff.errors import GendiffError
from gendiff.kept import Kept
from gendiff.plugin.registry import Registry
from gendiff.rotation import Rotation
from gendiff_cli.explorer import choice, view
from gendiff_cli.explorer.choice import Base, Choice
from gendiff_cli.explorer.controls import Control
from gendiff_cli.explorer.view import Numbers, Pictures, Rows
from gendiff_cli.process.plot import At, event_of_picture
from gendiff_cli.process.subject import Subject

SIDES = ("A", "B")
KEPT = 32  # processes, and what is shown of them
PREDICTED = 256  # processes with a sampler, of which errors are kept
MOST_SHOWN = 1000  # events of the data to choose from
CLASSIC = "ddpm"  # what a process is held against where nobody names another


@dataclass
class Explorer:
    """The state of one page.

    Args:
        base: what both processes have in common.
        sides: the choice of each.
        picture: a file, in the place of an event of the data.
        index: which event of the data it is.
        t: how far on the way, i/N.
        at: what the columns of a strip have in common.
        samplers: for which the error is predicted.
        network: whether it is predicted for a network that is off, in the place of a perfect one.

    """

    registry: Registry
    base: Base
    sides: dict[str, Choice]
    picture: Path | None = None
    index: int = 0
    t: float = 0.3
    at: At = At.STEP
    samplers: tuple[str, ...] = ()
    network: bool = False
    _subjects: Kept[Any, Subject] = field(default_factory=partial(Kept, KEPT))
    _numbers: Kept[Any, Numbers] = field(default_factory=partial(Kept, KEPT))
    _pictures: Kept[Any, Pictures] = field(default_factory=partial(Kept, KEPT))
    _rows: Kept[Any, Rows] = field(default_factory=partial(Kept, PREDICTED))
    _learned: Kept[Any, tuple[Data, Rotation]] = field(default_factory=partial(Kept, KEPT))
    _measured: Kept[Any, bool] = field(default_factory=partial(Kept, KEPT))

    def again(self) -> Explorer:
        """The same for another page, which is set by itself."""
        return replace(self, sides=dict(self.sides))

    # --- what it is set to ---------------------------------------------------------------------------------------------

    def names(self, side: str) -> dict[str, str]:
        """The processes that a side can be, and what each is."""
        run = self.sides[side].path if self.sides[side].run else None
        named = {entry.name: entry.summary for entry in self.registry.entries("process")}
        own = {str(run): "as it was trained"} if run else {}
        return {**own, choice.BY_HAND: "a rotation and a velocity", **named}

    def name(self, side: str, name: str) -> None:
        """Set a side to a process by its name; raises `GendiffError` for one that cannot be."""
        self.sides[side] = self.sides[side].named(name)

    def set(self, side: str, path: str, value: Any) -> None:
        """Set one value of a side; raises `GendiffError` where it is refused, and leaves all as it was."""
        changed = self.sides[side].with_value(path, value)
        changed.controls(self.registry)
        self.sides[side] = changed

    def controls(self, side: str) -> list[Control]:
        """All that can be set of a side besides its name and N."""
        return self.sides[side].controls(self.registry)

    def take_data(self, spec: str) -> None:
        """Show other data; raises `GendiffError` where they are none, and leaves all as it was."""
        base = self.base.with_data(spec)
        subject = Choice.of(self.subject(SIDES[0])).subject(base, "")
        subject.config.data[0]
        self.base, self.index, self.picture = base, 0, None

    # --- what is shown -------------------------------------------------------------------------------------------------

    def subject(self, side: str) -> Subject:
        """The process of a side; raises `GendiffError` where it is none."""
        return self._subjects.of(self._place(side), lambda: self._fitted(side))

    def is_measured(self, side: str) -> bool:
        """Whether the moments of the data in the basis of a side are known: measuring them takes a second or some."""
        return self.sides[side].run is not None or self._basis(side) in self._measured

    def _fitted(self, side: str, measured: bool = True) -> Subject:
        """The process of a side, with what was learned from the data before.

        Where they are not ``measured``, their moments are assumed: what becomes of a picture does not depend on them.
        """
        subject = self.sides[side].subject(self.base, side)
        if subject.run:
            return subject
        settings = subject.settings
        config, place = settings.config, self._basis(side)
        if learned := self._learned.get(place):
            data, rotation = learned
            config = config.model_copy(update={"data": data, "rotation": rotation})
        with settings.locating():
            settings.config = config.fitted(measured)
        self._learned.keep(place, (settings.config.data, settings.config.rotation))
        if measured:
            self._measured.keep(place, True)
        return Subject(subject.label, settings, settings.config.training)

    def x_0(self, subject: Subject) -> Tensor:
        """The event that is destroyed, ``(1, *event)``."""
        data = subject.data or subject.config.data
        if self.picture is not None:
            return data.events(event_of_picture(self.picture, data.picture_shape, "the picture"))
        return data[self.index][None]

    @property
    def events(self) -> int:
        """How many events of the data there are to choose from; raises `GendiffError` where a process is none."""
        subject = self.sides[SIDES[0]].subject(self.base, SIDES[0])
        length = (subject.data or subject.config.data).length
        return min(length or MOST_SHOWN, MOST_SHOWN)

    def numbers(self, side: str) -> Numbers:
        """What is shown of a side's process; raises `GendiffError` where it is none."""
        return self._numbers.of(self._place(side), lambda: Numbers(self.subject(side)))

    def pictures(self, side: str) -> Pictures:
        """What is shown of the picture on a side, measured or not; raises `GendiffError` where its process is none."""

        def made() -> Pictures:
            subject = self.subject(side) if self.is_measured(side) else self._fitted(side, measured=False)
            return Pictures(subject, self.x_0(subject), self.at)

        return self._pictures.of((self._place(side), self.picture, self.index, self.at), made)

    def losses(self) -> str:
        """When each band of the data is lost, on the sides whose process is one."""
        return view.losses([(side, self.numbers(side)) for side in self._sound()], self.t)

    def _sound(self) -> list[str]:
        """The sides whose process is one, and where the data are measured."""
        sound = []
        for side in filter(self.is_measured, self.sides):
            with suppress(GendiffError):
                self.numbers(side)
                sound.append(side)
        return sound

    def _place(self, side: str) -> tuple[str, ...]:
        """What the process of a side depends on."""
        return (self.sides[side].key, *self.base.words)

    def _basis(self, side: str) -> tuple[str, ...]:
        """What the moments of the data depend on, and what a rotation learns from them."""
        return (self.sides[side].basis, *self.base.words)

    def commands(self) -> dict[str, str]:
        """What trains each side, and what holds them against each other, by name."""
        named = {f"train {side}": one.train(self.base) for side, one in self.sides.items()}
        return {**named, "compare": choice.compare(self.sides["A"], self.sides["B"], self.base)}

    def toml(self, side: str) -> str:
        """The file that trains a side."""
        return self.sides[side].toml(self.subject(side))

    # --- predictions, which take a second or some ----------------------------------------------------------------------

    def forecast(self, wanted: Callable[[], bool]) -> Iterator[None]:
        """Predict what is not predicted yet of both sides, a number at a time, as long as it is wanted."""
        for side in self._sound():
            place, subject = self._place(side), self.subject(side)
            for name in self._samplers(subject):
                if (*place, name) in self._rows:
                    continue
                rows = Rows()
                for part in view.forecast(subject, name, wanted):
                    rows += part
                    yield
                if not wanted():
                    return
                self._rows.keep((*place, name), rows)
                yield

    def errors(self) -> str:
        """What is predicted so far."""
        rows = {
            side: [
                row
                for name in self._samplers(self.subject(side))
                for row in self._rows.get((*self._place(side), name)) or ()
            ]
            for side in self._sound()
        }
        return view.errors(rows, self.network)

    def _samplers(self, subject: Subject) -> tuple[str, ...]:
        return self.samplers or tuple(view.default_samplers(subject))


def refusal(error: GendiffError) -> str:
    """An error as the page says it: what, what is allowed, and a fix that is none of the command line."""
    return ". ".join([error.what, *filter(None, error.details)])
