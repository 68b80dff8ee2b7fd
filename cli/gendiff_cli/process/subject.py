"""The processes that a command of ``gendiff process`` looks at, and the options that name them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gendiff.command import quoted, words
from gendiff.errors import ConfigError, GendiffError
from gendiff_cli.console import note
from gendiff_cli.options import Given
from gendiff_cli.remarks import remark_overruled

if TYPE_CHECKING:
    from gendiff.data import Data
    from gendiff.diffusion import Diffusion
    from gendiff.plugin.registry import Registry
    from gendiff.run.config import Config
    from gendiff.run.layers import Resolved
    from gendiff.sampler import Prior, Sampler

#: What a process is looked at on where no data are given: larger than the embedded digits, so that there is something to see.
DEFAULT_DATA = {"data": {"name": "dead-leaves", "size": 64}}

#: Where they come from then.
DEFAULT = "the default of this command"

ArmOption = Annotated[
    list[str] | None,
    typer.Option(
        "--arm",
        help="A process in one line, such as 'dct schedule=log:f_max=0.6' or a run; may be given again. What it does not say "
        "is that of the other options.",
        metavar="TEXT",
    ),
]


@dataclass(frozen=True)
class Subject:
    """One process, with the configuration it follows from.

    Args:
        data: what is destroyed; None for a run whose data are not here.
        run: whether it is that of a run.

    """

    label: str
    settings: Resolved
    data: Data | None
    run: bool = False

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.settings.config

    @cached_property
    def diffusion(self) -> Diffusion:
        """The process in numbers, with the moments of its data, which are read for that."""
        with self.settings.locating():
            return self.config.diffusion()

    @property
    def sampler(self) -> Sampler | None:
        """The sampler that its run, preset, file or arm names; None where it is that of nobody's choice."""
        return self.config.sampler if self.run or "sampler.name" in self.settings.origins else None

    @property
    def prior(self) -> Prior | None:
        """Where chains start, as they name it or the sampler that they name does."""
        explicit = self.sampler is not None or "sampler.prior" in self.settings.origins
        return self.config.sampler.prior if explicit else None

    @property
    def components(self) -> int:
        """How many an event has."""
        return math.prod(self.config.data.event_shape)

    @cached_property
    def in_frequencies(self) -> Diffusion:
        """The process in a basis where frequency means something."""
        from gendiff.lab.forward import in_frequencies

        return in_frequencies(self.diffusion, self.data)

    @property
    def as_planned(self) -> Diffusion:
        """The same, as its samplers and networks are told of it."""
        from gendiff.lab.forward import as_planned

        return as_planned(self.diffusion, self.data)


def subjects(registry: Registry, arms: list[str] | None, given: Given) -> list[Subject]:
    """The process that is given, or those of the arms over it.

    Arms that name no data are shown with those of the first run among them, if there is one and nothing else names any.
    """
    from gendiff.comparison.arm import Arm, parse_arms
    from gendiff.run.layers import Layer

    all_arms = parse_arms(arms) if arms else [Arm("")]
    runs = {arm.run: _data_of(arm.run) for arm in all_arms if arm.run is not None}
    sources = [(run, data) for run, data in runs.items() if data is not None]
    above = given.layers(registry)
    processes, labels = [], list[str]()
    for arm in all_arms:
        settings = arm.over([Layer(DEFAULT, DEFAULT_DATA), *above])
        if sources and arm.run is None and _of_default(settings):
            settings = arm.over([Layer(DEFAULT, {"data": sources[0][1].table()}), *above])
            labels.append(f"'{arm.label}'")
        if arm.run is None:
            remark_overruled(settings)
        config = settings.config
        data = config.training if arm.run is None else runs[arm.run]
        label = arm.label or f"{config.rotation.brief}, {config.velocity.brief}"
        processes.append(Subject(label, settings, data, arm.run is not None))
    if labels:
        note(
            f"{', '.join(labels)} {'names' if len(labels) == 1 else 'name'} no data: shown with those of '{sources[0][0]}'"
        )
    return processes


def _of_default(settings: Resolved) -> bool:
    """Whether nobody says anything of the data."""
    return {origin for path, origin in settings.origins.items() if path.startswith("data.")} == {DEFAULT}


def _data_of(run: Path) -> Data | None:
    """The data of a run, which can be opened without them."""
    from gendiff.data import Data
    from gendiff.run.directory import Run

    try:
        data = Data.model_validate(Run.open(run).table["data"])
        data[0]
    except GendiffError as error:
        note(f"the data of '{run}' are not here: {error.what}")
        return None
    return data


def one_data(processes: Sequence[Subject]) -> str:
    """The data of all processes, in words; raises `ConfigError` where they are not the same."""
    specs = {subject.label: (subject.data or subject.config.data).spec for subject in processes}
    if len({subject.config.data.fingerprint for subject in processes}) > 1:
        raise ConfigError(
            "processes with different data cannot stand in one table",
            where="--arm",
            details=[f"{label}: {spec}" for label, spec in specs.items()],
            fix="choose the data of the run for all: --data SPEC, or look at one process after the other",
        )
    return specs[processes[0].label]


def again(command: str, following: str, own: set[str], arguments: Iterable[str] = ()) -> str:
    """The command line with another command, without the options ``own`` that take a value, --json and its ``arguments``."""
    line, rest = words(), list[str]()
    while line:
        word = line.pop(0)
        if word in own:
            line = line[1:]
        elif word not in ("--json", *arguments) and word.partition("=")[0] not in own:
            rest.append(word)
    if following == "train" and "--size" in rest and "--data" not in rest:
        place = rest.index("--size")
        rest[place : place + 2] = []  # the default data of train have one size
    old, new = command.split(), following.split()
    place = next(k for k in range(len(rest)) if rest[k : k + len(old)] == old)
    return quoted("gendiff", *rest[:place], *new, *rest[place + len(old) :])
