"""Column: what is known of every event of a source, kept beside the events as one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gendiff.condition import Condition
from gendiff.errors import printable

MOST_SPARSE = 1000  # a label below this may be one of more classes than there are events
ALLOWED = (
    "labels are whole numbers (n,), counted from 0; vectors are floating point (n,) or (n, k); images (n, C, *spatial)"
)


@dataclass(frozen=True, eq=False)
class Column:
    """One condition, and its value for each event.

    Args:
        condition: what it is.
        values: int64 ``(n,)`` of a label, floating point ``(n, *shape)`` of anything else.

    """

    condition: Condition
    values: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, count: int, classes: Sequence[str] | None = None) -> Self:
        """The condition that an array is: whole numbers are labels, floating point a vector, or images, in the range it has.

        Args:
            count: how many events there are.
            classes: names of the classes; left out, they are called by their numbers.

        Raises:
            ValueError: where it is of another length, type or shape, and where it says nothing, saying what is allowed.

        """
        if values.ndim < 1 or len(values) != count:
            length = "no length" if values.ndim < 1 else f"{len(values):,} entries"
            raise ValueError(f"it has {length}, and there are {count:,} events: one for each")
        if values.dtype.kind in "iub":
            return cls(_classes(values, classes), values)
        if values.dtype.kind != "f":
            raise ValueError(f"it is of type {values.dtype}; allowed: {ALLOWED}")
        if values.ndim == 1 and bool((values == np.floor(values)).all()) and values.min() >= 0:
            raise ValueError(
                "it is whole numbers, in floating point: as classes they are integers, astype('int64'); as a vector (n, 1)"
            )
        return cls(_extent(values), values.reshape(count, 1) if values.ndim == 1 else values)

    @classmethod
    def of_folders(cls, names: Sequence[str]) -> Self | None:
        """The label that is the first folder of each name, where there are at least two and every name lies in one."""
        folders = [name.partition("/")[0] if "/" in name else "" for name in names]
        classes = sorted(set(folders))
        if len(classes) < 2 or "" in classes:
            return None
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers[folder] for folder in folders])
        return cls(Condition.label([printable(name) for name in classes]), labels)

    def __getitem__(self, index: int) -> Any:
        """That of one event."""
        value = self.values[index]
        return int(value) if self.condition.type == "label" else np.array(value, np.float32)


def _classes(values: np.ndarray, names: Sequence[str] | None) -> Condition:
    if values.ndim != 1:
        raise ValueError(f"labels have the shape {values.shape}; allowed: (n,), one number for each event")
    least, most = int(values.min()), int(values.max())
    if least < 0:
        raise ValueError(f"it holds the label {least}; allowed: whole numbers from 0")
    if names is None:
        if most >= max(len(values), MOST_SPARSE):
            raise ValueError(f"it holds the label {most:,}, of {len(values):,} events: classes are counted from 0")
        return Condition.label(most + 1)
    if most >= len(names):
        raise ValueError(f"it holds the label {most}, and there are {len(names)} classes, counted from 0")
    return Condition.label(names)


def _extent(values: np.ndarray) -> Condition:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds values that are not finite")
    if low == high:
        raise ValueError(f"it is {low:g} for all events, which says nothing of any")
    # As float32, in which they are compared.
    low, high = float(np.float32(low)), float(np.float32(high))
    if values.ndim > 2:
        return Condition.image(values.shape[1:], low, high)
    return Condition.vector(1 if values.ndim == 1 else values.shape[1], low, high)
