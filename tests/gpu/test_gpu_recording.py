"""What a GPU cannot record is launched, said, and leaves nothing behind; a recording keeps no memory of who is gone."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from runs import UNET, create, settings
from tape import Tape
from torch import nn
from torch.nn.functional import dropout

from gendiff import Guide
from gendiff.guide import Scene, guided
from gendiff.machine.recording import recorder_for
from gendiff.machine.world import World
from gendiff.run.generation import draw
from gendiff.run.layers import Layer, resolve
from gendiff.run.network import build_denoiser, score_of
from gendiff.run.replayed import Replayed
from gendiff.training.recipe import build_optimizer
from gendiff.training.step import Step
from gendiff.training.trainer import Trainer

UNSEEN = "operation not permitted when stream is capturing"


class Waiting(nn.Module):
    """A network with dropout that waits for the device: in a way that torch sees beforehand, or in one that it does not."""

    def __init__(self, unseen):
        super().__init__()
        self.inner = nn.Conv2d(1, 1, 3, padding=1)
        self.unseen = unseen

    def forward(self, x, i):
        h = dropout(self.inner(x), 0.5, self.training)
        if not self.unseen:
            return h * (1.0 if h.abs().max().item() >= 0 else 0.0)
        if x.is_cuda:
            torch.cuda.synchronize()
        return h


def trainer_on(device, config):
    return Trainer(config, device, World(0, 1, device))


def recorder_of(device):
    return Tape() if device.type == "cpu" else recorder_for(device)


def long(**changes):
    return settings(UNET, **{"log_every": 1000, "checkpoint_every": 1000, "steps": 1000, "batch": 8, **changes})


def take(trainer, count):
    for step in range(1, count + 1):
        trainer.train_step(trainer.batches[step].to(trainer.device))


def training(device, network):
    """A trainer whose step is that of another network, and its average."""
    trainer = trainer_on(device, long(warmup=0))
    network.to(device).train()
    optimizer = build_optimizer(trainer.settings, network, torch.zeros((), device=device), capturable=trainer.late)
    weights = list(network.parameters())
    averages = [[weight.detach().clone() for weight in weights] for _ in trainer.weights.averages]
    parts = trainer.config.objective, network, trainer.diffusion, optimizer, averages, weights, 1.0, trainer.world
    trainer.take_step = Step(*parts, trainer.capture.recorder())
    return trainer


@pytest.mark.parametrize("unseen", [False, True], ids=["seen", "unseen"])
def test_a_network_that_waits_is_trained_and_leaves_nothing_behind(device, monkeypatch, unseen):
    """Other steps are recorded afterwards, dropout draws, and memory is given back."""
    if device.type == "cpu":  # no processor is waited for: a rehearsal says what a GPU would
        tape = Tape(broken=RuntimeError(UNSEEN)) if unseen else Tape(fault="it waits for the device")
        monkeypatch.setattr("gendiff.training.capture.recorder_for", lambda device: tape)
    network = Waiting(unseen)
    trainer, before = training(device, network), network.inner.weight.detach().clone()
    expected = "could not be recorded" if unseen else "could not be recorded: it waits for the device"
    with pytest.warns(UserWarning, match=expected) as said:
        take(trainer, 8)
    assert len([one for one in said if "could not be recorded" in str(one.message)]) == 1
    trainer.look()
    assert (trainer.window.steps, trainer.window.skipped) == (8, 0)
    assert trainer.take_step.recorded.replay is None
    assert not torch.equal(network.inner.weight.detach().cpu(), before.cpu())
    assert 0 < int((dropout(torch.ones(1000, device=device), 0.5) == 0).sum()) < 1000
    if device.type == "cuda":
        assert torch.cuda.current_stream(device) == torch.cuda.default_stream(device)
        torch.cuda.empty_cache()
    else:
        monkeypatch.setattr("gendiff.training.capture.recorder_for", lambda device: Tape())
    other = trainer_on(device, long())
    take(other, 8)
    other.look()
    assert other.window.steps == 8
    assert other.take_step.recorded.replay is not None


def test_networks_that_are_no_more_leave_no_memory(device, tmp_path):
    """As previews are drawn, each of a copy of the weights: nobody waits for the garbage to be collected."""
    run = create(tmp_path / "run", settings(UNET, rotation="dct"))
    trainer, held = trainer_on(device, run.config), []
    gc.collect()
    gc.disable()
    try:
        for _ in range(4):
            denoiser = trainer.averaged()
            draw(denoiser, run, run.config.train.preview, 4)
            network = weakref.ref(denoiser.network)
            del denoiser
            assert network() is None
            held.append(torch.cuda.memory_allocated(device) if device.type == "cuda" else 0)
    finally:
        gc.enable()
    assert held[3] - held[1] < 2**14  # less than a copy of the weights; the first leaves what libraries keep


@pytest.mark.parametrize("guide", [None, "cfg:weight=3", "cfg:weight=3,sigma_min=0.5", "frequency:weights=[2,4]"])
def test_a_network_that_is_told_of_labels_is_asked_without_waiting(device, guide):
    """Once it is recorded: torch is told to raise where the host waits."""
    table = settings(UNET, rotation="dct").table()
    config = resolve([Layer("the test", {**table, "condition": ["label"]})]).config
    denoiser = build_denoiser(config, device).eval()
    model = score_of(Replayed(denoiser, recorder_of(device)), denoiser.diffusion, config)
    model = model.given({"label": torch.tensor([1, 2, 3, 4])})
    if guide is not None:
        model = guided(model, [Guide(guide)], Scene(denoiser.diffusion, 0.1))
    x = torch.randn(4, *config.data.event_shape, device=device)
    with torch.no_grad():
        for i in (20, 18, 16, 14):
            model.predict(x, i)
        try:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
            last = [model.predict(x, i).x_0 for i in (12, 10, 8)][-1]
        finally:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        plain = score_of(denoiser, denoiser.diffusion, config).given({"label": torch.tensor([1, 2, 3, 4])})
        if guide is not None:
            plain = guided(plain, [Guide(guide)], Scene(denoiser.diffusion, 0.1))
        torch.testing.assert_close(last, plain.predict(x, 8).x_0, rtol=1e-3, atol=1e-3)


def test_averages_are_moved_as_on_a_processor(device):
    """A run whose weights and averages are large and small: they agree but for rounding."""
    large = "mlp:width=640,depth=1"  # 640 x 640 weights are moved by a kernel of their own
    here, there = (
        Trainer(settings(large, steps=20, ema=0.99, precision="fp32"), place, World(0, 1, place))
        for place in (torch.device("cpu"), device)
    )
    for trainer in (here, there):
        take(trainer, 8)
    for name, average in here.weights.ema.items():
        torch.testing.assert_close(there.weights.ema[name].cpu(), average, rtol=1e-3, atol=2e-4)
