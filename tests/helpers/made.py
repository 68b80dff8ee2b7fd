"""Made: data that are made as they are asked for, and packed in processes that are killed."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import torch
from runs import exit_code, forked

from gendiff.data import Data
from gendiff.datasets.packing import pack
from gendiff.errors import DataError

SHAPE = (2, 3, 5)


class Made(Data):
    """events of 8 bits, some of which cannot be read."""

    name = "made"
    count: int = 11
    bad: tuple[int, ...] = ()
    shape: tuple[int, ...] = SHAPE

    @property
    def event_shape(self):
        return self.shape

    @property
    def length(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise DataError(f"event {index} is broken", where="made", details=["it is torn"], fix="mend it")
        return torch.from_numpy(values(index, self.shape)) / 127.5 - 1

    @property
    def fingerprint(self):
        return f"made/1 {self.count}"  # not of ``bad``: files break between two attempts


def values(index, shape=SHAPE):
    return np.random.default_rng(index).integers(0, 256, shape, dtype=np.uint8)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kill_and_go_on(folder, rng, workers):
    """Pack in forked processes that are killed, until one ends by itself; how many were killed.

    Moments follow what the process has done, not the clock: a machine that is slow gives the same mixture.
    """
    kills = 0
    while True:
        reading, writing = os.pipe()
        child = forked(lambda to=writing: pack(Made(), folder, workers=workers, watch=lambda *_: os.write(to, b".")))
        os.close(writing)
        chunks = rng.randrange(8)
        while chunks and os.read(reading, 1):
            chunks -= 1
        if not chunks:
            time.sleep(rng.random() * 0.004)
            os.kill(child, signal.SIGKILL)  # it may have ended by itself just now: it is not reaped yet
        code = exit_code(child)
        os.close(reading)
        if code == 0:
            return kills
        assert code == -signal.SIGKILL
        kills += 1
