"""Latents: those of diffusers to rounding, events in training and pictures wherever somebody looks."""

from __future__ import annotations

import json
import shutil
import tomllib

import numpy as np
import pytest
import torch
from autoencoders import autoencoder
from command import TINY, run
from gendiff_plugins.latents.autoencoder_kl import AutoencoderKL
from PIL import Image

import gendiff
from gendiff import Data
from gendiff.comparison.look import look
from gendiff.datasets.batches import Batches
from gendiff.datasets.latents import Latents
from gendiff.datasets.split import HoldOut, Split
from gendiff.errors import ConfigError, DataError
from gendiff.evaluation.event_set import EventSet
from gendiff.latent import Latent
from gendiff.run.layers import Layer, resolve


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("autoencoder") / "vae"
    autoencoder(place, shift_factor=0.3)
    return place


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """Three steps on latents of digits."""
    place = tmp_path_factory.mktemp("latent-run") / "run"
    preview = (
        "--set",
        "train.sample_every=3",
        "--set",
        "train.preview_images=9",
        "--set",
        "train.preview=trig:steps=2",
    )
    done = run("train", "--latent", f"diffusers:{folder}", *TINY, *preview, "--out", place)
    assert done.code == 0, done.err
    assert "switched off" not in done.err
    return place


PICTURES = torch.linspace(-1, 1, 3 * 8 * 12).mul(7).sin().reshape(3, 1, 8, 12)


@pytest.mark.parametrize(
    "config",
    [
        {"shift_factor": 0.3},
        {},
        {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 0.5, 3.0], "shift_factor": 9.0},
    ],
    ids=["shift", "scale", "mean and deviation"],
)
@torch.no_grad()
def test_it_is_what_the_library_gives(tmp_path, config):
    network = autoencoder(tmp_path, **config)
    shift, std = torch.tensor(config.get("shift_factor", 0.0)), torch.ones(1)
    if "latents_mean" in config:
        shift, std = (torch.tensor(config[key]).reshape(4, 1, 1) for key in ("latents_mean", "latents_std"))
    posterior = network.encode(PICTURES).latent_dist
    latent = AutoencoderKL(path=tmp_path)
    events = latent.encode(PICTURES)
    torch.testing.assert_close(events, (posterior.mean - shift) * 1.7 / std)
    assert events.shape == (3, *latent.latent_shape((1, 8, 12))) == (3, 4, 4, 6)
    torch.testing.assert_close(latent.decode(events), network.decode(events * std / 1.7 + shift).sample)
    assert torch.equal(latent.encode(PICTURES, [0, 1, 2]), events)  # the mean, whichever event it is

    drawn = (AutoencoderKL(path=tmp_path, sample=True).encode(PICTURES, [4, 5, 6]) - events) / (1.7 / std)
    z = drawn / posterior.std
    assert 0.8 < float(z.std()) < 1.2
    assert abs(float(z.mean())) < 0.3


def test_data_are_latents_and_show_their_pictures(folder):
    digits = Data("digits")
    data = Latents(source=digits, by=AutoencoderKL(path=folder))
    torch.testing.assert_close(data[5], data.by.encode(digits[5][None])[0])
    assert (data.event_shape, data.picture_shape, data.value_range, data.in_pictures) == (
        (4, 4, 4),
        (1, 8, 8),
        None,
        True,
    )
    assert (data.length, data.condition(5), data.conditions) == (digits.length, digits.condition(5), digits.conditions)
    assert data.fingerprint != Latents(source=digits, by=AutoencoderKL(path=folder, sample=True)).fingerprint
    assert data.fingerprint.startswith(digits.fingerprint)
    event = data[5]
    event += 1  # of the caller alone
    assert not torch.equal(data[5], event)

    part = Split.of(data, HoldOut.model_validate({"events": 0.1})).held_out
    pictures = torch.cat(list(EventSet.of_data(part).at(range(3))))
    assert EventSet.of_data(part).event_shape == (1, 8, 8)
    for k in range(3):
        torch.testing.assert_close(part[k], data.events(pictures[k : k + 1])[0])


def test_the_picture_is_mirrored_and_not_its_latent(folder):
    digits = Data("digits", flip=True)
    data = Latents(source=digits, by=AutoencoderKL(path=folder))
    assert data.flip
    batches = Batches(data, N=10, seed=0, batch=8, flip=data.flip)
    batch = batches[1]
    mirrored = [batches.is_mirrored(1, k) for k in range(8)]
    assert {True, False} == set(mirrored)
    for k, event in enumerate(batch.x_0):
        picture = digits[int(batch.index[k])]
        torch.testing.assert_close(event, data.events((picture.flip(-1) if mirrored[k] else picture)[None])[0])


