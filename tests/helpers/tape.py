"""A recorder on a CPU: the same path as CUDA graphs take, without any."""

from __future__ import annotations

import torch

from gendiff.training.trainer import Trainer


class Tape:
    """A recorder on a CPU: what it records is done when it is replayed, and only then."""

    def __init__(self):
        self.events = []

    def warm(self, work):
        self.events.append("warm")
        work()

    def record(self, work):
        self.events.append("record")

        def replay():
            self.events.append("replay")
            work()

        return replay


class Adam(torch.optim.Adam):
    """That of a GPU wants `capturable`, that of a CPU has none."""

    def __init__(self, parameters, lr, fused=None, capturable=False, **how):
        super().__init__(parameters, lr, fused=fused, **how)


def recording(monkeypatch, tape, late=True):
    """Trainers made from now on record their steps, and read them late."""
    monkeypatch.setattr("gendiff.training.trainer.recorder_for", lambda device: tape)
    monkeypatch.setattr(Trainer, "late", late)
    monkeypatch.setattr(torch.optim, "Adam", Adam)
