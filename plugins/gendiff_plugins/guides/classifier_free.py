"""Classifier-free guidance."""

from __future__ import annotations

from pydantic import Field

from gendiff_plugins.guides.contrast import FreeContrast


class ClassifierFree(FreeContrast):
    r"""classifier-free guidance.

    ``free + weight (conditional - free)`` of both entries of the belief, and so of the scores: at weight 1 the conditional model,
    at 0 the unconditional one, each as it is. It acts on a component where its noise level σ = s/a is in
    (sigma_min, sigma_max]; all others keep the conditional belief. Where all components move alike, that is an interval of steps.

    Reference: Ho, Salimans 2022, Classifier-Free Diffusion Guidance, arXiv 2207.12598, where w = weight - 1.

    Reference: Kynkäänniemi et al. 2024, Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
    Diffusion Models, arXiv 2404.07724.
    """

    name = "cfg"

    weight: float = Field(2.0, description="1 is the conditional model, 0 the unconditional one; above 1 exaggerates")

    @property
    def distinct(self) -> set[float]:
        return {self.weight}
