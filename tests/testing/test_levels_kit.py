"""What the kit asks of a law of noise levels: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import torch
from flaws import COUNTER, Fails, assert_found, broken, each, titles
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.levels import AdaptiveLevels, Draws, Levels

fails = Fails()

LAW = "it gives a probability for each step 1..N"
FOLLOWS = "its draws follow it, and are the same each time"


class Even(Levels):
    """every step alike, for others to change."""

    name = "mutant"

    def mass(self, diffusion: Diffusion) -> Tensor:
        return torch.ones(diffusion.N)


@fails(LAW, "give no law of the steps")
@fails(FOLLOWS, "give no law of the steps")
class OneTooMany(Even):
    def mass(self, diffusion: Diffusion) -> Tensor:
        return torch.ones(diffusion.N + 1)


@fails(LAW, "give no law of the steps")
@fails(FOLLOWS, "give no law of the steps")
class Negative(Even):
    def mass(self, diffusion: Diffusion) -> Tensor:
        return torch.linspace(-1, 1, diffusion.N)


@fails(LAW, "give no law of the steps")
@fails(FOLLOWS, "give no law of the steps")
class Nothing(Even):
    def mass(self, diffusion: Diffusion) -> Tensor:
        return torch.zeros(diffusion.N)


@fails(FOLLOWS, "expected the same steps; seen: others")
class Drifts(Even):
    """another law each time that it is asked."""

    def mass(self, diffusion: Diffusion) -> Tensor:
        return torch.arange(1, diffusion.N + 1).double() ** (next(COUNTER) % 2 * 4)


FOLLOWING = "where it follows losses, it gives shares of them, the same each time"


class Following(AdaptiveLevels):
    """the root of the loss."""

    name = "mutant"

    def follow(self, loss: Tensor) -> Tensor:
        return loss.sqrt()


@fails(FOLLOWING, "finite numbers >= 0")
class Opposite(Following):
    def follow(self, loss: Tensor) -> Tensor:
        return -loss


@fails(FOLLOWING, "finite numbers >= 0")
class Mean(Following):
    def follow(self, loss: Tensor) -> Tensor:
        return loss.mean()


@fails(FOLLOWING, "the same law")
class Fickle(Following):
    def follow(self, loss: Tensor) -> Tensor:
        return loss ** (1 + next(COUNTER) % 2)


class Certain(Even):
    """always the same step."""

    name = "certain"

    def mass(self, diffusion: Diffusion) -> Tensor:
        return torch.eye(diffusion.N)[0]


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("levels") <= fails.titles


@each(Even, Certain, Following)
def test_what_is_sound_or_only_unusual_passes(cls):
    assert broken(cls()) == []


def test_draws_of_a_law_are_those_of_its_probabilities():
    steps = Draws(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), 0, 4)
    assert {int(steps(step, k)) for step in range(20) for k in range(4)} == {2, 3}
