"""Operators that act on frequencies."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gendiff.blur import log_attenuation, symmetric_blur_matrix
from gendiff.component import abstractmethod
from gendiff.dct import apply_per_axis, dct_matrix
from gendiff.operator import Operator
from gendiff.precision import full_precision
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape


class PerAxis(Operator):
    """One symmetric matrix for each spatial axis, the same in every channel."""

    @abstractmethod
    def matrix(self, n: int) -> Tensor:
        """``(n, n)`` float64, symmetric, for an axis of n samples."""

    def apply(self, x: Tensor) -> Tensor:
        with full_precision(x.device):
            return apply_per_axis(x, [self.matrix(n).to(x) for n in x.shape[2:]])

    def adjoint(self, y: Tensor, event_shape: EventShape) -> Tensor:
        return self.apply(y)


class Blur(PerAxis):
    """a Gaussian blur: deblurring.

    ``y = W x`` with W a Gaussian kernel of σ pixels, sampled at the pixels and normalised, along each axis. With reflecting
    borders (``d c b a | a b c d | d c b a``) the DCT diagonalises it, with circular ones (``c d | a b c d | a b``) the Hartley
    transform.
    """

    name = "blur"

    sigma: float = Field(1.0, gt=1e-3, le=1e3, description="standard deviation of the kernel in pixels")
    borders: Literal["reflecting", "circular"] = Field("reflecting", description="what is behind the border")

    def matrix(self, n: int) -> Tensor:
        return symmetric_blur_matrix(n, self.sigma) if self.borders == "reflecting" else _circular(n, self.sigma)

    def basis(self, rotation: Rotation, event_shape: EventShape) -> Rotation:
        return Rotation("dct" if self.borders == "reflecting" else "hartley")


class CropFrequencies(PerAxis):
    """the lowest frequencies: sharpening.

    ``y = U diag(1 where k < keep n, else 0) U^T x`` with U the DCT: of each axis the share ``keep`` of the frequencies, at least
    one. y has the size of the event.
    """

    name = "crop-frequencies"

    keep: float = Field(0.5, gt=0, le=1, description="share of the frequencies of each axis that is kept")

    def matrix(self, n: int) -> Tensor:
        U = dct_matrix(n)[:, : max(round(self.keep * n), 1)]
        return U @ U.T

    def basis(self, rotation: Rotation, event_shape: EventShape) -> Rotation:
        return Rotation("dct")


def _circular(n: int, sigma: float) -> Tensor:
    """The circulant matrix of the sampled kernel: the inverse Fourier transform of D(2πk/n)."""
    k = torch.arange(n, dtype=torch.float64)
    D = log_attenuation(2 * torch.pi * torch.minimum(k, n - k) / n, sigma).exp()
    row = torch.fft.ifft(D).real
    matrix: Tensor = row[(k[:, None] - k).long() % n]
    return matrix
