"""Frequency: that of each DCT component in radians per pixel, bands of it, and its order."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct_frequency(n: int) -> Tensor:
    """ω_k = πk/n, shape ``(n,)``, radians per pixel."""
    return math.pi * torch.arange(n, dtype=torch.float64) / n


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


def equal_bands(rho: Tensor, bands: int) -> Tensor:
    """The band 0..bands-1 of each component, of equal numbers of them, to one, in the order of `ordered`: int64, same shape.

    1 <= bands <= K, the number of components.
    """
    order = ordered(rho)
    band = torch.empty_like(order)
    band[order] = torch.arange(len(order), device=order.device) * bands // len(order)
    return band.reshape(rho.shape)


def ordered(rho: Tensor) -> Tensor:
    """Flat indices of the components from the lowest frequency to the highest: by ρ rounded to 1e-9, ties by flat index."""
    return rho.flatten().round(decimals=9).argsort(stable=True)


def mirrored(rho: Tensor) -> Tensor:
    """The partner of each component at the other end of the frequency order of its channel: of rank p, the one of rank K-1-p.

    In the order of `ordered`; int64 flat indices in a channel, in the shape of ρ, ``(channels, *spatial)``.
    """
    partners = []
    for channel in rho:
        order = ordered(channel)
        partner = torch.empty_like(order)
        partner[order] = order.flip(0)
        partners.append(partner)
    return torch.stack(partners).reshape(rho.shape)
