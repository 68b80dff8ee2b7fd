"""Components that the tests of several kinds use, or change."""

from __future__ import annotations

import dataclasses

import torch
from pydantic import field_validator
from torch import Tensor

from gendiff import BlurSchedule, Rotation, Scales, SeparableRotation, VariancePreserving, Velocity
from gendiff.dct import dct_matrix
from gendiff.errors import ConfigError
from gendiff.shapes import per_event


class Cosines(SeparableRotation):
    """the DCT, for others to change."""

    name = "mutant"

    def matrix(self, n: int) -> Tensor:
        return dct_matrix(n)


def power_of_two(n: int) -> None:
    if n & (n - 1):
        raise ConfigError(f"{n} is no power of two", fix="choose one")


class Walsh(SeparableRotation):
    """for powers of two only."""

    name = "walsh-only"

    def matrix(self, n: int) -> Tensor:
        power_of_two(n)
        U = torch.ones(1, 1, dtype=torch.float64)
        while len(U) < n:
            U = torch.cat([torch.cat([U, U], 1), torch.cat([U, -U], 1)]) / 2**0.5
        return U


class Ramp(BlurSchedule):
    """f rises, for others to change."""

    name = "mutant"

    def f(self, i: Tensor, N: int) -> Tensor:
        return 0.1 * i / N


class NegativeSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i / N - 1


class DoubledWhenRead(Ramp):
    rate: float = 1.0

    @field_validator("rate")
    @classmethod
    def _twice(cls, rate: float) -> float:
        return 2 * rate


@dataclasses.dataclass(frozen=True)
class Preserving(VariancePreserving):
    """L of each step."""

    L: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]
        return len(self.L) - 1

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        return self.L[i]


def cooling(N: int, event_shape: tuple[int, ...], total: float = 10.0) -> Tensor:
    """L from 0 to -total, quadratic in i."""
    t = torch.linspace(0, 1, N + 1, dtype=torch.float64)
    return -total * per_event(t**2, len(event_shape))


class Cools(Velocity):
    """a quadratic L, for others to change."""

    name = "mutant"

    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        return Preserving(self.L(event_shape, N))

    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        return cooling(N, event_shape)


class Rises(Cools):
    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        L = cooling(N, event_shape)
        L[-1] = L[-2] / 2
        return L
