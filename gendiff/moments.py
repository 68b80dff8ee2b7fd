r"""Moments: mean and variance of the data, component by component.

In rotated coordinates ``m_k`` and ``c_k`` say how large each component of the data is. They are what a diffusion knows of its
data: the Wiener parametrization is written in them, a matched prior starts from them, steps are laid out by them.

``m`` is the mean as it is. The variance is smoothed, per channel, over components of like frequency,

    c_k = mean of the raw variances over equal round(ρ_k max(H, W)/π) ,

the constant component (ρ = 0) alone, and never below 1e-4 of its mean over all components.

Pixels of pictures hang together, and a basis that does not diagonalise a blur does not tell how: one variance for all of them
hides that the mean of a picture of 32x32 varies two hundred times as much. A process that moves all components alike is itself
in any basis, so its steps are laid out by what its data are in the DCT, their `Modes`.

To measure them many events have to be read: what was measured is kept in the user's cache, under the fingerprint of the data and
the SHA-256 of a few rotated events, which changes with the data and with the rotation whatever they are called.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self, final

import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.datasets.tensors import as_data
from gendiff.dct import apply_per_axis, dct_matrix
from gendiff.errors import DataError
from gendiff.frequency import dct_frequency, radius
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape, check_kind, check_shape, spatial
from gendiff.storage.cache import Cache

MOST_EVENTS = 2048  # of a finite set that are looked at
MOST_ENDLESS = 512  # of an endless source, whose events have to be made
PROBES = 8  # events by which data and rotation are told from others
FLOOR = 1e-4  # of the mean variance
CHUNK = 2**22  # samples of data held at a time


@final
@dataclass(frozen=True, eq=False)
class Modes:
    """The variances that the components of the data have in the DCT, each once.

    Args:
        variance: c > 0, ``(K,)`` float64.
        weight: how many components have it, ``(K,)`` float64.

    """

    variance: Tensor
    weight: Tensor

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Modes)
            and torch.equal(self.variance, other.variance)
            and torch.equal(self.weight, other.weight)
        )

    def __repr__(self) -> str:
        return f"Modes({len(self.variance)} variances)"

    def to(self, device: torch.device) -> Modes:
        """The same modes on ``device``."""
        return Modes(self.variance.to(device), self.weight.to(device))


@final
@dataclass(frozen=True, eq=False)
class Moments:
    """``m`` and ``c`` of the data in the coordinates of one rotation.

    Args:
        mean: m, float64, broadcasting to the event.
        variance: c > 0, float64, broadcasting to the event.
        count: how many events they were measured on; 0 where they are assumed.
        fingerprint: of the data.
        weight: by how much each component counts in a sum over components, broadcasting to the event; other than 1 only where few
            components stand for many.
        modes: of the data; None where they are not known, or told by ``variance``, in a basis that diagonalises a blur.

    """

    mean: Tensor
    variance: Tensor
    count: int = 0
    fingerprint: str = ""
    weight: Tensor | float = 1.0
    modes: Modes | None = None

    @classmethod
    def standard(cls, event_shape: EventShape) -> Self:
        """What is assumed of data that nobody looked at: m = 0, c = 1."""
        shape = [1] * len(check_shape(event_shape))
        return cls(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))

    @classmethod
    def fit(cls, data: Data | Tensor, rotation: Rotation) -> Self:
        """Measure them on at most 2048 events, equally spread over a finite set, the first 512 of an endless one.

        A pure function of both; of a tensor of events ``(n, *event)`` too, whatever its values (`as_data`).

        Raises `DataError` where there is no event, or events are not finite.
        """
        data = as_data(data, value_range=None)
        check_kind(data, Data, "data")
        check_kind(rotation, Rotation, "rotation")
        shape = data.event_shape
        mean, variance, in_dct, count = _measured(data, rotation, data.fingerprint)
        modes = None
        if in_dct is not None:
            values = smoothed(in_dct, radius([dct_frequency(n) for n in spatial(shape)])[None], shape)
            modes = Modes(*(column.double() for column in torch.unique(values, return_counts=True)))
        smooth = smoothed(variance, rotation.frequencies(shape), shape)
        return cls(mean, smooth, count, data.fingerprint, modes=modes)

    def __eq__(self, other: object) -> bool:
        # By value: those of a run that was opened are those that it was made with.
        return (
            isinstance(other, Moments)
            and (self.count, self.fingerprint) == (other.count, other.fingerprint)
            and torch.equal(self.mean, other.mean)
            and torch.equal(self.variance, other.variance)
            and self.modes == other.modes
        )

    def __repr__(self) -> str:
        return f"Moments(of {self.count:,} events)" if self.measured else "Moments(assumed)"

    def __hash__(self) -> int:
        return hash((self.count, self.fingerprint))

    @property
    def measured(self) -> bool:
        """Whether they were measured on data."""
        return self.count > 0

    def to(self, device: torch.device) -> Moments:
        """The same moments on ``device``."""
        weight = self.weight.to(device) if isinstance(self.weight, Tensor) else self.weight
        modes = self.modes and self.modes.to(device)
        return replace(self, mean=self.mean.to(device), variance=self.variance.to(device), weight=weight, modes=modes)


def smoothed(variance: Tensor, frequencies: Tensor, event_shape: EventShape) -> Tensor:
    """``c`` from raw variances, ``(C, *spatial)``: means over components of like frequency, floored."""
    group = (frequencies * max(spatial(event_shape)) / math.pi).round().long()
    group = torch.where(frequencies < 1e-9, -1, group) + 1
    group = torch.broadcast_to(group, event_shape).flatten(1)
    flat = variance.flatten(1)
    total = torch.zeros(len(flat), int(group.max()) + 1, dtype=flat.dtype)
    sums, counts = total.scatter_add(1, group, flat), total.scatter_add(1, group, torch.ones_like(flat))
    means = (sums / counts.clamp_min(1)).gather(1, group).reshape(event_shape)
    floor = FLOOR * float(means.mean())
    return means.clamp_min(floor if floor > 0 else 1.0)  # data that never vary: any scale will do


@lru_cache(maxsize=8)
def _measured(data: Data, rotation: Rotation, fingerprint: str) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """Raw mean and variance, and the variance in the DCT where the basis does not tell it, and the number of events.

    All ``(C, *spatial)`` float64.
    """
    indices = data.spread(MOST_EVENTS if data.length is not None else MOST_ENDLESS)
    if not indices:
        raise DataError(f"data '{data.name}' is empty", subject="data.name")
    probes = rotation.rotate(torch.stack([data[index] for index in data.spread(PROBES)]).double())
    digest = hashlib.sha256(probes.contiguous().numpy().tobytes()).hexdigest()
    key, cache = f"moments/2 {len(indices)} {fingerprint} {digest}", Cache.of_user()
    if (arrays := cache.read(key)) is not None:
        return arrays["mean"], arrays["variance"], arrays.get("in_dct"), len(indices)
    bases = [rotation.rotate] if rotation.diagonalises_blur else [rotation.rotate, _dct]
    (mean, variance), *others = _sweep(data, bases, indices)
    in_dct = {"in_dct": others[0][1]} if others else {}
    cache.write(key, {"mean": mean, "variance": variance, **in_dct})
    return mean, variance, in_dct.get("in_dct"), len(indices)


def _dct(x: Tensor) -> Tensor:
    return apply_per_axis(x, [dct_matrix(n) for n in x.shape[2:]])


def _sweep(
    data: Data, bases: Sequence[Callable[[Tensor], Tensor]], indices: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Raw mean and variance of these events in each basis."""
    nothing = torch.zeros(data.event_shape, dtype=torch.float64)
    moments = [(nothing, nothing)] * len(bases)
    count, at_a_time = 0, max(CHUNK // math.prod(data.event_shape), 1)
    for start in range(0, len(indices), at_a_time):
        x = torch.stack([data[index] for index in indices[start : start + at_a_time]]).double()
        moments = [_with(*sums, count, basis(x)) for sums, basis in zip(moments, bases, strict=True)]
        count += len(x)
    if not all(torch.isfinite(scatter).all() for _, scatter in moments):
        raise DataError(f"data '{data.name}' hold numbers that are not finite", subject="data.name")
    return [(mean, scatter / count) for mean, scatter in moments]


def _with(mean: Tensor, scatter: Tensor, before: int, x_bar: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations with more events."""
    count, shift = len(x_bar), x_bar.mean(0) - mean
    # Sums of parts that are exact where nothing varies (Chan, Golub, LeVeque 1983).
    scatter = scatter + ((x_bar - x_bar.mean(0)) ** 2).sum(0) + shift**2 * (before * count / (before + count))
    return mean + shift * (count / (before + count)), scatter
