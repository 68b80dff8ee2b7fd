"""What a network is told beside x: the step i, and conditions."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from gendiff.clock import Clock, Time
from gendiff.condition import Conditions, Given
from gendiff.errors import ConfigError
from gendiff.model import Model
from gendiff.shapes import EventShape

BAND_PAIRS = 16  # cosines and sines of each band


class Timed(Model):
    """A model that can be told of its step in other ways than as i."""

    time: Time = Field(
        "i",
        description="what it is told of the step: i; t = 1000 i/N; lambda, the mean log(a/s); reference, that of the lowest "
        "frequency; bands, that of each band",
    )
    bands: int = Field(8, ge=1, description="bands of each channel, with time=bands: of equally many frequencies")

    def clock(self, event_shape: EventShape) -> Clock:
        """What tells a network of the step; raises `ConfigError` where there are more bands than components."""
        components = math.prod(event_shape[1:])
        if self.time == "bands" and self.bands > components:
            raise ConfigError(
                f"model '{self.name}' is told of {self.bands} bands, and a channel has {components} components",
                fix=f"choose at most {components} bands",
                subject="model.bands",
            )
        return Clock(self.time, event_shape[0], self.bands)


class StepEmbedding(nn.Module):
    """``i -> W_2 silu(W_1 [cos(i ω_k), sin(i ω_k)])`` with ω_k from 1 down to 1e-4, geometrically.

    Of a clock that tells of bands, each number has sinusoids of its own, and W_1 reads all of them.

    Reference: Vaswani et al. 2017, Attention Is All You Need, arXiv 1706.03762, Section 3.5.

    Args:
        channels: width of the sinusoids, even.
        out: width of the result.
        clock: what is told in the place of i.

    """

    def __init__(self, channels: int, out: int, clock: Clock | None = None) -> None:
        super().__init__()
        self.clock = clock or Clock()
        self.pairs = pairs(channels, self.clock)
        self.layers = nn.Sequential(nn.Linear(2 * self.pairs * self.clock.count, out), nn.SiLU(), nn.Linear(out, out))

    def forward(self, i: Tensor) -> Tensor:
        """``(B,) -> (B, out)``, float32 whatever the autocast: bfloat16 cannot tell step 1000 from 999."""
        with torch.autocast(i.device.type, enabled=False):
            embedding: Tensor = self.layers(sinusoids(self.clock(i), self.pairs))
        return embedding


def pairs(channels: int, clock: Clock) -> int:
    """How many cosines and sines a number is told with: as many as fill ``channels``, or fewer of each band."""
    return BAND_PAIRS if clock.time == "bands" else channels // 2


def sinusoids(i: Tensor, pairs: int) -> Tensor:
    """``[cos(i ω_k), sin(i ω_k)]``, ``(B, 2 pairs)`` float32; of numbers ``(B, n)`` side by side, ``(B, 2 pairs n)``."""
    decay = torch.arange(pairs, device=i.device, dtype=torch.float32) / pairs
    angles = i.float()[..., None] * torch.exp(-math.log(1e4) * decay)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).flatten(1)


class ConditionEmbedding(nn.Module):
    """What is known of an event besides, ``Σ_c e_c``, to be added to the embedding of the step.

    A label is a row of a table, of which the last is that of "nothing is said". A vector, scaled to [-1, 1], goes through two
    layers; where it is absent, a row of its own takes its place. Images are no part of it: a network reads them beside x
    (`beside`).

    Args:
        conditions: by name, as data describe them.
        out: width of the result.

    """

    def __init__(self, conditions: Conditions, out: int) -> None:
        super().__init__()
        labels = {name: one for name, one in conditions.items() if one.type == "label"}
        vectors = {name: one for name, one in conditions.items() if one.type == "vector"}
        self.labels = tuple(labels)
        self.ranges = {name: (one.low, one.high) for name, one in vectors.items()}
        self.tables = nn.ModuleDict({_key(name): nn.Embedding(one.size + 1, out) for name, one in labels.items()})
        self.layers = nn.ModuleDict(
            {
                _key(name): nn.Sequential(nn.Linear(one.size, out), nn.SiLU(), nn.Linear(out, out))
                for name, one in vectors.items()
            }
        )
        self.absent = nn.ParameterDict({_key(name): nn.Parameter(torch.randn(out)) for name in vectors})

    def forward(self, condition: Given, like: Tensor) -> Tensor:
        """``(B, out)``, of the type of ``like``, the embedding of the step."""
        total = torch.zeros_like(like)
        for name in self.labels:
            total = total + self.tables[_key(name)](condition[name])
        for name, (low, high) in self.ranges.items():
            said = ~condition[name].isnan().any(1, keepdim=True)
            value = condition[name].nan_to_num() * (2 / (high - low)) - (high + low) / (high - low)
            total = total + torch.where(said, self.layers[_key(name)](value), self.absent[_key(name)])
        return total


def _key(name: str) -> str:
    """A key of torch's dictionaries, which refuse the names of their own members: type, keys, values."""
    return f"of_{name}"


def beside(conditions: Conditions) -> int:
    """How many channels a network reads beside x: those of each image, and one that says whether it is there."""
    return sum(one.shape[0] + 1 for one in conditions.values() if one.type == "image")


def with_images(x: Tensor, condition: Given, conditions: Conditions) -> Tensor:
    """The images of a condition beside x, along the channels: in [-1, 1], 0 where absent, and what says whether one is there."""
    parts = [x]
    for name, one in conditions.items():
        if one.type == "image":
            image = condition[name].to(x.dtype)
            said = ~image.isnan().any(1, keepdim=True)
            scaled = (image - (one.low + one.high) / 2) * (2 / (one.high - one.low))
            parts += [torch.where(said, scaled, 0.0), said.to(x.dtype)]
    return torch.cat(parts, dim=1)


def check_images(model: Model, event_shape: EventShape, conditions: Conditions) -> None:
    """Raise `ConfigError` where an image is of another size than the events: it is read beside them."""
    for name, one in conditions.items():
        if one.type == "image" and one.shape[1:] != tuple(event_shape[1:]):
            sizes = ["x".join(map(str, shape[1:])) for shape in (one.shape, event_shape)]
            raise ConfigError(
                f"model '{model.name}' reads the condition '{name}' beside the event, of another size",
                details=[f"{sizes[0]}, where events are {sizes[1]}"],
                fix="choose data where both are of one size",
                subject="condition",
            )
