r"""Census: what a source of events holds, from one look at each.

Mean and contrast are the mean and the standard deviation of all values of a channel. The slope is that of the power spectrum,

    log P(ρ) ≈ const + slope · log ρ ,

with P the mean square of the DCT coefficients of frequency ρ over events and channels, averaged over `RINGS` rings of equal
width in log ρ from 1.5 π/n to π (n is the longest side), and fitted by least squares. It is near -2 for photographs, 0 for
white noise. Duplicates are events whose values agree in every bit. Of a label the events of each class are counted.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gendiff.data import Data, told_of
from gendiff.dct import apply_per_axis, dct_matrix
from gendiff.errors import DataError
from gendiff.frequency import dct_frequency, radius
from gendiff.machine.stopping import StopRequest, stop_requests, stopped
from gendiff.machine.workers import in_order

CHUNK = 64  # events that a process looks at, at a time; sums are taken over these, so it is part of the last bits
RINGS, FEWEST_RINGS = 8, 3
DIGEST = 16  # bytes of a hash: by chance, two among 10^12 events agree with a probability of 10^-15


@dataclass(frozen=True)
class Census:
    """What was found.

    Args:
        looked_at: events that were read; those in ``bad`` could not be.
        mean, contrast: per channel.
        least, greatest: of all values.
        slope: of the power spectrum; None for events that are too small, or constant.
        duplicates: groups of indices whose events are the same, each ascending.
        bad: ``(name, reason)`` of events that cannot be read.
        classes: of each label how many of the events are of each class, in their order.

    """

    looked_at: int
    mean: list[float]
    contrast: list[float]
    least: float
    greatest: float
    slope: float | None
    duplicates: list[list[int]]
    bad: list[tuple[str, str]]
    classes: dict[str, list[int]]


@dataclass(frozen=True)
class Sums:
    """Over some events and all positions, in float64.

    Args:
        count: values per channel.
        mean, scatter: per channel, the scatter being the sum of squares about the mean.
        power: sum of squares of each DCT coefficient over events and channels, shape ``spatial``.

    """

    count: int
    mean: Tensor
    scatter: Tensor
    power: Tensor
    least: float
    greatest: float

    @classmethod
    def of(cls, x: Tensor) -> Sums:
        """Those of ``(B, *event)``."""
        x = x.double()
        values = x.transpose(0, 1).flatten(1)
        mean = values.mean(1)
        scatter = (values - mean[:, None]).square().sum(1)
        x_bar = apply_per_axis(x, [dct_matrix(n) for n in x.shape[2:]])
        power = x_bar.square().sum((0, 1))
        return cls(values.shape[1], mean, scatter, power, float(values.min()), float(values.max()))

    def merged(self, other: Sums) -> Sums:
        """Those of both, as `gendiff.evaluation.statistics` does it: no difference of large sums."""
        count, shift = self.count + other.count, other.mean - self.mean
        return Sums(
            count,
            self.mean + shift * (other.count / count),
            self.scatter + other.scatter + shift.square() * (self.count * other.count / count),
            self.power + other.power,
            min(self.least, other.least),
            max(self.greatest, other.greatest),
        )


@dataclass(frozen=True)
class Look:
    """What a process saw of some events: those that can be read, a hash and the classes of each, the others' names and errors."""

    indices: list[int]
    sums: Sums | None
    digests: bytes
    bad: list[tuple[str, DataError]]
    classes: dict[str, list[int]]


@dataclass(frozen=True)
class Looking:
    """From indices to what is there, in whatever process."""

    data: Data

    def __call__(self, indices: Sequence[int]) -> Look:
        events, good = [], []
        labels = {name: one for name, one in self.data.conditions.items() if one.type == "label"}
        classes: dict[str, list[int]] = {name: [] for name in labels}
        bad: list[tuple[str, DataError]] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they would be told in the middle of the progress
            for index in indices:
                try:
                    event, told = self.data[index], told_of(self.data, labels, index) if labels else {}
                    events.append(event)
                    good.append(index)
                    for name, one in labels.items():
                        classes[name].append(int(one.value(name, told[name])))
                except DataError as error:
                    bad.append((self.data.origin(index), error))
        digests = b"".join(hashlib.blake2b(x.numpy().tobytes(), digest_size=DIGEST).digest() for x in events)
        return Look(good, Sums.of(torch.stack(events)) if events else None, digests, bad, classes)


