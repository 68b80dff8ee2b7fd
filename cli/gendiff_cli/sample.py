"""``gendiff sample``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError
from gendiff_cli.console import Verbosity, err, is_main_process, json_result, next_step, note, result
from gendiff_cli.options import DeviceOption, GridOption, PriorOption, SamplerOption, StepsOption

if TYPE_CHECKING:
    from gendiff.generation import TrainedModel, Trajectory
    from gendiff.process_group import ProcessGroup
    from gendiff.run import Run
    from gendiff.sampler import Sampler

#: The folder of the events alone: other tools read every picture that they find.
EVENTS = "events"


def sample(
    run: Annotated[Path, typer.Argument(help="Run directory.", metavar="RUN")],
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="How many images.")] = 16,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    grid: GridOption = None,
    prior: PriorOption = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Image k is the same for the same seed, whatever else is asked.")
    ] = 0,
    ema: Annotated[bool, typer.Option("--ema/--no-ema", help="Use the averaged weights.")] = True,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time; changes speed and memory, not images.")] = 64,
    trajectory: Annotated[bool, typer.Option("--trajectory", help="Also draw the reverse process as a strip.")] = False,
    gif: Annotated[bool, typer.Option("--gif", help="Also animate the reverse process.")] = False,
    out: Annotated[Path | None, typer.Option(help="Directory; default: under RUN/samples/.")] = None,
    device: DeviceOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Sample from a run: single images in a folder of their own, events/, and a grid of the first 64."""
    from gendiff.generation import TrainedModel
    from gendiff.process_group import process_group
    from gendiff.run import Run

    opened = Run.open(run)
    for text in opened.notes:
        note(text)
    chosen = chosen_sampler(opened, sampler, steps, grid, prior)
    with process_group(device) as group:
        problems: list[str] = []
        model = TrainedModel.load(opened, group.device, ema, problems)
        for problem in problems:
            note(f"a damaged checkpoint was passed over: {problem}")
        folder = out or opened.samples / f"step-{model.step:08d}-{_folder_name(chosen)}-seed{seed}"
        _check_folder(folder, out is not None)
        group.barrier()
        views = _draw(model, chosen, seed, n, batch, folder, group, (11 if trajectory else 0) or (40 if gif else 0))
        group.barrier()
        if group.main:
            _report(model, chosen, seed, n, folder, views, trajectory, gif, json)


def chosen_sampler(
    run: Run, spec: str | None, steps: int | None, grid: str | None = None, prior: str | None = None
) -> Sampler:
    """The run's sampler, or the one asked for, with its number of steps, its grid and where it starts."""
    from gendiff.config import Layer, resolve

    table = [Layer(str(run.path / "config.toml"), {"N": run.config.N, "sampler": run.config.sampler.table()})]
    if spec is not None:
        table.append(Layer.at("--sampler", "sampler", spec))
    for part, value in {"steps": steps, "grid": grid, "prior": prior}.items():
        if value is not None:
            table.append(Layer.at(f"--{part}", f"sampler.{part}", value))
    return resolve(table).config.sampler


def _draw(
    model: TrainedModel,
    sampler: Sampler,
    seed: int,
    n: int,
    batch: int,
    folder: Path,
    group: ProcessGroup,
    moments: int,
) -> Trajectory | None:
    from rich.progress import Progress

    from gendiff import pictures
    from gendiff.generation import Trajectory, generate

    views = Trajectory(model.denoiser, sampler, moments) if moments and group.main else None
    mine = range(group.rank, n, group.world)
    evaluations = sum(1 for _ in sampler.plan(model.denoiser.diffusion)) * len(mine)
    _make(folder)  # only now: a sampler that does not fit leaves nothing behind
    hidden = not err.is_terminal or Verbosity.level < 0 or not is_main_process()
    with Progress(console=err, disable=hidden, transient=True) as bar:
        task = bar.add_task("sampling", total=evaluations)

        def watch(moment: Any) -> None:
            if moment.pivot is not None:
                bar.advance(task, len(moment.x_bar))
            if views is not None:
                views(moment)

        numbers = iter(mine)
        for events in generate(model.denoiser, model.run, sampler, seed, mine, batch, watch):
            for event in events:
                pictures.save_event(folder / EVENTS, next(numbers), event)
    return views


def _report(
    model: TrainedModel,
    sampler: Sampler,
    seed: int,
    n: int,
    folder: Path,
    views: Trajectory | None,
    trajectory: bool,
    gif: bool,
    json: bool,
) -> None:
    import torch

    from gendiff import pictures

    paths = {"folder": folder, "grid": folder / "grid.png"}
    shown = [pictures.read_event(folder / EVENTS, number) for number in range(min(n, 64))]
    pictures.grid(torch.stack(shown)).save(paths["grid"])
    if views is not None and trajectory:
        paths["trajectory"] = folder / "trajectory.png"
        pictures.strip(views.moments).save(paths["trajectory"])
    if views is not None and gif:
        paths["gif"] = folder / "trajectory.gif"
        pictures.save_animation(paths["gif"], views.moments)
    facts = {
        "run": str(model.run.path),
        "n": n,
        "seed": seed,
        "sampler": sampler.spec,
        "evaluations": sum(1 for _ in sampler.plan(model.denoiser.diffusion)),
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


def _folder_name(sampler: Sampler) -> str:
    return "".join(c if c.isalnum() or c in "-." else "-" for c in sampler.spec)


def _check_folder(folder: Path, asked: bool) -> None:
    """Samples go into a new or empty directory, or replace those of the same name in the run's own."""
    if asked and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        reason = "exists and is not empty" if folder.is_dir() else "is a file"
        raise ConfigError(f"'{folder}' {reason}", where="--out", fix="choose a new directory")


def _make(folder: Path) -> None:
    try:
        (folder / EVENTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot make the directory '{folder}': {error.strerror}"
        raise ConfigError(what, where="--out", fix="choose a directory that can be made: --out DIR") from error
