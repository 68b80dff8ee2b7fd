"""Data processes: work that is done in order by any number of processes, with the same result for each number."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from gendiff.errors import GendiffError
from gendiff.machine.stopping import STOP_SIGNALS, interruptible

T = TypeVar("T")
END = object()


def begin_data_process(owner: int, worker: int, threads: int = 1) -> None:
    """What a process that prepares data does first: compute on so many threads, outlive requests to stop, and not its owner.

    Signals meant for its owner reach it too, and the owner needs it until it stops itself. SIGTERM is also how a forgotten
    worker is ended, so that one is only put off.

    Args:
        owner: the id of the process that it works for.
        worker: its number among the processes of a loader.
        threads: how many.

    """
    for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(60) and None)
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    torch.set_num_threads(threads)


def _end_with(owner: int) -> None:
    """The loader watches its owner too, but not from the first moment, and not while it waits for a lock that died with it."""
    while os.getppid() == owner:
        time.sleep(1)
    os._exit(1)


def default_workers() -> int:
    """As many processes as there are cores for this one, and 16 at most; 0, which is no other process, where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores == 1 else min(cores, 16)


class DataProcessDied(GendiffError):
    """A process that prepares data has ended without a word (exit code 1)."""


class InOrder(Dataset[Any], Generic[T]):
    """``work(item)`` as the data set of a loader; a `GendiffError`, and an error of the system such as a full disk, comes back
    whole: the loader would keep only its text.
    """

    def __init__(self, work: Callable[[Any], T]) -> None:
        self.work = work

    def __getitem__(self, item: Any) -> T | GendiffError | OSError:
        try:
            return self.work(item)
        except GendiffError as error:
            return error
        except OSError as error:
            if error.errno is None:
                raise
            return error


def in_order(
    work: Callable[[Any], T], items: Sequence[Any], workers: int, threads: int = 1, fewer: str = "--workers 1"
) -> Generator[T, None, None]:
    """``work(item)`` for each item, in their order; closing the generator ends the processes.

    Args:
        work: a function of the item alone, which can be pickled.
        workers: how many processes share the work; 0 does it in this one.
        threads: of each process, and of this one meanwhile.
        fewer: the option that asks for fewer processes.

    Raises:
        GendiffError: the first that ``work`` raises, in the order of the items, and where a process dies.
        StopRequest: inside a block of `interruptible`, as soon as a request to stop comes while an outcome is waited for.

    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are cores: as it was asked
        loader = DataLoader(
            InOrder(work),
            batch_size=None,  # an item already is a chunk
            sampler=items,
            num_workers=min(workers, len(items)),
            worker_init_fn=partial(begin_data_process, os.getpid(), threads=threads),
            collate_fn=_as_it_is,
        )
    outcomes = loaded(loader, fewer)
    del loader
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # as in other processes: the number changes the last bits of a sum
    try:
        while True:
            with interruptible():  # one may take long, and nothing of it is lost that could not be done again
                outcome: Any = next(outcomes, END)
            if outcome is END:
                return
            yield outcome
    finally:
        torch.set_num_threads(before)
        outcomes.close()


def loaded(loader: DataLoader[Any], fewer: str) -> Generator[Any, None, None]:
    """What a loader of `InOrder` gives; closing the generator ends its processes.

    Args:
        fewer: the option that asks for fewer processes.

    Raises:
        GendiffError: that which the work raised, and where a process dies, always from here: torch would raise that error
            wherever this process happens to be, in the middle of an optimiser step too.

    """
    last_word, handler = "", signal.getsignal(signal.SIGCHLD)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are cores: as it was asked
        outcomes = iter(loader)
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
    try:
        for outcome in outcomes:
            if isinstance(outcome, GendiffError | OSError):
                raise outcome
            yield outcome
    except (
        RuntimeError,
        OSError,
        EOFError,
    ) as error:  # or a pipe that breaks, before the loader looks after its processes
        if not str(error).startswith("DataLoader worker") and not _one_is_dead(getattr(outcomes, "_workers", ())):
            raise
        last_word = str(error).partition("\n")[0] or "it left no word"
    finally:
        for process in getattr(outcomes, "_workers", ()):
            process.kill()  # nobody waits for what they are at, and the loader would, for seconds
        del outcomes, loader  # their processes end now, and not when the traceback of an error goes
    if last_word:
        raise DataProcessDied(
            "a data process has died: it was killed, most likely for want of memory, or its code crashed",
            details=[last_word],
            fix=f"make room in memory, or use fewer processes: {fewer}",
        )


def _one_is_dead(processes: Iterable[BaseProcess]) -> bool:
    """Whether one of them has ended, or does within a second: a pipe breaks a moment before."""
    return bool(wait([process.sentinel for process in processes], 1))


def _as_it_is(outcome: T) -> T:
    return outcome
