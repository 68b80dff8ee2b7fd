"""``gendiff train``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError, GendiffError
from gendiff_cli.console import json_result, next_step, note, result
from gendiff_cli.opening import open_run, passing_over
from gendiff_cli.options import DeviceOption, Given, JsonOption, configured
from gendiff_cli.remarks import remark_end, remark_schedule

if TYPE_CHECKING:
    from gendiff.machine.world import World
    from gendiff.plugin.registry import Registry
    from gendiff.run.config import Config, Layer
    from gendiff.run.directory import Run
    from gendiff.training.trainer import Trainer

#: What may be set for the rest of a run: where it is kept and watched, and bad pictures that are to be left out.
CHANGEABLE = (
    "data.on_bad_image",
    "train.workers",
    "train.keep",
    "train.checkpoint_every",
    "train.sample_every",
    "train.preview",
    "train.metrics",
    "train.loggers",
)


@configured(
    "process rotation schedule velocity noise objective model data size sampler logger metric "
    "steps batch lr ema precision seed compile deterministic device out preset config set"
)
def train(
    context: typer.Context,
    given: Given,
    device: DeviceOption = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; default: the next number under runs/.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with a run; --steps may be given too.", metavar="RUN")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Train a diffusion. Without options: DDPM on embedded handwritten digits, some minutes on a laptop.

    Blur diffusion: gendiff train --rotation dct --schedule log
    """
    together = partial(_together, context.obj, out, dry_run, json)
    if resume is not None:
        changes = _changes(given, out)
        from gendiff.training.continuation import changed_data

        run = open_run(resume, training=True, steps=given.values.get("steps"), changes=changes)
        new_settings = {layer.origin.removeprefix("--set "): said(layer) for layer in changes}
        change = Change(new_settings, changed_data(run, run.config))
        _start(run.config, device, partial(together, run, change))
    else:
        from gendiff.run.config import resolve

        settings = resolve(given.layers(context.obj))
        with settings.locating():
            _start(settings.config, device, partial(together, None, Change()))


@dataclass(frozen=True)
class Change:
    """What a resumed run does not go on with as it was: settings by key, and what `changed_data` says of its data."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)

    def keep(self, run: Run, step: int) -> None:
        """Write it into the run's record, and say what of the data is left out."""
        if self.settings or self.data:
            run.record(step, self.settings, self.data)
        if self.data:
            missing = self.data["left_out"]
            what = f"{missing} of the pictures that it began with" if missing else "none of its pictures any more"
            note(f"from step {step} on, '{run.path}' leaves out {what}")


def _start(config: Config, device: str | None, together: Callable[[Config, World], None]) -> None:
    from gendiff.machine.world import join

    remark_schedule(config)
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
    run: Run | None,
    change: Change,
    config: Config,
    world: World,
) -> None:
    """What each process does; a function of its own, so that the trainer is gone before the world is."""
    from gendiff.run import checkpoint
    from gendiff.run.directory import Run
    from gendiff.training.continuation import check_disk, resuming
    from gendiff.training.trainer import Trainer
    from gendiff_cli.progress import watched

    with ExitStack() as stack:
        trainer = Trainer(config, world.device, world)
        if config.sampler.prior == "standard":
            remark_end(config.diffusion(), config, fix="--set sampler.prior=matched")
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
                    fix=f"train longer: {resuming(run)} --steps {2 * trainer.step}",
                )
        if dry_run:
            _describe(config, trainer, json)
            return
        if run is None:
            check_disk(out or Path("runs"), trainer)  # before anything is made
            run = Run.create(config, registry, out, sys.argv[1:]) if world.main else None
            if run is not None:
                stack.enter_context(_taken_away_where_nothing_is_saved(run))
            path = world.broadcast(str(run.path) if run else "")
            run = run or Run.open(Path(path), training=True)
        else:
            check_disk(run.path, trainer)
        if world.main:
            stack.enter_context(run.lock())
            run.save_config()  # resumed with other settings, it has changed
            change.keep(run, trainer.step)
            run.forget_after(trainer.step)
        watched(run, trainer, registry)
        if world.main:
            _finish(run, trainer, json)


@contextmanager
def _taken_away_where_nothing_is_saved(run: Run) -> Iterator[None]:
    """A new run that fails before there is anything to go on from leaves no directory that would refuse the next attempt."""
    from gendiff.run import checkpoint

    try:
        yield
    except Exception as error:
        if not checkpoint.steps(run.checkpoints):
            run.take_away()
            if isinstance(error, GendiffError):
                error.details = (*error.details, f"no step was saved, and '{run.path}' was taken away again")
        raise


def _finish(run: Run, trainer: Trainer, json: bool) -> None:
    run.write_card()
    last = run.last_training_row()
    if json:
        json_result({"run": str(run.path), "steps": trainer.step, "loss": last.get("loss"), "status": "done"})
    else:
        result(str(run.path))
    next_step(command("sample", run.path))


def _describe(config: Config, trainer: Trainer, json: bool) -> None:
    parameters = sum(parameter.numel() for parameter in trainer.network.parameters())
    diffusion = trainer.diffusion
    facts: dict[str, Any] = {
        "rotation": config.rotation.spec,
        "velocity": config.velocity.spec,
        "objective": config.objective.spec,
        "basis": f"{config.basis.spec}, in which mean and variance of the data are taken",
        "model": config.model.spec,
        "parameters": parameters,
        "data": config.data.spec,
        "events": list(config.data.event_shape),
        "N": config.N,
        "terminal_log_snr": [
            round(2 * float(edge), 2)
            for edge in (diffusion.at(config.N).half_log_snr.min(), diffusion.at(config.N).half_log_snr.max())
        ],
        "training": f"{config.train.steps} steps of {config.train.batch}, {config.train.precision}, lr {config.train.lr:g}",
        "device": str(trainer.device),
        "checkpoint_bytes": 4 * parameters * (3 + bool(config.train.ema)),
    }
    if json:
        json_result(facts)
        return
    for key, value in facts.items():
        result(f"{key.replace('_', ' '):18} {f'{value:,}' if isinstance(value, int) else value}")
    result("nothing was written")


def said(change: Layer) -> Any:
    """The value that a layer of one setting gives."""
    value: Any = change.table
    for part in change.origin.removeprefix("--set ").split("."):
        value = value[part]
    return value


def _changes(given: Given, out: Path | None) -> list[Layer]:
    """The settings that are given with --resume; raises `ConfigError` for what would change what is trained."""
    from gendiff.run.config import Layer

    changes = [Layer.from_assignment(assignment) for assignment in given.values.get("set", ())]
    refusals = [option for option in given.options if option not in ("--steps", "--set")]
    refusals += ["--out"] if out else []
    refusals += [one.origin for one in changes if not one.origin.removeprefix("--set ").startswith(CHANGEABLE)]
    if refusals:
        raise ConfigError(
            f"a resumed run keeps its configuration; {', '.join(refusals)} would change it",
            where="--resume",
            details=[
                "only --steps and --device may be given with --resume, and --set of what does not change what is trained: "
                + ", ".join(CHANGEABLE)
            ],
            fix="leave it out, or start a new run",
        )
    return changes
