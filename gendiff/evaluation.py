r"""Evaluation: samples and a reference in, numbers with their conditions and intervals out.

Features give one row per event (`gendiff.features`), distances compare the rows (`gendiff.distances`), metrics compare the events
themselves (`gendiff.metric`). Each number comes with an interval by subsampling the samples without replacement; the
reference is held fixed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version

import torch
from torch import Tensor

from gendiff.distances import (
    Interval,
    frechet,
    frechet_of_parts,
    kid_of_parts,
    precision_recall_of_parts,
    subsets,
)
from gendiff.errors import PluginError
from gendiff.event_set import EventSet, KnownStatistics, Seen, go_through, spread
from gendiff.features import Features
from gendiff.generation import TrainedModel, generate
from gendiff.metric import Metric
from gendiff.number import Better, Drawing, Evaluation, Events, Number
from gendiff.pictures import eight_bits
from gendiff.run import now
from gendiff.sampler import Sampler
from gendiff.statistics import Statistics

PAIRS = 10_000  # rows of each set of which all pairs are formed, at most
METRIC_VALUES = 2**24  # values of each set that a metric sees, at most: it holds them in memory


def drawn(model: TrainedModel, sampler: Sampler, n: int, seed: int, batch: int = 64) -> tuple[EventSet, Drawing]:
    """The first ``n`` samples of ``seed`` from a run, and how they are drawn.

    Pictures have 8 bits, as those that `gendiff sample` writes: what is measured is what is seen.
    """
    run, diffusion = model.run, model.denoiser.diffusion
    evaluations = sum(1 for _ in sampler.plan(diffusion))
    drawing = Drawing(run.info["id"], model.step, model.weights, model.weights_hash, sampler.spec, evaluations, seed)
    pictured = run.config.data.value_range == (-1, 1) and len(diffusion.event_shape) == 3

    def at(numbers: Sequence[int]) -> Iterator[Tensor]:
        for events in generate(model.denoiser, run, sampler, seed, numbers, batch):
            yield eight_bits(events) if pictured else events

    return EventSet(Events(drawing.run, "", n), at), drawing


def evaluate(
    samples: EventSet,
    reference: EventSet | KnownStatistics,
    instruments: Sequence[Features | Metric],
    *,
    kernel: bool = True,
    manifold: bool = True,
    replicates: int = 20,
    level: float = 0.95,
    seed: int = 0,
    device: torch.device | str = "cpu",
    drawing: Drawing | None = None,
    watch: Callable[[int], None] = lambda count: None,
) -> Evaluation:
    """Measure samples against a reference.

    Args:
        reference: events; or statistics of features, against which there is only the Fréchet distance in these features.
        instruments: features, each of which gives a Fréchet distance, a kernel distance, and precision and recall; and metrics.
        kernel, manifold: whether to compute kernel distances, and precision and recall.
        replicates, level, seed: of the intervals: subsets for each, probability, and what the subsets follow from.
        device: where features and distances are computed.
        drawing: how the samples were drawn.
        watch: hears how many samples were gone through.

    Raises:
        ConfigError: for events that an instrument does not take, and sets that are too small for one.
        DataError: where an instrument needs a file that is not there, or the reference is of other features.

    """
    started, device = time.monotonic(), torch.device(device)
    features = [one for one in instruments if isinstance(one, Features)]
    metrics = [one for one in instruments if isinstance(one, Metric)]
    for one in features:
        _ = one.fingerprint  # a file that is missing is missed before samples are drawn
    theirs = reference if isinstance(reference, KnownStatistics) else _seen(reference, features, bool(metrics), device)
    ours = _seen(samples, features, bool(metrics), device, watch)
    measuring = _Measuring(ours.about, theirs.about, drawing, replicates, level, seed)
    numbers, alarms = list[Number](), list[str]()
    for one, rows in zip(features, ours.rows, strict=True):
        x = rows.to(device)
        if isinstance(theirs, KnownStatistics):
            numbers.append(measuring.frechet(one, x, theirs.statistics))
            continue
        y = theirs.rows[features.index(one)].to(device)
        numbers.append(measuring.frechet(one, x, Statistics.of(y, features=one.spec, fingerprint=one.fingerprint)))
        x, y = (both[spread(min(len(both), PAIRS), len(both))] for both in (x, y))
        numbers += measuring.kernel(one, x, y) if kernel else []
        numbers += measuring.manifold(one, x, y) if manifold else []
    if isinstance(theirs, Seen):
        for metric in metrics:
            numbers += measuring.metric(metric, ours.kept, theirs.kept)
            alarms += metric.alarms(ours.kept, theirs.kept)
    return Evaluation(tuple(numbers), tuple(alarms), now(), time.monotonic() - started)


def _seen(
    events: EventSet,
    features: Sequence[Features],
    keep: bool,
    device: torch.device,
    watch: Callable[[int], None] = lambda count: None,
) -> Seen:
    shape = next(iter(events.at([0]))).shape[1:]
    kept = min(events.n, max(METRIC_VALUES // shape.numel(), 2)) if keep else 0
    return go_through(events, features, device, spread(kept, events.n), watch)


@dataclass(frozen=True)
class _Measuring:
    """Makes numbers of what was seen; the arguments are conditions that they share."""

    samples: Events
    reference: Events
    drawing: Drawing | None
    replicates: int
    level: float
    seed: int

    def frechet(self, by: Features, x: Tensor, b: Statistics) -> Number:
        parts = self._parts(len(x))
        value = frechet(Statistics.of(x, features=by.spec, fingerprint=by.fingerprint), b)
        return self._number(by.distance_name, "lower", by, x, None, value, frechet_of_parts(x, b, parts))

    def kernel(self, by: Features, x: Tensor, y: Tensor) -> list[Number]:
        value, *found = kid_of_parts(x, y, [torch.arange(len(x)), *self._parts(len(x))])
        return [self._number("k" + by.distance_name[1:], "lower", by, x, y, value, found)]  # kid beside fid

    def manifold(self, by: Features, x: Tensor, y: Tensor) -> list[Number]:
        whole, *found = precision_recall_of_parts(x, y, [torch.arange(len(x)), *self._parts(len(x))])
        suffix = "" if by.distance_name == "fid" else f"-{by.name}"
        return [
            self._number(f"{name}{suffix}", "higher", by, x, y, getattr(whole, name), [getattr(f, name) for f in found])
            for name in ("precision", "recall")
        ]

    def metric(self, by: Metric, x: Tensor, y: Tensor) -> list[Number]:
        parts = self._parts(len(x))
        whole, *found = (self._measured(by, x[part], y) for part in [torch.arange(len(x)), *parts])
        headline: Better = "higher" if by.larger_is_better else "lower"
        return [
            self._number(f"{by.name}.{key}", "" if k else headline, by, x, y, value, [other[key] for other in found])
            for k, (key, value) in enumerate(whole.items())
        ]

    def _measured(self, by: Metric, x: Tensor, y: Tensor) -> dict[str, float]:
        values = by.measure(x.clone(), y.clone())
        if not values or not all(math.isfinite(value) for value in values.values()):
            raise PluginError(f"metric '{by.name}' measured {values}", fix="leave it out, or repair it")
        return values

    def _parts(self, n: int) -> list[Tensor]:
        return subsets(n, replicates=self.replicates, seed=self.seed)

    def _number(
        self,
        name: str,
        better: Better,
        by: Features | Metric,
        x: Tensor,
        y: Tensor | None,
        value: float,
        found: Sequence[float],
    ) -> Number:
        found_in = Interval.of(value, found, len(x), len(x) // 2, self.level)
        return Number(
            name=name,
            value=float(value),
            low=found_in.low,
            high=found_in.high,
            level=self.level,
            better=better,
            instrument=by.spec,
            instrument_fingerprint=by.fingerprint
            if isinstance(by, Features)
            else json.dumps(by.table(), sort_keys=True),
            samples=replace(self.samples, n=len(x)),
            reference=self.reference if y is None else replace(self.reference, n=len(y)),
            drawing=self.drawing,
            gendiff=version("gendiff"),
        )
