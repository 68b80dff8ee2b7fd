"""The identity rotation."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.rotation import Rotation, pixel_frequencies
from gendiff.shapes import EventShape, in_full


class Identity(Rotation):
    """pixels themselves: U = I, D = 1.

    D is 1 by definition, not ``u_k^T W u_k``: with the blur velocity this is DDPM exactly, whatever the blur schedule.

    Reference: Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv 2006.11239.
    """

    name = "identity"

    def rotate(self, x: Tensor) -> Tensor:
        return in_full(x)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return self.rotate(x_bar)

    def log_blur_spectrum(self, event_shape: EventShape, sigma: float) -> Tensor:
        return torch.zeros([1] * len(event_shape), dtype=torch.float64)

    def frequencies(self, event_shape: EventShape) -> Tensor:
        # u_k^T Λ u_k of the base class, which is the diagonal of Λ: a picture has far too many pixels to go through.
        return pixel_frequencies(event_shape)
