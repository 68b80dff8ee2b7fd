"""Tests of what only a GPU does: ``python -m pytest tests/gpu`` where there is one; other runs leave this folder out.

``--rehearse`` runs the same on a CPU, recorded on a tape: whether the tests themselves are sound is seen without a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from tape import Tape, recording

from gendiff.machine.determinism import FIXED, WORKSPACE

os.environ.setdefault(WORKSPACE, FIXED[0])  # some runs here repeat themselves: it must be said before CUDA begins


def pytest_addoption(parser):
    parser.addoption("--rehearse", action="store_true", help="do on a CPU what is for a GPU")


def pytest_sessionstart(session):
    if not session.config.getoption("--rehearse") and not torch.cuda.is_available():
        raise pytest.UsageError("tests/gpu needs a GPU; --rehearse runs the same on a CPU")


def pytest_collection_modifyitems(items):
    """What torch warns of on a GPU is no failure; that a step or a network is not recorded is one."""
    allowed = pytest.mark.filterwarnings("default", "error:.* launched kernel by kernel")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(allowed)


@pytest.fixture
def device(request, monkeypatch) -> torch.device:
    """The GPU; in a rehearsal the CPU, which then records and is read late as a GPU is."""
    if not request.config.getoption("--rehearse"):
        return torch.device("cuda")
    tape = Tape()
    recording(monkeypatch, tape)
    monkeypatch.setattr("gendiff.run.generation.recorder_for", lambda device: tape)
    return torch.device("cpu")
