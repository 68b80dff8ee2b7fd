"""The power spectrum."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gendiff.dct import apply_per_axis, dct_matrix
from gendiff.frequency import frequency_bands
from gendiff.metric import Metric

FLOOR = 1e-8  # added to each power: a band that holds nothing has a finite logarithm


class Spectrum(Metric):
    """error of the log power spectrum, by frequency band.

    The power of band b is the mean square of the DCT coefficients (constant component left out) whose ρ lies in b, over events
    and channels; bands are equal steps of ρ. ``band_b`` is ``10 log10(P_samples / P_reference)`` in decibel, ``error`` the root
    mean square over bands.
    """

    name = "spectrum"

    bands: int = Field(4, ge=1, le=64, description="frequency bands")

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        decibel = 10 * torch.log10(self._power(samples) / self._power(reference))
        error = decibel.square().mean().sqrt().item()
        return {"error": error} | {f"band_{band}": value for band, value in enumerate(decibel.tolist())}

    def _power(self, events: Tensor) -> Tensor:
        x_bar = apply_per_axis(events.double(), [dct_matrix(n) for n in events.shape[2:]])
        power = x_bar.square().mean((0, 1)).flatten()[1:]
        band = frequency_bands(tuple(events.shape[1:]), self.bands).flatten()[1:]
        total = torch.zeros(self.bands, dtype=torch.float64).index_add(0, band, power)
        return total / torch.bincount(band, minlength=self.bands).clamp_min(1) + FLOOR
