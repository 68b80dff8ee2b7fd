"""Blurring diffusion."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import logsigmoid

from gendiff.rotation import Rotation
from gendiff.scales import DissipatingScales
from gendiff.shapes import EventShape
from gendiff.velocity import BlurWidth, Velocity, times


class Blurring(Velocity):
    """heat and noise, the same noise for all: a = a(t) d_k(t), s = σ(t).

    With t = i/N and μ_k the eigenvalue of the negative Laplacian, ``d_k = (1 - d_min) exp(-μ_k τ) + d_min``, τ = σ_B²/2,
    ``σ_B = σ_max sin²(πt/2)``; ``log a²/σ² = -2 log tan(r t + l)`` falls from ``logsnr_max`` to ``logsnr_min``, and a² + σ² = 1.
    At t = 0 a little noise is there already, σ = 0.0067. At σ_max = 0 it is the cosine process.

    Reference: Hoogeboom, Salimans 2022, Blurring Diffusion Models, arXiv 2209.05557.
    """

    name = "blurring"

    sigma_max: float = Field(20.0, ge=0, le=1e4, description="std of the blur at t = 1, pixels (the paper's for 32x32)")
    d_min: float = Field(1e-3, ge=0, lt=1, description="least attenuation: what is left of the finest detail")
    logsnr_max: float = Field(10.0, ge=0, le=60, description="log a²/σ² at t = 0, the blur apart")
    logsnr_min: float = Field(-10.0, ge=-60, le=0, description="log a²/σ² at t = 1, the blur apart")

    @model_validator(mode="after")
    def _falls(self) -> Self:
        if self.logsnr_min == self.logsnr_max:
            raise ValueError("logsnr_min = logsnr_max: the noise would never change")
        return self

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> DissipatingScales:
        t = times(N)
        low, high = math.atan(math.exp(-self.logsnr_max / 2)), math.atan(math.exp(-self.logsnr_min / 2))
        logsnr = -2 * torch.log(torch.tan((high - low) * t + low))
        return DissipatingScales(
            log_a_common=0.5 * logsigmoid(logsnr),
            log_s_common=0.5 * logsigmoid(-logsnr),
            tau=self._sigma_B(N) ** 2 / 2,
            mu=rotation.heat_spectrum(event_shape),
            d=torch.tensor(self.d_min, dtype=torch.float64),
        )

    def blur_width(self, N: int) -> BlurWidth:
        sigma_B = self._sigma_B(N)
        return BlurWidth(true=math.sqrt(1 - self.d_min) * sigma_B, nominal=sigma_B)  # a share d_min stays where it is

    def _sigma_B(self, N: int) -> Tensor:
        t = times(N)
        return self.sigma_max * torch.sin(math.pi / 2 * t) ** 2
