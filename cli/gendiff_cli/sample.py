"""``gendiff sample``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError
from gendiff.machine.load import Load
from gendiff_cli.console import json_result, next_step, note, progress, result
from gendiff_cli.crew import ThreadsOption, threads_for_drawing
from gendiff_cli.opening import load_model, open_run
from gendiff_cli.options import (
    CheckpointArgument,
    CompileOption,
    ConditionOption,
    DeviceOption,
    EmaOption,
    Given,
    GuideOption,
    JsonOption,
    PrecisionOption,
    RawOption,
    StepsOption,
    chosen_weights,
    configured,
)
from gendiff_cli.source import FromOption, StrengthOption, going_on, name_of, options_of

if TYPE_CHECKING:
    from gendiff.datasets.drawn import Drawn
    from gendiff.run.asked import Asked
    from gendiff.run.directory import Run
    from gendiff.run.generation import Trajectory
    from gendiff.run.origin import Origin
    from gendiff.run.trained import TrainedModel
    from gendiff.sampler import Sampler

GRID, STRIP, ANIMATION = "grid.png", "trajectory.png", "trajectory.gif"
#: What each file that shows many events is called in the result.
DRAWN = {GRID: "grid", STRIP: "trajectory", ANIMATION: "gif"}
LONGEST = 60  # characters of a sampler in the name of a folder
SHEET = 64  # images in a grid
IN_A_ROW, ROWS = 8, 16  # of each class, and classes, where there are several


@configured("n sampler steps grid prior")
def sample(
    run: CheckpointArgument,
    given: Given,
    n: Annotated[
        int | None,
        typer.Option("--n", "-n", min=1, help="How many images. Default: 16, or 8 of each class.", show_default=False),
    ] = None,
    steps: StepsOption = None,
    condition: ConditionOption = None,
    guide: GuideOption = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Image k is the same for the same seed, whatever else is asked.")
    ] = 0,
    ema: EmaOption = None,
    no_ema: RawOption = False,
    precision: PrecisionOption = None,
    compiled: CompileOption = False,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed and memory, not images.")] = 64,
    source: FromOption = None,
    strength: StrengthOption = None,
    array: Annotated[
        bool, typer.Option("--array", help="Write events.npy, one array of bytes, in place of a file for each image.")
    ] = False,
    trajectory: Annotated[bool, typer.Option("--trajectory", help="Also draw the reverse process as a strip.")] = False,
    gif: Annotated[bool, typer.Option("--gif", help="Also animate the reverse process.")] = False,
    out: Annotated[Path | None, typer.Option(help="Directory; default: under RUN/samples/.")] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    json: JsonOption = False,
) -> None:
    """Sample from a run: single images in a folder of their own, events/, and a grid of the first 64.

    Where a run is told of classes, each is drawn in turn, and the grid has a row for each.

    The folder's name holds all that decides what is in it; the same command again replaces it as a whole, or goes on where it was
    interrupted.
    """
    from gendiff.datasets.drawn import FILES
    from gendiff.datasets.pictures import file_size
    from gendiff.machine.world import join
    from gendiff.run.generation import Trajectory, whence
    from gendiff.storage.disk import check_room
    from gendiff.storage.folder import inside
    from gendiff.storage.staging import aside, whole

    load, opened_run = Load(), open_run(run)
    sampler = chosen_sampler(opened_run, given, steps)
    asked = going_on(opened_run, asked_of(opened_run, condition, guide), source, strength)
    n = n or how_many(asked)
    with join(device) as world:
        threads_for_drawing(threads, load, world)
        model = load_model(run, opened_run, world.device, chosen_weights(ema, no_ema), precision, compiled)
        model.check(asked, sampler)
        name = folder_name(model, sampler, seed, n, asked) + name_of(asked)
        folder, elsewhere = out or opened_run.samples / name, out is not None
        check_folder(folder, elsewhere)
        if not elsewhere:
            inside(opened_run.path, folder / FILES)
        views = (
            Trajectory(model.denoiser, sampler, 11 if trajectory else 40, asked=asked, data=opened_run.config.data)
            if world.main and (trajectory or gif)
            else None
        )
        process, part = whence(model.diffusion, sampler, asked)
        evaluations = len(part.plan(process))  # a sampler that does not fit leaves nothing behind
        size = n * file_size(opened_run.config.data.picture_shape)
        check_room(
            folder, size, f"{n:,} images", "make room, draw fewer with --n, or choose another directory: --out DIR"
        )
        going = options_of(source, strength)
        options = going + ["--array"] * array + ["--trajectory"] * trajectory + ["--gif"] * gif
        made_by = model.origin(sampler, seed, n, *options, asked=asked)
        staged = (
            whole(folder, elsewhere, size, of=made_by.text) if world.main else nullcontext(aside(folder, elsewhere))
        )
        with staged as stage:
            drawn = _drawn(model, stage, n, array) if world.main else None
            world.barrier()
            drawn = drawn or _drawn(model, stage, n, array, fresh=False)
            there = sum(map(drawn.has, range(n))) if world.main else 0
            if there:
                note(f"going on: {there:,} of {n:,} images were drawn before")
            images = _missing(drawn, range(world.rank, n, world.size), views)
            _draw(model, sampler, seed, images, batch, drawn, evaluations, views, asked, going)
            world.barrier()
            if world.main:
                drawn.close()
                files = _draw_together(stage, drawn, n, views, trajectory, gif, made_by, len(asked.conditions))
        if world.main:
            if not elsewhere:
                opened_run.retitle_card()
            _report(model, sampler, seed, n, folder, drawn, files, evaluations, json, asked)


def chosen_sampler(run: Run, given: Given, steps: int | None) -> Sampler:
    """The run's sampler, or the one that is given, with its number of steps, its grid and where it starts."""
    from gendiff.grid import GridSampler
    from gendiff.run.layers import Layer, resolve

    table = [Layer(str(run.path / "config.toml"), {"N": run.config.N, "sampler": run.config.sampler.table()})]
    table += given.flags()
    if steps is not None:
        table.append(Layer.at("--steps", "sampler.steps", steps))
    settings = resolve(table)
    sampler = settings.config.sampler
    if len(table) > 1:
        with settings.locating():  # such as more steps than the process has
            next(iter(sampler.updates(run.config.diffusion())), None)
    if isinstance(sampler, GridSampler) and sampler.left_out:
        note(sampler.left_out)
    return sampler


