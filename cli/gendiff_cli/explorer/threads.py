"""Threads: who computes for all pages of the explorer."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

LAST = 19  # the niceness of who takes what others leave


def _stand_back() -> None:
    """Leave the cores to others, where a thread can by itself: on two of them whoever draws would wait for whoever predicts."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LAST)


@dataclass(frozen=True)
class Threads:
    """Who computes for all pages: one thread draws, which is waited for, and one predicts and measures, which takes longer.

    There are no more of them: each keeps for itself as much memory as its work has ever needed at once.
    """

    drawing: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "drawing"))
    predicting: Executor = field(default_factory=lambda: ThreadPoolExecutor(1, "predicting", _stand_back))

    def end(self) -> None:
        """Begin nothing more."""
        for executor in (self.drawing, self.predicting):
            executor.shutdown(wait=False, cancel_futures=True)
