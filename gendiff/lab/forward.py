r"""Forward: what a process does to events, seen before any training.

Components are grouped into bands, equal steps of the rotation's own frequency ρ. A band's signal-to-noise ratio is the mean of
its components' in decibel,

    SNR_i = 10 log10(a_i²/s_i²) ,       data-SNR_i = 10 log10(a_i² c/s_i²) ,

with c the variance of the data per component (`Diffusion.moments`): the first says what the process does to a component of
variance 1, the second what becomes of these data. Both never rise with i, so bisection finds where a band falls below a level;
all bands are bisected side by side, since steps are computed several at a time.
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
        self._decibel: dict[int, Tensor] = {}  # by step: searches look at the same ones first
        #: ``10 log10 c``, broadcasting to the event.
        self.component_data = diffusion.moments.variance.log() * DECIBEL / 2
        #: Its mean over the components of each band; NaN where a band is empty.
        self.data = self.mean(self.component_data)

    @cached_property
    def components(self) -> list[int]:
        """How many components each band has, over all channels."""
        return [int(count) for count in self._member.sum(0)]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the components of each band of what broadcasts to ``(..., *event)``, ``(..., bands)``."""
        shape = self.diffusion.event_shape
        batch = values.shape[: max(values.ndim - len(shape), 0)]
        total: Tensor = torch.broadcast_to(values.double(), (*batch, *shape)).flatten(-len(shape)) @ self._member
        return total

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the components of each band of what broadcasts to ``(..., *event)``; NaN for an empty one."""
        return self.sum(values) / self._member.sum(0)

    def decibel(self, i: int) -> Tensor:
        """SNR of each band at step i >= 1, float64, ``(bands,)``."""
        return self.decibels([i])[0]

    def decibels(self, steps: Sequence[int]) -> Tensor:
        """SNR of each band at each of these steps >= 1, float64, ``(steps, bands)``."""
        new = [i for i in steps if i not in self._decibel]
        rows = (row for at in self.diffusion.levels(new) for row in self.mean(at.half_log_snr) * DECIBEL)
        self._decibel.update(zip(new, rows, strict=True))
        return torch.stack([self._decibel[i] for i in steps])

    def data_decibel(self, i: int) -> Tensor:
        """Data-SNR of each band at step i >= 1, float64, ``(bands,)``."""
        return self.decibel(i) + self.data

    def below(self, level: float) -> list[int | None]:
        """The first step at which each band's SNR is below ``level`` decibel; None where it never is, or for an empty band."""
        return first_below(self.decibels, self.diffusion.N, torch.full_like(self.data, level))

    def data_below(self, level: float) -> list[int | None]:
        """The same of the data-SNR."""
        return first_below(self.decibels, self.diffusion.N, level - self.data)


def first_below(values: Callable[[Sequence[int]], Tensor], N: int, levels: Tensor) -> list[int | None]:
    """For each level the first of the steps 1..N at which what it is for is below it; None where it never is.

    Args:
        values: what never rises, at steps, ``(steps, levels)``; or ``(steps, 1)``, which all levels are for.
        levels: float64, ``(levels,)``.

    """
    column = torch.arange(len(levels))
    low, high = torch.zeros_like(column), torch.full_like(column, N)  # below at high, and not at low
    never = ~(values([N])[0] < levels)
    while (apart := high - low > 1).any():
        middle = torch.where(apart, (low + high) // 2, high)
        steps, place = middle.unique(return_inverse=True)
        below = values(steps.tolist()).expand(-1, len(levels))[place, column] < levels
        low, high = torch.where(below, low, middle), torch.where(below, middle, high)
    return [None if nowhere else step for nowhere, step in zip(never.tolist(), high.tolist(), strict=True)]


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


def corrupted(diffusion: Diffusion, x_0: Tensor, eps: Tensor, steps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """``x_i`` at each step and its signal alone, ``(steps, B, *event)`` each, with the same event-space noise throughout."""
    at = diffusion.at(torch.tensor(steps, device=diffusion.scales.device), x_0.dtype)
    signal = at.a[:, None] * diffusion.rotate(x_0)
    views = torch.stack([signal + at.s[:, None] * diffusion.rotate(eps), signal])
    noisy, signal = diffusion.unrotate(views.flatten(0, 2)).reshape(views.shape)
    return noisy, signal


def picture_decibel(diffusion: Diffusion, x_0: Tensor, steps: Sequence[int]) -> Tensor:
    """``10 log10(|a_i x̄_0|² / Σ s_i²)`` of these events as a whole, ``(B, *event)``, at steps i >= 1: float64, ``(steps,)``."""
    x_bar_0, decibel = diffusion.rotate(x_0.double()), []
    for i in steps:
        at = diffusion.at(i, torch.float64)
        noise = torch.broadcast_to(at.s, diffusion.event_shape).square().mean()
        decibel.append(10 * torch.log10((at.a * x_bar_0).square().mean() / noise))
    return torch.stack(decibel)


def steps_at(diffusion: Diffusion, x_0: Tensor, levels: Sequence[float]) -> list[int | None]:
    """The first step at which `picture_decibel` is below each of ``levels``; None where it never is."""
    bounds = torch.tensor(levels, dtype=torch.float64)
    return first_below(lambda steps: picture_decibel(diffusion, x_0, steps)[:, None], diffusion.N, bounds)
