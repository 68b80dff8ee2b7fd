"""What the kit asks of a schedule of blur: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import torch
from flaws import F_PROCESS, F_RANGE, F_SUM, SNR, Fails, assert_found, broken, each, titles
from parts import NegativeSchedule, Ramp
from torch import Tensor

from gendiff import BlurSchedule

fails = Fails()

F_FUNCTION = "f(i) is a function of i and N alone, in float64"


@fails(F_RANGE, r"seen: schedule 'mutant' gives f\(1\) = nan at N = 2")
@fails(F_SUM, r"gives f\(1\) = nan")
class NaNSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return ((i - 1) / (i - 1)) * 0.1


fails(SNR, r"gives f\(1\) = .*; look at `f\(i, N\)`")(NegativeSchedule)
fails(F_PROCESS, r"gives f\(1\) = ")(NegativeSchedule)
fails(F_RANGE, r"gives f\(1\) = -0.5 at N = 2")(NegativeSchedule)


@fails(F_PROCESS, "expected log a finite at every step; seen: at i = ")
class InfiniteSum(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return torch.full_like(i, 1e308)


@fails(F_FUNCTION, "the same value at a step whichever others are asked for; seen: .* off")
class OverLast(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i / i[-1]


@fails(F_FUNCTION, "the same value at a step whichever others are asked for; seen: .* off")
class OverLargest(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i / i.max()


@fails(F_FUNCTION, "the same value at a step whichever others")
class FromSmallest(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return (i - i.min()) / N


@fails(F_FUNCTION, r"expected values of the shape of i, \(3,\); seen: \(10,\)")
class AllSteps(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return torch.linspace(0, 1, N, dtype=torch.float64)


@fails(F_FUNCTION, "expected float64 for float64 steps; seen: torch.float32")
class SingleSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i.float() / N


@fails(F_FUNCTION, "expected i left as it was; seen: i changed")
class InPlaceSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i.div_(N)


@fails(F_FUNCTION, "expected the same values each time; seen: others")
@fails(F_SUM, r"F_i = Σ f\(j\) within 1e-12; seen: \d")
class RandomSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return torch.rand_like(i)


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class NoBlurAtAll(BlurSchedule):
    """f = 0."""

    name = "no-blur-at-all"

    def f(self, i: Tensor, N: int) -> Tensor:
        return 0 * i


class OnePulse(BlurSchedule):
    """all blur at one step."""

    name = "one-pulse"

    def f(self, i: Tensor, N: int) -> Tensor:
        return 30 * (i == N // 2).double()


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("schedule") <= fails.titles


@each(Ramp)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(NoBlurAtAll, OnePulse)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []
