"""``gendiff interpolate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gendiff.command import command
from gendiff.machine.load import Load
from gendiff_cli.console import busy, json_result, next_step, result
from gendiff_cli.crew import ThreadsOption, threads_for_drawing
from gendiff_cli.opening import load_model, open_run
from gendiff_cli.options import (
    CheckpointArgument,
    CompileOption,
    DeviceOption,
    EmaOption,
    JsonOption,
    PrecisionOption,
    RawOption,
    chosen_weights,
)
from gendiff_cli.path import SHEET, ConditionOption, PathStepsOption, folder_of, made_by, path_steps, staged


class Way(StrEnum):
    """How one goes from noise to noise."""

    SPHERICAL = "spherical"
    VARIANCE = "variance"
    LINEAR = "linear"


def interpolate(
    run: CheckpointArgument,
    one: Annotated[Path, typer.Argument(help="The first picture.", metavar="PICTURE")],
    other: Annotated[Path, typer.Argument(help="The last one.", metavar="PICTURE")],
    n: Annotated[int, typer.Option("--n", "-n", min=2, help="How many pictures, both ends among them.")] = 8,
    along: Annotated[
        Way,
        typer.Option(
            help="spherical: on the great circle; variance: by cos and sin, which keeps the variance; linear.",
        ),
    ] = Way.SPHERICAL,
    steps: PathStepsOption = None,
    condition: ConditionOption = None,
    ema: EmaOption = None,
    no_ema: RawOption = False,
    precision: PrecisionOption = None,
    compiled: CompileOption = False,
    out: Annotated[Path | None, typer.Option(help="Directory; default: under RUN/samples/.")] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """From one picture to another, along the noise from which the deterministic path leads to each."""
    from gendiff.datasets import pictures
    from gendiff.datasets.drawn import FILES, DrawnFiles
    from gendiff.datasets.given import events_of
    from gendiff.machine.world import join
    from gendiff.run.asked import read

    load, opened_run = Load(), open_run(run)
    data = opened_run.config.data
    ends = data.events(events_of([one, other], data.picture_shape, f"an event of '{run}'"))
    with join(device) as world:
        threads_for_drawing(threads, load, world)
        model = load_model(run, opened_run, world.device, chosen_weights(ema, no_ema), precision, compiled)
        if not world.main:
            return
        count = path_steps(model, steps)
        options = [str(one), str(other), "--n", str(n), "--along", along.value]
        options += [word for text in condition or () for word in ("--condition", text)]
        about = {"pictures": [one.name, other.name], "steps": count, "along": along.value, "n": n}
        origin = made_by(model, "interpolate", count, options, about)
        with busy("interpolating"):
            way = model.interpolate(ends[0], ends[1], n, count, read(condition or []), along=along.value)
            events = model.pictures(way)
        with staged(model, out, "interpolated", origin, {SHEET}) as stage:
            drawn = DrawnFiles(stage)
            for k, event in enumerate(events):
                drawn.put(k, event, origin.text)
            drawn.close()
            pictures.save(stage / SHEET, pictures.sheet(events, min(n, 16)), origin.text)
            origin.save(stage)
        folder = folder_of(model, out, "interpolated", origin)
    if json:
        paths = {"folder": str(folder), "sheet": str(folder / SHEET), "events": str(folder / FILES)}
        json_result({"run": str(run), "pictures": [str(one), str(other)], "n": n, "along": along.value, **paths})
        return
    result(str(folder))
    result(str(folder / SHEET))
    next_step(command("invert", run, one, other))
