"""DCT: the orthonormal DCT-II of events, per axis; x̄ = U^T x."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from gendiff.precision import full_precision


@cache
def dct_matrix(n: int) -> Tensor:
    """Orthonormal DCT-II: ``(n, n)``, column k is u_k(m) = c_k cos(πk(m + 1/2)/n), so that x̄ = U^T x."""
    k = torch.arange(n, dtype=torch.float64, device="cpu")  # kept: not where somebody happens to build a network
    m = k[:, None]
    U = torch.cos(math.pi * k * (m + 0.5) / n) * math.sqrt(2 / n)
    U[:, 0] = 1 / math.sqrt(n)
    return U


def apply_per_axis(x: Tensor, matrices: list[Tensor]) -> Tensor:
    """Multiply each of the last axes of ``x`` by its matrix: ``y[..., k, ...] = Σ_m x[..., m, ...] matrix[m, k]``."""
    for back, matrix in enumerate(reversed(matrices), start=1):
        x = (x.transpose(-back, -1) @ matrix).transpose(-back, -1)
    return x


@cache
def _matrices(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
    return tuple(dct_matrix(n).to(device=device, dtype=torch.float32) for n in sizes)


def dct(x: Tensor) -> Tensor:
    """The DCT-II of each channel in float32: the common yardstick of frequency, whatever the rotation of a run."""
    with full_precision(x.device):
        return apply_per_axis(x.float(), list(_matrices(tuple(x.shape[2:]), x.device)))
