"""Real steps in training, and a law of them that follows the losses: exact, however often a run is stopped."""

from __future__ import annotations

import pytest
import torch
from runs import ALONE, CPU, Killed, asked_to_stop_in, create, die_after, final, rows, settings, together, train
from tape import Tape, recording
from torch import nn

from gendiff.datasets.split import HoldOut
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, Stopped
from gendiff.levels import Levels, part_of
from gendiff.moments import Moments
from gendiff.objective import Objective
from gendiff.rotation import Rotation
from gendiff.run import checkpoint
from gendiff.run.module import as_model
from gendiff.training.generalisation import generalisation
from gendiff.training.inspection import inspected
from gendiff.training.trainer import Trainer

LAWS = {
    "importance": {"levels": "importance:bins=5,decay=0.9"},
    "real": {"continuous": True},
    "real log-normal": {"continuous": True, "levels": "log-normal:unbiased=true"},
    "real importance": {"continuous": True, "levels": "importance:bins=7,unbiased=false"},
}


@pytest.mark.parametrize("law", LAWS)
def test_stopped_killed_and_resumed_it_is_the_run(tmp_path, law):
    whole, run = (create(tmp_path / name, settings(**LAWS[law])) for name in ("whole", "run"))
    train(whole)
    with pytest.raises(Stopped):
        train(run, prepare=asked_to_stop_in(3))
    with pytest.raises(Killed):
        train(run, report=die_after(13))
    train(run, workers=1)
    assert final(run) == final(whole)
    assert rows(run) == rows(whole)
    assert ("levels" in checkpoint.newest(run.checkpoints).tensors) == ("importance" in law)


def test_a_recorded_run_is_the_run(tmp_path, monkeypatch):
    plain, recorded = (create(tmp_path / name, settings(**LAWS["real importance"])) for name in ("plain", "recorded"))
    train(plain)
    tape = Tape()
    recording(monkeypatch, tape)
    train(recorded)
    assert "replay" in tape.events
    assert final(recorded) == final(plain)


def test_a_step_that_is_not_applied_teaches_nothing(tmp_path):
    trainer = Trainer(settings(**LAWS["importance"]), CPU, ALONE)
    trainer.train_step(trainer.batches[1])
    before = {name: value.clone() for name, value in trainer.law.adaptation.state().items()}
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(torch.nan)
    trainer.train_step(trainer.batches[2])
    assert trainer.failures == 1
    assert all(torch.equal(value, before[name]) for name, value in trainer.law.adaptation.state().items())


def test_two_processes_agree_on_the_law(tmp_path):
    config = settings(batch=8, **LAWS["importance"])

    def laws(world):
        trainer = Trainer(config, CPU, world)
        for step in range(1, 6):
            trainer.train_step(trainer.batches[step])
        return trainer.law.adaptation.state()

    together(2, tmp_path / "place", lambda world: torch.save(laws(world), tmp_path / f"law-{world.rank}"))
    first, second = (torch.load(tmp_path / f"law-{rank}") for rank in (0, 1))
    alone = laws(ALONE)
    assert alone["events"].sum() > 30
    for name, value in alone.items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], value, rtol=1e-5)


def test_the_noise_is_the_same_and_the_steps_are_those_of_the_law():
    plain, real = (Trainer(settings(batch=64, continuous=on), CPU, ALONE).batches for on in (False, True))
    assert torch.equal(plain[3].eps, real[3].eps)
    assert torch.equal(plain[3].x_0, real[3].x_0)
    i = torch.cat([real[step].i for step in range(1, 60)])
    assert i.dtype == torch.float64
    assert float(i.min()) >= 1
    assert float(i.max()) <= 20
    u = (i - 1).sort().values / 19
    assert float((u - torch.linspace(0, 1, len(u), dtype=torch.float64)).abs().max()) < 0.03


def test_off_it_changes_nothing(tmp_path):
    one, other = (
        create(tmp_path / name, settings(**how)) for name, how in (("one", {}), ("other", {"continuous": False}))
    )
    train(one, 5)
    train(other, 5)
    assert final(one) == final(other)


