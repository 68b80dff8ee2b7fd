"""A batch taken in parts makes the step of the whole, in the memory of one part."""

from __future__ import annotations

import pytest
import torch
from runs import ALONE, CPU, UNET, asked_to_stop_in, create, final, rows, settings, together, train
from tape import Tape
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from gendiff.errors import ConfigError, Stopped
from gendiff.run import checkpoint
from gendiff.training.failure import culprits
from gendiff.training.trainer import Trainer


def taken(config, world=ALONE, steps=10):
    """A trainer after so many steps."""
    trainer = Trainer(config, CPU, world)
    for step in range(1, steps + 1):
        trainer.train_step(trainer.batches[step])
    return trainer


def assert_near(one, other, tolerance=1e-5):
    """The same weights but for rounding."""
    for name, weight in one.items():
        assert torch.linalg.norm(other[name] - weight) <= tolerance * torch.linalg.norm(weight).clamp_min(1e-3), name


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_parts_make_the_step_of_the_whole(parts):
    whole, accumulated = (taken(settings(UNET, batch=8, lr=1e-3, accumulate=count)) for count in (1, parts))
    assert_near(whole.network.state_dict(), accumulated.network.state_dict())
    one, other = (trainer.window.means() for trainer in (whole, accumulated))
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert accumulated.take_step.error_bar.shape == whole.take_step.error_bar.shape


def test_one_part_is_in_memory_at_a_time():
    """The gradient of a part is taken, and what it needs is let go, before the next part is computed."""
    trainer = Trainer(settings(batch=12, accumulate=3), CPU, ALONE)
    order = []
    trainer.network.register_forward_hook(lambda module, args, output: order.append(len(args[0])))
    first = next(trainer.network.parameters())  # its gradient comes last
    first.register_post_accumulate_grad_hook(lambda parameter: order.append("gradient"))
    trainer.train_step(trainer.batches[1])
    assert order == [4, "gradient"] * 3


def test_a_part_that_is_not_finite_spoils_the_step_and_is_named():
    trainer = Trainer(settings(batch=8, accumulate=4), CPU, ALONE)
    batch = trainer.batches[1]
    batch.x_0[5] = torch.nan
    before = {name: weight.clone() for name, weight in trainer.network.state_dict().items()}
    trainer.train_step(batch)
    assert trainer.failures == 1
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.network.state_dict().items())
    assert int((~trainer.take_step.failed.per_event.isfinite()).sum()) == 1
    first = culprits(trainer.take_step.failed, trainer.batches.data, trainer.bands)[0]
    assert f"event {batch.index[5]} at i = {batch.i[5]}" in first


def test_parts_are_recorded_as_a_whole_and_go_on(tmp_path, monkeypatch):
    config = settings(batch=8, accumulate=2)
    plain, recorded = (create(tmp_path / name, config) for name in ("plain", "recorded"))
    with pytest.raises(Stopped):
        train(plain, prepare=asked_to_stop_in(7))
    train(plain)
    tape = Tape()
    monkeypatch.setattr("gendiff.training.capture.recorder_for", lambda device: tape)
    train(recorded)
    assert tape.events.count("replay") == 17
    assert final(recorded) == final(plain)
    assert rows(recorded) == rows(plain)


def test_parts_are_equal_or_refused():
    with pytest.raises(ConfigError, match="a batch of 8 cannot be taken in 3 equal parts") as caught:
        Trainer(settings(batch=8, accumulate=3), CPU, ALONE)
    assert caught.value.subject == "train.accumulate"


def test_two_processes_put_their_gradients_together_once_a_step(tmp_path):
    config = settings(batch=8, lr=1e-3, accumulate=2)
    run = create(tmp_path / "run", config)

    def two(world):
        calls = []

        def counted(state, bucket):
            calls.append(bucket.index())
            return allreduce_hook(None, bucket)

        trainer = Trainer(config, CPU, world)
        trainer.parallel.register_comm_hook(None, counted)
        for step in range(1, 11):
            trainer.train_step(trainer.batches[step])
        assert calls.count(0) == 10
        if world.main:
            checkpoint.save(run.checkpoints, trainer.checkpoint({}), 1)

    together(2, tmp_path / "meet", two)
    weights = checkpoint.newest(run.checkpoints).tensors["model"]
    assert_near(taken(settings(batch=8, lr=1e-3)).network.state_dict(), weights)
