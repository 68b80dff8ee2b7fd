r"""Moments: mean and variance of the data, component by component.

In rotated coordinates ``m_k`` and ``c_k`` say how large each component of the data is. They are what a diffusion knows of its
data: the Wiener parametrization is written in them, a matched prior starts from them, steps are laid out by them.

``m`` is the mean as it is. The variance is smoothed, per channel, over components of like frequency,

    c_k = mean of the raw variances over equal round(ρ_k max(H, W)/π) ,

the constant component (ρ = 0) alone, and never below 1e-4 of its mean over all components.

To measure them many events have to be read: what was measured is kept in the user's cache, under the fingerprint of the data and
the SHA-256 of a few rotated events, which changes with the data and with the rotation whatever they are called.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self, final

import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.errors import DataError
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape, spatial
from gendiff.storage.cache import Cache

MOST_EVENTS = 2048  # of a finite set that are looked at
MOST_ENDLESS = 512  # of an endless source, whose events have to be made
PROBES = 8  # events by which data and rotation are told from others
FLOOR = 1e-4  # of the mean variance
CHUNK = 2**22  # samples of data held at a time


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

    """

    mean: Tensor
    variance: Tensor
    count: int = 0
    fingerprint: str = ""
    weight: Tensor | float = 1.0

    @classmethod
    def standard(cls, event_shape: EventShape) -> Self:
        """What is assumed of data that nobody looked at: m = 0, c = 1."""
        shape = [1] * len(event_shape)
        return cls(torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64))

    @classmethod
    def fit(cls, data: Data, rotation: Rotation) -> Self:
        """Measure them on at most 2048 events, equally spread over a finite set, the first 512 of an endless one.

        A pure function of both.

        Raises `DataError` where there is no event, or events are not finite.
        """
        mean, variance, count = _measured(data, rotation, data.fingerprint)
        smooth = smoothed(variance, rotation.frequencies(data.event_shape), data.event_shape)
        return cls(mean, smooth, count, data.fingerprint)

    def __eq__(self, other: object) -> bool:
        # By value: those of a run that was opened are those that it was made with.
        return (
            isinstance(other, Moments)
            and (self.count, self.fingerprint) == (other.count, other.fingerprint)
            and torch.equal(self.mean, other.mean)
            and torch.equal(self.variance, other.variance)
        )

    def __hash__(self) -> int:
        return hash((self.count, self.fingerprint))

    @property
    def measured(self) -> bool:
        """Whether they were measured on data."""
        return self.count > 0

    def to(self, device: torch.device) -> Moments:
        """The same moments on ``device``."""
        weight = self.weight.to(device) if isinstance(self.weight, Tensor) else self.weight
        return replace(self, mean=self.mean.to(device), variance=self.variance.to(device), weight=weight)


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
def _measured(data: Data, rotation: Rotation, fingerprint: str) -> tuple[Tensor, Tensor, int]:
    """Raw mean and variance, ``(C, *spatial)`` float64, and the number of events."""
    indices = data.spread(MOST_EVENTS if data.length is not None else MOST_ENDLESS)
    if not indices:
        raise DataError(f"data '{data.name}' is empty", subject="data.name")
    probes = rotation.rotate(torch.stack([data[index] for index in data.spread(PROBES)]).double())
    digest = hashlib.sha256(probes.contiguous().numpy().tobytes()).hexdigest()
    key, cache = f"moments/1 {len(indices)} {fingerprint} {digest}", Cache.of_user()
    if (kept := cache.read(key)) is not None:
        return kept["mean"], kept["variance"], len(indices)
    mean, variance = _sweep(data, rotation, indices)
    cache.write(key, {"mean": mean, "variance": variance})
    return mean, variance, len(indices)


def _sweep(data: Data, rotation: Rotation, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Raw mean and variance of these events."""
    mean = scatter = torch.zeros(data.event_shape, dtype=torch.float64)
    seen, at_a_time = 0, max(CHUNK // math.prod(data.event_shape), 1)
    for start in range(0, len(indices), at_a_time):
        x_bar = rotation.rotate(torch.stack([data[index] for index in indices[start : start + at_a_time]]).double())
        count, shift = len(x_bar), x_bar.mean(0) - mean
        # Sums of parts that are exact where nothing varies (Chan, Golub, LeVeque 1983).
        scatter = scatter + ((x_bar - x_bar.mean(0)) ** 2).sum(0) + shift**2 * (seen * count / (seen + count))
        mean, seen = mean + shift * (count / (seen + count)), seen + count
    if not torch.isfinite(scatter).all():
        raise DataError(f"data '{data.name}' hold numbers that are not finite", subject="data.name")
    return mean, scatter / seen
