"""What data promise: the event at an index is a function of the index, for whoever asks, in whatever order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

from gendiff.condition import Given, stacked
from gendiff.data import Data
from gendiff.datasets.batches import Batches
from gendiff.errors import ConfigError
from gendiff.testing.card import check, require
from gendiff.testing.elsewhere import elsewhere
from gendiff.testing.probes import undisturbed

_ITEM = "`__getitem__`: everything random must follow from the index and the parameters"


@check("data", "every event has the shape and range that it declares", "`event_shape`, `value_range` and `__getitem__`")
def declared(data: Data) -> str:
    """Float32 and finite."""
    low, high = float("inf"), -float("inf")
    for index in _indices(data):
        event = data[index]
        require(tuple(event.shape) == tuple(data.event_shape), f"shape {data.event_shape}", str(tuple(event.shape)))
        require(event.dtype == torch.float32, "float32", str(event.dtype))
        require(bool(torch.isfinite(event).all()), "finite values", f"some are not, at index {index}")
        low, high = min(low, float(event.min())), max(high, float(event.max()))
    if data.value_range is not None:
        a, b = data.value_range
        require(a - 1e-6 <= low and high <= b + 1e-6, f"values in [{a:g}, {b:g}]", f"{low:.3f} to {high:.3f}")
    return f"{'x'.join(map(str, data.event_shape))}, values from {low:.2f} to {high:.2f}"


@check("data", "the event at an index is always the same", _ITEM)
def deterministic(data: Data) -> str:
    """Asked again, in another order, of a copy."""
    indices = _indices(data)
    with undisturbed():
        first = {index: data[index].clone() for index in indices}
    torch.rand(3)  # whatever else draws random numbers
    copies = {"asked again": data, "of a copy": type(data).model_validate(data.table())}
    for how, copy in copies.items():
        for index in reversed(indices):
            require(
                torch.equal(copy[index], first[index]), "the same event at the same index", f"another {how}, at {index}"
            )
    if len(indices) > 1:
        different = any(not torch.equal(first[index], first[indices[0]]) for index in indices[1:])
        require(different, "different events at different indices", "all are equal")
    return f"{len(indices)} indices"


@check(
    "data", "another process sees the same events", "`hash()` of a text is another in each process: use gendiff.streams"
)
def same_elsewhere(data: Data) -> str:
    """A run is continued, and compared, in a later process."""
    module = type(data).__module__
    if module == "__main__" or module.startswith("gendiff_plugin_"):
        return "not asked of a plugin in a single file"
    indices = _indices(data)[:3]
    answer = elsewhere(_digest, data, indices)
    require(answer == _digest(data, indices), "the same events and fingerprint", "others in another process")
    return f"{len(indices)} indices and the fingerprint"


def _digest(data: Data, indices: list[int]) -> str:
    digest = hashlib.sha256(data.fingerprint.encode())
    for index in indices:
        digest.update(data[index].numpy().tobytes())
        digest.update(_told(data, index))
    return digest.hexdigest()


@check("data", "an event that was given away can be changed", "`__getitem__` returns its cache: return a copy")
def own(data: Data) -> str:
    """The next who asks gets what is there."""
    before = data[0].clone()
    data[0].add_(1)
    require(torch.equal(data[0], before), "the event as it was", "the change")
    return "events are copies"


@check("data", "its length and fingerprint hold", "`length` and `fingerprint`")
def length(data: Data) -> str:
    """None is endless."""
    if data.length is not None:
        require(
            isinstance(data.length, int) and data.length > 0, "a positive number of events, or None", str(data.length)
        )
    else:
        data[10**9]  # endless
    mark = data.fingerprint
    require(isinstance(mark, str) and bool(mark), "a text", repr(mark))
    data[0]
    require(data.fingerprint == mark, "the same fingerprint each time", "another")
    require(type(data).model_validate(data.table()).fingerprint == mark, "the fingerprint of a copy", "another")
    return f"{'endless' if data.length is None else f'{data.length:,} events'}, fingerprint {mark[:40]}"


@check(
    "data",
    "any number of workers gives the same batches",
    "open files or environments in each process, not in the parent",
)
def workers(data: Data) -> str:
    """None and two."""
    size = 4 if data.length is None else min(4, data.length)
    batches = Batches(data, 100, 0, size, conditions=data.conditions, dropout=0.5)
    cpu = torch.device("cpu")
    alone, together = (list(batches.loader(1, 3, count, cpu)) for count in (0, 2))
    for one, two in zip(alone, together, strict=True):
        require(torch.equal(one.x_0, two.x_0), "the same events", "others with two workers")
        require(_bytes(one.condition) == _bytes(two.condition), "the same conditions", "others with two workers")
    return "none and two"


@check(
    "data",
    "what it says of an event is of the kind and range that it declares",
    "`conditions` and `condition(index)`: a label is the number of a class, or its name; numbers are in [low, high]",
)
def conditions(data: Data) -> str:
    """Each condition by its name, for each event, always the same; data without conditions say nothing."""
    known, indices = data.conditions, _indices(data)
    for name in known:
        require(name.isidentifier(), "names that are one word", repr(name))
    require(data.conditions == known, "the same conditions each time", "others")
    for index in indices:
        said = data.condition(index)
        require(set(said) == set(known), f"a value for each of {_listed(known)}", f"{_listed(said)}, at index {index}")
        for name, condition in known.items():
            try:
                condition.value(name, said[name])
            except ConfigError as error:
                require(False, condition.words, f"{error.what}, at index {index}")
    torch.rand(3)
    with undisturbed():
        first = {index: _told(data, index) for index in indices}
    for how, copy in {"asked again": data, "of a copy": type(data).model_validate(data.table())}.items():
        for index in reversed(indices):
            require(
                _told(copy, index) == first[index], "the same conditions at the same index", f"others {how}, at {index}"
            )
    return _listed(known)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _told(data: Data, index: int) -> bytes:
    return _bytes(stacked(data.conditions, [data.condition(index)]))


def _bytes(told: Given) -> bytes:
    return b"".join(told[name].numpy().tobytes() for name in sorted(told))


def _indices(data: Data) -> list[int]:
    last = 10_000 if data.length is None else data.length - 1
    return sorted({0, 1, last // 3, last // 2, last} & set(range(last + 1)))
