"""Tensor data: events that a program has in its hands, a tensor, an array or a data set of torch, as a source of events."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from gendiff.condition import Condition, Conditions
from gendiff.data import Data
from gendiff.datasets.column import ALLOWED, Column
from gendiff.datasets.sources import settled
from gendiff.errors import ArgumentError, DataError
from gendiff.shapes import EventShape, check_values

LOOKED = 1024  # events of a data set that are read for its fingerprint; of a tensor all are
CHUNK = 2**22  # values held at a time
ROUNDING = 1e-5  # how far values may lie outside of their range, as a fraction of it
LABEL = "label"  # the condition that the second entry of a tuple is
AS_EVENTS = "events are (n, C, *spatial): (n, 3, 64, 64), or (n, 1, 48) for signals"


class TensorData(Data):
    """events that were given in Python, by `as_data`.

    A run stores what they were, not the events themselves: who opens it and needs them has to give them again.
    """

    name = "python-events"
    shape: tuple[int, ...] = Field(description="of an event, (C, *spatial)")
    count: int = Field(ge=1, description="how many events there are")
    bounds: tuple[float, float] | None = Field(None, description="where their values lie; left out, anywhere")
    mark: str = Field(description="their fingerprint")
    source: str = Field("Tensor", description="the type of what was given")
    known: Mapping[str, Any] | None = Field(None, description="their conditions, by name")

    _events: Any = PrivateAttr(None)
    _columns: Mapping[str, Column] = PrivateAttr(default_factory=dict)

    @property
    def value_range(self) -> tuple[float, float] | None:  # type: ignore[override]  # a constant of other data
        return self.bounds

    @property
    def event_shape(self) -> EventShape:
        return self.shape

    @property
    def length(self) -> int | None:
        return self.count

    @property
    def fingerprint(self) -> str:
        return self.mark

    @property
    def conditions(self) -> Conditions:
        return {name: Condition.model_validate(table) for name, table in (self.known or {}).items()}

    def condition(self, index: int) -> Mapping[str, Any]:
        self.require()
        return {
            name: self._columns[name][index] if name in self._columns else self._second(index)
            for name in self.known or {}
        }

    def _second(self, index: int) -> int:
        """The label that a data set of tuples gives with an event."""
        label = _label(self._events[index], index)
        if not 0 <= label < (most := self.conditions[LABEL].size):
            raise ArgumentError(
                f"event {index} has the label {label}, and labels of 0 to {most - 1} were met where the data were looked at",
                details=[f"{LOOKED} of the {self.count:,} events were looked at"],
                fix=f"give the labels of all: as_data(x, conditions={{'{LABEL}': labels}})",
            )
        return label

    def require(self) -> None:
        """Raise `DataError` where the events are not here."""
        if self._events is None:
            raise DataError(
                f"these events were given in Python, as a {self.source}, and are not here",
                details=[f"{self.count:,} events {self.shape}, fingerprint {self.mark}"],
                fix="give them again in Python: gendiff.load(RUN, data=x), gendiff.resume(RUN, data=x)",
                subject="data.name",
            )

    def __getitem__(self, index: int) -> Tensor:
        self.require()
        if not 0 <= index < self.count:
            raise IndexError(f"event {index} of {self.count}")
        event = _event(self._events[index], f"event {index}")
        _check(event[None], self.shape, self.bounds, f"event {index}")
        return event

    def __repr__(self) -> str:
        bounds = "of any value" if self.bounds is None else f"in [{self.bounds[0]:g}, {self.bounds[1]:g}]"
        return (
            f"TensorData({self.count:,} events {self.shape} {bounds}{'' if self._events is not None else ', not here'})"
        )

    __str__ = __repr__


def as_data(
    x: Any,
    value_range: tuple[float, float] | None = (-1.0, 1.0),
    flip: bool = False,
    conditions: Mapping[str, Any] | None = None,
) -> Data:
    """A source of events from what there is.

    Args:
        x: a tensor or an array ``(n, C, *spatial)``, a map-style data set of torch (of tuples, the first entry is the event),
            data of gendiff, their spec, or a path. Bytes 0..255 are pictures and become [-1, 1]; floating point of any width is
            taken as it is, in float32. It is not copied. ``(x, labels)``, or a data set of tuples whose second entry is a whole
            number, has the condition ``label``.
        value_range: where values of floating point lie, to which a sampler may clamp; None where they have no bounds.
        flip: train on each picture, or its mirror image, with equal chances; data and specs may say so themselves.
        conditions: what else is known of each event, by name: labels, whole numbers ``(n,)`` from 0; vectors, floating point
            ``(n,)`` or ``(n, k)``; images ``(n, C, *spatial)``; both in the range that they have.

    Returns:
        `Data` with a length and a fingerprint of the content: every event of a tensor, 1024 events of a data set.

    Raises:
        ArgumentError: where ``x`` is none of these, is of another type or shape, or has values outside of ``value_range``.
        DataError: where values are not finite, or a data set gives another event each time it is asked.

    """
    x, conditions = _parted(x, dict(conditions or {}))
    data = _data(x, value_range)
    if conditions:
        data = _with_conditions(data, conditions)
    return data.model_copy(update={"flip": True}) if flip else data


def _parted(x: Any, conditions: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The events of ``(x, labels)``, and its labels by their name; anything else as it is."""
    if not (isinstance(x, tuple) and len(x) == 2 and hasattr(x[0], "ndim") and x[0].ndim > 2):
        return x, conditions
    labels = _array(x[1], LABEL)
    if labels.ndim >= x[0].ndim:
        return x, conditions  # two events
    if labels.dtype.kind not in "iub" or labels.ndim != 1:
        raise ArgumentError(
            f"the labels are of type {labels.dtype} and shape {labels.shape}",
            details=["(x, labels): whole numbers (n,), one for each event, counted from 0"],
            fix="convert them: y.long(), or y.argmax(1) of one-hot rows; vectors are as_data(x, conditions={'pose': y})",
        )
    return x[0], {LABEL: labels, **conditions}


def _with_conditions(data: Data, given: Mapping[str, Any]) -> Data:
    if not isinstance(data, TensorData):
        raise ArgumentError(
            f"conditions were given for data '{data.name}', which say themselves what they have",
            details=[f"they have: {', '.join(data.conditions) or 'none'}"],
            fix="give events of Python, such as a tensor; or data with labels",
        )
    columns = {}
    for name, values in given.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise ArgumentError(f"{name!r} is no name of a condition", fix="choose a word, such as label")
        try:
            columns[name] = Column.of(_array(values, name), data.count)
        except ValueError as error:
            raise ArgumentError(f"the condition '{name}' cannot be used: {error}", details=[ALLOWED]) from error
    known = {**(data.known or {}), **{name: column.condition.table() for name, column in columns.items()}}
    result = data.model_copy(update={"known": known})
    result._columns = {**data._columns, **columns}
    return result


def _array(values: Any, name: str) -> np.ndarray:
    try:
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            return np.asarray(values.float() if values.dtype in (torch.bfloat16, torch.float16) else values)
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"the condition '{name}' is no array of numbers", details=[ALLOWED]) from error


def _data(x: Any, value_range: tuple[float, float] | None) -> Data:
    if isinstance(x, Data):
        return x
    if isinstance(x, str):
        return Data.model_validate(settled({"data": x})["data"])
    if isinstance(x, Mapping):
        return Data(x)
    if isinstance(x, np.ndarray):
        x = _tensor(x, "x")
    if isinstance(x, Tensor):
        check_values(x, "x")
        if x.ndim < 3 or 0 in x.shape:
            axis = {1: "x[:, None, None]", 2: "x[:, None]"}.get(x.ndim, "")
            fix = f"add the axis of channels: {axis}" if axis and len(x) else ""
            raise ArgumentError(f"x has the shape {tuple(x.shape)}", details=[AS_EVENTS], fix=fix)
        if x.dtype == torch.uint8 and x.ndim == 4 and x.shape[3] in (1, 3, 4) and x.shape[1] > 4:
            details = [AS_EVENTS, "channels seem to be the last axis"]
            raise ArgumentError(
                f"x has the shape {tuple(x.shape)}", details=details, fix="put them first: x.permute(0, 3, 1, 2)"
            )
        x = x.detach().cpu()
    elif not (hasattr(x, "__getitem__") and hasattr(x, "__len__")):
        raise ArgumentError(
            f"a {type(x).__name__} is no source of events",
            details=["a tensor, an array, or a data set with a length whose items are asked for by number (map-style)"],
            fix="collect its events: torch.stack(list(x))" if hasattr(x, "__iter__") else "",
        )
    return _looked_at(x, value_range)


def _looked_at(x: Any, value_range: tuple[float, float] | None) -> TensorData:
    """The data, after a look at every event of a tensor, and at some of a data set."""
    count = len(x)
    if count < 1:
        raise ArgumentError("there is no event in x", details=[AS_EVENTS])
    first = _event(x[0], "event 0")
    if first.ndim < 2:
        raise ArgumentError(f"event 0 has the shape {tuple(first.shape)}", details=["an event is (C, *spatial)"])
    shape, digest = tuple(first.shape), hashlib.sha256(f"{count} {tuple(first.shape)}".encode())
    bounds = (-1.0, 1.0) if _raw(x[0]).dtype == torch.uint8 else value_range
    least, most = float("inf"), float("-inf")
    for name, events in _batches(x, count, first.numel()):
        _check(events, shape, bounds, name)
        digest.update(events.contiguous().numpy().tobytes())
        least, most = min(least, float(events.min())), max(most, float(events.max()))
    if not isinstance(x, Tensor) and not torch.equal(first, _event(x[0], "event 0")):
        raise DataError(
            "the data set gives another event 0 each time it is asked",
            details=["data are a function of the index: or a run could neither go on to the same bits nor be compared"],
            fix="leave out its random transforms, or keep what they make: torch.stack([x[k][0] for k in range(len(x))])",
        )
    if bounds == (-1.0, 1.0) and least >= 0 and 0.5 < most <= 1:
        warnings.warn(
            f"all values of x lie in [{least:.2g}, {most:.2g}]: in [-1, 1] that is grey to white; "
            "pictures of 0..1 are written 2 * x - 1, other events as_data(x, value_range=(0, 1))",
            stacklevel=4,
        )
    data = TensorData(shape=shape, count=count, bounds=bounds, mark=digest.hexdigest()[:16], source=type(x).__name__)
    data._events = x
    if (label := _labels(x, count)) is not None:
        data = data.model_copy(update={"known": {LABEL: label.table()}})
    return data


