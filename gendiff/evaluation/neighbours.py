r"""Neighbours: whether samples repeat training events.

In a space (pixels, or features) let d be the distance to the nearest training event. A model that makes new events has d of its
samples as events of the same source have it that nobody trained on: with H of these and the r-th smallest of their distances, the
number of n samples within it is beta-binomial,

    P(X = x) = C(n, x) B(x + r, n - x + H + 1 - r) / B(r, H + 1 - r) ,     mean n r/(H + 1) ,

whatever the distribution is, if only all n + H are independent draws of it. r is `NEAREST` of H. More samples within than by
chance either repeat training events, or are smoother than events are (a blurred picture is near to many): the eye decides.

Where no event is held out, the training events stand for them, each with its distance to the nearest *other* one. Equal training
events then lie at 0 from each other, and so does a sample that is one of them: all that are as near as the r-th count.

All distances are computed, a chunk at a time, in float64, and those of the nearest without the cancellation of
``|x|² + |y|² - 2xy``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gendiff.evaluation.distances import CHUNK, share
from gendiff.evaluation.event_set import EventSet, go_through, spread
from gendiff.evaluation.number import Drawing, Events, Number, Remark
from gendiff.features import Features
from gendiff.plugin.discovery import version
from gendiff.storage.cache import Cache

NEAREST = (
    0.01  # of the events that are not trained on: within the distance of these a sample is as near as few events are
)
PROBES = 10_000  # events that are not trained on, or training events left out, whose distances are taken, at most
ROWS = 1024  # training events whose distances are computed at once
RARE = 1e-3  # probability of so many near samples by chance below which an alarm rings
STREAMED = ("pixels",)  # features whose rows are as large as their events: never kept for a whole set


@dataclass(frozen=True)
class Nearest:
    """The nearest of some rows to each query: its distance, ``(n,)`` float64, and its number, ``(n,)`` int64."""

    distance: Tensor
    index: Tensor


def nearest(queries: Tensor, rows: Iterable[Tensor], own: Tensor | None = None) -> Nearest:
    """The nearest rows, the first of equals; exact but for rounding in float64.

    Args:
        queries: ``(n, d)``; computed with on their device.
        rows: in chunks ``(<= any, d)``; at least one row but a query's own.
        own: the number of the row that is each query itself and does not count, int64 ``(n,)``; -1 where none is.

    """
    n, d = queries.shape
    device = queries.device
    best = torch.full((n,), math.inf, dtype=torch.float64, device=device)
    index = torch.full((n,), -1, dtype=torch.int64, device=device)
    own = torch.full_like(index, -1) if own is None else own.to(device)
    start, centre = 0, None
    for chunk in rows:
        y = chunk.to(device, torch.float64)
        centre = y.mean(0) if centre is None else centre  # distances do not change, rounding errors shrink
        y = y - centre
        y_length = y.square().sum(1)
        size = max(min(CHUNK // len(y), CHUNK // d), 1)
        for first in range(0, n, size):
            part = slice(first, first + size)
            x = queries[part].double() - centre
            squares = torch.addmm(x.square().sum(1)[:, None] + y_length, x, y.T, alpha=-2)
            itself = own[part] - start
            inside = ((itself >= 0) & (itself < len(y))).nonzero()[:, 0]
            squares[inside, itself[inside]] = math.inf
            place = squares.argmin(1)
            distance = (x - y[place]).square().sum(1)
            distance[squares.gather(1, place[:, None])[:, 0].isinf()] = math.inf  # nothing but itself
            nearer = distance < best[part]
            best[part] = torch.where(nearer, distance, best[part])
            index[part] = torch.where(nearer, place + start, index[part])
        start += len(y)
    return Nearest(best.sqrt(), index)


@dataclass(frozen=True)
class Close:
    """A sample and the training event that is nearest to it.

    Args:
        sample: its number.
        event: the number of the training event among those that were looked through, and what people call it.
        distance: between the two.

    """

    sample: int
    event: int
    origin: str
    distance: float


@dataclass(frozen=True)
class Neighbours:
    """How near samples are to training events in one space.

    Args:
        space: the spec of the features, and their fingerprint.
        training: the events that were looked through.
        others: the events that are not trained on; None where training events were left out one by one.
        count: H, of these.
        within: r, how many of them lie within ``threshold``.
        threshold: a distance.
        closer: how many samples lie within it.
        identical: how many are a training event, but for its rounding; in features, how many are at distance 0.
        known: how many of the others were training events after all, and do not count.
        n: of how many samples.
        chance: the probability of so many or more by chance.
        median, median_of_others: of the distances of samples, and of the others.
        closest: some of the samples, the nearest first.

    """

    space: str
    fingerprint: str
    training: Events
    others: Events | None
    count: int
    within: int
    threshold: float
    closer: int
    identical: int
    known: int
    n: int
    chance: float
    median: float
    median_of_others: float
    closest: tuple[Close, ...] = ()

    @property
    def expected(self) -> float:
        """How many of the samples would lie within the threshold by chance."""
        return self.n * self.within / (self.count + 1)

    @property
    def name(self) -> str:
        """What the space is called in the names of numbers."""
        return self.space.partition(":")[0]

    def json(self) -> dict[str, Any]:
        """Every field, and ``expected``, as values that JSON has."""
        return {**asdict(self), "closest": [asdict(one) for one in self.closest], "expected": self.expected}

    def number(self, samples: Events, drawing: Drawing | None, level: float = 0.95) -> Number:
        """The share of samples within the threshold, as a number like the others."""
        value = self.closer / self.n
        low, high = share(value, self.n, level)
        others = self.others.fingerprint if self.others else "training events left out"
        return Number(
            name=f"closer-{self.name}",
            value=value,
            low=low,
            high=high,
            level=level,
            better="",
            instrument=self.space,
            instrument_fingerprint=f"{self.fingerprint}; nearest {NEAREST:g} of {self.count} {others}",
            samples=samples,
            reference=self.training,
            drawing=drawing,
            gendiff=version("gendiff"),
        )

    @property
    def remark(self) -> Remark:
        """What is found, in a sentence."""
        known = f" ({self.known} that are training events left out)" if self.known else ""
        whose = (
            f"of {self.count} events of {self.others.spec}, which it was not trained on{known},"
            if self.others
            else f"of {self.count} training events are to another one (each left out in turn)"
        )
        verb = "are" if self.others else ""
        identical = f"; {self.identical} are identical to one" if self.identical else ""
        return Remark(
            "neighbours",
            " ".join(
                f"{self.closer} of {self.n} samples are as near to a training event in {self.name} as the nearest {self.within} "
                f"{whose} {verb}".split()
            )
            + f": {self.expected:.3g} would be by chance{identical}; median distance {self.median:.3g}, of "
            f"{'those' if self.others else 'training'} events {self.median_of_others:.3g}",
            {
                key: value
                for key, value in self.json().items()
                if key not in ("training", "others", "closest", "fingerprint")
            },
        )

    @property
    def alarm(self) -> str:
        """A warning where so many near samples are no chance; empty where they may be."""
        if self.chance >= RARE:
            return ""
        return (
            f"{self.closer} of {self.n} samples are as near to training events in {self.name} as hardly any event is, where "
            f"{self.expected:.3g} would be by chance (p = {self.chance:.1g}): they repeat training events, or are smoother than "
            "events are; look at the picture"
        )


def chance(closer: int, n: int, within: int, count: int) -> float:
    """The probability that ``closer`` or more of n new events lie within the ``within``-th nearest of ``count`` others."""
    x = torch.arange(closer, n + 1, dtype=torch.float64)
    a, b = float(within), float(count + 1 - within)

    def log_beta(p: Tensor, q: Tensor) -> Tensor:
        return torch.lgamma(p) + torch.lgamma(q) - torch.lgamma(p + q)

    log_choose = -math.log(n + 1) - log_beta(x + 1, n - x + 1)
    terms = log_choose + log_beta(x + a, n - x + b) - log_beta(torch.tensor(a).double(), torch.tensor(b).double())
    return min(float(torch.logsumexp(terms, 0).exp()), 1.0)


def neighbours(
    samples: Sequence[Tensor],
    spaces: Sequence[Features],
    training: EventSet,
    others: EventSet | None = None,
    *,
    shown: int = 0,
    origin: Callable[[int], str] = "event {}".format,
    grain: float = 0.0,
    device: torch.device | str = "cpu",
    cache: Cache | None = None,
) -> list[Neighbours]:
    """How near samples are to training events, in each space.

    Args:
        samples: their rows in each space, ``(n, d)``.
        spaces: the first is that of the values themselves, in which events are the same or are not.
        training: at least two events.
        others: events of the same source that are not trained on; those that are training events after all do not count. None, or
            where all are, leaves training events out one by one.
        shown: of how many of the samples to say which event is nearest: of those that are nearest in any of the spaces.
        origin: what people call a training event, by its number.
        grain: the root mean square of the values by which events differ that are the same, but for their rounding.
        cache: where rows of training events are kept.

    """
    device = torch.device(device)
    places = spread(min(PROBES, training.n), training.n)
    probes = training if others is None else others.some(min(PROBES, others.n))
    own = torch.tensor(places if others is None else [], dtype=torch.int64)
    results, distances = list[Neighbours](), list[Nearest]()
    n, new = len(samples[0]), torch.ones(len(places) if others is None else probes.n, dtype=torch.bool)
    for rows, features in zip(samples, spaces, strict=True):
        those = _rows(probes, features, device, cache, places if others is None else None)
        queries = torch.cat([rows, *those]).to(device)
        owners = torch.full((len(queries),), -1, dtype=torch.int64)
        if others is None:
            owners[n:] = own
        found = nearest(queries, _rows(training, features, device, cache), owners)
        d, same = found.distance[:n].cpu(), 0.0 if results else grain * rows.shape[1] ** 0.5
        if others is not None and not results:
            new = found.distance[n:].cpu() > same
            if not new.any():
                more: dict[str, Any] = {
                    "shown": shown,
                    "origin": origin,
                    "grain": grain,
                    "device": device,
                    "cache": cache,
                }
                return neighbours(samples, spaces, training, **more)
        of_others = found.distance[n:].cpu()[new].sort().values
        threshold = float(of_others[max(int(NEAREST * len(of_others)), 1) - 1])
        closer, within = int((d <= threshold).sum()), int((of_others <= threshold).sum())
        distances.append(Nearest(d, found.index[:n].cpu()))
        results.append(
            Neighbours(
                space=features.spec,
                fingerprint=features.fingerprint,
                training=training.about,
                others=None if others is None else probes.about,
                count=len(of_others),
                within=within,
                threshold=threshold,
                closer=closer,
                identical=int((d <= same).sum()),
                known=int((~new).sum()),
                n=n,
                chance=chance(closer, n, within, len(of_others)),
                median=float(d.median()),
                median_of_others=float(of_others.median()),
            )
        )
    chosen = _nearest_in_any([of.distance for of in distances])[:shown]
    return [_closest(one, of, chosen, origin) for one, of in zip(results, distances, strict=True)]


def _closest(one: Neighbours, of: Nearest, chosen: Sequence[int], origin: Callable[[int], str]) -> Neighbours:
    events = {k: int(of.index[k]) for k in chosen}
    closest = tuple(Close(k, event, origin(event), float(of.distance[k])) for k, event in events.items())
    return replace(one, closest=closest)


def _nearest_in_any(distances: Sequence[Tensor]) -> list[int]:
    """The numbers of the samples, those first that are nearest in one of the spaces."""
    ranks = torch.stack([d.argsort(stable=True).argsort(stable=True) for d in distances])
    order: list[int] = ranks.amin(0).argsort(stable=True).tolist()
    return order


def _rows(
    events: EventSet,
    features: Features,
    device: torch.device,
    cache: Cache | None,
    numbers: Sequence[int] | None = None,
) -> Iterator[Tensor]:
    """The rows of events, of all or of those with these numbers, in chunks."""
    if features.name in STREAMED:
        yield from _chunks(
            features.extract(some.cpu()) for some in events.at(range(events.n) if numbers is None else numbers)
        )
        return
    rows = go_through(events, [features], device, cache=cache).rows[0]
    yield from (rows if numbers is None else rows[list(numbers)]).split(ROWS)


def _chunks(parts: Iterable[Tensor]) -> Iterator[Tensor]:
    """The same rows, `ROWS` at a time and fewer at the end."""
    waiting: list[Tensor] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= ROWS:
            *full, rest = torch.cat(waiting).split(ROWS)
            if len(rest) == ROWS:
                full, rest = [*full, rest], rest[:0]
            yield from full
            waiting = [rest]
    if waiting and sum(map(len, waiting)):
        yield torch.cat(waiting)
