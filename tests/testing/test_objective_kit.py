"""What the kit asks of an objective: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from flaws import Fails, assert_found, broken, each, titles
from torch import Tensor

from gendiff import Objective, Parametrization, score
from gendiff.level import Level
from gendiff.score import Pivot

fails = Fails()

VIEW = "its parametrization is a view of the pivot"
OPTIMUM, GROWS = "at the right prediction the loss and its gradient are zero", "the loss grows away from it"


WEIGHT, PER_EVENT = "its weight is finite and never negative", "it gives one loss per event"


class Weighed(Objective):
    """ε with a weight, for others to change."""

    name = "mutant"
    parametrization = Parametrization.EPS


@fails(WEIGHT, "expected finite weights >= 0; seen: -")
class NegativeWeight(Weighed):
    def weight(self, at: Level) -> Tensor:
        return at.s - 0.5


@fails(WEIGHT, "expected finite weights >= 0; seen: nan")
@fails(OPTIMUM, "expected a loss of 0; seen: nan")
class NaNWhereNoNoise(Weighed):
    def weight(self, at: Level) -> Tensor:
        return (at.s - 0.02).sqrt()


@fails(WEIGHT, "expected finite weights >= 0; seen: .* to inf")
class InfiniteWhereNoSignal(Weighed):
    def weight(self, at: Level) -> Tensor:
        return (at.s / at.a) ** 2


@fails(WEIGHT, r"expected weights that broadcast to \(100, 1, 3, 5\); seen: \(100,\)")
class FlatWeight(Weighed):
    def weight(self, at: Level) -> Tensor:
        return at.s.flatten(1).mean(1)


@fails(WEIGHT, "expected a weight above 0 somewhere; seen: none")
@fails(GROWS, "expected a positive loss for a wrong prediction; seen: 0")
class NoWeight(Weighed):
    def weight(self, at: Level) -> Tensor:
        return 0 * at.s


@fails(OPTIMUM, "expected a loss of 0; seen: 1.0e-02; look at `parametrization` and")
class WrongTarget(Weighed):
    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        return super().loss(denoiser, diffusion, x_0, i, eps + 0.1)


@fails(OPTIMUM, "expected a gradient of 0; seen: ")
class Pulls(Weighed):
    """the loss is right, and its gradient is not."""

    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        found = super().loss(denoiser, diffusion, x_0, i, eps)
        pull = denoiser(x_0, i).mean()
        return dataclasses.replace(found, per_event=found.per_event + pull - pull.detach())


@fails(PER_EVENT, "expected a parametrization: one of Parametrization; seen: 'noise'")
class NoParametrization(Weighed):
    parametrization = "noise"  # type: ignore[assignment]


@fails(PER_EVENT, r"expected an error of shape \(4, 2, 3, 5\); seen: \(4, 30\)")
class FlatError(Weighed):
    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        found = super().loss(denoiser, diffusion, x_0, i, eps)
        return dataclasses.replace(found, error_bar=found.error_bar.flatten(1))


@fails(GROWS, "expected 4 times the loss at twice the error; seen: 2.000 times")
class Absolute(Weighed):
    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        found = super().loss(denoiser, diffusion, x_0, i, eps)
        return dataclasses.replace(found, per_event=found.per_event.clamp_min(1e-12).sqrt())


@fails(PER_EVENT, "expected the same loss alone; seen: another")
class BatchWeight(Weighed):
    def weight(self, at: Level) -> Tensor:
        return at.s / at.s.mean()


@fails(PER_EVENT, r"expected shape \(4,\); seen: \(\)")
class OneLoss(Weighed):
    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        found = super().loss(denoiser, diffusion, x_0, i, eps)
        return dataclasses.replace(found, per_event=found.per_event.mean())


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class Partial(Weighed):
    """no weight where there is little noise."""

    name = "partial"

    def weight(self, at: Level) -> Tensor:
        return (at.s > 0.5).to(at.s)


class ScalarWeight(Weighed):
    """one number."""

    name = "scalar-weight"

    def weight(self, at: Level) -> Tensor:
        return torch.tensor(3.0)


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("objective") <= fails.titles | {VIEW}


@pytest.mark.parametrize(
    ("slope", "says"), [(2.0, "a belief that adds up to x̄_i"), (0.0, "the same belief, there and back")]
)
def test_a_view_that_is_not_read_as_it_is_written_is_found(slope, says, monkeypatch):
    monkeypatch.setattr(score, "_REGISTERED", dict(score._REGISTERED))  # of this test alone

    class Off(Parametrization):
        name = "off"

        def of_pivot(self, pivot, at):
            return 2 * pivot.eps

        def to_pivot(self, output, x_bar, at):
            if slope:  # of which the belief no longer adds up
                return Pivot(x_bar, slope * output)
            return Pivot(x_bar / at.a.clamp_min(0.5), (x_bar - at.a * x_bar / at.a.clamp_min(0.5)) / at.s)

    class Mutant(Weighed):
        parametrization = Parametrization("off")

    assert any((line.title, line.expected) == (VIEW, says) for line in broken(Mutant()))


@each(Weighed)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(Partial, ScalarWeight)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []
