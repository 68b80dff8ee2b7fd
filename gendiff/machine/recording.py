"""Recording: work on a device that is the same every time, recorded once and replayed, so that the host launches it as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from gendiff.errors import reason


class Recorder(Protocol):
    """How work is recorded on a device."""

    def warm(self, work: Callable[[], None]) -> None:
        """Do it once, in a way from which it can be recorded later."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record it without doing it; returns what does it, on the same memory every time. Raises whatever it raises."""


class CudaGraphs:
    """Records CUDA graphs.

    Work that waits for the device, or whose shapes depend on values, cannot be recorded. Randomness follows the seed that the
    generator of the device has when the graph is replayed.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def warm(self, work: Callable[[], None]) -> None:
        """Do it on a stream of its own, as a recording is."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream(self.device).wait_stream(stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record it; its memory stays with the graph."""
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: another one may just then pin the memory of the next batch.
        with torch.cuda.device(self.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
        replay: Callable[[], None] = graph.replay
        return replay


def recorder_for(device: torch.device) -> Recorder | None:
    """What records on that device; None where nothing can, as on a CPU."""
    return CudaGraphs(device) if device.type == "cuda" else None


class Recorded:
    """Work that is done ``warm`` times, then recorded, and replayed from then on; where that fails it is done as before.

    Attributes:
        why_not: why it could not be recorded.

    """

    def __init__(self, work: Callable[[], None], recorder: Recorder, warm: int) -> None:
        self.work = work
        self.recorder = recorder
        self.left = warm
        self.replay: Callable[[], None] | None = None
        self.why_not = ""

    def __call__(self) -> None:
        if self.left > 0:
            self.left -= 1
            self.recorder.warm(self.work)
            return
        if self.replay is None and not self.why_not:
            try:
                self.replay = self.recorder.record(self.work)
            except Exception as error:  # a network of somebody else's may do anything
                self.why_not = reason(error)
        if self.replay is None:
            self.work()
        else:
            self.replay()
