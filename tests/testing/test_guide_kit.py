"""What the kit asks of a guide: every check finds something, and what is only unusual passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from flaws import COUNTER, Fails, assert_found, broken, each, titles
from torch import Tensor

from gendiff import ClassifierGuide, Guide, Pivot, Sampler, Scene, ScoreModel, believe
from gendiff.condition import Given
from gendiff.errors import ConfigError
from gendiff.guide import mixed
from gendiff.score import from_eps, from_x_0
from gendiff.testing import score
from gendiff.testing.guide import CLASSES

fails = Fails()

BELIEF, NEIGHBOURS = (
    "it gives a belief about x̄_i: finite, and x̄_i = a x̂_0 + s ε̂",
    "the belief about an event does not depend on its batch",
)
PURE = "it depends on what it is given alone, and changes nothing of it"
GRADIENTS = "it keeps no graph where nobody asks for a gradient, and gives one where somebody does"
COMPOSES = "it asks the model that it is given, another guide's too"
LACKING = "where something is missing it says so before anything is drawn"
DRAWS = "events can be drawn with it"


class Stronger(Guide):
    """twice as far from the model without a condition, for others to change."""

    name = "mutant"

    def pivot(self, model: ScoreModel, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return self.changed(mixed(believe(model.given({}), x_bar, i), believe(model, x_bar, i), 2.0), x_bar, i, scene)

    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return pivot


def at(x_bar: Tensor, i: int | Tensor, scene: Scene) -> Any:
    return scene.diffusion.at(i, x_bar.dtype)


@fails(BELIEF, r"expected x̄_i = a x̂_0 \+ s ε̂, to rounding; seen: \d")
class Renoised(Stronger):
    """x̂_0 is guided, and ε̂ is not."""

    def pivot(self, model: ScoreModel, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return Pivot(super().pivot(model, x_bar, i, scene).x_0, believe(model, x_bar, i).eps)


@fails(BELIEF, "to rounding; seen: .*float64")
class SinglePrecision(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return Pivot(pivot.x_0.float().to(x_bar.dtype), pivot.eps.float().to(x_bar.dtype))


@fails(BELIEF, "seen: the score model returned x_0 of shape .*float32")
class AlwaysFloat32(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return Pivot(pivot.x_0.float(), pivot.eps.float())


@fails(BELIEF, "expected finite numbers; seen: some are not, at step 40 of 40")
class DividesByNothing(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        left = torch.tensor(float(scene.diffusion.N) - i) if isinstance(i, int) else scene.diffusion.N - i.float()
        return Pivot(pivot.x_0 + 0 / left.reshape(-1, *[1] * (x_bar.ndim - 1)).to(x_bar), pivot.eps)


@fails(BELIEF, "seen: the score model returned a tuple")
class ATuple(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return pivot.x_0, pivot.eps  # type: ignore[return-value]


@fails(BELIEF, "expected one of .* that it takes; seen: never")
class GuidesNothing(Stronger):
    def check(self, model: ScoreModel, scene: Scene) -> None:
        raise ConfigError("never")


@fails(NEIGHBOURS, "the same belief whatever else is in the batch; seen: a relative difference")
class OfTheBatch(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return from_x_0(pivot.x_0 / pivot.x_0.std(), x_bar, at(x_bar, i, scene))


@fails(NEIGHBOURS, "seen: RuntimeError|seen: ValueError")
class OneStepForAll(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return mixed(pivot, from_x_0(0.9 * pivot.x_0, x_bar, at(x_bar, i, scene)), int(i) / scene.diffusion.N)


@fails(PURE, "left alone; seen: those of torch are not")
class Random(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return from_x_0(pivot.x_0 + torch.randn_like(x_bar), x_bar, at(x_bar, i, scene))


@fails(PURE, "expected the same twice; seen: another")
class Counts(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return from_x_0(pivot.x_0 + next(COUNTER), x_bar, at(x_bar, i, scene))


@fails(PURE, "as they were; seen: they changed")
class InPlace(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        if not x_bar.requires_grad:
            x_bar += 1e-3
        return pivot


@fails(GRADIENTS, "expected no graph under torch.no_grad; seen: one")
class KeepsTheGraph(Stronger):
    def pivot(self, model: ScoreModel, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        with torch.enable_grad():
            followed = x_bar if x_bar.requires_grad else x_bar.detach().requires_grad_()
            return super().pivot(model, followed, i, scene)


@fails(GRADIENTS, "expected a graph where x̄_i requires a gradient; seen: none")
class DropsTheGraph(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return Pivot(pivot.x_0.detach(), pivot.eps.detach())


@fails(GRADIENTS, "seen: RuntimeError: element 0 of tensors does not require grad")
class NeedsGradients(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        followed = x_bar.detach().requires_grad_()
        (g,) = torch.autograd.grad(-(followed**2).sum(), followed)
        return from_eps(pivot.eps - at(x_bar, i, scene).s * g, x_bar, at(x_bar, i, scene))


@fails(COMPOSES, "expected another belief of another model; seen: the same")
class AsksNobody(Stronger):
    def pivot(self, model: ScoreModel, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return from_x_0(0.1 * x_bar, x_bar, at(x_bar, i, scene))


@fails(COMPOSES, "seen: AttributeError: 'Guided' object has no attribute 'mean'")
class LooksInside(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        return pivot

    def pivot(self, model: Any, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        assert len(model.mean)
        return super().pivot(model, x_bar, i, scene)


@fails(LACKING, "seen: AttributeError: 'NoneType' object has no attribute 'y'")
class NeedsAMeasurement(Stronger):
    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        assert scene.measurement is None or scene.measurement.sigma
        scene.measurement.y  # type: ignore[union-attr]  # noqa: B018
        return pivot


@fails(LACKING, "expected what is allowed, or a way on; seen: only: no")
class SaysNothing(Stronger):
    def check(self, model: ScoreModel, scene: Scene) -> None:
        if not scene.dropout:
            raise ConfigError("no")


@fails(DRAWS, "expected a sampler; seen: a NoneType")
class NoSampler(Stronger):
    def sampler(self, sampler: Sampler, scene: Scene) -> Sampler:
        return None  # type: ignore[return-value]


@fails(DRAWS, "expected a sampler that it goes with; seen: none")
class NoneWillDo(Stronger):
    def sampler(self, sampler: Sampler, scene: Scene) -> Sampler:
        raise ConfigError("not this one")


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class Classifies(ClassifierGuide):
    """towards a class, by a classifier of noisy events."""

    name = "classifies"

    def log_prob(self, x: Tensor, i: Tensor, condition: Given) -> Tensor:
        brightness = torch.stack([-((x - k / CLASSES) ** 2).flatten(1).mean(1) for k in range(CLASSES)], 1)
        return brightness.log_softmax(1)[
            torch.arange(len(x)), condition.get("label", torch.zeros(len(x)).long()) % CLASSES
        ]


class ClassifiesClean(Classifies):
    """towards a class, by a classifier of clean events."""

    name = "classifies-clean"
    clean = True


class GreyOnly(Stronger):
    """takes grey pictures only."""

    name = "grey-only"

    def check(self, model: ScoreModel, scene: Scene) -> None:
        if len(scene.diffusion.event_shape) != 3 or scene.diffusion.event_shape[0] != 1:
            raise ConfigError("grey pictures only", fix="choose such")


class NeedsData(Stronger):
    """steers by what was measured."""

    name = "needs-data"

    def check(self, model: ScoreModel, scene: Scene) -> None:
        if scene.measurement is None:
            raise ConfigError("nothing was measured", fix="give a measurement")

    def changed(self, pivot: Pivot, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        assert scene.measurement is not None
        y = scene.diffusion.rotate(scene.measurement.y.to(x_bar.dtype))
        return from_x_0((pivot.x_0 + y) / 2, x_bar, at(x_bar, i, scene))


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("guide") <= fails.titles


@each(Stronger)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(Classifies, ClassifiesClean, GreyOnly, NeedsData)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []


@pytest.mark.parametrize(
    "spec",
    [
        "cfg:weight=0",
        "cfg:weight=3,sigma_min=0.2,sigma_max=2",
        "frequency:weights=[0.5,2,4]",
        "frequency:weights=[1,4],edges=[1.2],sigma_max=5",
        "autoguidance:weaker=@5,sigma_min=0.1",
    ],
)
def test_variants_of_built_ins(spec):
    assert [line for line in score(Guide(spec)) if not line.passed] == []
