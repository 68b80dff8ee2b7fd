"""Load: what other processes use of the cores of this one, and how many threads there are and why."""

from __future__ import annotations

import os
import sys

import gendiff_cli.app
import pytest
import torch
from command import run
from gendiff_cli import training

from gendiff.machine import load, threads, waiting
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


class Seen:
    """A look at a machine."""

    def __init__(self, others):
        self.busy = others

    def others(self):
        return self.busy


@pytest.fixture
def torch_has(monkeypatch):
    """A torch with so many threads, on so many cores, of which a process may have a part."""

    def has(count, own, allowed=None, standard=None, **variables):
        for name in (*threads.VARIABLES, *waiting.VARIABLES):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(threads, "cores", lambda: list(range(own)))
        monkeypatch.setattr(threads, "allowance", lambda: float(own if allowed is None else allowed))
        monkeypatch.setattr(threads, "STANDARD", standard or count)
        monkeypatch.setattr(torch, "get_num_threads", lambda: count)

    return has


class TestChoice:
    @pytest.mark.parametrize(
        ("has", "count", "because"),
        [
            ({"own": 8, "OMP_NUM_THREADS": "3"}, 3, "OMP_NUM_THREADS=3"),
            ({"own": 8, "MKL_NUM_THREADS": "3"}, 3, "MKL_NUM_THREADS=3"),
            ({"own": 8, "OMP_NUM_THREADS": "3,2"}, 3, "OMP_NUM_THREADS=3"),
            ({"own": 3, "OMP_NUM_THREADS": "7"}, 3, "one for each core that this process may use"),
            ({"own": 3}, 3, "one for each core that this process may use"),
            ({"own": 8}, 3, "torch's own choice, where this process may use 8 cores"),
            ({"own": 8, "allowed": 2.5}, 2, "this process may have 2.5 of 8 cores"),
            ({"own": 8, "allowed": 0.5}, 1, "this process may have 0.5 of 8 cores"),
            ({"own": 8, "standard": 8}, 3, "as torch was told"),
            ({"own": 3, "OMP_WAIT_POLICY": "passive"}, 3,
             "one for each core that this process may use; waiting: OMP_WAIT_POLICY=passive"),
        ],
    )  # fmt: skip
    def test_on_a_quiet_machine(self, torch_has, has, count, because):
        torch_has(3, **has)
        for others in (None, 0.0, 0.4):
            assert threads.chosen(None, Seen(others)) == threads.Threads(count, because)

    @pytest.mark.parametrize(
        ("count", "own", "others", "chosen"),
        [
            (2, 2, 0.6, 1),
            (2, 2, 1.9, 1),
            (8, 8, 6.2, 2),
            (8, 8, 1.0, 7),
            (4, 8, 3.0, 4),
            (4, 8, 6.0, 2),
            (8, 8, 8.0, 1),
        ],
    )
    def test_as_many_as_cores_are_free(self, torch_has, count, own, others, chosen):
        torch_has(count, own)
        choice = threads.chosen(None, Seen(others))
        assert choice.count == chosen
        assert choice.because.startswith(f"other processes keep {others} of {own} cores busy") == (chosen < count)

    def test_what_the_user_says_and_what_a_run_had_stay(self, torch_has):
        torch_has(2, 2, OMP_NUM_THREADS="2")
        busy = Seen(2.0)
        assert threads.chosen(None, busy).count == 2
        assert threads.chosen(5, busy) == threads.Threads(5, "--threads 5")
        assert threads.chosen(None, busy, before=1).count == 2
        torch_has(2, 2)
        assert threads.chosen(None, busy, before=2) == threads.Threads(2, "as the run had before")
        assert threads.chosen(None, busy, before=3).count == 1  # there are not so many cores here
        assert threads.chosen(None, busy, fixed=True).count == 2

    def test_torchrun_sets_one_thread(self, torch_has, monkeypatch):
        torch_has(1, 2, OMP_NUM_THREADS="1")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
        assert threads.by_user() == "OMP_NUM_THREADS=1, which torchrun sets"

    def test_it_is_used_inside_a_block_and_for_good(self):
        with threads.so_many(2):
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 1
        assert threads.Threads(2, "").use().count == torch.get_num_threads() == 2
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("files", "allowed"),
    [
        ({}, 2.0),
        ({"cpu.max": "150000 100000"}, 1.5),
        ({"cpu.max": "max 100000"}, 2.0),
        ({"cpu.max": "900000 100000"}, 2.0),
        ({"cpu.max": "max 100000", "job/cpu.max": "50000 100000"}, 0.5),
        ({"job/cpu.max": "120000 100000", "job/step/cpu.max": "max 100000"}, 1.2),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 2.0),
        ({"cpu.max": "nonsense"}, 2.0),
    ],
)
def test_a_container_or_a_job_may_have_a_share_of_the_cores(monkeypatch, tmp_path, files, allowed):
    monkeypatch.setattr(load, "cores", lambda: [1, 2])
    monkeypatch.setattr(load, "CONTROL", tmp_path)
    monkeypatch.setattr(load, "GROUPS", tmp_path / "groups")
    (tmp_path / "groups").write_text("0::/job/step\n3:cpu,cpuacct:/\n2:memory:/other\n")
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert load.allowance() == allowed
    (tmp_path / "groups").unlink()
    assert load.allowance() in (allowed, 2.0)


