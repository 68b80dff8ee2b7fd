"""Bands: of frequencies, by which the loss of a batch is told apart in metrics.jsonl."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gendiff.dct import dct
from gendiff.diffusion import Diffusion
from gendiff.frequency import frequency_bands

BANDS = 4  # of equal width, 0 is the lowest


class Bands:
    """Those of the events of a process, on the device of a network."""

    def __init__(self, diffusion: Diffusion, event_shape: tuple[int, ...], device: torch.device) -> None:
        self.diffusion = diffusion
        members = one_hot(frequency_bands(event_shape, BANDS).flatten(), BANDS).float().to(device)
        self._mean = members / members.sum(0).clamp_min(1)

    def means(self, error_bar: Tensor) -> list[float]:
        """The mean squared error of a batch in each band; ``error_bar`` is in rotated coordinates, ``(B, *event)``."""
        error = dct(self.diffusion.unrotate(error_bar))
        means: list[float] = (error.square().mean((0, 1)).flatten() @ self._mean).tolist()
        return means
