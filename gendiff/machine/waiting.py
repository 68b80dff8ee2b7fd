"""Waiting: how long a thread looks for work by turning round and round before it sleeps; said before torch is loaded, or never.

Threads that share the work on a tensor meet after every operation. By itself OpenMP lets who comes first turn round for
milliseconds, which is time that a core takes from whoever else has work: on two cores, two trainings of two threads each take an
eighth of what one does alone. A turn of microseconds costs nothing where all cores are free, and lets neighbours live.

This module does not import torch.
"""

from __future__ import annotations

import os
import sys

VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # by which a user says it
TURNS = "1000"  # some microseconds


def wait_briefly() -> bool:
    """Let threads turn round for microseconds alone, unless a user says how long or torch is there: whether that is so."""
    if "torch" in sys.modules or any(name in os.environ for name in VARIABLES):
        return False
    os.environ["GOMP_SPINCOUNT"] = TURNS
    return True


def how() -> str:
    """Who said how long they wait, such as ``OMP_WAIT_POLICY=passive``; empty where nobody did."""
    return next((f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ), "")
