"""``gendiff reproduce``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gendiff.command import command, look_at, quoted, words
from gendiff.errors import ConfigError, did_you_mean
from gendiff.machine.load import Load
from gendiff_cli.console import busy, json_result, next_step, note, result
from gendiff_cli.crew import AtOnceOption, ThreadsOption
from gendiff_cli.experiment import Experiment
from gendiff_cli.opening import asking
from gendiff_cli.options import (
    DeviceOption,
    Given,
    JsonOption,
    SampledCompileOption,
    SampledPrecisionOption,
    WeightsOption,
    configured,
    spec_option,
    typed,
)
from gendiff_cli.twin import of_twin

if TYPE_CHECKING:
    from gendiff.comparison.directory import Comparison

TARGETS = ("figure1", "figure2", "figure3", "figure4", "table1", "twin")
SCALES = ("tiny", "small", "paper")
OF_TWIN = ("tiny", "small", "full")
SCENES = ("bedroom", "church")


@configured(
    "scale scene data size hold_out seeds steps n features fid_weights precision compiled set device threads at_once"
)
def reproduce(
    context: typer.Context,
    given: Given,
    target: Annotated[
        str,
        typer.Argument(
            help="Of the paper: figure1, figure2, figure3, figure4, table1; or twin: processes against their isotropic twin.",
            metavar="TARGET",
        ),
    ],
    scale: Annotated[
        str,
        typer.Option(
            help="tiny: embedded digits, half an hour of one core; small: dead leaves 64x64 in colour, an hour of a GPU; "
            "paper: the authors' setting on LSUN 64x64, days of a GPU, needs --data. Of twin: tiny, small, full."
        ),
    ] = "tiny",
    scene: Annotated[str, typer.Option(help="The paper's data at the scale paper: bedroom or church.")] = "bedroom",
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds; default: that of the scale.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; default: those of the scale.")] = None,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=16, help="Samples of each run; default: those of the scale.")
    ] = None,
    features: Annotated[
        str | None, spec_option("features", "What the Fréchet distance is taken in; default: that of the scale.")
    ] = None,
    fid_weights: WeightsOption = None,
    precision: SampledPrecisionOption = None,
    compiled: SampledCompileOption = False,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    at_once: AtOnceOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory; default: reproductions/SCALE. What is there is not done again.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Stop after so many, saved, with exit code 75: the same command goes on.", metavar="M"
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take a few steps with each arm, forget them, and say what it costs.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Reproduce a figure or the table of the blur-diffusion paper, or hold processes against their isotropic twin.

    gendiff reproduce table1 --scale tiny
    """
    load = Load()
    _known(target, TARGETS, "target", "TARGET")
    _known(scale, OF_TWIN if target == "twin" else SCALES, "scale", "--scale")
    _known(scene, SCENES, "scene", "--scene")
    _refuse_unused(context, target, scale)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("a reproduction runs in one process", fix="start it without torchrun")
    from gendiff.comparison.engine import Engine
    from gendiff.comparison.measure import rehearse
    from gendiff.comparison.reproduction import figure4
    from gendiff.comparison.reproduction import reproduce as make
    from gendiff.machine.stopping import within
    from gendiff.machine.world import choose_device, join
    from gendiff_cli.progress import Bars

    # A comparison takes no folder that holds something else, and figure4 is the same at every scale.
    name = target if target == "figure4" else f"paper-{scene}" if scale == "paper" else scale
    folder = out or Path("reproductions") / (f"twin-{scale}" if target == "twin" else name)
    if target == "figure4":
        files = figure4(folder)
    else:
        if scale == "paper" and "data" not in given.values:
            raise ConfigError(
                "the scale paper needs the paper's data",
                where="--scale paper",
                fix=f"give --data lsun:path=DIR, the folder of LSUN {scene}, or a packed set: docs/data.md",
            )
        experiment = Experiment(
            registry=context.obj, scale=scale, given=given, seeds=seeds, steps=steps, n=n, features=features,
            weights=fid_weights, asked=asking(precision, compiled, device), device=device, threads=threads, at_once=at_once,
            load=load, folder=folder, dry_run=dry_run, json=json,
        )  # fmt: skip
        if target == "twin":
            with within(minutes):
                of_twin(experiment)
            return
        comparison = _comparison(experiment, scene)
        if target == "table1":
            rehearse(comparison.plan, choose_device("cpu"))  # what would fail after hours fails here
        if dry_run:
            _forecast(target, experiment, comparison)
            return
        note(f"in {comparison.path}")
        with within(minutes), join(device) as world, comparison.working() as heed:
            crew = experiment.crew(len(comparison.plan.cells()), world.device)
            files = make(target, Engine(comparison, context.obj, world.device, Bars(context.obj), heed, crew))
    if json:
        json_result({"target": target, "scale": scale, "files": [str(file) for file in files]})
    else:
        if files[0].suffix == ".md":
            result(files[0].read_text(encoding="utf-8"))
            if scale != "paper":
                result("the two sides are of different data, features and budgets: compare arms, not columns")
        for file in files:
            result(str(file))
    if target == "table1":
        next_step(look_at(folder / "report.html"))
    elif target == "figure4":
        next_step(command("reproduce", "table1"))
    else:
        next_step(quoted("gendiff", *("table1" if word == target else word for word in words())))


