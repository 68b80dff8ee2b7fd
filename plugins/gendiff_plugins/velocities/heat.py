"""Inverse heat dissipation."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.rotation import Rotation
from gendiff.scales import DissipatingScales
from gendiff.shapes import EventShape, check_count
from gendiff.velocity import BlurWidth, Velocity


class Heat(Velocity):
    """heat and a trace of noise: a = exp(-μ_k σ_B²/2), s constant.

    μ_k is the eigenvalue of the negative Laplacian; the blur σ_B(i) is 0 at i = 0 and then rises in equal ratios from
    ``sigma_min`` at i = 1 to ``sigma_max`` at i = N. There is no noise at i = 0. The mean of a picture never fades: start from
    the data's own (``--prior matched`` or ``data``).

    The authors: σ_max = 24 with N = 200 (CIFAR-10), 20 with 100 (MNIST), 64 with 400 (church 128x128), 128 with 200 (256x256);
    noise 0.01 on pictures in [0, 1], which is 0.02 here.

    Reference: Rissanen, Heinonen, Solin 2022, Generative Modelling with Inverse Heat Dissipation, arXiv 2206.13397, and its code.
    """

    name = "heat"

    sigma_min: float = Field(0.5, gt=0, le=1e4, description="std of the blur at i = 1, pixels")
    sigma_max: float = Field(24.0, gt=0, le=1e4, description="std of the blur at i = N, pixels")
    s: float = Field(0.02, gt=0, le=1, description="std of the noise at every step i >= 1, pictures being in [-1, 1]")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min > self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min:g} is above sigma_max = {self.sigma_max:g}")
        return self

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> DissipatingScales:
        check_count(N)
        zero = torch.zeros(1, dtype=torch.float64)
        return DissipatingScales(
            log_a_common=torch.zeros(N + 1, dtype=torch.float64),
            log_s_common=torch.cat([zero.log(), torch.full((N,), math.log(self.s), dtype=torch.float64)]),
            tau=self._sigma_B(N) ** 2 / 2,
            mu=rotation.heat_spectrum(event_shape),
            d=torch.zeros((), dtype=torch.float64),
        )

    def blur_width(self, N: int) -> BlurWidth:
        sigma_B = self._sigma_B(N)
        return BlurWidth(true=sigma_B, nominal=sigma_B)

    def _sigma_B(self, N: int) -> Tensor:
        fraction = torch.arange(N, dtype=torch.float64) / (N - 1)
        log_sigma = math.log(self.sigma_min) + fraction * math.log(self.sigma_max / self.sigma_min)
        return torch.cat([torch.zeros(1, dtype=torch.float64), log_sigma.exp()])
