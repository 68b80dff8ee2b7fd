"""Threads: how many work on one tensor, and who chose that number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gendiff.machine.load import cores

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # where torch looks for a number, the first before the second


def reason() -> str:
    """Why there are as many threads as there are, in a phrase."""
    count, own = torch.get_num_threads(), len(cores())
    for name in VARIABLES:
        if os.environ.get(name, "").partition(",")[0].strip() == str(count):
            by = ", which torchrun sets" if "TORCHELASTIC_RUN_ID" in os.environ and count == 1 else ""
            return f"{name}={count}{by}"
    if count == own:
        return "one for each core that this process may use" if own > 1 else "this process may use one core"
    return f"torch's own choice, where this process may use {own} core{'s' * (own > 1)}"


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread inside the block: on many small matrices several would mostly wait for each other. Also a decorator."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