def _comparison(experiment: Experiment, scene: str) -> Comparison:
    """The comparison of all arms, which goes on where it is there already; nothing is made in a dry run."""
    from gendiff.comparison.directory import Comparison
    from gendiff.comparison.fairness import require_fair
    from gendiff.comparison.reproduction import SCALES, plan
    from gendiff.features import Features

    scale, folder = SCALES[experiment.scale], experiment.folder
    layers = experiment.layers(scale.preset.format(scene=scene))
    first = next(one for one in experiment.instruments(scale.features) if isinstance(one, Features))
    made = plan(scale, layers, experiment.seeds or scale.seeds, experiment.n or scale.n, first, **experiment.asked)
    require_fair(made)
    if experiment.dry_run:
        return Comparison.held(made, folder) or Comparison(folder, made)
    return Comparison.create(made, folder, sys.argv[1:])


def _forecast(target: str, experiment: Experiment, comparison: Comparison) -> None:
    """Print what is still to be done for a target, and what it would take."""
    from gendiff.comparison.cost import cost
    from gendiff.comparison.reproduction import needed
    from gendiff.machine.world import choose_device
    from gendiff_cli.comparison import show_cost

    device = choose_device(experiment.device)
    crew = experiment.crew(len(comparison.plan.cells()), device)
    with busy("taking a few steps with each arm, which are forgotten"):
        of_all = cost(comparison.plan, device, comparison, needed(target, comparison), drawing=target == "table1")
    facts = experiment.machine(device, crew)
    if experiment.json:
        about = {"target": target, "scale": experiment.scale, "folder": str(comparison.path)}
        json_result({**about, **facts, **of_all.json()})
        return
    show_cost(of_all, facts)
    result("nothing was written")


def _refuse_unused(context: typer.Context, target: str, scale: str) -> None:
    """Raise `ConfigError` for options that cannot matter to what is asked for."""
    given = typed(context)
    relevant = {"--scale", "--scene", "--out", "--json", "target"}
    if target == "figure4" and (useless := [flag for flag in given if flag not in relevant]):
        raise ConfigError(
            f"figure4 trains and measures nothing, and {', '.join(useless)} would have no effect",
            where=useless[0],
            fix="leave it out",
        )
    if scale != "paper" and "--scene" in given:
        raise ConfigError(
            f"the scale {scale} has one kind of data, and --scene would have no effect",
            where="--scene",
            fix="leave it out, or give --scale paper",
        )


def _known(word: str, names: tuple[str, ...], what: str, where: str) -> None:
    if word not in names:
        raise ConfigError(
            f"unknown {what} '{word}'", where=where, details=[f"known: {', '.join(names)}", did_you_mean(word, names)]
        )
