"""Operators that act on blocks of pixels."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gendiff.dct import dct_matrix
from gendiff.errors import ConfigError
from gendiff.operator import Operator
from gendiff.rotation import Rotation, SeparableRotation
from gendiff.shapes import EventShape, shown_shape, spatial


class Blocks(SeparableRotation):
    """the DCT of blocks, which begins with their means."""

    name = "blocks"

    side: int = Field(ge=1, description="pixels of a block along each axis")

    def matrix(self, n: int) -> Tensor:
        return torch.kron(torch.eye(n // self.side, dtype=torch.float64), dct_matrix(self.side))


class Downsample(Operator):
    """means of blocks of pixels: super-resolution.

    y has ``factor`` times fewer pixels along each axis: ``n/factor``, each the mean of its block.
    """

    name = "downsample"

    factor: int = Field(2, ge=2, le=256, description="pixels of a block along each axis; it must divide every side")

    def require(self, event_shape: EventShape) -> None:
        if any(n % self.factor for n in spatial(event_shape)):
            both = [k for k in range(2, max(spatial(event_shape)) + 1) if not any(n % k for n in spatial(event_shape))]
            raise ConfigError(
                f"blocks of {self.factor} pixels do not fit events of {shown_shape(event_shape)}",
                details=[f"allowed: what divides every side: {', '.join(map(str, both)) or 'nothing does'}"],
                fix=f"write downsample:factor={both[0]}" if both else "choose another operator",
                subject="operator.factor",
            )

    def apply(self, x: Tensor) -> Tensor:
        inside = [part for n in x.shape[2:] for part in (n // self.factor, self.factor)]
        return x.reshape(*x.shape[:2], *inside).mean(tuple(range(3, 2 + len(inside), 2)))

    def adjoint(self, y: Tensor, event_shape: EventShape) -> Tensor:
        for axis in range(2, y.ndim):
            y = y.repeat_interleave(self.factor, axis)
        spread: Tensor = y / self.factor ** (y.ndim - 2)
        return spread

    def basis(self, rotation: Rotation, event_shape: EventShape) -> Rotation:
        return Blocks(side=self.factor)
