"""The identity rotation."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.rotation import Rotation
from gendiff.shapes import EventShape


class Identity(Rotation):
    """pixels themselves: U = I, D = 1.

    D is 1 by definition, not ``u_k^T W u_k``: with the blur velocity this is DDPM exactly, whatever the blur schedule.

    Reference: Ho, Jain, Abbeel 2020, Denoising Diffusion Probabilistic Models, arXiv 2006.11239.
    """

    name = "identity"

    def rotate(self, x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.float()

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return self.rotate(x_bar)

    def log_blur_spectrum(self, event_shape: EventShape, sigma: float) -> Tensor:
        return torch.zeros([1] * len(event_shape), dtype=torch.float64)
