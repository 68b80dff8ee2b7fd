"""``gendiff invert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gendiff.command import command
from gendiff.machine.load import Load
from gendiff_cli.console import busy, json_result, next_step, result, table
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

if TYPE_CHECKING:
    from torch import Tensor

NOISE, NUMBERS, FILES = "noise.npy", "inversion.json", "events"


def invert(
    run: CheckpointArgument,
    picture: Annotated[list[Path], typer.Argument(help="Pictures of the size of the run's.", metavar="PICTURE...")],
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
    """The noise from which the deterministic path leads back to pictures, and how near it comes to them.

    Writes noise.npy, one x_N for each picture, the pictures that come back, and a sheet: picture, noise, what came back.
    """
    import numpy as np
    import torch

    from gendiff.datasets import pictures
    from gendiff.datasets.drawn import DrawnFiles
    from gendiff.datasets.given import events_of
    from gendiff.machine.world import join
    from gendiff.plain import json_text
    from gendiff.run.asked import read
    from gendiff.storage.files import put, saved

    load, opened_run = Load(), open_run(run)
    data = opened_run.config.data
    given = events_of(picture, data.picture_shape, f"an event of '{run}'")
    x_0 = data.events(given)
    with join(device) as world:
        threads_for_drawing(threads, load, world)
        model = load_model(run, opened_run, world.device, chosen_weights(ema, no_ema), precision, compiled)
        if not world.main:
            return
        n, told = path_steps(model, steps), read(condition or [])
        options = [*map(str, picture), *(word for one in condition or () for word in ("--condition", one))]
        origin = made_by(model, "invert", n, options, {"pictures": [path.name for path in picture], "steps": n})
        with busy("inverting"):
            noise = model.invert(x_0, n, told)
            back = model.lead_back(noise, n, told)
        numbers = _numbers(x_0, noise, back)
        with staged(model, out, "inverted", origin, {SHEET, NUMBERS, NOISE}) as stage:
            drawn = DrawnFiles(stage)
            for k, event in enumerate(model.pictures(back)):
                drawn.put(k, event, origin.text)
            drawn.close()
            saved(stage / NOISE, lambda file: np.save(file, noise.numpy(), allow_pickle=False))
            grey = noise / noise.std().clamp_min(1e-12) / (1 if data.latent else 2)
            seen = torch.stack([given, model.pictures(grey), model.pictures(back)], 1).flatten(0, 1)
            pictures.save(stage / SHEET, pictures.sheet(seen, 3), origin.text)
            put(stage / NUMBERS, json_text({**origin.facts["invert"], "numbers": numbers}, indent=1).encode())
            origin.save(stage)
        folder = folder_of(model, out, "inverted", origin)
    if json:
        facts = {"run": str(run), "pictures": [str(path) for path in picture], "steps": n, "folder": str(folder)}
        json_result({**facts, "noise": str(folder / NOISE), "sheet": str(folder / SHEET), "numbers": numbers})
        return
    rows = [
        [path.name, f"{row['round_trip']:.4f}", f"{row['noise_std']:.3f}"]
        for path, row in zip(picture, numbers, strict=True)
    ]
    table(["picture", "round trip error (rms)", "std of the noise, of 1"], rows)
    result(str(folder))
    result(str(folder / SHEET))
    next_step(command("interpolate", run, *picture[:2]) if len(picture) > 1 else command("sample", run))


def _numbers(x_0: Tensor, noise: Tensor, back: Tensor) -> list[dict[str, float]]:
    """Of each picture: the rms of what does not come back, and how large its noise is."""
    errors, sizes = (back - x_0).square().flatten(1).mean(1).sqrt(), noise.flatten(1).std(1)
    return [{"round_trip": float(e), "noise_std": float(s)} for e, s in zip(errors, sizes, strict=True)]
