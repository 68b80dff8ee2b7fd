"""A network that is recorded draws the pictures of the network, to the bit."""

from __future__ import annotations

import pytest
import torch
from runs import UNET, create, restored, settings
from tape import Tape

from gendiff import Sampler
from gendiff.run.generation import generate
from gendiff.run.replayed import WARM, Replayed


@pytest.fixture
def trained(tmp_path):
    run = create(tmp_path / "run", settings(UNET, rotation="dct"))
    denoiser = restored(run).averaged()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) / 9)
    return denoiser, run


@pytest.mark.parametrize(
    "spec", ["trig:solver=ab2,steps=6", "sde-dpmpp-2m:steps=6", "heun:steps=5", "ddim:steps=4,clip=true"]
)
def test_pictures_are_the_same(trained, monkeypatch, spec):
    denoiser, run = trained
    sampler, tape = Sampler.model_validate(spec), Tape()
    plain = torch.cat(list(generate(denoiser, run, sampler, 0, range(20), 20)))
    monkeypatch.setattr("gendiff.run.generation.recorder_for", lambda device: tape)
    recorded = torch.cat(list(generate(denoiser, run, sampler, 0, range(20), 20)))
    assert torch.equal(recorded, plain)
    evaluations = 2 * len(sampler.plan(denoiser.diffusion))  # two chunks
    assert tape.events == ["warm"] * (WARM - 1) + ["rehearse", "record"] + ["replay"] * (evaluations - WARM)


def test_an_answer_stays_when_the_next_is_asked_for(trained):
    denoiser, run = trained
    replayed = Replayed(denoiser, Tape())
    events, i = torch.randn(4, *run.config.data.event_shape), torch.full((4,), 7)
    with torch.no_grad():
        answers = [replayed(events * scale, i) for scale in (1, 2, 3, 4, 5)]
        for scale, answer in zip((1, 2, 3, 4, 5), answers, strict=True):
            assert torch.equal(answer, denoiser(events * scale, i))


def test_other_steps_and_other_shapes(trained):
    denoiser, run = trained
    replayed = Replayed(denoiser, Tape())
    with torch.no_grad():
        for count in (4, 4, 4, 4, 3, 3, 3, 3):
            for step in (2, 9):
                events, i = torch.randn(count, *run.config.data.event_shape), torch.full((count,), step)
                assert torch.equal(replayed(events, i), denoiser(events, i))


def test_a_gradient_goes_through_the_network_itself(trained):
    denoiser, run = trained
    tape = Tape()
    x = torch.randn(2, *run.config.data.event_shape, requires_grad=True)
    Replayed(denoiser, tape)(x, torch.full((2,), 5)).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert tape.events == []
