"""Event set: events that are to be compared with others, and the rows of features that are computed of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.errors import ConfigError, DataError
from gendiff.features import Features
from gendiff.number import Events
from gendiff.statistics import Statistics

CHUNK = {"cpu": 16, "cuda": 64}  # events whose features are computed at once; part of what makes a row reproducible
READ = 64  # events read at once


@dataclass(frozen=True)
class EventSet:
    """Events that can be gone through.

    Args:
        about: which they are; an empty fingerprint stands for the SHA-256 of their values, which is found on the way.
        at: yields the events with these numbers, 0..n-1, in this order, ``(<= any, *event)`` float32 on any device.

    """

    about: Events
    at: Callable[[Sequence[int]], Iterable[Tensor]]

    @property
    def n(self) -> int:
        """How many there are."""
        return self.about.n or 0

    @classmethod
    def of_data(cls, data: Data, n: int | None = None) -> EventSet:
        """``n`` events spread over the data, by default all; raises `ConfigError` where there are not so many."""
        if n is None and data.length is None:
            raise ConfigError(f"data '{data.name}' have no end", fix="say how many events to take")
        count = n or data.length or 0
        if data.length is not None and count > data.length:
            raise ConfigError(f"data '{data.name}' have {data.length} events, not {count}", fix="ask for fewer")
        places = spread(count, data.length or count)

        def at(numbers: Sequence[int]) -> Iterator[Tensor]:
            for part in parts(numbers, READ):
                yield torch.stack([data[places[k]] for k in part])

        return cls(Events(data.spec, data.fingerprint, count), at)

    @classmethod
    def of_tensor(cls, events: Tensor, spec: str) -> EventSet:
        """Events ``(n, *event)`` that are in memory."""

        def at(numbers: Sequence[int]) -> Iterator[Tensor]:
            return (events[list(part)] for part in parts(numbers, READ))

        return cls(Events(spec, "", len(events)), at)


@dataclass(frozen=True)
class KnownStatistics:
    """Statistics in place of the events that they are of."""

    about: Events
    statistics: Statistics

    @classmethod
    def load(cls, path: Path) -> KnownStatistics:
        """From a file of gendiff or pytorch-fid; raises `DataError` where there is none."""
        found = Statistics.load(path)
        digest = hashlib.sha256(found.mean.numpy().tobytes() + found.covariance.numpy().tobytes()).hexdigest()
        return cls(Events(str(path), f"statistics/1 {digest[:16]}", found.n), found)


@dataclass(frozen=True)
class Seen:
    """What was found on one way through an event set.

    Args:
        about: which events they are, with their fingerprint.
        rows: one tensor ``(n, d)`` float32 on the CPU for each of the features.
        kept: the events that were to be kept, ``(<= n, *event)`` float32 on the CPU.

    """

    about: Events
    rows: list[Tensor]
    kept: Tensor


def go_through(
    events: EventSet,
    features: Sequence[Features],
    device: torch.device,
    keep: Sequence[int] = (),
    watch: Callable[[int], None] = lambda count: None,
) -> Seen:
    """Compute all rows, and keep the events with the numbers ``keep`` (ascending); ``watch`` hears how many were seen.

    Rows are computed in batches of one size, filled up where events are few, so that they are the same to the bit however
    the events come. Raises `DataError` for values that are not finite, and where there are no ``n`` events.
    """
    digest, rows, kept = hashlib.sha256(), [list[Tensor]() for _ in features], list[Tensor]()
    wanted, seen = set(keep), 0
    for chunk in _chunks(events.at(range(events.n)), CHUNK[device.type]):
        if not bool(torch.isfinite(chunk).all()):
            bad = seen + int(torch.isfinite(chunk.flatten(1)).all(1).logical_not().nonzero()[0])
            raise DataError(f"event {bad} of {events.about.spec} holds values that are not finite", fix="look at it")
        digest.update(chunk.contiguous().numpy().tobytes())
        for one, found in zip(features, rows, strict=True):
            found.append(extract(one, chunk, device))
        kept += [event for k, event in enumerate(chunk, start=seen) if k in wanted]
        seen += len(chunk)
        watch(len(chunk))
    if seen != events.n:
        raise DataError(f"{events.about.spec} gave {seen} events, not {events.n}", fix="look at where they come from")
    about = events.about
    if not about.fingerprint:
        about = replace(about, fingerprint=f"events/1 {digest.hexdigest()[:16]}")
    return Seen(about, [torch.cat(found) for found in rows], torch.stack(kept) if kept else torch.empty(0))


def extract(features: Features, events: Tensor, device: torch.device) -> Tensor:
    """The rows of at most ``CHUNK`` events, on the CPU; they are made up to that number."""
    size = CHUNK[device.type]
    filled = torch.cat([events, events[:1].expand(size - len(events), *events.shape[1:])])
    return features.extract(filled.to(device))[: len(events)].detach().float().cpu()


def _chunks(events: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same events on the CPU, ``size`` at a time and fewer at the end."""
    waiting: list[Tensor] = []
    for some in events:
        waiting.append(some.detach().float().cpu())
        *full, rest = torch.cat(waiting).split(size)
        if len(rest) == size:
            full, rest = [*full, rest], rest[:0]
        yield from full
        waiting = [rest]
    yield from (rest for rest in waiting if len(rest))


def spread(count: int, length: int) -> list[int]:
    """``count`` equally spaced numbers of 0..length-1."""
    return [k * length // count for k in range(count)]


def parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """``size`` of the numbers at a time, and fewer at the end."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
