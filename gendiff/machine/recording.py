"""Recording: work on a device that is the same every time, recorded once and replayed, so that the host launches it as one."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from threading import RLock
from typing import Any, Protocol

import torch

from gendiff.errors import reason

WAITS = "called a synchronizing CUDA operation"  # what torch says of work that waits for the device
OF_THE_WATCH = (WAITS, "Synchronization debug mode")


class Recorder(Protocol):
    """How work is recorded on a device."""

    def warm(self, work: Callable[[], None]) -> None:
        """Do it once, in a way from which it can be recorded later."""

    def rehearse(self, work: Callable[[], None]) -> str:
        """Do it once as `warm` does, and watch; returns why it cannot be recorded, empty where nothing is seen."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record it without doing it; returns what does it, on the same memory every time. Raises whatever it raises."""


class CudaGraphs:
    """Records CUDA graphs.

    Work that waits for the device, or whose shapes depend on values, cannot be recorded. Randomness follows the seed that the
    generator of the device has when the graph is replayed.

    All is done on one stream: memory that was given on a stream is kept for it, and would be kept again for each other one.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._alone = RLock()  # what another thread launches on the stream would be recorded too

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        """On which all is done."""
        return torch.cuda.Stream(self.device)

    def warm(self, work: Callable[[], None]) -> None:
        """Do it on the stream on which it is recorded."""
        with self._alone:
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.stream):
                work()
            torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def rehearse(self, work: Callable[[], None]) -> str:
        """Do it, and say where it waits for the device, as far as torch sees it: begun, such a recording would break."""
        before = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                self.warm(work)
            finally:
                torch.cuda.set_sync_debug_mode(before)
        for one in said:
            if not any(words in str(one.message) for words in OF_THE_WATCH):
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        wait = next((one for one in said if WAITS in str(one.message)), None)
        return f"it waits for the device, at {Path(wait.filename).name}:{wait.lineno}" if wait else ""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record it; its memory stays with the graph."""
        graph, pool, causes = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle(), list[BaseException]()
        with self._alone, torch.cuda.device(self.device), _no_collection():
            before = torch.cuda.current_stream()
            try:
                # Of this thread alone: another one may just then pin the memory of the next batch.
                with torch.cuda.graph(graph, pool=pool, stream=self.stream, capture_error_mode="thread_local"):
                    try:
                        work()
                    except BaseException as error:
                        causes.append(error)
                        raise
            except BaseException:
                self._recover(before, pool)
                if causes:  # what ends a broken recording says no more than that it is broken
                    raise causes.pop() from None
                raise
        replay: Callable[[], None] = graph.replay
        return replay

    def _recover(self, stream: Any, pool: Any) -> None:
        """Undo what a recording that broke off leaves behind in torch, up to 2.11 at least.

        The stream of the recording is the current one, whatever is allocated is looked at as if it were recorded, and the
        generator of the device refuses to draw until another recording has ended.
        """
        torch.cuda.set_stream(stream)
        with suppress(AttributeError, RuntimeError):  # a later torch does it itself
            private: Any = torch._C
            private._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
            private._cuda_releasePool(torch.cuda.current_device(), pool)
        try:
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self.stream, capture_error_mode="thread_local"):
                torch.zeros(1, device=self.device)
        except RuntimeError:
            torch.cuda.set_stream(stream)


@cache
def recorder_for(device: torch.device) -> Recorder | None:
    """What records on that device, one for all; None where nothing can, as on a CPU."""
    return CudaGraphs(device) if device.type == "cuda" else None


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage is collected inside: what is dead may be a recording, which must not be freed while another is made."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Recorded:
    """Work that is done ``warm`` times, then recorded, and replayed from then on; where that fails it is done as before.

    It is told what to do at each call, and keeps nothing but the recording: whose method the work is goes when nobody else holds
    it, and the memory of the recording with it. The last time before it is recorded the work is watched, and nothing that would
    break a recording is begun.

    Attributes:
        why_not: why it could not be recorded.

    """

    def __init__(self, recorder: Recorder, warm: int) -> None:
        self.recorder = recorder
        self.left = warm
        self.replay: Callable[[], None] | None = None
        self.why_not = ""

    @property
    def is_next(self) -> bool:
        """Whether the next call records."""
        return self.left == 0 and self.replay is None and not self.why_not

    def __call__(self, work: Callable[[], None]) -> None:
        if self.left > 0:
            if self.left > 1:
                self.recorder.warm(work)
            else:
                self.why_not = self.recorder.rehearse(work)
            self.left -= 1
            return
        if self.is_next:
            try:
                self.replay = self.recorder.record(work)
            except Exception as error:  # a network of somebody else's may do anything
                self.why_not = reason(error)
        if self.replay is None:
            work()
        else:
            self.replay()
