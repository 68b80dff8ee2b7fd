"""Operators that act on pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.operator import Operator
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape


class Identity(Operator):
    """all of the event: denoising.

    A = I.
    """

    name = "identity"

    def apply(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor, event_shape: EventShape) -> Tensor:
        return y

    def diagonal(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        return torch.ones((), dtype=torch.float64)
