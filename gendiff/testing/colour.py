"""What the colour of a noise promises: power for every component, the total that of white noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from gendiff.colour import Colour
from gendiff.component import component_class
from gendiff.errors import ConfigError
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape
from gendiff.testing.card import check, require
from gendiff.testing.probes import SmoothNoise, listed, undisturbed

_POWER = "`power(rotation, event_shape)`: finite numbers >= 0 that broadcast to the event"
SHAPES = ((2, 5, 7), (1, 12), (1, 8, 8), (1, 16), (1, 3, 4, 5))


@check("colour", "it gives every component a power, whose mean is 1", _POWER)
def spectrum(colour: Colour) -> str:
    """Of pictures, signals and volumes, in two bases."""
    shapes, least, most = list[EventShape](), 0.0, 0.0
    for rotation, shape, ready in _ready(colour):
        log_S = ready.spectrum(rotation, shape)
        mean = float(torch.broadcast_to(log_S.exp(), shape).mean())
        require(abs(mean - 1) < 1e-9, "a mean power of 1", f"{mean:.9f}")
        shapes.append(shape)
        least, most = min(least, float(log_S.min())), max(most, float(log_S.max()))
    decibel = 10 / math.log(10)
    return f"{least * decibel:.0f} to {most * decibel:.0f} dB beside white noise; tried {listed(dict.fromkeys(shapes))}"


@check(
    "colour", "its power is the same each time", "`power` and `fit` are functions of their arguments and the parameters"
)
def determined(colour: Colour) -> str:
    """Whoever asks, and no random number is drawn."""
    for rotation, shape, ready in _ready(colour):
        copy = type(colour).model_validate(colour.table())
        again = copy.with_learned(ready.learned) if ready.has_learned else copy
        with undisturbed():
            log_S, other = ready.spectrum(rotation, shape), again.spectrum(rotation, shape)
        require(torch.equal(log_S, other), "the same power each time", "another")
        learned = colour.fit(SmoothNoise(shape=shape), rotation)
        for name, value in learned.items():
            require(torch.equal(value, ready.learned[name]), f"the same '{name}' each time", "another")
    return f"learns {', '.join(sorted(learned))}" if learned else "learns nothing"


def _ready(colour: Colour) -> Iterator[tuple[Rotation, EventShape, Colour]]:
    """Bases and shapes that it takes; where it learns from data, it has learned from smooth noise."""
    count, refusals = 0, set[str]()
    for basis in ("dct", "hartley"):
        rotation = component_class("rotation", basis).model_validate({})
        assert isinstance(rotation, Rotation)
        for shape in SHAPES:
            try:
                learned = colour.fit(SmoothNoise(shape=shape), rotation)
                ready = colour.with_learned(learned) if learned else colour
                ready.spectrum(rotation, shape)
            except ConfigError as error:
                refusals.add(error.what)
                continue
            count += 1
            yield rotation, shape, ready
    require(count > 0, "events that it takes", "; ".join(sorted(refusals)))
