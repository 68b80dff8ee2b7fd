"""Presets: each resolves, and those of the paper hold the paper's numbers."""

from __future__ import annotations

import pytest
import torch
from command import run

from gendiff.plugin.registry import default_registry
from gendiff.run.layers import Layer, resolve

PRESETS = default_registry().presets()
NO_BLUR, LOG, QUARTIC = (
    {"name": "none"},
    {"name": "log", "f_max": 0.6, "f_min": 0.0},
    {"name": "quartic", "f_max": 0.14, "f_min": 0.0},
)
ARMS = {
    "paper-bedroom-no-blur": (NO_BLUR, 450_000),
    "paper-bedroom-log": (LOG, 450_000),
    "paper-bedroom": (QUARTIC, 450_000),
    "paper-church-no-blur": (NO_BLUR, 600_000),
    "paper-church": (QUARTIC, 600_000),
}


def resolved(name, path):
    layers = [Layer.from_file(default_registry().preset(name), f"preset {name}")]
    needs_path = name in ARMS or name.endswith(("-cifar10", "-mnist"))
    return resolve([*layers, Layer.at("--set data.path", "data.path", str(path))] if needs_path else layers)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_resolves_and_says_what_it_is(name, tmp_path):
    found = resolved(name, tmp_path)
    assert f"preset {name}" in found.origins.values()
    assert PRESETS[name].read_text().startswith("# ")
    assert name in run("config", "show", "--presets").out


def test_every_arm_of_the_paper_has_its_preset():
    assert {name for name in PRESETS if name.startswith("paper")} == ARMS.keys()


@pytest.mark.parametrize("name", ARMS)
def test_the_numbers_of_the_paper(name, tmp_path):
    table = resolved(name, tmp_path).config.table()
    schedule, steps = ARMS[name]
    train = {key: table["train"][key] for key in ("steps", "batch", "lr", "ema", "warmup", "grad_clip", "precision")}
    assert table["N"] == 1000
    assert (table["rotation"]["name"], table["rotation"]["sigma"]) == ("blur-eigen", 0.4)
    assert table["velocity"] == {
        "name": "blur",
        "noise": {"name": "linear", "beta_min": 1e-4, "beta_max": 0.02},
        "schedule": schedule,
        "sigma": 0.4,
    }
    assert table["objective"] == {"name": "eps", "basis": "auto"}  # on which eps does not depend
    told = {"frequency_features", "time", "bands"}
    assert {key: value for key, value in table["model"].items() if key not in told} == {
        "name": "unet", "channels": 128, "multipliers": [1, 2, 3, 4], "blocks": 3, "attention": [4, 8], "heads": 4,
        "dropout": 0.0,
    }  # fmt: skip
    assert (table["model"]["frequency_features"], table["model"]["time"]) == (False, "i")
    assert (table["data"]["size"], table["data"]["channels"]) == (64, 3)
    assert table["sampler"] == {"name": "reverse-diffusion", "clip": False, "prior": "standard"}
    assert train == {
        "steps": steps,
        "batch": 16,
        "lr": 5e-5,
        "ema": 0.9999,
        "warmup": 0,
        "grad_clip": 0.0,
        "precision": "fp32",
    }


@pytest.mark.parametrize("name", ["unet-paper", "paper-church"])
def test_the_networks_have_the_size_they_say(name, tmp_path):
    with torch.device("meta"):
        network = resolved(name, tmp_path).config.model.build((3, 64, 64))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == 121.06
    small = resolved("unet-small", tmp_path).config.model.build((1, 8, 8))
    assert round(sum(p.numel() for p in small.parameters()) / 1e6, 2) == 0.76


def test_the_demo_trains_what_is_closest_to_the_digits_in_its_time(tmp_path):
    """As docs/results.md has it: the U-Net at half its width, and all else as `gendiff train` has it."""
    config = resolved("digits-demo", tmp_path).config
    assert round(sum(p.numel() for p in config.model.build((1, 8, 8)).parameters()) / 1e6, 2) == 0.19
    own = {"steps", "sample_every", "checkpoint_every"}
    default = resolve([]).config
    assert config.train.model_dump(exclude=own) == default.train.model_dump(exclude=own)
    assert config.model.model_copy(update={"channels": 32}) == default.model


