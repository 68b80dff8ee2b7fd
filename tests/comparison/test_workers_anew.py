"""A comparison that workers share who begin anew, as several on one GPU must: the same bits, and what stops them stops all."""

from __future__ import annotations

import os
import pickle
import signal
import time
from pathlib import Path

import pytest
from command import TINY, run
from compared import done
from runs import CPU

from gendiff.comparison import report
from gendiff.comparison.directory import Comparison
from gendiff.comparison.engine import Engine
from gendiff.comparison.listener import Silent
from gendiff.errors import ConfigError, Stopped
from gendiff.machine import jobs
from gendiff.machine.jobs import ALONE, LARGE, Crew, crew_on_card
from gendiff.machine.stopping import stop_requests
from gendiff.plugin.registry import Registry, default_registry
from gendiff.run.directory import Run

ANEW = Crew(2, 1, anew=True)
GIB = 2**30


@pytest.mark.slow
def test_two_come_to_the_same_bits_and_none_is_this_process(plan, alone, tmp_path):
    assert done(tmp_path / "c", plan, ANEW) == alone
    infos = [Run.open(path).info for path in (tmp_path / "c" / "runs").iterdir()]
    assert [(info["status"], info["threads"]) for info in infos] == [("done", 1)] * 4
    assert os.getpid() not in {info["pid"] for info in infos}
    assert len({info["pid"] for info in infos}) <= 2


@pytest.mark.slow
def test_where_all_is_done_none_is_started(plan, alone, tmp_path, monkeypatch):
    assert done(tmp_path / "c", plan, ALONE) == alone
    monkeypatch.setattr("gendiff.comparison.engine.together", None)
    assert done(tmp_path / "c", plan, ANEW) == alone


class Stopping(Silent):
    """Asks the process that has started this one to stop, in the middle of a training."""

    def train(self, what, run, trainer, until=None):
        train_step = trainer.train_step

        def step(batch):
            train_step(batch)
            if trainer.step == 3:
                os.kill(os.getppid(), signal.SIGTERM)
                while not asked():
                    time.sleep(0.01)

        trainer.train_step = step
        super().train(what, run, trainer, until)


def asked() -> bool:
    with stop_requests() as requests:
        return bool(requests)


class Failing(Silent):
    def train(self, what, run, trainer, until=None):
        raise ConfigError("it cannot be", fix="do otherwise")


def attempt(path, plan, listener) -> None:
    comparison = Comparison.create(plan, path, ["compare"])
    with comparison.working() as heed:
        Engine(comparison, default_registry(), CPU, listener, heed, ANEW).finish()


@pytest.mark.slow
def test_asked_to_stop_all_save_and_go_on(plan, alone, tmp_path):
    with pytest.raises(Stopped, match="the comparison") as stop:
        attempt(tmp_path / "c", plan, Stopping())
    assert stop.value.exit_code == 75
    assert f"gendiff compare --resume {tmp_path / 'c'}" in str(stop.value)
    statuses = [Run.open(path).info["status"] for path in (tmp_path / "c" / "runs").iterdir()]
    assert "stopped" in statuses
    assert set(statuses) <= {"stopped", "created", "running"}
    assert done(tmp_path / "c", plan, ALONE) == alone


@pytest.mark.slow  # the way of an error is that of any job
def test_what_one_cannot_do_is_said_as_it_is_alone(plan, tmp_path):
    with pytest.raises(ConfigError, match="it cannot be") as caught:
        attempt(tmp_path / "c", plan, Failing())
    assert caught.value.fix == "do otherwise"


