"""What is left to us is chosen by the clock: a network that compiling did not make faster goes on as it was."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from runs import ALONE, CPU, create, final, rows, settings, train
from tape import Tape, recording

from gendiff.errors import ConfigError
from gendiff.machine.world import World
from gendiff.training import pace
from gendiff.training.pace import SPANS, Pace
from gendiff.training.trainer import Trainer


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when somebody says so."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(pace, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def test_it_is_the_median_of_whole_spans(clock):
    known = Pace()
    for span, seconds in enumerate([1.0, 2.0, 100.0, 3.0, 2.0]):
        assert known.seconds is None
        known.begin(10 * span)
        known.begin(10 * span + 4)  # in the middle of it
        clock.now += seconds
        known.end(10 * span + 10)
        clock.now += 50  # a picture is drawn
    assert known.seconds == pytest.approx(0.2)
    known.end(60)  # nothing began
    known.begin(60)
    known.end(60)  # no step was done
    assert known.seconds == pytest.approx(0.2)


class Compiled(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, i):
        return self.network(x, i)


def compiled_at(monkeypatch, clock, seconds):
    """Let a run be compiled after its picture; a step takes so many seconds then, 1 before, and far more until it is settled."""
    recording(monkeypatch, Tape())
    monkeypatch.setattr("gendiff.training.compilation.WORTH_COMPILING", 0)
    monkeypatch.setattr(torch, "compile", lambda network: Compiled(network))
    take = Trainer._take

    def timed(self, step, batch):
        settled = self.take_step.settled and not self.compilation.pending
        take(self, step, batch)
        clock.now += (seconds if self.compilation.active else 1.0) if settled else 1000.0

    monkeypatch.setattr(Trainer, "_take", timed)


STEPS = {"steps": 40, "log_every": 2, "sample_every": 20, "checkpoint_every": 20}


@pytest.mark.parametrize("seconds", [1.0, 1.5])
def test_a_network_that_is_no_faster_compiled_goes_on_as_it_was(tmp_path, monkeypatch, clock, seconds):
    plain, other = (create(tmp_path / name, settings(**STEPS)) for name in ("plain", "other"))
    train(plain)
    compiled_at(monkeypatch, clock, seconds)
    with pytest.warns(UserWarning, match="as it was: it goes on as it was") as said:
        trainer = train(other)
    assert len(said) == 1
    assert f"compiled, a step takes {1e3 * seconds:.3g} ms, and 1e+03 as it was" in str(said[0].message)
    assert not trainer.compilation.active
    assert not trainer.denoiser.channels_last
    assert final(other) == final(plain)
    assert rows(other) == rows(plain)


def test_one_that_is_faster_stays_compiled(tmp_path, monkeypatch, clock):
    compiled_at(monkeypatch, clock, 0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = train(create(tmp_path / "run", settings(**STEPS)))
    assert trainer.compilation.active


def test_what_was_asked_for_is_not_judged(tmp_path, monkeypatch, clock):
    compiled_at(monkeypatch, clock, 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = train(create(tmp_path / "run", settings(**STEPS, compile=True)))
    assert trainer.compilation.active


def test_it_is_not_judged_by_steps_that_were_not_seen(tmp_path, monkeypatch, clock):
    """Too few before the picture to know how long they took."""
    compiled_at(monkeypatch, clock, 5.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = train(create(tmp_path / "run", settings(**STEPS | {"sample_every": SPANS})))
    assert trainer.compilation.active


class TestRecordingOrNothing:
    """``capture=true`` refuses what ``auto`` does kernel by kernel."""

    @pytest.mark.parametrize("tape", [Tape(fault="it waits"), Tape(broken=RuntimeError("it waits"))])
    def test_a_step_that_cannot_be_recorded(self, tmp_path, monkeypatch, tape):
        run = create(tmp_path / "run", settings(capture=True))
        recording(monkeypatch, tape)
        with pytest.raises(ConfigError, match="steps cannot be recorded") as error:
            train(run)
        assert "it waits" in error.value.details[0]
        assert "train.capture=auto" in error.value.fix
        assert error.value.subject == "train.capture"

    def test_several_processes(self, monkeypatch):
        recording(monkeypatch, Tape())
        trainer = Trainer(settings(capture=True), CPU, ALONE)
        trainer.capture.world = World(0, 2, CPU)
        with pytest.raises(ConfigError, match="steps cannot be recorded"):
            trainer.capture.recorder()

    def test_on_a_processor_there_is_nothing_to_record(self):
        assert Trainer(settings(capture=True), CPU, ALONE).take_step.recorded is None
