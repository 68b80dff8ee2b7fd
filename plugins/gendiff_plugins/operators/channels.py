"""Operators that act on channels."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gendiff.errors import ConfigError
from gendiff.operator import Operator
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape, shown_shape


class Mixed(Rotation):
    """another rotation with three channels mixed besides: the first is along given weights."""

    name = "mixed-channels"

    rotation: Rotation
    weights: tuple[float, float, float]

    def rotate(self, x: Tensor) -> Tensor:
        return torch.einsum("ck,bc...->bk...", self._matrix.to(x), self.rotation.rotate(x))

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return self.rotation.unrotate(torch.einsum("ck,bk...->bc...", self._matrix.to(x_bar), x_bar))

    @property
    def _matrix(self) -> Tensor:
        columns = torch.eye(3, dtype=torch.float64)
        columns[:, 0] = torch.tensor(self.weights, dtype=torch.float64)
        matrix: Tensor = torch.linalg.qr(columns)[0]
        return matrix


class Grey(Operator):
    """the brightness of a colour picture: colouring.

    ``y = Σ_c w_c x_c``, one channel of three.
    """

    name = "grey"

    weights: tuple[float, float, float] = Field(
        (0.299, 0.587, 0.114),
        description="of red, green and blue; those of ITU-R 601, as files of grey pictures have them",
    )

    def require(self, event_shape: EventShape) -> None:
        if event_shape[0] != 3:
            raise ConfigError(
                f"operator 'grey' makes one channel of three, and events are {shown_shape(event_shape)}",
                fix="choose a run on colour pictures, or another operator",
                subject="operator.name",
            )

    def apply(self, x: Tensor) -> Tensor:
        return torch.einsum("c,bc...->b...", x.new_tensor(self.weights), x)[:, None]

    def adjoint(self, y: Tensor, event_shape: EventShape) -> Tensor:
        return torch.einsum("c,b...->bc...", y.new_tensor(self.weights), y[:, 0])

    def basis(self, rotation: Rotation, event_shape: EventShape) -> Rotation:
        return Mixed(rotation=rotation, weights=self.weights)
