"""Contrast: a belief that is led away from another, within an interval of noise levels."""

from __future__ import annotations

import math

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from gendiff.component import abstractmethod
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.guide import Guide, Scene, mixed
from gendiff.score import Pivot, ScoreModel, believe


class Contrast(Guide):
    r"""``other + weight (own - other)`` of both entries of the belief: at 1 the model's own, at 0 the other's, each as it is.

    It acts on a component where its noise level σ = s/a is in (sigma_min, sigma_max]; all others keep the model's own belief.
    """

    sigma_min: float = Field(0.0, ge=0, description="it acts on components whose noise level s/a is above this")
    sigma_max: float | None = Field(None, gt=0, description="and at most this; left out, at any level")

    @field_validator("sigma_max")
    @classmethod
    def _is_above(cls, sigma_max: float | None, info: ValidationInfo) -> float | None:
        if sigma_max is not None and not info.data.get("sigma_min", 0.0) < sigma_max:
            raise ValueError(f"it must be above sigma_min = {info.data['sigma_min']:g}")
        return sigma_max

    @property
    @abstractmethod
    def distinct(self) -> set[float]:
        """The weights that there are."""

    @abstractmethod
    def other(self, model: ScoreModel, scene: Scene) -> ScoreModel:
        """The model that this one is led away from; itself where there is none."""

    def mix(self, other: Pivot, own: Pivot, scene: Scene) -> Pivot:
        """The belief of the formula where weight is neither 0 nor 1 throughout."""
        (weight,) = self.distinct
        return mixed(other, own, weight)

    def pivot(self, model: ScoreModel, x_bar: Tensor, i: float | Tensor, scene: Scene) -> Pivot:
        if self.distinct == {1} or not self._acts(i, scene):
            return believe(model, x_bar, i)
        inside = self._inside(i, scene.diffusion)
        source = self.other(model, scene)
        other = believe(source, x_bar, i)
        if source is model or (self.distinct == {0} and inside is None):
            return other
        own = believe(model, x_bar, i)
        guided = other if self.distinct == {0} else self.mix(other, own, scene)
        if inside is None:
            return guided
        return Pivot(torch.where(inside, guided.x_0, own.x_0), torch.where(inside, guided.eps, own.eps))

    def _acts(self, i: float | Tensor, scene: Scene) -> bool:
        """Whether it acts on any component at that step, or at one of these."""
        inside = self._inside(i.cpu() if isinstance(i, Tensor) else i, scene.on_host)
        return inside is None or bool(inside.any())

    def _inside(self, i: float | Tensor, diffusion: Diffusion) -> Tensor | None:
        """On which components it acts, bool, broadcasting over ``(B, *event)``; None for all of them at every step."""
        if self.sigma_min == 0 and self.sigma_max is None:
            return None
        log_sigma = -diffusion.at(i).half_log_snr
        inside = torch.ones_like(log_sigma, dtype=torch.bool)
        if self.sigma_min > 0:
            inside = log_sigma > math.log(self.sigma_min)
        if self.sigma_max is not None:
            inside = inside & (log_sigma <= math.log(self.sigma_max))
        return inside


class FreeContrast(Contrast):
    """Away from what the same network believes when it is told of nothing."""

    def check(self, model: ScoreModel, scene: Scene) -> None:
        if not model.condition:
            raise ConfigError(
                f"guide '{self.name}' strengthens a condition, and this network is told of none",
                details=["in Python it is told of one by model.given({...})"],
                fix="train a network that is: gendiff train --condition NAME; gendiff data info shows what data have",
            )
        if not scene.dropout and self.distinct != {1}:
            raise ConfigError(
                f"guide '{self.name}' needs a network that was trained without conditions too, and this one was not",
                details=["train.condition_dropout is 0 in this run"],
                fix="train one with --set train.condition_dropout=0.1",
            )

    def other(self, model: ScoreModel, scene: Scene) -> ScoreModel:
        return model.given({}) if model.condition else model
