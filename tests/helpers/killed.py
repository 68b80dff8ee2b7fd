"""Killed: a training in processes that are killed, until one ends by itself."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time

import pytest
from faults import Watched, at
from runs import exit_code, forked, train

from gendiff.run import checkpoint
from gendiff.run.directory import Run


def train_and_die_saving(run: Run, operation: int) -> None:
    """Train, and be killed before a certain file operation of the saves."""
    files = Watched(at(operation, lambda *event: os.kill(os.getpid(), signal.SIGKILL)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "Files", lambda: files)
        train(run)


def kill_and_resume(run: Run, rng: random.Random, at_least: int = 0) -> int:
    """Train in forked processes that are killed, at any moment or inside a save, until one ends by itself.

    Moments follow what the process has done, not the clock: a machine that is slow gives the same mixture.
    """
    kills = 0
    while True:
        reading, writing = os.pipe()

        operation = rng.randrange(25) if rng.random() < 0.3 else None

        def attempt(writing=writing, operation=operation):
            if operation is not None:
                train_and_die_saving(run, operation)
            else:
                train(run, report=lambda progress: os.write(writing, b"."))

        child = forked(attempt)
        os.close(writing)
        steps = rng.randrange(0, 9)
        while steps and os.read(reading, 1):
            steps -= 1
        if not steps:
            time.sleep(rng.random() * 0.03)
            os.kill(child, signal.SIGKILL)  # it may have ended by itself just now: it is not reaped yet
        os.close(reading)
        code = exit_code(child)
        if code == 0 and kills >= at_least:
            return kills
        assert code in (0, -9)
        kills += code == -9
        if code == 0:  # too few: begin again
            shutil.rmtree(run.checkpoints)
            run.metrics.unlink()
