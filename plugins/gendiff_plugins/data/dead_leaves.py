"""Synthetic pictures with the statistics of photographs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.condition import Condition, Conditions
from gendiff.data import Data
from gendiff.shapes import AsText, EventShape, event_of_size
from gendiff.streams import stream

SUPERSAMPLING = 2  # subpixels per pixel and axis
COVERAGE = 4.0  # mean number of disks over a point, per round of leaves
MOST_LEAVES = 2**18  # per round, so that the memory for a round is bounded

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

    With ``r_max_range`` each scene has an r_max of its own, uniform in that range, which is the condition ``r_max``: small ones
    make crowded scenes with less power at low frequencies.

    Reference: Lee, Mumford, Huang 2001, Occlusion models for natural images, IJCV 41.
    """

    name = "dead-leaves"

    size: Annotated[Side | tuple[Side, Side], AsText] = Field(32, description="pixels: n for n x n, or [height, width]")
    channels: int = Field(3, ge=1, le=4, description="3: colour, 1: grey")
    r_min: float = Field(1.0, ge=0.25, le=1.5, description="smallest radius in pixels")
    r_max: float = Field(2.0, ge=0.25, le=4, description="largest radius as a fraction of the longer side")
    r_max_range: tuple[Fraction, Fraction] | None = Field(
        None, description="draw r_max of each event from [low, high], and tell it as the condition r_max"
    )
    seed: int = Field(0, ge=0, description="another seed is another data set of the same distribution")

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
        generator = stream(self.seed, self.name, index)
        C, H, W = self.event_shape
        scene = np.full((H * SUPERSAMPLING * W * SUPERSAMPLING, C), np.nan, dtype=np.float32)
        while len(bare := np.flatnonzero(np.isnan(scene[:, 0]))):
            front, colour = self._leaves(generator)
            leaf = front[bare]
            scene[bare[leaf >= 0]] = colour[leaf[leaf >= 0]]
        subpixels = torch.from_numpy(scene).reshape(H, SUPERSAMPLING, W, SUPERSAMPLING, C)
        return subpixels.mean(dim=(1, 3)).permute(2, 0, 1).contiguous()

    def _leaves(self, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """One round of disks: which one each subpixel shows, ``(H W,)``, -1 for none, and their colours ``(n, C)``."""
        C, H, W = self.event_shape[0], *(SUPERSAMPLING * side for side in self.event_shape[1:])
        r_min, r_max = SUPERSAMPLING * self.r_min, self.r_max * max(H, W)
        mean_area = 2 * math.pi * math.log(r_max / r_min) / (r_min**-2 - r_max**-2)  # of π r² under p(r)
        n = min(math.ceil(COVERAGE * (H + 2 * r_max) * (W + 2 * r_max) / mean_area), MOST_LEAVES)

        u = torch.rand((3, n), generator=generator, dtype=torch.float64).numpy()
        r = (r_min**-2 - u[0] * (r_min**-2 - r_max**-2)) ** -0.5  # inverse of the distribution function
        y, x = u[1] * (H + 2 * r_max) - r_max, u[2] * (W + 2 * r_max) - r_max
        lightness = torch.rand((n, 1), generator=generator) * 2 - 1
        colour = (lightness + 0.25 * torch.randn((n, C), generator=generator)).clamp(-1, 1).numpy()

        top, height = _centres_within(y - r, y + r, H)
        height[(x + r < 0) | (x - r > W)] = 0
        leaf, row = _expand(top, height)
        half_chord = np.sqrt(np.maximum(r[leaf] ** 2 - (row + 0.5 - y[leaf]) ** 2, 0))
        left, width = _centres_within(x[leaf] - half_chord, x[leaf] + half_chord, W)
        chord, column = _expand(left, width)
        front = np.full(H * W, -1, dtype=np.int64)
        front[row[chord] * W + column] = leaf[chord]  # where disks overlap, NumPy keeps the last: the one in front
        return front, colour

    @property
    def fingerprint(self) -> str:
        shape = "x".join(map(str, self.event_shape))
        r_max = f"{self.r_max:g}" if self.r_max_range is None else "{!r}..{!r}".format(*self.r_max_range)
        return f"dead-leaves/1 {shape} r_min={self.r_min:g} r_max={r_max} seed={self.seed}"


def _centres_within(start: np.ndarray, stop: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """First and number of the subpixels 0..n-1 whose centres, at j + 1/2, lie in the intervals [start, stop]."""
    first = np.ceil(np.maximum(start, 0) - 0.5).astype(np.int64)
    last = np.floor(np.minimum(stop, n) - 0.5).astype(np.int64)
    return np.minimum(first, n), np.maximum(np.minimum(last, n - 1) - first + 1, 0)


def _expand(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write out runs of integers: the number of the run, and the integer, for every member of every run."""
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) + np.repeat(first - (np.cumsum(count) - count), count)
