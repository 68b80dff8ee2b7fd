r"""Split: which events a run trains on, and which are held out.

Held-out events say whether a network knows the distribution or its training events: nothing is trained on them, and neither m and
c of the data nor what rotation and velocity learn from them has met them. Which they are is a function of the seed of the split
and of what an event is called, the name of its file or else its number, and of nothing else:

    u(event) < below ,     u = the first 63 bits of a hash of (seed, name), or of the mixed bits of (seed, number),

with the bound chosen once, so that as many are held out as was asked for. A run keeps its bound, and an event stays on its side
whatever becomes of the others. Events that belong together are held out together: what data say themselves are pieces of one
thing (`Data.group`), and those of a directory or crops of one picture where the user says so;
files that repeat a held-out one to the byte are on neither side.

Of endless data, whose events are made, those from number 10^12 on are held out: no training gets there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import Field, PrivateAttr, StrictFloat, StrictInt, model_validator
from torch import Tensor

from gendiff.command import option, setting
from gendiff.component import Settings
from gendiff.condition import Conditions
from gendiff.data import Data
from gendiff.errors import ConfigError, GendiffError, printable
from gendiff.latent import Latent
from gendiff.shapes import EventShape

UNSEEN = 10**12  # the first event of an endless source that no training reaches
MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # of splitmix64 (Steele, Lea, Flood 2014)


def ways() -> str:
    """The ways to say what is held out."""
    part, number, others = (option("--hold-out", value) for value in (0.1, 200, "PATH"))
    return f"{part} is a tenth of the events, {number} so many, {others} others"


class HoldOut(Settings):
    """What is held out of training, and how often it is looked at."""

    events: StrictInt | StrictFloat | None = Field(
        None, description="how many events are held out; below 1: that part of them"
    )
    data: Data | None = Field(None, description="other data that are held out, in place of a part of those of the run")
    by: Literal["event", "directory", "picture"] = Field(
        "event", description="what stays together: event, nothing; directory; picture, crops of one picture"
    )
    pattern: str = Field(
        "(.+)[_-]",
        description="a regular expression whose first group in the name of an event, without its ending, is its picture",
    )
    seed: int = Field(0, ge=0, description="which are held out; that of training does not matter")
    every: int = Field(250, ge=1, description="steps between two looks at the loss of held-out and of training events")
    most: int = Field(64, ge=1, description="events of either that are looked at")

    @model_validator(mode="after")
    def _check(self) -> HoldOut:
        events = self.events
        if (events is None) == (self.data is None):
            what = "hold_out says of no events that they are held out" if events is None else "hold_out says two things"
            details = [] if events is None else ["events are a part of the data of the run, data are others"]
            raise ConfigError(what, details=details, fix=ways(), subject="data" if events is not None else "")
        if events is not None and not (0 < events < 1 or (isinstance(events, int) and events >= 1)):
            whole = f"; so many events are written {int(events)}" if isinstance(events, float) and events > 1 else ""
            raise ConfigError(
                f"{events} of the events cannot be held out",
                details=["allowed: a part between 0 and 1, or a whole number of events from 1 on"],
                fix=f"{ways()}; without it nothing is held out{whole}",
                subject="events",
            )
        try:
            groups = re.compile(self.pattern).groups
        except re.error as error:
            raise ConfigError(
                f"'{self.pattern}' is no regular expression: {error}", fix="write (.+)_crop", subject="pattern"
            ) from error
        if groups < 1:
            raise ConfigError(
                f"the regular expression '{self.pattern}' has no group", fix="write (.+)_crop", subject="pattern"
            )
        return self

    @classmethod
    def said(cls, value: Any) -> Mapping[str, Any]:
        """What ``0.1``, ``200``, or data in a text or a table, mean as a table of these settings."""
        if isinstance(value, str):
            try:
                value = float(value) if set(value) & set(".eE") else int(value)
            except ValueError:
                return {"data": value}
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"events": value}
        return {"data": value}


class Part(Data):
    """some of the events of other data."""

    name = "part"

    which: str
    mark: str

    _source: Data = PrivateAttr()
    _indices: range | np.ndarray = PrivateAttr()

    @classmethod
    def of(cls, source: Data, indices: range | np.ndarray, which: str) -> Part:
        """The events of ``source`` with these numbers, in this order."""
        numbers = np.array([indices[0], len(indices)] if isinstance(indices, range) else indices, dtype=np.int64)
        digest = hashlib.sha256(numbers.tobytes()).hexdigest()[:16]
        part = cls(which=which, mark=f"{source.fingerprint} {which} {len(indices)} {digest}")
        part._source, part._indices = source, indices
        return part

    @property
    def value_range(self) -> tuple[float, float] | None:  # type: ignore[override]  # a constant of other data
        return self._source.value_range

    @property
    def event_shape(self) -> EventShape:
        return self._source.event_shape

    @property
    def conditions(self) -> Conditions:
        return self._source.conditions

    def condition(self, index: int) -> Mapping[str, Any]:
        return self._source.condition(int(self._indices[index]))

    @property
    def length(self) -> int | None:
        return len(self._indices)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self._indices):
            raise IndexError(f"event {index} of {len(self._indices)}")
        return self._source[int(self._indices[index])]

    @property
    def latent(self) -> Latent | None:
        return self._source.latent

    @property
    def shown(self) -> Data:
        return self if self.latent is None else Part.of(self._source.shown, self._indices, self.which)

    def mirrored(self, index: int) -> Tensor:
        return self._source.mirrored(int(self._indices[index]))

    @property
    def fingerprint(self) -> str:
        return self.mark

    def origin(self, index: int) -> str:
        return self._source.origin(int(self._indices[index]))

    def entry(self, index: int) -> str:
        return self._source.entry(int(self._indices[index]))

    def group(self, index: int) -> str:
        return self._source.group(int(self._indices[index]))

    @property
    def spec(self) -> str:
        of = "" if self._source.length is None else f" of {self._source.length:,}"
        return f"{self._source.spec}, {self.which}: {len(self._indices):,}{of} events"

    def __repr__(self) -> str:
        return f"Part({self.spec})"

    __str__ = __repr__


@dataclass(frozen=True)
class Split:
    """The two sides.

    Args:
        training: what is trained on; all data where nothing is held out.
        held_out: what is not; None where nothing is.
        below: the bound of a split of finite data.
        words: what is held out, in one line; empty where nothing is.

    """

    training: Data
    held_out: Data | None = None
    below: int | None = None
    words: str = ""

    @classmethod
    def of(cls, data: Data, hold_out: HoldOut | None, below: int | None = None, condition: Sequence[str] = ()) -> Split:
        """The split of ``data``.

        Args:
            below: the bound that it was made with before, where it was.
            condition: what a network is told of events besides, which other data must have too.

        Raises:
            ConfigError: where it leaves no event on a side, events cannot be told apart as is asked, or other data do not fit.
            DataError: where data cannot be read.

        """
        if hold_out is None:
            return cls(data)
        if hold_out.data is not None:
            try:
                return _others(data, hold_out.data, condition)
            except GendiffError as error:
                if error.subject.startswith("data."):
                    error.subject = f"hold_out.{error.subject}"
                raise
        events = hold_out.events
        assert events is not None
        if data.length is None:
            return _endless(data, events)
        return _finite(data, hold_out, events, below)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What a run keeps of it; empty where nothing is held out."""
        if self.held_out is None:
            return {}
        bound = {} if self.below is None else {"below": self.below}
        return {"events": self.held_out.length, "fingerprint": self.held_out.fingerprint, "words": self.words} | bound


