"""Colours that are functions of the frequency."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.colour import Colour
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape

PURPOSE = "by which noise could be coloured"


def power_law(rotation: Rotation, event_shape: EventShape, alpha: float) -> Tensor:
    """``ρ^-α``, up to a factor; the constant component has the ρ of the lowest frequency beside it."""
    if alpha == 0:
        return torch.ones([1] * len(event_shape), dtype=torch.float64)
    rho = rotation.spread_frequencies(event_shape, PURPOSE).double()
    rising = rho[rho > 1e-9]
    return (rho.clamp_min(rising.min()) / rho.max()) ** -alpha if len(rising) else torch.ones_like(rho)


class White(Colour):
    """the same power in every component: S = 1."""

    name = "white"

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return torch.ones([1] * len(event_shape), dtype=torch.float64)


class PowerLaw(Colour):
    """power falls with frequency: S_k ∝ ρ_k^-α.

    α = 1 is pink noise, 2 brown, -1 blue, 0 white. The constant component, ρ = 0, has the power of the lowest frequency
    beside it. Positive α drowns coarse detail first, negative α fine detail.

    The paper weighs noise in the Fourier basis, of which ``hartley`` is the real form; an amplitude ∝ ρ^β is α = -2β here.

    Reference: Scimeca et al. 2025, Learning What Matters: Steering Diffusion via Spectrally Anisotropic Forward Noise, arXiv
    2510.09660.
    """

    name = "power-law"

    alpha: float = Field(1.0, ge=-8, le=8, description="α: how steeply power falls; below 0 it rises")

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return power_law(rotation, event_shape, self.alpha)


class Pink(Colour):
    """power falls as one over frequency: S_k ∝ 1/ρ_k.

    ``power-law`` with α = 1.
    """

    name = "pink"

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return power_law(rotation, event_shape, 1.0)


class Blue(Colour):
    """power rises with frequency: S_k ∝ ρ_k.

    ``power-law`` with α = -1. Stationary: exactly so in ``hartley``, with circular borders. The blue noise masks of half-toning
    are no Gaussian noise, but have such a spectrum. In the paper Gaussian noise with the covariance of such masks is blended with
    white noise, more or less of it over i; here it is blue throughout.

    Reference: Huang et al. 2024, Blue Noise for Diffusion Models, arXiv 2402.04930.
    """

    name = "blue"

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return power_law(rotation, event_shape, -1.0)


class Bands(Colour):
    """a power for each band of frequency, two or more.

    Of r = ρ/max(ρ), band b lies between the edges b - 1 and b, and ``S = power_b`` there; without edges all bands are equally
    wide. A band of power 0 has the power ``floor`` of the mean, at its default 1 % of the standard deviation: what is there is
    kept, but for that trace.

    Reference: Jiralerspong et al. 2025, Shaping Inductive Bias in Diffusion Models through Frequency-Based Noise Control, arXiv
    2502.10236, for two bands and for bands that are left out.
    """

    name = "bands"

    powers: tuple[Annotated[float, Field(ge=0, le=1e6)], ...] = Field(
        (0.75, 0.25), min_length=2, description="of each band, the coarsest first"
    )
    edges: tuple[Annotated[float, Field(gt=0, lt=1)], ...] | None = Field(
        None, description="between bands, of r, rising, one fewer than powers; left out: bands of equal width"
    )

    @model_validator(mode="after")
    def _bands(self) -> Self:
        if self.edges is not None and len(self.powers) != len(self.edges) + 1:
            bands = len(self.edges) + 1
            raise ValueError(f"of {len(self.edges)} edges, which part {bands} bands, and {len(self.powers)} powers")
        if self.edges is not None and any(one >= other for one, other in pairwise(self.edges)):
            raise ValueError("edges do not rise")
        if not any(self.powers):
            raise ValueError("no band has any power")
        return self

    def power(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        rho = rotation.spread_frequencies(event_shape, PURPOSE).double()
        r = rho / rho.max().clamp_min(1e-12)
        count = len(self.powers)
        edges = self.edges or [k / count for k in range(1, count)]
        band = torch.bucketize(r, torch.tensor(edges, dtype=torch.float64), right=True)
        return torch.tensor(self.powers, dtype=torch.float64)[band]
