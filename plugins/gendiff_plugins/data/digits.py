"""Real pictures that need no download."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendiff.condition import Condition, Conditions
from gendiff.data import Data
from gendiff.shapes import EventShape


@cache
def _array(key: str) -> np.ndarray:
    with (files(__package__) / "digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return np.asarray(arrays[key])


class Digits(Data):
    """1797 handwritten digits, 8x8 grey, part of the package.

    ``x = v/8 - 1`` for the pixels v in 0..16, so events are ``(1, 8, 8)`` in [-1, 1] with ink at 1. The order and the
    values are those of the source. Raises `IndexError` outside 0..1796.

    Source: E. Alpaydin, C. Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49, licence CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/); the test part, by
    13 writers, as distributed with scikit-learn. ``digits.npz`` holds the values unchanged, ``pixels`` and ``labels``.
    """

    name = "digits"

    @property
    def event_shape(self) -> EventShape:
        return (1, 8, 8)

    @property
    def length(self) -> int:
        return 1797

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"digit {index} of {self.length}")
        return torch.from_numpy(_array("pixels")[index : index + 1]).to(torch.float32) / 8 - 1

    @property
    def conditions(self) -> Conditions:
        return {"label": Condition.label(10)}

    def condition(self, index: int) -> Mapping[str, Any]:
        return {"label": int(_array("labels")[index])}

    @property
    def labels(self) -> Tensor:
        """The digit 0..9 that each picture shows, int64, shape ``(1797,)``."""
        return torch.from_numpy(_array("labels")).to(torch.int64)

    @property
    def fingerprint(self) -> str:
        return f"digits/1 {hashlib.sha256(_array('pixels').tobytes()).hexdigest()[:16]}"
