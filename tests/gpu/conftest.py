"""Tests of what only a GPU does: ``python -m pytest tests/gpu`` where there is one; other runs leave this folder out.

``--known FOLDER`` goes on where a run was ended: what has passed is not run again. ``--rehearse`` runs the same on a CPU,
recorded on a tape: whether the tests themselves are sound is seen without a GPU.
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
    parser.addoption("--known", type=Path, help="a folder that keeps which tests have passed, and those are left out")


def pytest_sessionstart(session):
    if not session.config.getoption("--rehearse") and not torch.cuda.is_available():
        raise pytest.UsageError("tests/gpu needs a GPU; --rehearse runs the same on a CPU")


def passed(config) -> Path | None:
    """The file with the names of tests that have passed, a line each."""
    known = config.getoption("--known")
    return None if known is None else known / "passed.txt"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Keep that a test has passed."""
    report = yield
    if (file := passed(item.config)) and report.when == "call" and report.passed:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(item.nodeid + "\n")
    return report


def pytest_collection_modifyitems(config, items):
    """What torch warns of on a GPU is no failure; that a step or a network is not recorded is one."""
    if (file := passed(config)) and file.is_file():
        known = set(file.read_text(encoding="utf-8").splitlines())
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in known])
        items[:] = [item for item in items if item.nodeid not in known]
    allowed = pytest.mark.filterwarnings("default", "error:.* launched kernel by kernel")
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(allowed)


def pytest_sessionfinish(session, exitstatus):
    """That nothing is left to be run is no failure."""
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and passed(session.config):
        session.exitstatus = pytest.ExitCode.OK


@pytest.fixture
def device(request, monkeypatch) -> torch.device:
    """The GPU; in a rehearsal the CPU, which then records and is read late as a GPU is."""
    if not request.config.getoption("--rehearse"):
        return torch.device("cuda")
    tape = Tape()
    recording(monkeypatch, tape)
    monkeypatch.setattr("gendiff.run.generation.recorder_for", lambda device: tape)
    return torch.device("cpu")
