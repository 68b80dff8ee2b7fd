r"""Forward: what a process does to events, seen before any training.

Components are grouped into bands, equal steps of the rotation's own frequency ρ. A band's signal-to-noise ratio is the mean of
its components' in decibel,

    SNR_i = 10 log10(a_i²/s_i²) ,       data-SNR_i = 10 log10(a_i² c/s_i²) ,

with c the variance of the data per component (`Diffusion.moments`): the first says what the process does to a component of
variance 1, the second what becomes of these data. Both never rise with i, so bisection finds where a band falls below a level.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.diffusion import Diffusion
from gendiff.frequency import bands_of
from gendiff.moments import Moments
from gendiff.rotation import Rotation

DECIBEL = 20 / math.log(10)  # of one unit of a half log-SNR


class BandSNR:
    """The signal-to-noise ratio of frequency bands along a process.

    Args:
        bands: how many.

    """

    def __init__(self, diffusion: Diffusion, bands: int) -> None:
        self.diffusion = diffusion
        shape = diffusion.event_shape
        rho = diffusion.rotation.frequencies(shape)
        band = torch.broadcast_to(bands_of(rho, bands), shape).flatten()
        #: Upper frequency ρ of each band, radians per pixel.
        self.edges = [float(rho.max()) * (k + 1) / bands for k in range(bands)]
        self._member = torch.nn.functional.one_hot(band, bands).double()
        self._decibel: dict[int, Tensor] = {}  # by step: the searches of all bands look at the same ones first
        #: ``10 log10 c``, broadcasting to the event.
        self.component_data = diffusion.moments.variance.log() * DECIBEL / 2
        #: Its mean over the components of each band; NaN where a band is empty.
        self.data = self.mean(self.component_data)

    @cached_property
    def components(self) -> list[int]:
        """How many components each band has, over all channels."""
        return [int(count) for count in self._member.sum(0)]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the components of each band of what broadcasts to the event, ``(bands,)``."""
        total: Tensor = torch.broadcast_to(values.double(), self.diffusion.event_shape).flatten() @ self._member
        return total

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the components of each band of what broadcasts to the event, ``(bands,)``; NaN for an empty one."""
        return self.sum(values) / self._member.sum(0)

    def decibel(self, i: int) -> Tensor:
        """SNR of each band at step i >= 1, float64, ``(bands,)``."""
        if i not in self._decibel:
            self._decibel[i] = self.mean(self.diffusion.at(i).half_log_snr) * DECIBEL
        return self._decibel[i]

    def data_decibel(self, i: int) -> Tensor:
        """Data-SNR of each band at step i >= 1, float64, ``(bands,)``."""
        return self.decibel(i) + self.data

    def below(self, level: float) -> list[int | None]:
        """The first step at which each band's SNR is below ``level`` decibel; None where it never is, or for an empty band."""
        return [self._first(k, level) for k in range(len(self.edges))]

    def data_below(self, level: float) -> list[int | None]:
        """The same of the data-SNR."""
        return [self._first(k, level - float(self.data[k])) for k in range(len(self.edges))]

    def _first(self, band: int, level: float) -> int | None:
        return first_below(lambda i: float(self.decibel(i)[band]), self.diffusion.N, level)


def first_below(value: Callable[[int], float], N: int, level: float) -> int | None:
    """The first of the steps 1..N at which ``value``, which never rises, is below ``level``; None where it never is."""
    if not value(N) < level:
        return None
    low, high = 0, N  # below at high, and not at low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if value(middle) < level else (middle, high)
    return high


def in_frequencies(diffusion: Diffusion, data: Data | None = None) -> Diffusion:
    """The same process in a basis where frequency means something.

    A process that moves every component alike is itself in any basis, and is then looked at in the DCT: single pixels, the
    coordinates of ``identity``, have no frequency to tell them apart by. Any other process is returned as it is.

    Args:
        data: whose moments are measured in the new basis; without them they are assumed (m = 0, c = 1).

    """
    if not diffusion.alike:
        return diffusion
    rotation = Rotation.model_validate("dct")
    moments = None if data is None else Moments.fit(data, rotation)
    return Diffusion(rotation, diffusion.scales, diffusion.event_shape, moments)


def as_planned(diffusion: Diffusion, data: Data | None = None) -> Diffusion:
    """`in_frequencies`, with the moments that samplers and networks of the process are told instead of those of the data.

    Single pixels are told one variance, which is that of every component of the DCT too (where pixels at the rim differ, the mean
    is taken). Any other process is told the moments of its own basis.
    """
    spectral = in_frequencies(diffusion, data)
    if spectral is diffusion or diffusion.rotation.name != "identity":
        return spectral
    own, shape = diffusion.moments, diffusion.event_shape
    m = spectral.rotation.rotate(diffusion.rotation.unrotate(torch.broadcast_to(own.mean, shape)))
    flat = own.variance.expand(shape).flatten(1).mean(1).reshape(-1, *[1] * (len(shape) - 1))
    return Diffusion(spectral.rotation, spectral.scales, shape, replace(own, mean=m, variance=flat))


def spaced(N: int, moments: int) -> list[int]:
    """``moments`` equally spaced steps from 1 to N, those that coincide once."""
    return sorted({round(1 + k * (N - 1) / max(moments - 1, 1)) for k in range(moments)})


def corrupted(diffusion: Diffusion, x_0: Tensor, eps: Tensor, steps: Sequence[int]) -> list[Tensor]:
    """``x_i`` at each step, ``(B, *event)`` each, with the same event-space noise throughout."""
    return [diffusion.q_sample(x_0, i, eps) for i in steps]


def picture_decibel(diffusion: Diffusion, x_0: Tensor, i: int) -> float:
    """``10 log10(|a_i x̄_0|² / Σ s_i²)`` of these events as a whole, ``(B, *event)``, at step i >= 1."""
    at = diffusion.at(i, torch.float64)
    signal = (at.a * diffusion.rotate(x_0.double())).square().mean()
    noise = torch.broadcast_to(at.s, diffusion.event_shape).square().mean()
    return float(10 * torch.log10(signal / noise))


def steps_at(diffusion: Diffusion, x_0: Tensor, levels: Sequence[float]) -> list[int | None]:
    """The first step at which `picture_decibel` is below each of ``levels``; None where it never is."""
    return [first_below(lambda i: picture_decibel(diffusion, x_0, i), diffusion.N, level) for level in levels]
