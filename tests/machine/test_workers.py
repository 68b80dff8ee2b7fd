"""Data processes: the same order and results for any number, errors whole, and none outlives its owner."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing

import pytest
import torch
from runs import exit_code, forked

from gendiff.errors import DataError
from gendiff.machine.workers import default_workers, in_order


def square(k):
    time.sleep(0.01 * (k % 3 == 0))  # some take longer
    return k * k


def fail_at_four(k):
    if k >= 4:
        raise DataError(f"no {k}", where="here", details=["torn"], fix="mend it")
    return k


def threads(k):
    return torch.get_num_threads()


def names(k):
    return os.getpid()


@pytest.mark.parametrize("workers", [0, 1, 3])
class TestAnyNumber:
    def test_results_come_in_order(self, workers):
        assert list(in_order(square, range(20), workers)) == [k * k for k in range(20)]
        assert list(in_order(square, [], workers)) == []

    def test_the_first_error_in_the_order_arrives_whole(self, workers):
        seen = []
        with pytest.raises(DataError) as caught:
            seen += in_order(fail_at_four, range(9), workers)
        assert str(caught.value) == "no 4 (from here)\n  torn\n  mend it"

    def test_what_came_before_an_error_is_given(self, workers):
        found = in_order(fail_at_four, range(9), workers)
        assert [next(found) for _ in range(4)] == [0, 1, 2, 3]
        with pytest.raises(DataError):
            next(found)

    def test_they_compute_on_one_thread_and_leave_ours_alone(self, workers):
        torch.set_num_threads(2)
        try:
            assert set(in_order(threads, range(6), workers)) == {1}
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(1)

    def test_closing_ends_them(self, workers):
        with closing(in_order(names, range(100), workers)) as found:
            processes = {next(found) for _ in range(6)}
        assert len(processes) == max(workers, 1)
        assert (os.getpid() in processes) == (workers == 0)
        for process in processes - {os.getpid()}:
            with pytest.raises(ProcessLookupError):
                os.kill(process, 0)


@pytest.mark.parametrize("at_once", [True, False])
def test_no_process_outlives_an_owner_that_is_killed(at_once):
    """Also one that had not yet begun, and one that waits for what will never come."""
    reading, writing = os.pipe()

    def work(k):
        os.write(writing, f"{os.getpid()}\n".encode())
        if not at_once:
            threading.Event().wait()
        time.sleep(100)

    owner = forked(lambda: list(in_order(work, range(8), 2)))
    os.close(writing)
    told = b""
    while told.count(b"\n") < (1 if at_once else 2):
        told += os.read(reading, 100)
    os.kill(owner, signal.SIGKILL)
    assert exit_code(owner) == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while part := os.read(reading, 100):  # the end of the pipe: the last process that could write is gone
        told += part
        assert time.monotonic() < deadline
    assert told.count(b"\n") <= 2
    os.close(reading)


def test_as_many_as_there_are_cores(monkeypatch):
    for cores, expected in ((1, 0), (2, 2), (96, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        assert default_workers() == expected
