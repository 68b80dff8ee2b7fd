"""What the commands share that follow the deterministic path between pictures and noise."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff_cli.sample import check_folder

if TYPE_CHECKING:
    from gendiff.run.origin import Origin
    from gendiff.run.trained import TrainedModel

SHEET = "sheet.png"
STEPS = 100  # evaluations, where none are asked for and the process has more
PathStepsOption = Annotated[
    int | None, typer.Option(min=1, help="Evaluations of the network, each way; default: 100, or as many as there are.")
]
ConditionOption = Annotated[
    list[str] | None,
    typer.Option(help="What the network is told, such as label=3; may be given again.", metavar="NAME=VALUE"),
]


def path_steps(model: TrainedModel, steps: int | None) -> int:
    """How many evaluations there are each way."""
    return min(STEPS, model.diffusion.N) if steps is None else steps


def made_by(model: TrainedModel, word: str, steps: int, options: Sequence[str], facts: Mapping[str, Any]) -> Origin:
    """What made the pictures: as of samples, with the command that makes them again."""
    from gendiff.command import command
    from gendiff.run.asked import Asked
    from gendiff.run.made import asking_options
    from gendiff.run.origin import Origin
    from gendiff.sampler import Sampler

    base = model.origin(Sampler("trig", clip=False, steps=steps), 0, 1, asked=Asked()).facts
    asking = asking_options(model.config, model.denoiser, model.weights)
    again = command(word, Path(f"{model.run.path}@{model.step}"), *options, "--steps", steps, *asking)
    return Origin({**base, word: dict(facts), "command": again})


@contextmanager
def staged(model: TrainedModel, out: Path | None, name: str, origin: Origin, own: Collection[str]) -> Iterator[Path]:
    """Where the pictures of a command are written, which is whole or not there; ``own`` is what it writes besides."""
    from gendiff.storage.folder import inside
    from gendiff.storage.staging import whole

    folder = folder_of(model, out, name, origin)
    check_folder(folder, out is not None, own)
    if out is None:
        inside(model.run.path, folder)
    with whole(folder, out is not None) as stage:
        yield stage


def folder_of(model: TrainedModel, out: Path | None, name: str, origin: Origin) -> Path:
    """The folder that a command writes: that which is given, or one of the run's, named for all that decides what is in it."""
    weights = re.sub(r"[^\w.-]", "-", "raw" if model.weights == "model" else model.weights)
    mark = hashlib.sha256(origin.text.encode()).hexdigest()[:8]
    return out or model.run.samples / f"step-{model.step:08d}-{weights}-{name}-{mark}"
