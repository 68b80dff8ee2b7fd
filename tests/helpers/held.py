"""Held: which events of a source training reads, as opposed to those that are held out."""

from __future__ import annotations

from contextlib import contextmanager
from unittest.mock import patch

from runs import ALONE, CPU

from gendiff.run.layers import Layer, resolve
from gendiff.training.trainer import Trainer

TINY = {"steps": 20, "batch": 2, "log_every": 3, "checkpoint_every": 5, "sample_every": 0}


def configured(data, hold_out, rotation="klt", velocity="spectrum-matched", **train):
    """A run of a process that learns from its data in every way there is."""
    table = {
        "N": 20,
        "sampler": "ancestral",
        "rotation": rotation,
        "velocity": velocity,
        "model": "mlp:width=4,depth=1",
    }
    return resolve(
        [Layer("the test", {**table, "data": data, "hold_out": hold_out, "train": {**TINY, **train}})]
    ).config


@contextmanager
def recorded(data):
    """The numbers of the events that are read of any data of that class inside the block."""
    numbers, read = set(), type(data).__getitem__

    def recording(self, index):
        numbers.add(int(index))
        return read(self, index)

    with patch.object(type(data), "__getitem__", recording):
        yield numbers


def trained_on(data, hold_out, epochs=1):
    """The numbers of the events that fitting and training read in so many epochs of batches of one, and of those held out."""
    with recorded(data) as numbers:
        trainer = Trainer(configured(data, hold_out, batch=1), CPU, ALONE)
        length = trainer.config.training.length or 10
        for step in range(1, epochs * length + 1):
            _ = trainer.batches[step]
    held_out = trainer.config.held_out
    return numbers, {int(index) for index in held_out._indices}
