"""Plan: everything that a comparison depends on, and that is stored with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gendiff.comparison.arm import Arm
from gendiff.data import Data
from gendiff.datasets.split import Split
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.evaluation.event_set import EventSet
from gendiff.evaluation.measuring import reference_of
from gendiff.features import Features
from gendiff.lab.diagnosis import Finding, never_ends
from gendiff.lab.forward import BandSNR
from gendiff.machine import arithmetic
from gendiff.metric import Metric
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.history import completed
from gendiff.run.layers import Layer, resolve
from gendiff.sampler import Sampler

FORMAT = 1  # of plan.json and compare.json
LEVEL = 0.95  # of all intervals
MOST_REFERENCE = 50_000  # events of the data that samples are compared with, at most


@dataclass(frozen=True)
class Contender:
    """One arm, resolved.

    Args:
        label: what it is called.
        text: how it was asked for.
        config: its configuration, with any seed; that of its first run where it consists of runs.
        settings: every setting by its dotted path, the seed aside, as the run or the configuration has it.
        runs: the runs it consists of, by seed; none for an arm that is trained.

    """

    label: str
    text: str
    config: Config
    settings: Mapping[str, Any]
    runs: Mapping[int, Path] = field(default_factory=dict)
    _samplers: dict[int, Sampler] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, arm: Arm, text: str, common: Sequence[Layer], sampler: Layer | None = None) -> Contender:
        """Resolve an arm over the layers that all share; of these, a run takes the ``sampler`` alone.

        Raises:
            ConfigError: for settings that are wrong, a seed, and runs that are not one configuration with several seeds.

        """
        if any("seed" in layer.table.get("train", {}) for layer in arm.layers):
            raise ConfigError(
                f"arm '{text}' has a seed of its own", details=["seeds are those of the comparison"], fix="give --seeds"
            )
        if arm.step is not None:
            raise ConfigError(
                f"arm '{text}' names a step", details=["runs are compared as they are"], fix=f"name '{arm.run}' alone"
            )
        if arm.runs:
            layers = arm.layers or ((sampler,) if sampler else ())
            config = Arm(arm.label, layers, arm.runs).over([]).config
            runs = [Run.open(path) for path in arm.runs]
            return cls(arm.label, text, config, _of_one_arm(runs, config.sampler), _by_seed(runs))
        settings = arm.over(common)
        with settings.locating():
            try:
                config = settings.config.filled()
            except DataError:  # what is wrong with them is said where they are wanted
                config = settings.config
        return cls(arm.label, text, config, _settings(config.table(), config.sampler))

    @classmethod
    def of_table(cls, table: Mapping[str, Any], origin: str) -> Contender:
        """The contender that `table` describes; raises `ConfigError` where it cannot be made any more."""
        label, text = str(table["label"]), str(table["text"])
        if "runs" in table:
            paths = tuple(Path(path) for path in table["runs"])
            return cls.of(Arm(label, (Layer(origin, {"sampler": table["sampler"]}),), paths), text, ())
        return cls.of(Arm(label, (Layer(origin, completed(table["config"])),)), text, ())

    def table(self) -> dict[str, Any]:
        """Plain values; paths are absolute."""
        if self.runs:
            paths = [str(path.resolve()) for path in self.runs.values()]
            return {"label": self.label, "text": self.text, "runs": paths, "sampler": self.config.sampler.table()}
        table = self.config.table()
        table["train"] = {key: value for key, value in table["train"].items() if key != "seed"}
        return {"label": self.label, "text": self.text, "config": table}

    @cached_property
    def diffusion(self) -> Diffusion:
        """Its process."""
        return self.config.diffusion()

    @cached_property
    def asked(self) -> tuple[str, ...]:
        """The settings that its text names, by dotted path; what a preset or a run brings is not named."""
        try:
            layers = Arm.parse(self.text).layers
        except GendiffError:  # what it names is gone
            return ()
        paths = [path for layer in layers for path in flat(layer.table)]
        parts = ["rotation", "velocity"] if any(path.partition(".")[0] == "process" for path in paths) else []
        return (*paths, *parts)

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What is odd about where its chains start: a standard prior, where the process never becomes that noise."""
        if self.config.sampler.prior != "standard":
            return ()
        finding = never_ends(BandSNR(self.diffusion, 1), self.config.velocity)
        return (finding,) if finding else ()

    def evaluations(self, sampler: Sampler) -> int:
        """How often a sampler of it evaluates the network for a sample.

        Raises:
            ConfigError: where that is no number: the arms could not be held equal in it.

        """
        count = sampler.evaluations(self.diffusion)
        if count is None:
            raise ConfigError(
                f"sampler '{sampler.name}' chooses its steps as it goes, and has no number of evaluations",
                where=f"arm '{self.label}'",
                details=["arms are held equal in the number of evaluations"],
                fix="choose a sampler of fixed steps: heun, trig",
                subject="sampler.name",
            )
        return count

    def sampler_of(self, evaluations: int) -> Sampler:
        """Its sampler with as many steps as it takes to evaluate the network so often, or else the most below that.

        A grid drops steps that come twice, and a method may evaluate the network twice a step: the number of steps that a
        sampler is asked for is not always that of its evaluations.
        """
        if evaluations not in self._samplers:
            self._samplers[evaluations] = self._search(evaluations)
        return self._samplers[evaluations]

    def _search(self, nfe: int) -> Sampler:
        base = Layer("the arm", {"N": self.config.N, "sampler": self.config.sampler.table()})

        def of(steps: int) -> Sampler:
            return resolve([base, Layer.at("--nfe", "sampler.steps", steps)]).config.sampler

        best, best_count = of(nfe), self.evaluations(of(nfe))
        low, high = (nfe, self.config.N + 1) if best_count < nfe else (0, nfe)
        while best_count != nfe and high - low > 1:  # evaluations rise with steps
            middle = (low + high) // 2
            count = self.evaluations(of(middle))
            if count <= nfe and (best_count > nfe or count > best_count):
                best, best_count = of(middle), count
            low, high = (middle, high) if count < nfe else (low, middle)
        return best

    def with_seed(self, seed: int) -> Config:
        """The configuration that is trained with this seed."""
        train = self.config.train.model_copy(update={"seed": seed})
        return self.config.model_copy(update={"train": train})


