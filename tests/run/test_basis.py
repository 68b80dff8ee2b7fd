"""Where U is of no consequence, nothing depends on what it is called: targets, losses, predictions and pictures."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w
import torch
from command import TINY, run
from runs import CPU

from gendiff import Diffusion, NetworkScore, Objective, Rotation, Sampler, sample
from gendiff.errors import ConfigError
from gendiff.lab.prediction import predict
from gendiff.lab.recursion import Gaussian
from gendiff.plugin.registry import default_registry
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve
from gendiff.run.network import build_denoiser

#: One process under several names, and what says which.
NAMES = {
    "identity": {"rotation": "identity"},
    "dct": {"rotation": "dct", "velocity": "blur:schedule=none"},
    "haar": {"rotation": "haar", "velocity": "isotropic"},
    "random": {"rotation": "random-orthogonal", "velocity": "isotropic"},
}
OBJECTIVES = sorted(default_registry().names("objective"))
SAMPLERS = sorted(default_registry().names("sampler"))


def config(name: str, **others: object) -> Config:
    table = {"data": "digits", "model": "mlp:width=16,depth=1", "N": 40, "sampler": "ancestral"}
    return resolve([Layer("the test", {**table, **NAMES[name], **others})]).config.fitted()


@pytest.fixture(scope="module")
def processes() -> dict[str, Diffusion]:
    return {name: config(name).diffusion() for name in NAMES}


def test_they_are_written_in_one_basis_with_the_same_numbers(processes):
    first, *others = processes.values()
    assert first.rotation == Rotation("dct")
    for other in others:
        assert other.rotation == first.rotation
        assert torch.equal(other.moments.mean, first.moments.mean)
        assert torch.equal(other.moments.variance, first.moments.variance)
        for i in (0, 1, 17, 40):
            assert torch.equal(other.at(i).log_a.expand(1, 8, 8), first.at(i).log_a.expand(1, 8, 8))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_targets_losses_and_predictions_of_every_objective(processes, objective, rng):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1)

    def denoiser(x, i):
        return network(x) * (1 + i.reshape(-1, 1, 1, 1) / 40)

    x_0, eps = (torch.randn(6, 1, 8, 8, generator=rng) for _ in range(2))
    i = torch.tensor([1, 2, 9, 20, 33, 40])
    how = Objective(objective)
    losses = [how.loss(denoiser, diffusion, x_0, i, eps) for diffusion in processes.values()]
    models = [NetworkScore(denoiser, diffusion, how.parametrization) for diffusion in processes.values()]
    beliefs = [
        diffusion.unrotate(model.predict(diffusion.rotate(x_0), i).x_0)
        for diffusion, model in zip(processes.values(), models, strict=True)
    ]
    for loss, belief in zip(losses[1:], beliefs[1:], strict=True):
        torch.testing.assert_close(loss.per_event, losses[0].per_event, rtol=2e-4, atol=1e-5)
        torch.testing.assert_close(loss.error_bar, losses[0].error_bar, rtol=2e-4, atol=2e-4)
        torch.testing.assert_close(belief, beliefs[0], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(
    "sampler",
    [name if name in ("ancestral", "trig") else pytest.param(name, marks=pytest.mark.slow) for name in SAMPLERS],
)
def test_pictures_of_every_sampler_from_the_same_noise(processes, sampler):
    chosen, pictures, refusals = Sampler(sampler), [], []
    for name, diffusion in processes.items():
        denoiser = build_denoiser(config(name), CPU).eval()
        try:
            pictures.append(sample(diffusion, NetworkScore(denoiser, diffusion, "wiener", (-1, 1)), chosen, n=3))
        except ConfigError as error:  # that it cannot sample this process
            refusals.append(error.what)
    assert len(set(refusals)) <= 1
    assert len(pictures) + len(refusals) == len(NAMES)
    for other in pictures[1:]:
        torch.testing.assert_close(other, pictures[0], rtol=0, atol=2e-4)


def test_predicted_errors_are_the_same(processes):
    sampler = Sampler("trig:solver=ab2,steps=5")
    data = [Gaussian.of(diffusion.moments, diffusion.event_shape) for diffusion in processes.values()]
    found = [predict(diffusion, sampler, one) for diffusion, one in zip(processes.values(), data, strict=True)]
    assert len({round(one.total, 9) for one in found}) == 1


@pytest.mark.parametrize(
    ("table", "basis"),
    [
        ({"rotation": "identity", "objective": "wiener:basis=process"}, "identity"),
        ({"rotation": "haar", "velocity": "isotropic", "objective": "eps:basis=process"}, "haar"),
        ({"rotation": "haar", "velocity": "blur:schedule=log"}, "haar"),  # its components have speeds of their own
        (
            {"rotation": "identity", "velocity": "blur:schedule=log"},
            "dct",
        ),  # every pixel keeps the same share of itself
        ({"rotation": "dct", "velocity": "blur:schedule=log"}, "dct"),
        ({"rotation": "klt", "velocity": "isotropic"}, "dct"),
    ],
)
def test_a_process_that_needs_its_basis_has_it(table, basis):
    own = resolve([Layer("the test", {"data": "digits", "N": 20, **table})]).config
    assert own.basis.name == own.diffusion().rotation.name == basis


@pytest.mark.parametrize("rotation", ["identity", "klt"])
def test_a_run_keeps_its_basis_and_what_its_rotation_learned(rotation, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ("--rotation", rotation, "--velocity", "isotropic", "--set", "N=20", *TINY, "--out", "r")
    assert run("train", *arguments).code == 0
    opened = Run.open("r")
    assert opened.notes == []
    assert opened.config.diffusion().rotation == Rotation("dct")
    assert opened.config.rotation.name == rotation
    assert opened.config.rotation.has_learned == (rotation == "klt")
    done = run("train", "--resume", "r", "--steps", 5)
    assert (done.code, "numbers stored" in done.err) == (0, False)


def test_a_run_of_before_keeps_its_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("train", "--objective", "wiener:basis=process", "--set", "N=20", *TINY, "--out", "r").code == 0
    table = tomllib.loads((tmp_path / "r" / "config.toml").read_text())
    del table["objective"]["basis"]
    (tmp_path / "r" / "config.toml").write_text(tomli_w.dumps(table))
    opened = Run.open("r")
    assert opened.notes == []
    assert opened.config.diffusion().rotation == Rotation("identity")
    assert run("sample", "r", "--n", 2, "--steps", 3).code == 0
    done = run("train", "--resume", "r", "--steps", 5)
    assert (done.code, "numbers stored" in done.err) == (0, False)


def test_a_comparison_says_where_bases_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arms = ("--arm", "identity", "--arm", "haar schedule=log", "--arm", "dct schedule=log")
    done = run("compare", *arms, *TINY, "--seeds", 1, "--n", 16, "--features", "pixels", "--dry-run")
    assert done.code == 0, done.err
    said = done.err + done.out
    assert "basis in which mean and variance of the data are taken of haar schedule=log is haar" in said
    assert "of dct schedule=log is" not in said