def _others(data: Data, others: Data, condition: Sequence[str] = ()) -> Split:
    for what, ours, theirs in (
        ("events", data.event_shape, others.event_shape),
        ("values in", data.value_range, others.value_range),
    ):
        if ours != theirs:
            given = f"{others.name}:" + ",".join(_like(data, others))
            raise ConfigError(
                f"the held-out data have {what} {theirs}, the training data {ours}",
                fix=f"make them alike: {option('--hold-out', given)}"
                if _like(data, others)
                else "give data of the same kind",
                subject="hold_out.data",
            )
    for name in condition:
        own, other = data.conditions.get(name), others.conditions.get(name)
        if own is not None and (other is None or not own.includes(other)):
            raise ConfigError(
                f"the held-out data have {'another' if other else 'no'} condition '{name}'",
                details=[
                    f"training data: {own.words}",
                    f"held-out data: {other.words if other else 'nothing is said'}",
                ],
                fix="give data with the same classes, or of the same range; or hold out a part: --hold-out 0.1",
                subject="hold_out.data",
            )
    if others.fingerprint == data.fingerprint:
        raise ConfigError(
            "the held-out data are the training data themselves",
            details=[f"both have the fingerprint {data.fingerprint}"],
            fix=f"give others, or hold out a part of them: {option('--hold-out', 0.1)}",
            subject="hold_out.data",
        )
    traces = set(data.parts.values())
    repeated = [name for name, trace in others.parts.items() if trace in traces]
    if repeated:
        few = ", ".join(map(printable, repeated[:5])) + (" ..." if len(repeated) > 5 else "")
        raise ConfigError(
            f"{len(repeated)} of the {len(others.parts)} held-out pictures are training pictures too",
            details=[few],
            fix="take them out of one of the two",
            subject="hold_out.data",
        )
    number = "endless" if others.length is None else f"{others.length:,}"
    return Split(data, others, words=f"held out: {number} events of {others.spec}")


