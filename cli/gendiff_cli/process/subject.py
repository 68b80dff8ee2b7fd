"""The processes that a command of ``gendiff process`` looks at, and the options that name them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.registry import Registry
from gendiff_cli.options import layers

if TYPE_CHECKING:
    from torch import Tensor

    from gendiff.config import Config
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
    """One process, with the configuration it follows from."""

    label: str
    config: Config
    diffusion: Diffusion

    def variance(self, diffusion: Diffusion) -> Tensor:
        """C of its data in the coordinates of ``diffusion``."""
        import torch

        data = self.config.data
        x = torch.stack([data[k] for k in range(min(256, data.length or 256))]).double()
        c = diffusion.rotate(x).var(0)
        return c.clamp_min(1e-4 * float(c.mean()))


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
        with resolved.locating():
            config = resolved.config if arm.run is None else _with_data(resolved.config, arm.run)
            diffusion = config.diffusion()
        found.append(Subject(arm.label or f"{config.rotation.spec}, {config.velocity.spec}", config, diffusion))
    return found


def _with_data(config: Config, run: Path) -> Config:
    """The configuration of a run with its data, which it can be opened without."""
    from gendiff.data import Data
    from gendiff.run import Run

    return config.model_copy(update={"data": Data.model_validate(Run.open(run).table["data"])})


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