def test_it_is_a_layer_like_any_other(folder, tmp_path):
    autoencoder(tmp_path / "other", scaling_factor=0.5)
    layers = [
        Layer("file", {"latent": f"diffusers:{folder}", "data": {"name": "digits", "flip": True}}),
        Layer("--hold-out", {"hold_out": {"data": "gaussian-field:size=8"}}),
    ]
    settings = resolve(layers)
    data = settings.config.data
    assert isinstance(data, Latents)
    assert (data.source.name, data.flip, data.by.path) == ("digits", True, folder)
    assert settings.config.hold_out.data.by == data.by
    assert settings.origins["data.by.path"] == settings.origins["data.source.name"] == "file"
    again = resolve(
        [
            Layer("config.toml", tomllib.loads(settings.config.toml())),
            Layer("--latent", {"latent": {"path": str(tmp_path / "other")}}),
        ]
    )
    assert again.config.data.source == data.source
    assert again.config.data.by.path == tmp_path / "other"
    with pytest.raises(ConfigError, match="cannot encode pictures of 9x9") as caught, settings.locating():
        _ = resolve([*layers, Layer("--data", {"data": "gaussian-field:size=9"})]).config.data.event_shape
    assert "multiples of 2" in caught.value.fix


def test_a_network_of_latents_comes_in(folder, tmp_path):
    """Of a pipeline, without its events: only what decodes them is needed to see what it draws."""
    from diffusers import DDPMScheduler
    from foreign import unet

    pipeline = tmp_path / "pipeline"
    unet(4).save_pretrained(pipeline / "unet")
    DDPMScheduler(num_train_timesteps=10).save_pretrained(pipeline / "scheduler")
    shutil.copytree(folder, pipeline / "vae")
    (pipeline / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKL"]}')
    done = run("import", f"diffusers:{pipeline}", "--latent", f"diffusers:{pipeline}", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    drawn = run("sample", tmp_path / "run", "--n", 1, "--steps", 2, "--out", tmp_path / "drawn", "--array")
    assert drawn.code == 0, drawn.err
    assert np.load(tmp_path / "drawn" / "events.npy").shape == (1, 1, 16, 16)


@pytest.mark.slow
def test_from_training_to_numbers(trained, folder):
    config = tomllib.loads((trained / "config.toml").read_text())
    assert config["data"]["source"]["name"] == "digits"
    info = json.loads((trained / "run.json").read_text())
    assert info["data"]["event_shape"] == [4, 4, 4]
    assert info["data"]["latent"]["path"] == str(folder)

    with Image.open(next((trained / "samples").glob("step-*.png"))) as preview:
        assert preview.mode == "L"  # the one channel of digits, and not four

    drawn = run("sample", trained, "--n", 3, "--steps", 2, "--trajectory", "--json")
    assert drawn.code == 0, drawn.err
    place = json.loads(drawn.out)["folder"]
    model = gendiff.load(trained)
    events = model.sample(3, "trig:steps=2")
    pictures = model.pictures(events)
    assert (events.shape, pictures.shape) == ((3, 4, 4, 4), (3, 1, 8, 8))
    for k in range(3):
        with Image.open(f"{place}/events/{k:06d}.png") as picture:
            seen = np.asarray(picture).astype(float) / 127.5 - 1
        assert np.abs(seen - pictures[k, 0].clamp(-1, 1).numpy()).max() < 0.004

    measured = run(
        "evaluate", trained, "--n", 8, "--features", "pixels", "--no-cache", "--json", "--sampler", "trig:steps=2"
    )
    assert measured.code == 0, measured.err
    (number,) = [one for one in json.loads(measured.out)["numbers"] if one["name"] == "fd-pixels"]
    assert (
        number["reference"]["fingerprint"] == Data("digits").fingerprint
    )  # the pictures, and not what is left of them


@pytest.mark.slow
def test_a_comparison_shows_pictures(trained):
    model = gendiff.load(trained)
    seen = look(model, gendiff.Sampler("trig:steps=2"), [1000, 0], model.data, 0, lambda: None)
    assert {tuple(views.shape[2:]) for views in (seen.forward, seen.reverse, seen.belief)} == {(1, 8, 8)}
    decoded = model.pictures(torch.stack([model.data[k] for k in model.data.spread(len(seen.forward[-1]))]))
    torch.testing.assert_close(seen.forward[-1], decoded, rtol=0, atol=1e-4)  # step 0


def test_pictures_come_in_and_go_out(trained, tmp_path):
    for k in (0, 1):
        Image.fromarray(((Data("digits")[k][0] + 1) * 127.5).byte().numpy()).save(tmp_path / f"{k}.png")
    one, other = tmp_path / "0.png", tmp_path / "1.png"
    for words in (
        ["sample", trained, "--n", 1, "--steps", 2, "--from", one, "--array"],
        ["interpolate", trained, one, other, "-n", 2, "--steps", 2],
        ["invert", trained, one, "--steps", 2],
        ["restore", trained, one, "--operator", "mask:rectangle=[0,0,2,2]", "--simulate", "--noise", 0.1, "--steps", 2],
    ):  # fmt: skip
        done = run(*words, "--out", tmp_path / words[0])
        assert done.code == 0, done.err
    with Image.open(tmp_path / "restore" / "events" / "000000.png") as picture:
        assert picture.size == (8, 8)
    assert np.load(tmp_path / "invert" / "noise.npy").shape == (1, 4, 4, 4)
    assert np.load(tmp_path / "sample" / "events.npy").shape == (1, 1, 8, 8)
    refused = run("restore", trained, one, "--operator", "identity")
    assert (refused.code, "--simulate" in refused.err) == (2, True)


@pytest.mark.slow
def test_resuming_changes_no_bit(folder, tmp_path):
    words = ["train", "--latent", f"diffusers:path={folder},sample=true", *TINY, "--set", "data.flip=true"]
    assert run(*words, "--steps", 4, "--out", tmp_path / "whole").code == 0
    assert run(*words, "--steps", 2, "--out", tmp_path / "parts").code == 0
    done = run("train", "--resume", tmp_path / "parts", "--steps", 4)
    assert done.code == 0, done.err
    whole, parts = (next((tmp_path / name).glob("checkpoints/*4/model.safetensors")) for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def test_latents_on_the_disk(folder, tmp_path):
    place = tmp_path / "packed"
    for _ in range(2):  # the second has nothing to do
        done = run("data", "prepare", "digits", place, "--latent", f"diffusers:{folder}", "--n", 20, "--workers", 0)
        assert done.code == 0, done.err
    assert "holds all of it already" in done.err
    data, fresh = Data("packed", path=place), Latents(source=Data("digits"), by=AutoencoderKL(path=folder))
    assert data.latent == fresh.latent
    assert (data.event_shape, data.value_range, data.condition(3)) == (fresh.event_shape, None, fresh.condition(3))
    assert all(torch.equal(data[k], fresh[k]) for k in range(20))
    torch.testing.assert_close(data.shown[7], data.pictures(data[7][None])[0].clamp(-1, 1))
    assert "decoded by autoencoder-kl" in EventSet.of_data(data).about.fingerprint

    with pytest.raises(ConfigError, match="cannot be mirrored"):
        data.mirrored(0)
    refused = run("train", "--data", f"packed:path={place}", "--latent", f"diffusers:{folder}", "--dry-run", *TINY)
    assert (refused.code, "latents already" in refused.err) == (2, True)
    values = place / "data.npy"
    values.write_bytes(values.read_bytes()[:-1] + b"\x17")
    with pytest.raises(DataError, match="damaged"):
        _ = data[19]


def test_an_autoencoder_that_is_gone_or_another(trained, folder, tmp_path):
    kept = tmp_path / "vae"
    shutil.move(folder, kept)
    try:
        gone = run("sample", trained, "--n", 1)
        assert (gone.code, "a link is enough" in gone.err) == (4, True)
        folder.symlink_to(kept)
        assert run("sample", trained, "--n", 1, "--steps", 2).code == 0
        folder.unlink()
        shutil.copytree(kept, folder)
        config = folder / "config.json"
        config.write_text(config.read_text().replace('"scaling_factor": 1.7', '"scaling_factor": 1.8'))
        changed = run("sample", trained, "--n", 1)
        assert (changed.code, "is another than it was" in changed.err) == (4, True)
    finally:
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)
        shutil.move(kept, folder)


def test_what_is_no_autoencoder(tmp_path):
    with pytest.raises(DataError, match="there is no"):
        Latent(f"diffusers:{tmp_path / 'nothing'}")
    with pytest.raises(DataError, match="no autoencoder lies in"):
        Latent(f"diffusers:{tmp_path}")
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(ConfigError, match="it is a VQModel"):
        Latent(f"diffusers:{tmp_path}")
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(DataError, match="no safetensors") as caught:
        Latent(f"diffusers:{tmp_path}")
    assert "pickle" in caught.value.details[0] or "objects" in caught.value.details[0]


def test_pictures_of_another_kind_are_refused(folder):
    refused = run("train", "--data", "emoji:size=8", "--latent", f"diffusers:{folder}", "--dry-run", *TINY)
    assert (refused.code, "reads pictures (1, H, W)" in refused.err) == (2, True)


def test_without_the_library(folder, monkeypatch):
    import sys

    from gendiff_plugins.latents import autoencoder_kl

    autoencoder_kl._loaded.cache_clear()
    monkeypatch.setitem(sys.modules, "diffusers", None)
    done = run("train", "--latent", f"diffusers:{folder}", "--dry-run", *TINY)
    assert (done.code, "pip install 'gendiff[diffusers]'" in done.err) == (3, True)
