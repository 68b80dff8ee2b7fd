"""``gendiff train``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from gendiff.command import command
from gendiff.errors import ConfigError
from gendiff.hookspecs import hookimpl
from gendiff.registry import Registry
from gendiff_cli.console import Verbosity, err, is_main_process, json_result, next_step, note, result
from gendiff_cli.options import (
    ConfigOption,
    DataOption,
    DeviceOption,
    LoggerOption,
    MetricOption,
    ModelOption,
    NoiseOption,
    ObjectiveOption,
    PresetOption,
    ProcessOption,
    RotationOption,
    SamplerOption,
    ScheduleOption,
    SetOption,
    SizeOption,
    VelocityOption,
    layers,
)
from gendiff_cli.remarks import remark_end, remark_schedule

if TYPE_CHECKING:
    from gendiff.config import Config
    from gendiff.process_group import ProcessGroup
    from gendiff.run import Run
    from gendiff.training import Trainer

_training = {"rich_help_panel": "Training"}


def train(
    context: typer.Context,
    process: ProcessOption = None,
    rotation: RotationOption = None,
    schedule: ScheduleOption = None,
    velocity: VelocityOption = None,
    noise: NoiseOption = None,
    objective: ObjectiveOption = None,
    model: ModelOption = None,
    data: DataOption = None,
    size: SizeOption = None,
    sampler: SamplerOption = None,
    logger: LoggerOption = None,
    metric: MetricOption = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.", **_training)] = None,
    batch: Annotated[int | None, typer.Option(help="Events per step, over all processes.", **_training)] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate.", **_training)] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the averaged weights; 0 keeps none.", **_training)] = None,
    precision: Annotated[str | None, typer.Option(help="fp32 or bf16.", **_training)] = None,
    seed: Annotated[int | None, typer.Option(help="Everything random follows from it.", **_training)] = None,
    compile_: Annotated[bool | None, typer.Option("--compile", help="Compile the network.", **_training)] = None,
    device: DeviceOption = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default: the next number under runs/.")] = None,
    preset: PresetOption = None,
    config_file: ConfigOption = None,
    assignments: SetOption = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with a run; --steps may be given too.", metavar="RUN")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train a diffusion. Without options: DDPM on embedded handwritten digits, some minutes on a laptop.

    Blur diffusion: gendiff train --rotation dct --schedule log
    """
    flags = {
        "process": process,
        "rotation": rotation,
        "velocity": velocity,
        "schedule": schedule,
        "noise": noise,
        "objective": objective,
        "model": model,
        "data": data,
        "size": size,
        "sampler": sampler,
        "logger": logger or None,
        "metric": metric or None,
        "steps": steps,
        "batch": batch,
        "lr": lr,
        "ema": ema,
        "precision": precision,
        "seed": seed,
        "compile": compile_,
    }
    registry: Registry = context.obj
    if resume is not None:
        _refuse_changes(flags, preset, config_file, assignments, out)
        from gendiff.run import Run

        run = Run.open(resume, training=True, steps=steps)
        for text in run.notes:
            note(text)
        _start(run.config, run, registry, device, out, dry_run, json)
    else:
        from gendiff.config import resolve

        resolved = resolve(layers(registry, preset, config_file, assignments, flags))
        with resolved.locating():
            _start(resolved.config, None, registry, device, out, dry_run, json)


def _start(
    config: Config, run: Run | None, registry: Registry, device: str | None, out: Path | None, dry_run: bool, json: bool
) -> None:
    from gendiff.process_group import process_group

    remark_schedule(config)
    for logger in config.train.loggers:
        logger.ready()
    config = config.fitted()
    with process_group(device) as group:
        _together(group, config, run, registry, out, dry_run, json)


def _together(
    group: ProcessGroup,
    config: Config,
    run: Run | None,
    registry: Registry,
    out: Path | None,
    dry_run: bool,
    json: bool,
) -> None:
    """What each process does; a function of its own, so that the trainer is gone before the group is."""
    from gendiff import checkpoint
    from gendiff.run import Run
    from gendiff.training import Trainer, check_disk, refuse_other_data

    with ExitStack() as stack:
        trainer = Trainer(config, group.device, group)
        if config.sampler.prior == "standard":
            remark_end(config.diffusion(), config, fix="--set sampler.prior=matched")
        if run is not None:
            refuse_other_data(run, config)
            problems: list[str] = []
            trainer.restore(checkpoint.newest(run.checkpoints, problems))
            for problem in problems:
                note(f"a damaged checkpoint was passed over: {problem}")
            # A run that was killed between its last checkpoint and its end is finished below.
            if trainer.step > config.train.steps or (
                trainer.step == config.train.steps and run.info["status"] == "done"
            ):
                raise ConfigError(
                    f"'{run.path}' has already reached step {trainer.step}",
                    where="--resume",
                    fix=f"train longer: {command('train', '--resume', run.path, '--steps', 2 * trainer.step)}",
                )
        if dry_run:
            _describe(config, trainer, json)
            return
        if run is None:
            run = Run.create(config, registry, out, sys.argv[1:]) if group.main else None
            path = group.broadcast(str(run.path) if run else "")
            run = run or Run.open(Path(path), training=True)
        if group.main:
            stack.enter_context(run.lock())
            run.save_config()  # resumed with more --steps, it has changed
            check_disk(run, trainer)
            run.forget_after(trainer.step)
        watched(run, trainer, registry)
        if group.main:
            _finish(run, trainer, json)


