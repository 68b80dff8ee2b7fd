"""A recorder on a CPU: the same path as CUDA graphs take, without any."""

from __future__ import annotations

from weakref import WeakMethod

import torch

from gendiff.training.trainer import Trainer


class Tape:
    """A recorder on a CPU: what it records is done when it is replayed, and only then.

    As a recording on a GPU it keeps nobody alive. ``fault`` is what it sees when it watches, ``broken`` what it raises when it
    records.
    """

    def __init__(self, fault="", broken=None):
        self.events = []
        self.fault = fault
        self.broken = broken

    def warm(self, work):
        self.events.append("warm")
        work()

    def rehearse(self, work):
        self.events.append("rehearse")
        work()
        return self.fault

    def record(self, work):
        self.events.append("record")
        if self.broken is not None:
            raise self.broken
        again = WeakMethod(work)

        def replay():
            self.events.append("replay")
            again()()

        return replay


class Adam(torch.optim.Adam):
    """That of a GPU wants `capturable`, that of a CPU has none."""

    def __init__(self, parameters, lr, fused=None, capturable=False, **how):
        super().__init__(parameters, lr, fused=fused, **how)


def recording(monkeypatch, tape, late=True):
    """Trainers made from now on record their steps, and read them late."""
    monkeypatch.setattr("gendiff.training.capture.recorder_for", lambda device: tape)
    monkeypatch.setattr(Trainer, "late", late)
    monkeypatch.setattr(torch.optim, "Adam", Adam)