def _like(data: Data, others: Data) -> list[str]:
    """The parameters that would make events of ``others`` those of ``data``, where it has such."""
    fields, shape, parameters = type(others).model_fields, data.event_shape, []
    if "path" in fields:
        parameters.append(f"path={getattr(others, 'path', '')}")
    if "size" in fields and len(shape) == 3:
        parameters.append(f"size={shape[1]}x{shape[2]}" if shape[1] != shape[2] else f"size={shape[1]}")
    if "channels" in fields:
        parameters.append(f"channels={shape[0]}")
    return parameters if {"size", "channels"} & fields.keys() else []


def _endless(data: Data, events: float) -> Split:
    if not isinstance(events, int):
        raise ConfigError(
            f"data '{data.name}' have no end, and {events:g} of them is no number of events",
            fix=f"say how many: {option('--hold-out', 500)}",
            subject="hold_out.events",
        )
    words = f"held out: {events:,} events of {data.spec} from number 10^12 on, which no training reaches"
    return Split(data, Part.of(data, range(UNSEEN, UNSEEN + events), "held out"), words=words)


def _finite(data: Data, hold_out: HoldOut, events: float, below: int | None) -> Split:
    total = data.length or 0
    wanted = events if isinstance(events, int) else max(1, round(events * total))
    if wanted >= total:
        raise ConfigError(
            f"{wanted:,} events cannot be held out of {total:,}: none would be left to train on",
            fix=f"hold out fewer: {option('--hold-out', max(total // 10, 1))}" if total > 1 else "give more data",
            subject="hold_out.events",
        )
    names = [data.entry(index) for index in range(total)] if data.entry(0) else []
    u, groups = _marks(data, names, hold_out, total)
    if below is None:
        below = _bound(u, groups, wanted, hold_out, names)
    out = u < np.uint64(below)
    traces = data.parts
    kept = {traces[name] for name, is_out in zip(names, out.tolist(), strict=False) if is_out and name in traces}
    repeats = np.array([traces.get(name) in kept for name in names]) & ~out if kept else np.zeros(total, dtype=bool)
    if not out.any() or not (~out & ~repeats).any():
        raise ConfigError(
            "the split leaves no event on one side",
            details=[f"{int(out.sum())} of {total} are held out, {int(repeats.sum())} repeat these"],
            fix=f"hold out another number: {option('--hold-out')}",
            subject="hold_out.events",
        )
    held, rest = (np.flatnonzero(mask) for mask in (out, ~out & ~repeats))
    words = f"held out: {len(held):,} of {total:,} events of {data.spec}"
    if hold_out.by != "event" or data.group(0):
        plural = {"directory": "directories", "picture": "pictures", "event": "groups"}[hold_out.by]
        words += f", {len(np.unique(u[held])):,} of {len(np.unique(u)):,} {plural}"
    if repeats.any():
        words += f"; {int(repeats.sum()):,} that repeat one of them are left out"
    return Split(Part.of(data, rest, "training"), Part.of(data, held, "held out"), below, words)


