"""The Hartley transform."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendiff.blur import log_attenuation
from gendiff.rotation import SeparableRotation


class Hartley(SeparableRotation):
    """the real Fourier transform of every axis: circular borders.

    ``u_k(m) = cas(2πkm/n) / √n`` with ``cas t = cos t + sin t``: symmetric and its own inverse. k and n-k are the two phases
    of one frequency, ω_k = 2π min(k, n-k)/n, so that a blur with circular borders (``c d | a b c d | a b``) is exactly
    D(ω_k), the attenuation of the sampled kernel (`gendiff.blur`).

    Reference: Bracewell 1983, Discrete Hartley transform, J. Optical Society of America 73(12).
    """

    name = "hartley"
    diagonalises_blur = True

    def matrix(self, n: int) -> Tensor:
        k = torch.arange(n)
        angle = 2 * math.pi / n * (k[:, None] * k % n).double()  # whole turns taken off exactly
        return (angle.cos() + angle.sin()) / math.sqrt(n)

    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        return log_attenuation(self.axis_frequency(n), sigma)

    def axis_frequency(self, n: int) -> Tensor:
        k = torch.arange(n, dtype=torch.float64)
        return 2 * math.pi * torch.minimum(k, n - k) / n