@dataclass(frozen=True)
class Plan:
    """What is compared, and how.

    Args:
        contenders: at least two; the first is the baseline.
        seeds: of the arms that are trained.
        evaluations: network evaluations per sample to try; none: as the samplers have it. Verdict and table are about the
            largest.
        features, metrics: what samples and data are compared by; the Fréchet distance of the first features is ranked.
        n: samples of each run.
        allowed: names of conditions that may be unequal (`gendiff.comparison.fairness`).
        precision, compiled: how the networks of all arms are asked when they are sampled: in ``fp32`` or ``bf16``, and whether
            compiled. How they were trained is a setting of each arm.

    """

    contenders: tuple[Contender, ...]
    seeds: tuple[int, ...]
    features: tuple[Features, ...]
    n: int
    metrics: tuple[Metric, ...] = ()
    evaluations: tuple[int, ...] = ()
    allowed: tuple[str, ...] = ()
    precision: str = "fp32"
    compiled: bool = False

    def __post_init__(self) -> None:
        if len(self.contenders) < 2:
            raise ConfigError(
                "a comparison has two arms at least", where="--arm", fix='give another: --arm "dct schedule=quartic"'
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ConfigError(f"no seeds are {list(self.seeds)}", where="--seeds", fix="write --seeds 3, or 0,4,7")
        if any(steps < 1 for steps in self.evaluations):
            raise ConfigError("a sampler takes one step at least", where="--nfe", fix="write --nfe 10,20,50")
        if self.n < 16:
            raise ConfigError(f"{self.n} samples are too few", where="--n", fix="draw at least 16, better 1000")
        if self.precision not in arithmetic.DTYPES:
            known = ", ".join(arithmetic.DTYPES)
            raise ConfigError(
                f"no precision is '{self.precision:.40}'", where="--precision", details=[f"known: {known}"]
            )

    @classmethod
    def of_table(cls, table: Mapping[str, Any], origin: str) -> Plan:
        """The plan that `table` describes.

        Raises:
            ConfigError: where it cannot be made any more.
            DataError: where it describes none.

        """
        try:
            if not all(type(count) is int for count in (table["n"], *table["seeds"], *table["evaluations"])):
                raise TypeError("n, seeds and evaluations are whole numbers")
            return cls(
                contenders=tuple(Contender.of_table(one, origin) for one in table["arms"]),
                seeds=tuple(table["seeds"]),
                features=tuple(Features.model_validate(one) for one in table["features"]),
                n=table["n"],
                metrics=tuple(Metric.model_validate(one) for one in table["metrics"]),
                evaluations=tuple(table["evaluations"]),
                allowed=tuple(table["allowed"]),
                precision=str(table.get("precision", "fp32")),  # before it could be asked for
                compiled=bool(table.get("compiled", False)),
            )
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            fix = "restore it from a copy, or make a new comparison"
            raise DataError(f"'{origin}' holds no plan of a comparison: {error!r:.100}", fix=fix) from error

    def table(self) -> dict[str, Any]:
        """Plain values, from which `of_table` makes the plan again."""
        return {
            "arms": [contender.table() for contender in self.contenders],
            "seeds": list(self.seeds),
            "features": [one.table() for one in self.features],
            "n": self.n,
            "metrics": [metric.table() for metric in self.metrics],
            "evaluations": list(self.evaluations),
            "allowed": list(self.allowed),
            **self.asking,
        }

    @property
    def asking(self) -> dict[str, Any]:
        """How networks are asked, as `TrainedModel.load` takes it."""
        return {"precision": self.precision, "compiled": self.compiled}

    @property
    def instruments(self) -> tuple[Features | Metric, ...]:
        """What samples and data are compared by, that which is ranked first."""
        return (*self.features, *self.metrics)

    @cached_property
    def split(self) -> Split:
        """What the baseline is trained on, and what is held out of it."""
        paths = list(self.baseline.runs.values())
        return Run.open(paths[0], training=True).config.split if paths else self.baseline.config.split

    @property
    def data(self) -> Data:
        """What the baseline is trained on."""
        return self.split.training

    @cached_property
    def reference(self) -> EventSet:
        """What samples are compared with: what is held out of the baseline, or else all that it is trained on.

        They are 50 000 at most, and as many as samples where they have no end.
        """
        return reference_events(self.split, self.n)

    @property
    def baseline(self) -> Contender:
        """What the others are compared with."""
        return self.contenders[0]

    def cells(self) -> list[Cell]:
        """Every run of the comparison, seed by seed, so that whole pairs are there early."""
        cells = [
            Cell(k, contender, seed)
            for k, contender in enumerate(self.contenders)
            for seed in contender.runs or self.seeds
        ]
        order = {seed: place for place, seed in enumerate(dict.fromkeys(cell.seed for cell in cells))}
        return sorted(cells, key=lambda cell: (order[cell.seed], cell.place))

    def samplers(self, contender: Contender) -> list[Sampler]:
        """How a contender is sampled, the last one for verdict and table."""
        counts = sorted(set(self.evaluations))
        return [contender.sampler_of(count) for count in counts] or [contender.config.sampler]


@dataclass(frozen=True)
class Cell:
    """One run of a comparison: an arm with a seed.

    Args:
        place: of the arm among the contenders, from 0.

    """

    place: int
    contender: Contender
    seed: int

    @property
    def name(self) -> str:
        """Of its directories."""
        return f"{self.place + 1}-{slug(self.contender.label)}-s{self.seed}"

    @property
    def title(self) -> str:
        """For the eye."""
        return f"{self.contender.label}, seed {self.seed}"


def reference_events(split: Split, n: int) -> EventSet:
    """What samples are compared with: what is held out, or else all that is trained on, 50 000 at most; ``n`` of endless data."""
    events = reference_of(split)
    return EventSet.of_data(events, n if events.length is None else min(events.length, MOST_REFERENCE))


def slug(text: str) -> str:
    """A text as part of a file name."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")[:60] or "arm"


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a nested table by dotted path."""
    leaves: dict[str, Any] = {}
    for key, value in table.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def _settings(table: Mapping[str, Any], sampler: Sampler) -> dict[str, Any]:
    settings = flat({**table, "sampler": sampler.table()})
    settings.pop("train.seed", None)
    return settings


def _of_one_arm(runs: Sequence[Run], sampler: Sampler) -> dict[str, Any]:
    """The settings that runs share; raises `ConfigError` where they differ in more than their seed."""
    tables = [_settings(run.table, sampler) for run in runs]
    for run, table in zip(runs, tables, strict=True):
        keys = [key for key in {**table, **tables[0]} if table.get(key) != tables[0].get(key)]
        if keys:
            raise ConfigError(
                f"'{run.path}' and '{runs[0].path}' are not one arm: they differ in {keys[0]}",
                where="--arm",
                fix="an arm of several runs is one configuration with several seeds: make them two arms",
            )
    return tables[0]


def _by_seed(runs: Sequence[Run]) -> dict[int, Path]:
    paths = {run.config.train.seed: run.path for run in runs}
    if len(paths) < len(runs):
        raise ConfigError(
            f"two runs of one arm have the same seed: {', '.join(str(run.path) for run in runs)}",
            where="--arm",
            fix="give runs of different seeds",
        )
    return paths
