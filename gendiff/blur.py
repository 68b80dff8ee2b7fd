r"""Gaussian blur of sampled signals, and frequency, under symmetric borders.

A Gaussian kernel of standard deviation σ pixels, sampled at the integers and normalised to sum 1, multiplies the frequency ω
(radians per pixel) by

    D(ω) = Σ_m exp(-σ²(ω + 2πm)²/2) / Σ_m exp(-σ²(2πm)²/2) ,

positive and at most 1 for every σ (Poisson summation of the sampled kernel). The orthonormal DCT-II diagonalises this blur
exactly when the border is half-sample symmetric (``d c b a | a b c d | d c b a``; NumPy ``symmetric``), with ω_k = πk/n. For a
basis that does not diagonalise it, the attenuation of component k is what it keeps of its own energy, u_k^T W u_k.

All tables are float64 on the CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendiff.dct import apply_per_axis, dct_matrix
from gendiff.frequency import dct_frequency

LOG_FLOOR = -1e4  # log 0 := -1e4, so that 0 * log 0 = 0 and exp(log 0) = 0 without any special case


def log_attenuation(omega: Tensor, sigma: float) -> Tensor:
    """``log D(ω)`` for angular frequencies ``omega`` (any shape, float64) and a blur of ``sigma`` >= 0 pixels."""
    if sigma == 0:
        return torch.zeros_like(omega)
    # Aliases beyond M contribute less than exp(-40) of the largest term, for every |ω| <= 2π.
    M = math.ceil(math.sqrt(80) / (2 * math.pi * sigma)) + 1
    shifts = 2 * math.pi * torch.arange(-M, M + 1, dtype=torch.float64)

    def log_sum(frequency: Tensor) -> Tensor:
        return torch.logsumexp(-0.5 * sigma**2 * (frequency[..., None] + shifts) ** 2, dim=-1)

    log_D = log_sum(omega) - log_sum(torch.zeros((), dtype=torch.float64))
    return log_D.clamp(LOG_FLOOR, 0.0)


def kernel_std(sigma: float) -> float:
    """κ, the true standard deviation in pixels of the sampled kernel: ``κ² = Σ_j j² g_j``, below σ for a narrow one."""
    j = torch.arange(-math.ceil(10 * sigma) - 1, math.ceil(10 * sigma) + 2, dtype=torch.float64)
    weight = torch.exp(-0.5 * (j / sigma) ** 2)
    return float((weight @ j**2 / weight.sum()).sqrt())


def symmetric_blur_matrix(n: int, sigma: float) -> Tensor:
    """W, shape ``(n, n)``: the blur of one axis of n pixels with symmetric borders, W = U D U^T in the DCT basis."""
    U = dct_matrix(n)
    return (U * log_attenuation(dct_frequency(n), sigma).exp()) @ U.T


def symmetric_blur(x: Tensor, sigma: float) -> Tensor:
    """The blur of each channel of ``x``, ``(B, C, *spatial)`` float64: W applied to every spatial axis."""
    return apply_per_axis(x, [symmetric_blur_matrix(n, sigma) for n in x.shape[2:]])


def laplacian_matrix(n: int) -> Tensor:
    """Λ, shape ``(n, n)``: the negative second difference of one axis of n pixels with symmetric borders."""
    off_diagonal = torch.ones(n - 1, dtype=torch.float64)
    Lambda = -torch.diag(off_diagonal, 1) - torch.diag(off_diagonal, -1)
    return Lambda - torch.diag(Lambda.sum(0))


def negative_laplacian(x: Tensor) -> Tensor:
    """The 5-point (3-point in 1-D) negative Laplacian of each channel of ``x``, ``(B, C, *spatial)`` float64."""
    total = torch.zeros_like(x)
    for axis, n in enumerate(x.shape[2:], start=2):
        total += (x.transpose(axis, -1) @ laplacian_matrix(n)).transpose(axis, -1)
    return total
