"""Steps that are recorded and read late are the steps that are not: the same weights, the same rows, to the bit."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from runs import ALONE, CPU, UNET, asked_to_stop_in, create, final, rows, settings, train
from tape import Adam, Tape, recording
from torch import nn

from gendiff.errors import GendiffError, Stopped
from gendiff.machine.determinism import WORKSPACE
from gendiff.machine.world import World
from gendiff.run import checkpoint
from gendiff.run.posthoc import Profile
from gendiff.training import loop
from gendiff.training import step as step_module
from gendiff.training.step import PATIENCE, WARM, Step
from gendiff.training.trainer import Trainer

ONCE = ["warm"] * (WARM - 1) + ["rehearse", "record"]  # what comes before steps are replayed
REFUSAL = RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("rotation", ["identity", "dct"])
@pytest.mark.parametrize("model", ["mlp:width=16,depth=1", UNET + ",dropout=0.3"])
def test_a_recorded_run_is_the_run(tmp_path, monkeypatch, model, rotation):
    plain, recorded = (create(tmp_path / name, settings(model, rotation=rotation)) for name in ("plain", "recorded"))
    train(plain)
    tape = Tape()
    with monkeypatch.context() as patch:
        recording(patch, tape)
        train(recorded)
    assert tape.events == ONCE + ["replay"] * (20 - WARM)
    assert final(recorded) == final(plain)
    assert rows(recorded) == rows(plain)


def test_it_goes_on_from_any_step(tmp_path, monkeypatch):
    plain, recorded = (create(tmp_path / name, settings()) for name in ("plain", "recorded"))
    train(plain)
    recording(monkeypatch, Tape())
    with pytest.raises(Stopped):
        train(recorded, prepare=asked_to_stop_in(7))  # in the middle of a row
    train(recorded)
    assert final(recorded) == final(plain)
    assert rows(recorded) == rows(plain)


def test_what_cannot_be_recorded_is_done_as_before_and_said_once(tmp_path, monkeypatch):
    plain, other = (create(tmp_path / name, settings(warmup=0)) for name in ("plain", "other"))
    train(plain)

    recording(monkeypatch, Tape(broken=REFUSAL))
    with pytest.warns(UserWarning, match="could not be recorded: RuntimeError: operation not permitted") as said:
        train(other)
    assert len(said) == 1
    assert final(other) == final(plain)


def test_capture_may_be_switched_off(tmp_path, monkeypatch):
    tape = Tape()
    recording(monkeypatch, tape)
    train(create(tmp_path / "run", settings(capture=False)))
    assert tape.events == []


class Poison(nn.Module):
    """A network whose output is not finite at the calls that are listed."""

    def __init__(self, calls):
        super().__init__()
        self.inner = nn.Conv2d(1, 1, 1)
        self.calls = calls
        self.count = 0

    def forward(self, x, i):
        self.count += 1
        return self.inner(x) * (math.nan if self.count in self.calls else 1.0)


def trainer_with(calls, **changes):
    trainer = Trainer(settings(warmup=0, log_every=50, checkpoint_every=50, steps=40, ema=0, **changes), CPU, ALONE)
    network = Poison(calls).to(CPU)
    with torch.no_grad():
        network.inner.weight.fill_(0.5)
    optimizer = torch.optim.Adam(network.parameters(), torch.zeros(()), fused=True)
    trainer.take_step = Step(
        trainer.config.objective, network, trainer.diffusion, optimizer, [], [], 1.0, ALONE, recorder=Tape()
    )
    return trainer, network


def test_after_five_in_a_row_nothing_moves_however_late_one_looks(monkeypatch):
    monkeypatch.setattr(Trainer, "late", True)
    trainer, network = trainer_with(range(7, 12))
    for step in range(1, 7):
        trainer.train_step(trainer.batches[step])
    before = network.inner.weight.clone()
    for step in range(7, 31):  # from 12 on the network would be fine
        trainer.train_step(trainer.batches[step])
    assert trainer.step == 30
    with pytest.raises(GendiffError, match="not finite in 5 steps in a row, up to step 11") as caught:
        trainer.look()
    bad = trainer.batches[11]
    assert f"event {bad.index[0]} at i = {bad.i[0]}" in caught.value.details[0]
    assert "0, 1, 2, 3" in caught.value.details[1]
    assert trainer.step == 11
    assert trainer.failures == PATIENCE
    assert (trainer.window.steps, trainer.window.skipped) == (6, 5)
    assert torch.equal(network.inner.weight, before)


def test_four_in_a_row_are_forgiven(monkeypatch):
    monkeypatch.setattr(Trainer, "late", True)
    trainer, network = trainer_with([*range(3, 7), *range(9, 13)])
    for step in range(1, 21):
        trainer.train_step(trainer.batches[step])
    trainer.look()
    assert (trainer.step, trainer.failures, trainer.window.steps, trainer.window.skipped) == (20, 0, 12, 8)
    assert network.inner.weight.isfinite().all()


def test_a_checkpoint_reads_what_nobody_has_looked_at(monkeypatch):
    monkeypatch.setattr(Trainer, "late", True)
    monkeypatch.setattr(torch.optim, "Adam", Adam)
    trainer, other = (Trainer(settings(log_every=50, checkpoint_every=50, steps=50), CPU, ALONE) for _ in range(2))
    for step in range(1, 4):
        trainer.train_step(trainer.batches[step])
    saved = trainer.checkpoint({})
    assert saved.state["window"]["steps"] == 3
    assert saved.state["window"]["loss"] > 0
    monkeypatch.setattr(Trainer, "late", False)
    for step in range(1, 4):
        other.train_step(other.batches[step])
    assert other.checkpoint({}).state == saved.state


def test_the_learning_rate_and_the_decay_reach_a_recorded_step(tmp_path, monkeypatch):
    """They change at every step of the warm-up, which a recording must not keep."""
    recording(monkeypatch, Tape())
    trainer = Trainer(settings(lr=1e-2, warmup=40, grad_clip=0, ema=0.9), CPU, ALONE)
    rates = []
    for step in range(1, 9):
        trainer.train_step(trainer.batches[step])
        rates.append(float(trainer.weights.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([1e-2 * step / 40 for step in range(1, 9)], rel=1e-6)
    assert float(trainer.take_step.keeps[0]) == pytest.approx(min(0.9, 9 / 18))


def test_the_state_of_the_optimiser_keeps_the_strides_of_the_weights(tmp_path):
    """A fused optimiser walks through memory: weights and moments must be laid out alike."""
    run = create(tmp_path / "run", settings(UNET))
    train(run, 5)
    trainer = Trainer(run.config, CPU, ALONE)
    trainer.network.to(memory_format=torch.channels_last)
    trainer.restore(checkpoint.newest(run.checkpoints))
    for parameter, state in trainer.weights.optimizer.state.items():
        assert state["exp_avg"].stride() == parameter.stride()
        assert state["exp_avg_sq"].stride() == parameter.stride()


def test_patience_is_one_number():
    assert step_module.PATIENCE == 5


class Compiled(nn.Module):
    """What `torch.compile` gives, without compiling; or it fails when it is asked first."""

    def __init__(self, network, fails=False):
        super().__init__()
        self.network = network
        self.fails = fails

    def forward(self, x, i):
        if self.fails:
            raise RuntimeError("a graph break that nobody wrote a word about")
        return self.network(x, i)


@pytest.mark.parametrize("fails", [False, True])
def test_a_long_run_is_compiled_after_its_first_picture_or_goes_on_as_it_is(tmp_path, monkeypatch, fails):
    plain, compiled = (create(tmp_path / name, settings(sample_every=10)) for name in ("plain", "compiled"))
    train(plain)
    tape, steps = Tape(), []
    recording(monkeypatch, tape)
    monkeypatch.setattr("gendiff.training.compilation.WORTH_COMPILING", 0)
    monkeypatch.setattr(torch, "compile", lambda network: steps.append(len(tape.events)) or Compiled(network, fails))
    if fails:
        with pytest.warns(UserWarning, match="the network could not be compiled, and runs as it is: RuntimeError"):
            trainer = train(compiled)
    else:
        trainer = train(compiled)
    assert len(steps) == 1
    assert trainer.compilation.active != fails
    assert final(compiled) == final(plain)
    assert rows(compiled) == rows(plain)


def test_a_short_run_is_not_compiled(tmp_path, monkeypatch):
    recording(monkeypatch, Tape())
    monkeypatch.setattr(torch, "compile", lambda network: pytest.fail("compiled"))
    train(create(tmp_path / "run", settings(sample_every=10)))


def test_a_run_that_repeats_leaves_nothing_to_the_clock(tmp_path, monkeypatch):
    """No compiler comes in when the pictures are drawn, torch is told for as long as it trains, and the run says so."""
    recording(monkeypatch, Tape())
    asked, told, real = [], set(), loop.deterministic
    monkeypatch.setenv(WORKSPACE, ":4096:8")
    monkeypatch.setattr(
        loop, "deterministic", lambda wanted, device: asked.append(device) or real(wanted, torch.device("cuda"))
    )
    monkeypatch.setattr("gendiff.training.compilation.WORTH_COMPILING", 0)
    monkeypatch.setattr(torch, "compile", lambda network: pytest.fail("compiled"))
    run = create(tmp_path / "run", settings(sample_every=10, deterministic=True))
    trainer = train(run, report=lambda progress: told.add(torch.are_deterministic_algorithms_enabled()))
    assert not trainer.compilation.active
    assert (asked, told) == ([CPU], {True})
    assert not torch.are_deterministic_algorithms_enabled()
    assert run.info["deterministic"] is True


def test_on_a_cpu_nothing_is_compiled_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr("gendiff.training.compilation.WORTH_COMPILING", 0)
    monkeypatch.setattr(torch, "compile", lambda network: pytest.fail("compiled"))
    trainer = train(create(tmp_path / "run", settings(sample_every=10)))
    assert trainer.precision == "fp32"


def test_a_step_that_waits_is_not_recorded_and_that_is_said_once(tmp_path, monkeypatch):
    plain, other = (create(tmp_path / name, settings(warmup=0)) for name in ("plain", "other"))
    train(plain)
    tape = Tape(fault="it waits for the device, at network.py:7")
    recording(monkeypatch, tape)
    with pytest.warns(UserWarning, match="could not be recorded: it waits for the device, at network.py:7") as said:
        train(other)
    assert len(said) == 1
    assert tape.events == ["warm"] * (WARM - 1) + ["rehearse"]
    assert final(other) == final(plain)


def test_launched_gradients_are_gone_before_a_step_is_recorded(monkeypatch):
    """Those of the recording have memory of their own, beside which the others would stay."""
    there = []

    class Looking(Tape):
        def record(self, work):
            there.extend(parameter.grad is not None for parameter in trainer.network.parameters())
            return super().record(work)

    recording(monkeypatch, Looking())
    trainer = Trainer(settings(), CPU, ALONE)
    for step in range(1, WARM + 2):
        trainer.train_step(trainer.batches[step])
    assert there
    assert not any(there)


def test_the_recording_of_a_step_is_gone_before_another_is_made(monkeypatch):
    """Nobody waits for the garbage to be collected: there may be no room for two."""
    recording(monkeypatch, Tape())
    monkeypatch.setattr(torch, "compile", lambda network: Compiled(network))
    trainer, made, make = Trainer(settings(), CPU, ALONE), [], Trainer._step
    for step in range(1, WARM + 3):
        trainer.train_step(trainer.batches[step])
    old = weakref.ref(trainer.take_step)
    assert old().recorded.replay is not None
    monkeypatch.setattr(Trainer, "_step", lambda self: made.append(old() is None) or make(self))
    gc.disable()
    try:
        trainer.compile_from_here(math.inf)
    finally:
        gc.enable()
    assert made == [True]
    trainer.train_step(trainer.batches[WARM + 3])
    trainer.look()
    assert trainer.step == WARM + 3


class TestAverages:
    """As a GPU moves them, with large tensors and small ones; and as a processor does."""

    SHAPES = ((600, 500), (7,), (3, 5), ())

    def moved(self, move, decay, applies=True):
        generator = torch.Generator().manual_seed(0)
        average, weights = ([torch.randn(shape, generator=generator) for shape in self.SHAPES] for _ in range(2))
        assert any(one.numel() >= step_module.LARGE for one in average)
        before = [one.clone() for one in average]
        move(average, weights, torch.tensor(decay, dtype=torch.float64), torch.tensor(applies))
        return before, average, weights

    @pytest.mark.parametrize("move", [step_module.move_on_host, step_module.move_in_place])
    @pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999])
    def test_it_is_the_average(self, move, decay):
        before, average, weights = self.moved(move, decay)
        for old, new, weight in zip(before, average, weights, strict=True):
            torch.testing.assert_close(new, decay * old + (1 - decay) * weight, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("move", [step_module.move_on_host, step_module.move_in_place])
    def test_a_step_that_is_not_applied_moves_none(self, move):
        before, average, _ = self.moved(move, 0.3, applies=False)
        assert all(map(torch.equal, before, average))

    @pytest.mark.parametrize("move", [step_module.move_on_host, step_module.move_in_place])
    def test_an_average_of_equal_weights_stays(self, move):
        weights = [torch.full((600, 500), 0.7), torch.full((5,), 0.7)]
        average = [one.clone() for one in weights]
        for _ in range(50):
            move(average, weights, torch.tensor(1 - 7.3e-6, dtype=torch.float64), torch.tensor(True))
        for one, other in zip(average, weights, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=0)

    @pytest.mark.parametrize("move", [step_module.move_on_host, step_module.move_in_place])
    def test_late_in_a_long_run_it_moves_as_far_as_it_should(self, move):
        """At a million steps float32 knows 1 - keep to half a per cent, and the average would be as much longer."""
        decay = Profile(0.1, 1_000_000).decay()
        average = [torch.zeros(600, 500), torch.zeros(5)]
        move(average, [one + 1 for one in average], torch.tensor(decay, dtype=torch.float64), torch.tensor(True))
        for one in average:
            torch.testing.assert_close(one, torch.full_like(one, 1 - decay), rtol=1e-6, atol=0)


class Normed(nn.Module):
    """A network that keeps running means; at the calls that are listed its input is not finite."""

    def __init__(self, calls):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.inner = nn.Conv2d(1, 1, 1)
        self.calls = calls
        self.count = 0

    def forward(self, x, i):
        self.count += 1
        return self.inner(self.norm(x * math.nan if self.count in self.calls else x))


def test_a_step_that_is_not_applied_leaves_running_means_as_they_are(monkeypatch):
    monkeypatch.setattr(Trainer, "late", True)
    trainer, _ = trainer_with([])
    network = Normed([3]).train()
    optimizer = torch.optim.Adam(network.parameters(), torch.zeros(()), fused=True)
    trainer.take_step = Step(trainer.config.objective, network, trainer.diffusion, optimizer, [], [], 1.0, ALONE)
    means = []
    for step in range(1, 5):
        trainer.train_step(trainer.batches[step])
        means.append((network.norm.running_mean.clone(), int(network.norm.num_batches_tracked)))
    assert not torch.equal(means[0][0], means[1][0])
    assert torch.equal(means[1][0], means[2][0])
    assert [count for _, count in means] == [1, 2, 2, 3]
    assert means[3][0].isfinite().all()
    trainer.look()
    assert (trainer.window.steps, trainer.window.skipped) == (3, 1)


class Others(World):
    """A world of two of which the other one does the same; it counts how often it is asked whether to stop."""

    asked = 0

    def any(self, flag):
        type(self).asked += 1
        return flag

    def mean(self, values):
        return values

    def all(self, flag):
        return flag

    def sum(self, values):
        return values

    def barrier(self):
        pass


@pytest.mark.parametrize(("late", "asked"), [(False, 40), (True, 8)])
def test_several_processes_on_gpus_do_not_ask_each_other_at_each_step(tmp_path, monkeypatch, late, asked):
    """They would wait for the step; every ten steps and on those that are read anyhow they do."""
    run = create(tmp_path / "run", settings(steps=40, log_every=15, checkpoint_every=12))
    recording(monkeypatch, Tape(), late)
    others = type("Counting", (Others,), {})(0, 2, CPU)
    train(run, prepare=lambda trainer: setattr(trainer, "world", others))
    assert type(others).asked == asked  # of 10, 12, 15, 20, 24, 30, 36, 40
    assert checkpoint.newest(run.checkpoints).step == 40


def test_a_request_to_stop_is_heard_at_the_next_step_at_which_they_ask(tmp_path, monkeypatch):
    run = create(tmp_path / "run", settings(steps=40, log_every=40, checkpoint_every=40))
    recording(monkeypatch, Tape())

    def prepare(trainer):
        asked_to_stop_in(13)(trainer)
        trainer.world = Others(0, 2, CPU)

    with pytest.raises(Stopped):
        train(run, prepare=prepare)
    assert checkpoint.newest(run.checkpoints).step == 20


def test_steps_of_several_processes_are_launched_and_that_is_said(monkeypatch):
    recording(monkeypatch, Tape())
    trainer = Trainer(settings(), CPU, ALONE)
    assert trainer.capture.recorder() is not None
    trainer.capture.world = Others(0, 2, CPU)
    with pytest.warns(UserWarning, match="kernel by kernel: those of several processes are not recorded"):
        assert trainer.capture.recorder() is None


@pytest.mark.slow
@pytest.mark.parametrize("rotation", ["identity", "dct"])
@pytest.mark.parametrize("model", ["mlp:width=16,depth=1", UNET.replace("attention=[]", "attention=[1]")])
def test_a_compiled_step_is_the_eager_one(model, rotation):
    """By the compiler that a GPU has too, in float32, up to the order of sums: losses, and how far weights have come."""

    def weights(trainer):
        return torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])

    def losses(trainer):
        total = 0.0
        for step in range(1, 9):
            trainer.train_step(trainer.batches[step])
            trainer.look()
            yield trainer.window.loss - total
            total = trainer.window.loss

    own = {"rotation": rotation, "warmup": 0, "log_every": 1000, "steps": 1000, "checkpoint_every": 1000}
    eager, compiled = (Trainer(settings(model, **own, compile=flag), CPU, ALONE) for flag in (False, True))
    first = weights(eager)
    assert list(losses(compiled)) == pytest.approx(list(losses(eager)), rel=1e-5)
    assert compiled.compilation.active
    assert not eager.compilation.active
    moved = (weights(eager) - first).norm()
    assert moved > 0
    assert (weights(compiled) - weights(eager)).norm() < 1e-4 * moved
