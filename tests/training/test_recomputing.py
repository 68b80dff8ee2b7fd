"""Activations that are computed a second time give the gradients of those that are kept, and take no room."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from runs import ALONE, CPU, UNET, create, final, rows, settings, train
from tape import Tape
from torch import nn

import gendiff
from gendiff import Model
from gendiff.errors import ConfigError
from gendiff.training.trainer import Trainer

DEEP = "unet:channels=8,multipliers=[1,2],attention=[2],heads=2,blocks=2"


@pytest.mark.parametrize("model", ["mlp:width=16,depth=3", DEEP, DEEP + ",dropout=0.3"])
def test_a_run_is_the_same_to_the_bit(tmp_path, model):
    kept, recomputed = (
        create(tmp_path / str(flag), settings(model, recompute=flag, steps=8)) for flag in (False, True)
    )
    for run in (kept, recomputed):
        train(run, 3)
        train(run)
    assert final(recomputed) == final(kept)
    assert rows(recomputed) == rows(kept)


def bytes_kept(trainer):
    """Of what the graph of one loss holds on to, its inputs and weights aside."""
    sizes = {}

    def keep(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    batch = trainer.batches[1]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.config.objective.loss(trainer.denoiser, trainer.diffusion, batch.x_0, batch.i, batch.eps)
    weights = {weight.untyped_storage().data_ptr() for weight in trainer.network.parameters()}
    return sum(size for place, size in sizes.items() if place not in weights)


def test_activations_take_a_fraction_of_the_room():
    kept, recomputed = (
        bytes_kept(Trainer(settings(DEEP, batch=16, recompute=flag), CPU, ALONE)) for flag in (False, True)
    )
    assert recomputed < kept / 3


def test_each_stage_is_computed_twice_in_a_step_and_once_in_a_sample(tmp_path):
    trainer = Trainer(settings(DEEP, recompute=True), CPU, ALONE)
    stages = trainer.config.model.stages_of(trainer.network)
    calls = []
    for stage in stages:
        stage.block.register_forward_pre_hook(lambda *of: calls.append(1))
    assert len(stages) == 2 * 2 + 2 + 2 * 3  # two levels of two blocks, the middle, two levels of three
    trainer.train_step(trainer.batches[1])
    assert len(calls) == 2 * len(stages)
    calls.clear()
    with torch.no_grad():
        trainer.denoiser(torch.zeros(2, 1, 8, 8), torch.ones(2))
    assert len(calls) == len(stages)


@pytest.mark.parametrize(("model", "draws"), [(DEEP, False), (DEEP + ",dropout=0.1", True)])
def test_the_generator_is_kept_only_where_the_network_draws(model, draws):
    """A recording on a GPU may not read it."""
    trainer = Trainer(settings(model, recompute=True), CPU, ALONE)
    assert trainer.recomputing.random
    for step in (1, 2):
        trainer.train_step(trainer.batches[step])
        assert trainer.recomputing.random == draws


def test_it_is_recorded_with_the_step(tmp_path, monkeypatch):
    plain, recorded = (create(tmp_path / name, settings(UNET, recompute=True)) for name in ("plain", "recorded"))
    train(plain)
    monkeypatch.setattr("gendiff.training.capture.recorder_for", lambda device: Tape())
    train(recorded)
    assert final(recorded) == final(plain)


@pytest.mark.slow
def test_it_is_traced_by_the_compiler(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    trainers = [
        Trainer(settings("mlp:width=16,depth=2", recompute=flag, compile=flag), CPU, ALONE) for flag in (False, True)
    ]
    for trainer in trainers:
        for step in (1, 2, 3):
            trainer.train_step(trainer.batches[step])
    plain, compiled = (trainer.network.state_dict() for trainer in trainers)
    assert trainers[1].compilation.active
    torch.testing.assert_close(compiled, plain)


class Sequence(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x, i):
        for part in self.parts:
            x = part(x)
        return x


def test_what_cannot_be_computed_twice_is_refused():
    table = {"recompute": True, "batch": 4}

    def refused(network):
        with pytest.raises(ConfigError) as caught:
            gendiff.train(torch.zeros(4, 1, 4, 4), model=network, N=20, steps=1, device="cpu", **table)
        assert caught.value.subject == "train.recompute"
        return str(caught.value)

    class Plain(nn.Conv2d):
        def forward(self, x, i):
            return super().forward(x)

    assert "has no stages" in refused(Plain(1, 1, 1))
    assert "BatchNorm2d keeps running means" in refused(Sequence(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))


def test_stages_are_what_lists_hold_at_any_depth():
    inner = [nn.Linear(1, 1) for _ in range(4)]
    network = nn.Sequential(
        nn.Linear(1, 1), nn.ModuleList([nn.ModuleList(inner[:2]), inner[2]]), nn.ModuleList([inner[3]])
    )
    assert list(Model("mlp").stages_of(network)) == inner