def test_parts_of_the_interval_belong_to_their_steps():
    N = 20
    whole = torch.arange(1, N + 1)
    assert torch.equal(part_of(whole, N), whole)
    assert torch.equal(part_of(whole.double(), N), whole)
    edges = 1 + (N - 1) * torch.arange(1, N, dtype=torch.float64) / N
    assert torch.equal(part_of(edges - 1e-9, N), whole[:-1])
    assert torch.equal(part_of(edges + 1e-9, N), whole[1:])


@pytest.mark.parametrize("name", ["logit-normal", "cosine"])
def test_real_steps_follow_the_law_and_the_unbiased_loss_is_the_uniform_one(name):
    config = settings(batch=64, continuous=True, levels=f"{name}:unbiased=true")
    trainer = Trainer(config, CPU, ALONE)
    levels = Levels(f"{name}:unbiased=true")
    i = torch.cat([trainer.batches[step].i for step in range(1, 100)])
    share = torch.bincount(part_of(i, 20), minlength=21)[1:].double() / len(i)
    assert float((share - levels.probabilities(trainer.diffusion)).abs().max()) < 0.02
    loss = (i / 20) ** 2
    estimate = trainer.take_step.correction(i).double() * loss
    error = float(estimate.std() / len(i) ** 0.5)
    u = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    assert abs(float(estimate.mean()) - float((((1 + 19 * u) / 20) ** 2).mean())) < 4 * error


class Rounding(nn.Module):
    """It looks up a row for each step, as a table does."""

    def __init__(self, how):
        super().__init__()
        self.table = nn.Parameter(torch.randn(22, 64))
        self.how = how

    def forward(self, x, i):
        return x + self.how(i, self.table).reshape(-1, 1, 8, 8)


def test_a_network_that_rounds_steps_is_refused():
    def probe(how, **train):
        config = settings(**train)
        config = config.model_copy(update={"model": as_model(Rounding(how))})
        return inspected(Trainer(config, CPU, ALONE))

    for how in (lambda i, table: table[i.long()], lambda i, table: table[i.round().long()]):
        assert probe(how)
        with pytest.raises(ConfigError, match="knows whole steps alone: it rounds i") as caught:
            probe(how, continuous=True)
        assert caught.value.subject == "train.continuous"
    assert probe(lambda i, table: i[:, None] * table[:1], continuous=True)


def test_a_network_that_has_a_table_of_steps_is_refused(monkeypatch):
    config = settings(continuous=True)
    monkeypatch.setattr(type(config.model), "reads_whole_steps", True)
    with pytest.raises(ConfigError, match="'mlp' knows whole steps alone"):
        Trainer(config, CPU, ALONE)


def test_losses_of_both_sides_are_taken_at_steps_as_those_that_are_trained_on(monkeypatch):
    def asked(**train):
        config = settings(batch=8, **train).model_copy(update={"hold_out": HoldOut(events=4, most=2)})
        trainer, steps = Trainer(config, CPU, ALONE), []
        loss = type(config.objective).loss

        def watched(self, denoiser, diffusion, x_0, i, eps, condition=None):
            steps.append(i)
            return loss(self, denoiser, diffusion, x_0, i, eps, condition)

        monkeypatch.setattr(type(config.objective), "loss", watched)
        generalisation(trainer)
        return torch.cat(steps)

    whole = asked()
    assert not whole.dtype.is_floating_point
    real = asked(continuous=True)
    assert set(real.tolist()) == {1 + 19 * (level + 0.5) / 8 for level in range(8)}


@pytest.mark.parametrize("process", ["edm", "blur", "cold", "rectified-flow"])
def test_the_bound_of_continuous_time_is_that_of_many_steps(process):
    """Of an error of T of 1, loss at real steps and at whole ones agree where a step is short: from step 200 of 2000 on."""
    N = 2000
    scales = Diffusion.of("dct", process, (1, 2, 2), N).scales
    diffusion, objective = (
        Diffusion(Rotation("dct"), scales, (1, 2, 2), Moments.standard((1, 2, 2))),
        Objective("elbo"),
    )
    i = torch.arange(200, N + 1)
    steps, between = (objective.weight(diffusion.at(at, torch.float64)) for at in (i, i.double() - 0.5))
    bound, real = (float(weight.sum(0).mean()) for weight in (steps / N, between / (N - 1)))
    assert real == pytest.approx(bound, rel=1e-2)