def test_a_registry_is_made_anew_of_the_same_plugins(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("gendiff_api_version = 1\n")
    registry = Registry([file], block=["loggers"])
    other = pickle.loads(pickle.dumps(registry))
    assert other.providers == registry.providers
    assert [str(entry) for entry in other.entries()] == [str(entry) for entry in registry.entries()]


class TestHowMany:
    def crew(self, free, each, count=36, asked=None):
        return crew_on_card(count, asked, 3, lambda: free, None if each is None else lambda: each)

    @pytest.fixture(autouse=True)
    def cores(self, monkeypatch):
        monkeypatch.setattr(jobs, "allowance", lambda: 16.0)

    def test_as_many_as_are_asked_for(self):
        assert self.crew(0, None, asked=3) == Crew(3, 3, "--at-once 3", anew=True)
        assert self.crew(200 * GIB, GIB, asked=1) == Crew(1, 3, "--at-once 1")

    def test_one_where_nobody_says_what_a_run_takes_or_the_card_is_small(self):
        def never():
            raise AssertionError

        assert self.crew(200 * GIB, None).at_once == 1
        small = crew_on_card(36, None, 3, lambda: LARGE - 1, never)
        assert (small.at_once, small.anew) == (1, False)
        assert small.words == "one at a time: 24 GiB of the card are free"

    @pytest.mark.parametrize(
        ("free", "each", "count", "number"),
        [
            (139, 3, 36, 4),  # no more, however large it is
            (139, 3, 2, 2),
            (79, 12, 36, 3),
            (79, 20, 36, 1),
            (24, 3, 36, 3),
            (24, 30, 36, 1),
        ],
    )
    def test_half_of_the_card_is_for_them(self, free, each, count, number):
        crew = self.crew(free * GIB, each * GIB, count)
        assert (crew.at_once, crew.anew, crew.threads) == (number, number > 1, 3)
        assert f"{free} GiB of the card are free, a run takes {each + 1}.0" in crew.words

    def test_each_has_a_core(self, monkeypatch):
        monkeypatch.setattr(jobs, "allowance", lambda: 2.0)
        assert self.crew(139 * GIB, GIB).at_once == 2


class TestCommand:
    ARMS = ("--arm", "identity", "--arm", "dct", "--seeds", 1, *TINY, "--n", 16, "--features", "pixels", "--nfe", 2)

    @pytest.fixture(autouse=True)
    def as_on_a_gpu(self, monkeypatch, tmp_path):
        """The CPU is taken for a GPU: no process may be copied, and several can share it."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setattr(jobs, "possible", lambda device: False)
        monkeypatch.setattr(jobs, "shared", lambda device: True)
        monkeypatch.setattr(report, "write", lambda comparison, *_: [comparison.path / name for name in ("a", "b")])

    @pytest.mark.slow
    def test_two_share_it_where_it_is_asked_for(self):
        alone = run("compare", *self.ARMS, "--out", "a", "--json")
        both = run("compare", *self.ARMS, "--out", "b", "--json", "--at-once", 2)
        assert (alone.code, both.code) == (0, 0), both.err
        assert "at a time" not in alone.err
        assert "note: runs are trained and measured 2 at a time, a thread each: --at-once 2\n" in both.err
        for label in ("identity", "dct"):
            assert f"training {label}, seed 0\n" in both.err
            assert f"{label}, seed 0: step 3/3  loss " in both.err
        assert [arm["numbers"] for arm in both.json["arms"]] == [arm["numbers"] for arm in alone.json["arms"]]
        assert os.getpid() not in {Run.open(path).info["pid"] for path in Path("b/runs").iterdir()}

    def test_what_is_no_comparison_does_one_after_the_other(self):
        assert run("train", *TINY, "--out", "r").code == 0
        refused = run("evaluate", "r", "--n", 16, "--steps", 3, "--features", "pixels", "--at-once", 2)
        assert refused.code == 2
        assert "several at a time are for a CPU, under Linux (from --at-once 2)" in refused.err

    @pytest.mark.parametrize(
        ("free", "words"), [(8, "one at a time: 8 GiB"), (80, "4 at a time, a thread each: 80 GiB")]
    )
    def test_the_twin_takes_several_on_a_large_card_by_itself(self, monkeypatch, free, words):
        crews = []
        monkeypatch.setattr(jobs, "free_on", lambda device: free * GIB)
        monkeypatch.setattr(jobs, "allowance", lambda: 16.0)
        monkeypatch.setattr("gendiff.comparison.cost.memory_on_card", lambda plan, device: 3 * GIB)
        monkeypatch.setattr(
            "gendiff.comparison.twin.twin",
            lambda comparisons, folder, registry, device, listener, crew: crews.append(crew) or [Path("twin.json")] * 3,
        )
        done = run("reproduce", "twin", "--out", "t", "--json")
        assert done.code == 0, done.err
        assert f"note: runs are trained and measured {words}" in done.err
        assert [(crew.at_once, crew.anew) for crew in crews] == [(4, True) if free == 80 else (1, False)]
