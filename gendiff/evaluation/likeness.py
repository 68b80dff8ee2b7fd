r"""Likeness: how near single events are to what they should be.

    PSNR = 10 log10( peak² / mean (x - y)² )

SSIM compares means, contrasts and structure in windows (Wang, Bovik, Sheikh, Simoncelli 2004, Image quality assessment, IEEE TIP
13(4)): weights of a Gaussian of 1.5 pixels in windows of 11x11 that lie inside of the picture, K = 0.01 and 0.03, the mean over
windows and channels. Where a side is below 11 the window is as large as an odd number allows.

The spectrum of an error is what the DCT components of each band of frequency add to its mean square: it sums to that, for the
DCT is orthonormal.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from gendiff.dct import apply_per_axis, dct_matrix
from gendiff.errors import ArgumentError
from gendiff.frequency import frequency_bands
from gendiff.shapes import check_batch

WINDOW, WIDTH = 11, 1.5
K_1, K_2 = 0.01, 0.03


def psnr(x: Tensor, clean: Tensor, peak: float = 2.0) -> Tensor:
    """Of each event of ``(B, *event)``, in dB, ``(B,)`` float64; ``peak`` is the whole range of values, 2 in [-1, 1].

    Infinite where both are the same.
    """
    _check(x, clean)
    error: Tensor = (x.double() - clean.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error)


def ssim(x: Tensor, clean: Tensor, peak: float = 2.0) -> Tensor:
    """Of each picture of ``(B, C, H, W)``, ``(B,)`` float64, 1 where both are the same.

    Raises `ArgumentError` where these are no pictures, or a side is below 3 pixels.
    """
    _check(x, clean)
    if x.ndim != 4 or min(x.shape[2:]) < 3:
        raise ArgumentError(
            f"x has the shape {tuple(x.shape)}", details=["pictures are (B, C, H, W), 3 pixels or more"]
        )
    size = min(WINDOW, (min(x.shape[2:]) - 1) // 2 * 2 + 1)
    place = torch.arange(size, dtype=torch.float64) - size // 2
    weight = torch.exp(-0.5 * (place / WIDTH) ** 2)
    kernel = (weight[:, None] * weight / weight.sum() ** 2)[None, None]

    def mean(values: Tensor) -> Tensor:
        means: Tensor = conv2d(values.flatten(0, 1)[:, None], kernel).unflatten(0, values.shape[:2])[:, :, 0]
        return means

    one, other = x.detach().cpu().double(), clean.detach().cpu().double()
    m, n = mean(one), mean(other)
    variance, variance_n, both = mean(one**2) - m**2, mean(other**2) - n**2, mean(one * other) - m * n
    c_1, c_2 = (K_1 * peak) ** 2, (K_2 * peak) ** 2
    index = (2 * m * n + c_1) * (2 * both + c_2) / ((m**2 + n**2 + c_1) * (variance + variance_n + c_2))
    return index.flatten(1).mean(1)


def error_spectrum(x: Tensor, clean: Tensor, bands: int = 8) -> Tensor:
    """What each band of frequency adds to the mean square of the error, over all events ``(B, *event)``: ``(bands,)`` float64."""
    _check(x, clean)
    return spectrum(x.double() - clean.double(), bands)


def spectrum(x: Tensor, bands: int = 8) -> Tensor:
    """What each band adds to the mean square of events ``(B, *event)``: ``(bands,)`` float64, from coarse to fine."""
    x = x.detach().cpu().double()
    squares = apply_per_axis(x, [dct_matrix(n) for n in x.shape[2:]]).square().mean((0, 1))
    band = frequency_bands(tuple(x.shape[1:]), bands)
    total = torch.zeros(bands, dtype=torch.float64)
    return total.scatter_add(0, band.flatten(), squares.flatten()) / squares.numel()


def _check(x: Tensor, clean: Tensor) -> None:
    check_batch(x)
    check_batch(clean, "clean")
    if x.shape != clean.shape:
        raise ArgumentError(f"x has the shape {tuple(x.shape)}, clean {tuple(clean.shape)}", details=["both are alike"])
