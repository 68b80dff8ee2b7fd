"""Pictures, arithmetic and refusals on a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from command import run as command
from processes import RELATIVES, fitted, rotations
from runs import UNET, create, settings

from gendiff import Diffusion, Sampler
from gendiff.machine.world import World
from gendiff.run.generation import generate
from gendiff.training.trainer import Trainer


@pytest.fixture
def trained(device, tmp_path):
    run = create(tmp_path / "run", settings(UNET, rotation="dct"))
    denoiser = Trainer(run.config, device, World(0, 1, device)).averaged()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            parameter.add_(noise.to(device) / 9)
    return denoiser, run


@pytest.mark.parametrize(
    "spec", ["trig:solver=ab2,steps=8", "sde-dpmpp-2m:steps=8", "heun:steps=7", "ddim:steps=8,clip=true"]
)
def test_a_recorded_network_draws_the_pictures_of_a_launched_one(trained, monkeypatch, spec):
    denoiser, run = trained
    sampler = Sampler.model_validate(spec)
    recorded = torch.cat(list(generate(denoiser, run, sampler, 0, range(20), 20)))
    few = torch.cat(list(generate(denoiser, run, sampler, 0, range(4, 9), 3)))
    assert torch.equal(few, recorded[4:9])  # image k is itself in any batch
    monkeypatch.setattr("gendiff.run.generation.recorder_for", lambda device: None)
    launched = torch.cat(list(generate(denoiser, run, sampler, 0, range(20), 20)))
    torch.testing.assert_close(recorded, launched, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", rotations())
def test_a_rotation_is_computed_in_float32_also_where_the_network_is_not(device, name):
    rotation, x = fitted(name, (3, 8, 8)), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    exact = rotation.rotate(x.double())
    with torch.autocast(device.type, torch.bfloat16):
        there = rotation.rotate(x.to(device))
        back = rotation.unrotate(there)
    assert there.dtype == back.dtype == torch.float32
    torch.testing.assert_close(there.cpu().double(), exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(back.cpu(), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("rotation", "velocity"), [("identity", "blur"), ("dct", "blur"), *RELATIVES[:6]])
def test_processes_are_those_of_a_processor(device, rotation, velocity):
    here = Diffusion.of(fitted(rotation, (3, 8, 8)), velocity, (3, 8, 8), 100)
    there = here.to(device)
    generator = torch.Generator().manual_seed(0)
    x, eps = (torch.randn(8, 3, 8, 8, generator=generator) for _ in range(2))
    i = torch.tensor([1, 2, 10, 25, 50, 75, 99, 100])
    expected = here.q_sample(x, i, eps)
    torch.testing.assert_close(
        there.q_sample(x.to(device), i.to(device), eps.to(device)).cpu(), expected, rtol=1e-4, atol=1e-4
    )


def test_a_step_outside_is_refused_by_the_device(device):
    """In a process of its own: a device that has refused is of no more use to it."""
    program = f"""
import torch
from gendiff import Diffusion
process = Diffusion.of("dct", "blur", (1, 4, 4), 20).to(torch.device("{device}"))
x = torch.zeros(2, 1, 4, 4, device="{device}")
i = torch.tensor([3, 21], device="{device}")
print(process.q_sample(x, i, x).cpu())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode != 0
    assert "outside 0..20" in done.stderr or "assert" in done.stderr
    assert "tensor(" not in done.stdout


def test_the_command_trains_and_draws(device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny = (
        "--model",
        UNET,
        "--steps",
        12,
        "--batch",
        8,
        "--set",
        "train.sample_every=6",
        "--set",
        "train.preview.steps=3",
    )
    done = command("train", *tiny, "--device", device.type, "--out", "run")
    assert done.code == 0, done.err
    assert "kernel by kernel" not in done.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["device"].startswith(device.type)
    assert (tmp_path / "run" / "samples").is_dir()
    done = command("sample", "run", "--n", 4, "--steps", 5, "--device", device.type)
    assert done.code == 0, done.err
