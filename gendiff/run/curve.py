"""Curve: the loss of held-out events beside that of training events, over the steps of a run, and what it says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_ROWS = 12  # of a table


@dataclass(frozen=True)
class Point:
    """One look: at which step, both losses, and the standard error of the first over events."""

    step: int
    held_out: float
    error: float
    training: float


def curve(rows: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The looks that rows of metrics.jsonl hold; those whose losses were not finite are left out."""
    points = []
    for row in rows:
        held_out, training = (
            side if isinstance(side := row.get(key), Mapping) else {} for key in ("held_out", "training")
        )
        losses: list[Any] = [side.get("loss") for side in (held_out, training)]
        if all(type(loss) in (int, float) and math.isfinite(loss) for loss in losses):
            error = held_out.get("error")
            points.append(
                Point(row["step"], float(losses[0]), error if type(error) is float else 0.0, float(losses[1]))
            )
    return points


def verdict(points: Sequence[Point]) -> str:
    """What they say, in one sentence; empty where there are none."""
    if not points:
        return ""
    last, best = points[-1], min(points, key=lambda point: point.held_out)
    now = f"held-out loss {_number(last.held_out)} ± {last.error:.2g}, of training events {_number(last.training)}"
    if last.held_out - best.held_out > max(last.error / 2, 0.01 * best.held_out):
        rise = last.held_out / best.held_out - 1 if best.held_out else math.inf
        return (
            f"{now}; it was lowest at step {best.step:,}, {_number(best.held_out)}, and rose by {rise:.0%}: overfitting"
        )
    if last.held_out - last.training > 2 * last.error:
        return f"{now}: better on the events that it was trained on, and not rising"
    return f"{now}: no overfitting is seen"


def markdown(points: Sequence[Point]) -> list[str]:
    """A table of at most 12 of the looks, equally spread, the last one among them."""
    count = min(len(points), MOST_ROWS)
    few = [points[(k + 1) * len(points) // count - 1] for k in range(count)]
    return [
        "| step | held-out loss | training events, same noise |",
        "|---|---|---|",
        *(f"| {one.step} | {_number(one.held_out)} ± {one.error:.2g} | {_number(one.training)} |" for one in few),
    ]


def _number(value: float) -> str:
    return f"{value:.4f}"
