"""``gendiff train``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError, GendiffError, Stopped
from gendiff.machine.load import Load
from gendiff_cli.console import counted, json_result, next_step, note, result
from gendiff_cli.crew import ThreadsOption, threads_of
from gendiff_cli.opening import open_run, passing_over
from gendiff_cli.options import DeviceOption, Given, JsonOption, configured
from gendiff_cli.remarks import remark_end, remark_overruled, remark_schedule, remark_speeds
from gendiff_cli.training import Clock, announce, conclude, forecast

if TYPE_CHECKING:
    from gendiff.machine.threads import Threads
    from gendiff.machine.world import World
    from gendiff.plugin.registry import Registry
    from gendiff.run.config import Config
    from gendiff.run.directory import Run
    from gendiff.run.layers import Layer
    from gendiff.training.branch import Foreign, Parent
    from gendiff.training.trainer import Trainer


@configured(
    "process rotation schedule velocity noise objective levels model data size latent condition hold_out sampler logger metric "
    "steps batch lr ema precision seed compile deterministic keep checkpoint-every device threads out preset config set"
)
def train(
    context: typer.Context,
    given: Given,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default: the next number under runs/.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with a run; --steps, --lr, --batch and the like may be given too.", metavar="RUN"),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Begin a new run with the settings and weights of another, or of a pretrained model: diffusers:DIR.",
            metavar="RUN[@STEP]|MODEL:PATH",
        ),
    ] = None,
    from_averaged: Annotated[
        bool, typer.Option("--from-averaged", help="With --from: begin with the averaged weights, not the raw ones.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take a few steps, forget them, and say what it costs.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Train a diffusion. Without options: the process of DDPM on embedded handwritten digits, some minutes on a laptop.

    Blur diffusion: gendiff train --rotation dct --schedule log
    """
    together = partial(_together, context.obj, out, dry_run, json, Load(), threads)
    if from_ is None and from_averaged:
        raise ConfigError("averaged weights of which run?", where="--from-averaged", fix="give it too: --from RUN")
    if resume is not None:
        if from_ is not None:
            raise ConfigError(
                "a run goes on, or begins from another", where="--from", fix="leave out --resume or --from"
            )
        changes = _changes(resume, given, out)
        from gendiff.training.continuation import changed_data

        run = open_run(resume, training=True, steps=given.values.get("steps"), changes=changes)
        _start(run.config, device, partial(together, run, changed_data(run, run.config), None))
    else:
        from gendiff.run.layers import resolve

        layers, parent = given.layers(context.obj), None
        if from_ is not None:
            from gendiff.training.branch import parent_of

            with passing_over() as problems:
                parent = parent_of(from_, from_averaged, problems)
            layers = [parent.layer, *layers]
        settings = resolve(layers)
        with settings.locating():
            remark_overruled(settings)
            _start(settings.config, device, partial(together, None, {}, parent))


def _start(config: Config, device: str | None, together: Callable[[Config, World], None]) -> None:
    from gendiff.machine.world import join

    remark_schedule(config)
    remark_speeds(config)
    for logger in config.train.loggers:
        logger.ready()
    config = config.fitted()
    with join(device) as world:
        together(config, world)


