"""Data whose distribution is known exactly."""

from __future__ import annotations

import math
from functools import cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gendiff.data import Data
from gendiff.dct import dct_matrix
from gendiff.frequency import dct_frequency, radius
from gendiff.shapes import AsText, EventShape, event_of_size, spatial
from gendiff.streams import stream

Side = Annotated[int, Field(ge=2, le=1024)]


class GaussianField(Data):
    """endless fields with an exact spectrum.

    ``x̄ = U^T x ~ N(0, diag c)`` independently per channel, U the orthonormal DCT-II of every spatial axis, and

        c_k = std² (ρ_k + ρ_1)^-power / mean_j (ρ_j + ρ_1)^-power ,    ρ_1 = π / max(sizes) ,

    with ρ_k in radians per pixel and ρ_1 the lowest frequency above 0, so that c is finite for the constant component.
    U is orthogonal, hence the variance averaged over pixels is std²; single pixels differ, most at the borders.

    For this data the best possible model follows in closed form from `variance`, in any process that is diagonal in the
    DCT. Raises `IndexError` below index 0.
    """

    name = "gaussian-field"
    value_range: ClassVar[tuple[float, float] | None] = None

    size: Annotated[Side | tuple[Side] | tuple[Side, Side], AsText] = Field(
        32, description="pixels: n for n x n, [height, width] for a picture, [length] for a 1-D signal"
    )
    channels: int = Field(1, ge=1, le=16, description="independent channels")
    power: float = Field(2.0, ge=0, le=8, description="how fast the variance falls with frequency; 2: like photographs")
    std: float = Field(0.5, gt=0, le=1e3, description="root mean square of the pixels")
    seed: int = Field(0, ge=0, description="another seed is another data set of the same distribution")

    @property
    def event_shape(self) -> EventShape:
        return event_of_size(self.channels, self.size)

    @property
    def length(self) -> None:
        return None

    @property
    def variance(self) -> Tensor:
        """c: variance of each DCT component, float64, shape ``(1, *spatial)``; the mean is 0."""
        return self.std**2 * _unit_variance(spatial(self.event_shape), self.power)

    def __getitem__(self, index: int) -> Tensor:
        if index < 0:
            raise IndexError(f"gaussian-field has no event {index}")
        epsilon = torch.randn(self.event_shape, generator=stream(self.seed, self.name, index), dtype=torch.float64)
        x = self.variance.sqrt() * epsilon
        for n in spatial(self.event_shape):  # each pass takes the first spatial axis and appends its transform
            x = torch.tensordot(x, dct_matrix(n), dims=([1], [1]))
        return x.to(torch.float32)

    @property
    def fingerprint(self) -> str:
        shape = "x".join(map(str, self.event_shape))
        return f"gaussian-field/1 {shape} power={self.power!r} std={self.std!r} seed={self.seed}"


@cache
def _unit_variance(sizes: tuple[int, ...], power: float) -> Tensor:
    rho = radius([dct_frequency(n) for n in sizes]) + math.pi / max(sizes)
    weight = (rho / rho.max()) ** -power
    return (weight / weight.mean()).unsqueeze(0)