def test_a_preset_of_the_paper_asks_for_the_pictures():
    done = run("train", "--preset", "paper-church")
    assert done.code == 2
    assert "data 'folder' needs 'path' (from preset paper-church)" in done.err
    assert "write --data folder:path=..." in done.err


def test_presets_combine_in_order():
    found = run("config", "show", "--preset", "digits-demo", "--preset", "unet-paper", "--json").json
    assert found["config"]["model"]["channels"] == 128
    assert found["config"]["train"]["steps"] == 1300
    assert found["origins"]["model.channels"] == "preset unet-paper"


#: Of each relative: U, N, objective, sampler and prior of its paper, and what the velocity is made of there.
RELATIVES = {
    "blurring-diffusion-cifar10": (
        ("dct", 1000, "eps", "ancestral", "standard"),
        {"name": "blurring", "sigma_max": 20, "d_min": 1e-3, "logsnr_max": 10, "logsnr_min": -10},
    ),
    "heat-dissipation-cifar10": (
        ("dct", 200, "residual", "heat-dissipation", "data"),
        {"name": "heat", "sigma_min": 0.5, "sigma_max": 24, "s": 0.02},
    ),
    "heat-dissipation-mnist": (
        ("dct", 100, "residual", "heat-dissipation", "data"),
        {"name": "heat", "sigma_min": 0.5, "sigma_max": 20, "s": 0.02},
    ),
    "cold-cifar10": (
        ("dct", 50, "x0-l1", "ddim", "matched"),
        {"name": "cold", "sigma": 0.35, "growth": 0.01, "ratio": 1, "floor": 1e-3},
    ),
    "spectrum-matched-cifar10": (
        ("hartley", 4000, "eps", "ancestral", "standard"),
        {"name": "spectrum-matched", "power_law": [1.59, 0.0086, 2]},
    ),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_the_settings_of_the_relatives_papers(name, tmp_path):
    config = resolved(name, tmp_path).config
    named, velocity = RELATIVES[name]
    sampler = config.sampler
    assert (config.rotation.name, config.N, config.objective.name, sampler.name, sampler.prior) == named
    assert config.velocity.table() == velocity
    assert sampler.name != "heat-dissipation" or sampler.delta == 1.25
    with torch.device("meta"):
        config.model.build((1, 28, 28) if name.endswith("mnist") else (3, 32, 32))


@pytest.mark.parametrize("process", [name for name in default_registry().names("process") if name in PRESETS])
def test_a_process_of_that_name_trains_and_samples_out_of_the_box(process, tmp_path):
    """With a tiny network, a few of its steps and its own objective, sampler and prior."""
    layer = Layer.from_file(default_registry().preset(process), f"preset {process}")
    own = resolve([Layer("a process", {"process": process})]).config
    config = resolve([layer]).config
    assert (config.rotation.name, config.velocity.name) == (own.rotation.name, own.velocity.name)
    few = 12 if config.objective.name == "residual" else min(config.N, 40)
    tiny = ("--model", "mlp:width=8,depth=1", "--set", f"N={few}", "--steps", 3, "--batch", 4)
    done = run("train", "--preset", process, *tiny, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    done = run("sample", tmp_path / "run", "-n", 2, "--out", tmp_path / "samples")
    assert done.code == 0, done.err
    assert (tmp_path / "samples" / "events" / "000001.png").exists()


def test_every_relative_has_a_preset_of_its_name():
    paper, power_law = {"ddpm", "blur-diffusion"}, {"pink", "blue", "pyramid", "two-bands"}  # as the preset power-law
    assert set(default_registry().names("process")) - set(PRESETS) == {*paper, *power_law, "space-time"}
