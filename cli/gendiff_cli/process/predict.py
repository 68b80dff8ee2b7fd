"""``gendiff process predict``."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.errors import ConfigError
from gendiff_cli.console import json_result, next_step, paragraph, result, room, table
from gendiff_cli.options import (
    ConfigOption,
    DataOption,
    GridOption,
    NoiseOption,
    PresetOption,
    PriorOption,
    ProcessOption,
    RotationOption,
    ScheduleOption,
    SetOption,
    SizeOption,
    VelocityOption,
    complete,
)
from gendiff_cli.process.subject import ArmOption, Subject, subjects

if TYPE_CHECKING:
    from gendiff.diffusion import Diffusion
    from gendiff.recursion import Gaussian
    from gendiff.sampler import Sampler

#: Where none are given: the first-order sampler and the second-order one that most people use.
SAMPLERS = ("ddim", "dpmpp-2m")


class Covariance(StrEnum):
    """What is kept of how the components of the data depend on each other."""

    AUTO = "auto"
    DIAGONAL = "diagonal"
    DENSE = "dense"


def predict(
    context: typer.Context,
    arms: ArmOption = None,
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
    sampler: Annotated[
        list[str] | None,
        typer.Option(
            help="A sampler; may be given again. Default: ddim and dpmpp-2m.",
            metavar="SPEC",
            autocompletion=complete("sampler"),
        ),
    ] = None,
    steps: Annotated[str, typer.Option(help="Model evaluations, such as 5,10,20.")] = "5,10,20,50",
    grid: GridOption = None,
    prior: PriorOption = None,
    best: Annotated[
        bool, typer.Option("--best-grid", help="Also look for the steps at which the error is smallest.")
    ] = False,
    bands: Annotated[
        int | None, typer.Option(min=1, max=64, help="Show the error of so many frequency bands too.")
    ] = None,
    covariance: Annotated[
        Covariance,
        typer.Option(
            help="dense: as the data have it, for events of at most 256 components; diagonal: independent components."
        ),
    ] = Covariance.AUTO,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Predict the error of samples against the number of steps, in closed form, before any training.

    It is the squared Wasserstein (Fréchet) distance between the data, as a Gaussian, and what the sampler draws with the best
    possible model of them: what steps and prior cost. What a network gets wrong comes on top.
    """
    flags = {
        "process": process,
        "rotation": rotation,
        "velocity": velocity,
        "schedule": schedule,
        "noise": noise,
        "data": data,
        "size": size,
    }
    counts = _counts(steps)
    found = subjects(context.obj, arms, preset, config_file, assignments, flags)
    chosen = [sampler_of(spec, grid, prior) for spec in sampler or SAMPLERS]
    results = []
    for subject in found:
        target, dense = gaussian(subject, covariance)
        diffusion = subject.diffusion if dense else subject.in_frequencies
        for one in chosen:
            rows = _predictions(subject, diffusion, target, one, counts, bands or 4, best)
            results += [{**row, "covariance": "dense" if dense else "diagonal"} for row in rows]
    if json:
        json_result({"predictions": results})
        return
    _print(results, bands)
    next_step(_following(flags, arms or []))


def _following(flags: dict[str, Any], arms: list[str]) -> str:
    """To fit the one process, or to train and compare several."""
    known = ("data", "size", "noise") if len(arms) > 1 else flags  # what compare says of all its arms
    asked = [word for flag in known if flags[flag] is not None for word in (f"--{flag}", str(flags[flag]))]
    if len(arms) == 1:
        return shlex.join(["gendiff", "process", "show", "--arm", arms[0], *asked])
    named = [word for arm in arms for word in ("--arm", arm)]
    return shlex.join(["gendiff", *(["compare"] if arms else ["process", "fit"]), *named, *asked])