def asked_of(run: Run, condition: Sequence[str] | None, guide: Sequence[str] | None) -> Asked:
    """What ``--condition`` and ``--guide`` ask of the images of a run."""
    from gendiff.guide import Guide
    from gendiff.run.asked import Asked, read

    guides = []
    for spec in guide or ():
        try:
            guides.append(Guide(spec))
        except ConfigError as error:
            error.where = error.where or f"--guide {spec}"
            raise
    try:
        return Asked.of(run.config, read(condition or ()), guides)
    except ConfigError as error:
        error.where = error.where or (f"--condition {' '.join(condition)}" if condition else "--condition")
        raise


def how_many(asked: Asked) -> int:
    """How many images are drawn where nobody says it: whole rows of a grid, where there are several conditions."""
    count = len(asked.conditions)
    return IN_A_ROW * count if 1 < count <= ROWS else 16


def _drawn(model: TrainedModel, stage: Path, n: int, array: bool, fresh: bool = True) -> Drawn:
    from gendiff.datasets.drawn import DrawnArray, DrawnFiles

    if not array:
        return DrawnFiles(stage)
    data = model.config.data
    return DrawnArray(stage, n, data.picture_shape, data.in_pictures, fresh)


def _missing(drawn: Drawn, images: Sequence[int], views: Trajectory | None) -> list[int]:
    """The images that are still to be drawn: not there, or among the first, of which the whole way is to be seen."""
    seen = 0 if views is None else views.rows
    return [number for number in images if number < seen or not drawn.has(number)]


def _draw(
    model: TrainedModel,
    sampler: Sampler,
    seed: int,
    images: Sequence[int],
    batch: int,
    drawn: Drawn,
    evaluations: int,
    views: Trajectory | None,
    asked: Asked,
    options: Sequence[str],
) -> None:
    from gendiff.run.generation import generate
    from gendiff.run.origin import Origin

    one = model.origin(sampler, seed, 1, *options, asked=asked).facts
    with progress() as bar:
        task = bar.add_task("sampling", total=evaluations * len(images))

        def watch(snapshot: Any) -> None:
            if snapshot.pivot is not None:
                bar.advance(task, len(snapshot.x_bar))
            if views is not None:
                views(snapshot)

        numbers = iter(images)
        for events in generate(model.denoiser, model.run, sampler, seed, images, batch, watch, asked=asked):
            for event in model.pictures(events):
                number = next(numbers)
                # An image is the same, to the byte, whatever else is drawn with it: of a folder it says nothing.
                again = one["command"].replace(" --n 1 ", f" --n {number + 1} ", 1)
                facts = {key: value for key, value in one.items() if key != "n"} | {"image": number, "command": again}
                facts |= asked.facts(model.config.conditions, number)
                drawn.put(number, event, Origin(facts).text)


