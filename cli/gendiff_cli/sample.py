"""``gendiff sample``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError
from gendiff_cli.console import json_result, next_step, note, progress, result
from gendiff_cli.opening import load_model, open_run
from gendiff_cli.options import (
    DeviceOption,
    EmaOption,
    Given,
    JsonOption,
    RawOption,
    RunArgument,
    StepsOption,
    chosen_weights,
    configured,
)

if TYPE_CHECKING:
    from gendiff.run.directory import Run
    from gendiff.run.generation import TrainedModel, Trajectory
    from gendiff.sampler import Sampler

#: The folder of the events alone: other tools read every picture that they find.
EVENTS = "events"
GRID, STRIP, ANIMATION = "grid.png", "trajectory.png", "trajectory.gif"
#: What each file that shows many events is called in the result.
DRAWN = {GRID: "grid", STRIP: "trajectory", ANIMATION: "gif"}
LONGEST = 60  # characters of a sampler in the name of a folder


@configured("n sampler steps grid prior")
def sample(
    run: RunArgument,
    given: Given,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many images.")] = 16,
    steps: StepsOption = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Image k is the same for the same seed, whatever else is asked.")
    ] = 0,
    ema: EmaOption = None,
    no_ema: RawOption = False,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed and memory, not images.")] = 64,
    trajectory: Annotated[bool, typer.Option("--trajectory", help="Also draw the reverse process as a strip.")] = False,
    gif: Annotated[bool, typer.Option("--gif", help="Also animate the reverse process.")] = False,
    out: Annotated[Path | None, typer.Option(help="Directory; default: under RUN/samples/.")] = None,
    device: DeviceOption = None,
    json: JsonOption = False,
) -> None:
    """Sample from a run: single images in a folder of their own, events/, and a grid of the first 64.

    The folder's name holds all that decides what is in it; the same command again replaces it as a whole.
    """
    from gendiff.datasets.pictures import file_size
    from gendiff.machine.world import join
    from gendiff.run.generation import Trajectory
    from gendiff.storage.disk import check_room
    from gendiff.storage.folder import inside
    from gendiff.storage.staging import aside, whole

    opened_run = open_run(run)
    sampler = chosen_sampler(opened_run, given, steps)
    with join(device) as world:
        model = load_model(opened_run, world.device, chosen_weights(ema, no_ema))
        folder, elsewhere = out or opened_run.samples / _folder_name(model, sampler, seed, n), out is not None
        _check_folder(folder, elsewhere)
        if not elsewhere:
            inside(opened_run.path, folder / EVENTS)
        views = (
            Trajectory(model.denoiser, sampler, 11 if trajectory else 40)
            if world.main and (trajectory or gif)
            else None
        )
        evaluations = len(sampler.plan(model.denoiser.diffusion))  # a sampler that does not fit leaves nothing behind
        size = n * file_size(opened_run.config.data.event_shape)
        check_room(
            folder, size, f"{n:,} images", "make room, draw fewer with --n, or choose another directory: --out DIR"
        )
        with whole(folder, elsewhere, size) if world.main else nullcontext(aside(folder, elsewhere)) as stage:
            world.barrier()
            _draw(model, sampler, seed, range(world.rank, n, world.size), batch, stage, evaluations, views)
            world.barrier()
            files = _draw_together(stage, n, views, trajectory, gif) if world.main else []
        if world.main:
            _report(model, sampler, seed, n, folder, files, evaluations, json)


def chosen_sampler(run: Run, given: Given, steps: int | None) -> Sampler:
    """The run's sampler, or the one that is given, with its number of steps, its grid and where it starts."""
    from gendiff.grid import GridSampler
    from gendiff.run.config import Layer, resolve

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


def _draw(
    model: TrainedModel,
    sampler: Sampler,
    seed: int,
    images: Sequence[int],
    batch: int,
    folder: Path,
    evaluations: int,
    views: Trajectory | None,
) -> None:
    from gendiff.datasets import pictures
    from gendiff.run.generation import generate

    (folder / EVENTS).mkdir(exist_ok=True)
    with progress() as bar:
        task = bar.add_task("sampling", total=evaluations * len(images))

        def watch(snapshot: Any) -> None:
            if snapshot.pivot is not None:
                bar.advance(task, len(snapshot.x_bar))
            if views is not None:
                views(snapshot)

        numbers = iter(images)
        for events in generate(model.denoiser, model.run, sampler, seed, images, batch, watch):
            for event in events:
                pictures.save_event(folder / EVENTS, next(numbers), event)


def _draw_together(folder: Path, n: int, views: Trajectory | None, trajectory: bool, gif: bool) -> list[str]:
    """Draw what shows many events in one picture; returns the names of these files."""
    import torch

    from gendiff.datasets import pictures

    files = [GRID]
    events = [pictures.read_event(folder / EVENTS, number) for number in range(min(n, 64))]
    pictures.sheet(torch.stack(events)).save(folder / GRID)
    if views is not None and trajectory:
        files.append(STRIP)
        pictures.strip(views.events).save(folder / STRIP)
    if views is not None and gif:
        files.append(ANIMATION)
        pictures.save_animation(folder / ANIMATION, views.events)
    return files


def _report(
    model: TrainedModel,
    sampler: Sampler,
    seed: int,
    n: int,
    folder: Path,
    files: Sequence[str],
    evaluations: int,
    json: bool,
) -> None:
    paths = {"folder": folder, **{DRAWN[name]: folder / name for name in files}}
    facts = {
        "run": str(model.run.path),
        "n": n,
        "seed": seed,
        "sampler": sampler.spec,
        "evaluations": evaluations,
        "weights": model.weights,
        "weights_hash": model.weights_hash,
        "step": model.step,
        "events": str(folder / EVENTS),
        **{name: str(path) for name, path in paths.items()},
    }
    if json:
        json_result(facts)
    else:
        for name in paths:
            result(str(paths[name]))
    next_step(command("sample", model.run.path, "--trajectory", "--gif"))


def _folder_name(model: TrainedModel, sampler: Sampler, seed: int, n: int) -> str:
    """Everything that decides which pictures are drawn."""
    spec, weights = sampler.spec, "raw" if model.weights == "model" else model.weights
    name = re.sub("[:=,]", "-", spec)
    if len(name) > LONGEST or not re.fullmatch(
        r"[\w.+-]+", name, re.ASCII
    ):  # then cut, and two specs must not be one name
        mark = hashlib.sha256(spec.encode()).hexdigest()[:6]
        name = f"{re.sub(r'[^A-Za-z0-9_.+]+', '-', name)[:LONGEST].strip('-')}-{mark}"
    return f"step-{model.step:08d}-{weights}-{name}-seed{seed}-n{n}"


def _check_folder(folder: Path, given: bool) -> None:
    """Samples go into a new or empty directory, or replace those of the same command in the run's own."""
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
    if not given and (foreign := _foreign(folder)):
        what = f"'{folder}' holds what gendiff sample does not write"
        raise ConfigError(what, where=where, details=[f"such as {foreign[0]}"], fix=fix)


def _foreign(folder: Path) -> list[str]:
    """What is in a folder of samples and is no picture that this command draws."""
    inside = [path for path in folder.iterdir() if path.name not in {EVENTS, *DRAWN}]
    if (folder / EVENTS).is_dir():
        inside += [path for path in (folder / EVENTS).iterdir() if not re.fullmatch(r"\d{6,}\.(png|npy)", path.name)]
    return sorted(str(path.relative_to(folder)) for path in inside)
