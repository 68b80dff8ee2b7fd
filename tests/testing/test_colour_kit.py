"""What the kit asks of a colour: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import torch
from flaws import COUNTER, Fails, assert_found, broken, each, titles
from torch import Tensor

from gendiff.colour import Colour
from gendiff.data import Data
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape

fails = Fails()

POWER = "it gives every component a power, whose mean is 1"
SAME = "its power is the same each time"


class Even(Colour):
    """the same everywhere, for others to change."""

    name = "mutant"

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return torch.ones([1] * len(event_shape))


@fails(POWER, "gives no power to the noise")
@fails(SAME, "gives no power to the noise")
class Negative(Even):
    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return -rotation.frequencies(event_shape)


@fails(POWER, "gives no power to the noise")
@fails(SAME, "gives no power to the noise")
class OfAnotherShape(Even):
    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return torch.ones(3)


@fails(SAME, "expected the same power each time; seen: another")
class Drifts(Even):
    """another power each time that it is asked."""

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return 1 + next(COUNTER) % 2 * rotation.frequencies(event_shape)


@fails(SAME, "the same 'draw' each time; seen: another")
class LearnsDraws(Even):
    """what it learns is drawn."""

    def fit(self, data: Data, rotation: Rotation) -> dict[str, Tensor]:
        return {"draw": torch.tensor(float(next(COUNTER)))}


class OneBand(Even):
    """noise in one component alone, and the floor elsewhere."""

    name = "one-band"

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return (rotation.frequencies(event_shape) == 0).double()


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("colour") <= fails.titles


@each(Even, OneBand)
def test_what_is_sound_or_only_unusual_passes(cls):
    assert broken(cls()) == []
