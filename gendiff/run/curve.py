r"""Curve: the loss of held-out events beside that of training events, over the steps of a run, and what it says.

The losses of two looks are of the same events with the same noise, so they are compared event by event: with d_k(t) the loss of
event k at the last look minus that at look t, the rise since t is

    mean(d) ± sd(d)/sqrt(n) ,

and what tells the events from each other, which is most of the error of a loss, is not in it. Whether the loss rose is asked of
all looks at once, for the lowest is chosen among them after the fact: were the last look no worse than the others, each event's
differences could as well have the other sign. The largest of the ratios mean/error over the looks is held against what it is when
the signs of events are turned, all 2^n ways of few events, 4096 ways of more; the share that is as large is p. It
holds for any number of looks, however they depend on each other, and assumes that events are independent and d is symmetric.

A rise that training events share is none of overfitting: the gap between the two sides must have widened.

Reference: Westfall, Young 1993, Resampling-Based Multiple Testing, ch. 2; Fisher 1935, The Design of Experiments, ch. 3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_ROWS = 12  # of a table
CHANCE = 0.05  # p of a rise that is said to be one
FEWEST = 5  # events: with fewer the smallest p that there is, 2^-n, is above that
WAYS = 4096  # of turning signs
CLEAR = 3.0  # standard errors of a difference of means that is said to be one
UNLIKE = 1.5  # times the loss of an output of 0 on the other side, from which on the sides are of two kinds


@dataclass(frozen=True)
class Side:
    """What more is known of one side at a look, each with its standard error over events.

    Args:
        by_event: the losses of its events, or of groups of them.
        nothing: the loss of an output of 0 on the same events with the same noise.
        gain: by how much the network is below that, event by event.

    """

    by_event: tuple[float, ...] = ()
    nothing: tuple[float, float] | None = None
    gain: tuple[float, float] | None = None


@dataclass(frozen=True)
class Point:
    """One look: at which step, both losses, the standard error of the first over events, and what more is known of each side."""

    step: int
    held_out: float
    error: float
    training: float
    of_held_out: Side = Side()
    of_training: Side = Side()


@dataclass(frozen=True)
class Rise:
    """How far the held-out loss is above the lowest that it was.

    Args:
        step: where it was lowest.
        by, error: the mean difference of events between that look and the last, and its standard error.
        p: how often the differences with turned signs show a rise as clear, since any look.
        training, training_error: the change of the loss of training events meanwhile.

    """

    step: int
    by: float
    error: float
    p: float
    training: float
    training_error: float

    @property
    def is_clear(self) -> bool:
        """Whether it is more than chance."""
        return self.p <= CHANCE

    @property
    def is_shared(self) -> bool:
        """Whether training events have it too: the gap between the two sides has not widened."""
        return self.training > 0 and self.by - self.training <= 2 * math.hypot(self.error, self.training_error)

    @property
    def is_overfitting(self) -> bool:
        """Whether the loss rose on events that are not trained on, and on these alone."""
        return self.is_clear and not self.is_shared


def curve(rows: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The looks that rows of metrics.jsonl hold; those whose losses were not finite are left out."""
    points = []
    for row in rows:
        held_out, training = (
            side if isinstance(side := row.get(key), Mapping) else {} for key in ("held_out", "training")
        )
        losses: list[Any] = [side.get("loss") for side in (held_out, training)]
        if all(map(_is_number, losses)):
            error = held_out.get("error")
            points.append(
                Point(
                    row["step"],
                    float(losses[0]),
                    error if type(error) is float else 0.0,
                    float(losses[1]),
                    *map(_side, (held_out, training)),
                )
            )
    return points


def rise(points: Sequence[Point]) -> Rise | None:
    """How far the last look is above the lowest.

    None where it is the lowest, or the losses of its events are not known, or these are fewer than 5: then nothing can be told
    from chance.
    """
    best, last = min(points, key=lambda point: point.held_out), points[-1]
    alike = [
        point
        for point in points[:-1]
        if all(len(a.by_event) == len(b.by_event) for a, b in zip(_sides(point), _sides(last), strict=True))
    ]
    if best not in alike or len(last.of_held_out.by_event) < FEWEST:
        return None
    differences = np.array(last.of_held_out.by_event) - np.array([point.of_held_out.by_event for point in alike])
    k = alike.index(best)
    by, error = _mean(differences[k])
    training = _mean(np.array(last.of_training.by_event) - np.array(best.of_training.by_event))
    return Rise(best.step, by, error, _chance(differences), *training)


def verdict(points: Sequence[Point]) -> str:
    """What they say, in a few sentences without the last full stop; empty where there are none."""
    if not points:
        return ""
    last = points[-1]
    now = f"held-out loss {_number(last.held_out)} ± {last.error:.2g}, of training events {_number(last.training)}"
    return ". ".join([f"{now}{_course(points)}", *_standing(last)])


