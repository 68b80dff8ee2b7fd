"""``gendiff export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gendiff_cli.console import copied, json_result, note, result
from gendiff_cli.opening import load_model, open_run
from gendiff_cli.options import (
    CheckpointArgument,
    EmaOption,
    Given,
    JsonOption,
    RawOption,
    StepsOption,
    chosen_weights,
    configured,
)
from gendiff_cli.sample import chosen_sampler

if TYPE_CHECKING:
    from gendiff.run.trained import TrainedModel
    from gendiff.sampler import Sampler


class Format(StrEnum):
    """What other people read."""

    DIFFUSERS = "diffusers"
    SAFETENSORS = "safetensors"
    ONNX = "onnx"


@configured("sampler grid prior")
def export(
    run: CheckpointArgument,
    out: Annotated[Path, typer.Argument(help="A new folder.", metavar="DIR")],
    given: Given,
    to: Annotated[Format, typer.Option(help="A pipeline, numbers alone, or the network as a graph.")],
    steps: StepsOption = None,
    ema: EmaOption = None,
    no_ema: RawOption = False,
    json: JsonOption = False,
) -> None:
    """Write a trained network for people who have no gendiff: a pipeline of diffusers, safetensors, ONNX.

    A folder of diffusers has the sampler of the run, or the one that is given, in numbers; the network is in all of them.
    """
    from gendiff.run.exporting.written import export as write

    model, sampler = chosen_model(run, given, steps, ema, no_ema)
    lines = write(model, to.value, out, sampler)
    if json:
        json_result({"folder": str(out), "to": to.value, "step": model.step, "weights": model.weights, "open": lines})
    else:
        result(str(out))
    note("how it is opened, also in its README.md:")
    copied(lines)


def chosen_model(
    run: Path, given: Given, steps: int | None, ema: str | None, no_ema: bool
) -> tuple[TrainedModel, Sampler]:
    """The network that leaves, on the CPU, and the sampler that goes with it."""
    import torch

    opened = open_run(run)
    sampler = chosen_sampler(opened, given, steps)
    return load_model(run, opened, torch.device("cpu"), chosen_weights(ema, no_ema)), sampler
