"""Noise schedules that rise linearly, or whose root does."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from gendiff.schedule import NoiseSchedule


class Linear(NoiseSchedule):
    """β_i rises linearly from beta_min to beta_max.

    Per step, as in Ho, Jain, Abbeel 2020 (arXiv 2006.11239): with another N the total noise changes.
    """

    name = "linear"

    beta_min: float = Field(1e-4, gt=0, lt=1, description="β_1")
    beta_max: float = Field(0.02, gt=0, lt=1, description="β_N")

    def beta(self, i: Tensor, N: int) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * (i - 1) / (N - 1)


class ScaledLinear(NoiseSchedule):
    """the root of β_i rises linearly from that of beta_min to that of beta_max.

    Reference: Rombach, Blattmann, Lorenz, Esser, Ommer 2022, High-Resolution Image Synthesis with Latent Diffusion Models, arXiv
    2112.10752; the schedule of its code.
    """

    name = "scaled-linear"

    beta_min: float = Field(0.00085, gt=0, lt=1, description="β_1")
    beta_max: float = Field(0.012, gt=0, lt=1, description="β_N")

    def beta(self, i: Tensor, N: int) -> Tensor:
        first, last = self.beta_min**0.5, self.beta_max**0.5
        root: Tensor = first + (last - first) * (i - 1) / (N - 1)
        return root.square()