def markdown(points: Sequence[Point]) -> list[str]:
    """A table of at most 12 of the looks, equally spread, the last one among them."""
    count = min(len(points), MOST_ROWS)
    few = [points[(k + 1) * len(points) // count - 1] for k in range(count)]
    return [
        "| step | held-out loss | training events, same noise |",
        "|---|---|---|",
        *(f"| {one.step} | {_number(one.held_out)} ± {one.error:.2g} | {_number(one.training)} |" for one in few),
    ]


def _course(points: Sequence[Point]) -> str:
    """How the loss went to where it is, to be read on behind that."""
    best, last, since = min(points, key=lambda point: point.held_out), points[-1], rise(points)
    if len(points) == 1:
        return ": one look is no curve"
    if last.held_out <= best.held_out:
        return ", the lowest that it was: no overfitting is seen"
    lowest = f"it was lowest at step {best.step:,}, {_number(best.held_out)}"
    if since is None:
        count = len(last.of_held_out.by_event)
        why = f"of {count} events" if count else "without the losses of its events"
        return f"; {lowest}, and {why} it cannot be told whether the rise since is chance"
    by = f"event by event it rose by {since.by:.2g} ± {since.error:.2g} since (p = {max(since.p, 0.001):.1g})"
    if not since.is_clear:
        return f"; {lowest}, and {by}, which may be chance: no overfitting is seen"
    way = "fell" if since.training < 0 else "rose"
    other = f"that of training events {way} by {abs(since.training):.2g}"
    if since.is_shared:
        return f"; {lowest}, and {by}, but {other}: not overfitting, the network got worse; try a lower rate"
    return (
        f": overfitting; {lowest}; {by}, while {other}: train no further than step {best.step:,}, or find more events"
    )


def _standing(point: Point) -> list[str]:
    """What an output of 0, which knows nothing, says of where the two sides stand."""
    held_out, training = _sides(point)
    if not (held_out.nothing and held_out.gain and training.nothing and training.gain):
        return []
    sentences = []
    if held_out.nothing[0] > UNLIKE * training.nothing[0] and _apart(held_out.nothing, training.nothing):
        sentences.append(
            f"Held-out events are unlike those trained on: an output of 0 has {_number(held_out.nothing[0])} on them, "
            f"{_number(training.nothing[0])} on the others"
        )
    if -held_out.gain[0] > CLEAR * held_out.gain[1]:
        where = "held-out events" if training.gain[0] > 0 else "events of either side"
        sentences.append(
            f"On {where} the network is worse than an output of 0, which has {_number(held_out.nothing[0])} "
            f"{'there' if training.gain[0] > 0 else 'on held-out ones'}"
        )
    elif _apart(training.gain, held_out.gain):
        sentences.append(
            f"It is below an output of 0 by {training.gain[0]:.2g} on events that it was trained on, and by "
            f"{held_out.gain[0]:.2g} on held-out ones: it knows them better than their kind"
        )
    return sentences


def _apart(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether a mean is clearly above another."""
    return one[0] - other[0] > CLEAR * math.hypot(one[1], other[1])


def _chance(differences: np.ndarray) -> float:
    """How often the largest ratio of mean and error over looks is as large as it is, when signs of events are turned.

    Args:
        differences: ``(T, n)``, of n events at T looks.

    """
    n = differences.shape[1]
    if 2**n <= WAYS:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
    else:
        signs = np.random.default_rng(0).choice((1.0, -1.0), (WAYS, n))
        signs[0] = 1
    squares = (differences**2).mean(1)
    largest = np.full(len(signs), -np.inf)
    for of_look, square in zip(differences, squares, strict=True):
        means = signs @ of_look / n
        spread = np.maximum(square - means**2, 1e-12 * square + 1e-300)  # of equal differences, that of rounding
        largest = np.maximum(largest, means * math.sqrt(n - 1) / np.sqrt(spread))
    return float((largest >= largest[0] * (1 - 1e-9)).mean()) if largest[0] > 0 else 1.0


def _mean(values: np.ndarray) -> tuple[float, float]:
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), error


def _sides(point: Point) -> tuple[Side, Side]:
    return point.of_held_out, point.of_training


def _side(row: Mapping[str, Any]) -> Side:
    """A side as a row has it; whatever is not as gendiff writes it is left out."""
    by_event = row.get("by_event")
    losses = tuple(map(float, by_event)) if isinstance(by_event, list) and all(map(_is_number, by_event)) else ()
    return Side(losses, _pair(row.get("nothing"), "loss"), _pair(row.get("gain"), "mean"))


def _pair(value: Any, name: str) -> tuple[float, float] | None:
    if not isinstance(value, Mapping) or not all(_is_number(value.get(key)) for key in (name, "error")):
        return None
    return float(value[name]), float(value["error"])


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _number(value: float) -> str:
    return f"{value:.4f}"
