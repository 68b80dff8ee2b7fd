"""Kept: what was made before, so that it need not be made again; at most so much, however long a process lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """Values, none of which is None, by key; of too many the one goes that was asked for longest ago. Threads may share one.

    Args:
        most: how many.
        room: what all of them may take by ``size`` while another one is made; left out, what they take is of no consequence.
        size: of a value.

    """

    def __init__(self, most: int, room: float = 0, size: Callable[[Value], float] = lambda value: 0) -> None:
        self.most, self.room, self.size = most, room, size
        self._values: dict[Key, tuple[Value, float]] = {}  # the one that was asked for last at the end
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: Key) -> bool:
        return self.get(key) is not None

    def get(self, key: Key) -> Value | None:
        """The value of a key; None where there is none."""
        with self._lock:
            if key not in self._values:
                return None
            self._values[key] = value, _ = self._values.pop(key)
            return value

    def keep(self, key: Key, value: Value) -> Value:
        """Keep a value, and give it back."""
        size = self.size(value)
        with self._lock:
            self._values.pop(key, None)
            self._values[key] = value, size
            self._drop(lambda: len(self._values) > self.most)
        return value

    def of(self, key: Key, made: Callable[[], Value]) -> Value:
        """The value of a key, made where it is not there."""
        if (value := self.get(key)) is not None:
            return value
        with self._lock:
            self._drop(lambda: sum(size for _, size in self._values.values()) > self.room)
        return self.keep(key, made())

    def _drop(self, too_many: Callable[[], bool]) -> None:
        while too_many():
            del self._values[next(iter(self._values))]
