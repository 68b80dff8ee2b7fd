"""Pieces of photographs, at any scale."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from gendiff.condition import Conditions
from gendiff.data import Data
from gendiff.datasets.images import Side, eight_bit, event_of, reason
from gendiff.errors import DataError, printable
from gendiff.shapes import AsText, EventShape
from gendiff.streams import stream
from gendiff_plugins.data.folder import Folder

GAP = 3.0  # Pillow first shrinks by whole numbers down to so many times the wanted size: a large crop is quick, and looks alike
TOO_SMALL = "use larger photographs, a smaller size, or leave small ones out: on_bad_image=skip"

Fraction = Annotated[float, Field(gt=0, le=1)]


class Photos(Data):
    """crops of the photographs below a folder, at any scale.

    Event k is crop ``k mod crops`` of photograph ``k div crops``, in the order of their names. Its longer side is that of the
    event times a factor; the factor is drawn such that the logarithm of the side is uniform:

        side / side of the largest crop that fits  ∝  exp(U log(high / low)) ,    low <= ... <= high ,

    with ``scale=[low, high]``, but no crop has fewer pixels than the event: nothing is magnified. The place is uniform among
    those where the crop is inside the photograph. The crop is shrunk by Pillow's bicubic filter, which is antialiased. All of it
    is a function of (seed, k), so that any order, batch and process sees the same events.

    Crops of one photograph are always held out together. Photographs are read as the pictures of `folder` are (orientation,
    transparency, bad images, labels by sub-folder); those that are too small for one crop are bad images too. A photograph is
    decoded once for crops that follow each other: ``gendiff data prepare`` once makes a set that no training waits for.

    Raises `DataError` for a missing folder, one without photographs, or bad ones; `IndexError` outside 0..length-1.
    """

    name = "photos"

    path: Path = Field(description="the folder with the photographs; ~ is your home")
    size: Annotated[Side | tuple[Side, Side], AsText] = Field(64, description="pixels: n for n x n, or [height, width]")
    channels: Literal[1, 3] = Field(3, description="3: colour, 1: grey")
    crops: int = Field(64, ge=1, le=2**20, description="crops of each photograph")
    scale: tuple[Fraction, Fraction] = Field(
        (0.1, 1.0), description="[low, high]: sides of crops as parts of the largest that fits"
    )
    seed: int = Field(0, ge=0, description="another seed is other crops")
    on_bad_image: Literal["error", "skip"] = Field("error", description="error: stop and name it; skip: leave it out")

    _decoded: dict[int, Image.Image] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale is [low, high], and low is no more than high")
        return self

    @property
    def event_shape(self) -> EventShape:
        _ = self._photographs  # what is missing is reported here, before a model of this shape is built
        return (self.channels, *self._height_width)

    @property
    def length(self) -> int:
        return self.crops * len(self._photographs)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"crop {index} of {self.length}")
        photograph = self._photographs[index // self.crops]
        try:
            image = self._image(photograph)
            box = self._box(index, *image.size)
            H, W = self._height_width
            small = image.resize((W, H), Image.Resampling.BICUBIC, box=box, reducing_gap=GAP)
        except DataError:
            raise
        except Exception as error:
            what = f"cannot read the photograph '{self._folder.origin(photograph)}'"
            fix = "replace or remove it, or set on_bad_image=skip to leave bad ones out"
            raise DataError(what, where=str(self.path), details=[reason(error)], fix=fix) from error
        return event_of(np.array(small))

    @property
    def conditions(self) -> Conditions:
        return self._folder.conditions

    def condition(self, index: int) -> Mapping[str, Any]:
        return self._folder.condition(self._photographs[index // self.crops])

    def group(self, index: int) -> str:
        return self._folder.entry(self._photographs[index // self.crops])

    def origin(self, index: int) -> str:
        return f"crop {index % self.crops} of {self._folder.origin(self._photographs[index // self.crops])}"

    def entry(self, index: int) -> str:
        stem, dot, ending = self.group(index).rpartition(".")
        return f"{stem}_{index % self.crops:07d}{dot}{ending}"

    @property
    def parts(self) -> Mapping[str, int]:
        traces = self._folder.parts
        marks = [traces[self._folder.entry(photograph)] for photograph in self._photographs]
        return {self.entry(k): marks[k // self.crops] << 20 | k % self.crops for k in range(self.length)}

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """``(name, reason)`` of every photograph left out with ``on_bad_image="skip"``."""
        small = self._too_small
        return (*self._folder.skipped, *((self._folder.origin(k), small[k]) for k in small))

    @property
    def fingerprint(self) -> str:
        how = [self._height_width, self.channels, self.crops, self.scale, self.seed, list(self._photographs)]
        digest = hashlib.sha256(f"{self._folder.fingerprint} {how}".encode()).hexdigest()[:16]
        return f"photos/1 {self.length} crops {digest}"

    @property
    def _height_width(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @cached_property
    def _folder(self) -> Folder:
        return Folder(path=self.path, channels=self.channels, on_bad_image=self.on_bad_image)

    @cached_property
    def _too_small(self) -> Mapping[int, str]:
        """Why no crop fits into a photograph, by its number."""
        H, W = self._height_width
        sizes = {k: self._folder.own_size(k) for k in range(self._folder.length)}
        return {
            k: f"{size[1]}x{size[0]} pixels, and a crop has {W}x{H} at least"
            for k, size in sizes.items()
            if size and (size[0] < H or size[1] < W)
        }

    @cached_property
    def _photographs(self) -> tuple[int, ...]:
        """The numbers of those that are used."""
        small, total = self._too_small, self._folder.length
        if small and (self.on_bad_image == "error" or len(small) == total):
            details = [f"{self._folder.origin(k)}: {why}" for k, why in list(small.items())[:5]]
            details += [f"and {len(small) - 5} more"] * (len(small) > 5)
            raise DataError(
                f"{len(small)} of {total} photographs are too small",
                where=printable(str(self.path)),
                details=details,
                fix=TOO_SMALL if len(small) < total else "use larger photographs, or a smaller size",
                subject="data.size",
            )
        return tuple(k for k in range(total) if k not in small)

    def _image(self, photograph: int) -> Image.Image:
        """The photograph, decoded; that of the last crop is kept."""
        if (image := self._decoded.get(photograph)) is None:
            with self._folder._opened(self._folder.entry(photograph)) as file:
                image = eight_bit(file).convert("RGB" if self.channels == 3 else "L")
            self._decoded.clear()
            self._decoded[photograph] = image
        return image

    def _box(self, index: int, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and lower edge of a crop, in pixels of its photograph."""
        H, W = self._height_width
        largest = min(width / W, height / H)  # pixels of the photograph a pixel of the event
        low, high = (max(part * largest, 1.0) for part in self.scale)
        u, x, y = torch.rand(3, generator=stream(self.seed, self.name, index), dtype=torch.float64).tolist()
        factor = min(low * math.exp(u * math.log(high / low)), largest)
        left, top = x * (width - factor * W), y * (height - factor * H)
        return left, top, min(left + factor * W, width), min(top + factor * H, height)
