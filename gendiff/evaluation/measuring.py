r"""Measuring: samples and a reference in, numbers with their conditions and intervals out.

Features give one row per event (`gendiff.features`), distances compare the rows (`gendiff.evaluation.distances`), metrics compare
the events themselves (`gendiff.metric`). Each number comes with an interval by subsampling the samples without replacement; the
reference is held fixed.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.datasets.pictures import eight_bits
from gendiff.datasets.split import Split
from gendiff.errors import ConfigError, DataError, GendiffError, PluginError
from gendiff.evaluation import remarks
from gendiff.evaluation.distances import (
    Interval,
    effective_events,
    frechet,
    frechet_of_parts,
    kid_of_parts,
    precision_recall_of_parts,
    share,
    subsets,
)
from gendiff.evaluation.event_set import (
    CHUNK,
    EventSet,
    KnownStatistics,
    Seen,
    Watch,
    extract,
    go_through,
    parts,
    spread,
)
from gendiff.evaluation.neighbours import Neighbours
from gendiff.evaluation.number import Better, Drawing, Evaluation, Events, Number, Remark
from gendiff.evaluation.statistics import Statistics
from gendiff.features import Features
from gendiff.machine.jobs import ALONE, Crew, memory_of
from gendiff.machine.world import World
from gendiff.metric import Metric
from gendiff.plugin.discovery import version
from gendiff.quantities import counted
from gendiff.run.asked import Asked
from gendiff.run.generation import generate
from gendiff.run.record import now
from gendiff.run.trained import TrainedModel
from gendiff.sampler import Sampler, Snapshot
from gendiff.shapes import EventShape
from gendiff.storage.cache import Cache

PAIRS = 10_000  # rows of each set of which all pairs are formed, at most
FEWEST = 8  # events of which anything is said: half of them must have three neighbours each
REAL = "real against real"  # what is computed last of each features
METRIC_VALUES = 2**24  # values of each set that a metric sees, at most: it holds them in memory


def drawn(
    model: TrainedModel,
    sampler: Sampler,
    n: int,
    seed: int,
    batch: int = 64,
    world: World | None = None,
    watch: Callable[[Snapshot], None] | None = None,
    asked: Asked | None = None,
) -> tuple[EventSet, Drawing]:
    """The first ``n`` samples of ``seed`` from a run, and how they are drawn.

    Pictures have 8 bits, as those that `gendiff sample` writes: what is measured is what is seen. The processes of a world share
    the work: each must go through the same samples, and the first gets them. ``watch`` sees the chains of this process. ``asked``
    is what is to be drawn; left out, every class in turn.
    """
    asked = asked or Asked.of(model.config)
    run, diffusion = model.run, model.denoiser.diffusion
    rank, size = (world.rank, world.size) if world else (0, 1)
    evaluations = sampler.evaluations(diffusion)
    weights = (model.step, model.weights, model.weights_hash)
    drawing = Drawing(
        run.info["id"],
        *weights,
        sampler.spec,
        evaluations,
        seed,
        model.denoiser.precision,
        " ".join(f"{name}={value}" for name, value in asked.words.items()),
        " ".join(guide.spec for guide in asked.guides),
    )
    data = run.config.data

    def at(numbers: Sequence[int]) -> Iterator[Tensor]:
        for block in parts(numbers, batch * size):
            mine = block[rank * batch : (rank + 1) * batch]
            chains = generate(model.denoiser, run, sampler, seed, mine, batch, watch, asked=asked)
            some = [data.pictures(events).cpu() for events in chains]
            events = torch.cat(some) if some else torch.empty(0, *data.picture_shape)
            events = eight_bits(events) if data.in_pictures else events
            yield from world.gather(events) if world else [events]

    return EventSet(Events(drawing.run, "", n), data.picture_shape, at, asked.of_image), drawing


def evaluate(
    samples: EventSet | Seen,
    reference: EventSet | Seen | KnownStatistics,
    instruments: Sequence[Features | Metric],
    *,
    kernel: bool = True,
    manifold: bool = True,
    replicates: int = 20,
    level: float = 0.95,
    seed: int = 0,
    device: torch.device | str = "cpu",
    cache: Cache | None = None,
    drawing: Drawing | None = None,
    trained_on: str = "",
    watch: Callable[[str, int], object] = lambda stage, count: None,
) -> Evaluation:
    """Measure samples against a reference.

    Args:
        samples, reference: events; or what `see` saw of them with the same instruments. Against statistics of features there is
            only the Fréchet distance in these features.
        instruments: features, each of which gives a Fréchet distance, a kernel distance, and precision and recall; and metrics.
        kernel, manifold: whether to compute kernel distances, and precision and recall.
        replicates, level, seed: of the intervals: subsets for each, probability, and what the subsets follow from.
        device: where features and distances are computed.
        cache: where rows of the reference are kept for the next time; None keeps none.
        drawing: how the samples were drawn.
        trained_on: the fingerprint of the events that their model was trained on again and again; empty where nobody knows.
        watch: hears of progress: ``"reference"`` or ``"samples"`` and how many more events were gone through, then the names of
            what is computed from them, and 0.

    Raises:
        ConfigError: for fewer than 8 samples, events of different shapes, and those that an instrument does not take.
        DataError: where an instrument needs a file that is not there, the reference is of other features, and for events that
            hold values which are not finite.
        GendiffError: where features or a number come out not finite.

    """
    device, (features, metrics) = torch.device(device), _sorted(instruments)
    check(samples, reference, instruments)
    if isinstance(reference, EventSet):
        reference = see(reference, instruments, device, cache, partial(watch, "reference"))
    if isinstance(samples, EventSet):
        samples = see(samples, instruments, device, watch=partial(watch, "samples"))
    measuring = _Measuring(samples.about, reference.about, drawing, replicates, level, seed)
    numbers, alarms, notes = list[Number](), list[str](), list[Remark]()
    if isinstance(reference, Seen) and _same(samples, reference):
        notes.append(remarks.same_events(samples.about, reference.about))
    if trained_on and reference.about.fingerprint.startswith(trained_on):
        notes.append(remarks.training_data(reference.about))
    if drawing is not None and drawing.precision != "fp32":
        notes.append(remarks.lower_precision(drawing.precision))
    for place, one in enumerate(features):
        x = samples.rows[place].to(device)
        watch(one.distance_name, 0)
        if isinstance(reference, KnownStatistics):
            numbers.append(measuring.frechet(one, x, reference.statistics))
            notes.append(remarks.of_statistics(numbers[-1], reference.statistics))
            continue
        y = reference.rows[place].to(device)
        numbers.append(measuring.frechet(one, x, Statistics.of(y, features=one.spec, fingerprint=one.fingerprint)))
        distance, whole = numbers[-1], y
        x, y = (rows[spread(min(len(rows), PAIRS), len(rows))] for rows in (x, y))
        numbers += measuring.kernel(one, x, y) if kernel else []
        shares = measuring.manifold(one, x, y) if manifold else []
        numbers += shares
        watch(REAL, 0)
        real = None
        if len(y) >= remarks.FEWEST:
            real = remarks.Real.of(whole, len(samples.rows[place]), y if manifold else None, cache)
        notes.append(remarks.of_reference(distance, real) if real else remarks.of_too_few(distance))
        notes += remarks.says_nothing(shares, real)
    if isinstance(reference, Seen):
        for metric in metrics:
            watch(metric.name, 0)
            numbers += measuring.metric(metric, samples.exemplars, reference.exemplars)
            alarms += metric.alarms(samples.exemplars, reference.exemplars)
    threads = torch.get_num_threads() if device.type == "cpu" else 0
    return Evaluation(tuple(numbers), tuple(alarms), now(), tuple(notes), threads=threads)


def with_neighbours(evaluation: Evaluation, near: Sequence[Neighbours], samples: Events) -> Evaluation:
    """The evaluation, with how near the samples are to training events."""
    drawing = evaluation.numbers[0].drawing
    return replace(
        evaluation,
        numbers=(*evaluation.numbers, *(one.number(samples, drawing) for one in near)),
        alarms=(*evaluation.alarms, *(one.alarm for one in near if one.alarm)),
        remarks=(*evaluation.remarks, *(one.remark for one in near)),
        neighbours=tuple(one.json() for one in near),
    )


def _same(samples: Seen, reference: Seen) -> bool:
    """Whether both are the same events, looked at by their features."""
    return bool(samples.rows) and all(torch.equal(x, y) for x, y in zip(samples.rows, reference.rows, strict=False))


def see(
    events: EventSet,
    instruments: Sequence[Features | Metric],
    device: torch.device | str = "cpu",
    cache: Cache | None = None,
    watch: Watch = lambda count: None,
    crew: Crew = ALONE,
) -> Seen:
    """What the instruments need of the events, by the processes of a crew: arguments and errors as those of `evaluate`."""
    features, metrics = _sorted(instruments)
    most = max(METRIC_VALUES // math.prod(events.event_shape), FEWEST)
    keep = spread(min(events.n, most), events.n) if metrics else []
    return go_through(events, features, torch.device(device), keep, cache, watch, crew)


def memory(model: TrainedModel | None, shape: EventShape, instruments: Sequence[Features | Metric]) -> int:
    """The bytes that a process takes at most to draw and look at a chunk of events, beyond those that are shared."""

    def work() -> None:
        zeros = torch.zeros(CHUNK["cpu"], *shape)
        if model is not None:
            events = torch.zeros(CHUNK["cpu"], *model.diffusion.event_shape)
            model.config.data.pictures(model.predict(events, model.diffusion.N).x_0[:1])
        for one in _sorted(instruments)[0]:
            extract(one, zeros, torch.device("cpu"))

    return memory_of(work)


def reference_of(split: Split) -> Data:
    """What samples of a run are compared with: what is held out, or what is trained on where that is none or too few.

    A warning says that there are too few.
    """
    held_out = split.held_out
    if held_out is None:
        return split.training
    if held_out.length is not None and held_out.length < FEWEST:
        warnings.warn(
            f"{counted(held_out.length, 'held-out event')} {'is' if held_out.length == 1 else 'are'} too few to compare samples "
            f"with, which takes {FEWEST}: the reference is what was trained on",
            stacklevel=2,
        )
        return split.training
    return held_out


def check(
    samples: EventSet | Seen, reference: EventSet | Seen | KnownStatistics, instruments: Sequence[Features | Metric]
) -> None:
    """Find what is wrong before samples are drawn, which may take hours: errors are those of `evaluate`."""
    for one in _sorted(instruments)[0]:
        fingerprint = one.fingerprint  # needs the file of its weights
        if isinstance(reference, KnownStatistics) and reference.statistics.fingerprint not in ("", fingerprint):
            raise DataError(
                f"the statistics are of other features than {one.spec}",
                where=reference.about.spec,
                details=[f"they are of {reference.statistics.fingerprint}, not of {fingerprint}"],
                fix=f"evaluate with --features {reference.statistics.features or 'SPEC'}",
            )
    for about, what in ((samples.about, "samples"), (reference.about, "events of reference")):
        if about.n is not None and about.n < FEWEST:
            raise ConfigError(f"{about.n} {what} are too few for numbers", fix=f"give at least {FEWEST}")
    if not isinstance(reference, KnownStatistics) and samples.event_shape != reference.event_shape:
        raise ConfigError(
            f"samples of shape {samples.event_shape} cannot be compared with a reference of {reference.event_shape}",
            details=[f"samples: {samples.about.spec}", f"reference: {reference.about.spec}"],
            fix="give a reference of the same shape, such as --data with size=HEIGHTxWIDTH",
        )


def _sorted(instruments: Sequence[Features | Metric]) -> tuple[list[Features], list[Metric]]:
    features = [one for one in instruments if isinstance(one, Features)]
    return features, [one for one in instruments if isinstance(one, Metric)]


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
        return self._number(by.distance_name, "lower", by, x, None, value, frechet_of_parts(x, b, parts), (0, math.inf))

    def kernel(self, by: Features, x: Tensor, y: Tensor) -> list[Number]:
        value, *values = kid_of_parts(x, y, [torch.arange(len(x)), *self._parts(len(x))])
        return [self._number("k" + by.distance_name[1:], "lower", by, x, y, value, values)]  # kid beside fid

    def manifold(self, by: Features, x: Tensor, y: Tensor) -> list[Number]:
        whole, *others = precision_recall_of_parts(x, y, [torch.arange(len(x)), *self._parts(len(x))])
        suffix = "" if by.distance_name == "fid" else f"-{by.name}"
        # Whether a sample lies among the data depends on it alone; whether a datum lies among the samples, on all of them.
        n = len(x)
        worth = effective_events(whole.recall, [f.recall for f in others], n, n // 2, min(n, len(y)), self.level)
        numbers = []
        for name, events in (("precision", n), ("recall", worth)):
            value, parts = getattr(whole, name), [getattr(f, name) for f in others]
            low, high = share(value, events, self.level)
            numbers.append(
                replace(self._number(f"{name}{suffix}", "higher", by, x, y, value, parts), low=low, high=high)
            )
        return numbers

    def metric(self, by: Metric, x: Tensor, y: Tensor) -> list[Number]:
        parts = self._parts(len(x))
        whole, *others = (self._measured(by, x[part], y) for part in [torch.arange(len(x)), *parts])
        if any(other.keys() != whole.keys() for other in others):
            raise PluginError(
                f"metric '{by.name}' gives other names for other samples", fix="leave it out, or repair it"
            )
        headline: Better = "higher" if by.larger_is_better else "lower"
        return [
            self._number(f"{by.name}.{key}", "" if k else headline, by, x, y, value, [other[key] for other in others])
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
        values: Sequence[float],
        bounds: tuple[float, float] = (-math.inf, math.inf),
    ) -> Number:
        interval = Interval.of(value, values, len(x), len(x) // 2, self.level, bounds)
        if not all(map(math.isfinite, (value, interval.low, interval.high))):
            raise GendiffError(
                f"{name} came out as {float(value):g}, between {interval.low:g} and {interval.high:g}: that is no number",
                where=by.spec,
                details=[f"{len(x)} samples of {self.samples.spec} against {self.reference.spec}"],
                fix="look for very large values in them, or leave this out with --features or --metric",
            )
        return Number(
            name=name,
            value=float(value),
            low=interval.low,
            high=interval.high,
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
