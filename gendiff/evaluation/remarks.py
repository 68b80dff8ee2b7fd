r"""Remarks: what must be known to read the numbers of an evaluation, by rules that are stated.

    real-against-real   what as many real events would get in place of the samples: no model is expected below that. k random
                        events of the reference, ``k = min(n, m/2)``, are held against the other m - k, and the distance is
                        brought to n and m by its order in both, ``(1/n + 1/m)/(1/k + 1/(m - k))``. Where there are
                        statistics alone, at least ``tr S (1/n + 1/m)``, by the means alone.
    training-data       the reference is what the run was trained on: who repeats its events looks best.
    lower-precision     the network was asked in a lower precision than float32.
    same-events         samples and reference are the same events: nothing is measured.
    says-nothing        a precision or recall whose interval is wider than half of all that it could be, or of which real events
                        themselves get less than half: too few events for neighbours.

The Fréchet distance of n events from their own distribution is too large by about c/n; with n rows in d dimensions c is of the
order of d times the variance (Bińkowski et al. 2018, arXiv 1801.01401; Chong, Forsyth 2020, arXiv 1911.07023). Precision and
recall depend on n as well, and real events do not reach 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from gendiff.evaluation.distances import NEIGHBOURS, frechet, precision_recall
from gendiff.evaluation.number import Events, Number, Remark
from gendiff.evaluation.statistics import Statistics
from gendiff.storage.cache import Cache
from gendiff.streams import stream

SPLITS = 3  # of the reference, at random
FEWEST = 2 * (NEIGHBOURS + 1)  # rows of the reference that can be split
HALF = 0.5  # of what a share can be


@dataclass(frozen=True)
class Real:
    """What real events get in place of samples.

    Args:
        distances: the Fréchet distance of each split, brought to the numbers of samples and reference.
        count, others: how many were held against how many.
        precision, recall: of the first split; None where they were not asked for.

    """

    distances: tuple[float, ...]
    count: int
    others: int
    precision: float | None = None
    recall: float | None = None

    @property
    def distance(self) -> float:
        """The mean over splits."""
        return fmean(self.distances)

    @classmethod
    def of(cls, rows: Tensor, n: int, manifold: Tensor | None = None, cache: Cache | None = None) -> Real:
        """What n of the events would get whose features are ``rows``, ``(m, d)``, m >= `FEWEST`.

        Args:
            manifold: the rows that precision and recall are taken of, which may be fewer; None takes none.
            cache: where the outcome is kept, under the SHA-256 of the rows.

        """
        key = ""
        if cache is not None:
            parts = [rows, *([] if manifold is None else [manifold])]
            digests = [hashlib.sha256(part.cpu().contiguous().numpy().tobytes()).hexdigest() for part in parts]
            key = " ".join(["real against real/1", str(n), *digests])
            if (kept := cache.read(key)) and kept["values"].shape == (SPLITS + 4,):
                *distances, count, others, precision, recall = kept["values"].tolist()
                shares = () if math.isnan(precision) else (precision, recall)
                return cls(tuple(distances), int(count), int(others), *shares)
        real = cls._of(rows, n, manifold)
        if cache is not None:
            absent = [math.nan if share is None else share for share in (real.precision, real.recall)]
            values = [*real.distances, real.count, real.others, *absent]
            cache.write(key, {"values": torch.tensor(values, dtype=torch.float64)})
        return real

    @classmethod
    def _of(cls, rows: Tensor, n: int, manifold: Tensor | None) -> Real:
        m = len(rows)
        k = min(n, m // 2)
        order = (1 / n + 1 / m) / (1 / k + 1 / (m - k))
        distances = []
        for split in range(SPLITS):
            some, others = _split(rows, k, split)
            distances.append(order * frechet(Statistics.of(some), Statistics.of(others)))
        shares: tuple[float, ...] = ()
        if manifold is not None and min(n, len(manifold) // 2) > NEIGHBOURS:
            some, others = _split(manifold, min(n, len(manifold) // 2), 0)
            both = precision_recall(some, others)
            shares = (both.precision, both.recall)
        return cls(tuple(distances), k, m - k, *shares)


def _split(rows: Tensor, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """So many rows at random, and the others."""
    order = torch.randperm(len(rows), generator=stream(seed, "real against real")).to(rows.device)
    return rows[order[:k]], rows[order[k:]]


def of_reference(number: Number, real: Real) -> Remark:
    """``real-against-real``: about a Fréchet distance, and precision and recall in the same features."""
    n, m = number.samples.n, number.reference.n
    shares = [
        f"{name} {value:.2g}"
        for name, value in (("precision", real.precision), ("recall", real.recall))
        if value is not None
    ]
    spread = f"{min(real.distances):.3g} to {max(real.distances):.3g}"
    how = f"{real.count} random events against the other {real.others}, {SPLITS} times: {spread}"
    same = real.count == n
    return Remark(
        "real-against-real",
        f"{n} real events in place of the samples would get {number.name} {real.distance:.3g}"
        + (f", {', '.join(shares)}" if shares else "")
        + f" ({how}{'' if same else f', brought to {n} and {m} by 1/n + 1/m'}): nothing below it tells a model from data",
        {
            "name": number.name,
            "n": n,
            "value": real.distance,
            "low": min(real.distances),
            "high": max(real.distances),
            "splits": SPLITS,
            "events": real.count,
            "others": real.others,
            "precision": real.precision,
            "recall": real.recall,
        },
    )


def of_statistics(number: Number, statistics: Statistics) -> Remark:
    """``real-against-real`` where there are no events of reference: what the means alone cost, and the order of the rest."""
    n, d = number.samples.n or 1, len(statistics.mean)
    least = float(statistics.factor.square().sum()) * (1 / n + (1 / statistics.n if statistics.n else 0))
    return Remark(
        "real-against-real",
        f"{n} real events in place of the samples would get {number.name} of more than {least:.3g}, by their mean alone; how "
        f"much more, the events of the reference would say, not their statistics: the bias falls like d/n = {d}/{n}",
        {"name": number.name, "n": n, "least": least, "dimensions": d},
    )


def of_too_few(number: Number) -> Remark:
    """``real-against-real`` where the reference has too few events to be split."""
    n = number.samples.n
    return Remark(
        "real-against-real",
        f"{number.reference.n} events of reference cannot say what {n} real ones would get: {number.name} is too large by a bias "
        "that falls like d/n",
        {"name": number.name, "n": n},
    )


def training_data(reference: Events) -> Remark:
    """``training-data``."""
    return Remark(
        "training-data",
        f"the reference, {reference.spec}, is what the run was trained on: a run that repeats its training events looks best; "
        "gendiff evaluate --neighbours counts them, --data compares with others",
        {"fingerprint": reference.fingerprint},
    )


def lower_precision(precision: str) -> Remark:
    """``lower-precision``."""
    return Remark(
        "lower-precision",
        f"the network was asked in {precision}: of the same noise it makes other pictures than in fp32, and other numbers; "
        "docs/benchmarks.md has by how much. Set them beside numbers of the same precision, or measure with --precision fp32",
        {"precision": precision},
    )


def same_events(samples: Events, reference: Events) -> Remark:
    """``same-events``."""
    return Remark(
        "same-events",
        f"{samples.spec} and {reference.spec} are the same events: distances are 0 and shares 1 whatever they are",
        {"n": samples.n},
    )


def says_nothing(numbers: Sequence[Number], real: Real | None) -> list[Remark]:
    """``says-nothing``, of each precision and recall among the numbers."""
    remarks = []
    for number in numbers:
        share = number.name.partition("-")[0]
        if share not in ("precision", "recall"):
            continue
        most = getattr(real, share) if real is not None else None
        why = []
        if number.high - number.low > HALF:
            why.append(f"its interval is {number.low:.2g} to {number.high:.2g}")
        if most is not None and most < HALF:
            why.append(f"real events get {most:.2g} themselves")
        if why:
            few = f"{number.samples.n} samples and {number.reference.n} events are too few for {NEIGHBOURS} neighbours"
            numbers_of = {"name": number.name, "low": number.low, "high": number.high, "real": most}
            remarks.append(
                Remark("says-nothing", f"{number.name} says next to nothing: {' and '.join(why)}; {few}", numbers_of)
            )
    return remarks
