"""What the kit asks of data: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from flaws import Fails, assert_found, broken, each, titles
from pydantic import PrivateAttr
from torch import Tensor

from gendiff import Data, NoiseSchedule, component
from gendiff.condition import Condition, Conditions
from gendiff.streams import stream

fails = Fails()

DECLARED, DETERMINISTIC = (
    "every event has the shape and range that it declares",
    "the event at an index is always the same",
)


ELSEWHERE, OWN = "another process sees the same events", "an event that was given away can be changed"


TOLD = "what it says of an event is of the kind and range that it declares"


LENGTH, WORKERS = "its length and fingerprint hold", "any number of workers gives the same batches"


class Field(Data):
    """white noise, for others to change."""

    name = "mutant"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (1, 3, 4)

    @property
    def length(self) -> int | None:
        return 100

    def drawn(self, key: int) -> Tensor:
        return torch.rand(self.event_shape, generator=stream(key, "field")) * 2 - 1

    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(index)

    @property
    def fingerprint(self) -> str:
        return "field/1"


@fails(DECLARED, r"expected values in \[-1, 1\]; seen: -1.\d+ to 1")
class OutOfRange(Field):
    def __getitem__(self, index: int) -> Tensor:
        return 1.5 * self.drawn(index)


@fails(DECLARED, "expected float32; seen: torch.float64")
class DoubleEvents(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(index).double()


@fails(DECLARED, r"expected shape \(1, 3, 4\); seen: \(3, 4, 1\)")
class ChannelsLast(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(index).movedim(0, -1)


@fails(DECLARED, "expected finite values; seen: some are not, at index 49")
class NaNEvent(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(index) * (math.nan if index == 49 else 1)


@fails(DETERMINISTIC, "the random numbers of the whole process left alone; seen: those of torch are not")
class DrawsAnew(Field):
    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(self.event_shape)


@fails(DETERMINISTIC, "left alone; seen: those of torch are not")
class SeedsTheProcess(Field):
    """the same each time, and so is everything random after it."""

    def __getitem__(self, index: int) -> Tensor:
        torch.manual_seed(index)
        return torch.rand(self.event_shape)


@fails(DETERMINISTIC, "left alone; seen: those of numpy are not")
class SeedsNumpy(Field):
    def __getitem__(self, index: int) -> Tensor:
        np.random.seed(index)
        return self.drawn(index)


@fails(DETERMINISTIC, "the same event at the same index; seen: another asked again")
class Entropy(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(int.from_bytes(os.urandom(4), "little"))


@fails(DETERMINISTIC, "the same event at the same index; seen: another of a copy")
class KnowsItself(Field):
    _key: int = PrivateAttr(default_factory=lambda: int.from_bytes(os.urandom(4), "little"))

    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(self._key + index)


@fails(DETERMINISTIC, "different events at different indices; seen: all are equal")
class AllEqual(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(0)


@fails(ELSEWHERE, r"expected the same events and fingerprint; seen: others in another process; look at `hash\(\)`")
class Hashed(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(hash(("field", index)))


@fails(ELSEWHERE, "expected no error in another process; seen: ValueError: only here")
class OnlyHere(Field):
    where: int = os.getpid()

    def __getitem__(self, index: int) -> Tensor:
        if os.getpid() != self.where:
            raise ValueError("only here")
        return self.drawn(index)


@fails(OWN, "expected the event as it was; seen: the change; look at `__getitem__` returns its cache")
class GivesItsCache(Field):
    _events: dict[int, Tensor] = PrivateAttr(default_factory=dict)

    def __getitem__(self, index: int) -> Tensor:
        return self._events.setdefault(index, self.drawn(index))


@fails(LENGTH, "expected the same fingerprint each time; seen: another")
class CountsLooks(Field):
    _looks: list[int] = PrivateAttr(default_factory=list)

    @property
    def fingerprint(self) -> str:
        self._looks.append(1)
        return f"field {len(self._looks)}"


@fails(LENGTH, "expected the fingerprint of a copy; seen: another")
class FingerprintOfTheObject(Field):
    @property
    def fingerprint(self) -> str:
        return f"field {id(self)}"


@fails(LENGTH, "expected a text; seen: ''")
class NoFingerprint(Field):
    @property
    def fingerprint(self) -> str:
        return ""


@fails(LENGTH, "expected a positive number of events, or None; seen: 0")
class Empty(Field):
    @property
    def length(self) -> int | None:
        return 0


@fails(LENGTH, "seen: IndexError")
class NotEndless(Field):
    @property
    def length(self) -> int | None:
        return None

    def __getitem__(self, index: int) -> Tensor:
        if index > 10_000:
            raise IndexError(index)
        return self.drawn(index)


@fails(WORKERS, "expected the same events; seen: others with two workers")
class SeedOfTheWorker(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(torch.initial_seed() % 2**31 + index)


class Labelled(Field):
    """a class, and numbers, for others to change."""

    name = "labelled"

    @property
    def conditions(self) -> Conditions:
        return {"label": Condition.label(("cat", "dog")), "pose": Condition.vector(2, 0.0, 1.0)}

    def condition(self, index: int) -> dict[str, Any]:
        return {"label": index % 2 if index % 3 else "dog", "pose": [0.5, 1.0] if index % 3 else None}


@fails(TOLD, "expected a value for each of label, pose; seen: label, at index 0")
class SaysNothingOfOne(Labelled):
    def condition(self, index: int) -> dict[str, Any]:
        return {"label": 0}


@fails(TOLD, "expected a value for each of none; seen: label, at index 0")
class SaysWhatItDoesNotDeclare(Field):
    def condition(self, index: int) -> dict[str, Any]:
        return {"label": 0}


@fails(TOLD, "expected a class: cat, dog; seen: condition 'label' has no class '2', at index 33")
class AnotherClass(Labelled):
    def condition(self, index: int) -> dict[str, Any]:
        return {"label": 2 if index == 33 else 0, "pose": None}


@fails(TOLD, r"expected 2 numbers in \[0, 1\]; seen: condition 'pose' is out of range: 1.5, at index 0")
class VectorOutOfRange(Labelled):
    def condition(self, index: int) -> dict[str, Any]:
        return {"label": 0, "pose": [1.5, 1.5]}


@fails(TOLD, "expected the same conditions at the same index; seen: others asked again")
class AnotherEachTime(Labelled):
    def condition(self, index: int) -> dict[str, Any]:
        return {"label": 0, "pose": [int.from_bytes(os.urandom(4), "little") / 2**32] * 2}


@fails(TOLD, "expected names that are one word; seen: 'a b'")
class NameOfTwoWords(Labelled):
    @property
    def conditions(self) -> Conditions:
        return {"a b": Condition.label(2)}


@fails(ELSEWHERE, "expected the same events and fingerprint; seen: others in another process")
class HashedLabel(Labelled):
    def condition(self, index: int) -> dict[str, Any]:
        return {"label": 0, "pose": [hash(("pose", index)) % 1000 / 1000] * 2}


@fails(WORKERS, "expected the same conditions; seen: others with two workers")
class PoseOfTheWorker(Labelled):
    def condition(self, index: int) -> dict[str, Any]:
        return {"label": 0, "pose": [torch.initial_seed() % 1000 / 1000] * 2}


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class Single(Field):
    """one event."""

    name = "single"

    @property
    def length(self) -> int | None:
        return 1


class Unbounded(Field):
    """values without bounds."""

    name = "unbounded"
    value_range: ClassVar[tuple[float, float] | None] = None

    def __getitem__(self, index: int) -> Tensor:
        return 1e3 * self.drawn(index)


class FromFile(Field):
    """has a path, a nested component and a list."""

    name = "from-file"
    path: Path = Path("some/where, else = 1")
    noise: NoiseSchedule = component.by_name("linear", "noise")
    knots: tuple[float, ...] = (0.1, 1e-300)
    maybe: str | None = None


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("data") <= fails.titles


@each(Field, Labelled)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(Single, Unbounded, FromFile)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []
