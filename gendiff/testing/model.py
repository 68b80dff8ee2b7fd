"""What a model promises: a network that reads one event and its step, and no other event of the batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gendiff.condition import Condition, Conditions
from gendiff.errors import ConfigError
from gendiff.model import Model
from gendiff.shapes import EventShape
from gendiff.testing.card import check, largest, require
from gendiff.testing.probes import noise

SHAPES: tuple[EventShape, ...] = ((1, 8, 8), (3, 16, 16), (2, 8, 12), (1, 16))

#: For those that take none of these.
RARER: tuple[EventShape, ...] = ((3, 32, 32), (1, 28, 28), (4, 32, 32), (3, 64, 64))


@check(
    "model",
    "it maps (x, i) to a tensor of the shape of an event",
    "`build(event_shape)` and the network's `forward(x, i)`",
)
def shape(model: Model) -> str:
    """Float32, finite, also with frequency features."""
    shapes = []
    for variant in (model, model.model_copy(update={"frequency_features": True})):
        for event, network in _networks(variant):
            x, i = _inputs(variant, event)
            copies = x.clone(), i.clone()
            out = network(x, i)
            require(
                torch.equal(x, copies[0]) and torch.equal(i, copies[1]), "x and i left as they were", "they changed"
            )
            require(out.shape == (3, *event), f"an output of shape {(3, *event)}", str(tuple(out.shape)))
            require(out.dtype == torch.float32, "float32", str(out.dtype))
            require(bool(torch.isfinite(out).all()), "finite numbers", "some are not")
            shapes.append("x".join(map(str, event)))
    return f"takes {', '.join(dict.fromkeys(shapes))}"


@check("model", "every parameter has a gradient", "a layer that `forward` does not use")
def gradients(model: Model) -> str:
    """Also where a layer begins at zero: the weights are drawn anew first."""
    total = 0
    for event, network in _networks(model):
        _randomise(network.eval())  # dropout would hide a parameter now and then
        network(*_inputs(model, event)).square().sum().backward()
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                has_gradient = parameter.grad is not None and bool((parameter.grad != 0).any())
                require(has_gradient, "a gradient for every parameter", f"none for {name}")
                require(bool(torch.isfinite(_grad(parameter)).all()), "finite gradients", f"not so for {name}")
        total = max(total, sum(parameter.numel() for parameter in network.parameters()))
    return f"up to {total:,} parameters"


@check("model", "an event's output does not depend on its batch", "batch normalisation, or a mean over the batch axis")
def neighbours(model: Model) -> str:
    """Neither while it trains nor after."""
    worst = 0.0
    for event, network in _networks(model):
        _randomise(network)
        x, i = _inputs(model, event)
        other = torch.cat([x[:1], noise(tuple(x[1:].shape), 7, torch.float32)])
        for mode in (True, False):
            network.train(mode)
            outs = [_seeded(network, batch, i)[0] for batch in (x, other)]
            worst = largest(worst, _difference(*outs))
        together = _seeded(network.eval(), x, i)
        for k in range(len(x)):
            worst = largest(worst, _difference(_seeded(network, x[k : k + 1], i[k : k + 1])[0], together[k]))
    require(worst < 1e-4, "the same output whatever else is in the batch", f"a relative difference of {worst:.1e}")
    return f"{worst:.0e} relative"


@check("model", "its output depends on the event and on the step", "the embedding of i, and where it enters")
@torch.no_grad()
def depends(model: Model) -> str:
    """On both, for each event of a batch."""
    for event, network in _networks(model):
        _randomise(network.eval())
        x, i = _inputs(model, event)
        out = network(x, i)
        other = noise(tuple(x.shape), 7, torch.float32)
        for output, what in (
            (network(x, torch.tensor([600.0, 800.0, 30.0])), "at another step"),
            (network(other, i), "for another event"),
        ):
            for k in range(len(x)):
                require(_difference(output[k], out[k]) > 1e-5, f"another output {what}", "the same")
    return "on both"


@check("model", "its initial weights follow from the seed", "weights drawn with a generator of its own")
def seeded(model: Model) -> str:
    """Torch's global generator, which the caller seeds."""
    for (_, one), (_, two) in zip(_networks(model), _networks(model), strict=True):
        first, second = ({**dict(net.named_parameters()), **dict(net.named_buffers())} for net in (one, two))
        for name, value in first.items():
            require(torch.equal(value, second[name]), "the same weights for the same seed", f"{name} differs")
    return "the same weights twice"


@check(
    "model",
    "what it is told of an event acts on it, and on no other",
    "`build_conditional(event_shape, conditions)` and the network's `forward(x, i, condition)`",
)
def told(model: Model) -> str:
    """Of each kind of condition that it takes: shape, gradients, the batch, and what is absent; a model may take none."""
    taken = []
    for kind in ("label", "vector", "image"):
        for event, conditions, network in _conditional(model, kind):
            _acts(model, event, conditions, network)
            taken.append(kind)
    return f"takes {', '.join(dict.fromkeys(taken))}" if taken else "takes no conditions"


def _acts(model: Model, event: EventShape, conditions: Conditions, network: nn.Module) -> None:
    _randomise(network.eval())
    x, i = _inputs(model, event)
    [(name, condition)] = conditions.items()
    span = condition.high - condition.low
    size = (3, *condition.shape)
    one, two = (
        torch.tensor(labels)
        if condition.type == "label"
        else condition.low + span * noise(size, seed, torch.float32).sigmoid()
        for labels, seed in (([0, 1, 2], 8), ([1, 2, 0], 9))
    )
    nothing = condition.absent.expand(size if condition.shape else (3,))
    one[2] = condition.absent
    with torch.no_grad():
        outs = [network(x, i, {name: given.clone()}) for given in (one, two, nothing)]
    for out in outs:
        require(out.shape == (3, *event), f"an output of shape {(3, *event)}", str(tuple(out.shape)))
        require(bool(torch.isfinite(out).all()), "finite numbers, also where a condition is absent", "some are not")
    require(_difference(outs[0][0], outs[2][0]) > 1e-5, "another output where the condition is absent", "the same")
    for k in range(3):
        other = f"another output under another {condition.type}"
        require(_difference(outs[0][k], outs[1][k]) > 1e-5, other, f"the same, of event {k}")
        with torch.no_grad():
            alone = network(x[k : k + 1], i[k : k + 1], {name: one[k : k + 1]})[0]
        worst = _difference(alone, outs[0][k])
        require(worst < 1e-4, "the same output whatever else is in the batch", f"a relative difference of {worst:.1e}")
    network(x, i, {name: one}).square().sum().backward()
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            has_gradient = bool((_grad(parameter) != 0).any()) and bool(torch.isfinite(_grad(parameter)).all())
            require(has_gradient, "a finite gradient for every parameter", f"none for {parameter_name}")


def _conditional(model: Model, kind: str) -> Iterator[tuple[EventShape, Conditions, nn.Module]]:
    """The networks that it builds for events with a condition of a kind; none where it takes none."""
    for event in (*SHAPES, RARER[2]):
        condition = {
            "label": Condition.label(3),
            "vector": Condition.vector(2, -1.0, 3.0),
            "image": Condition.image(event, 0.0, 1.0),
        }[kind]
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = model.build_conditional(event, {"given": condition})
        except ConfigError:
            continue
        yield event, {"given": condition}, network


def _networks(model: Model) -> Iterator[tuple[EventShape, nn.Module]]:
    refusals: list[str] = []
    for event in (*SHAPES, *RARER):
        if event in RARER and len(refusals) < len(SHAPES):
            return
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = model.build(event)
        except ConfigError as error:
            refusals.append(error.what)
            continue
        yield event, network
    require(len(refusals) < len(SHAPES + RARER), f"one of {SHAPES + RARER} that it takes", "; ".join(refusals[:1]))


def _inputs(model: Model, event: EventShape) -> tuple[Tensor, Tensor]:
    x = noise((3, model.in_channels(event), *event[1:]), dtype=torch.float32)
    return x, torch.tensor([1.0, 250.0, 999.0])


def _grad(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _difference(one: Tensor, two: Tensor) -> float:
    """Relative to the larger."""
    return float((one - two).abs().max() / torch.maximum(one.abs().max(), two.abs().max()).clamp_min(1e-6))


def _randomise(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            inputs = parameter.numel() // len(parameter) if parameter.ndim > 1 else 25
            values = torch.randn(parameter.shape, generator=generator) * inputs**-0.5  # signals keep their size
            parameter.copy_(values + (parameter == 1) if parameter.requires_grad else parameter)


def _seeded(network: nn.Module, x: Tensor, i: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)  # dropout: the same mask whatever the events are
        out: Tensor = network(x, i)
    return out
