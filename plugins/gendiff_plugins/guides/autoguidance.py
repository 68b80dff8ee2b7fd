"""Autoguidance: a network is guided by a weaker version of itself."""

from __future__ import annotations

from pydantic import Field

from gendiff.guide import Scene
from gendiff.score import ScoreModel
from gendiff_plugins.guides.contrast import Contrast


class Autoguidance(Contrast):
    r"""away from what a weaker network of the same kind believes.

    ``weak + weight (own - weak)`` of both entries of the belief: at weight 1 the model itself, at 0 the weaker one. Both are told
    of the same conditions, or of none: it needs no network that was trained without. The weaker one saw fewer steps, or is
    smaller; it must have the process of the run. It acts on a component where its noise level σ = s/a is in
    (sigma_min, sigma_max].

    Reference: Karras et al. 2024, Guiding a Diffusion Model with a Bad Version of Itself, arXiv 2406.02507.
    """

    name = "autoguidance"

    weaker: str = Field(
        description="a checkpoint: @STEP of the run, RUN@STEP of another, @last the newest; :raw after it for raw weights"
    )
    weight: float = Field(2.0, description="1 is the model itself, 0 the weaker one; above 1 exaggerates")

    @property
    def distinct(self) -> set[float]:
        return {self.weight}

    def check(self, model: ScoreModel, scene: Scene) -> None:
        self.other(model, scene)

    def other(self, model: ScoreModel, scene: Scene) -> ScoreModel:
        return scene.other(self.weaker).given(model.condition)
