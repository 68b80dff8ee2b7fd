"""``gendiff process plot``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.errors import ConfigError, DataError
from gendiff_cli.console import busy, json_result, next_step, result
from gendiff_cli.options import Given, JsonOption, configured, spec_option
from gendiff_cli.process.subject import ArmOption, Subject, again, subjects

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from gendiff.lab.figures import Strip
    from gendiff.shapes import EventShape

BANDS = 48  # rows of the SNR map
LOUD, QUIET = 20.0, -20.0  # decibel, the first and last column of a strip at equal SNR


class Kind(StrEnum):
    """What is drawn."""

    STRIP = "strip"
    SNR = "snr"
    SCHEDULES = "schedules"


class At(StrEnum):
    """What the columns of a strip have in common."""

    STEP = "step"
    SNR = "snr"


@configured("arms process rotation schedule velocity noise data size latent preset config set")
def plot(
    context: typer.Context,
    given: Given,
    kind: Annotated[
        Kind,
        typer.Argument(
            help="strip: a picture on its way to noise; snr: the SNR of every frequency over i; schedules: f(i), all that there "
            "are unless --arm chooses."
        ),
    ] = Kind.STRIP,
    arms: ArmOption = None,
    schedule: Annotated[
        list[str] | None,
        spec_option(
            "schedule",
            "Blur schedule f(i): quartic, log, 'log:f_max=0.6', ...; of schedules may be given again.",
            "Components",
        ),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Your own picture, resized to the events of --data.")] = None,
    at: Annotated[
        At | None,
        typer.Option(help="Columns of a strip at equal steps, or at equal SNR of the picture. Default: step."),
    ] = None,
    moments: Annotated[
        int | None, typer.Option(min=2, max=100, help="Columns of a strip, the picture itself among them. Default: 9.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="PNG or PDF to write. Default: process-strip.png, and of other kinds so.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Draw what processes do to a picture and to each frequency, or the schedules that they follow."""
    if kind is not Kind.STRIP:
        _refuse_unused(kind, {"--picture": picture, "--at": at, "--moments": moments})
    several = schedule if schedule and len(schedule) > 1 else []
    if several and (kind is not Kind.SCHEDULES or arms):
        raise ConfigError(
            "a process has one schedule, and --schedule is given again",
            where="--schedule",
            fix="name each process by itself: --arm 'dct schedule=log' --arm 'dct schedule=quartic'",
        )
    if schedule:
        given = Given({**given.values, "schedule": schedule[0]})
    processes = subjects(context.obj, arms, given)
    out = out or Path(f"process-{kind.value}.png")
    from gendiff.lab.figures import snr, strips
    from gendiff.lab.forward import BandSNR

    facts: dict[str, Any] = {"figure": str(out), "kind": kind.value}
    match kind:
        case Kind.STRIP:
            with busy("measuring the data"):
                rows, heads = _strips(processes, picture, at or At.STEP, moments or 9)
            figure = strips(rows, heads)
            facts["rows"] = [{"label": row.label, "steps": list(row.steps)} for row in rows]
        case Kind.SNR:
            with busy("measuring the data"):
                figure = snr({subject.label: BandSNR(subject.in_frequencies, BANDS) for subject in processes})
            facts["processes"] = [subject.label for subject in processes]
        case Kind.SCHEDULES:
            figure, facts["schedules"] = _schedules_figure(
                processes, several or (context.obj.names("schedule") if not arms and schedule is None else [])
            )
    _save(figure, out)
    if json:
        json_result(facts)
    else:
        result(str(out))
    options = {"--moments", "--picture", "--out", "--at", *(("--schedule",) if several else ())}
    next_step(again("process plot", "process show" if arms else "train", options, set(Kind)))