def census(
    data: Data,
    n: int | None = None,
    workers: int = 0,
    watch: Callable[[int, int], None] = lambda count, total: None,
) -> Census:
    """Look at ``n`` events, spread evenly over a finite source, or at all.

    Args:
        n: None is all; an endless source needs a number, and its first events are taken.
        workers: processes that read; the result does not depend on it.
        watch: called with the numbers of events that were looked at and are to be.

    Raises:
        DataError: where no event can be read, with what is wrong with the first.
        Stopped: on a request to stop.

    """
    if data.length is None and n is None:
        raise ValueError(f"data '{data.name}' has no last event: give n")
    indices = range(data.length) if n is None and data.length is not None else data.spread(n or 0)
    chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    sums: Sums | None = None
    good: list[int] = []
    digests = bytearray()
    bad: list[tuple[str, DataError]] = []
    counts = {name: [0] * (one.size + 1) for name, one in data.conditions.items() if one.type == "label"}
    watch(0, len(indices))
    with stop_requests(), closing(in_order(Looking(data), chunks, workers)) as looks:
        try:
            for look in looks:
                if look.sums is not None:
                    sums = sums.merged(look.sums) if sums else look.sums
                good += look.indices
                digests += look.digests
                bad += look.bad
                for name, numbers in look.classes.items():
                    for number in numbers:
                        counts[name][number] += 1
                watch(len(good) + len(bad), len(indices))
        except StopRequest as request:
            where = f"after {len(good) + len(bad):,} of {len(indices):,} events"
            raise stopped(where, request.number, "nothing was written", "look at fewer, with --n") from request
    if sums is None:
        raise bad[0][1]
    return Census(
        len(good),
        sums.mean.tolist(),
        (sums.scatter / sums.count).sqrt().tolist(),
        sums.least,
        sums.greatest,
        slope(sums.power),
        same(np.array(good), bytes(digests)),
        [(name, (*error.details, error.what)[0]) for name, error in bad],
        {name: of_each[:-1] for name, of_each in counts.items()},  # the last is that of which nothing is said
    )


def slope(power: Tensor) -> float | None:
    """The slope of the power spectrum; ``power`` is that of each DCT coefficient, shape ``spatial``."""
    rho = radius([dct_frequency(n) for n in power.shape])
    edges = torch.logspace(
        math.log10(1.5 * math.pi / max(power.shape)), math.log10(math.pi), RINGS + 1, dtype=torch.float64
    )
    rings = [(rho >= low) & (rho < high) for low, high in pairwise(edges)]
    points = [(float(rho[ring].log().mean()), float(power[ring].mean())) for ring in rings if ring.any()]
    if len(points) < FEWEST_RINGS or not all(value > 0 for _, value in points):
        return None
    log_rho, log_power = np.array([(x, math.log(value)) for x, value in points]).T
    return float(np.polyfit(log_rho, log_power, 1)[0])


def same(indices: np.ndarray, digests: bytes) -> list[list[int]]:
    """Groups of indices with the same digest, each ascending, ordered by their first."""
    halves = np.frombuffer(digests, ">u8").reshape(-1, 2)
    order = np.lexsort((np.arange(len(halves)), halves[:, 1], halves[:, 0]))
    new = np.ones(len(order), bool)
    new[1:] = (halves[order[1:]] != halves[order[:-1]]).any(1)
    groups = np.split(indices[order], np.flatnonzero(new)[1:])
    return sorted([group.tolist() for group in groups if len(group) > 1])