def _labels(x: Any, count: int) -> Condition | None:
    """The condition that a data set of tuples has where the second entry of each is a whole number."""
    if isinstance(x, Tensor) or not _is_label(x[0]):
        return None
    names, targets = getattr(x, "classes", None), getattr(x, "targets", None)
    if isinstance(names, list | tuple) and len(set(map(str, names))) == len(names) > 0:
        return Condition.label([str(name) for name in names])
    labels = (
        [int(y) for y in targets] if isinstance(targets, list | Tensor | np.ndarray) and len(targets) == count else []
    )
    if not labels:
        items = range(count) if count <= LOOKED else [k * count // LOOKED for k in range(LOOKED)]
        labels = [_label(x[k], k) for k in items]
    if min(labels) < 0:
        raise ArgumentError(
            f"the data set has the label {min(labels)}",
            details=[ALLOWED],
            fix="count classes from 0, or leave labels out",
        )
    return Condition.label(max(labels) + 1)


def _is_label(entry: Any) -> bool:
    if not (isinstance(entry, tuple | list) and len(entry) == 2):
        return False
    y = entry[1]
    if isinstance(y, Tensor | np.ndarray | np.generic):
        return y.ndim == 0 and np.asarray(y).dtype.kind in "iu"
    return type(y) is int


def _label(entry: Any, index: int) -> int:
    if not _is_label(entry):
        raise ArgumentError(
            f"event {index} comes without a label, event 0 with one",
            details=["an item is (event, label), the label a whole number from 0"],
        )
    return int(entry[1])


def _batches(x: Any, count: int, size: int) -> Iterable[tuple[str, Tensor]]:
    """What is looked at, ``(B, *event)`` at a time, and a name for it."""
    if isinstance(x, Tensor):
        step = max(CHUNK // size, 1)
        yield from (("x", _event(x[start : start + step], "x")) for start in range(0, count, step))
        return
    for index in range(count) if count <= LOOKED else [k * count // LOOKED for k in range(LOOKED)]:
        yield f"event {index}", _event(x[index], f"event {index}")[None]


def _raw(entry: Any) -> Tensor:
    return _tensor(entry[0] if isinstance(entry, tuple | list) and entry else entry, "an event")


def _event(entry: Any, name: str) -> Tensor:
    """One entry of a source as float32."""
    value = _tensor(entry[0] if isinstance(entry, tuple | list) and entry else entry, name)
    if value.dtype == torch.uint8:
        return value.float() / 127.5 - 1
    if not value.dtype.is_floating_point:
        raise ArgumentError(
            f"{name} is of type {value.dtype}".replace("torch.", ""),
            details=["events are floating point, or bytes 0..255 (uint8) for pictures"],
            fix="convert it: x.float(), or x.to(torch.uint8) where values are 0..255",
        )
    return value.detach().cpu().float()


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except TypeError as error:
            raise ArgumentError(f"{name} is an array of type {value.dtype}", details=["numbers are needed"]) from error
    fix = "give the data set a transform that makes a tensor, such as torchvision's ToTensor, and value_range=(0, 1)"
    raise ArgumentError(
        f"{name} is a {type(value).__name__}, no tensor",
        details=["an item of a data set is an event, or a tuple or list that begins with one"],
        fix=fix if "Image" in type(value).__name__ else "",
    )


def _check(events: Tensor, shape: EventShape, bounds: tuple[float, float] | None, name: str) -> None:
    """Raise where events ``(B, *event)`` are of another shape, not finite or out of bounds."""
    if tuple(events.shape[1:]) != shape:
        raise ArgumentError(
            f"{name} has the shape {tuple(events.shape[1:])}, event 0 {shape}", details=["all are alike"]
        )
    if bad := int((~events.isfinite()).sum()):
        raise DataError(
            f"{bad:,} of {events.numel():,} values of {name} are not finite", fix="look at where they come from"
        )
    if bounds is None:
        return
    low, high = bounds
    slack, least, most = ROUNDING * (high - low), float(events.min()), float(events.max())
    if least < low - slack or most > high + slack:
        pixels = "pixels 0..255 are written x / 127.5 - 1; or " if least >= 0 and 1 < most <= 255 else ""
        raise ArgumentError(
            f"values of {name} lie in [{least:.4g}, {most:.4g}], outside of [{low:g}, {high:g}]",
            details=["pictures are in [-1, 1], black to white"],
            fix=f"{pixels}say where they lie: as_data(x, value_range=(LOW, HIGH)), or None where there are no bounds",
        )
