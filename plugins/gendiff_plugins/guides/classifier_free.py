"""Guides that need a network that was trained with conditions and without."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from gendiff.errors import ConfigError
from gendiff.guide import Guide, Scene, mixed
from gendiff.score import Pivot, ScoreModel, believe


class ClassifierFree(Guide):
    """classifier-free guidance.

    ``free + weight (conditional - free)`` of both entries of the belief: at weight 1 the conditional model, at 0 the
    unconditional one, each as it is.

    Reference: Ho, Salimans 2022, Classifier-Free Diffusion Guidance, arXiv 2207.12598, where w = weight - 1.
    """

    name = "cfg"

    weight: float = Field(2.0, description="1 is the conditional model, 0 the unconditional one; above 1 exaggerates")

    def check(self, model: ScoreModel, scene: Scene) -> None:
        if not scene.dropout and self.weight != 1:
            raise ConfigError(
                "guide 'cfg' needs a network that was trained without conditions too, and this one was not",
                details=["train.condition_dropout is 0 in this run"],
                fix="train one with --set train.condition_dropout=0.1",
                subject="guide.name",
            )

    def pivot(self, model: ScoreModel, x_bar: Tensor, i: int | Tensor, scene: Scene) -> Pivot:
        if self.weight == 1:
            return believe(model, x_bar, i)
        free = believe(model.given({}), x_bar, i)
        return free if self.weight == 0 else mixed(free, believe(model, x_bar, i), self.weight)
