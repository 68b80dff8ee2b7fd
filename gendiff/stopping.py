"""Stopping: a request to stop is heard between two pieces of work, never in the middle of one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gendiff.errors import Stopped

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
_in_force: list[list[int]] = []  # the requests of the outermost block, where there is one


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect stop signals instead of dying of them; the second one leaves at once.

    A block inside another one has the same list: a request that comes in the last step of a run stops whatever trains
    run after run too.
    """
    if _in_force:
        yield _in_force[0]
        return
    requested: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        requested.append(number)
        if len(requested) > 1:
            os._exit(128 + number)

    previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    _in_force.append(requested)
    try:
        yield requested
    finally:
        _in_force.clear()
        for number, handler in previous.items():
            signal.signal(number, handler)


def stopped(where: str, number: int, kept: str, go_on: str) -> Stopped:
    """The error that reports a stop on request: exit code 130 for Ctrl-C, 75 for other signals."""
    error = Stopped(f"stopped {where} on {signal.Signals(number).name}; {kept}", fix=f"go on: {go_on}")
    error.exit_code = 130 if number == signal.SIGINT else 75
    return error
