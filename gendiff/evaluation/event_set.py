"""Event set: events that are to be compared with others, and the rows of features that are computed of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.evaluation.number import Events
from gendiff.evaluation.statistics import Statistics
from gendiff.features import Features
from gendiff.machine.jobs import ALONE, Crew
from gendiff.machine.workers import in_order
from gendiff.shapes import EventShape
from gendiff.storage.cache import Cache

CHUNK = {"cpu": 16, "cuda": 64}  # events whose features are computed at once; part of what makes a row reproducible
READ = 64  # events read at once
LOOKED = 256  # events that are gone through where one is not finite, to say which are not
SHOWN = 20  # numbers of events in one message
FEWER = "--at-once 1"  # where processes are too many
SAME = 1e-3  # largest difference, relative to the largest value of a row, that other hardware makes

Watch = Callable[[int], object]  # hears how many more events were gone through


@dataclass(frozen=True)
class EventSet:
    """Events that can be gone through.

    Args:
        about: which they are; an empty fingerprint stands for the SHA-256 of their values, which is found on the way.
        event_shape: of each.
        at: yields the events with these numbers, 0..n-1, in this order, ``(<= any, *event)`` float32 on any device.
        told: what is known of the event of a number besides (`gendiff.condition`); None where nothing is.

    """

    about: Events
    event_shape: EventShape
    at: Callable[[Sequence[int]], Iterable[Tensor]]
    told: Callable[[int], Mapping[str, Any]] | None = None

    @property
    def n(self) -> int:
        """How many there are."""
        return self.about.n or 0

    def some(self, n: int, exact: bool = True) -> EventSet:
        """``n`` of them, spread over all; all where there are fewer and ``exact`` is not asked for, else `ConfigError`."""
        if n > self.n and exact:
            raise ConfigError(f"{self.about.spec} has {self.n} events, not {n}", fix="ask for fewer")
        if n >= self.n:
            return self
        return self._of(spread(n, self.n), replace(self.about, n=n))

    def under(self, condition: str, holds: Callable[[Mapping[str, Any]], bool]) -> EventSet:
        """Those of which something holds, as ``condition`` says in words; raises `ConfigError` where nothing is known of them."""
        if self.told is None:
            raise ConfigError(f"of {self.about.spec} no conditions are known", details=[f"asked for: {condition}"])
        places = [k for k in range(self.n) if holds(self.told(k))]
        spec, fingerprint = (
            f"{text}, {condition}" if text else "" for text in (self.about.spec, self.about.fingerprint)
        )
        return self._of(places, Events(spec, fingerprint, len(places)))

    def _of(self, places: Sequence[int], about: Events) -> EventSet:
        told = self.told
        return EventSet(
            about,
            self.event_shape,
            lambda numbers: self.at([places[k] for k in numbers]),
            told and (lambda k: told(places[k])),
        )

    @classmethod
    def of_data(cls, data: Data, n: int | None = None) -> EventSet:
        """``n`` events spread over the data, by default all; raises `ConfigError` where there are not so many.

        Of latents they are the pictures: those that were encoded, or where only latents are there, what these decode to.
        """
        data = data.shown
        if n is None and data.length is None:
            raise ConfigError(f"data '{data.name}' have no end", fix="say how many events to take")
        count = n or data.length or 0
        if data.length is not None and count > data.length:
            raise ConfigError(f"data '{data.name}' have {data.length} events, not {count}", fix="ask for fewer")
        places = spread(count, data.length or count)

        def at(numbers: Sequence[int]) -> Iterator[Tensor]:
            for part in parts(numbers, READ):
                yield torch.stack([data[places[k]] for k in part])

        told = (lambda k: data.condition(places[k])) if data.conditions else None
        return cls(Events(data.spec, data.fingerprint, count), data.event_shape, at, told)

    @classmethod
    def of_tensor(cls, events: Tensor, spec: str) -> EventSet:
        """Events ``(n, *event)`` that are in memory."""

        def at(numbers: Sequence[int]) -> Iterator[Tensor]:
            return (events[list(part)].float() for part in parts(numbers, READ))

        return cls(Events(spec, "", len(events)), tuple(events.shape[1:]), at)


@dataclass(frozen=True)
class KnownStatistics:
    """Statistics in place of the events that they are of."""

    about: Events
    statistics: Statistics

    @classmethod
    def load(cls, path: Path) -> KnownStatistics:
        """From a file of gendiff or pytorch-fid; raises `DataError` where there is none."""
        statistics = Statistics.load(path)
        digest = hashlib.sha256(statistics.mean.numpy().tobytes() + statistics.covariance.numpy().tobytes()).hexdigest()
        return cls(Events(str(path), f"statistics/1 {digest[:16]}", statistics.n), statistics)


@dataclass(frozen=True)
class Seen:
    """What was found on one way through an event set.

    Args:
        about: which events they are, with their fingerprint.
        event_shape: of each.
        rows: one tensor ``(n, d)`` float32 on the CPU for each of the features.
        exemplars: the events that were to be kept, ``(<= n, *event)`` float32 on the CPU.

    """

    about: Events
    event_shape: EventShape
    rows: list[Tensor]
    exemplars: Tensor

    def some(self, places: Sequence[int], words: str) -> Seen:
        """Those with these numbers, which ``words`` describe; exemplars are left behind."""
        about = Events(f"{self.about.spec}, {words}", f"{self.about.fingerprint} {words}", len(places))
        return Seen(about, self.event_shape, [rows[list(places)] for rows in self.rows], self.exemplars[:0])


def go_through(
    events: EventSet,
    features: Sequence[Features],
    device: torch.device,
    keep: Sequence[int] = (),
    cache: Cache | None = None,
    watch: Watch = lambda count: None,
    crew: Crew = ALONE,
) -> Seen:
    """Compute all rows, and keep the events with the numbers ``keep`` (ascending).

    Rows are computed in batches of one size, filled up where events are few, so that they are the same to the bit however
    the events come. With a cache, rows that were computed before are taken from it, and others added to it; the key is the
    fingerprints of events and features. Fingerprints may miss a change (that of a folder knows names and sizes of its files), so
    a few rows, spread over the set, are computed again, and cached ones are used where these agree.

    The processes of a crew share the work: it changes no bit but by its threads.

    Raises `DataError` for values that are not finite, and where there are no ``n`` events; `GendiffError` for features that are
    not finite.
    """
    if cache is None or not events.about.fingerprint:
        return _go_through(events, features, device, keep, watch, crew)
    rows = [_cached(cache, events, one, device) for one in features]
    absent = [one for one, table in zip(features, rows, strict=True) if table is None]
    if features and not absent:
        watch(events.n)
        exemplars = torch.cat([some.cpu() for some in events.at(keep)]) if keep else torch.empty(0)
        return Seen(events.about, events.event_shape, [table for table in rows if table is not None], exemplars)
    fresh = _go_through(events, absent, device, keep, watch, crew)
    for one, table in zip(absent, fresh.rows, strict=True):
        cache.write(_key(events.about, one), {"rows": table})
    new_rows = iter(fresh.rows)
    return Seen(
        fresh.about, events.event_shape, [next(new_rows) if table is None else table for table in rows], fresh.exemplars
    )


def _go_through(
    events: EventSet, features: Sequence[Features], device: torch.device, keep: Sequence[int], watch: Watch, crew: Crew
) -> Seen:
    digest, rows, exemplars = hashlib.sha256(), [list[Tensor]() for _ in features], list[Tensor]()
    numbers, count, where, bad = set(keep), 0, events.about.spec, list[int]()
    for chunk, rows_of_chunk in _looked_at(events, features, device, crew):
        bad += [count + k for k in _not_finite(chunk)]
        if bad:
            count += len(chunk)
            if count < LOOKED:  # to say which others are not
                continue
            break
        digest.update(chunk.contiguous().numpy().tobytes())
        for one, chunks, of_chunk in zip(features, rows, rows_of_chunk, strict=True):
            chunks.append(of_chunk)
            if odd := _not_finite(of_chunk):
                raise GendiffError(
                    f"the features of {len(odd)} of {len(chunk)} events are not finite",
                    where=one.spec,
                    details=[f"events {_some([count + k for k in odd])} of {where}, whose own values are finite"],
                    fix="choose other features: --features SPEC",
                )
        exemplars += [event for k, event in enumerate(chunk, start=count) if k in numbers]
        count += len(chunk)
        watch(len(chunk))
    if bad:
        raise DataError(
            f"{len(bad)} of {'' if count == events.n else 'the first '}{count} events hold values that are not finite",
            where=where,
            details=[f"events {_some(bad)}"],
            fix="look at them, or take them out",
        )
    if count != events.n:
        raise DataError(f"there are {count} events, not {events.n}", where=where, fix="look whether they have changed")
    about = events.about
    if not about.fingerprint:
        about = replace(about, fingerprint=f"events/1 {digest.hexdigest()[:16]}")
    together = [torch.cat(chunks) for chunks in rows]
    return Seen(about, events.event_shape, together, torch.stack(exemplars) if exemplars else torch.empty(0))


def _looked_at(
    events: EventSet, features: Sequence[Features], device: torch.device, crew: Crew
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """The events on the CPU, chunk by chunk, and the rows of each chunk; none of one whose values are not finite."""

    def look(chunk: Tensor) -> tuple[Tensor, list[Tensor]]:
        return chunk, [] if _not_finite(chunk) else [extract(one, chunk, device) for one in features]

    def work(numbers: Sequence[int]) -> list[tuple[Tensor, list[Tensor]]]:
        return [look(chunk) for chunk in _chunks(events.at(numbers), size)]

    size = CHUNK[device.type]
    if crew.at_once == 1:
        yield from map(look, _chunks(events.at(range(events.n)), size))
        return
    share = max(min(events.n // crew.at_once, READ) // size, 1) * size
    with closing(in_order(work, list(parts(range(events.n), share)), crew.at_once, crew.threads, FEWER)) as outcomes:
        for some in outcomes:
            yield from some


def _not_finite(rows: Tensor) -> list[int]:
    """The numbers of the rows, or events, with values that are not finite."""
    numbers: list[int] = (~rows.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()
    return numbers


def _some(numbers: Sequence[int]) -> str:
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"{', '.join(map(str, numbers[:SHOWN]))}{more}"


def _key(about: Events, features: Features) -> str:
    return "\n".join(["rows/1", about.fingerprint, str(about.n), features.fingerprint])


def _cached(cache: Cache, events: EventSet, features: Features, device: torch.device) -> Tensor | None:
    """The rows that were kept, where some of them, computed again, are still the same; None otherwise."""
    rows = (cache.read(_key(events.about, features)) or {}).get("rows")
    if rows is None or rows.ndim != 2 or len(rows) != events.n or rows.dtype != torch.float32 or _not_finite(rows):
        return None
    places = spread(min(CHUNK[device.type], events.n), events.n)
    again = extract(features, torch.cat([some.cpu() for some in events.at(places)]), device)
    if again.shape[1] != rows.shape[1]:
        return None
    error = (rows[places] - again).abs().amax()
    return rows if bool(error <= SAME * again.abs().amax()) else None


def extract(features: Features, events: Tensor, device: torch.device) -> Tensor:
    """The rows of at most `CHUNK` events, on the CPU; events are made up to that number."""
    size = CHUNK[device.type]
    batch = torch.cat([events, events[:1].expand(size - len(events), *events.shape[1:])])
    return features.extract(batch.to(device))[: len(events)].detach().float().cpu()


def _chunks(events: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same events on the CPU, ``size`` at a time and fewer at the end."""
    waiting = None
    for some in events:
        some = some.detach().float().cpu()
        *full, waiting = (some if waiting is None else torch.cat([waiting, some])).split(size)
        yield from full
    if waiting is not None and len(waiting):
        yield waiting


def spread(count: int, length: int) -> list[int]:
    """``count`` equally spaced numbers of 0..length-1."""
    return [k * length // count for k in range(count)]


def parts(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """``size`` of the numbers at a time, and fewer at the end."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
