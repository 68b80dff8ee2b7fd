"""On a GPU nothing in a step of training or sampling waits for the host, or brings it something: what does cannot be recorded.

There is no GPU here. Tensors that are said to be on one compute nothing but shapes and places; what asks for a value of theirs
raises, and what is brought to them is seen. They have no gradient: of the rest of a step, on a processor, it is seen that it asks
for no value.

`test_waits` runs this file, in a process of its own: once there was such a tensor autograd has a thread for its GPU, and no test
could fork.
"""

from __future__ import annotations

import traceback
import warnings
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from runs import ALONE, CPU, settings
from tape import Tape, recording
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gendiff.denoiser import Denoiser, NetworkScore
from gendiff.plugin.registry import default_registry
from gendiff.run.config import Config
from gendiff.run.layers import Layer, resolve
from gendiff.run.network import build_denoiser
from gendiff.sampler import sample
from gendiff.training import step as step_module
from gendiff.training.trainer import Trainer

GPU = torch.device("cuda", 0)
ASKING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
}


class Watch(TorchDispatchMode):
    """Sees what asks for a value of a tensor, and what is brought from one device to another."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.brought: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        places = {
            leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor) and leaf.ndim
        }
        if function in ASKING:
            self.asked.append(where())
        if len(places) > 1:
            self.brought.append(where())
        return result


def where() -> str:
    """The line of gendiff that is at work."""
    frames = [
        frame for frame in traceback.extract_stack() if "gendiff" in frame.filename and "tests" not in frame.filename
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else "the test"


def on_a_gpu(denoiser: Denoiser, mode: FakeTensorMode) -> None:
    """Let a network and its process be where no GPU is."""
    for module in denoiser.network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = nn.Parameter(mode.from_tensor(value.data).to(GPU))
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = mode.from_tensor(value).to(GPU)
    denoiser.diffusion = denoiser.diffusion.to(GPU)


def moved(value: Any, mode: FakeTensorMode) -> Any:
    """An update of a plan, or a part of it, where no GPU is."""
    if isinstance(value, Tensor):
        return mode.from_tensor(value).to(GPU)
    if is_dataclass(value):
        return replace(value, **{field.name: moved(getattr(value, field.name), mode) for field in fields(value)})
    return tuple(moved(part, mode) for part in value) if isinstance(value, tuple) else value


@pytest.fixture(autouse=True)
def matrices_as_they_are(monkeypatch):
    """A matrix is made, and looked at, once; there it would have no values."""
    monkeypatch.setattr("gendiff.rotation._orthonormal", lambda rotation, U, *_: U)


def configuration(**asked: Any) -> Config:
    table = {"N": 20, "sampler": "ancestral", "rotation": "dct", "model": "mlp:width=8,depth=1", "data": "digits"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some processes do not end in noise after so few steps
        return resolve([Layer("the test", table | asked)]).config.fitted()


def every(kind: str, key: str) -> list[Any]:
    """A configuration with each built-in of a kind."""
    names = sorted(entry.name for entry in default_registry().entries() if entry.kind == kind)
    return [pytest.param({key: name}, id=f"{kind} {name}") for name in names]


LABELLED = [
    pytest.param({"condition": "label", "model": model}, id=f"labels {model.partition(':')[0]}")
    for model in ("mlp", "unet:channels=8,multipliers=[1],attention=[1],heads=1", "dit:width=32,depth=1,heads=2")
]


@pytest.mark.parametrize(
    "asked",
    [
        *every("velocity", "velocity"),
        *every("objective", "objective"),
        *(pytest.param({"rotation": name}, id=name) for name in ("identity", "haar", "klt", "channel-pca+dct")),
        *LABELLED,
    ],
)
def test_noising_network_and_loss(asked):
    config = configuration(**asked)
    denoiser, count = build_denoiser(config, CPU), 4
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        on_a_gpu(denoiser, mode)
        x_0, eps = (torch.zeros(count, *config.data.event_shape, device=GPU) for _ in range(2))
        i = torch.arange(1, count + 1, device=GPU)
        condition = {
            name: one.absent_on(GPU)[None].expand(count, *one.absent.shape) for name, one in config.conditions.items()
        }
        for watch in (Watch(), Watch()):  # what is made once may be made by the first step
            with watch:
                loss = config.objective.loss(denoiser, denoiser.diffusion, x_0, i, eps, condition)
    assert loss.per_event.device == GPU
    assert watch.asked == watch.brought == []


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"accumulate": 2, "ema": (0.9, 0.99), "posthoc": (0.05, 0.1)},
        {"levels": "importance", "continuous": True},
        {"optimizer": "adamw", "weight_decay": 0.1, "grad_clip": 0},
    ],
    ids=str,
)
def test_gradient_clipping_optimiser_and_averages(monkeypatch, train):
    recording(monkeypatch, Tape())
    monkeypatch.setattr(step_module, "move_on_host", step_module.move_in_place)
    trainer = Trainer(settings(warmup=2, **train), CPU, ALONE)
    for step in (1, 2):
        trainer.train_step(trainer.batches[step])
    with Watch() as watch:
        trainer.take_step._body()
    checks = ("elif not inside.all():", "elif jumps.any():")  # of a processor alone
    assert [line for line in watch.asked if not line.endswith(checks)] == []


@pytest.mark.parametrize("velocity", ["blur:schedule=log", "soft-conditioning"])
@pytest.mark.parametrize(
    "sampler", ["ddim:steps=5", "trig:solver=ab2,steps=5", "unipc-2:steps=5", "heun:steps=6", "ancestral"]
)
def test_sampling(monkeypatch, sampler, velocity):
    """Once the plan, which is made before the first step and for all pictures, is there."""
    config = configuration(sampler=sampler, velocity=velocity)
    denoiser = build_denoiser(config, CPU).eval()
    plan, brought = config.sampler.plan(denoiser.diffusion), []
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        on_a_gpu(denoiser, mode)
        there = moved(plan, mode)
        monkeypatch.setattr("gendiff.sampler.Sampler.plan", lambda *_: there)
        model = NetworkScore(denoiser, denoiser.diffusion, config.objective.parametrization)
        with Watch() as watch:
            drawn = sample(
                denoiser.diffusion,
                model,
                config.sampler,
                lambda: torch.zeros(4, *config.data.event_shape, device=GPU),
                watch=lambda snapshot: brought.append(len(watch.brought)),
            )
    assert drawn.device == GPU
    assert len(brought) == len(plan) + 1
    assert brought[-1] == brought[0]  # a matrix, and nothing from the first step on
    assert watch.asked == []


def test_what_waits_is_seen():
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        x = torch.zeros(3, device=GPU)
        with pytest.raises(Exception, match="_local_scalar_dense"):
            float(x.sum())
        torch.ones(3).to(GPU)
        x[torch.zeros(3, dtype=torch.long)] = 1.0
    assert len(watch.brought) == 2
    with Watch() as watch:
        float(torch.ones(3).sum())
    assert len(watch.asked) == 1
