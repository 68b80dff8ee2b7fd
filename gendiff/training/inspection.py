"""Inspection: a network of somebody's own, looked at before a run that would take long.

How it is called is found out and said. What it says of three events is looked at: its shape and numbers, whether every weight has
a gradient, and whether one event changes what it says of another; where steps are real, whether it tells them from whole ones.
Networks of gendiff and of plugins are checked by ``gendiff plugins check``.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from gendiff.condition import filled
from gendiff.denoiser import Denoiser
from gendiff.errors import ConfigError, PluginError
from gendiff.run.module import ModuleFile, TorchModule, signature
from gendiff.streams import stream
from gendiff.training.recipe import nothing_to_train
from gendiff.training.trainer import Trainer

FEW = 10  # steps: a run of no more is its own check
SHOWN = 5  # weights named in one message
SAME = 1e-5  # of the largest value: what rounding may change


def inspected(trainer: Trainer) -> list[str]:
    """What a user should know of a network that was given in Python or by a file, a line each; nothing of others.

    The trainer stays as it is.

    Raises:
        ConfigError: where it is to be trained at real steps, and rounds them.
        PluginError: where the network cannot be called, does not give what it must, has nothing to train, or mixes the events of
            a batch where it is sampled from.

    """
    model = trainer.config.model
    if (
        not isinstance(model, ModuleFile | TorchModule)
        or trainer.settings.steps - trainer.step <= FEW
        or trainer.sharded
    ):
        return []
    how = signature(trainer.network)
    lines = [f"the network, a {type(trainer.network).__name__}, is called with {how}"]
    with torch.random.fork_rng(devices=[trainer.device] if trainer.device.type == "cuda" else []):
        # What a forward pass keeps, as a norm of batches does, is kept by the copy.
        probe = _Probe(trainer)
        _check_gradients(probe, lines)
        _check_events(probe, lines)
        if trainer.settings.continuous:
            _check_steps(probe)
    return lines


class _Probe:
    """A copy of the network, and three events that it is asked of."""

    def __init__(self, trainer: Trainer) -> None:
        network, config = deepcopy(trainer.network), trainer.config
        self.denoiser = Denoiser(network, trainer.diffusion, config.model.frequency_features)
        self.network = network
        generator = stream(0, "probe")
        self.x = torch.randn(3, *config.data.event_shape, generator=generator).to(trainer.device)
        self.i = torch.tensor([1.0, (1 + config.N) // 2, config.N], device=trainer.device)
        conditions = config.conditions
        self.condition = filled(conditions, {}, 3, trainer.device) if conditions else None

    def ask(self, x: Tensor, i: Tensor | None = None) -> Tensor:
        """What it says of events, with the same dropout each time."""
        torch.manual_seed(0)
        output: Tensor = self.denoiser(x, self.i if i is None else i, self.condition)
        return output


def _check_gradients(probe: _Probe, lines: list[str]) -> None:
    probe.network.train()
    output = probe.ask(probe.x)
    if not bool(output.isfinite().all()):
        raise PluginError(
            "the network returned values that are not finite",
            details=["for three events of noise, at the first, the middle and the last step"],
            fix="look at what it does there, and at its initial weights",
            subject="model.name",
        )
    weights = {name: weight for name, weight in probe.network.named_parameters() if weight.requires_grad}
    if not weights or output.grad_fn is None:
        raise nothing_to_train(
            "none of its parameters requires a gradient"
            if not weights
            else "its output does not depend on its parameters"
        )
    output.square().sum().backward()
    idle = [name for name, weight in weights.items() if weight.grad is None]
    if idle:
        more = f" and {len(idle) - SHOWN} more" if len(idle) > SHOWN else ""
        lines.append(
            f"{len(idle)} of {len(weights)} tensors of the network are not used: {', '.join(idle[:SHOWN])}{more}"
        )


def _check_events(probe: _Probe, lines: list[str]) -> None:
    other = torch.cat([probe.x[:1], -2 * probe.x[1:].flip(0)])
    for training in (False, True):
        probe.network.train(training)
        with torch.no_grad():
            one, two = (probe.ask(x)[0] for x in (probe.x, other))
        if float((one - two).abs().max()) <= SAME * max(1.0, float(one.abs().max())):
            continue
        if training:
            lines.append("in training, what the network says of an event depends on the others of its batch")
            continue
        raise PluginError(
            "what the network says of an event depends on the other events of its batch",
            details=[
                "the first of three events is answered otherwise beside others, with dropout and norms as in sampling"
            ],
            fix="take means, norms and attention within an event, over its channels and pixels: not over axis 0",
            subject="model.name",
        )


def _check_steps(probe: _Probe) -> None:
    """Raise `ConfigError` where the network rounds steps: it tells two whole ones apart, and none from those beside it."""
    probe.network.eval()
    first = torch.full_like(probe.i, 1.0)
    with torch.no_grad():
        whole, near, down, up = (probe.ask(probe.x, first + more) for more in (0.0, 1.0, 0.4, 0.6))
    if torch.equal(whole, near) or not (torch.equal(down, whole) and (torch.equal(up, whole) or torch.equal(up, near))):
        return
    raise ConfigError(
        "the network knows whole steps alone: it rounds i",
        details=["it says the same at i = 1.4 as at i = 1, and another thing at i = 2"],
        fix="let it read i as it is, a float; or train at whole steps: leave train.continuous out",
        subject="train.continuous",
    )