def _counts(text: str) -> list[int]:
    """The numbers of steps in ``"5,10,20"``."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ConfigError(f"cannot read the steps '{text}'", where="--steps", fix="write numbers from 1 on: 5,10,20")
    return counts


def sampler_of(spec: str, grid: str | None, prior: str | None, steps: int | None = None) -> Sampler:
    """A sampler with the grid, prior and number of steps that are asked for."""
    from gendiff.config import Layer, resolve

    table = [Layer.at("--sampler", "sampler", spec)]
    for option, value in (("grid", grid), ("prior", prior), ("steps", steps)):
        if value is not None:
            table.append(Layer.at(f"--{option}", f"sampler.{option}", value))
    return resolve(table).config.sampler


def gaussian(subject: Subject, covariance: Covariance) -> tuple[Gaussian, bool]:
    """The data as a Gaussian in the coordinates of the process, and whether it is dense."""
    from gendiff import prediction

    small = subject.components <= prediction.MOST_DENSE and subject.data is not None
    if covariance is Covariance.DIAGONAL or (covariance is Covariance.AUTO and not small):
        return prediction.diagonal(subject.in_frequencies), False
    if subject.data is None:
        raise ConfigError(
            f"the data of '{subject.label}' are not here",
            where="--covariance",
            fix="leave it out: their moments are known",
        )
    try:
        return prediction.dense(subject.data, subject.diffusion.rotation), True
    except ConfigError as error:
        error.where = error.where or "--covariance"
        raise


def _predictions(
    subject: Subject,
    diffusion: Diffusion,
    target: Gaussian,
    sampler: Sampler,
    counts: list[int],
    bands: int,
    best: bool,
) -> list[dict[str, Any]]:
    """One row for each number of steps; a sampler that cannot skip steps has one row."""
    from gendiff.prediction import at, best_grid
    from gendiff.prediction import predict as predicted
    from gendiff.sampler import GridSampler

    rows = []
    variance = float(target.variance.sum())
    for n in counts if isinstance(sampler, GridSampler) else [diffusion.N]:
        one = sampler.model_copy(update={"steps": n}) if isinstance(sampler, GridSampler) else sampler
        with subject.resolved.locating():
            found = predicted(diffusion, one, target, bands)
        row = {
            "process": subject.label,
            "sampler": sampler.spec,
            "asked": n,
            "evaluations": found.evaluations,
            "error": found.total,
            "of_variance": found.total / variance,
            "bands": found.bands,
            "grid": found.steps,
        }
        if best and isinstance(sampler, GridSampler):
            grid = best_grid(diffusion, sampler, target, -(-n // sampler.stages), GRIDS)
            better = predicted(diffusion, at(sampler, grid), target, bands)
            row["best"] = {
                "grid": grid,
                "error": better.total,
                "evaluations": better.evaluations,
                "bands": better.bands,
            }
        rows.append(row)
    return rows


#: Where the search for a grid may begin.
GRIDS = ("uniform", "lambda", "arc-length", "karras")


def _print(rows: list[dict[str, Any]], bands: int | None) -> None:
    kept = {"dense": "the covariance of the data", "diagonal": "independent components"}
    told = " or ".join(kept[each] for each in dict.fromkeys(row["covariance"] for row in rows))
    paragraph(
        "squared Wasserstein distance between samples and data, by number of evaluations: what steps and prior cost with a "
        f"perfect model of Gaussian data with {told}"
    )
    arms = list(dict.fromkeys((row["process"], row["sampler"]) for row in rows))
    counts = list(dict.fromkeys(row["asked"] for row in rows))
    by_key = {(row["process"], row["sampler"], row["asked"]): row for row in rows}
    names = {arm: f"{arm[0]}, {arm[1]}" for arm in arms}
    for start in range(0, len(counts), fits := room(cell=10, taken=min(max(map(len, names.values())), 20) + 2)):
        part = counts[start : start + fits]
        lines = []
        for arm in arms:
            cells = [by_key.get((*arm, n)) for n in part]
            lines.append([names[arm], *("-" if row is None else _number(row["error"]) for row in cells)])
            if any(row and "best" in row for row in cells):
                better = ["-" if row is None or "best" not in row else _number(row["best"]["error"]) for row in cells]
                lines.append(["  at its best steps", *better])
        table(["process, sampler", *map(str, part)], lines)
    if bands:
        _print_bands(rows, bands)
    for row in rows:
        if "best" in row:
            grid = ",".join(map(str, row["best"]["grid"]))
            paragraph(f"{names[row['process'], row['sampler']]}, {row['asked']}: --grid 'explicit:at=[{grid}]'")


def _print_bands(rows: list[dict[str, Any]], bands: int) -> None:
    result("")
    paragraph("the same by frequency band, from coarse to fine")
    for start in range(0, bands, fits := room(cell=10, taken=28)):
        part = range(start, min(start + fits, bands))
        lines = [
            [f"{row['process']}, {row['sampler']}", str(row["asked"]), *(_number(row["bands"][band]) for band in part)]
            for row in rows
        ]
        table(["process, sampler", "steps", *(f"band {band + 1}" for band in part)], lines)


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1e5 else f"{value:.0e}"
