"""A comparison that is worked on several pieces at a time: the same bits, whatever fails, stops or is killed meanwhile."""

from __future__ import annotations

import os
import signal

import pytest
from command import TINY, run
from compared import PAIR, done
from runs import exit_code, forked

from gendiff.comparison import engine, work
from gendiff.errors import ConfigError, PluginError, Stopped
from gendiff.machine.jobs import ALONE, JobDied
from gendiff.run.directory import Run
from gendiff.training.trainer import Trainer


def test_it_comes_to_the_same_bits(plan, alone, tmp_path):
    assert done(tmp_path / "c", plan, PAIR) == alone
    infos = [Run.open(path).info for path in (tmp_path / "c" / "runs").iterdir()]
    assert [(info["status"], info["threads"]) for info in infos] == [("done", 1)] * 4
    assert len({info["pid"] for info in infos} | {os.getpid()}) == 5


@pytest.mark.slow
def test_the_record_says_how_many_threads_there_were(plan, tmp_path):
    done(tmp_path / "c", plan, PAIR)
    assert {Run.open(path).info["threads"] for path in (tmp_path / "c" / "runs").iterdir()} == {1}


@pytest.mark.slow
def test_nothing_is_done_again(plan, alone, tmp_path, monkeypatch):
    done(tmp_path / "c", plan, PAIR)
    monkeypatch.setattr(engine, "together", None)
    monkeypatch.setattr(engine, "memory_of", None)
    assert done(tmp_path / "c", plan, PAIR) == alone


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 3])
def test_asked_to_stop_all_arms_are_saved_and_go_on(plan, alone, tmp_path, monkeypatch, moment):
    owner, train_step = os.getpid(), Trainer.train_step

    def step(trainer, batch):
        config = trainer.config
        if (trainer.step, config.train.seed, config.rotation.name) == (moment, 0, "dct"):
            os.kill(owner, signal.SIGTERM)
        train_step(trainer, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        patch.setattr(engine, "memory_of", lambda work: 0)
        with pytest.raises(Stopped, match="the comparison") as stop:
            done(tmp_path / "c", plan, PAIR)
    assert stop.value.exit_code == 75
    assert f"gendiff compare --resume {tmp_path / 'c'}" in str(stop.value)
    assert done(tmp_path / "c", plan, PAIR) == alone


@pytest.mark.slow  # test_comparison.py has it for one at a time
def test_killed_over_and_over_it_comes_to_the_same_bits(plan, alone, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "memory_of", lambda work: 0)
    deaths, train_step, generate = 0, Trainer.train_step, work.measure

    def attempt():
        owner = os.getpid()

        def step(trainer, batch):
            train_step(trainer, batch)
            if trainer.step == 1 + deaths % 4:
                os.kill(owner, signal.SIGKILL)
                signal.pause()  # until it ends with its owner: so quick a run would be done before

        def measure(*arguments):
            if deaths % 2:
                os.kill(owner, signal.SIGKILL)
                signal.pause()
            return generate(*arguments)

        Trainer.train_step, work.measure = step, measure
        done(tmp_path / "c", plan, PAIR)

    while (code := exit_code(forked(attempt))) == -signal.SIGKILL and deaths < 12:
        deaths += 1
    assert code in (0, -signal.SIGKILL)
    assert deaths > 3
    assert done(tmp_path / "c", plan, PAIR) == alone


class TestAnArmThatFails:
    @pytest.fixture
    def failing(self, monkeypatch):
        def fail(error):
            train_step = Trainer.train_step

            def step(trainer, batch):
                if trainer.config.rotation.name == "dct" and trainer.step == 2:
                    error()
                train_step(trainer, batch)

            monkeypatch.setattr(engine, "memory_of", lambda work: 0)
            monkeypatch.setattr(Trainer, "train_step", step)

        return fail

    def test_says_what_it_says_alone_and_nothing_is_lost(self, plan, alone, tmp_path, failing, monkeypatch):
        def error():
            raise ConfigError("it cannot be", fix="do otherwise")

        failing(error)
        said = []
        for crew in (ALONE, PAIR):
            with pytest.raises(ConfigError, match="it cannot be") as caught:
                done(tmp_path / f"{crew.at_once}", plan, crew)
            said.append(str(caught.value).replace(f"{tmp_path / str(crew.at_once)}", "c"))
        assert said[0] == said[1]
        for path in (tmp_path / "2" / "runs").iterdir():
            info = Run.open(path).info
            if info["status"] == "created" and "dct" not in path.name:  # it was asked to stop before it began
                assert not list(path.glob("checkpoints/step-*"))
                continue
            assert info["status"] in ("done", "failed" if "dct" in path.name else "stopped")
            assert list(path.glob("checkpoints/step-*"))
        monkeypatch.undo()
        assert done(tmp_path / "2", plan, PAIR) == alone

    @pytest.mark.slow
    def test_its_process_may_be_killed(self, plan, alone, tmp_path, failing, monkeypatch):
        failing(lambda: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(JobDied, match=r"the process of dct.*, seed 0 .* has died"):
            done(tmp_path / "c", plan, PAIR)
        monkeypatch.undo()
        assert done(tmp_path / "c", plan, PAIR) == alone

    def test_whose_code_failed_is_said(self, plan, tmp_path, monkeypatch):
        def build(self, *arguments):
            raise ZeroDivisionError("nothing")

        monkeypatch.setattr(engine, "memory_of", lambda work: 0)
        monkeypatch.setattr(type(plan.contenders[0].config.model), "build_conditional", build)
        with pytest.raises(PluginError, match=r"model '\w+' of .* failed: ZeroDivisionError: nothing"):
            done(tmp_path / "c", plan, PAIR)


class TestCommand:
    ARMS = ("--arm", "identity", "--arm", "dct", "--seeds", 2, *TINY, "--n", 16, "--features", "pixels")

    @pytest.fixture(autouse=True)
    def two_cores(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("gendiff.machine.jobs.allowance", lambda: 2.0)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")

    @pytest.mark.slow
    def test_it_says_how_many_and_what_each_does(self):
        both = [
            run("compare", *self.ARMS, "--out", f"c{k}", "--json", *more)
            for k, more in enumerate([(), ("--at-once", 1)])
        ]
        assert [one.code for one in both] == [0, 0], both[0].err
        assert "note: runs are trained and measured 2 at a time, a thread each: there are 2 cores\n" in both[0].err
        assert "note: runs are trained and measured one at a time: --at-once 1\n" in both[1].err
        for label in ("identity", "dct"):
            for seed in (0, 1):
                assert f"training {label}, seed {seed} (run " in both[0].err
                assert f"{label}, seed {seed}: " in both[0].err
        assert "): step 3/3  loss " in both[0].err
        values = [[arm["numbers"] for arm in one.json["arms"]] for one in both]
        assert values[0] == values[1]
        assert [one.json["reproduce"]["threads"] for one in both] == [1, 1]

    @pytest.mark.parametrize("option", ["--at-once", "--threads"])
    @pytest.mark.parametrize("value", ["0", "two", "-1", "1.5"])
    def test_a_number_that_is_none_is_refused(self, option, value):
        refused = run("compare", *self.ARMS, option, value)
        assert refused.code == 2
        assert f"cannot read the number '{value}' (from {option})" in refused.err
        assert "allowed: auto, 1, 2, ..." in refused.err

    def test_evaluate_draws_the_same_however_many_draw(self):
        assert run("train", *TINY, "--out", "r").code == 0
        words = ("evaluate", "r", "--n", 100, "--steps", 3, "--no-cache", "--features", "pixels", "--json")
        alone, pair = (run(*words, "--at-once", count) for count in (1, "auto"))
        assert alone.code == pair.code == 0, pair.err
        assert "note: samples are drawn and measured 2 at a time, a thread each: there are 2 cores\n" in pair.err
        assert alone.json["numbers"] == pair.json["numbers"]
        assert alone.json["threads"] == pair.json["threads"] == 1

    def test_where_no_process_can_be_copied_one_follows_the_other(self, monkeypatch):
        monkeypatch.setattr("gendiff.machine.jobs.possible", lambda device: False)
        assert run("compare", *self.ARMS, "--at-once", 1, "--dry-run").code == 0
        refused = run("compare", *self.ARMS, "--at-once", 2)
        assert refused.code == 2
        assert "several at a time are for Linux (from --at-once 2)" in refused.err
