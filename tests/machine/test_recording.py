"""Recording on CUDA: one stream, nothing begun that would break, nothing left behind where it broke all the same."""

from __future__ import annotations

import gc
import warnings
import weakref
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from tape import Tape

from gendiff.machine.recording import CudaGraphs, Recorded, recorder_for


class Stream:
    """It waits for what is said, and says so."""

    def __init__(self, cuda):
        self.cuda = cuda
        self.waited = []

    def wait_stream(self, other):
        self.waited.append(other)


class Cuda:
    """What recording uses of `torch.cuda`, without a GPU. A recording that breaks ends as in torch 2.11: not quite."""

    def __init__(self, monkeypatch):
        self.main = self.current = Stream(self)
        self.streams = self.recordings = self.mode = self.pools = 0
        self.underway, self.released = [], []
        self.capturing = self.broken = self.generator_waits = False
        parts = {
            "Stream": self.new_stream,
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "current_stream": lambda device=None: self.current,
            "current_device": lambda: 0,
            "set_stream": lambda stream: setattr(self, "current", stream),
            "stream": self.on,
            "device": lambda device: nullcontext(),
            "graph": self.graph,
            "graph_pool_handle": self.new_pool,
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": lambda mode: setattr(self, "mode", {"default": 0, "warn": 1}.get(mode, mode)),
        }
        for name, part in parts.items():
            monkeypatch.setattr(torch.cuda, name, part)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self.end, raising=False)
        monkeypatch.setattr(
            torch._C, "_cuda_releasePool", lambda device, pool: self.released.append(pool), raising=False
        )
        monkeypatch.setattr(torch, "zeros", lambda *size, device: None)  # there is no device

    def new_stream(self, device):
        self.streams += 1
        return Stream(self)

    def new_pool(self):
        self.pools += 1
        return self.pools

    @contextmanager
    def on(self, stream):
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def graph(self, graph, pool=None, stream=None, capture_error_mode="global"):
        assert capture_error_mode == "thread_local"
        before, self.current = self.current, stream
        pool = self.new_pool() if pool is None else pool
        self.underway.append(pool)
        self.recordings += 1
        self.capturing = self.generator_waits = True
        try:
            yield
        finally:
            self.capturing = False
            if self.broken:
                self.broken = False
                raise RuntimeError("operation failed due to a previous error during capture")
            self.underway.remove(pool)
            self.generator_waits = False
            self.current = before

    def end(self, device, pool):
        if pool not in self.underway:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.underway.remove(pool)

    def wait(self, unseen=False):
        """What a network does that reads a value; torch does not see all ways to do it."""
        if self.capturing:
            self.broken = True
            raise RuntimeError("operation not permitted when stream is capturing")
        if self.mode == 1 and not unseen:
            warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=2)

    @property
    def clean(self):
        """Whether nothing is left of a recording."""
        return not self.underway and not self.generator_waits and self.current is self.main


@pytest.fixture
def cuda(monkeypatch):
    return Cuda(monkeypatch)


@pytest.fixture
def recorder(cuda):
    return CudaGraphs(torch.device("cuda"))


def test_all_is_done_on_one_stream(cuda, recorder):
    streams = list[Stream]()
    for _ in range(2):
        recorded = Recorded(recorder, warm=3)
        for _ in range(4):
            recorded(lambda: streams.append(cuda.current))
    assert cuda.streams == 1
    assert len(streams) == 8
    assert set(streams) == {recorder.stream}
    assert cuda.clean
    assert len(cuda.main.waited) == len(recorder.stream.waited) == 6


def test_there_is_one_recorder_for_a_device(cuda):
    recorder_for.cache_clear()
    try:
        assert recorder_for(torch.device("cpu")) is None
        one = recorder_for(torch.device("cuda", 0))
        assert one is recorder_for(torch.device("cuda", 0))
        assert cuda.streams == 0  # where nothing is recorded
        assert one.stream is one.stream
        assert cuda.streams == 1
    finally:
        recorder_for.cache_clear()


def test_work_that_waits_is_not_begun_to_be_recorded(cuda, recorder):
    """It is done as often as it is asked for, and said with the line that waits."""
    done = []

    def work():
        done.append(1)
        cuda.wait()

    recorded = Recorded(recorder, warm=3)
    for _ in range(6):
        recorded(work)
    assert len(done) == 6
    assert cuda.recordings == 0
    assert recorded.why_not == f"it waits for the device, at test_recording.py:{work.__code__.co_firstlineno + 2}"
    assert cuda.clean
    assert cuda.mode == 0


def test_what_else_is_warned_of_while_it_is_watched_is_still_said(cuda, recorder):
    with pytest.warns(UserWarning, match="of the network's own") as said:
        assert recorder.rehearse(lambda: warnings.warn("of the network's own", stacklevel=1)) == ""
    assert len(said) == 1


def test_what_was_said_of_waiting_holds_again_where_work_fails(cuda, recorder):
    def work():
        raise ValueError("of the network's own")

    with pytest.raises(ValueError, match="own"):
        recorder.rehearse(work)
    assert cuda.mode == 0
    assert cuda.clean


def test_a_recording_that_breaks_leaves_nothing_behind(cuda, recorder):
    """Where torch does not see beforehand that work waits; the cause is said, not that something had failed before."""
    done = []

    def work():
        done.append(cuda.current)
        cuda.wait(unseen=True)

    recorded = Recorded(recorder, warm=1)
    for _ in range(3):
        recorded(work)
    assert "operation not permitted when stream is capturing" in recorded.why_not
    assert cuda.clean
    assert cuda.released == [1]
    assert done == [
        recorder.stream,
        recorder.stream,
        cuda.main,
        cuda.main,
    ]  # one was lost in the attempt, three were done
    another = Recorded(recorder, warm=0)
    another(lambda: None)
    assert another.why_not == ""
    assert cuda.clean


def test_a_request_to_stop_breaks_a_recording_off_and_is_heard(cuda, recorder):
    def work():
        cuda.broken = True
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recorder.record(work)
    assert cuda.clean


@pytest.mark.parametrize("breaks", [False, True])
def test_nothing_is_collected_while_it_is_recorded(cuda, recorder, breaks):
    collects = []

    def work():
        collects.append(gc.isenabled())
        if breaks:
            cuda.wait(unseen=True)

    Recorded(recorder, warm=0)(work)
    assert collects == [False] + [True] * breaks
    assert gc.isenabled()


def test_a_recording_keeps_nobody_alive():
    class Owner:
        def __init__(self):
            self.recorded = Recorded(Tape(), warm=1)

        def work(self):
            pass

    owner = Owner()
    for _ in range(3):
        owner.recorded(owner.work)
    assert owner.recorded.replay is not None
    alive = weakref.ref(owner)
    gc.disable()
    try:
        del owner
        assert alive() is None
    finally:
        gc.enable()