class TestWaiting:
    @pytest.fixture(autouse=True)
    def nobody_says(self, monkeypatch):
        for name in waiting.VARIABLES:
            monkeypatch.setenv(name, "x")  # so that it is put back
            monkeypatch.delenv(name)

    def test_it_is_brief_where_nobody_says_how_long(self, monkeypatch):
        assert not waiting.wait_briefly()  # torch is there: too late
        assert waiting.how() == ""
        monkeypatch.delitem(sys.modules, "torch")
        assert waiting.wait_briefly()
        assert waiting.how() == f"GOMP_SPINCOUNT={waiting.TURNS}"

    @pytest.mark.parametrize("name", waiting.VARIABLES)
    def test_what_the_user_says_stays(self, monkeypatch, name):
        monkeypatch.setenv(name, "5")
        monkeypatch.delitem(sys.modules, "torch")
        assert not waiting.wait_briefly()
        assert waiting.how() == f"{name}=5"

    def test_a_command_says_it_before_torch_is_loaded(self, monkeypatch):
        seen = []
        monkeypatch.setattr(gendiff_cli.app, "_registry_of", lambda *_: seen.append(os.environ.get("GOMP_SPINCOUNT")))
        monkeypatch.delitem(sys.modules, "torch")
        run("doctor")
        assert seen == [waiting.TURNS]


@pytest.mark.parametrize(
    ("others", "own", "count", "said"),
    [
        (1.0, 2, 2, "other processes keep 1.0 of 2 cores busy: steps take longer than they would alone, "
         "and with 2 threads much longer: gendiff ... --threads 1"),
        (1.6, 2, 1, "other processes keep 1.6 of 2 cores busy: steps take longer than they would alone"),
        (6.2, 8, 8, "other processes keep 6.2 of 8 cores busy: steps take longer than they would alone, "
         "and with 8 threads much longer: gendiff ... --threads 2"),
        (1.0, 2, 1, ""),  # there is a core for the one thread
        (4.0, 8, 4, ""),
        (0.3, 2, 2, ""),
        (None, 2, 2, ""),
    ],
)  # fmt: skip
def test_what_is_noted_of_busy_cores(capsys, others, own, count, said):
    facts = {"cores_others_use": others, "cores": own, "threads": count, "device": "cpu"}
    training.remark_load(facts)
    assert capsys.readouterr().err == (f"note: {said}\n" if said else "")
    training.remark_load({**facts, "device": "cuda:0"})
    assert capsys.readouterr().err == ""


def test_memory_of_this_process():
    assert 2**20 < resident() <= most_resident() + 2**26
