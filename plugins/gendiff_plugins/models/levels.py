"""What networks of others are told of a process: the scales of each step as one number, and the label."""

from __future__ import annotations

import torch
from torch import Tensor

from gendiff.condition import Conditions
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.grid import along
from gendiff.interpolation import between
from gendiff.level import Level
from gendiff.model import Model
from gendiff.shapes import EventShape

LABEL = "label"


def mean_scales(diffusion: Diffusion) -> tuple[Tensor, Tensor]:
    """``a_i`` and ``s_i`` for i = 1..N, float64: those of all components, or the roots of the mean squares of those of each.

    a² is weighed by the variance of the data: so it is what is left of their power.
    """
    if diffusion.alike:  # one component says it exactly
        return along(diffusion, lambda at: at.a.flatten(1)[:, 0]), along(diffusion, lambda at: at.s.flatten(1)[:, 0])
    shape = diffusion.event_shape
    c = diffusion.moments.variance.double().expand(1, *shape).flatten(1)

    def signal(at: Level) -> Tensor:
        return (c / c.sum() * (at.a**2).expand(-1, *shape).flatten(1)).sum(1)

    def noise(at: Level) -> Tensor:
        return (at.s**2).expand(-1, *shape).flatten(1).mean(1)

    return along(diffusion, signal).sqrt(), along(diffusion, noise).sqrt()


def entries(table: Tensor, i: Tensor) -> Tensor:
    """What a table over the steps 0..N says at steps ``i`` in 1..N, ``(B,)``: the entry of a whole one, to the bit.

    Between two steps it goes as `gendiff.interpolation` has it; step 0, which no network is asked at, counts for nothing.
    """
    return between(lambda step: torch.where(step == 0, torch.inf, table[step]), i.to(table), len(table) - 1)


def check_events(model: Model, event_shape: EventShape, channels: int, factor: int) -> None:
    """Raise `ConfigError` for events that a U-Net of these channels, which halves so often, does not read."""
    if len(event_shape) != 3 or event_shape[0] != channels or any(n % factor for n in event_shape[1:]):
        raise ConfigError(
            f"model '{model.name}' reads pictures of {channels} channels and of sizes divisible by {factor}, "
            f"not events of shape {event_shape}",
            fix="take such data, or set their size: --size",
            subject="model.name",
        )


def check_labels(model: Model, conditions: Conditions, classes: int) -> None:
    """Raise `ConfigError` for a condition that is not the label of so many classes; none is fine."""
    wrong = [
        f"'{name}' is {one.words}"
        for name, one in conditions.items()
        if name != LABEL or one.type != "label" or one.size != classes
    ]
    if wrong:
        allowed = f"the condition '{LABEL}' of {classes} classes, or none" if classes else "no condition"
        raise ConfigError(
            f"model '{model.name}' at '{getattr(model, 'path', '')}' does not take this condition",
            details=[*wrong, f"it was trained with {allowed}"],
            fix="leave out condition, or take data with as many classes" if classes else "leave out condition",
            subject="condition",
        )
