r"""Guide: what steers a sample, whatever the process, the basis and the sampler.

Every sampler is an affine plan in one belief, the pivot (x̂_0, ε̂) of `gendiff.score`. A guide puts another in its place,

    (x̂_0, ε̂)'  =  pivot(model, x̄_i, i) ,     x̄_i = a x̂_0' + s ε̂' ,

and sampler, grid and trajectory go on as before. Guides compose: the second asks what the first made of the model.

A belief is affine in the score, with coefficients of each component: mixing two pivots mixes their scores, in every view.

A guide whose method has a walk of its own, with other noise, or up again now and then, brings its sampler; one that thinks in
other coordinates says in which (`Guide.home`): where all components are scaled alike, any basis is the process's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor

from gendiff.component import Component, abstractmethod
from gendiff.condition import Given
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.operator import Measurement
from gendiff.sampler import Sampler
from gendiff.score import Pivot, ScoreModel, believe
from gendiff.shapes import ShownByShape


def no_other(name: str) -> ScoreModel:
    """Where there is no run that has other checkpoints."""
    raise ConfigError(
        f"there is no other model '{name}' here", details=["a run has some: those of its other checkpoints"]
    )


@dataclass(frozen=True, repr=False)
class Scene(ShownByShape):
    """What a guide may know of what is drawn.

    Args:
        diffusion: the process.
        dropout: with which chance the model was trained without conditions: at 0 it does not know ``q(x_0)``.
        other: another model of the same process by its name: the checkpoint ``@STEP`` of the run, or ``RUN@STEP`` of another.
        measurement: what was measured of the events, where they are restored.
        descent: the steps at which the model is asked, from N down, and 0; left out, every step.

    """

    diffusion: Diffusion
    dropout: float = 0.0
    other: Callable[[str], ScoreModel] = no_other
    measurement: Measurement | None = None
    descent: tuple[int, ...] = ()

    def next(self, i: int | Tensor) -> int | Tensor:
        """The step to which a sampler goes down from i."""
        if isinstance(i, Tensor):
            return torch.tensor([self.next(step) for step in i.tolist()], device=i.device)
        return next((j for j in self.descent if j < i), i - 1)

    def rows(self, part: Sequence[int]) -> Scene:
        """The same for these events of a batch."""
        return replace(self, measurement=self.measurement and self.measurement.rows(part))


class Guide(Component):
    """An author gives `pivot`, and `check` where something must be there before anything is drawn."""

    kind: ClassVar[str] = "guide"

    #: Whether it restores what was measured, and can be the method of `TrainedModel.restore`.
    restores: ClassVar[bool] = False

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    def check(self, model: ScoreModel, scene: Scene) -> None:
        """Raise `ConfigError` where it cannot guide this model in this scene: what is missing; here it can."""
        return

    @abstractmethod
    def pivot(self, model: ScoreModel, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        """The belief about ``x̄_i``, ``(B, *event)``, that takes the place of the model's; `believe` asks a model.

        Each event by itself: the pivot of one does not depend on which others are drawn with it, beyond rounding.
        """

    def sampler(self, sampler: Sampler, scene: Scene) -> Sampler:
        """The sampler that goes with it where that of the run cannot; here the same.

        Raises `ConfigError` where neither can.
        """
        return sampler

    def home(self, diffusion: Diffusion, scene: Scene) -> Diffusion:
        """The process in the coordinates in which its sampler is written; here as it is.

        Another one is the same process in another basis: steps and scales are equal. Beliefs stay in ``scene.diffusion``.
        """
        return diffusion


def check_restores(guide: Guide) -> None:
    """Raise `ConfigError` where a guide cannot be the method of a restoration."""
    if not guide.restores:
        raise ConfigError(
            f"guide '{guide.name}' restores nothing: it knows of no measurement",
            details=["methods of gendiff: pigdm, ddrm, dps, replacement"],
            fix="choose one of them; other guides are put on besides: --guide",
            subject="guide.name",
        )


class Guided(ScoreModel):
    """A model as a guide has it."""

    def __init__(self, model: ScoreModel, guide: Guide, scene: Scene) -> None:
        self.model = model
        self.guide = guide
        self.scene = scene
        self.value_range = model.value_range
        self.condition = model.condition

    def __repr__(self) -> str:
        return f"Guided({self.model}, {self.guide.spec})"

    def given(self, condition: Given) -> Guided:
        """The same guide on the model under another condition."""
        return Guided(self.model.given(condition), self.guide, self.scene)

    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        return self.guide.pivot(self.model, x_bar, i, self.scene)


def guided(model: ScoreModel, guides: Sequence[Guide], scene: Scene) -> ScoreModel:
    """A model under guides, in this order; raises `ConfigError` where one of them cannot guide it."""
    for guide in guides:
        guide.check(model, scene)
        model = Guided(model, guide, scene)
    return model


@dataclass(frozen=True, repr=False)
class Course(ShownByShape):
    """What `sample` is given: a process, a model in its coordinates, and a sampler."""

    diffusion: Diffusion
    model: ScoreModel
    sampler: Sampler


def course(model: ScoreModel, sampler: Sampler, guides: Sequence[Guide], scene: Scene) -> Course:
    """How a sampler goes on under guides, in this order; raises `ConfigError` where one of them cannot guide it."""
    for guide in guides:
        guide.check(model, scene)  # before any is asked for more
    home = reduce(lambda own, guide: guide.home(own, scene), guides, scene.diffusion)
    sampler = reduce(lambda own, guide: guide.sampler(own, scene), guides, sampler)
    if guides:
        asked = {update.i for update in sampler.plan(home)}
        scene = replace(scene, descent=(*sorted(asked, reverse=True), 0))
    model = guided(model, guides, scene)
    return Course(home, model if home is scene.diffusion else Rebased(model, scene.diffusion, home), sampler)


class Rebased(ScoreModel):
    """A model of one process as one of the same process in another basis."""

    def __init__(self, model: ScoreModel, own: Diffusion, home: Diffusion) -> None:
        self.model = model
        self.own = own
        self.home = home
        self.value_range = model.value_range
        self.condition = model.condition

    def __repr__(self) -> str:
        return f"Rebased({self.model}, {self.home.rotation})"

    def given(self, condition: Given) -> Rebased:
        return Rebased(self.model.given(condition), self.own, self.home)

    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        pivot = believe(self.model, rebased(x_bar, self.home, self.own), i)
        return Pivot(*(rebased(part, self.own, self.home) for part in (pivot.x_0, pivot.eps)))


def rebased(x_bar: Tensor, one: Diffusion, other: Diffusion) -> Tensor:
    """Coordinates of one process, ``(B, *event)``, as those of another."""
    return x_bar if one.rotation == other.rotation else other.rotate(one.unrotate(x_bar))


def mixed(fixed: Pivot, other: Pivot, weight: float | Tensor) -> Pivot:
    """``fixed + weight (other - fixed)`` of both entries, and so of the scores; ``weight`` broadcasts over components."""
    return Pivot(fixed.x_0 + weight * (other.x_0 - fixed.x_0), fixed.eps + weight * (other.eps - fixed.eps))
