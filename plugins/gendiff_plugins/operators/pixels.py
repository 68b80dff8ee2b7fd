"""Operators that act on pixels."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.datasets.images import eight_bit, hushed, located, mark, missing, opened, reason
from gendiff.errors import ConfigError, DataError
from gendiff.operator import Operator
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape, shown_shape


class Identity(Operator):
    """all of the event: denoising.

    A = I.
    """

    name = "identity"

    def apply(self, x: Tensor) -> Tensor:
        return x

    def adjoint(self, y: Tensor, event_shape: EventShape) -> Tensor:
        return y

    def basis(self, rotation: Rotation, event_shape: EventShape) -> Rotation:
        return rotation


class Mask(Operator):
    """some of the pixels: inpainting.

    ``y = M x`` with M 1 where a pixel is kept and 0 where it is missing, in all channels. What is missing is a rectangle, or what
    is black in a picture of the size of the events.
    """

    name = "mask"

    rectangle: tuple[int, ...] | None = Field(
        None, description="what is missing: [top, left, height, width], of a signal [first, length]"
    )
    path: Path | None = Field(None, description="a picture: black is missing, white is kept")
    invert: bool = Field(False, description="keep what would be missing")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.rectangle is None) == (self.path is None):
            raise ValueError("say what is missing, once: rectangle=[top,left,height,width], or path=mask.png")
        return self

    def require(self, event_shape: EventShape) -> None:
        self._kept(event_shape)

    def apply(self, x: Tensor) -> Tensor:
        return x * self._kept(tuple(x.shape[1:])).to(x)

    def adjoint(self, y: Tensor, event_shape: EventShape) -> Tensor:
        return self.apply(y)

    def basis(self, rotation: Rotation, event_shape: EventShape) -> Rotation:
        return Rotation("identity")

    def _kept(self, event_shape: EventShape) -> Tensor:
        """M, ``spatial`` float64."""
        sizes = event_shape[1:]
        kept = self._around(sizes) if self.path is None else _of_file(located(self.path), sizes)
        kept = 1 - kept if self.invert else kept
        if not kept.any():
            raise ConfigError("the mask keeps no pixel: nothing is measured", subject="operator.rectangle")
        return kept

    def _around(self, sizes: tuple[int, ...]) -> Tensor:
        given, axes = self.rectangle or (), len(sizes)
        first, length = given[:axes], given[axes:]
        fits = len(given) == 2 * axes and all(
            0 <= start < start + count <= size for start, count, size in zip(first, length, sizes, strict=True)
        )
        if not fits:
            form = "[top, left, height, width]" if axes == 2 else "[first, length]"
            raise ConfigError(
                f"the rectangle {list(given)} does not fit events of {shown_shape(sizes)}",
                details=[f"allowed: {form} in pixels, inside of {shown_shape(sizes)}"],
                fix=f"such as mask:rectangle={[size // 4 for size in sizes] + [size // 2 for size in sizes]}".replace(
                    " ", ""
                ),
                subject="operator.rectangle",
            )
        kept = torch.ones(sizes, dtype=torch.float64)
        kept[tuple(slice(start, start + count) for start, count in zip(first, length, strict=True))] = 0
        return kept


def _of_file(path: Path, sizes: tuple[int, ...]) -> Tensor:
    if not path.exists():
        raise missing(path, "a picture, black where pixels are missing")
    try:
        kept = _read(path, mark(path))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the mask '{path}'", details=[reason(error)], subject="operator.path") from error
    if tuple(kept.shape) != sizes:
        raise ConfigError(
            f"the mask '{path}' has {shown_shape(kept.shape)} pixels, events have {shown_shape(sizes)}",
            details=["height x width; a mask has the size of the events"],
            fix=f"make it {shown_shape(sizes)}, without smoothing: every pixel is kept, or it is not",
            subject="operator.path",
        )
    return kept


@lru_cache(maxsize=8)
def _read(path: Path, changed: object) -> Tensor:
    with hushed(), opened(path) as picture:
        grey = np.array(eight_bit(picture).convert("L"))
    return torch.from_numpy(grey >= 128).double()
