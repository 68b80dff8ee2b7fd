"""Noise schedules given by a decreasing curve g(i): β_i = min(1 - g(i)/g(i-1), 0.999), so that ᾱ_0 = 1 exactly."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.schedule import NoiseSchedule, beta_from_curve


class Cosine(NoiseSchedule):
    """ᾱ_i follows cos²((i/N + 0.008)/1.008 π/2).

    Reference: Nichol, Dhariwal 2021, Improved Denoising Diffusion Probabilistic Models, arXiv 2102.09672, eq. 17.
    """

    name = "cosine"

    def beta(self, i: Tensor, N: int) -> Tensor:
        return beta_from_curve(lambda i: torch.cos((i / N + 0.008) / 1.008 * math.pi / 2) ** 2, i)


class Exp(NoiseSchedule):
    """ᾱ_i follows 1 - h(i)/h(N), h(i) = exp(5i/N - 5) + 1e-4.

    Reference: the ``exp`` option of the code released with Lee, Chung, Kim, Ye 2022, arXiv 2207.11192.
    """

    name = "exp"

    def beta(self, i: Tensor, N: int) -> Tensor:
        return beta_from_curve(lambda i: 1 - (torch.exp(5 * i / N - 5) + 1e-4) / (1 + 1e-4), i)


class Sigmoid(NoiseSchedule):
    """ᾱ_i follows a sigmoid from start to end.

    ``g(i) = sigmoid(-(start + (end - start) i/N)/tau)``, shifted and scaled to run from 1 to 0.

    Reference: Jabri, Fleet, Chen 2022, Scalable Adaptive Computation for Iterative Generation, arXiv 2212.11972, App. B.
    """

    name = "sigmoid"

    start: float = Field(-3.0, ge=-50, le=50, description="argument of the sigmoid at i = 0")
    end: float = Field(3.0, ge=-50, le=50, description="argument of the sigmoid at i = N")
    tau: float = Field(1.0, gt=0, description="temperature: larger is nearer to linear")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start >= self.end:
            raise ValueError(f"start = {self.start:g} must be below end = {self.end:g}")
        return self

    def beta(self, i: Tensor, N: int) -> Tensor:
        first, last = torch.sigmoid(-torch.tensor([self.start, self.end], dtype=torch.float64) / self.tau)

        def curve(i: Tensor) -> Tensor:
            g = torch.sigmoid(-(self.start + (self.end - self.start) * i / N) / self.tau)
            values: Tensor = (g - last) / (first - last)
            return values

        return beta_from_curve(curve, i)
