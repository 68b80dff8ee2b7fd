"""Pace: how long steps take where nothing else is done between them."""

from __future__ import annotations

import statistics
import time
from collections import deque

SPANS = 5  # of which the median is taken: one in which the machine did something else does not count


class Pace:
    """Seconds a step, over spans from one look at what steps came to until the next.

    A device that computes later is waited for at a look, and nowhere else: only a whole span says how long its steps took.
    """

    def __init__(self) -> None:
        self._spans = deque[float](maxlen=SPANS)
        self._began: tuple[int, float] | None = None

    def begin(self, step: int) -> None:
        """Steps follow ``step``, which was reached; of no effect in the middle of a span."""
        if self._began is None:
            self._began = step, time.perf_counter()

    def end(self, step: int) -> None:
        """The device is waited for: all up to ``step`` are done."""
        if self._began is not None and step > self._began[0]:
            self._spans.append((time.perf_counter() - self._began[1]) / (step - self._began[0]))
        self._began = None

    @property
    def seconds(self) -> float | None:
        """Of a step; None while too few spans are known."""
        return statistics.median(self._spans) if len(self._spans) == SPANS else None
