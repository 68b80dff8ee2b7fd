"""What features promise: a row of numbers for each event, that follows from the event alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gendiff.errors import ConfigError, DataError
from gendiff.features import Features
from gendiff.shapes import EventShape
from gendiff.testing.card import check, largest, require
from gendiff.testing.probes import SmoothNoise, undisturbed

SHAPES: tuple[EventShape, ...] = ((3, 12, 16), (1, 9, 7), (2, 24))
COUNT = 3
NOT_TRIED = "not tried, for its weights are not here"


@check("features", "an event becomes a row of finite float32 numbers", "`extract(events)`")
def rows(features: Features) -> str:
    """As many for every event of a shape; the events are left as they were."""
    sizes = []
    for x, y in _taken(features):
        flat = y.ndim == 2 and len(y) == len(x) and y.shape[1] > 0
        require(flat, f"rows ({len(x)}, d)", str(tuple(y.shape)))
        require(y.dtype == torch.float32, "float32", str(y.dtype))
        require(y.device == x.device, f"rows on {x.device}", str(y.device))
        require(not y.requires_grad, "rows without gradients", "they ask for them")
        require(bool(torch.isfinite(y).all()), "finite numbers", "some are not")
        events = torch.stack([torch.full_like(x[0], level) for level in (-1, 0, 1)])
        copy = events.clone()
        y = features.extract(events)
        require(torch.equal(events, copy), "the events as they were", "they changed")
        require(y.data_ptr() != events.data_ptr(), "rows of their own", "a view of the events")
        require(bool(torch.isfinite(y).all()), "finite numbers for events that are the same everywhere", "some are not")
        sizes.append(f"{'x'.join(map(str, x.shape[1:]))} -> {y.shape[1]}")
    return ", ".join(sizes) or NOT_TRIED


@check("features", "a row depends on its own event alone", "batch normalisation, or anything over the batch axis")
def alone(features: Features) -> str:
    """Neither on its neighbours nor on its place."""
    differences = []
    for x, y in _taken(features):
        scale = float(y.abs().max().clamp_min(1e-6))
        for part in (features.extract(x[:1]), features.extract(x.flip(0)).flip(0)):
            differences.append(float((part - y[: len(part)]).abs().max()) / scale)
    worst = largest(*differences, 0.0)
    require(worst < 1e-4, "the same row whatever else is in the batch", f"a relative difference of {worst:.1e}")
    return f"{worst:.0e} relative" if differences else NOT_TRIED


@check("features", "rows follow from the parameters and the event", "random numbers without a seed")
def pure(features: Features) -> str:
    """The same each time, and from a component made anew; the random numbers of the process are left alone."""
    again, result = _again(features), NOT_TRIED
    for x, _ in _taken(features):
        with undisturbed():
            first = features.extract(x[:1])
        require(torch.equal(first, features.extract(x[:1])), "the same rows each time", "others")
        require(torch.equal(first, again.extract(x[:1])), "the same rows from equal features", "others")
        result = "the same each time"
    return result


@check("features", "different events have different rows", "a row that does not depend on the event")
def telling(features: Features) -> str:
    """Of some events of a kind."""
    result = NOT_TRIED
    for _, y in _taken(features):
        nearest = float(torch.pdist(y.double()).min())
        require(nearest > 1e-6, "different rows for different events", "equal ones")
        result = f"at least {nearest:.2g} apart"
    return result


@check("features", "it says whose numbers these are", "`fingerprint` and `distance_name`")
def named(features: Features) -> str:
    """A fingerprint of one line; only numbers of Inception are called FID."""
    try:
        fingerprint, name = features.fingerprint, features.distance_name
    except DataError as error:
        return f"{NOT_TRIED}: {error.what}"
    one_line = (
        isinstance(fingerprint, str) and fingerprint.strip() == fingerprint and len(fingerprint.splitlines()) == 1
    )
    require(one_line, "a fingerprint of one line", repr(fingerprint))
    other = _again(features).fingerprint
    require(other == fingerprint, "the same fingerprint from equal features", other)
    names = {f"fd-{features.name}"} | ({"fid"} if features.name == "inception" else set())
    require(name in names, f"the name {' or '.join(sorted(names))}", repr(name))
    return f"{name}, {fingerprint}"


def _again(features: Features) -> Features:
    """Features made anew from the same parameters."""
    return type(features).model_validate(features.table()).with_learned(features._learned)


def _taken(features: Features) -> Iterator[tuple[Tensor, Tensor]]:
    """Some events of each shape that it takes, and their rows; what it does not take it refuses with a `ConfigError`.

    None where it raises `DataError`: whether its weights are here says nothing of the component.
    """
    refusals = []
    for shape in SHAPES:
        data = SmoothNoise(shape=shape)
        x = torch.stack([data[index] for index in range(COUNT)])
        try:
            y = features.extract(x.clone())
        except ConfigError as error:
            refusals.append(error.what)
            continue
        except DataError:
            return
        yield x, y
    require(len(refusals) < len(SHAPES), "pictures or signals that it takes", "; ".join(refusals))
