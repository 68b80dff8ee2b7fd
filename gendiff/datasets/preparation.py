"""Preparation: from the events of any source to 8-bit values of one size, in whatever process."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from gendiff.data import Data
from gendiff.datasets.images import ImageData, resized
from gendiff.datasets.pictures import to_uint8
from gendiff.errors import ConfigError, DataError
from gendiff.shapes import EventShape

LATENT = np.dtype("<f4")
PICTURE = np.dtype("|u1")
OUTSIDE = 1e-3  # how far values may lie outside [-1, 1]


@dataclass(frozen=True)
class Resize:
    """The size that pictures of another size are given, by the rule of `gendiff.datasets.images.resized`."""

    height: int
    width: int
    crop: str = "none"

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """``(C, H, W)`` to ``(C, height, width)``, uint8; each channel by itself, as Pillow does it."""
        planes = [resized(Image.fromarray(plane), (self.height, self.width), self.crop) for plane in pixels]
        return np.stack([np.asarray(plane) for plane in planes])


@dataclass(frozen=True)
class Chunk:
    """What a process has made of the events up to ``stop``: values ``(k, *event)``, and the others' indices, names and errors."""

    stop: int
    values: np.ndarray
    rounding: float
    bad: list[tuple[int, str, DataError]]


@dataclass(frozen=True)
class Preparation:
    """From the indices ``start..stop-1`` to a chunk, in whatever process."""

    data: Data
    resize: Resize | None
    event_shape: EventShape

    def __call__(self, span: tuple[int, int]) -> Chunk:
        values, rounding = [], 0.0
        bad: list[tuple[int, str, DataError]] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a picture whose warnings are errors is bad; other warnings are noise here
            for index in range(*span):
                name = self.data.origin(index)
                try:
                    pixels, error = self._values(index, name)
                except DataError as damage:
                    bad.append((index, name, damage))
                    continue
                values.append(self.resize(pixels) if self.resize else pixels)
                rounding = max(rounding, error)
        return Chunk(
            span[1],
            np.stack(values) if values else np.empty((0, *self.event_shape), value_type(self.data)),
            rounding,
            bad,
        )

    def _values(self, index: int, name: str) -> tuple[np.ndarray, float]:
        if self.data.latent is None:
            return eight_bits(self.data[index], name)
        return self.data[index].numpy().astype(LATENT, copy=False), 0.0


def value_type(data: Data) -> np.dtype[Any]:
    """Of what type packed values are: latents are no whole numbers."""
    return PICTURE if data.latent is None else LATENT


def eight_bits(event: Tensor, name: str) -> tuple[np.ndarray, float]:
    """The 8-bit values v of an event, and the largest difference of v/127.5 - 1 to it; raises `DataError` outside [-1, 1]."""
    low, high = float(event.min()), float(event.max())
    if not -1 - OUTSIDE <= low <= high <= 1 + OUTSIDE:
        extent = f"its values are from {low:g} to {high:g}"
        raise DataError(f"{name} cannot be packed", details=[extent, "allowed: -1 to 1"], fix="correct the source")
    v = to_uint8(event)
    return v.numpy(), float((v / 127.5 - 1 - event).abs().max())


def prepared_shape(data: Data, resize: Resize | None) -> EventShape:
    """The shape of the events that it gives; raises `ConfigError` for data that 8 bits cannot hold."""
    if data.latent is not None and resize is not None:
        raise ConfigError(
            f"data '{data.shown.name}' have a size of their own, and latents are not resized",
            where="--size",
            fix="pack the pictures first, with --size, and then the latents of packed:path=DEST",
        )
    if data.latent is None and data.value_range != (-1.0, 1.0):
        raise ConfigError(
            f"data '{data.name}' cannot be packed",
            subject="data.name",
            details=[
                "a packed set holds values in [-1, 1] in 8 bits each; the values of these data are not so bounded"
            ],
            fix="train on them as they are, or choose other data",
        )
    shape = tuple(data.event_shape)
    if resize is None:
        return shape
    if len(shape) != 3:
        what = f"events of shape {shape} are no pictures and cannot be resized"
        raise ConfigError(what, where="--size", fix="leave --size out")
    return (shape[0], resize.height, resize.width)


def resizing(data: Data, resize: Resize | None) -> dict[str, Any] | None:
    """How the pictures of ``data`` come to their size, in plain values; None where they have it by themselves."""
    data = data.shown
    if isinstance(data, ImageData):
        height, width = (data.size, data.size) if isinstance(data.size, int) else data.size
        resize = Resize(height, width, data.crop)
    return None if resize is None else {"filter": "bicubic, antialiased (Pillow)", **asdict(resize)}
