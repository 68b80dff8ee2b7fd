"""Search: what a study tries, how, and by which number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gendiff.comparison.arm import Arm
from gendiff.comparison.measure import Ruler
from gendiff.comparison.plan import Contender, reference_events
from gendiff.comparison.space import Dimension, space, words
from gendiff.errors import ConfigError, DataError, did_you_mean
from gendiff.evaluation.number import Number
from gendiff.features import Features
from gendiff.metric import Metric
from gendiff.run.layers import Layer

#: How the next trial is chosen, and which trials are given up on the way; names of Optuna's samplers and pruners.
SEARCHES = ("tpe", "gp", "random")
PRUNERS = ("median", "halving", "none")
MEASURED_AGAINST = (
    "data",
    "size",
    "latent",
    "hold-out",
    "hold_out",
)  # what samples are compared with follows from these
TRAINING = {"train": {"sample_every": 0}}  # below all else: the pictures of a trial are not looked at on the way


@dataclass(frozen=True)
class StudyPlan:
    """What is searched, and how.

    Args:
        layers: the settings that all trials share.
        dimensions: over which of the others it is searched.
        by: the name of the number that decides.
        better: which way it is better, as of a `Number`; near 0 where it is empty.
        seeds: with which each trial is trained; the mean of its numbers decides.
        checks: how often a trial is measured, after equal parts of its steps, the last time at its end.
        search, prune: of `SEARCHES` and `PRUNERS`.
        search_seed: what is tried follows from it; a pruner draws nothing.
        features, metrics, n: as of a `gendiff.comparison.plan.Plan`.

    """

    layers: tuple[Layer, ...]
    dimensions: tuple[Dimension, ...]
    features: tuple[Features, ...]
    n: int
    metrics: tuple[Metric, ...] = ()
    seeds: tuple[int, ...] = (0,)
    checks: int = 4
    search: str = "tpe"
    prune: str = "median"
    search_seed: int = 0
    precision: str = "fp32"
    compiled: bool = False
    by: str = ""
    better: str = ""

    def __post_init__(self) -> None:
        for value, known, where in ((self.search, SEARCHES, "--search"), (self.prune, PRUNERS, "--prune")):
            if value not in known:
                raise ConfigError(
                    f"unknown {where.removeprefix('--')} '{value}'",
                    where=where,
                    details=[f"known: {', '.join(known)}", did_you_mean(value, known)],
                )
        for one in self.dimensions:
            head = one.key.partition(".")[0]
            if head in MEASURED_AGAINST and one.key != "data.flip":
                raise ConfigError(
                    f"'{one.key}' changes what samples are compared with",
                    where=f"--over '{one.text}'",
                    details=["numbers against other events say nothing of which trial is better"],
                    fix="make a study of each",
                )
            if one.key in ("seed", "train.seed"):
                raise ConfigError(
                    "a seed is no setting to search over",
                    where=f"--over '{one.text}'",
                    fix="give --seeds, which are averaged",
                )

    @classmethod
    def of_table(cls, table: Mapping[str, Any], origin: str) -> StudyPlan:
        """The plan that `table` describes; raises `DataError` where it describes none."""
        try:
            chosen = {
                key: table[key]
                for key in ("n", "checks", "search", "prune", "search_seed", "precision", "compiled", "by", "better")
            }
            return cls(
                layers=tuple(Layer(str(one["origin"]), dict(one["table"])) for one in table["settings"]),
                dimensions=space([str(text) for text in table["over"]]),
                features=tuple(Features.model_validate(one) for one in table["features"]),
                metrics=tuple(Metric.model_validate(one) for one in table["metrics"]),
                seeds=tuple(int(seed) for seed in table["seeds"]),
                **chosen,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            fix = "restore it from a copy, or make a new study"
            raise DataError(f"'{origin}' holds no plan of a study: {error!r:.100}", fix=fix) from error

    def table(self) -> dict[str, Any]:
        """Plain values, from which `of_table` makes the plan again."""
        return {
            "settings": [{"origin": layer.origin, "table": _plain(layer.table)} for layer in self.layers],
            "over": [one.text for one in self.dimensions],
            "by": self.by,
            "better": self.better,
            "seeds": list(self.seeds),
            "checks": self.checks,
            "search": self.search,
            "prune": self.prune,
            "search_seed": self.search_seed,
            "features": [one.table() for one in self.features],
            "metrics": [one.table() for one in self.metrics],
            "n": self.n,
            "precision": self.precision,
            "compiled": self.compiled,
        }

    def contender(self, values: Mapping[str, Any]) -> Contender:
        """What a trial is, by what it sets; raises `ConfigError` where that cannot be."""
        text = words(values)
        return Contender.of(Arm.parse(text), text, [Layer("a study", TRAINING), *self.layers])

    @cached_property
    def base(self) -> Contender:
        """A trial with the first of all values."""
        return self.contender({one.key: one.ends[0] for one in self.dimensions})

    @cached_property
    def ruler(self) -> Ruler:
        """With what trials are measured."""
        split = self.base.config.split
        asking = {"precision": self.precision, "compiled": self.compiled}
        return Ruler(self.n, (*self.features, *self.metrics), reference_events(split, self.n), asking)

    def check(self) -> None:
        """Raise `ConfigError` where a trial cannot be: each end and each value is looked at, the others at their first."""
        first = {one.key: one.ends[0] for one in self.dimensions}
        for place, one in enumerate(self.dimensions):
            for end in one.ends[1 if place else 0 :]:
                try:
                    self.contender({**first, one.key: end})
                except ConfigError as error:
                    error.where = f"--over '{self._culprit(one, error).text}'"
                    raise

    def _culprit(self, changed: Dimension, error: ConfigError) -> Dimension:
        """The dimension that an error is about, as far as it says: one whose key ends as its subject does."""
        named = [one for one in self.dimensions if error.subject and error.subject.endswith(one.key)]
        return named[0] if named else changed


def judged(plan: StudyPlan, numbers: Sequence[Number], by: str | None) -> tuple[str, str]:
    """The name of the number that decides, and which way it is better.

    Args:
        numbers: that there will be, of `Ruler.rehearse`.
        by: what was asked for; None takes the first.

    Raises:
        ConfigError: for a number that there will not be.

    """
    known = {one.name: one.better for one in numbers}
    if by is None:
        return numbers[0].name, numbers[0].better
    if by not in known:
        raise ConfigError(
            f"no number is called '{by}'",
            where=f"--by {by}",
            details=[f"known: {', '.join(known)}", did_you_mean(by, known)],
            fix="give another, or the --features or --metric that it is of",
        )
    return by, known[by]


def _plain(value: Any) -> Any:
    """The same in JSON's values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
