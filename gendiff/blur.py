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
from functools import cache

import torch
from torch import Tensor

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


@cache
def dct_matrix(n: int) -> Tensor:
    """Orthonormal DCT-II: ``(n, n)``, column k is u_k(m) = c_k cos(πk(m + 1/2)/n), so that x̄ = U^T x."""
    m, k = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    U = torch.cos(math.pi * k * (m + 0.5) / n) * math.sqrt(2 / n)
    U[:, 0] = 1 / math.sqrt(n)
    return U


def dct_frequency(n: int) -> Tensor:
    """ω_k = πk/n, shape ``(n,)``, radians per pixel."""
    return math.pi * torch.arange(n, dtype=torch.float64) / n


def apply_per_axis(x: Tensor, matrices: list[Tensor]) -> Tensor:
    """Multiply each of the last axes of ``x`` by its matrix: ``y[..., k, ...] = Σ_m x[..., m, ...] matrix[m, k]``."""
    for back, matrix in enumerate(reversed(matrices), start=1):
        x = (x.transpose(-back, -1) @ matrix).transpose(-back, -1)
    return x


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


def radius(per_axis: list[Tensor]) -> Tensor:
    """ρ = sqrt(Σ ω²) over the grid of the axes' frequencies: ``[(n_1,), (n_2,), ...] -> (n_1, n_2, ...)``."""
    grids = torch.meshgrid(*per_axis, indexing="ij")
    return torch.stack([grid**2 for grid in grids]).sum(0).sqrt()


def frequency_bands(event_shape: tuple[int, ...], bands: int) -> Tensor:
    """The band 0..bands-1 of each DCT component, equal steps of ρ: int64, shape ``spatial``."""
    return bands_of(radius([dct_frequency(n) for n in event_shape[1:]]), bands)


def bands_of(rho: Tensor, bands: int) -> Tensor:
    """The band 0..bands-1 of each component of frequency ρ, equal steps from 0 to the largest: int64, same shape."""
    return (rho / rho.max().clamp_min(1e-12) * bands).long().clamp_max(bands - 1)


def mirrored(rho: Tensor) -> Tensor:
    """The partner of each component at the other end of the frequency order: of rank p, the one of rank K-1-p.

    The order is by ρ rounded to 1e-9, ties by flat index; int64 flat indices in the shape of ρ, ``spatial``.
    """
    order = rho.flatten().round(decimals=9).argsort(stable=True)
    partner = torch.empty_like(order)
    partner[order] = order.flip(0)
    return partner.reshape(rho.shape)
