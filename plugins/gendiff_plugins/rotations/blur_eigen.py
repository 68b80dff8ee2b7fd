"""The paper's own basis."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from gendiff.errors import ConfigError
from gendiff.rotation import SeparableRotation
from gendiff.shapes import EventShape

D_MIN = 1e-12
GAP_MIN = 1e-10  # eigenvalues nearer than this cannot be told apart on every machine


class BlurEigen(SeparableRotation):
    """the paper's basis: eigenvectors of a zero-padded blur.

    Per axis W_ij = g(i-j), with g a normalised Gaussian kernel of 2n-1 taps: the border is zero-padded, so bright pictures
    darken at their edges. Order: descending eigenvalue; sign: the first entry larger than 1e-8 in size is positive.
    D is the product of ``u_k^T W u_k`` over axes, clipped to [1e-12, 1]: the eigenvalues, where the velocity's σ is the basis's
    own; another σ is only nearly diagonal here. Where eigenvalues coincide no order fixes the basis, and σ is refused.

    With ``released_tiling`` the attenuations of C channels are assigned as in the authors' released code, which tiles them
    while its coefficients are interleaved: with n = H·W and p the rank of a component by descending D, channel c gets
    ``D[(C p + c) mod n]``. For C > 1 this is *not* a Gaussian blur. It exists to study the published numbers.

    Reference: Lee, Chung, Kim, Ye 2022, arXiv 2207.11192, Section 3 and the released code.
    """

    name = "blur-eigen"
    sigma: float = Field(0.4, gt=0, le=100, description="std of the blur whose eigenvectors are the basis, pixels")
    released_tiling: bool = Field(False, description="assign D to colour channels as the released code does")

    def matrix(self, n: int) -> Tensor:
        values, vectors = torch.linalg.eigh(zero_padded_blur(n, self.sigma))
        if n > 1 and values.diff().min() < GAP_MIN:
            raise ConfigError(
                f"rotation 'blur-eigen' has no well-defined basis at sigma = {self.sigma:g} for an axis of {n}",
                details=[
                    f"two eigenvalues differ by {values.diff().min().item():.0e}: any mixture of their vectors would do"
                ],
                fix="choose sigma between 0.2 and 2, or --rotation dct",
                subject="rotation.sigma",
            )
        U: Tensor = vectors.flip(1)  # eigh is ascending
        first = (U.abs() > 1e-8).int().argmax(0)
        return U * U.gather(0, first[None]).sign()

    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        U = self.matrix(n)
        return (U * (zero_padded_blur(n, sigma) @ U)).sum(0).clamp(D_MIN, 1.0).log()

    def log_blur_spectrum(self, event_shape: EventShape, sigma: float) -> Tensor:
        log_D = super().log_blur_spectrum(event_shape, sigma).clamp_min(math.log(D_MIN))
        if not self.released_tiling:
            return log_D
        if len(event_shape) != 3:
            raise ConfigError(
                "rotation 'blur-eigen' with released_tiling needs pictures (C, H, W)",
                details=[f"these events have shape {event_shape}"],
                fix="leave released_tiling out",
            )
        order = log_D.flatten().sort(descending=True, stable=True).indices
        return tile_as_released(log_D, order, channels=event_shape[0])


def tile_as_released(log_D: Tensor, order: Tensor, channels: int) -> Tensor:
    """``(1, H, W) -> (channels, H, W)``: the released code's attenuation of each channel.

    Args:
        order: flat index of the component of each rank p, descending D; the released code breaks ties arbitrarily.

    """
    by_rank = log_D.flatten()[order]
    n = len(by_rank)
    tile = torch.empty(channels, n, dtype=log_D.dtype)
    for c in range(channels):
        tile[c, order] = by_rank[(channels * torch.arange(n) + c) % n]
    return tile.reshape(channels, *log_D.shape[1:])


def zero_padded_blur(n: int, sigma: float) -> Tensor:
    """W, ``(n, n)`` float64: Toeplitz matrix of a Gaussian kernel of 2n-1 taps with sum 1."""
    taps = torch.arange(-(n - 1), n, dtype=torch.float64)
    g = torch.exp(-0.5 * (taps / sigma) ** 2) if sigma else (taps == 0).double()
    g = g / g.sum()
    position = torch.arange(n)
    return g[position[:, None] - position + n - 1]
