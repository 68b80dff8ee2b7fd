"""Synthetic pictures with the statistics of photographs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.condition import Condition, Conditions
from gendiff.data import Data
from gendiff.shapes import AsText, EventShape, event_of_size
from gendiff.streams import stream

SUPERSAMPLING = 2  # subpixels per pixel and axis
COVERAGE = 4.0  # mean number of disks over a point, per round of leaves, in version 1
MOST_LEAVES = 2**18  # per round, so that the memory for a round is bounded
TOGETHER = 2**14  # subpixels that are painted at a time: what they need stays in the processor's cache
PAIRS = 2  # of a disk and a bare subpixel, a subpixel: up to so many are looked at one by one, and no disks painted

LOG = np.frexp(np.arange(SUPERSAMPLING * 1024 + 1))[1] - 1  # of a length, to base 2, rounded down

Side = Annotated[int, Field(ge=8, le=1024)]
Fraction = Annotated[float, Field(ge=0.25, le=4)]


class DeadLeaves(Data):
    """endless scenes of occluding disks, near 1/f².

    Disks fall one behind the other until every point is covered, and a point shows the first disk over it. Centres are
    uniform, also outside the picture, and radii have the density

        p(r) ∝ r^-3 ,    r_min <= r <= r_max max(height, width) ,

    for which the area covered per octave of r is constant: the scene looks alike at every scale, with edges, occlusions
    and a power spectrum near 1/f², as photographs have. With the default radii the slope is -2.0 over all frequencies;
    it is -1.6 at the low end and -3 in the last octave, where no disk is small enough. A disk has one colour,
    ``l + 0.25 n`` clipped to [-1, 1], with one lightness l uniform on [-1, 1] and n normal per channel, so channels
    correlate. A pixel is the mean of 2x2 points. Raises `IndexError` below index 0.

    Version 2 draws the same distribution several times faster than version 1, which scatters disks also where none can be seen;
    its pictures are others. Of the disks that fall, it draws those alone whose square meets the picture: their centres are
    uniform on (height + 2 r)(width + 2 r), and their radii have the density

        q(r) ∝ p(r) (height + 2 r) (width + 2 r) .

    A run keeps the version that it began with.

    With ``r_max_range`` each scene has an r_max of its own, uniform in that range, which is the condition ``r_max``: small ones
    make crowded scenes with less power at low frequencies.

    Reference: Lee, Mumford, Huang 2001, Occlusion models for natural images, IJCV 41.
    """

    name = "dead-leaves"
    earlier: ClassVar[Mapping[str, Any]] = {"version": 1}

    size: Annotated[Side | tuple[Side, Side], AsText] = Field(32, description="pixels: n for n x n, or [height, width]")
    channels: int = Field(3, ge=1, le=4, description="3: colour, 1: grey")
    r_min: float = Field(1.0, ge=0.25, le=1.5, description="smallest radius in pixels")
    r_max: float = Field(2.0, ge=0.25, le=4, description="largest radius as a fraction of the longer side")
    r_max_range: tuple[Fraction, Fraction] | None = Field(
        None, description="draw r_max of each event from [low, high], and tell it as the condition r_max"
    )
    seed: int = Field(0, ge=0, description="another seed is another data set of the same distribution")
    version: Literal[1, 2] = Field(2, description="how it is drawn: 2, or 1 as by runs that have no version")

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if self.r_max_range is not None and not self.r_max_range[0] < self.r_max_range[1]:
            raise ValueError("r_max_range is [low, high], and low is less than high")
        return self

    @property
    def conditions(self) -> Conditions:
        return {} if self.r_max_range is None else {"r_max": Condition.vector(1, *self.r_max_range)}

    def condition(self, index: int) -> Mapping[str, Any]:
        if self.r_max_range is None:
            return {}
        low, high = self.r_max_range
        u = torch.rand((), generator=stream(self.seed, f"{self.name} r_max", index), dtype=torch.float64)
        return {"r_max": min(max(low + (high - low) * float(u), low), high)}

    @property
    def event_shape(self) -> EventShape:
        return event_of_size(self.channels, self.size)

    @property
    def length(self) -> None:
        return None

    def __getitem__(self, index: int) -> Tensor:
        if index < 0:
            raise IndexError(f"dead-leaves has no event {index}")
        if self.r_max_range is not None:
            return self.model_copy(update={"r_max": self.condition(index)["r_max"], "r_max_range": None})[index]
        generator = stream(self.seed, self.name if self.version == 1 else f"{self.name}/{self.version}", index)
        C, H, W = self.event_shape
        points = (SUPERSAMPLING * H, SUPERSAMPLING * W)
        leaves = self._fallen(generator, math.prod(points))
        leaf = leaves.front(*points)
        scene = leaves.colour.take(leaf, axis=1)  # where nothing fell any colour, until something does
        bare = np.flatnonzero(leaf < 0)
        while len(bare):
            leaves = self._fallen(generator, len(bare))
            few = len(bare) * len(leaves.r) <= PAIRS * len(leaf)
            behind = leaves.over(bare, points[1]) if few else leaves.front(*points)[bare]
            scene[:, bare] = leaves.colour.take(behind, axis=1)
            bare = bare[behind < 0]
        subpixels = scene.reshape(C, H, SUPERSAMPLING, W, SUPERSAMPLING)
        rows = subpixels[..., 0] + subpixels[..., 1]
        return torch.from_numpy((rows[:, :, 0] + rows[:, :, 1]) * np.float32(SUPERSAMPLING**-2))

    def _fallen(self, generator: torch.Generator, bare: int) -> Leaves:
        """The next disks that fall."""
        return self._every_leaf(generator) if self.version == 1 else self._leaves(generator, bare)

    @property
    def _size(self) -> tuple[int, int, float, float]:
        """Height and width, and the smallest and largest radius, in subpixels."""
        H, W = (SUPERSAMPLING * side for side in self.event_shape[1:])
        return H, W, SUPERSAMPLING * self.r_min, self.r_max * max(H, W)

    def _leaves(self, generator: torch.Generator, bare: int) -> Leaves:
        """Disks that meet the picture, as many as leave about one of so many bare subpixels uncovered."""
        H, W, r_min, r_max = self._size
        # q(r) is a mixture of r^-3, r^-2 and 1/r, with these weights; the area of a disk has the mean π log(r_max/r_min) over
        # their sum, in parts of the picture's.
        by_area, by_rim = H * W * (r_min**-2 - r_max**-2) / 2, 2 * (H + W) * (1 / r_min - 1 / r_max)
        total = by_area + by_rim + 4 * math.log(r_max / r_min)
        coverage = max(math.log(bare), 2.0)
        n = min(math.ceil(coverage * total / (math.pi * math.log(r_max / r_min))), MOST_LEAVES)

        u, y, x = torch.rand((3, n), generator=generator, dtype=torch.float64).numpy()
        u *= total
        r = 1 / np.sqrt(r_min**-2 - np.minimum(u, by_area) * (2 / (H * W)))
        large = np.flatnonzero(u > by_area)
        u = u[large] - by_area
        by_rim_too = 1 / (1 / r_min - np.minimum(u, by_rim) / (2 * (H + W)))
        r[large] = np.where(u < by_rim, by_rim_too, r_min * np.exp(np.maximum(u - by_rim, 0) / 4))
        y *= H + 2 * r
        y -= r
        x *= W + 2 * r
        x -= r
        lightness = torch.rand((n, 1), generator=generator)
        return Leaves(y, x, r, self._colours(lightness, torch.randn((n, self.channels), generator=generator)))

    def _every_leaf(self, generator: torch.Generator) -> Leaves:
        """Those of one round of version 1 that may meet the picture."""
        H, W, r_min, r_max = self._size
        mean_area = 2 * math.pi * math.log(r_max / r_min) / (r_min**-2 - r_max**-2)  # of π r² under p(r)
        n = min(math.ceil(COVERAGE * (H + 2 * r_max) * (W + 2 * r_max) / mean_area), MOST_LEAVES)

        u = torch.rand((3, n), generator=generator, dtype=torch.float64).numpy()
        r = (r_min**-2 - u[0] * (r_min**-2 - r_max**-2)) ** -0.5  # inverse of the distribution function
        y, x = u[1] * (H + 2 * r_max) - r_max, u[2] * (W + 2 * r_max) - r_max
        lightness, normal = (
            torch.rand((n, 1), generator=generator),
            torch.randn((n, self.channels), generator=generator),
        )
        meets = (y + r >= 0) & (y - r <= H) & (x + r >= 0) & (x - r <= W)
        meets[-1] = True  # then there is one
        near = torch.from_numpy(np.flatnonzero(meets))
        return Leaves(y[meets], x[meets], r[meets], self._colours(lightness[near], normal[near]))

    @staticmethod
    def _colours(lightness: Tensor, normal: Tensor) -> np.ndarray:
        colour: np.ndarray = normal.mul_(0.25).add_(lightness.mul_(2).sub_(1)).clamp_(-1, 1).T.contiguous().numpy()
        return colour

    @property
    def fingerprint(self) -> str:
        shape = "x".join(map(str, self.event_shape))
        r_max = f"{self.r_max:g}" if self.r_max_range is None else "{!r}..{!r}".format(*self.r_max_range)
        return f"dead-leaves/{self.version} {shape} r_min={self.r_min:g} r_max={r_max} seed={self.seed}"


@dataclass(frozen=True)
class Leaves:
    """Disks in the order in which they lie, the last in front: centres and radii in subpixels ``(n,)``, colours ``(C, n)``."""

    y: np.ndarray
    x: np.ndarray
    r: np.ndarray
    colour: np.ndarray

    def front(self, H: int, W: int) -> np.ndarray:
        """The disk in front over each subpixel, ``(H W,)``, -1 where there is none.

        A disk is a run of subpixels in each row that it meets.
        """
        top, height = _centres_within(self.y - self.r, self.y + self.r, H)
        leaf, row = _expand(top, height)
        half_chord = row + 0.5
        half_chord -= self.y[leaf]
        half_chord *= half_chord
        np.subtract((self.r * self.r)[leaf], half_chord, out=half_chord)
        np.sqrt(np.maximum(half_chord, 0, out=half_chord), out=half_chord)
        x = self.x[leaf]
        left, width = _centres_within(x - half_chord, x + half_chord, W)
        front = np.empty(H * W, dtype=np.int64)
        rows = max(1, TOGETHER // W)
        for first in range(0, H, rows):
            here = np.flatnonzero((row >= first) & (row < first + rows) & (width > 0) if rows < H else width)
            place = (row[here] - first) * W + left[here]
            front[first * W : (first + rows) * W] = _last(place, width[here], leaf[here], min(rows, H - first) * W)
        return front

    def over(self, points: np.ndarray, W: int) -> np.ndarray:
        """The disk in front over each of a few subpixels, -1 where there is none."""
        row, column = (place[:, None] for place in np.divmod(points, W))
        half_chord = np.sqrt(np.maximum(self.r * self.r - (row + 0.5 - self.y) ** 2, 0))  # as in `front`, to the bit
        covers = (self.x - half_chord - 0.5 <= column) & (column <= self.x + half_chord - 0.5)
        covers &= (self.y - self.r - 0.5 <= row) & (row <= self.y + self.r - 0.5)
        last = covers.shape[1] - 1 - covers[:, ::-1].argmax(1)
        leaf: np.ndarray = np.where(covers.any(1), last, -1)
        return leaf


def _last(place: np.ndarray, length: np.ndarray, value: np.ndarray, n: int) -> np.ndarray:
    """Of runs of places below n, each with a value, that of the last run over each place, ``(n,)``; -1 where there is none.

    Values rise. A run of length l is the union of two of length 2^k <= l: of it two places of table k are written, and the
    halves of those runs are runs of table k - 1. So a long run costs no more than a short one.
    """
    level = LOG[length]
    tables = np.full((int(level.max(initial=0)) + 1, n), -1, dtype=np.int32)
    ends = np.empty((len(place), 2), dtype=np.int64)
    ends[:, 0] = level * n + place
    ends[:, 1] = ends[:, 0] + length - (1 << level)
    tables.reshape(-1)[ends.reshape(-1)] = np.repeat(value, 2)  # where runs begin together, NumPy keeps the last
    for k in range(len(tables) - 1, 0, -1):
        whole, halves, half = tables[k], tables[k - 1], 1 << (k - 1)
        np.maximum(halves, whole, out=halves)
        np.maximum(halves[half:], whole[:-half], out=halves[half:])
    front: np.ndarray = tables[0]
    return front


def _centres_within(start: np.ndarray, stop: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """First and number of the subpixels 0..n-1 whose centres, at j + 1/2, lie in the intervals [start, stop]."""
    first, last = np.maximum(start, 0), np.minimum(stop, n)
    for bound, rounded in ((first, np.ceil), (last, np.floor)):
        bound -= 0.5
        rounded(bound, out=bound)
    last -= first
    last += 1
    return first.astype(np.int64), np.maximum(last, 0, out=last).astype(np.int64)


def _expand(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write out runs of integers: the number of the run, and the integer, for every member of every run."""
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) + np.repeat(first - (np.cumsum(count) - count), count)
