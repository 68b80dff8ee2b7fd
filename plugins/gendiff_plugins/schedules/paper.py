"""The blur schedules of Lee, Chung, Kim, Ye 2022 (arXiv 2207.11192), Fig. 4: how blur is spread over the steps.

f(i) counts elementary blurs of std σ at step i; σ sqrt(Σ f) is the nominal total blur in pixels. All are never below 0.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.schedule import BlurSchedule


class NoBlur(BlurSchedule):
    """f(i) = 0: no blur at all."""

    name = "none"

    def f(self, i: Tensor, N: int) -> Tensor:
        return torch.zeros_like(i)


class RisingSchedule(BlurSchedule):
    """A schedule between two values."""

    f_max: float = Field(
        0.14, ge=0, le=1e4, description="largest f, at i = N (triangular: its peak is (f_min + f_max)/2, near N/2)"
    )
    f_min: float = Field(0.0, ge=0, le=1e4, description="f at i = 1 (cubic, quartic: towards i = 0)")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.f_min > self.f_max:
            raise ValueError(f"f_min = {self.f_min:g} is above f_max = {self.f_max:g}")
        return self

    def _between(self, fraction: Tensor) -> Tensor:
        return (self.f_min + (self.f_max - self.f_min) * fraction).clamp_min(0.0)


class Linear(RisingSchedule):
    """f(i) = f_min + (f_max - f_min) (i-1)/(N-1)."""

    name = "linear"

    def f(self, i: Tensor, N: int) -> Tensor:
        return self._between((i - 1) / (N - 1))


class Log(RisingSchedule):
    """f(i) = f_min + (f_max - f_min) ln i / ln N."""

    name = "log"

    def f(self, i: Tensor, N: int) -> Tensor:
        return self._between(i.log() / math.log(N))


class Quadratic(RisingSchedule):
    """f(i) = f_min + (f_max - f_min) (i²-1)/(N²-1)."""

    name = "quadratic"

    def f(self, i: Tensor, N: int) -> Tensor:
        return self._between((i**2 - 1) / (N**2 - 1))


class Cubic(RisingSchedule):
    """f(i) = f_min + (f_max - f_min) (i/N)³."""

    name = "cubic"

    def f(self, i: Tensor, N: int) -> Tensor:
        return self._between((i / N) ** 3)


class Quartic(RisingSchedule):
    """f(i) = f_min + (f_max - f_min) (i/N)⁴."""

    name = "quartic"

    def f(self, i: Tensor, N: int) -> Tensor:
        return self._between((i / N) ** 4)


class Triangular(RisingSchedule):
    """f(i) = lin(i) up to N/2, then lin(N-i).

    ``lin`` is the linear schedule, so the peak is about ``(f_min + f_max)/2``.
    """

    name = "triangular"

    def f(self, i: Tensor, N: int) -> Tensor:
        return self._between((torch.where(i < N / 2, i, N - i) - 1) / (N - 1))
