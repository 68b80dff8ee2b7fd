"""Speeds that a run learns: they move beside the network, are kept with each checkpoint, and outlive their plugin."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise

import command
import numpy as np
import pytest
import torch
from gendiff_cli.app import app
from PIL import Image
from runs import ALONE, CPU, asked_to_stop_in, create, final, restored, rows, train
from typer.testing import CliRunner

from gendiff.errors import ConfigError, DataError, Stopped
from gendiff.lab import descent
from gendiff.machine.world import World
from gendiff.run import checkpoint, speeds
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.trained import TrainedModel
from gendiff.speeds import bound_loss
from gendiff.training.branch import Parent
from gendiff.training.speeds import Speeds
from gendiff.training.trainer import Trainer

LEARNED = "learned:bands=3,parts=4"


def config(velocity=LEARNED, model: str = "mlp:width=16,depth=1", condition=(), **own) -> Config:
    """A run of 20 steps on digits in the DCT, whose speeds move fast."""
    settings = {"every": 2, "lr": 0.2, "until": 1.0, "events": 4, "sampler": "ddim:steps=3", **own.pop("speeds", {})}
    train = {"steps": 20, "batch": 4, "log_every": 3, "checkpoint_every": 5, "sample_every": 0, "keep": 10}
    table = {
        "N": 20,
        "rotation": "dct",
        "velocity": velocity,
        "model": model,
        "data": "digits",
        "sampler": own.pop("sampler", "ddim:steps=3"),
    }
    table |= {"condition": condition, "train": {**train, "speeds": settings, **own}}
    return resolve([Layer("the test", table)]).config


def learned(run: Run, step: int) -> torch.Tensor:
    return checkpoint.at(run.checkpoints, step).tensors[speeds.GROUP]["learned.log_speeds"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    torch.set_num_threads(1)
    run = create(tmp_path_factory.mktemp("learned") / "run", config())
    train(run)
    return run


class TestTraining:
    def test_they_move_along_with_the_network(self, run):
        """From even clocks; λ falls at every step of every checkpoint, and the loss by which they are learned is logged."""
        assert not torch.equal(learned(run, 5), learned(run, 10))
        i = torch.arange(1, 21)
        for step in (5, 10, 15, 20):
            lam = Run.open(run.path, at=step).config.diffusion().scales.half_log_snr(i)
            assert (lam.diff(dim=0) < 0).all()
        assert all(row["speeds_bound"] > 0 for row in rows(run))

    @pytest.mark.parametrize("loss", ["bound", "trajectory"])
    def test_signal_never_comes_back_after_any_step_of_theirs(self, tmp_path, monkeypatch, loss):
        """However fast they move: of every component, at whole steps and between them."""
        move, i = Speeds.move, torch.linspace(1, 20, 96, dtype=torch.float64)
        after = []

        def watched(own: Speeds, *rest) -> None:
            move(own, *rest)
            after.append(own.diffusion.scales.half_log_snr(i))

        monkeypatch.setattr(Speeds, "move", watched)
        train(create(tmp_path / "run", config(speeds={"every": 1, "lr": 3.0, "loss": loss, "finer": 2})))
        assert len(after) == 20
        assert all((lam.diff(dim=0) < 0).all() for lam in after)
        assert all(not torch.equal(one, other) for one, other in pairwise(after))

    def test_they_rest_in_the_end(self, tmp_path):
        run = create(tmp_path / "run", config(speeds={"until": 0.5}))
        train(run)
        assert not torch.equal(learned(run, 5), learned(run, 10))
        assert torch.equal(learned(run, 10), learned(run, 20))

    @pytest.mark.parametrize("loss", ["bound", "trajectory"])
    def test_stopped_and_resumed_it_is_the_same_run(self, tmp_path, loss):
        """Also in the loss that a row repeats, where they have not moved since."""
        whole, parts = (
            create(tmp_path / name, config(speeds={"loss": loss, "finer": 2, "every": 5}))
            for name in ("whole", "parts")
        )
        train(whole)
        for cut in (8, 13):
            with pytest.raises(Stopped):
                train(parts, prepare=asked_to_stop_in(cut))
        train(parts)
        assert final(parts) == final(whole)
        assert rows(parts) == rows(whole)

    def test_the_network_learns_as_it_would_alone(self, tmp_path):
        """With speeds that rest at even clocks its weights are those of standard diffusion: no gradient is mixed."""
        resting = create(tmp_path / "resting", config(speeds={"until": 0.0}))
        moving = create(tmp_path / "moving", config(speeds={"lr": 1e-12}))
        train(resting)
        train(moving)
        one, other = (checkpoint.newest(each.checkpoints).tensors["model"] for each in (resting, moving))
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("loss", ["bound", "trajectory"])
    def test_a_network_under_conditions_is_asked_under_them(self, tmp_path, loss):
        """Of the same events under other labels other speeds would be learned; under the same ones the same."""
        conditional = config(condition="label", speeds={"loss": loss, "finer": 2})
        trainer = restored(create(tmp_path / "run", conditional))
        with torch.no_grad():  # it knows of no label before it has learned
            for weight in trainer.network.parameters():
                weight.add_(0.2 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        batch = trainer.batches[1]
        zeros, ones, again = (
            trainer.speeds._slope(2, replace(batch, condition={"label": torch.full((4,), label)}), trainer.denoiser)
            for label in (0, 1, 0)
        )
        assert zeros == again
        assert torch.tensor(zeros[1:]).norm() > 0
        difference = torch.tensor(zeros[1:]) - torch.tensor(ones[1:])
        assert difference.norm() > 1e-3 * torch.tensor(zeros[1:]).norm()

    @pytest.mark.parametrize(("prior", "matched"), [("standard", False), ("matched", True), ("data", True)])
    def test_the_bound_is_that_of_the_prior_from_which_the_run_samples(self, tmp_path, monkeypatch, prior, matched):
        trainer = restored(create(tmp_path / "run", config(sampler=f"ddim:steps=3,prior={prior}")))
        asked = []

        def bound(*arguments, **named):
            asked.append(named["matched"])
            return bound_loss(*arguments, **named)

        monkeypatch.setattr("gendiff.training.speeds.bound_loss", bound)
        trainer.speeds.move(2, trainer.batches[1], trainer.denoiser)
        assert asked == [matched]

    @pytest.mark.parametrize(
        ("spec", "name"),
        [
            (f"coloured:velocity='{LEARNED}',colour=pink", "velocity.log_speeds"),
            (f"coloured:velocity='{LEARNED}',colour=as-data,terminal=true", "velocity.log_speeds"),
            (f"reversed:velocity='{LEARNED}'", "log_speeds"),
            (f"coloured:velocity={{name='reversed',velocity='{LEARNED}'}}", "velocity.log_speeds"),
        ],
        ids=["coloured", "terminal", "reversed", "both"],
    )
    def test_those_of_an_inner_velocity_move_as_by_themselves(self, tmp_path, spec, name):
        """And are kept, gone on with, and begun with by another run."""
        whole, parts = (create(tmp_path / part, config(spec)) for part in ("whole", "parts"))
        train(whole)
        with pytest.raises(Stopped):
            train(parts, prepare=asked_to_stop_in(8))
        train(parts)
        assert final(parts) == final(whole)
        first, last = (
            checkpoint.at(whole.checkpoints, step).tensors[speeds.GROUP][f"learned.{name}"] for step in (5, 20)
        )
        assert first.shape == (3, 4)
        assert not torch.equal(first, last)
        scales = Run.open(whole.path).config.diffusion().scales
        i = torch.arange(1, 21)
        assert (scales.half_log_snr(i).diff(dim=0) < 0).all()
        begun = config(Parent.of(whole.path).layer.table["velocity"]).diffusion().scales
        torch.testing.assert_close(begun.half_log_snr(i), scales.half_log_snr(i), rtol=0, atol=1e-4)

    def test_a_step_that_is_not_finite_is_left_out(self, tmp_path):
        run = create(tmp_path / "run", config())
        trainer = restored(run)
        batch = trainer.batches[1]
        trainer.speeds.move(2, batch, trainer.denoiser)
        before = trainer.speeds.free["log_speeds"].detach().clone()
        with torch.no_grad():
            next(trainer.network.parameters()).fill_(torch.nan)
        trainer.speeds.move(4, batch, trainer.denoiser)
        assert torch.equal(trainer.speeds.free["log_speeds"], before)
        assert trainer.speeds.taken == 1

    def test_they_go_down_their_loss(self, tmp_path):
        """At a network that stays, on one batch and the same draws."""
        trainer = restored(create(tmp_path / "run", config(speeds={"lr": 0.02})))
        batch, losses = trainer.batches[1], []
        for _ in range(8):
            trainer.speeds.move(2, batch, trainer.denoiser)
            losses.append(trainer.speeds.loss)
        assert losses == sorted(losses, reverse=True)

    def test_the_network_is_asked_as_it_samples(self, tmp_path):
        """Without dropout, which it goes on with afterwards, and clamped to the range of the data."""
        unet = "unet:channels=8,multipliers=[1],attention=[],heads=1,dropout=0.5"
        trainer = restored(create(tmp_path / "run", config(model=unet)))
        trainer.network.train()
        with torch.no_grad():  # its output is 0 before it has learned
            for weight in trainer.network.parameters():
                weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
        batch = trainer.batches[1]
        first, again = (trainer.speeds._slope(2, batch, trainer.denoiser) for _ in range(2))
        assert first == again
        assert trainer.network.training
        with torch.no_grad():
            for weight in trainer.network.parameters():
                weight.mul_(100)
        far = trainer.speeds._slope(2, batch, trainer.denoiser)
        assert far[0] < 1e5  # x̂_0 is in range, however wrong; 2e7 otherwise

    def test_pictures_on_the_way_are_of_the_process_as_it_is(self, tmp_path):
        trainer = restored(create(tmp_path / "run", config()))
        for step in (2, 4):
            trainer.speeds.move(step, trainer.batches[1], trainer.denoiser)
            shown = trainer.averaged().diffusion.scales.half_log_snr(torch.arange(1, 21))
            assert torch.equal(shown, trainer.diffusion.scales.half_log_snr(torch.arange(1, 21)))
        trainer.speeds.move(6, trainer.batches[1], trainer.denoiser)
        assert not torch.equal(shown, trainer.diffusion.scales.half_log_snr(torch.arange(1, 21)))

    def test_moments_are_in_the_basis_that_they_will_tell_apart(self):
        """Even clocks are alike in any basis, but they will not stay so."""
        table = {"rotation": "identity", "velocity": "learned:by=component", "data": "digits"}
        assert resolve([Layer("the test", table)]).config.basis.name == "identity"

    def test_two_processes_move_them_as_one(self, tmp_path, monkeypatch):
        """Each has its part of the batch, and of the events that a step takes: what they add up to is that of the whole."""
        whole = restored(create(tmp_path / "run", config(batch=8, speeds={"events": 5})))
        parts = [Speeds(whole.config, whole.denoiser, World(rank, 2, CPU)) for rank in (0, 1)]
        batch = whole.batches[1]
        whole.speeds.move(2, batch, whole.denoiser)
        expected = whole.speeds.free["log_speeds"].grad
        monkeypatch.setattr(World, "mean", lambda world, values: values)
        total = torch.zeros_like(expected)
        for part, own in zip(parts, batch.parts(2), strict=True):
            part.move(2, own, whole.denoiser)
            total += part.free["log_speeds"].grad / 2
        torch.testing.assert_close(total, expected, rtol=1e-3, atol=1e-5)

    def test_where_they_fail_no_checkpoint_is_of_two_steps(self, tmp_path, monkeypatch):
        """The network has taken a step that they have not: the last whole state stays, and leads to the same run."""
        whole, parts = (create(tmp_path / name, config()) for name in ("whole", "parts"))
        train(whole)
        move = Speeds._slope

        def fails(own: Speeds, step: int, *rest) -> list[float]:
            if step == 8:
                raise RuntimeError("the network fails where it is asked")
            return move(own, step, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Speeds, "_slope", fails)
            with pytest.raises(RuntimeError):
                train(parts)
        assert checkpoint.steps(parts.checkpoints)[0] == 5
        train(parts)
        assert final(parts) == final(whole)


class TestRefusals:
    def test_a_network_that_is_told_of_the_scales(self):
        with pytest.raises(ConfigError, match="is told of the scales") as caught:
            Trainer(config(model="mlp:width=16,depth=1,time=lambda"), CPU, ALONE)
        assert caught.value.subject == "model.name"

    @pytest.mark.parametrize("sampler", ["ancestral", "ddim:steps=5,eta=1", "ddim"])
    def test_a_trajectory_that_more_steps_do_not_come_close_to(self, sampler):
        with pytest.raises(ConfigError, match="is not one that more steps come close to") as caught:
            Trainer(config(speeds={"loss": "trajectory", "sampler": sampler}), CPU, ALONE)
        assert caught.value.subject == "train.speeds.sampler"

    def test_a_checkpoint_without_them(self, tmp_path, run):
        trainer = Trainer(run.config, CPU, ALONE)
        source = checkpoint.newest(run.checkpoints)
        tensors = {group: named for group, named in source.tensors.items() if group != speeds.GROUP}
        with pytest.raises(DataError, match="has no speeds"):
            trainer.restore(checkpoint.Checkpoint(source.step, tensors, source.state, source.about))

    def test_speeds_that_nobody_learns_any_more(self, run):
        trainer = Trainer(config("isotropic"), CPU, ALONE)
        with pytest.raises(DataError, match="velocity 'isotropic' does not"):
            trainer.restore(checkpoint.newest(run.checkpoints))


class TestUse:
    def test_each_checkpoint_has_its_process(self, run):
        """A network is asked in the process that it had then; who opens the run alone sees the newest."""
        for step in (5, None):
            model = TrainedModel.load(Run.open(run.path), CPU, step=step)
            i = torch.arange(1, 21)
            clocks = config().velocity.with_learned({"log_speeds": learned(run, step or 20)})
            scales = clocks.scales(model.diffusion.rotation, (1, 8, 8), 20)
            torch.testing.assert_close(
                model.diffusion.scales.half_log_snr(i), scales.half_log_snr(i), rtol=0, atol=1e-12
            )
        newest = Run.open(run.path).config.diffusion().scales
        assert torch.equal(newest.half_log_snr(i), model.diffusion.scales.half_log_snr(i))

    def test_models_of_two_checkpoints_do_not_share_a_process(self, run):
        """Which was loaded last changes nothing of the other, nor of the run that both were loaded from."""
        opened = Run.open(run.path)
        early = TrainedModel.load(opened, CPU, step=5)
        late = TrainedModel.load(opened, CPU)
        i = torch.arange(1, 21)
        for model in (early, late):
            own = model.diffusion.scales.half_log_snr(i)
            assert torch.equal(model.config.diffusion().scales.half_log_snr(i), own)
        assert not torch.equal(early.diffusion.scales.half_log_snr(i), late.diffusion.scales.half_log_snr(i))

    def test_without_its_plugin_the_numbers_are_used(self, run, tmp_path):
        """Those of the checkpoint, not those with which the run began."""
        before = TrainedModel.load(Run.open(run.path), CPU)
        kept = checkpoint.newest(run.checkpoints).tensors[speeds.GROUP]
        stranger = Run.open(run.path).config.velocity_of(
            resolve([Layer("t", {"velocity": "isotropic"})]).config.velocity
        )
        moved = speeds.moved(stranger, kept)
        assert moved.velocity.name == "stored"
        i = torch.arange(0, 21)
        torch.testing.assert_close(
            moved.diffusion().scales.half_log_snr(i), before.diffusion.scales.half_log_snr(i), rtol=1e-12, atol=1e-12
        )

    def test_show_and_plot_say_how_they_moved(self, run, tmp_path):
        """RUN@STEP in an arm is the process of that checkpoint."""
        shown = {}
        for step in (5, 20):
            outcome = CliRunner().invoke(app, ["process", "show", "--arm", f"{run.path}@{step}", "--json"])
            assert outcome.exit_code == 0, outcome.output
            shown[step] = json.loads(outcome.stdout)["processes"][0]
        assert shown[5] != shown[20]
        maps = []
        for step in (5, 20):
            file = tmp_path / f"snr-{step}.png"
            drawn = command.run("process", "plot", "snr", "--arm", f"{run.path}@{step}", "--out", file)
            assert drawn.code == 0, drawn.err
            with Image.open(file) as picture:
                maps.append(np.asarray(picture.convert("L"), dtype=float)[40:])  # below the name of the arm
        assert np.abs(maps[0] - maps[1]).max() > 50
        absent = CliRunner().invoke(app, ["process", "show", "--arm", f"{run.path}@7"])
        assert isinstance(absent.exception, DataError)
        assert "no checkpoint of step 7" in absent.exception.what

    def test_another_run_begins_with_them(self, run):
        table = Parent.of(run.path).layer.table["velocity"]
        begun = resolve([Layer("the test", {"velocity": table})]).config.velocity
        i = torch.arange(1, 21)
        scales = begun.scales(run.config.rotation, (1, 8, 8), 20)
        own = Run.open(run.path).config.diffusion().scales
        torch.testing.assert_close(scales.half_log_snr(i), own.half_log_snr(i), rtol=0, atol=1e-4)

    def test_a_fit_is_where_training_begins(self, tmp_path, monkeypatch):
        """`process fit` writes the speeds, and a run of that file begins with them."""
        monkeypatch.setattr(descent, "descend", partial(descent.descend, evaluations=15))
        file = tmp_path / "fitted.toml"
        words = ["process", "fit", "--rotation", "dct", "--velocity", "learned:bands=2,parts=3", "--data", "digits"]
        words += ["--sampler", "ddim", "--steps", "3", "--grid", "uniform", "--prior", "matched"]
        outcome = CliRunner().invoke(app, [*words, "--network-error", "0", "--out", str(file), "--json"])
        assert outcome.exit_code == 0, outcome.output
        facts = json.loads(outcome.stdout)
        assert facts["error_after"] < 0.99 * facts["error_before"]
        begun = resolve([Layer.from_file(file)]).config.fitted().velocity.learned["log_speeds"]
        assert begun.shape == (2, 3)
        assert float(begun.std()) > 0
