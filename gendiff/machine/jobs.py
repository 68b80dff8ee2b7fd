"""Jobs: independent pieces of work, several at a time, each in a process of its own with threads of its own.

What a job comes to depends on its number of threads, and not on how many are done at a time. A job is a copy of this process
(fork), which is as quick as safe where this process has not begun with a GPU. Where it has, a process begins anew (spawn), which
takes seconds and what can be pickled: then a job is no piece of work, but a worker who takes what is free until nothing is left.
Nothing but what it says and what it comes to gets back. Requests to stop are heard by this process alone, which asks its jobs:
each ends where nothing of it is lost.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

import torch

from gendiff.errors import GendiffError, Stopped, failure
from gendiff.machine import stopping
from gendiff.machine.load import allowance
from gendiff.machine.memory import available, most_resident, resident

T = TypeVar("T")
Say = Callable[[Any], None]
ASK = getattr(signal, "SIGUSR2", signal.SIGTERM)  # no scheduler and no terminal sends it to a job too
PDEATHSIG = 1  # of prctl: the signal that comes when the parent ends
SPARE = 0.8  # of the memory that is free: what jobs may take together
LARGE = 24 * 2**30  # bytes free on a card that workers share by themselves
HALF = 0.5  # of what is free there: what workers may take together by themselves; what is measured takes memory too
MOST = 4  # workers on one card by themselves: a card that is busy gains nothing by more
CONTEXT = 2**30  # bytes that a process takes on a card before it computes


class JobDied(GendiffError):
    """The process of a job has ended without a word (exit code 1)."""


class Trace(Exception):
    """Where in the process of a job an error was raised, as text: the cause of that error here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class Job(Generic[T]):
    """A piece of work.

    Args:
        what: it is, for messages.
        work: what is to be done, in a process where it may do as it likes; it is given what says something to this one.
        memory: bytes that it takes at most, beyond those that it shares with this process.

    """

    what: str
    work: Callable[[Say], T]
    memory: int = 0


@dataclass(frozen=True)
class Crew:
    """How many jobs at a time, with how many threads each.

    Args:
        because: says why so many at a time.
        anew: whether they are workers in processes that begin anew, and not copies of this one.

    """

    at_once: int
    threads: int
    because: str = ""
    anew: bool = False

    @property
    def words(self) -> str:
        """For a line that says it."""
        each = "a thread" if self.threads == 1 else f"{self.threads} threads"
        return (
            f"{self.at_once} at a time, {each} each: {self.because}"
            if self.at_once > 1
            else f"one at a time: {self.because}"
        )

    def within(self, memory: int) -> Crew:
        """Fewer at a time, where there is no room for so many that take ``memory`` bytes each."""
        most = max(int(SPARE * available() / max(memory, 1)), 1)
        return self if most >= self.at_once else Crew(most, self.threads, f"there is memory for {most}")


ALONE = Crew(1, 1)  # in this process, with the threads that it has


def possible(device: torch.device) -> bool:
    """Whether jobs can be done at the same time: on a CPU, and where a process can be copied."""
    return device.type == "cpu" and sys.platform == "linux"


def shared(device: torch.device) -> bool:
    """Whether workers can share a device in processes of their own: a GPU, which no copy of a process can use."""
    return device.type == "cuda" and sys.platform == "linux"


def free_on(device: torch.device) -> int:
    """Bytes that are free on a GPU."""
    return int(torch.cuda.mem_get_info(device)[0])


def crew_on_card(
    count: int,
    asked: int | None,
    threads: int,
    free: Callable[[], int],
    each: Callable[[], int] | None = None,
) -> Crew:
    """So many workers on one GPU as are asked for; else one, or several where there is much room.

    Args:
        count: how many pieces of work there are in all.
        asked: ``--at-once``; None lets it be chosen.
        threads: of this process, which each worker has too: they decide the last bits of what is computed beside the GPU.
        free: says how many bytes are free on the card.
        each: says how many of them a worker takes; None: one worker, where nobody asks for more. It takes a while, and is not
            asked where the card is small.

    """
    if asked is not None:
        return Crew(asked, threads, f"--at-once {asked}", anew=asked > 1)
    if each is None:
        return Crew(1, threads, "on a GPU, one after the other")
    room = free()
    said = f"{room / 2**30:.0f} GiB of the card are free"
    if room < LARGE:
        return Crew(1, threads, said)
    takes = each() + CONTEXT
    number = max(min(int(HALF * room / takes), count, int(allowance()), MOST), 1)
    return Crew(number, threads, f"{said}, a run takes {takes / 2**30:.1f}", anew=number > 1)


def crew(count: int, asked: int | None, threads: int | None) -> Crew:
    """So many jobs at a time as there are cores, with a thread each; where more are asked for, one at a time in this process.

    A copy of a process whose threads have worked together has lost them, and would wait for them for ever (OpenMP), so that it
    has one. What other processes do makes no difference: a thread that waits for no other shares a core well.

    Args:
        count: how many jobs there are in all, done before or not.
        asked: ``--at-once``; None lets it be chosen.
        threads: of each job, where the user said how many.

    """
    cores = max(int(allowance()), 1)
    if threads is not None and threads > 1:
        return Crew(1, threads, f"{threads} threads work together")
    if asked is not None:
        return Crew(asked, 1, f"--at-once {asked}")
    return Crew(max(min(cores, count), 1), 1, f"there {'is one core' if cores == 1 else f'are {cores} cores'}")


