"""Stopping: a request to stop is heard at once where nothing can be lost, and between two pieces of work elsewhere.

SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGHUP (the terminal was closed) are such requests; one that is ignored already, as
``nohup`` does with SIGHUP, stays ignored. Two kinds of block take them:

    stop_requests()   collects them: the block looks at its list where its work is whole
    interruptible()   raises `StopRequest` wherever the block is, as Ctrl-C does by itself

The innermost block decides. All share one list, so that a request that comes in the last step of a run stops whatever trains run
after run too. The second request leaves at once, whatever the block.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gendiff.command import again
from gendiff.errors import Stopped

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name)
)
TOGETHER = 0.2  # seconds in which signals are one request
_listening: list[int] = []  # the signal whose companions are waited for, if one is
_requests: list[int] = []  # since the outermost block began
_blocks: list[bool] = []  # whether each, the innermost last, is interruptible


class StopRequest(KeyboardInterrupt):
    """A request to stop, raised where it came: nothing that catches `Exception` holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect stop signals instead of dying of them; the second one leaves at once."""
    with _block(False):
        yield _requests


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `StopRequest` inside the block as soon as a stop signal comes, and on entry where one came before."""
    with _block(True):
        heed()
        yield


def heed() -> None:
    """Raise `StopRequest` where one waits: code of others may have swallowed it when it came."""
    if _requests and _blocks[-1:] == [True]:
        raise StopRequest(_requests[0])


def listen_to(number: int) -> None:
    """In a process that another one stops, which hears for both: take this signal, and no other, for a request."""
    for other in STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    _requests.clear()
    _listening.clear()
    signal.signal(number, _hear)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*STOP_SIGNALS, number})


@contextmanager
def waiting_signals(number: int) -> Iterator[None]:
    """Let requests to stop, and the signal ``number``, wait while the block lasts, here and in a process that is started in it.

    That process may take seconds until it can hear: until it says `listen_to`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP_SIGNALS, number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def within(minutes: float | None) -> Iterator[None]:
    """Ask this process to stop, by SIGUSR1, once the block has lasted so long; None lets it last.

    What is stopped before it has anything to go on with goes on by the same command: then `Stopped` says so.
    """
    if minutes is None:
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGALRM, ask)
    signal.setitimer(signal.ITIMER_REAL, 60 * minutes)
    try:
        yield
    except StopRequest as stop:
        raise stopped("", stop.number, "every file that was written is whole", again()) from stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _block(at_once: bool) -> Iterator[None]:
    outermost = not _blocks and threading.current_thread() is threading.main_thread()  # no other may set handlers
    previous = {number: signal.getsignal(number) for number in STOP_SIGNALS} if outermost else {}
    _blocks.append(at_once)
    try:
        for number, handler in previous.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _hear)
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        _blocks.pop()
        if not _blocks:
            _requests.clear()


def _hear(number: int, frame: FrameType | None) -> None:
    if _listening or (_requests and number == getattr(signal, "SIGHUP", None)):
        return
    _requests.append(number)
    if len(_requests) > 1:
        os._exit(128 + number)
    if TOGETHER:
        _listening.append(number)
        try:
            time.sleep(TOGETHER)  # in which this function is called for each companion
        finally:
            _listening.clear()
    heed()


def stopped(where: str, number: int, remark: str = "", go_on: str = "") -> Stopped:
    """The error that reports a stop on request: exit code 130 for Ctrl-C, 75 for other signals."""
    what = " ".join(["stopped", *filter(None, [where]), "on", signal.Signals(number).name])
    error = Stopped("; ".join(filter(None, [what, remark])), fix=f"go on: {go_on}" if go_on else "")
    error.exit_code = 130 if number == signal.SIGINT else 75
    error.signal = number
    return error
