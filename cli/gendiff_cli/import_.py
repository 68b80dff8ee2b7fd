"""``gendiff import``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gendiff.command import command
from gendiff.errors import ConfigError
from gendiff_cli.console import json_result, next_step, note, result
from gendiff_cli.options import Given, JsonOption, configured


@configured("objective data size latent condition hold_out sampler preset config set")
def import_(
    context: typer.Context,
    given: Given,
    model: Annotated[str, typer.Argument(help="A pretrained model: diffusers:DIR.", metavar="MODEL:PATH")],
    out: Annotated[Path | None, typer.Option(help="Run directory; default: the next number under runs/.")] = None,
    json: JsonOption = False,
) -> None:
    """Make a run of a pretrained model: to sample from, to measure, to train on.

    The process, the objective and the network are those of the weights. Without --data the run has no events: enough to sample.
    """
    from gendiff.pretrained import pretrained
    from gendiff.training.importing import imported

    network = pretrained(model)
    if network is None:
        from gendiff.plugin.registry import Registry
        from gendiff.pretrained import Pretrained

        registry: Registry = context.obj
        names = [
            entry.name
            for entry in registry.entries("model")
            if isinstance(cls := registry.component_class("model", entry.name), type) and issubclass(cls, Pretrained)
        ]
        raise ConfigError(
            f"'{model}' names no pretrained model",
            where="MODEL:PATH",
            details=[f"models that come with weights: {', '.join(names)}"],
            fix="write NAME:PATH, such as diffusers:DIR",
        )
    run, lines = imported(network, given.layers(context.obj), context.obj, out, sys.argv[1:])
    for line in lines:
        note(line)
    if json:
        info = run.info
        json_result({"run": str(run.path), "step": 0, "from": info["from"], "config": info["config"]})
    else:
        result(str(run.path))
    next_step(command("sample", run.path))
