"""A network that is told of conditions trains as any: recorded, stopped, in two processes; without them nothing has changed."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
import torch
from places import ROOT
from published import values
from runs import ALONE, CPU, UNET, asked_to_stop_in, create, final, rows, settings, together, train
from tape import Tape, recording

import gendiff
from gendiff.errors import ConfigError, Stopped
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.training.trainer import Trainer

MODELS = ["mlp:width=16,depth=1", UNET]
X = torch.linspace(-1, 1, 12 * 64).reshape(12, 1, 8, 8)
Y = torch.arange(12) % 3

#: Of a run without conditions before there were any: weights, the batch of step 3, its loss.
PINNED = {
    MODELS[0]: ("33e874312d3f714d", "024c389094e983b2", "0x1.39be960000000p+0"),
    MODELS[1]: ("725824ba5dde032c", "024c389094e983b2", "0x1.ffc9a40000000p-1"),
}


def told(model=MODELS[0], data="digits", **changes):
    return settings(model, data, **changes).model_copy(update={"condition": ("label",)})


def digest(tensors):
    total = hashlib.sha256()
    for name, tensor in tensors:
        total.update(name.encode() + tensor.detach().numpy().tobytes())
    return total.hexdigest()[:16]


@pytest.mark.parametrize("model", MODELS)
def test_a_run_without_conditions_is_the_one_that_it_was(model):
    trainer = Trainer(settings(model), CPU, ALONE)
    batch = trainer.batches[3]
    loss = trainer.config.objective.loss(trainer.denoiser, trainer.diffusion, batch.x_0, batch.i, batch.eps).per_event
    assert len(batch.tensors) == 4
    assert (
        digest(trainer.denoiser.state_dict().items()),
        digest(("", tensor) for tensor in batch.tensors),
        float(loss.detach().mean()).hex(),
    ) == PINNED[model]


@pytest.mark.parametrize("model", MODELS)
def test_a_recorded_run_with_conditions_is_the_run(tmp_path, monkeypatch, model):
    plain, recorded = (create(tmp_path / name, told(model, condition_dropout=0.3)) for name in ("plain", "recorded"))
    train(plain)
    recording(monkeypatch, tape := Tape())
    train(recorded)
    assert tape.events.count("replay") > 10
    assert final(recorded) == final(plain)
    assert rows(recorded) == rows(plain)


def test_it_goes_on_to_the_same_bits(tmp_path):
    plain, stopped = (create(tmp_path / name, told()) for name in ("plain", "stopped"))
    train(plain)
    with pytest.raises(Stopped):
        train(stopped, prepare=asked_to_stop_in(7))
    train(stopped)
    assert final(stopped) == final(plain)
    assert rows(stopped) == rows(plain)


def test_two_processes_train_as_one(tmp_path):
    config = told(batch=8, lr=1e-3)
    run = create(tmp_path / "run", config)

    def taken(world):
        trainer = Trainer(config, CPU, world)
        for step in range(1, 11):
            trainer.train_step(trainer.batches[step])
        return trainer

    def two(world):
        trainer = taken(world)
        if world.main:
            checkpoint.save(run.checkpoints, trainer.checkpoint({}), 1)

    together(2, tmp_path / "meet", two)
    shared = checkpoint.newest(run.checkpoints).tensors["model"]
    for name, weight in taken(ALONE).network.state_dict().items():
        assert torch.linalg.norm(shared[name] - weight) <= 1e-5 * torch.linalg.norm(weight).clamp_min(1e-3), name


def test_what_it_is_told_reaches_the_network(tmp_path):
    """Noise alone is seen at the last step, and the class says which of two pictures it was: only who is told knows."""
    x = torch.stack([torch.full((1, 4, 4), 0.8), torch.full((1, 4, 4), -0.8)]).repeat(20, 1, 1, 1)
    y = torch.arange(40) % 2
    model = gendiff.train(
        (x, y),
        condition="label",
        model="mlp:width=32,depth=1",
        objective="x0",
        N=20,
        steps=300,
        batch=16,
        lr=3e-3,
        ema=0.9,
        condition_dropout=0.0,
        out=tmp_path / "run",
        progress=False,
    )
    drawn = model.sample(8, condition={"label": [0, 1]})
    means = drawn.mean((1, 2, 3))
    assert means[0::2].mean() > 0.4
    assert means[1::2].mean() < -0.4


def test_a_run_notices_other_labels(tmp_path):
    run = tmp_path / "run"
    gendiff.train((X, Y), condition="label", model=MODELS[0], N=20, steps=2, batch=4, out=run, progress=False)
    gendiff.resume(run, data=(X, Y), steps=3, progress=False)
    other = Y.clone()
    other[5] = 0
    with pytest.raises(ConfigError, match="say of their events has changed") as caught:
        gendiff.resume(run, data=(X, other), steps=4, progress=False)
    assert "fingerprint then: label" in str(caught.value)
    with pytest.raises(ConfigError, match="say of their events has changed") as caught:
        gendiff.resume(run, data=(X, Y % 2), steps=4, progress=False)
    assert "label then: a class: 0, 1, 2" in str(caught.value)
    with pytest.raises(ConfigError, match="no condition 'label'"):
        gendiff.resume(run, data=X, steps=4, progress=False)


def test_a_run_that_is_told_of_nothing_does_not_look_at_labels(tmp_path):
    np.save(tmp_path / "x.npy", values(12, 8, 8))
    np.save(tmp_path / "y.npy", Y.numpy())
    config = settings(MODELS[0], f"npy:path={tmp_path / 'x.npy'},labels={tmp_path / 'y.npy'}")
    run = create(tmp_path / "run", config)
    train(run, steps=5)
    (tmp_path / "y.npy").unlink()
    train(Run.open(run.path, training=True), steps=10)
    assert not {"conditions", "conditions_fingerprint"} & run.info["data"].keys()


def test_a_run_of_before_is_sampled_and_goes_on(tmp_path):
    shutil.copytree(ROOT / "tests" / "data" / "run-0.2", tmp_path / "old")
    model = gendiff.load(tmp_path / "old")
    assert model.config.conditions == {}
    assert model.sample(2).isfinite().all()
    run = Run.open(tmp_path / "old", training=True)
    assert "conditions" not in run.info["data"]


def test_a_model_that_takes_none_says_so_before_training(tmp_path):
    class Untold(torch.nn.Conv2d):
        def forward(self, x, i):
            return super().forward(x)

    network = Untold(1, 1, 1)
    with pytest.raises(ConfigError, match="is not told of label"):
        gendiff.train(
            (X, Y), condition="label", model=network, N=20, steps=2, batch=4, out=tmp_path / "run", progress=False
        )
    assert not (tmp_path / "run").exists()