def _marks(data: Data, names: Sequence[str], hold_out: HoldOut, total: int) -> tuple[np.ndarray, dict[str, list[int]]]:
    """For each event u, the same of those that stay together, and the events of each group; none where each is alone."""
    if hold_out.by == "event" and data.group(0):
        return _together(hold_out.seed, [data.group(index) for index in range(total)])
    if hold_out.by == "event":
        if not names:
            return _mixed(hold_out.seed, total), {}
        return np.array([_hashed(hold_out.seed, name) for name in names], dtype=np.uint64), {}
    if not names:
        raise ConfigError(
            f"the events of data '{data.name}' have no names, by which they would belong to a {hold_out.by}",
            fix="split by event: leave hold_out.by out; or give the folder that the pictures are in",
            subject="hold_out.by",
        )
    return _together(hold_out.seed, [_group(name, hold_out) for name in names])


def _together(seed: int, names: Sequence[str]) -> tuple[np.ndarray, dict[str, list[int]]]:
    """u, and the events of each group; ``names`` say to which each event belongs."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    u = np.zeros(len(names), dtype=np.uint64)
    for group, indices in groups.items():
        u[indices] = _hashed(seed, group)
    return u, groups


def _group(name: str, hold_out: HoldOut) -> str:
    """The directory or the picture of an event."""
    folder, _, last = name.rpartition("/")
    if hold_out.by == "directory":
        return folder
    stem = last.rpartition(".")[0] or last
    match = re.match(hold_out.pattern, stem)
    return f"{folder}/{match[1] if match and match[1] else stem}"


def _bound(u: np.ndarray, groups: Mapping[str, list[int]], wanted: int, hold_out: HoldOut, names: Sequence[str]) -> int:
    """The bound below which about ``wanted`` events are, of whole groups; at least one group on either side."""
    if not groups:
        return int(np.sort(u)[wanted])
    values, counts = np.unique(u, return_counts=True)
    if len(values) < 2 and hold_out.by == "event":
        raise ConfigError(
            f"all {len(u):,} events are pieces of one thing, '{printable(next(iter(groups)))}'",
            details=["its pieces are held out together, and none would be left to train on"],
            fix=f"give more such things; or others to be held out: {option('--hold-out', 'PATH')}",
            subject="hold_out.events",
        )
    if len(values) < 2:
        raise ConfigError(
            f"all {len(u):,} events are of one {hold_out.by}, '{printable(next(iter(groups)))}'",
            details=[f"the first is {printable(names[0])}"],
            fix="split by event: leave hold_out.by out"
            + (
                f"; or say what of a name is its picture: {setting('hold_out.pattern', '(.+)_crop')}"
                * (hold_out.by == "picture")
            ),
            subject="hold_out.by",
        )
    sums = np.cumsum(counts)[:-1]
    return int(values[int(np.abs(sums - wanted).argmin()) + 1])


def _hashed(seed: int, name: str) -> int:
    text = f"{seed}\0".encode() + name.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def _mixed(seed: int, total: int) -> np.ndarray:
    """The mixed bits of the numbers 0..total-1: arithmetic alone, the same on every machine and in every version."""
    golden, first, second = map(np.uint64, MIX)
    with np.errstate(over="ignore"):
        z = np.arange(1, total + 1, dtype=np.uint64) * golden + np.uint64(_hashed(seed, ""))
        z = (z ^ (z >> np.uint64(30))) * first
        z = (z ^ (z >> np.uint64(27))) * second
        return (z ^ (z >> np.uint64(31))) >> np.uint64(1)
