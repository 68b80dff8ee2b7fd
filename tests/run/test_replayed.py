"""A network that is recorded draws the pictures of the network, to the bit."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from runs import UNET, create, restored, settings
from tape import Tape

from gendiff import Sampler
from gendiff.evaluation.measuring import drawn
from gendiff.run import replayed
from gendiff.run.generation import generate
from gendiff.run.replayed import WARM, Replayed, _recordings
from gendiff.run.trained import TrainedModel


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
    recorded = Replayed(denoiser, Tape())
    events, i = torch.randn(4, *run.config.data.event_shape), torch.full((4,), 7)
    with torch.no_grad():
        answers = [recorded(events * scale, i) for scale in (1, 2, 3, 4, 5)]
        for scale, answer in zip((1, 2, 3, 4, 5), answers, strict=True):
            assert torch.equal(answer, denoiser(events * scale, i))


def test_other_steps_and_other_shapes(trained):
    denoiser, run = trained
    recorded = Replayed(denoiser, Tape())
    with torch.no_grad():
        for count in (4, 4, 4, 4, 3, 3, 3, 3):
            for step in (2, 9):
                events, i = torch.randn(count, *run.config.data.event_shape), torch.full((count,), step)
                assert torch.equal(recorded(events, i), denoiser(events, i))


def test_a_gradient_goes_through_the_network_itself(trained):
    denoiser, run = trained
    tape = Tape()
    x = torch.randn(2, *run.config.data.event_shape, requires_grad=True)
    Replayed(denoiser, tape)(x, torch.full((2,), 5)).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert tape.events == []


def test_pictures_that_are_drawn_a_few_at_a_time_are_recorded_once(trained, monkeypatch):
    denoiser, run = trained
    sampler, tape = Sampler.model_validate("ddim:steps=4"), Tape()
    whole = torch.cat(list(generate(denoiser, run, sampler, 0, range(40), 40)))
    monkeypatch.setattr("gendiff.run.generation.recorder_for", lambda device: tape)
    few = [torch.cat(list(generate(denoiser, run, sampler, 0, range(k, k + 8), 8))) for k in range(0, 40, 8)]
    assert torch.equal(torch.cat(few), whole)
    assert tape.events == ["warm"] * (WARM - 1) + ["rehearse", "record"] + ["replay"] * (5 * 4 - WARM)


def test_an_evaluation_is_recorded_once(trained, monkeypatch):
    denoiser, run = trained
    model = TrainedModel(run, denoiser, 0, "model", "")
    sampler, tape = Sampler.model_validate("ddim:steps=4"), Tape()
    plain = torch.cat(list(drawn(model, sampler, 48, 0, 16)[0].at(range(48))))
    monkeypatch.setattr("gendiff.run.generation.recorder_for", lambda device: tape)
    assert torch.equal(torch.cat(list(drawn(model, sampler, 48, 0, 16)[0].at(range(48)))), plain)
    assert tape.events.count("record") == 1
    assert tape.events.count("replay") == 3 * 4 - WARM


def test_a_network_that_is_no_more_leaves_no_recording(trained):
    """Nobody waits for the garbage to be collected: a preview has its own copy of the weights."""
    denoiser, run = trained
    denoiser = restored(run).averaged()
    asked = Replayed(denoiser, Tape())
    x, i = torch.randn(2, *run.config.data.event_shape), torch.full((2,), 5)
    with torch.no_grad():
        for _ in range(WARM + 2):
            asked(x, i)
    recording, network = _recordings[denoiser], weakref.ref(denoiser.network)
    assert recording.recorded.replay is not None
    alive = weakref.ref(recording)
    gc.disable()
    try:
        del denoiser, asked, recording
        assert alive() is None
        assert network() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("change", ["weights", "precision", "memory", "network"])
def test_another_network_is_recorded_anew(trained, change):
    """A recording reads the memory that it read when it was made."""
    denoiser, run = trained
    tape, x, i = Tape(), torch.randn(2, *run.config.data.event_shape), torch.full((2,), 5)

    def ask():
        with torch.no_grad():
            for _ in range(WARM + 2):
                answer = Replayed(denoiser, tape)(x, i)
            assert torch.equal(answer, denoiser(x, i))

    ask()
    ask()
    assert tape.events.count("record") == 1
    if change == "weights":
        for parameter in denoiser.parameters():
            parameter.data = parameter.data + 1
    elif change == "precision":
        denoiser.autocast = torch.bfloat16
    elif change == "memory":
        denoiser.channels_last = True
    else:
        denoiser.network = restored(run).averaged().network
    ask()
    assert tape.events.count("record") == 2


def test_weights_that_change_in_their_place_are_seen(trained):
    denoiser, run = trained
    tape, x, i = Tape(), torch.randn(2, *run.config.data.event_shape), torch.full((2,), 5)
    with torch.no_grad():
        for _ in range(WARM + 3):
            for parameter in denoiser.parameters():
                parameter.mul_(1.01)
            assert torch.equal(Replayed(denoiser, tape)(x, i), denoiser(x, i))
    assert tape.events.count("record") == 1


def test_it_may_be_asked_with_and_without_inference_mode(trained):
    denoiser, run = trained
    tape = Tape()
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode, torch.no_grad, torch.no_grad):
        with mode():
            x, i = torch.randn(2, *run.config.data.event_shape), torch.full((2,), 5)
            assert torch.equal(Replayed(denoiser, tape)(x, i), denoiser(x, i))
    assert tape.events.count("record") == 1


REFUSAL = RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("tape", [Tape(fault="it waits for the device"), Tape(broken=REFUSAL)], ids=["seen", "unseen"])
def test_what_cannot_be_recorded_is_drawn_all_the_same_and_said_once(trained, monkeypatch, tape):
    """A run asks for its previews again and again, each time of a new copy of the network."""
    denoiser, run = trained
    sampler = Sampler.model_validate("ddim:steps=6")
    plain = torch.cat(list(generate(denoiser, run, sampler, 0, range(4), 4)))
    copy = restored(run).averaged()
    copy.load_state_dict(denoiser.state_dict())
    monkeypatch.setattr(replayed, "_said", set())
    monkeypatch.setattr("gendiff.run.generation.recorder_for", lambda device: tape)
    why = tape.fault or "not permitted"
    with pytest.warns(UserWarning, match=f"the network is launched kernel by kernel.*{why}") as said:
        pictures = [torch.cat(list(generate(one, run, sampler, 0, range(4), 4))) for one in (denoiser, denoiser, copy)]
    assert len(said) == 1
    assert all(torch.equal(one, plain) for one in pictures)
    assert "replay" not in tape.events
