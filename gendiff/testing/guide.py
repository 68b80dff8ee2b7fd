"""What a guide promises: another belief about the same x̄_i, of each event by itself, whatever the process and the basis.

It is tried on a model that is told of a label, one of ten classes, in a scene that lacks nothing: the model was trained without
labels too, there are other checkpoints, and each event was measured. A guide refuses what it cannot guide by a `ConfigError` from
its `check`: such a case is skipped, and one at least must be left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.component import component_class
from gendiff.condition import Given
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.guide import Guide, Scene, guided, no_other
from gendiff.operator import Measurement, Operator
from gendiff.rotation import Rotation
from gendiff.sampler import Sampler, sample
from gendiff.score import Pivot, ScoreModel, believe, from_x_0
from gendiff.shapes import EventShape
from gendiff.testing.card import check, largest, require
from gendiff.testing.probes import SmoothScales, listed, noise, undisturbed

SHAPES: tuple[EventShape, ...] = ((1, 8, 8), (3, 8, 12), (1, 16))
#: For those that take none of these.
RARER: tuple[EventShape, ...] = ((3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 64, 64))
CLASSES = 10
N = 40
B = 3
_PIVOT = "`pivot(model, x_bar, i, scene)`"


class Labelled(ScoreModel):
    """The best model of events around a mean for each of ten classes; of all of them together it knows mean and variance."""

    value_range = (-1.0, 1.0)

    def __init__(self, diffusion: Diffusion, key: int = 0, scale: float = 1.0) -> None:
        means = 0.5 * noise((CLASSES, *diffusion.event_shape), key)
        self.diffusion = diffusion
        self.mean = torch.cat([means, means.mean(0, keepdim=True)])
        self.variance = torch.tensor([0.2 * scale] * CLASSES + [0.4 * scale], dtype=torch.float64)

    def given(self, condition: Given) -> Labelled:
        model = object.__new__(type(self))
        model.__dict__ = {**self.__dict__, "condition": dict(condition)}
        return model

    def predict(self, x_bar: Tensor, i: float | Tensor) -> Pivot:
        at = self.diffusion.asked(x_bar, i)
        label = self.condition.get("label", torch.tensor([CLASSES])).expand(len(x_bar))
        m, c = self.mean[label].to(x_bar), self.variance[label].to(x_bar).reshape(-1, *[1] * (x_bar.ndim - 1))
        return from_x_0(m + at.a * c / (at.a**2 * c + at.s**2) * (x_bar - at.a * m), x_bar, at)


@dataclass(frozen=True)
class Case:
    """A model that is told of a label, in a scene, and what a guide is asked about."""

    where: str
    model: ScoreModel
    scene: Scene

    @property
    def diffusion(self) -> Diffusion:
        """The process."""
        return self.scene.diffusion

    def x_bar(self, i: int, dtype: torch.dtype = torch.float32, key: int = 1) -> Tensor:
        """Events of the first three classes at step i."""
        at, event = self.diffusion.at(i, dtype), self.diffusion.event_shape
        x_0 = 0.5 * noise((CLASSES, *event))[:B].to(dtype) + 0.4 * noise((B, *event), 2).to(dtype)
        return at.a * x_0 + at.s * noise((B, *event), key).to(dtype)

    def of(self, part: list[int]) -> Case:
        """The same for these events of the batch."""
        condition = {name: value[part] for name, value in self.model.condition.items()}
        return replace(self, model=self.model.given(condition), scene=self.scene.rows(part))


@check("guide", "it gives a belief about x̄_i: finite, and x̄_i = a x̂_0 + s ε̂", _PIVOT)
def belief(guide: Guide) -> str:
    """In two bases, for components that move alike and that do not, in float32 and float64.

    One that brings a sampler of its own may give that what it likes, such as two beliefs for two terms of its steps.
    """
    worst, cases = 0.0, []
    for case in _cases(guide):
        cases.append(case.where)
        for i in (1, N // 2, N):
            for dtype in (torch.float32, torch.float64):
                x_bar = case.x_bar(i, dtype)
                pivot, at = _asked(guide, case, x_bar, i), case.diffusion.at(i, dtype)
                finite = bool(pivot.x_0.isfinite().all() and pivot.eps.isfinite().all())
                require(finite, "finite numbers", f"some are not, at step {i} of {N}, {case.where}")
                parts = at.a * pivot.x_0, at.s * pivot.eps
                size = max(float(part.abs().max()) for part in (x_bar, *parts))
                error = float((parts[0] + parts[1] - x_bar).abs().max()) / size
                if type(guide).sampler is not Guide.sampler:
                    continue
                worst = largest(worst, error / (1 if dtype == torch.float32 else 1e-5))
                require(
                    worst < 1e-4,
                    "x̄_i = a x̂_0 + s ε̂, to rounding",
                    f"{error:.1e} of it left, at step {i} of {N}, {case.where}, {dtype}".replace("torch.", ""),
                )
    return f"{worst:.0e} relative; {', '.join(cases)}"


@check("guide", "the belief about an event does not depend on its batch", "a mean, norm or maximum over the batch axis")
def neighbours(guide: Guide) -> str:
    """Each has a condition, a measurement and, where it is asked so, a step of its own."""
    worst = 0.0
    for case in _cases(guide):
        for i in (2, N // 2):
            x_bar = case.x_bar(i)
            steps = torch.tensor([i, N - 1, 5])
            for asked in (i, steps):
                together = _asked(guide, case, x_bar, asked)
                for k in range(B):
                    own = asked if isinstance(asked, int) else asked[[k]]
                    alone = _asked(guide, case.of([k]), x_bar[[k]], own)
                    worst = largest(worst, _apart(alone, Pivot(together.x_0[[k]], together.eps[[k]])))
    require(worst < 1e-3, "the same belief whatever else is in the batch", f"a relative difference of {worst:.1e}")
    return f"{worst:.0e} relative"


@check(
    "guide", "it depends on what it is given alone, and changes nothing of it", "random numbers, or in-place operations"
)
def pure(guide: Guide) -> str:
    """Images depend on their seed alone."""
    for case in _cases(guide):
        x_bar = case.x_bar(N // 2)
        copy, condition = x_bar.clone(), {name: value.clone() for name, value in case.model.condition.items()}
        with undisturbed():
            first, second = (_asked(guide, case, x_bar, N // 2) for _ in range(2))
        kept = torch.equal(x_bar, copy) and all(torch.equal(case.model.condition[k], v) for k, v in condition.items())
        require(kept, "x̄_i and conditions as they were", "they changed")
        require(torch.equal(first.x_0, second.x_0) and torch.equal(first.eps, second.eps), "the same twice", "another")
    return "the same twice"


@check(
    "guide",
    "it keeps no graph where nobody asks for a gradient, and gives one where somebody does",
    "`torch.enable_grad` for a gradient of your own, `detach` for what leaves it; or take them away",
)
def gradients(guide: Guide) -> str:
    """Else every step of a sample would stay in memory; and `sample(..., graph=True)` follows the chain."""
    largest_slope = 0.0
    for case in _cases(guide):
        x_bar = case.x_bar(N // 2)
        pivot = _asked(guide, case, x_bar, N // 2)
        require(not pivot.x_0.requires_grad and not pivot.eps.requires_grad, "no graph under torch.no_grad", "one")
        followed = x_bar.clone().requires_grad_()
        with torch.enable_grad():
            pivot = _steered(guide, case).predict(followed, N // 2)
        require(pivot.x_0.requires_grad, "a graph where x̄_i requires a gradient", "none")
        (slope,) = torch.autograd.grad(pivot.x_0.square().sum(), followed)
        require(bool(slope.isfinite().all()), "a finite gradient", "not so")
        largest_slope = max(largest_slope, float(slope.abs().max()))
    require(largest_slope > 0, "a gradient", "zero everywhere")
    return "none kept, and one that follows x̄_i"


@check("guide", "it asks the model that it is given, another guide's too", "`believe(model, x_bar, i)`: guides compose")
def composes(guide: Guide) -> str:
    """Put on twice, and before and after another."""
    for case in _cases(guide):
        x_bar = case.x_bar(N // 2)
        alone = _asked(guide, case, x_bar, N // 2)
        moved = Case(case.where, Labelled(case.diffusion, 9).given(case.model.condition), case.scene)
        require(
            _apart(_asked(guide, moved, x_bar, N // 2), alone) > 1e-6, "another belief of another model", "the same"
        )
        with torch.no_grad():
            twice = believe(guided(case.model, [guide, guide], case.scene), x_bar, N // 2)
        require(bool(twice.x_0.isfinite().all()), "finite numbers where it is put on twice", "some are not")
    return "on itself too"


@check("guide", "where something is missing it says so before anything is drawn", "`check(model, scene)`")
def lacking(guide: Guide) -> str:
    """Without conditions, without dropout, without other checkpoints, without a measurement: by a `ConfigError`."""
    refused = []
    for case in _cases(guide):
        for what, lacks in _lacking(case):
            try:
                guide.check(lacks.model, lacks.scene)
            except ConfigError as error:
                require(bool(error.details or error.fix), "what is allowed, or a way on", f"only: {error.what}")
                refused.append(what)
                continue
            _asked(guide, lacks, lacks.x_bar(N // 2), N // 2)
    return f"needs {', '.join(dict.fromkeys(refused)) or 'nothing'}"


@check("guide", "events can be drawn with it", "`pivot` at the ends, and `sampler(sampler, scene)`")
def draws(guide: Guide) -> str:
    """From noise to data, by a deterministic sampler and by one that draws noise."""
    names = []
    for case in _cases(guide):
        for spec in ("ddim:steps=6", "ancestral:steps=6"):
            try:
                plan = guide.sampler(Sampler(spec), case.scene)
            except ConfigError:
                continue
            require(isinstance(plan, Sampler), "a sampler", f"a {type(plan).__name__}")
            draw = iter(noise((len(plan.plan(case.diffusion)) + 1, B, *case.diffusion.event_shape), 4).float())
            events = sample(case.diffusion, _steered(guide, case), plan, draw.__next__)
            require(bool(events.isfinite().all()), "finite events", f"some are not, by {spec}, {case.where}")
            names.append(plan.name)
    require(bool(names), "a sampler that it goes with", "none of ddim and ancestral")
    return f"by {', '.join(dict.fromkeys(names))}"


def _cases(guide: Guide) -> Iterator[Case]:
    """The cases that it takes."""
    refusals: dict[EventShape, str] = {}
    for shape in (*SHAPES, *RARER):
        if shape in RARER and len(refusals) < len(SHAPES):
            return
        for case in _of_shape(shape):
            try:
                guide.check(case.model, case.scene)
            except ConfigError as error:
                refusals[shape] = error.what
                continue
            yield case
    require(
        len(refusals) < len(SHAPES + RARER),
        f"one of {listed(SHAPES + RARER)} that it takes",
        "; ".join(refusals.values()),
    )


def _of_shape(shape: EventShape) -> Iterator[Case]:
    # Half of each event is missing, in the coordinates of the process: what a guide says of that is the model's business.
    half = {"rectangle": [0] * (len(shape) - 1) + [shape[1] // 2, *shape[2:]]}
    for name, pace, sees, how_much in (("dct", 6.0, "crop-frequencies", {}), ("identity", 0.0, "mask", half)):
        operator = component_class("operator", sees).model_validate(how_much)
        assert isinstance(operator, Operator)
        y = operator.apply(0.5 * noise((CLASSES, *shape))[:B].float() + 0.1 * noise((B, *shape), 3).float())
        rotation = component_class("rotation", name).model_validate({})
        assert isinstance(rotation, Rotation)
        rho = rotation.frequencies(shape)
        diffusion = Diffusion(rotation, SmoothScales(N, 8.0 + pace * rho), shape)
        told = {"label": torch.arange(B)}
        scene = Scene(diffusion, 0.1, _weaker(diffusion), Measurement(operator, y, 0.1))
        how = "at speeds of their own" if pace else "alike"
        yield Case(f"{listed([shape])} in {name}, {how}", Labelled(diffusion).given(told), scene)


def _weaker(diffusion: Diffusion) -> Callable[[str], ScoreModel]:
    return lambda name: Labelled(diffusion, 5, scale=2.0)


def _lacking(case: Case) -> Iterator[tuple[str, Case]]:
    scene = case.scene
    yield "conditions", replace(case, model=case.model.given({}))
    yield "dropout", replace(case, scene=replace(scene, dropout=0.0))
    yield "another checkpoint", replace(case, scene=replace(scene, other=no_other))
    yield "a measurement", replace(case, scene=replace(scene, measurement=None))


def _steered(guide: Guide, case: Case) -> ScoreModel:
    return guided(case.model, [guide], case.scene)


def _asked(guide: Guide, case: Case, x_bar: Tensor, i: Any) -> Pivot:
    with torch.no_grad():
        return believe(_steered(guide, case), x_bar, i)


def _apart(one: Pivot, other: Pivot) -> float:
    """Relative to the larger."""
    pairs = ((one.x_0, other.x_0), (one.eps, other.eps))
    return largest(
        *(float((a - b).abs().max() / torch.maximum(a.abs().max(), b.abs().max()).clamp_min(1e-6)) for a, b in pairs)
    )