def _together(
    registry: Registry,
    out: Path | None,
    dry_run: bool,
    json: bool,
    load: Load,
    asked_threads: int | None,
    run: Run | None,
    changed_data: Mapping[str, Any],
    parent: Parent | Foreign | None,
    config: Config,
    world: World,
) -> None:
    """What each process does; a function of its own, so that the trainer is gone before the world is."""
    from gendiff.run import checkpoint
    from gendiff.run.directory import Run
    from gendiff.training.branch import begin
    from gendiff.training.continuation import check_disk, resuming
    from gendiff.training.inspection import inspected
    from gendiff.training.plan import plan
    from gendiff.training.trainer import Trainer
    from gendiff_cli.progress import watched

    with ExitStack() as stack:
        threads = _threads(asked_threads, load, config, world, run)
        config = config.filled(world.size, say=world.main)
        if config.held_out is not None and run is None and world.main:
            note(config.split.words)
        trainer = Trainer(config, world.device, world)
        if config.sampler.prior == "standard":
            remark_end(config.diffusion(), config, fix="--set sampler.prior=matched")
        lineage, lines = begin(trainer, parent, config.model) if run is None else (None, [])
        for line in [*lines, *inspected(trainer)]:
            note(line)
        if run is not None:
            with passing_over() as problems:
                trainer.restore(checkpoint.newest(run.checkpoints, problems))
            # A run that was ended between its last checkpoint and its last preview is finished below.
            has_preview = not config.train.sample_every or run.preview(trainer.step).exists()
            is_done = trainer.step == config.train.steps and run.info["status"] == "done" and has_preview
            if trainer.step > config.train.steps or is_done:
                raise ConfigError(
                    f"'{run.path}' has already reached step {trainer.step}",
                    where="--resume",
                    fix=f"train longer: {resuming(run, steps=2 * trainer.step)}",
                )
        if dry_run:
            forecast(trainer, load, threads, json)
            return
        start = plan(trainer, load, threads, memory=True)  # before anything is made: there may be too little
        if run is None:
            check_disk(out or Path("runs"), trainer)  # before anything is made
            run = Run.create(config, registry, out, sys.argv[1:], lineage) if world.main else None
            if run is not None:
                stack.enter_context(_taken_away_where_nothing_is_saved(run))
            path = world.broadcast(str(run.path) if run else "")
            run = run or Run.open(Path(path), training=True)
            is_new = True
        else:
            check_disk(run.path, trainer)
            is_new = False
        if world.main:
            stack.enter_context(run.lock())
            if not is_new:
                _go_on(run, trainer.step, changed_data)
            run.forget_after(trainer.step)
        announce(start)
        clock = Clock(trainer)
        watched(run, trainer, registry)
        if world.main:
            _finish(run, trainer, clock, start, json)


def _threads(asked: int | None, load: Load, config: Config, world: World, run: Run | None) -> Threads:
    """How many threads this process has from here on; a run that goes on keeps its number."""
    before = run.info.get("threads") if run is not None and world.size == 1 else None
    known = before if isinstance(before, int) and before > 0 else None
    threads = threads_of(asked, load, world, known, config.train.deterministic)
    if known not in (None, threads.count) and world.device.type == "cpu" and world.main:
        note(
            f"'{run and run.path}' had {counted(known or 0, 'thread')}, and has {threads.count} from here on: last bits change"
        )
    return threads


def _go_on(run: Run, step: int, changed_data: Mapping[str, Any]) -> None:
    """Write into the run's record what it does not go on with as it was, and say it."""
    before = len(run.info.get("changes", []))
    for text in run.go_on(step, changed_data):
        note(text)
    from gendiff.run import history

    for line in history.lines({"changes": [c for c in run.info.get("changes", [])[before:] if c.get("set")]}):
        note(line)
    if changed_data:
        missing = changed_data["left_out"]
        what = f"{missing} of the pictures that it began with" if missing else "none of its pictures any more"
        note(f"from step {step} on, '{run.path}' leaves out {what}")


@contextmanager
def _taken_away_where_nothing_is_saved(run: Run) -> Iterator[None]:
    """A new run that fails before there is anything to go on from leaves no directory that would refuse the next attempt."""
    from gendiff.run import checkpoint

    try:
        yield
    except Stopped:
        raise
    except Exception as error:
        if not any(checkpoint.steps(run.checkpoints)):
            run.take_away()
            if isinstance(error, GendiffError):
                error.details = (*error.details, f"no step was saved, and '{run.path}' was taken away again")
        raise


def _finish(run: Run, trainer: Trainer, clock: Clock, start: Mapping[str, Any], json: bool) -> None:
    from gendiff.run.curve import curve, verdict

    last, facts = run.last_training_row(), conclude(run, trainer, clock)
    if points := curve(run.rows()):
        note(verdict(points))
    if json:
        done = {"run": str(run.path), "steps": trainer.step, "loss": last.get("loss"), "status": "done"}
        json_result({**done, **facts, "start": dict(start)})
    else:
        result(str(run.path))
    next_step(command("sample", run.path))


def _changes(path: Path, given: Given, out: Path | None) -> list[Layer]:
    """The settings that are given with --resume; raises `ConfigError` for what would make another run of it."""
    from gendiff.run.layers import Layer
    from gendiff.run.shorthand import KEYS
    from gendiff.training.continuation import refuse_another_run

    changes = [Layer.from_assignment(assignment) for assignment in given.values.get("set", ())]
    changes += [layer for layer in given.flags() if layer.origin != "--steps"]
    whole = [word for word in given.values if word not in KEYS and word != "set"]
    changes += [Layer(f"--{word}", {word: ""}) for word in whole]
    changes += [Layer("--out", {"out": ""})] if out else []
    words = given.words() + (["--out", str(out)] if out else [])
    refuse_another_run(path, changes, words)
    return changes
