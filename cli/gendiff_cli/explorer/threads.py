"""Threads: who computes for all pages of the explorer."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Threads:
    """Who computes for all pages: one thread draws, which is waited for, and one predicts and measures, which takes longer.

    There are no more of them: each keeps for itself as much memory as its work has ever needed at once.
    """

    drawing: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "drawing"))
    predicting: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "predicting"))

    def end(self) -> None:
        """Begin nothing more."""
        for executor in (self.drawing, self.predicting):
            executor.shutdown(wait=False, cancel_futures=True)
