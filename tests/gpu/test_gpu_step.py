"""The recorded step on a GPU is the launched one: losses, weights, what is not applied, what is gone on with, memory."""

from __future__ import annotations

import gc
from dataclasses import replace

import hardware
import pytest
import torch
from runs import UNET, create, final, settings

from gendiff.errors import GendiffError
from gendiff.machine.determinism import deterministic
from gendiff.machine.world import World
from gendiff.run import checkpoint
from gendiff.run.layers import Layer, resolve
from gendiff.training.loop import fit
from gendiff.training.trainer import Trainer

ATTENTIVE = "unet:channels=16,multipliers=[1,2],attention=[1,2],heads=2"
CLOSE = {"fp32": 1e-3, "bf16": 3e-2}  # of losses, relative


def trainer_on(device, config):
    return Trainer(config, device, World(0, 1, device))


def losses(trainer, count, first=1):
    """The loss of each step."""
    found, total = [], trainer.window.loss
    for step in range(first, first + count):
        trainer.train_step(trainer.batches[step])
        trainer.look()
        found.append(trainer.window.loss - total)
        total = trainer.window.loss
    return found


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.network.parameters()])


def long(model=UNET, **changes):
    return settings(model, **{"log_every": 1000, "checkpoint_every": 1000, "steps": 1000, "batch": 8, **changes})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("rotation", ["identity", "dct"])
@pytest.mark.parametrize(
    "model", ["mlp:width=64,depth=2", ATTENTIVE + ",dropout=0.3", UNET + ",frequency_features=true"]
)
def test_it_is_the_launched_step(device, model, rotation, precision):
    """Rates that rise, averages and dropout reach it, step by step."""
    own = {"rotation": rotation, "precision": precision, "warmup": 8, "compile": False}
    recorded, launched = (trainer_on(device, long(model, **own, capture=capture)) for capture in (True, False))
    assert losses(recorded, 12) == pytest.approx(losses(launched, 12), rel=CLOSE[precision])
    assert recorded.take_step.recorded.replay is not None
    assert recorded.take_step.recorded.why_not == ""
    assert launched.take_step.recorded is None
    moved = (weights(launched) - weights(trainer_on(device, long(model, **own)))).norm()
    assert (weights(recorded) - weights(launched)).norm() < 0.3 * moved
    for name, average in launched.weights.ema.items():
        torch.testing.assert_close(recorded.weights.ema[name], average, rtol=0.05, atol=5e-3)


@pytest.mark.parametrize("loss", ["bound", "trajectory"])
def test_a_recorded_step_is_of_the_speeds_as_they_are(device, loss):
    """They move between steps, in place: what was recorded before reads them where they are, as a launched step does."""
    speeds = {"loss": loss, "every": 2, "until": 0.008, "events": 4, "finer": 2, "sampler": "ddim:steps=3"}
    table = long(UNET, rotation="dct", precision="fp32", compile=False, speeds=speeds).table()
    table["velocity"] = "learned:bands=3,parts=4"
    recorded, launched, even = (
        trainer_on(device, resolve([Layer("a", table), Layer("b", {"train": {"capture": capture}})]).config)
        for capture in (True, False, False)
    )
    with torch.no_grad():  # its output is 0 before it has learned, whatever it sees
        for weight in recorded.network.parameters():
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
            weight.add_(noise.to(device) / 5)
    losses(recorded, 8)
    assert recorded.take_step.recorded.replay is not None
    assert recorded.speeds.taken == 4
    moved = recorded.speeds.free["log_speeds"]
    assert moved.isfinite().all()
    assert moved.abs().max() > 1e-3
    early = torch.tensor([8.0, 0, 0, 0], dtype=torch.float64, device=device).expand(3, 4)  # all noise at once
    with torch.no_grad():
        for trainer in (recorded, launched):
            trainer.speeds.free["log_speeds"].copy_(early)
    for trainer in (launched, even):
        trainer.network.load_state_dict(recorded.network.state_dict())
        trainer.step = recorded.step
    one, other, still = (losses(trainer, 1, 9)[0] for trainer in (recorded, launched, even))
    assert one == pytest.approx(other, rel=CLOSE["fp32"])
    assert one != pytest.approx(still, rel=0.01)


