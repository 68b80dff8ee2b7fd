"""What a latent promises: pictures become events and events pictures, each by itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gendiff.errors import ConfigError
from gendiff.latent import Latent
from gendiff.shapes import EventShape
from gendiff.testing.card import check, require
from gendiff.testing.probes import SmoothNoise, undisturbed

SHAPES: tuple[EventShape, ...] = ((3, 16, 32), (1, 16, 32), (4, 16, 16), (3, 64, 64), (1, 64, 64))
COUNT = 3
INDICES = (5, 2, 11)


@check("latent", "the shapes of events and pictures are those that it declares", "`latent_shape`, `picture_shape`")
def shapes(latent: Latent) -> str:
    """Both ways, in finite float32, without gradients, and shapes that it does not take are a `ConfigError`."""
    seen = []
    for x in _taken(latent):
        shape = tuple(x.shape[1:])
        event = latent.latent_shape(shape)
        back = latent.picture_shape(event)
        require(back == shape, f"`picture_shape` the inverse of `latent_shape`, {shape}", str(back))
        z = latent.encode(x.clone())
        for what, y, expected in (("events", z, event), ("pictures", latent.decode(z), shape)):
            require(tuple(y.shape) == (len(x), *expected), f"{what} {(len(x), *expected)}", str(tuple(y.shape)))
            require(y.dtype == torch.float32, f"{what} in float32", str(y.dtype))
            require(not y.requires_grad, f"{what} without gradients", "they ask for them")
            require(bool(y.isfinite().all()), f"finite {what}", "some values are not")
        seen.append(f"{'x'.join(map(str, shape))} -> {'x'.join(map(str, event))}")
    return ", ".join(seen)


@check(
    "latent", "an event and a picture depend on each other alone", "anything over the batch axis; batches of one size"
)
def alone(latent: Latent) -> str:
    """To the bit, for a data set is read event by event, and samples are decoded in batches of any size."""
    for x in _taken(latent):
        z = latent.encode(x)
        y = latent.decode(z)
        for k in range(len(x)):
            one = torch.equal(latent.encode(x[k : k + 1])[0], z[k])
            require(one, "the same event, to the bit, whatever else is in the batch", "another")
            one = torch.equal(latent.decode(z[k : k + 1])[0], y[k])
            require(one, "the same picture, to the bit, whatever else is in the batch", "another")
    return "the same to the bit"


@check("latent", "it is a function of its arguments", "random numbers of the process; a tensor changed in place")
def pure(latent: Latent) -> str:
    """The same each time, and from one made anew; what it is given stays as it was."""
    again = type(latent).model_validate(latent.table())
    for x in _taken(latent):
        copy = x.clone()
        with undisturbed():
            z = latent.encode(x, INDICES)
            y = latent.decode(z)
        require(torch.equal(x, copy), "pictures as they were", "they changed")
        before = z.clone()
        require(torch.equal(again.encode(x, INDICES), z), "the same events each time", "others")
        require(torch.equal(again.decode(z), y), "the same pictures each time", "others")
        require(torch.equal(z, before), "events as they were", "they changed")
    return "the same each time"


@check(
    "latent", "a draw is a function of the index", "`indices`: what is random follows from them, by `gendiff.streams`"
)
def drawn(latent: Latent) -> str:
    """Not of its place in a batch; without indices nothing is drawn."""
    moved = 0.0
    for x in _taken(latent):
        z = latent.encode(x, INDICES)
        for k, index in enumerate(INDICES):
            one = torch.equal(latent.encode(x[k : k + 1], [index])[0], z[k])
            require(one, "the same draw of an index, wherever in a batch", "another")
        centre = latent.encode(x)
        require(torch.equal(centre, latent.encode(x)), "the same events without indices each time", "others")
        moved = max(moved, float((z - centre).abs().max()))
    return f"draws differ from the centre by at most {moved:.2g}" if moved else "nothing is drawn"


@check("latent", "different pictures have different events", "an event that does not depend on the picture")
def telling(latent: Latent) -> str:
    """And different events different pictures."""
    nearest = float("inf")
    for x in _taken(latent):
        z = latent.encode(x)
        for what, y in (("events", z), ("pictures", latent.decode(z))):
            apart = float(torch.pdist(y.flatten(1).double()).min())
            require(apart > 1e-6, f"different {what}", "equal ones")
            nearest = min(nearest, apart)
    return f"at least {nearest:.2g} apart"


@check("latent", "it says whose events these are", "`fingerprint`")
def named(latent: Latent) -> str:
    """In one line, and the same from equal parameters."""
    fingerprint = latent.fingerprint
    one_line = fingerprint.strip() == fingerprint and len(fingerprint.splitlines()) == 1
    require(one_line, "a fingerprint of one line", repr(fingerprint))
    other = type(latent).model_validate(latent.table()).fingerprint
    require(other == fingerprint, "the same fingerprint from equal parameters", other)
    return fingerprint


def _taken(latent: Latent) -> Iterator[Tensor]:
    """Some pictures of the first two shapes that it takes; what it does not take it refuses with a `ConfigError`."""
    refusals, count = [], 0
    for shape in SHAPES:
        try:
            latent.latent_shape(shape)
        except ConfigError as error:
            refusals.append(error.what)
            continue
        data = SmoothNoise(shape=shape)
        yield torch.stack([data[index] for index in range(COUNT)])
        count += 1
        if count == 2:
            return
    require(count > 0, "pictures that it takes", "; ".join(refusals))
