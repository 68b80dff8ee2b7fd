"""Load: what other processes use of the cores of this one, and how many threads there are and why."""

from __future__ import annotations

import os

import pytest
import torch
from gendiff_cli import training

from gendiff.machine import load, threads
from gendiff.machine.load import Load, cores
from gendiff.machine.memory import most_resident, resident


class Machine:
    """One with cores 0 to 3, of which this process may use 1 and 2; times in seconds."""

    def __init__(self, monkeypatch, path):
        self.file, self.now, self.own, self.busy = path / "stat", 100.0, 3.0, [0.0] * 4
        monkeypatch.setattr(load, "STAT", self.file)
        monkeypatch.setattr(load, "cores", lambda: [1, 2])
        monkeypatch.setattr(load.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(load.os, "times", lambda: (self.own, 0.0, 0.0, 0.0, self.now))
        monkeypatch.setattr(load.os, "sysconf", lambda name: 100)
        self.write()

    def write(self):
        lines = [
            f"cpu{core} {int(busy * 60)} 0 {int(busy * 40)} 999 5 0 0 0 0 0" for core, busy in enumerate(self.busy)
        ]
        self.file.write_text("\n".join(["cpu  9 9 9 9 9 9 9 9 0 0", *lines, "intr 5"]))

    def after(self, seconds, own=0.0, busy=(0.0, 0.0, 0.0, 0.0)):
        self.now += seconds
        self.own += own
        self.busy = [before + more for before, more in zip(self.busy, busy, strict=True)]
        self.write()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


def test_what_this_process_did_and_other_cores_are_not_counted(machine):
    look = Load()
    machine.after(2.0, own=1.5, busy=(2.0, 1.5, 1.0, 2.0))
    assert look.others() == pytest.approx(0.5)
    machine.after(2.0, own=2.0, busy=(0.0, 1.0, 1.0, 0.0))
    assert look.others() == pytest.approx(0.25)  # over all four seconds


def test_it_is_between_nothing_and_all_cores(machine):
    look = Load()
    machine.after(1.0, own=3.0, busy=(0.0, 1.0, 0.0, 0.0))
    assert look.others() == 0.0
    machine.after(1.0, busy=(0.0, 9.0, 9.0, 0.0))
    assert look.others() == 2.0


def test_too_soon_to_say(machine):
    look = Load()
    machine.after(0.1, busy=(0.0, 0.1, 0.1, 0.0))
    assert look.others() is None


@pytest.mark.parametrize("content", ["", "cpu1 1 2 3", "cpu1 a b c d e f g h", "cpu1 1 1 1 1 1 1 1 1"])
def test_where_the_kernel_says_nothing_of_these_cores(machine, content):
    look = Load()
    machine.after(1.0)
    machine.file.write_text(content)
    assert look.others() is None
    assert Load().others() is None
    machine.file.unlink()
    assert look.others() is None


def test_this_machine_has_cores():
    assert cores()
    assert set(cores()) <= set(range(os.cpu_count() * 8))
    assert Load().others() in (None, *[pytest.approx(n, abs=1) for n in range(len(cores()) + 1)])


@pytest.mark.parametrize(
    ("variables", "own", "said"),
    [
        ({"OMP_NUM_THREADS": "3"}, 8, "OMP_NUM_THREADS=3"),
        ({"MKL_NUM_THREADS": "3"}, 8, "MKL_NUM_THREADS=3"),
        ({"OMP_NUM_THREADS": "3,2"}, 8, "OMP_NUM_THREADS=3"),
        ({"OMP_NUM_THREADS": "7"}, 3, "one for each core that this process may use"),
        ({}, 3, "one for each core that this process may use"),
        ({}, 8, "torch's own choice, where this process may use 8 cores"),
        ({}, 1, "torch's own choice, where this process may use 1 core"),
    ],
)
def test_why_there_are_so_many_threads(monkeypatch, variables, own, said):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(threads, "cores", lambda: list(range(own)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert threads.reason() == said


def test_torchrun_sets_one_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert threads.reason() == "OMP_NUM_THREADS=1, which torchrun sets"


@pytest.mark.parametrize(
    ("others", "own", "count", "said"),
    [
        (1.0, 2, 2, "other processes keep 1.0 of 2 cores busy: steps take longer than they would alone, "
         "and with 2 threads much longer: OMP_NUM_THREADS=1 gendiff ..."),
        (1.6, 2, 1, "other processes keep 1.6 of 2 cores busy: steps take longer than they would alone"),
        (6.2, 8, 8, "other processes keep 6.2 of 8 cores busy: steps take longer than they would alone, "
         "and with 8 threads much longer: OMP_NUM_THREADS=2 gendiff ..."),
        (1.0, 2, 1, ""),  # there is a core for the one thread
        (4.0, 8, 4, ""),
        (0.3, 2, 2, ""),
        (None, 2, 2, ""),
    ],
)  # fmt: skip
def test_what_is_noted_of_busy_cores(capsys, others, own, count, said):
    facts = {"cores_others_use": others, "cores": own, "threads": count, "device": "cpu"}
    training._remark_load(facts)
    assert capsys.readouterr().err == (f"note: {said}\n" if said else "")
    training._remark_load({**facts, "device": "cuda:0"})
    assert capsys.readouterr().err == ""


def test_memory_of_this_process():
    assert 2**20 < resident() <= most_resident() + 2**26