def test_a_compiled_step_is_the_launched_one(device, request):
    """In a rehearsal it is recorded alone: a processor compiles nothing unasked."""
    compiles = not request.config.getoption("--rehearse")
    compiled, launched = (trainer_on(device, long(ATTENTIVE, compile=c, capture=c)) for c in (compiles, False))
    assert losses(compiled, 10) == pytest.approx(losses(launched, 10), rel=CLOSE["bf16"])
    assert compiled.compilation.active == compiles


def test_steps_wait_for_nothing(device):
    """But for those that are logged: torch is told to raise where the host waits."""
    trainer = trainer_on(device, long(ATTENTIVE))
    batches = [trainer.batches[step].to(device) for step in range(1, 13)]
    for batch in batches[:6]:
        trainer.train_step(batch)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[6:]:
            trainer.train_step(batch)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    trainer.look()
    assert trainer.window.steps == 12


def test_a_step_that_is_not_finite_is_not_applied_and_five_in_a_row_end_the_run(device):
    trainer = trainer_on(device, long(ATTENTIVE))
    good, bad = (trainer.batches[1].to(device) for _ in range(2))
    bad = replace(bad, eps=bad.eps.clone().index_fill_(0, torch.tensor([2], device=device), float("nan")))
    for batch in [good] * 8 + [bad] * 4 + [good]:
        trainer.train_step(batch)
    trainer.look()
    assert (trainer.window.steps, trainer.window.skipped, trainer.failures) == (9, 4, 0)
    before, average = weights(trainer).clone(), {name: value.clone() for name, value in trainer.weights.ema.items()}
    assert before.isfinite().all()
    for batch in [bad] * 5 + [good] * 3:  # nobody looks
        trainer.train_step(batch)
    with pytest.raises(GendiffError, match="not finite in 5 steps in a row, up to step 18") as caught:
        trainer.look()
    assert f"event {int(bad.index[2])} at i = {int(bad.i[2])}" in caught.value.details[0]
    assert torch.equal(weights(trainer), before)
    assert all(torch.equal(trainer.weights.ema[name], value) for name, value in average.items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stop", [2, 9])
def test_a_run_that_repeats_goes_on_to_the_same_bits(device, stop, precision):
    """Stopped before the step is recorded, and after."""
    config = long(ATTENTIVE + ",dropout=0.3", deterministic=True, precision=precision, warmup=8)
    with deterministic(True, device):
        whole, first, second = (trainer_on(device, config) for _ in range(3))
        losses(whole, 16)
        losses(first, stop)
        second.restore(first.checkpoint({}))
        losses(second, 16 - stop, stop + 1)
    one, other = whole.checkpoint({}), second.checkpoint({})
    assert one.step == other.step == 16
    for group, named in one.tensors.items():
        for name, value in named.items():
            assert torch.equal(value, other.tensors[group][name]), f"{group}/{name}"


def test_a_run_goes_on_up_to_rounding(device):
    config = long(ATTENTIVE, warmup=8)
    whole, first, second = (trainer_on(device, config) for _ in range(3))
    expected = losses(whole, 16)
    losses(first, 9)
    second.restore(first.checkpoint({}))
    assert losses(second, 7, 10) == pytest.approx(expected[9:], rel=CLOSE["bf16"])


def test_two_runs_that_repeat_are_the_same_to_the_bit(device, tmp_path):
    """As they are trained, with workers that bring their batches; torch is told nothing any more afterwards."""
    found = []
    for name in ("one", "other"):
        run = create(tmp_path / name, settings(ATTENTIVE, deterministic=True, workers=1, steps=12))
        fit(run, trainer_on(device, run.config))
        assert not torch.are_deterministic_algorithms_enabled()
        assert run.info["deterministic"] is True
        found.append(final(run))
    assert found[0] == found[1]
    assert checkpoint.steps(tmp_path / "one" / "checkpoints")[0] == 12


def test_it_takes_no_more_memory_than_the_launched_step(device):
    """But for what libraries keep for each stream."""
    large = device.type == "cuda"
    model = "unet:channels=256,multipliers=[1,2],attention=[],heads=4" if large else UNET
    peaks = {}
    for capture in (False, True):
        trainer = trainer_on(device, long(model, batch=512 if large else 8, capture=capture, precision="fp32"))
        batch = trainer.batches[1].to(device)
        peaks[capture] = hardware.peak(lambda trainer=trainer, batch=batch: trainer.train_step(batch), 8, device)
        del trainer, batch
        gc.collect()
    assert peaks[True]["reserved"] <= 1.05 * peaks[False]["reserved"] + 0.15
