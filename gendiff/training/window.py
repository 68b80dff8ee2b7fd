"""Window: what steps came to since the last row of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gendiff.shapes import whole
from gendiff.training.bands import BANDS


@dataclass
class Window:
    """Sums since the last row of metrics.jsonl; stored with a checkpoint so that a resumed run logs the same rows."""

    steps: int = 0
    loss: float = 0.0
    bands: list[float] | None = None  # of the last step, where that is logged and applied
    grad_norm: float = 0.0
    skipped: int = 0

    @classmethod
    def of(cls, table: Mapping[str, Any], step: int) -> Window:
        """The window that a checkpoint of ``step`` holds; raises `TypeError` or `ValueError` where it is none."""
        window = cls(**table)
        if not all(map(math.isfinite, [window.loss, window.grad_norm, *(window.bands or [])])):
            raise ValueError("sums that are not finite")
        if window.bands is not None and (not isinstance(window.bands, list) or len(window.bands) != BANDS):
            raise ValueError(f"a loss of other than {BANDS} bands")
        window.steps, window.skipped = count(window.steps, step), count(window.skipped, step)
        return window

    def means(self) -> dict[str, Any]:
        """Averages over the window's applied steps, None where none was applied; by band, the loss of the last step alone."""
        n = self.steps
        return {
            "loss": self.loss / n if n else None,
            "loss_bands": self.bands,
            "grad_norm": self.grad_norm / n if n else None,
            "skipped": self.skipped,
        }


def count(number: Any, step: int) -> int:
    """A number of steps up to ``step``; raises `TypeError` or `ValueError` where it is none."""
    if not 0 <= whole(number) <= step:
        raise ValueError(f"{number} of {step} steps")
    return whole(number)
