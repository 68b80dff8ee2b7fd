"""The processes that a command of ``gendiff process`` looks at, and the options that name them."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.errors import GendiffError
from gendiff.registry import Registry
from gendiff_cli.console import note
from gendiff_cli.options import layers

if TYPE_CHECKING:
    from gendiff.config import Config, Resolved
    from gendiff.data import Data
    from gendiff.diffusion import Diffusion

#: What a process is looked at on where no data are given: larger than the embedded digits, so that there is something to see.
DEFAULT_DATA = {"data": {"name": "dead-leaves", "size": 64}}

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

    """

    label: str
    resolved: Resolved
    data: Data | None

    @property
    def config(self) -> Config:
        """The configuration."""
        return self.resolved.config

    @cached_property
    def diffusion(self) -> Diffusion:
        """The process in numbers, with the moments of its data, which are read for that."""
        with self.resolved.locating():
            return self.config.diffusion()

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


def subjects(
    registry: Registry,
    arms: list[str] | None,
    preset: list[str] | None,
    config_file: Path | None,
    assignments: list[str] | None,
    flags: dict[str, Any],
) -> list[Subject]:
    """The process of the flags, or those of the arms over it."""
    from gendiff.arm import Arm, parse_arms
    from gendiff.config import Layer

    below = [
        Layer("the default of this command", DEFAULT_DATA),
        *layers(registry, preset, config_file, assignments, flags),
    ]
    found = []
    for arm in parse_arms(arms) if arms else [Arm("")]:
        resolved = arm.resolve(below)
        config = resolved.config
        data = config.data if arm.run is None else _data_of(arm.run)
        found.append(Subject(arm.label or f"{config.rotation.spec}, {config.velocity.spec}", resolved, data))
    return found


def _data_of(run: Path) -> Data | None:
    """The data of a run, which can be opened without them."""
    from gendiff.data import Data
    from gendiff.run import Run

    try:
        data = Data.model_validate(Run.open(run).table["data"])
        data[0]
    except GendiffError as error:
        note(f"the data of '{run}' are not here: {error.what}")
        return None
    return data


def again(command: str, following: str, own: set[str], arguments: Iterable[str] = ()) -> str:
    """The command line with another command, without the options ``own`` that take a value, --json and its ``arguments``."""
    words, kept = sys.argv[1:], list[str]()
    while words:
        word = words.pop(0)
        if word in own:
            words = words[1:]
        elif word not in ("--json", *arguments) and word.partition("=")[0] not in own:
            kept.append(word)
    if following == "train" and "--size" in kept and "--data" not in kept:
        place = kept.index("--size")
        kept[place : place + 2] = []  # the default data of train have one size
    return shlex.join(kept).replace(command, following, 1)
