"""The blur schedule of gendiff-sine."""

from __future__ import annotations

import torch
from gendiff.schedule import BlurSchedule
from pydantic import Field
from torch import Tensor


class Sine(BlurSchedule):
    """f(i) = f_max sin²(π i / 2N).

    f(i) counts elementary blurs at step i = 1..N: slow at both ends, fastest at N/2,
    f_max at N. The sum over all steps is f_max (N + 1)/2.
    """

    name = "sine"

    f_max: float = Field(0.14, ge=0, le=1e4, description="largest f, at i = N")

    def f(self, i: Tensor, N: int) -> Tensor:
        return self.f_max * torch.sin(torch.pi * i / (2 * N)) ** 2