def _draw_together(
    folder: Path,
    drawn: Drawn,
    n: int,
    views: Trajectory | None,
    trajectory: bool,
    gif: bool,
    made_by: Origin,
    conditions: int,
) -> list[str]:
    """Draw what shows many events in one picture, and write what made them; returns the names of these pictures."""
    import torch

    from gendiff.datasets import pictures

    files = [GRID]
    numbers, columns = _places(n, conditions)
    events = torch.stack([drawn.read(number) for number in numbers])
    pictures.save(folder / GRID, pictures.sheet(events, columns), made_by.text)
    if views is not None and trajectory:
        files.append(STRIP)
        pictures.save(folder / STRIP, pictures.strip(views.events), made_by.text)
    if views is not None and gif:
        files.append(ANIMATION)
        pictures.save_animation(folder / ANIMATION, views.events, text=made_by.text)
    made_by.save(folder)
    return files


def _places(n: int, conditions: int) -> tuple[list[int], int | None]:
    """Which images a grid shows, and in how many columns: where there are several conditions, a row of each."""
    columns = min(n // conditions, IN_A_ROW)
    if columns == 0 or not 1 < conditions <= ROWS:
        return list(range(min(n, SHEET))), None
    return [first + conditions * k for first in range(conditions) for k in range(columns)], columns


def _report(
    model: TrainedModel,
    sampler: Sampler,
    seed: int,
    n: int,
    folder: Path,
    drawn: Drawn,
    files: Sequence[str],
    evaluations: int,
    json: bool,
    asked: Asked,
) -> None:
    from gendiff.datasets.drawn import ARRAY, FILES, DrawnArray

    paths = {"folder": folder, **{DRAWN[name]: folder / name for name in files}}
    facts = {
        "run": str(model.run.path),
        "n": n,
        "seed": seed,
        **asked.facts(model.config.conditions),
        "sampler": sampler.spec,
        "evaluations": evaluations,
        "weights": model.weights,
        "weights_hash": model.weights_hash,
        "step": model.step,
        "events": str(folder / (ARRAY if isinstance(drawn, DrawnArray) else FILES)),
        **{name: str(path) for name, path in paths.items()},
    }
    if json:
        json_result(facts)
    else:
        for name in paths:
            result(str(paths[name]))
    next_step(
        command("sample", model.run.path, "--trajectory", "--gif"),
        command("evaluate", model.run.path),
    )


def folder_name(model: TrainedModel, sampler: Sampler, seed: int, n: int, asked: Asked) -> str:
    """Everything that decides which pictures are drawn."""
    weights = "raw" if model.weights == "model" else model.weights
    precision = "" if model.denoiser.precision == "fp32" else f"-{model.denoiser.precision}"
    steered = " ".join([*(f"{name}={value}" for name, value in asked.words.items()), *(g.spec for g in asked.guides)])
    steered = f"-{_in_a_name(steered)}" if steered else ""
    return f"step-{model.step:08d}-{weights}-{_in_a_name(sampler.spec)}{steered}{precision}-seed{seed}-n{n}"


def _in_a_name(text: str) -> str:
    """A text as part of the name of a folder; two texts are never one name."""
    name = re.sub("[:=,]", "-", text)
    if len(name) <= LONGEST and re.fullmatch(r"[\w.+-]+", name, re.ASCII):
        return name
    mark = hashlib.sha256(text.encode()).hexdigest()[:6]
    return f"{re.sub(r'[^A-Za-z0-9_.+]+', '-', name)[:LONGEST].strip('-')}-{mark}"


def check_folder(folder: Path, given: bool, others: Collection[str] = ()) -> None:
    """Samples go into a new or empty directory, or replace those of the same command in the run's own.

    ``others`` are names of what such a command writes besides pictures.
    """
    from gendiff.storage.staging import is_empty

    if not folder.exists() and not folder.is_symlink():
        return
    where = "--out" if given else ""
    fix = "choose a new directory" if given else "move it to another place, or choose a new directory: --out DIR"
    if not folder.is_dir() or (folder.is_symlink() and not given):
        what = "is a link" if folder.is_symlink() else "is a file"
        raise ConfigError(f"'{folder}' {what}", where=where, fix=fix)
    if given and not is_empty(folder):
        raise ConfigError(f"'{folder}' exists and is not empty", where=where, fix=fix)
    if not given and (foreign := _foreign(folder, others)):
        what = f"'{folder}' holds what gendiff sample does not write"
        raise ConfigError(what, where=where, details=[f"such as {foreign[0]}"], fix=fix)


def _foreign(folder: Path, others: Collection[str]) -> list[str]:
    """What is in a folder of samples and is nothing that this command writes."""
    from gendiff.datasets.drawn import ARRAY, FILES, NUMBERED
    from gendiff.run.origin import FILE

    inside = [path for path in folder.iterdir() if path.name not in {FILES, ARRAY, FILE, *DRAWN, *others}]
    if (folder / FILES).is_dir():
        inside += [path for path in (folder / FILES).iterdir() if not NUMBERED.fullmatch(path.name)]
    return sorted(str(path.relative_to(folder)) for path in inside)
