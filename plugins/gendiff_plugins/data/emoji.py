"""Colour pictures that need no download."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from gendiff.condition import Condition, Conditions
from gendiff.data import Data
from gendiff.shapes import EventShape

SIDE, COLUMNS = 64, 48  # of a picture, and of the sheet that holds them
EDITION = "emoji/1"


@cache
def _table() -> dict[str, Any]:
    return dict(json.loads((files(__package__) / "emoji.json").read_text(encoding="utf-8")))


@cache
def _pictures(size: int) -> np.ndarray:
    """All pictures, ``(n, 3, size, size)`` bytes: means over squares of pixels, rounded."""
    with (files(__package__) / "emoji.webp").open("rb") as file, Image.open(file) as image:
        sheet = np.asarray(image.convert("RGB"))
    n, side = len(_table()["emoji"]), SIDE // size
    rows = sheet.reshape(-1, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)[:n]
    means = rows.reshape(n, 3, size, side, size, side).mean((3, 5), dtype=np.float32)
    return np.asarray(np.rint(means), dtype=np.uint8)


class Emoji(Data):
    """1870 emoji on white, 64x64 colour, part of the package.

    ``x = v/127.5 - 1`` for the 8-bit values v; at a smaller size v is the rounded mean over squares of pixels. All fully
    qualified emoji of Unicode 15.0 but those of a skin tone, in the order of its list; the condition ``label`` is the group, such
    as "Food & Drink". Raises `IndexError` outside 0..1869.

    Source: Noto Color Emoji 2.042, Copyright 2013-2022 Google LLC, SIL Open Font License 1.1, from which the pictures were drawn;
    names and groups from emoji-test.txt, Copyright 2022 Unicode, Inc., used under its terms
    (https://www.unicode.org/terms_of_use.html).
    """

    name = "emoji"

    size: Literal[64, 32, 16, 8] = Field(64, description="side in pixels")

    @property
    def event_shape(self) -> EventShape:
        return (3, self.size, self.size)

    @property
    def length(self) -> int:
        return len(_table()["emoji"])

    def __getitem__(self, index: int) -> Tensor:
        self._check(index)
        return torch.from_numpy(_pictures(self.size)[index]).to(torch.float32) / 127.5 - 1

    @property
    def conditions(self) -> Conditions:
        return {"label": Condition.label(_table()["groups"])}

    def condition(self, index: int) -> Mapping[str, Any]:
        self._check(index)
        return {"label": int(_table()["emoji"][index][0])}

    def origin(self, index: int) -> str:
        return f"event {index}, {_table()['emoji'][index][1]}"

    def entry(self, index: int) -> str:
        group, name, _ = _table()["emoji"][index]
        return f"{_table()['groups'][group]}/{name}"

    @property
    def fingerprint(self) -> str:
        return f"{EDITION} {self.size}"

    def _check(self, index: int) -> None:
        if not 0 <= index < self.length:
            raise IndexError(f"emoji {index} of {self.length}")