def watched(run: Run, trainer: Trainer, registry: Registry, what: str = "") -> None:
    """Train under a progress bar, before everyone who wants to watch; ``what`` tells it from other runs of one command."""
    from gendiff.observers import Observers
    from gendiff.preview import Preview
    from gendiff.training import fit

    def failed(name: str, why: str) -> None:
        run.switch_off(name, why)
        note(f"{name} failed and is switched off for this run: {why}")

    with ProgressBar(what or run.path.name, trainer.step, trainer.settings.steps) as bar:
        observers = Observers([("the progress bar", bar)], failed)
        if trainer.group.main:
            for name, plugin in registry.observers():
                observers.add(name, plugin)
            for logger in trainer.settings.loggers:
                observers.make(f"logger {logger.name}", partial(logger.observer, run.path))
        fit(run, trainer, observers, Preview(run, observers))


def _finish(run: Run, trainer: Trainer, json: bool) -> None:
    run.write_card()
    last = run.last_training_row()
    if json:
        json_result({"run": str(run.path), "steps": trainer.step, "loss": last["loss"], "status": "done"})
    else:
        result(str(run.path))
    next_step(command("sample", run.path))


class ProgressBar:
    """The live line: step, loss, images/s, ETA; a plain line now and then where there is no terminal."""

    def __init__(self, title: str, first: int, last: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.live = err.is_terminal and Verbosity.level >= 0 and is_main_process()
        self.plain = not err.is_terminal and Verbosity.level >= 0 and is_main_process()
        self.every = max(1, (last - first) // 10)
        self.last = last
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[speed]:.0f} images/s"),
            TimeRemainingColumn(),
            console=err,
            disable=not self.live,
        )
        self.task = self.bar.add_task(escape(title), total=last, completed=first, loss=float("nan"), speed=0.0)

    def __enter__(self) -> ProgressBar:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    @hookimpl
    def gendiff_step(self, step: int, loss: float, images_per_s: float) -> None:
        self.bar.update(self.task, completed=step, loss=loss, speed=images_per_s)
        if self.plain and (step % self.every == 0 or step == self.last):
            err.print(f"step {step}/{self.last}  loss {loss:.4f}  {images_per_s:.0f} images/s")

    @hookimpl
    def gendiff_samples_ready(self, picture: Path) -> None:
        if Verbosity.level >= 0:
            err.print(f"[dim]{escape(str(picture))}[/]")


def _describe(config: Config, trainer: Trainer, json: bool) -> None:
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    diffusion = trainer.diffusion
    facts: dict[str, Any] = {
        "rotation": config.rotation.spec,
        "velocity": config.velocity.spec,
        "objective": config.objective.spec,
        "model": config.model.spec,
        "parameters": parameters,
        "data": config.data.spec,
        "events": list(config.data.event_shape),
        "N": config.N,
        "terminal_log_snr": [
            round(2 * float(edge), 2)
            for edge in (diffusion.half_log_snr(config.N).min(), diffusion.half_log_snr(config.N).max())
        ],
        "training": f"{config.train.steps} steps of {config.train.batch}, {config.train.precision}, lr {config.train.lr:g}",
        "device": str(trainer.device),
        "checkpoint_bytes": 4 * parameters * (3 + bool(config.train.ema)),
    }
    if json:
        json_result(facts)
        return
    for key, value in facts.items():
        result(
            f"{key.replace('_', ' '):18} {value:,}" if isinstance(value, int) else f"{key.replace('_', ' '):18} {value}"
        )
    result("nothing was written")


def _refuse_changes(
    flags: dict[str, Any], preset: list[str] | None, file: Path | None, assignments: list[str] | None, out: Path | None
) -> None:
    given = [f"--{flag}" for flag, value in flags.items() if value is not None and flag != "steps"]
    others = {"--preset": preset, "--config": file, "--set": assignments, "--out": out}
    given += [flag for flag, value in others.items() if value]
    if given:
        raise ConfigError(
            f"a resumed run keeps its configuration; {', '.join(given)} would change it",
            where="--resume",
            details=["only --steps and --device may be given with --resume"],
            fix="leave it out, or start a new run",
        )
