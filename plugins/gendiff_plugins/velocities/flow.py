"""Flows: straight paths from data to noise, for all components alike, band by band, or through a low pass."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gendiff.blur import LOG_FLOOR
from gendiff.formula import Formula, log, log1p, maximum, over_components, over_time
from gendiff.frequency import bands_of
from gendiff.rotation import Rotation
from gendiff.scales import FormulaScales
from gendiff.shapes import EventShape
from gendiff.velocity import BlurWidth, Velocity, times


class RectifiedFlow(Velocity):
    """a straight path from data to noise: a = 1 - t, s = t.

    ``x_t = (1 - t) x_0 + t ε`` with t = i/N, for every component, so that dx_t/dt = ε - x_0 (``--objective velocity``). At i = N
    nothing of the data is left, and the prior is exactly N(0, I). With ``--sampler ddim`` on any grid a step is Euler's.

    Reference: Liu, Gong, Liu 2023, Flow Straight and Fast, arXiv 2209.03003; Lipman et al. 2023, arXiv 2210.02747.
    """

    name = "rectified-flow"

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> FormulaScales:
        return _straight(N, over_time(times(N)) * over_components(_ones(event_shape)))


class KFlow(Velocity):
    """band by band, each a straight path in its own window of time: a = 1 - τ_k(t), s = τ_k(t).

    The components lie in ``bands`` of equal width in frequency; the finest is destroyed first, so that pictures are made from
    coarse to fine. A window is ``w = 1/(1 + (bands - 1)(1 - overlap))`` long, that of rank r (0 the finest) begins at
    ``r (1 - overlap) w``, and ``τ_k = t + (1 - share)(window_k - t)`` with window_k from 0 to 1 over its window. The share of
    time that is common to all keeps every band moving at every t: λ falls strictly, and the velocity says all. One band, or
    overlap = 1, is ``rectified-flow`` to the bit.

    Reference: Du et al. 2025, K-Flow, arXiv 2504.19353, for flows along frequency; the common share is ours.
    """

    name = "k-flow"

    bands: int = Field(4, ge=1, le=32, description="of frequency, each with a window of its own")
    overlap: float = Field(0.5, ge=0, le=1, description="of a window with the next, in windows; 1: all at once")
    share: float = Field(0.05, ge=1e-3, le=1, description="of the time that is common to all bands")

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> FormulaScales:
        t, width = times(N), 1 / (1 + (self.bands - 1) * (1 - self.overlap))
        if width == 1 or self.share == 1:
            return _straight(N, over_time(t) * over_components(_ones(event_shape)))
        band = bands_of(rotation.spread_frequencies(event_shape, "by which bands could differ"), self.bands)
        rank = (self.bands - 1 - band).double()  # of what is destroyed first, the finest
        until = t.clone()
        until[-1] += 1e-12  # the last window is over at N, whatever the rounding
        place = (over_time(until) - over_components(rank * (1 - self.overlap) * width)) / width
        window = -maximum(-maximum(place, 0.0), -1.0)
        return _straight(N, over_time(t) + (1 - self.share) * (window - over_time(t)))


class LowPassFlow(Velocity):
    """a straight path through a low pass that closes: a = (1 - t) exp(-μ_k (σ t)²/2), s = t.

    μ_k is the eigenvalue of the negative Laplacian, σ the width of the blur at t = 1 in pixels: fine detail drowns first, and the
    noise is the same for all, as in ``rectified-flow``, which it is at σ = 0. It stands between that and ``blurring``.

    Reference: Lipman et al. 2023, arXiv 2210.02747, for the path; Hoogeboom, Salimans 2022, arXiv 2209.05557, for the low pass.
    """

    name = "low-pass-flow"

    sigma: float = Field(2.0, ge=0, le=1e4, description="std of the blur at t = 1, pixels")

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> FormulaScales:
        t = times(N)
        passed = over_time(-((self.sigma * t) ** 2) / 2) * over_components(rotation.heat_spectrum(event_shape))
        return FormulaScales(N, maximum(log1p(-over_time(t)) + passed, LOG_FLOOR), log(over_time(t)))

    def blur_width(self, N: int) -> BlurWidth:
        width = self.sigma * times(N)
        return BlurWidth(true=width, nominal=width)


def _straight(N: int, tau: Formula) -> FormulaScales:
    """``a = 1 - τ``, ``s = τ``."""
    return FormulaScales(N, maximum(log1p(-tau), LOG_FLOOR), log(tau))


def _ones(event_shape: EventShape) -> Tensor:
    return torch.ones([1] * len(event_shape), dtype=torch.float64)
