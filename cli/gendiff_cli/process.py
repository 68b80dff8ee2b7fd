"""``gendiff process``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.errors import ConfigError, DataError
from gendiff.registry import Registry
from gendiff_cli.console import json_result, next_step, note, result, table
from gendiff_cli.options import (
    ConfigOption,
    DataOption,
    NoiseOption,
    PresetOption,
    ProcessOption,
    RotationOption,
    ScheduleOption,
    SetOption,
    SizeOption,
    VelocityOption,
    layers,
)

if TYPE_CHECKING:
    from torch import Tensor

    from gendiff.config import Resolved
    from gendiff.shapes import EventShape

app = typer.Typer(no_args_is_help=True, help="What a process does, before any training.")

#: What a process is looked at on where no data are given: larger than the embedded digits, so that there is something to see.
DEFAULT_DATA = {"data": {"name": "dead-leaves", "size": 64}}


@app.callback()
def process() -> None:
    """What a process does, before any training."""


@app.command()
def show(
    context: typer.Context,
    process: ProcessOption = None,
    rotation: RotationOption = None,
    schedule: ScheduleOption = None,
    velocity: VelocityOption = None,
    noise: NoiseOption = None,
    data: DataOption = None,
    size: SizeOption = None,
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    bands: Annotated[int, typer.Option(min=1, max=64, help="Frequency bands, equal steps of ρ.")] = 4,
    moments: Annotated[int, typer.Option(min=2, max=1000, help="Steps that are shown.")] = 11,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the signal-to-noise ratio of each frequency band along the process, in decibel."""
    from gendiff.forward import band_snr

    flags = _flags(process, rotation, schedule, velocity, noise, data, size)
    resolved = _resolved(context.obj, preset, config_file, assignments, flags)
    with resolved.locating():
        diffusion = resolved.config.diffusion()
        snr = band_snr(diffusion, bands, moments)
    shape = "x".join(map(str, diffusion.event_shape))
    if json:
        rows = [
            [None if value != value else value for value in row] for row in snr.decibel.tolist()
        ]  # NaN: an empty band
        json_result(
            {
                "rotation": resolved.config.rotation.spec,
                "velocity": resolved.config.velocity.spec,
                "N": diffusion.N,
                "event_shape": list(diffusion.event_shape),
                "band_edges": snr.edges,
                "steps": snr.steps,
                "snr_db": rows,
                "crossing": snr.crossing,
            }
        )
        return
    result(
        f"rotation {resolved.config.rotation.spec}, velocity {resolved.config.velocity.spec}, "
        f"N = {diffusion.N}, events {shape}"
    )
    result("signal-to-noise ratio in dB, mean over the components of each band of frequency ρ (radians per pixel)")
    heads = [f"ρ < {edge:.2f}" for edge in snr.edges]
    lines = [
        [str(i), *(_number(value) for value in row)] for i, row in zip(snr.steps, snr.decibel.tolist(), strict=True)
    ]
    crossings = ["never" if i is None else f"i = {i}" for i in snr.crossing]
    table(["i", *heads], [*lines, ["< 0 dB", *crossings]])
    if not resolved.config.rotation.diagonalises_blur and resolved.config.rotation.name != "identity":
        name = resolved.config.rotation.name
        note(f"rotation '{name}' does not diagonalise a blur: D is what a component keeps of its own energy")
    next_step(f"gendiff {_again('process show', 'process plot')}")


@app.command()
def plot(
    context: typer.Context,
    process: ProcessOption = None,
    rotation: RotationOption = None,
    schedule: ScheduleOption = None,
    velocity: VelocityOption = None,
    noise: NoiseOption = None,
    data: DataOption = None,
    size: SizeOption = None,
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    picture: Annotated[Path | None, typer.Option(help="Your own picture, resized to the events of --data.")] = None,
    moments: Annotated[int, typer.Option(min=2, max=100, help="Steps that are shown, 0 and N among them.")] = 9,
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("process.png"),
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Draw what the process does to a picture: above x_i, below its signal a_i x_0 alone."""
    import torch

    from gendiff import pictures
    from gendiff.forward import corrupted
    from gendiff.streams import stream

    flags = _flags(process, rotation, schedule, velocity, noise, data, size)
    resolved = _resolved(context.obj, preset, config_file, assignments, flags)
    with resolved.locating():
        diffusion = resolved.config.diffusion()
        x_0 = _picture(picture, diffusion.event_shape) if picture else resolved.config.data[0][None]
    steps = [round(k * diffusion.N / (moments - 1)) for k in range(moments)]
    eps = torch.randn(x_0.shape, generator=stream(0, "picture"))
    views = zip(corrupted(diffusion, x_0, eps, steps), corrupted(diffusion, x_0, 0 * eps, steps), strict=True)
    drawn = pictures.strip([torch.cat(pair) for pair in views])
    try:
        drawn.save(out)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write '{out}': {error}", where="--out", fix="give the path of a PNG file") from error
    if json:
        json_result({"picture": str(out), "steps": steps})
    else:
        result(str(out))
        result(f"above x_i, below the signal alone, at i = {', '.join(map(str, steps))}")
    next_step(f"gendiff {_again('process plot', 'train')}")


def _flags(
    process: str | None,
    rotation: str | None,
    schedule: str | None,
    velocity: str | None,
    noise: str | None,
    data: str | None,
    size: str | None,
) -> dict[str, Any]:
    return {
        "process": process,
        "rotation": rotation,
        "velocity": velocity,
        "schedule": schedule,
        "noise": noise,
        "data": data,
        "size": size,
    }


def _resolved(
    registry: Registry,
    preset: list[str] | None,
    config_file: Path | None,
    assignments: list[str] | None,
    flags: dict[str, Any],
) -> Resolved:
    from gendiff.config import Layer, resolve

    return resolve(
        [Layer("the default of this command", DEFAULT_DATA), *layers(registry, preset, config_file, assignments, flags)]
    )


def _again(command: str, following: str) -> str:
    """The command line with another command and without the options that this one alone has."""
    words, kept = sys.argv[1:], list[str]()
    own = {"--bands", "--moments", "--picture", "--out"}
    while words:
        word = words.pop(0)
        if word in own:
            words = words[1:]
        elif word != "--json" and word.partition("=")[0] not in own:
            kept.append(word)
    if following == "train" and "--size" in kept and "--data" not in kept:
        place = kept.index("--size")
        kept[place : place + 2] = []  # the default data of train have one size
    return shlex.join(kept).replace(command, following, 1)


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.1f}"  # NaN: a band without components


def _picture(path: Path, event_shape: EventShape) -> Tensor:
    """A picture as one event of that shape, ``(1, C, H, W)``."""
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    if len(event_shape) != 3 or event_shape[0] not in (1, 3):
        raise ConfigError(
            f"a picture cannot become an event of shape {event_shape}",
            where="--picture",
            fix="choose --data of pictures",
        )
    channels, height, width = event_shape
    try:
        with Image.open(path) as opened:
            resized = opened.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.LANCZOS)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the picture '{path}': {error}", where="--picture") from error
    pixels = torch.from_numpy(np.asarray(resized).copy()).float() / 127.5 - 1
    return pixels.reshape(1, height, width, channels).movedim(-1, 1)