def _refuse_unused(kind: Kind, options: dict[str, Any]) -> None:
    """Raise `ConfigError` for what is said of the columns and the picture of a strip, where none is drawn."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise ConfigError(
            f"'{kind.value}' has no use for {' and '.join(given)}: no picture is drawn",
            where=given[0],
            fix="leave it out, or draw what becomes of a picture: gendiff process plot strip",
        )


def _save(figure: Figure, path: Path) -> None:
    from gendiff.lab.figures import save

    try:
        save(figure, path)
    except ConfigError as error:
        error.where = "--out"
        raise


# --- a picture on its way to noise --------------------------------------------------------------------------------------


def _strips(processes: list[Subject], picture: Path | None, at: At, moments: int) -> tuple[list[Strip], list[str]]:
    """What each process does to the picture, and the heads of the columns."""
    from gendiff.lab.figures import Strip

    rows = []
    for subject in processes:
        data = subject.data or subject.config.data
        x_0 = data.events(event_of_picture(picture, data.picture_shape)) if picture else data[0][None]
        steps = columns(subject, x_0, at, moments)
        rows.append(Strip(subject.label, steps, *on_its_way(subject, x_0, [0 if i is None else i for i in steps])))
    return rows, [""] * moments if at is At.STEP else ["x_0", *(f"{level:+.1f} dB" for level in _levels(moments))]


def _levels(moments: int) -> list[float]:
    """The SNR of each column but the first, decibel."""
    return [LOUD + (QUIET - LOUD) * k / max(moments - 2, 1) for k in range(moments - 1)]


def columns(subject: Subject, x_0: Tensor, at: At, moments: int) -> Sequence[int | None]:
    """The steps of a strip of one event, ``(1, *event)``; None for a column that the process never reaches."""
    from gendiff.lab.forward import steps_at

    N = subject.diffusion.N
    if at is At.STEP:
        return [round(k * N / (moments - 1)) for k in range(moments)]
    return [0, *steps_at(subject.diffusion, x_0, _levels(moments))]


def on_its_way(subject: Subject, x_0: Tensor, steps: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """``x_i`` of one event ``(1, *event)`` at these steps, and its signal alone, as pictures; the same noise in every process."""
    import torch

    from gendiff.lab.forward import corrupted
    from gendiff.streams import stream

    data = subject.data or subject.config.data
    eps = torch.randn(x_0.shape, generator=stream(0, "picture"))
    noisy, signal = corrupted(subject.diffusion, x_0, eps, steps)
    return [*data.pictures(noisy[:, 0])], [*data.pictures(signal[:, 0])]


def event_of_picture(path: Path, event_shape: EventShape, where: str = "--picture") -> Tensor:
    """A picture as one event of that shape, ``(1, C, H, W)``; ``where`` it is asked for, for errors."""
    import numpy as np
    from PIL import Image

    from gendiff.datasets.images import eight_bit, event_of, opened, reason

    if len(event_shape) != 3 or event_shape[0] not in (1, 3):
        raise ConfigError(
            f"a picture cannot become an event of shape {event_shape}",
            where=where,
            fix="choose --data of pictures",
        )
    channels, height, width = event_shape
    try:
        with opened(path) as image:
            upright = eight_bit(image).convert("L" if channels == 1 else "RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the picture '{path}': {reason(error)}", where=where) from error
    return event_of(np.array(upright.resize((width, height), Image.Resampling.LANCZOS)))[None]


# --- schedules ----------------------------------------------------------------------------------------------------------


def _schedules_figure(processes: list[Subject], instead: list[str]) -> tuple[Figure, list[str]]:
    """The blur schedules of the processes, or those ``instead`` in the place of the one process's own."""
    from gendiff.lab.figures import Curve, schedules
    from gendiff.schedule import BlurSchedule

    curves = {}
    N = processes[0].config.N
    choices = (
        [(name, BlurSchedule.model_validate(name), processes[0]) for name in instead]
        if instead
        else [(subject.label, getattr(subject.config.velocity, "schedule", None), subject) for subject in processes]
    )
    for label, schedule, subject in choices:
        if schedule is None or not isinstance(getattr(subject.config.velocity, "schedule", None), BlurSchedule):
            label = label if not instead else subject.label
            raise ConfigError(
                f"'{label}' has no blur schedule: velocity '{subject.config.velocity.name}' has none",
                fix="leave it out, or draw its SNR: gendiff process plot snr",
            )
        if subject.config.N != N:
            raise ConfigError(
                f"'{label}' has N = {subject.config.N}, and another process N = {N}",
                fix="draw schedules of one N together",
            )
        velocity = subject.config.velocity.model_copy(update={"schedule": schedule})
        width = velocity.blur_width(N)
        curves[label] = Curve(schedule, None if width is None else width.true)
    return schedules(curves, N), list(curves)
