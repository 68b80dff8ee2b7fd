"""What the kit asks of a sampler: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import pytest
import torch
from flaws import COUNTER, Fails, assert_found, broken, each, titles

from gendiff import Diffusion, Sampler, Update, VariancePreserving
from gendiff.errors import ConfigError
from gendiff.grid import Grid
from gendiff.sampler import Past
from gendiff.testing.sampler import _limit

fails = Fails()

PLAN, REPEATABLE = "its plan leads from N to 0, without a gap", "its plan is the same each time"


SKIPS, ORDER = "steps that it skips cost nothing", "it converges to the data, at the order it claims"


def ddim(diffusion: Diffusion, steps: int | None) -> Iterator[Update]:
    for i, j in itertools.pairwise(Grid.model_validate("uniform").steps(diffusion, steps)):
        yield Update(i=i, j=j, q=diffusion.at(j).log_a.exp(), b=diffusion.at(j).log_s.exp())


class Plainest(Sampler):
    """DDIM, for others to change."""

    name = "mutant"
    steps: int | None = None

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return map(self.changed, ddim(diffusion, self.steps))

    def changed(self, update: Update) -> Update:
        return update


@fails(PLAN, "expected each step to begin where the last one ended; seen: 33, then 32")
class Gap(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, j=33) if update.j == 32 else update


@fails(PLAN, "expected from 64 to 0; seen: from 64 to 1")
class StopsEarly(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return (update for update in super().updates(diffusion) if update.j)


@fails(PLAN, "expected updates; seen: none")
class NoPlan(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return iter(())


@fails(PLAN, "expected j <= i; seen: 32 -> 33")
class Returns(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        for update in super().updates(diffusion):
            yield update
            if update.j == 32:
                yield dataclasses.replace(update, i=32, j=33)
                yield update


@fails(PLAN, "expected at most 1 earlier evaluations; seen: 2 at 32 -> 31")
@fails(ORDER, "expected no error; seen: the update .* of a plan looks 2 evaluations back, where there are 1")
class LooksTooFarBack(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, past=(Past(), Past())) if update.i == 32 else update


@fails(PLAN, "finite float64 coefficients; seen: b of 1 ago at 32 -> 31: torch.float32")
class SinglePast(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, past=(Past(b=torch.zeros(1)),)) if update.i == 32 else update


@fails(PLAN, "finite float64 coefficients; seen: b at 64 -> 63: torch.float32")
class SingleCoefficients(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, b=update.b.float())


@fails(PLAN, "finite float64 coefficients; seen: q at 1 -> 0")
class InfiniteCoefficient(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, q=update.q / update.j)


@fails(PLAN, "the random numbers of the whole process left alone; seen: those of torch are not")
@fails(REPEATABLE, "equal coefficients; seen: b differs at 32 -> 31; look at a plan must not draw")
class RandomPlan(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, b=update.b * (1 + 1e-3 * torch.rand((), dtype=torch.float64)))


@fails(REPEATABLE, "expected the same steps; seen: others")
class OtherSteps(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return ddim(diffusion, next(COUNTER) % diffusion.N + 1)


@fails(SKIPS, r"expected an error like that at all 128 of 128 steps, \d.*; seen: .* of 512")
class OneStepBack(Plainest):
    """right only where j = i-1."""

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        for update in super().updates(diffusion):
            nearest = diffusion.at(max(update.i - 1, 0)).log_s.exp()
            yield dataclasses.replace(update, b=nearest if update.j else update.b)


@fails(ORDER, r"within 1 % of the spread, in the limit; seen: 1\.\d% off")
class BiasedMean(Plainest):
    """by half a percent of the data, at the last step."""

    def changed(self, update: Update) -> Update:
        return update if update.j else dataclasses.replace(update, q=update.q * 1.005)


@fails(ORDER, r"in the limit; seen: 2\.\d% off")
class BiasedSpread(Plainest):
    """noise at the end that does not vanish with the steps."""

    def changed(self, update: Update) -> Update:
        return update if update.j else dataclasses.replace(update, e=torch.full_like(update.q, 0.2 * 0.1**0.5))


@fails(ORDER, r"expected order 1; seen: -?0?\.?\d.*: errors")
class BiasedEachStep(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, q=update.q * 1.001)


@fails(ORDER, r"expected order 2; seen: 0\.9\d: errors 9.1e-02, 4.6e-02, 2.3e-02 at \(64, 128, 256\) steps")
class ClaimsTwo(Plainest):
    order = 2


@fails(ORDER, "expected order 1; seen: ")
class OneSpeed(Plainest):
    """the mean speed of all components."""

    def changed(self, update: Update) -> Update:
        b, q = (torch.full_like(value, value.mean().item()) for value in (update.b, update.q))
        return dataclasses.replace(update, b=b, q=q)


@fails(
    ORDER, "expected a process that it takes: one that preserves variance, or one of constant noise; seen: never; never"
)
class RefusesAll(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        raise ConfigError("never")


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class Fifty(Plainest):
    """takes 50 steps unless it is told otherwise."""

    name = "fifty"
    steps: int | None = 50


class Reluctant(Plainest):
    """every step of a variance-preserving process, and of no other."""

    name = "reluctant"

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        if not isinstance(diffusion.scales, VariancePreserving):
            raise ConfigError("variance-preserving processes only", fix="choose another sampler")
        return super().updates(diffusion)


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("sampler") <= fails.titles


@each(Plainest)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(Fifty, Reluctant)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []


def test_a_small_bias_is_told_from_the_error_of_few_steps():
    """`order` looks at the limit: the error of few steps is many times larger than a bias that it finds."""
    assert _limit(Plainest()) < 1e-3
    assert _limit(BiasedMean()) == pytest.approx(0.005 * 0.8 / 0.1**0.5, rel=0.05)
