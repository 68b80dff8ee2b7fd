"""What the kit asks of a schedule of noise: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import torch
from flaws import DESTROYS, Fails, assert_found, broken, each, titles
from torch import Tensor

from gendiff import NoiseSchedule

fails = Fails()

BETA_RANGE, BETA_FUNCTION = "β_i is in [0, 1), for every N", "β_i is a function of i and N alone, in float64"


BETA_SUM, BETA_ENDS = "log ᾱ_i is the sum of log(1 - β)", "at the end the data are gone"


class Steady(NoiseSchedule):
    """β is constant, for others to change."""

    name = "mutant"

    def beta(self, i: Tensor, N: int) -> Tensor:
        return torch.full_like(i, 0.01)


@fails(BETA_RANGE, r"gives beta\(2\) = 1 at N = 2; .*; look at `beta")
@fails(BETA_SUM, r"gives beta\(2\) = 1")
@fails(DESTROYS, r"gives beta\(\d+\) = 1")
@fails(BETA_ENDS, r"gives beta\(1000\) = 1")
class AllNoise(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return i / N


@fails(BETA_RANGE, r"expected β_1 > 0, or step 1 has no noise and no score; seen: β_1 = 0")
@fails(DESTROYS, "log s finite for i >= 1; seen: at i = 0 and 1 more steps|log s finite")
class NoFirstNoise(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return 0.02 * (i - 1) / N


@fails(BETA_RANGE, r"gives beta\(1\) = nan")
class NaNNoise(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return (i - 1).log() / (i - 1).log() * 0.01


@fails(BETA_FUNCTION, "whichever others are asked for")
class NoiseOverLargest(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return 0.02 * i / i.max()


@fails(BETA_SUM, r"log ᾱ_i = Σ log\(1 - β_j\) within 1e-12; seen: \d")
class RandomNoise(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return 0.02 * torch.rand_like(i)


@fails(BETA_ENDS, r"a_N < 0.5 at N = 1000; seen: a_N = 0.995")
class NeverEnds(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return torch.full_like(i, 1e-5)


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class Sudden(NoiseSchedule):
    """nearly nothing, then nearly everything."""

    name = "sudden"

    def beta(self, i: Tensor, N: int) -> Tensor:
        return torch.where(i < N, 1e-8, (1 - 1e-6) * i / N)


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("noise") <= fails.titles


@each(Steady)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(Sudden)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []
