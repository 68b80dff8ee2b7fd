"""What ``gendiff evaluate`` measures: samples, reference and instruments from what the command line says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gendiff.errors import ConfigError, GendiffError
from gendiff_cli.console import note

if TYPE_CHECKING:
    from torch import Tensor

    from gendiff.component import Component
    from gendiff.data import Data
    from gendiff.evaluation.event_set import EventSet, KnownStatistics
    from gendiff.evaluation.statistics import Statistics
    from gendiff.features import Features
    from gendiff.metric import Metric
    from gendiff.plugin.registry import Registry
    from gendiff.run.directory import Run
    from gendiff.shapes import EventShape

C = TypeVar("C", bound="Component")

SOURCE = "SOURCE"  # what is measured, as the help calls it

MOST = 10_000  # samples, and events of endless data, unless more are asked for
MOST_REFERENCE = 50_000
SMALL = 32  # pixels: of smaller pictures the Inception network sees mostly how they were enlarged


def event_set(registry: Registry, text: str, where: str, n: int | None, shape: EventShape = ()) -> EventSet:
    """Events from a folder or archive of samples or an ``.npz`` file of pictures, read as they are, or of data.

    Args:
        text: a path, or a spec of data.
        where: the option that gave it.
        n: how many, spread over them; by default all, and at most 50 000.
        shape: that of the events that they are compared with, if known.

    """
    from gendiff.datasets.sources import is_spec
    from gendiff.evaluation import event_files

    path = Path(text).expanduser()
    if is_spec(registry, text):
        return _data_set(registry, text, where, n, shape)
    with _argument(where):
        if path.suffix == ".npz" and path.is_file():
            return _some(event_files.of_array(path), where, n)
        if event_files.holds_events(path):
            channels = shape[0] if shape and shape[0] in (1, 3) else None
            return _some(event_files.of_files(path, channels), where, n)
    return _data_set(registry, text, where, n, shape)


def _some(events: EventSet, where: str, n: int | None) -> EventSet:
    """``n`` of the events of an argument; all, and at most 50 000, where None is said; their errors name the argument."""
    from gendiff.evaluation.event_set import EventSet

    if n is not None and n > events.n:
        raise _too_few(events.about.spec, events.n, n, where)
    some = events.some(n or MOST_REFERENCE, exact=False)

    def at(numbers: Sequence[int]) -> Iterator[Tensor]:
        with _argument(where):
            yield from some.at(numbers)

    return EventSet(some.about, some.event_shape, at, some.told)


def _too_few(spec: str, there: int, n: int, where: str) -> ConfigError:
    option = "--n" if where == SOURCE else "--reference-n"
    return ConfigError(
        f"{spec} has {there:,} events, not {n:,}",
        where=f"{option} {n}",
        fix=f"write {option} {there} or less, or leave it out",
    )


@contextmanager
def _argument(where: str) -> Iterator[None]:
    """Errors of what an argument names say which argument that is."""
    try:
        yield
    except GendiffError as error:
        if not error.where.startswith(where) and not error.where.startswith("--"):
            error.where = f"{where}: {error.where}" if error.where else where
        raise


def _data_set(registry: Registry, text: str, where: str, n: int | None, shape: EventShape) -> EventSet:
    """Data, at the size of the events that they are compared with where they can be resized and nothing else is said."""
    from gendiff.datasets.sources import data_like

    also = "or a run directory: gendiff runs list shows them" if where == SOURCE else ""
    return _of_data(_located(lambda: data_like(registry, text, shape, also), where), where, n)


def _of_data(data: Data, where: str, n: int | None) -> EventSet:
    from gendiff.evaluation.event_set import EventSet

    with _argument(where):
        if n is not None and data.length is not None and n > data.length:
            raise _too_few(data.spec, data.length, n, where)
        return _some(EventSet.of_data(data, n or min(data.length or MOST, MOST_REFERENCE)), where, n)


def _located(make: Callable[[], C], where: str) -> C:
    """What ``make`` makes; errors name the option that asked for it."""
    try:
        return make()
    except GendiffError as error:
        if not error.where.startswith("--"):
            error.where = f"{where}: {error.where}" if error.where else where
        raise


def reference_set(
    registry: Registry,
    data: str | None,
    reference: str | None,
    n: int | None,
    run: Run | None,
    shape: EventShape,
    held_out: bool | None = None,
) -> EventSet | KnownStatistics | None:
    """What the samples are compared with: what is asked for, or the data of the run; None where there is neither.

    Args:
        held_out: which events of the run, held-out or training ones; by default those that are held out, where there are any.

    """
    from gendiff.evaluation import event_files
    from gendiff.evaluation.event_set import KnownStatistics

    if data is not None and reference is not None:
        raise ConfigError(
            "both --data and --reference are given",
            where=f"--data {data} --reference {reference}",
            details=["samples are compared with one of them"],
            fix="leave one of them out",
        )
    if held_out is not None and (run is None or data is not None or reference is not None):
        raise ConfigError(
            "which events of a run samples are compared with says nothing here",
            where="--held-out" if held_out else "--training",
            details=["there is no run" if run is None else "another reference is given"],
            fix="leave it out",
        )
    if reference is not None:
        path = Path(reference).expanduser()
        with _argument("--reference"):
            if path.suffix == ".npz" and event_files.holds_statistics(path):
                return KnownStatistics.load(path)
        return event_set(registry, reference, "--reference", n, shape)
    if data is not None:
        return _data_set(registry, data, "--data", n, shape)
    return None if run is None else _of_run(run, n, held_out)


def _of_run(run: Run, n: int | None, held_out: bool | None) -> EventSet:
    """What is held out of a run, or what it was trained on."""
    from gendiff.evaluation.measuring import reference_of

    trained_on = run.info["data"]["fingerprint"]
    try:
        data = reference_of(run.split()) if held_out is None else events_of(run, held_out)
    except GendiffError as error:
        error.details = (*error.details, "or compare with something else: --data SPEC, --reference FOLDER|FILE")
        raise
    if run.now != trained_on:
        note(f"the data are not those that the run was trained on: {run.now}, not {trained_on}")
    return _of_data(data, "--reference-n" if n else "the data of the run", n)


def events_of(run: Run, held_out: bool | None) -> Data:
    """The held-out or the training events of a run; where None is said, those that are held out, if there are any."""
    split = run.split()
    if held_out and split.held_out is None:
        raise ConfigError(
            f"nothing is held out of '{run.path}'",
            where="--held-out",
            fix="leave it out; the next run is trained with --hold-out 0.1",
        )
    return split.training if split.held_out is None or held_out is False else split.held_out


def chosen_instruments(
    features: list[str] | None,
    metrics: list[str] | None,
    weights: Path | None,
    shape: EventShape,
    reference: EventSet | KnownStatistics | None,
) -> list[Features | Metric]:
    """The features and metrics that are asked for, or those that suit the events."""
    from gendiff.component import parse_spec
    from gendiff.evaluation.event_set import KnownStatistics
    from gendiff.features import Features
    from gendiff.metric import Metric

    statistics = reference.statistics if isinstance(reference, KnownStatistics) else None
    specs = features or [_features_of(statistics) if statistics else _suitable(shape, weights)]
    if weights is not None and not any(parse_spec(spec)["name"] == "inception" for spec in specs):
        raise ConfigError("--fid-weights are those of the features inception", fix="add --features inception")

    def instrument(spec: str) -> Features:
        table = parse_spec(spec)
        if weights is not None and table["name"] == "inception":
            table["weights"] = str(weights)
        return Features.model_validate(table)

    instruments: list[Features | Metric] = [_located(partial(instrument, spec), "--features") for spec in specs]
    if statistics is not None and metrics:
        raise ConfigError("metrics need the events of the reference", fix="give --data, or leave --metric out")
    for spec in [] if statistics else metrics or ["moments", "spectrum"]:
        instruments.append(_located(partial(Metric.model_validate, spec), "--metric"))
    return instruments


def _features_of(statistics: Statistics) -> str:
    """The features that statistics say they are of, but for the path of weights on another machine."""
    name = statistics.features.partition(":")[0]
    return statistics.features if name and name != "inception" else "inception"


def _suitable(shape: EventShape, weights: Path | None) -> str:
    """The features for events of this shape, whatever files happen to be there."""
    if weights is not None or (len(shape) == 3 and shape[0] in (1, 3) and min(shape[1:]) >= SMALL):
        return "inception"
    events = "x".join(map(str, shape[1:]))
    note(
        f"features random-conv, as events of {events} are too small for the Inception network; --features chooses others"
    )
    return "random-conv"
