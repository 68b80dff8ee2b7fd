"""The discrete sine transforms."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gendiff.blur import log_attenuation
from gendiff.rotation import SeparableRotation


class DST(SeparableRotation):
    """orthonormal discrete sine transform: odd borders.

    Type 1: ``u_k(m) = c sin(π(m + 1)(k + 1)/(n + 1))``, ω_k = π(k+1)/(n+1), borders odd about a zero one pixel outside
    (``-b -a 0 | a b c | 0 -c -b``). Type 2: ``u_k(m) = c_k sin(π(m + 1/2)(k + 1)/n)``, ω_k = π(k+1)/n, borders odd about half
    a pixel outside (``-b -a | a b c | -c -b``). A blur with those borders is exactly D(ω_k), the attenuation of the sampled
    kernel (`gendiff.blur`); it pulls the edges of a picture to 0. No component is constant.

    Reference: Martucci 1994, Symmetric convolution and the discrete sine and cosine transforms, IEEE Trans. Signal
    Processing 42(5).
    """

    name = "dst"
    diagonalises_blur = True
    type: Literal[1, 2] = Field(
        2, description="1: odd about a zero one pixel outside; 2: odd about half a pixel outside"
    )

    def matrix(self, n: int) -> Tensor:
        k = torch.arange(n, dtype=torch.float64)
        m = k[:, None] + (1.0 if self.type == 1 else 0.5)
        U = torch.sin(self.axis_frequency(n) * m)
        return U / U.square().sum(0).sqrt()

    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        return log_attenuation(self.axis_frequency(n), sigma)

    def axis_frequency(self, n: int) -> Tensor:
        k = torch.arange(n, dtype=torch.float64)
        return math.pi * (k + 1) / (n + 1 if self.type == 1 else n)
