"""What the kit asks of a latent: every check finds something, and what is only unusual passes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from flaws import COUNTER, Fails, assert_found, broken, each, titles
from torch import Tensor

from gendiff.errors import ConfigError
from gendiff.latent import Latent
from gendiff.shapes import EventShape
from gendiff.streams import stream

fails = Fails()

SHAPES = "the shapes of events and pictures are those that it declares"
ALONE, PURE = "an event and a picture depend on each other alone", "it is a function of its arguments"
DRAWN, TELLING = "a draw is a function of the index", "different pictures have different events"
NAMED = "it says whose events these are"


class Halves(Latent):
    """the first half of every line, for others to change."""

    name = "mutant"

    def latent_shape(self, picture: EventShape) -> EventShape:
        return (*picture[:-1], picture[-1] // 2)

    def picture_shape(self, event: EventShape) -> EventShape:
        return (*event[:-1], event[-1] * 2)

    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        return pictures[..., : pictures.shape[-1] // 2].clone()

    def decode(self, events: Tensor) -> Tensor:
        return events.repeat(1, 1, 1, 2)

    @property
    def fingerprint(self) -> str:
        return "halves/1"


@fails(SHAPES, "expected pictures that it takes; seen: never")
class TakesNothing(Halves):
    def latent_shape(self, picture: EventShape) -> EventShape:
        raise ConfigError("never")


@fails(SHAPES, "expected `picture_shape` the inverse of `latent_shape`")
class NoInverse(Halves):
    def picture_shape(self, event: EventShape) -> EventShape:
        return event


@fails(SHAPES, "expected events in float32; seen: torch.float64")
class Double(Halves):
    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        return super().encode(pictures).double()


@fails(ALONE, "expected the same event, to the bit, whatever else is in the batch")
class Centred(Halves):
    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        z = super().encode(pictures)
        return z - z.mean()


@fails(ALONE, "expected the same picture, to the bit, whatever else is in the batch")
class Scaled(Halves):
    def decode(self, events: Tensor) -> Tensor:
        return super().decode(events) / events.std()


@fails(PURE, "the same events each time")
class Random(Halves):
    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        return super().encode(pictures) + next(COUNTER)


@fails(PURE, "expected pictures as they were; seen: they changed")
class InPlace(Halves):
    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        z = super().encode(pictures)
        pictures.mul_(0.5)
        return z


@fails(DRAWN, "expected the same draw of an index, wherever in a batch; seen: another")
class ByPlace(Halves):
    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        z = super().encode(pictures)
        return z if indices is None else z + torch.arange(len(z)).reshape(-1, 1, 1, 1)


@fails(TELLING, "expected different events; seen: equal ones")
class Nothing(Halves):
    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        return torch.zeros_like(super().encode(pictures))


@fails(NAMED, "expected a fingerprint of one line")
class TwoLines(Halves):
    @property
    def fingerprint(self) -> str:
        return "halves\n1"


class Drawing(Halves):
    """draws by the index."""

    name = "drawing"

    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        z = super().encode(pictures)
        for k, index in enumerate(indices or ()):
            z[k] += 0.1 * torch.randn(z[k].shape, generator=stream(0, "drawing", index))
        return z


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("latent") <= fails.titles


@each(Halves, Drawing)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []
