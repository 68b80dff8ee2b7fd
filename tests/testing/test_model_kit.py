"""What the kit asks of a model: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import math
import random
from typing import ClassVar

import numpy as np
import torch
from flaws import Fails, assert_found, broken, each, titles
from torch import Tensor, nn

from gendiff import Model
from gendiff.errors import ConfigError

fails = Fails()

SHAPE, GRADIENTS = "it maps (x, i) to a tensor of the shape of an event", "every parameter has a gradient"


NEIGHBOURS, DEPENDS = (
    "an event's output does not depend on its batch",
    "its output depends on the event and on the step",
)


TOLD = "what it is told of an event acts on it, and on no other"


SEEDED = "its initial weights follow from the seed"


class Net(nn.Module):
    def __init__(self, event: tuple[int, ...], in_channels: int) -> None:
        super().__init__()
        self.event = event
        d = math.prod(event)
        self.reads = nn.Linear(d * in_channels // event[0], 16)
        self.step = nn.Linear(1, 16)
        self.writes = nn.Linear(16, d)

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        hidden = torch.tanh(self.hidden(self.read(x), self.embed(i)))
        return self.write(hidden).reshape(-1, *self.event)

    def read(self, x: Tensor) -> Tensor:
        return self.reads(x.flatten(1))

    def embed(self, i: Tensor) -> Tensor:
        return self.step(i[:, None] / 1000)

    def hidden(self, read: Tensor, embedded: Tensor) -> Tensor:
        return read + embedded

    def write(self, hidden: Tensor) -> Tensor:
        return self.writes(hidden)


class Perceptron(Model):
    """a small network, for others to change."""

    name = "mutant"
    net: ClassVar[type[Net]] = Net

    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        return self.net(event_shape, self.in_channels(event_shape))


class NormNet(Net):
    def __init__(self, event, in_channels):
        super().__init__(event, in_channels)
        self.norm = nn.BatchNorm1d(16)

    def hidden(self, read, embedded):
        return self.norm(read + embedded)


@fails(NEIGHBOURS, "the same output whatever else is in the batch; seen: a relative difference of")
class BatchNorm(Perceptron):
    net = NormNet


class FirstStepNet(Net):
    def embed(self, i):
        return super().embed(i[:1])


@fails(NEIGHBOURS, "whatever else is in the batch; seen: a relative difference of")
class FirstStepForAll(Perceptron):
    net = FirstStepNet


class ExplodingNet(Net):
    """what is not a number is no equal output."""

    def write(self, hidden):
        return super().write(hidden) + (hidden.var(0) if len(hidden) > 1 else hidden * math.nan).sum() * 1e-20


@fails(NEIGHBOURS, "whatever else is in the batch; seen: a relative difference of nan")
class NaNAlone(Perceptron):
    net = ExplodingNet


class UnusedNet(Net):
    def __init__(self, event, in_channels):
        super().__init__(event, in_channels)
        self.unused = nn.Linear(3, 3)


@fails(
    GRADIENTS,
    "a gradient for every parameter; seen: none for unused.weight; look at a layer that `forward` does not use",
)
class Unused(Perceptron):
    net = UnusedNet


class DetachedNet(Net):
    def read(self, x):
        return super().read(x).detach()


@fails(GRADIENTS, "seen: none for reads.weight")
class Detached(Perceptron):
    net = DetachedNet


class RootNet(Net):
    def write(self, hidden):
        return super().write(hidden.sub(hidden.detach()).sqrt() + hidden)


@fails(GRADIENTS, "expected finite gradients; seen: not so for reads.weight")
class InfiniteGradient(Perceptron):
    net = RootNet


class TimelessNet(Net):
    def embed(self, i):
        return super().embed(0 * i)


@fails(DEPENDS, "expected another output at another step; seen: the same")
class IgnoresStep(Perceptron):
    net = TimelessNet


class BlindNet(Net):
    def read(self, x):
        return super().read(0 * x)


@fails(DEPENDS, "expected another output for another event; seen: the same")
class IgnoresEvent(Perceptron):
    net = BlindNet


class FlatNet(Net):
    def forward(self, x, i):
        return super().forward(x, i).flatten(1)


@fails(SHAPE, r"an output of shape \(3, 1, 8, 8\); seen: \(3, 64\)")
class WrongShape(Perceptron):
    net = FlatNet


class DoubleNet(Net):
    def write(self, hidden):
        return super().write(hidden).double()


@fails(SHAPE, "expected float32; seen: torch.float64")
class WrongType(Perceptron):
    net = DoubleNet


class DivisionNet(Net):
    def write(self, hidden):
        return super().write(hidden) / 0


@fails(SHAPE, "expected finite numbers; seen: some are not")
class NotFinite(Perceptron):
    net = DivisionNet


class GreedyNet(Net):
    def read(self, x):
        return super().read(x.mul_(2))


@fails(SHAPE, "expected x and i left as they were; seen: they changed")
class InPlaceModel(Perceptron):
    net = GreedyNet


@fails(SHAPE, "seen: RuntimeError: .*shapes")
class NoFeatures(Perceptron):
    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        return Net(event_shape, event_shape[0])


class OwnNet(Net):
    def __init__(self, event, in_channels):
        super().__init__(event, in_channels)
        nn.init.normal_(self.writes.weight, generator=torch.Generator().manual_seed(random.getrandbits(32)))


@fails(
    SEEDED, "the same weights for the same seed; seen: writes.weight differs; look at weights drawn with a generator"
)
class OwnGenerator(Perceptron):
    net = OwnNet


class BufferNet(Net):
    def __init__(self, event, in_channels):
        super().__init__(event, in_channels)
        self.register_buffer("frequencies", torch.from_numpy(np.random.default_rng().normal(size=16)).float())

    def embed(self, i):
        return super().embed(i) * self.frequencies


@fails(SEEDED, "the same weights for the same seed; seen: frequencies differs")
class RandomBuffer(Perceptron):
    net = BufferNet


@fails(DEPENDS, "that it takes; seen: never")
class TakesNoEvent(Perceptron):
    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        raise ConfigError("never")


class ToldNet(Net):
    """it is told of a label; the last row of its table is that of none."""

    def __init__(self, event, in_channels, condition):
        super().__init__(event, in_channels)
        self.table = nn.Embedding(condition.size + 1, 16)

    def forward(self, x, i, condition):
        hidden = torch.tanh(self.hidden(self.read(x), self.embed(i)) + self.looked_up(condition["given"]))
        return self.write(hidden).reshape(-1, *self.event)

    def looked_up(self, label):
        return self.table(label)


class Labelled(Perceptron):
    """takes one label."""

    name = "labelled"
    told: ClassVar[type[ToldNet]] = ToldNet

    def build_conditional(self, event_shape, conditions):
        if not conditions:
            return self.build(event_shape)
        if any(one.type != "label" for one in conditions.values()):
            raise ConfigError("labels alone")
        return self.told(event_shape, self.in_channels(event_shape), *conditions.values())


class DeafNet(ToldNet):
    def looked_up(self, label):
        return self.table(3 * (label == 3))


@fails(TOLD, "expected another output under another label; seen: the same, of event 0")
class Deaf(Labelled):
    told = DeafNet


class MeanNet(ToldNet):
    def looked_up(self, label):
        return self.table(label).mean(0, keepdim=True) + self.table(label)


@fails(TOLD, "the same output whatever else is in the batch; seen: a relative difference of")
class MixesLabels(Labelled):
    told = MeanNet


class ShortNet(ToldNet):
    def __init__(self, event, in_channels, condition):
        super().__init__(event, in_channels, condition)
        self.table = nn.Embedding(condition.size, 16)


@fails(TOLD, "seen: IndexError")
class NoRowForAbsent(Labelled):
    told = ShortNet


class ZeroNet(ToldNet):
    def looked_up(self, label):
        return self.table(torch.where(label == 3, 0, label))


@fails(TOLD, "expected another output where the condition is absent; seen: the same")
class AbsentIsTheFirst(Labelled):
    told = ZeroNet


class IdleNet(ToldNet):
    def __init__(self, event, in_channels, condition):
        super().__init__(event, in_channels, condition)
        self.idle = nn.Linear(2, 2)


@fails(TOLD, "expected a finite gradient for every parameter; seen: none for idle.weight")
class IdleWhereTold(Labelled):
    told = IdleNet


class FlatToldNet(ToldNet):
    def forward(self, x, i, condition):
        return super().forward(x, i, condition).flatten(1)


@fails(TOLD, r"expected an output of shape \(3, 1, 8, 8\); seen: \(3, 64\)")
class FlatWhereTold(Labelled):
    told = FlatToldNet


class InfiniteNet(ToldNet):
    def looked_up(self, label):
        return torch.where(label[:, None] == 3, torch.nan, self.table(label))


@fails(TOLD, "expected finite numbers, also where a condition is absent; seen: some are not")
class NaNWhereAbsent(Labelled):
    told = InfiniteNet


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class FourChannels(Perceptron):
    """for events of four channels and 32 x 32 only, one parameter frozen."""

    name = "four-channels"

    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        if event_shape != (4, 32, 32):
            raise ConfigError("four channels only", fix="give four")
        network = Net(event_shape, self.in_channels(event_shape))
        network.step.weight.requires_grad_(False)
        return network


class Droops(Net):
    def hidden(self, read: Tensor, embedded: Tensor) -> Tensor:
        return nn.functional.dropout(read + embedded, 0.5, self.training)


class Dropout(Perceptron):
    """drops half of everything while it trains."""

    name = "dropout"
    net = Droops


class TableNet(Net):
    def __init__(self, event: tuple[int, ...], in_channels: int) -> None:
        super().__init__(event, in_channels)
        self.step = nn.Embedding(1001, 16)

    def embed(self, i: Tensor) -> Tensor:
        return self.step(i.long())


class TableOfSteps(Perceptron):
    """a learned vector for each step 1..1000."""

    name = "table-of-steps"
    net = TableNet


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("model") <= fails.titles


@each(Perceptron, Labelled)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(FourChannels, Dropout, TableOfSteps)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []
