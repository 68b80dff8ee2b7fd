"""Data processes: work that is done in order by any number of processes, with the same result for each number."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from gendiff.errors import GendiffError

T = TypeVar("T")


def begin_data_process(owner: int, worker: int) -> None:
    """What a process that prepares data does first: compute on one thread, outlive requests to stop, and not its owner.

    Signals meant for its owner reach it too, and the owner needs it until it stops itself. SIGTERM is also how a forgotten
    worker is ended, so that one is only put off.

    Args:
        owner: the id of the process that it works for.

    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(60) and None)
    threading.Thread(target=_end_with, args=(owner,), daemon=True).start()
    torch.set_num_threads(1)


def _end_with(owner: int) -> None:
    """The loader watches its owner too, but not from the first moment, and not while it waits for a lock that died with it."""
    while os.getppid() == owner:
        time.sleep(1)
    os._exit(1)


def default_workers() -> int:
    """As many processes as there are cores for this one, and 16 at most; 0, which is no other process, where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores == 1 else min(cores, 16)


class InOrder(Dataset[Any], Generic[T]):
    """``work(item)`` as the data set of a loader; a `GendiffError` comes back whole: the loader would keep only its text."""

    def __init__(self, work: Callable[[Any], T]) -> None:
        self.work = work

    def __getitem__(self, item: Any) -> T | GendiffError:
        try:
            return self.work(item)
        except GendiffError as error:
            return error


def in_order(work: Callable[[Any], T], items: Sequence[Any], workers: int) -> Generator[T, None, None]:
    """``work(item)`` for each item, in their order; closing the generator ends the processes.

    Args:
        work: a function of the item alone, which can be pickled.
        workers: how many processes share the work; 0 does it in this one.

    Raises:
        GendiffError: the first that ``work`` raises, in the order of the items, and where a process dies.

    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more than there are cores: as it was asked
        loader = DataLoader(
            InOrder(work),
            batch_size=None,  # an item already is a chunk
            sampler=items,
            num_workers=min(workers, len(items)),
            worker_init_fn=partial(begin_data_process, os.getpid()),
            collate_fn=_as_it_is,
        )
        outcomes = iter(loader)
    died, threads = "", torch.get_num_threads()
    torch.set_num_threads(1)  # as in other processes: the number changes the last bits of a sum
    try:
        for outcome in outcomes:
            if isinstance(outcome, GendiffError):
                raise outcome
            yield outcome
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        died = str(error).partition("\n")[0]
    finally:
        torch.set_num_threads(threads)
        del outcomes, loader  # their processes end now, and not when the traceback of an error goes
    if died:
        fix = "look for a lack of memory, and try fewer processes: --workers 1"
        raise GendiffError("a data process has died", details=[died], fix=fix)


def _as_it_is(outcome: T) -> T:
    return outcome
