"""A network of which two processes hold a half each trains as one that is whole, and its checkpoints open anywhere."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from runs import ALONE, CPU, create, draw_grid, final, grid, restored, rows, settings, together, train
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from gendiff.plugin.observers import Observers
from gendiff.run import checkpoint
from gendiff.run.trained import TrainedModel
from gendiff.training.loop import fit
from gendiff.training.trainer import Trainer

UNET = "unet:channels=8,multipliers=[1,2],attention=[2],heads=2"
RECIPE = {
    "batch": 8,
    "lr": 1e-3,
    "warmup": 0,
    "ema": (0.9, 0.5),
    "posthoc": (0.05, 0.1),
    "snapshot_every": 8,
    "sample_every": 10,
    "optimizer": "adamw",
    "weight_decay": 0.1,
}


def in_two(run, place, steps=None):
    """Train a run in two processes, each with its part of the network, from where it stands."""

    def one(world):
        trainer = Trainer(run.config, CPU, world)
        assert trainer.sharded
        if checkpoint.steps(run.checkpoints):
            trainer.restore(in_an_order_of_its_own(checkpoint.newest(run.checkpoints), world.rank))
        if steps is not None:
            for step in range(trainer.step + 1, steps + 1):
                trainer.train_step(trainer.batches[step])
            saved = trainer.checkpoint({})
            if world.main:
                checkpoint.save(run.checkpoints, saved, 2)
            return
        fit(run, trainer, Observers(), lambda t: draw_grid(t.averaged(), run, t.settings.preview, grid(run, t.step)))

    together(2, place, one)


def in_an_order_of_its_own(saved, rank):
    """A reader of safetensors promises no order: each process may meet the tensors in another one."""
    order = -1 if rank else 1
    return replace(saved, tensors={group: dict([*named.items()][::order]) for group, named in saved.tensors.items()})


def assert_near(saved, other, tolerance=1e-4):
    """Weights, averages and moments that are equal but for rounding."""
    assert saved.tensors.keys() == other.tensors.keys()
    for group, named in saved.tensors.items():
        assert named.keys() == other.tensors[group].keys()
        for name, value in named.items():
            difference = torch.linalg.norm(other.tensors[group][name] - value)
            size = torch.linalg.norm(value)
            assert difference <= tolerance * max(float(size), 1e-3), (group, name, float(difference), float(size))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same run in one process, and sharded over two."""
    folder = tmp_path_factory.mktemp("pair")
    one, two = (create(folder / name, settings(UNET, shard=True, **RECIPE)) for name in ("one", "two"))
    train(one)
    in_two(two, folder / "meet")
    return one, two


@pytest.mark.slow
def test_it_trains_as_the_whole_does(pair):
    one, two = (checkpoint.newest(run.checkpoints) for run in pair)
    assert one.step == two.step == 20
    assert one.state.keys() == two.state.keys()
    assert_near(one, two)
    for ours, theirs in zip(*map(rows, pair), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_its_files_are_those_of_one_process(pair):
    one, two = pair
    assert checkpoint.steps(two.checkpoints) == checkpoint.steps(one.checkpoints)
    assert checkpoint.steps(two.snapshots) == checkpoint.steps(one.snapshots) == [20, 16, 8]
    for run in pair:
        assert grid(run, 10).exists()
        assert grid(run, 20).exists()
    weights = [TrainedModel.load(run, CPU, "posthoc:0.07").network.state_dict() for run in pair]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_one_process_goes_on_from_its_checkpoint_and_it_from_that_of_one(pair, tmp_path):
    trainer = restored(pair[1])
    saved = checkpoint.newest(pair[1].checkpoints)
    assert all(torch.equal(value, saved.tensors["model"][name]) for name, value in trainer.network.state_dict().items())
    alone, sharded = (create(tmp_path / name, settings(UNET, shard=True, **RECIPE)) for name in ("alone", "sharded"))
    for run in (alone, sharded):
        train(run, 5)
    assert final(alone) == final(sharded)
    train(alone, 8)
    in_two(sharded, tmp_path / "meet", steps=8)
    assert_near(*(checkpoint.newest(run.checkpoints) for run in (alone, sharded)))


@pytest.mark.slow
def test_with_parts_of_a_batch_and_activations_computed_twice(tmp_path):
    recipe = {**RECIPE, "sample_every": 0, "posthoc": (), "accumulate": 2, "recompute": True}
    one, two = (create(tmp_path / name, settings(UNET, shard=True, **recipe)) for name in ("one", "two"))
    train(one, 4)
    in_two(two, tmp_path / "meet", steps=4)
    assert_near(*(checkpoint.newest(run.checkpoints) for run in (one, two)))


def test_gradients_are_put_together_once_behind_the_last_part(tmp_path):
    config = settings(UNET, shard=True, **RECIPE, accumulate=4)

    def one(world):
        trainer = Trainer(config, CPU, world)
        step, scattered = trainer.take_step, []
        add_gradient = step._add_gradient

        def watched(part):
            loss = add_gradient(part)
            scattered.append(any(weight.grad is not None for weight in trainer.network.parameters()))
            return loss

        step._add_gradient = watched
        trainer.train_step(trainer.batches[1])
        assert scattered == [False, False, False, True]

    together(2, tmp_path / "meet", one)


def test_each_process_holds_half_of_everything_and_skips_what_is_not_finite(tmp_path):
    config = settings(UNET, shard=True, **RECIPE)
    whole = sum(weight.numel() for weight in Trainer(config, CPU, ALONE).network.parameters())

    def one(world):
        trainer = Trainer(config, CPU, world)
        stages = config.model.stages_of(trainer.network)
        assert all(isinstance(module, FSDPModule) for module in [trainer.network, *stages])
        trainer.train_step(trainer.batches[1])
        moments = [
            value for state in trainer.weights.optimizer.state.values() for value in state.values() if value.ndim
        ]
        averages = [value for average in trainer.weights.averages.values() for value in average.values()]
        kinds = (list(trainer.network.parameters()), 1), (moments, 2), (averages, 4)
        for tensors, copies in kinds:
            assert all(isinstance(value, DTensor) for value in tensors)
            held = sum(value.to_local().numel() for value in tensors)
            assert abs(held - copies * whole / 2) < 0.02 * copies * whole
        before = [value.to_local().clone() for tensors, _ in kinds for value in tensors]
        batch = trainer.batches[2]
        if not world.main:
            batch.x_0[0] = math.nan
        trainer.train_step(batch)
        assert trainer.failures == 1
        after = [value.to_local() for tensors, _ in kinds for value in tensors]
        assert all(torch.equal(value, old) for value, old in zip(after, before, strict=True))

    together(2, tmp_path / "meet", one)


def test_of_one_process_nothing_is_sharded(tmp_path):
    trainer = Trainer(settings(UNET, shard=True, **RECIPE), CPU, ALONE)
    assert not trainer.sharded
    assert not isinstance(trainer.network, FSDPModule)
