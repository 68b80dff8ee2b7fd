"""Threads: how many work on one tensor, and who chose that number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from gendiff.machine import waiting
from gendiff.machine.load import BUSY, Load, allowance, cores

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # where torch looks for a number, the first before the second
STANDARD = torch.get_num_threads()  # before anybody told torch another number


@dataclass(frozen=True)
class Threads:
    """How many, and why: a phrase."""

    count: int
    because: str

    def use(self) -> Threads:
        """Let torch have so many from here on."""
        if self.count != torch.get_num_threads():
            torch.set_num_threads(self.count)
        return self


def chosen(asked: int | None, load: Load, before: int | None = None, fixed: bool = False) -> Threads:
    """How many threads this process is to have: what the user said, or one for each core that others leave free.

    The number changes the last bits of a sum. So it is chosen once, before a run begins, and a run that goes on keeps it.

    Args:
        asked: by ``--threads``; None lets it be chosen.
        load: it has looked at this machine for a while.
        before: what a run that goes on had.
        fixed: whether nothing may depend on the moment, such as what other processes do.

    """
    threads = _chosen(asked, load, before, fixed)
    how = waiting.how() if threads.count > 1 else ""
    return replace(threads, because=f"{threads.because}; waiting: {how}") if how else threads


def _chosen(asked: int | None, load: Load, before: int | None, fixed: bool) -> Threads:
    most, own = torch.get_num_threads(), len(cores())
    if asked is not None:
        return Threads(asked, f"--threads {asked}")
    if by := by_user():
        return Threads(most, by)
    if most != STANDARD:
        return Threads(most, "as torch was told")
    if before is not None and before <= own:
        return Threads(before, "as the run had before")
    allowed, others = max(int(allowance()), 1), 0.0 if fixed else load.others() or 0.0
    free = max(round(allowed - others), 1)
    if others >= BUSY and free < min(most, allowed):
        return Threads(free, f"other processes keep {others:.1f} of {own} core{'s' * (own > 1)} busy")
    if allowed < most:
        return Threads(allowed, f"this process may have {allowance():.2g} of {own} cores")
    if most == own:
        return Threads(
            most, "one for each core that this process may use" if own > 1 else "this process may use one core"
        )
    return Threads(most, f"torch's own choice, where this process may use {own} core{'s' * (own > 1)}")


def by_user() -> str:
    """Which variable of the environment says how many there are, such as ``OMP_NUM_THREADS=2``; empty for none."""
    count = torch.get_num_threads()
    for name in VARIABLES:
        if os.environ.get(name, "").partition(",")[0].strip() == str(count):
            by = ", which torchrun sets" if "TORCHELASTIC_RUN_ID" in os.environ and count == 1 else ""
            return f"{name}={count}{by}"
    return ""


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside the block: on many small matrices several would mostly wait for each other. Also a decorator."""
    with so_many(1):
        yield


@contextmanager
def so_many(count: int) -> Iterator[None]:
    """So many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
