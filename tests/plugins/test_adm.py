"""Networks of guided-diffusion: state dicts in their names, its time and schedule, and its own sampler, step by step."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
import torch
from adm import filled, network
from command import run
from gendiff_plugins.models.adm import PUBLISHED, Architecture, _network
from gendiff_plugins.models.song_unet import DhariwalUNet, SongUNet

from gendiff import Diffusion, Model, NetworkScore, Sampler, Velocity, sample
from gendiff.condition import Condition
from gendiff.denoiser import Denoiser
from gendiff.errors import ConfigError, DataError

EVENT = (3, 8, 8)
SAID = {"new": "size=8,head_channels=32,new_order=true,noise=cosine", "old": "size=8,heads=4"}


def event():
    return torch.sin(torch.arange(192, dtype=torch.float64) * 0.7).reshape(1, 3, 8, 8).float()


def saved(tmp_path, kind: str):
    path = tmp_path / f"{kind}.pt"
    torch.save(network(kind).state_dict(), path)
    return path


def looked_at(output, names):
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]
    return [*output[0, :3, 2, 5].tolist(), *output[0, :3, 7, 0].tolist()], digest


# What other implementations of these networks gave for these weights, under these names


@pytest.mark.parametrize(
    ("kind", "values", "digest"),
    [
        ("new", [0.119662, -0.032081, -0.099182, 0.087625, -0.016053, -0.094465], "3d5ee67465daef15"),
        ("old", [0.074835, 0.011377, -0.120004, 0.096833, -0.009704, -0.09987], "64056baae392b54d"),
    ],
)
def test_it_is_the_network_of_guided_diffusion(kind, values, digest):
    made = network(kind)
    condition = {"label": torch.tensor([1])} if kind == "new" else None
    output, names = looked_at(made(event(), torch.tensor([400.0]), condition), made.state_dict())
    assert output == pytest.approx(values, abs=1e-5)
    assert names == digest


BASE = {
    "img_resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
NCSN = {
    "embedding_type": "fourier",
    "encoder_type": "residual",
    "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}


@pytest.mark.parametrize(
    ("cls", "options", "values", "digest"),
    [
        (
            SongUNet,
            {"label_dim": 4},
            [0.103987, 0.030924, -0.081628, 0.149474, 0.047512, -0.095132],
            "cb06f5e19e045791",
        ),
        (SongUNet, NCSN, [0.09657, 0.026058, -0.083592, 0.146451, 0.043725, -0.09941], "17d7a62cd8e31543"),
        (
            SongUNet,
            {"encoder_type": "skip", "decoder_type": "skip"},
            [0.059563, -0.07724, -0.127995, 0.154529, -0.047425, -0.426583],
            "97ebf887666d9076",
        ),
        (
            DhariwalUNet,
            {"model_channels": 64, "label_dim": 4},
            [0.075303, 0.042992, -0.121415, 0.094441, 0.020333, -0.095323],
            "e1de2bd55a9a9265",
        ),
    ],
    ids=["ddpm++", "ncsn++", "skip", "adm"],
)
def test_it_is_the_network_of_edm(cls, options, values, digest):
    made = cls(**{**BASE, **options}).eval().requires_grad_(False)
    filled(made)
    labels = torch.eye(4)[1:2] if "label_dim" in options else None
    output, names = looked_at(made(event(), torch.tensor([0.4]), labels), made.state_dict())
    assert output == pytest.approx(values, abs=1e-5)
    assert names == digest


def test_the_published_networks_have_their_sizes():
    sizes = {}
    for (channels, multipliers), recipe in PUBLISHED.items():
        attention = [recipe.size >> level in (32, 16, 8) for level in range(len(multipliers))]
        table = {
            **recipe.model_dump(),
            "channels": channels,
            "widths": [int(channels * multiplier) for multiplier in multipliers],
            "blocks": 3 if channels == 192 else 2,
            "attention": attention,
            "in_channels": 3,
            "out_channels": 6,
            "classes": 1000,
            "residual_resampling": True,
            "scale_shift": True,
        }
        with torch.device("meta"):
            made = _network(Architecture.model_validate(table), 0.0)
        sizes[recipe.size, channels] = round(sum(weight.numel() for weight in made.parameters()) / 1e6)
    # Dhariwal, Nichol 2021, Table 4
    assert [sizes[key] for key in ((64, 192), (128, 256), (256, 256), (512, 256))] == [296, 422, 554, 559]


# Its own sampler


@pytest.mark.parametrize(("kind", "noise"), [("new", "cosine"), ("old", "linear")])
def test_pictures_are_those_of_its_own_sampler(tmp_path, kind, noise):
    model = Model(f"adm:path={saved(tmp_path, kind)},{SAID[kind]}")
    settings = model.configuration()
    assert settings["N"] == 1000
    diffusion = Diffusion.of(settings["rotation"], Velocity(settings["velocity"]), EVENT, 1000)
    net = model.build_conditional(EVENT, model.conditions).eval()
    net.load_state_dict(dict(model.weights(net)), strict=True)
    model.attach(net, diffusion)
    assert torch.equal(net.t[1:], torch.arange(1000.0))
    score = NetworkScore(Denoiser(net, diffusion), diffusion, "eps", (-1, 1), model.conditions)
    condition = None
    if model.conditions:
        condition = {"label": torch.tensor([2, 0])}
        score = score.given(condition)
    z = torch.randn(2, *EVENT, generator=torch.Generator().manual_seed(1))  # theirs begins with variance 1, not 1 - ᾱ_N
    ours = sample(diffusion, score, Sampler("ddim:steps=20,grid=uniform,clip=true"), start=z)

    if noise == "linear":
        betas = np.linspace(1e-4, 0.02, 1000)
    else:
        bar = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    alphas_cumprod = np.cumprod(1 - betas)
    own, x = network(kind), z
    for k in range(20, 0, -1):
        t, before = 50 * k - 1, 50 * (k - 1) - 1
        a, a_before = alphas_cumprod[t], alphas_cumprod[before] if before >= 0 else 1.0
        eps = own(x, torch.full((2,), t + 1.0), condition)
        x_0 = ((x - float(np.sqrt(1 - a)) * eps) / float(np.sqrt(a))).clamp(-1, 1)
        eps = (x - float(np.sqrt(a)) * x_0) / float(np.sqrt(1 - a))
        x = float(np.sqrt(a_before)) * x_0 + float(np.sqrt(1 - a_before)) * eps
    assert float(x.std()) > 0.1
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-5)


def test_another_process_is_translated(tmp_path):
    model = Model(f"adm:path={saved(tmp_path, 'old')},{SAID['old']}")
    net, process = model.build(EVENT).eval(), Diffusion.of("identity", "edm", EVENT, 100)
    net.load_state_dict(dict(model.weights(net)))
    model.attach(net, process)
    own = Diffusion.of("identity", "isotropic", EVENT, 1000)
    level = own.at(300, torch.float64)
    sigma = float(level.s / level.a)
    i = int((process.at(torch.arange(1, 101), torch.float64).s.flatten() - sigma).abs().argmin()) + 1
    assert float(net.t[i]) == pytest.approx(299, abs=15)  # the process has no step of that σ
    assert (net.t[1:].diff() >= 0).all()
    s = float(process.at(i).s)
    expected = network("old")
    expected.t = net.t
    x = torch.randn(1, *EVENT)
    step = torch.tensor([float(i)])
    torch.testing.assert_close(net(x, step), expected(x / (1 + s**2) ** 0.5, step), rtol=1e-5, atol=1e-5)


def test_at_a_real_step_it_is_told_the_time_between(tmp_path):
    model = Model(f"adm:path={saved(tmp_path, 'old')},{SAID['old']}")
    net, process = model.build(EVENT).eval(), Diffusion.of("identity", "isotropic", EVENT, 1000)
    model.attach(net, process)
    told = []
    net.time_embed.register_forward_hook(lambda module, given, output: told.append(given[0]))
    for i in (300.0, 300.5, 301.0):
        net(torch.zeros(1, *EVENT), torch.tensor([i]))
    from gendiff_plugins.models.adm import _steps

    for given, t in zip(told, (299.0, 299.5, 300.0), strict=True):
        torch.testing.assert_close(given, _steps(torch.tensor([t]), net.made.channels), rtol=0, atol=1e-4)


# The file


def test_weights_say_what_they_can_and_the_rest_is_asked_for(tmp_path):
    path = saved(tmp_path, "new")
    model = Model(f"adm:path={path},{SAID['new']}")
    assert model.event_shape == EVENT
    assert model.conditions == {"label": Condition.label(3)}
    made = model.made
    assert (made.channels, made.widths, made.blocks, made.attention) == (32, (32, 64), 1, (False, True))
    assert (made.new_order, made.residual_resampling, made.scale_shift) == (True, True, True)
    with pytest.raises(ConfigError, match="none of the published networks") as error:
        Model(f"adm:path={path}")
    assert "32 channels, 2 levels of 32, 64" in error.value.details[0]
    with pytest.raises(ConfigError, match="pictures of 3 channels"):
        model.build((1, 8, 8))
    assert Model(model.spec) == model
    path.unlink()
    assert Model(model.table()) == model


def legacy(content) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def test_the_older_form_of_a_file_is_read(tmp_path):
    path = tmp_path / "old.pt"
    path.write_bytes(legacy(network("old").state_dict()))
    model = Model(f"adm:path={path},{SAID['old']}")
    own = network("old").state_dict()
    weights = model.weights(model.build(EVENT))
    assert all(torch.equal(weights[name], own[name]) for name in own)


def lacking(name: str) -> dict:
    return {key: value for key, value in network("old").state_dict().items() if key != name}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: legacy(torch.nn.Linear(2, 2)), "Python objects"),
        (lambda: legacy([torch.zeros(2)]), "no state dict"),
        (lambda: legacy({"state": {"weight": torch.zeros(2)}}), "more than tensors by name"),
        (lambda: legacy({"weight": torch.zeros(2)}), "of another network"),
        (lambda: legacy(lacking("out.2.weight")), "of another network"),
        (lambda: legacy(lacking("middle_block.1.norm.bias")), "of another network"),
        (lambda: legacy(network("old").state_dict())[:-100], "."),
        (lambda: b"<html>", "no file of torch.save"),
        (lambda: b"", "the file is empty"),
    ],
)
def test_what_is_no_such_file_ends_in_one_line(tmp_path, content, why):
    path = tmp_path / "weights.pt"
    path.write_bytes(content())
    with pytest.raises(DataError, match=why) as error:
        Model(f"adm:path={path},{SAID['old']}")
    assert str(path) in error.value.what
    assert "\n" not in error.value.what
    assert run("import", f"adm:path={path},{SAID['old']}").code == 4