def together(
    jobs: Sequence[Job[T]], crew: Crew, heard: Callable[[int, Any], None] = lambda number, said: None
) -> list[T]:
    """What each job comes to, in their order.

    They begin in this order, no more at a time than the crew has and than there is memory for; one is always worked on.

    Args:
        heard: hears what a job says, and which it is.

    Raises:
        Exception: the first that a job raises, when all others have been asked to stop, and have.
        JobDied: where a process is killed.
        StopRequest: inside a block of `interruptible`, when all jobs have stopped.

    """
    to_come, running, outcomes = list(enumerate(jobs)), dict[int, _Process[T]](), dict[int, T]()
    room = SPARE * available()
    with stopping.interruptible():
        try:
            while to_come or running:
                while to_come and len(running) < crew.at_once:
                    number, job = to_come[0]
                    if running and job.memory + sum(one.job.memory for one in running.values()) > room:
                        break
                    with stopping.stop_requests():  # one that came in between would leave a process that nobody knows
                        running[number] = _Process(job, crew.threads, crew.anew)
                    stopping.heed()
                    to_come.pop(0)
                ready = wait([one.pipe for one in running.values()])
                for number in [number for number, one in running.items() if one.pipe in ready]:
                    kind, said = running[number].hear()
                    if kind == "said":
                        heard(number, said)
                        continue
                    running.pop(number).end()
                    if kind == "failed":
                        raise said
                    outcomes[number] = said
        finally:
            with stopping.stop_requests():
                for process in running.values():
                    process.ask()
                for process in running.values():
                    process.end()
    return [outcomes[number] for number in range(len(jobs))]


def memory_of(work: Callable[[], object]) -> int:
    """The bytes that a piece of work takes at most, in a process that is forgotten; 0 where it cannot be done."""

    def grown(say: Say) -> int:
        before = resident()
        with suppress(Exception, SystemExit):  # whoever does it in earnest says better why
            work()
        return max(most_resident() - before, 0)

    try:
        return together([Job("what memory it takes", grown)], Crew(1, 1))[0]
    except JobDied:
        return int(available())


class _Process(Generic[T]):
    """A job that is worked on."""

    def __init__(self, job: Job[T], threads: int, anew: bool = False) -> None:
        self.job = job
        context: Any = multiprocessing.get_context("spawn" if anew else "fork")
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(job, threads, theirs, os.getpid()))
        if anew:
            resource_tracker.ensure_running()  # which would let signals through
            with stopping.waiting_signals(ASK):
                self.process.start()
            theirs.close()
            return
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of a fork beside threads, of which none is needed there
            self.process.start()
        theirs.close()

    def hear(self) -> tuple[str, Any]:
        """What it says next; ``("done", outcome)`` or ``("failed", error)`` at last."""
        try:
            kind, said, trace = self.pipe.recv()
        except (EOFError, OSError):
            return "failed", self._died()
        if isinstance(said, Stopped):
            return "failed", JobDied(said.what, details=["somebody else than this process stopped it"])
        if kind == "failed" and trace:
            said.__cause__ = Trace(trace)
        return kind, said

    def ask(self) -> None:
        """Ask it to stop."""
        if self.process.pid and self.process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, ASK)

    def end(self) -> None:
        """Wait until it has ended; what it still says is heard by nobody."""
        with suppress(EOFError, OSError):
            while True:
                self.pipe.recv_bytes()
        self.process.join()
        self.pipe.close()

    def _died(self) -> JobDied:
        self.process.join()
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return JobDied(
            f"the process of {self.job.what} has died: it was killed, most likely for want of memory, or its code crashed",
            details=[how],
            fix="make room in memory, or do one at a time: --at-once 1",
        )


def _work(job: Job[Any], threads: int, pipe: Connection, owner: int) -> None:
    """What the process of a job does."""
    stopping.listen_to(ASK)
    _end_with(owner)
    torch.set_num_threads(threads)

    def say(said: Any) -> None:
        pipe.send(("said", said, ""))

    try:
        with stopping.interruptible():
            outcome = "done", job.work(say), ""
    except stopping.StopRequest as request:
        outcome = "failed", stopping.stopped(job.what, request.number), ""
    except BaseException as error:
        outcome = "failed", _sendable(error), "".join(traceback.format_exception(error))
    try:
        pipe.send(outcome)
    except ConnectionError:
        return
    except Exception as error:  # what cannot be pickled
        pipe.send(("failed", GendiffError(f"{job.what} came to what cannot be sent: {error}"), ""))


def _end_with(owner: int) -> None:
    """Let the kernel end this process in the moment in which its owner ends: nobody else may find it at work then."""
    ctypes.CDLL(None).prctl(PDEATHSIG, signal.SIGKILL)
    if os.getppid() != owner:
        os._exit(1)


def _sendable(error: BaseException) -> Exception:
    """The error, or what it says where it would not arrive."""
    whole = error if isinstance(error, Exception) else failure(error)
    with suppress(Exception):
        pickle.loads(pickle.dumps(whole))  # our own
        return whole
    return RuntimeError(f"{type(whole).__name__}: {whole}")
