"""Loop: a trainer taken to the last step of its run, that can stop and go on at any step."""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from functools import partial
from typing import Any

import torch

from gendiff.datasets.batches import moved
from gendiff.errors import GendiffError, Stopped
from gendiff.machine.determinism import deterministic
from gendiff.machine.stopping import StopRequest, interruptible, stop_requests, stopped
from gendiff.plugin.observers import Observers
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.record import now
from gendiff.run.rows import numbers
from gendiff.training.agenda import is_logged, is_saved, is_shown, is_snapped
from gendiff.training.continuation import resuming, saving_on_failure, telling_how_to_go_on
from gendiff.training.generalisation import generalisation, looks_at
from gendiff.training.recipe import learning_rate
from gendiff.training.trainer import Trainer


@stop_requests()  # those that come before the first step or after the last too: the record is true all the same
def fit(
    run: Run,
    trainer: Trainer,
    observers: Observers | None = None,
    preview: Callable[[Trainer], None] = lambda trainer: None,
    until: int | None = None,
) -> None:
    """Train ``run`` from where ``trainer`` stands to its last step, and keep its status and its card true.

    Args:
        observers: told what happens, in the main process.
        preview: called every ``sample_every`` steps and after the last, in the main process, once the checkpoint of that step is
            saved; and first of all where the run was ended between the two: where the picture is not there.
        until: a step before the last at which it pauses, with a checkpoint; it goes on from there as if it never had.

    Raises:
        Stopped: on a request to stop, after the step is finished and a checkpoint saved.
        Exception: whatever data or components raise, after a checkpoint of the last finished step is saved.

    """
    if trainer.step == trainer.settings.steps and trainer.failures and run.info["status"] == "failed":
        raise trainer.gave_up()  # again: nothing has been done since, and it would count as done
    observers = observers or Observers()
    notify = partial(observers.notify, run=run.path) if trainer.world.main else _silence
    status = "failed"

    def record(**facts: Any) -> None:
        if trainer.world.main:
            run.update(**facts)

    try:
        with telling_how_to_go_on(run, trainer), deterministic(trainer.settings.deterministic, trainer.device):
            how = {"precision": trainer.precision, "deterministic": trainer.settings.deterministic}
            how |= {"threads": torch.get_num_threads()}  # it decides the last bits of a sum
            record(status="running", pid=os.getpid(), device=str(trainer.device), **how)
            notify("gendiff_run_started", config=run.config.table(), step=trainer.step)
            _loop(run, trainer, notify, preview, min(until or trainer.settings.steps, trainer.settings.steps))
        status = "done" if trainer.step == trainer.settings.steps else "stopped"
    except Stopped:
        status = "stopped"
        raise
    finally:
        with suppress(OSError, GendiffError) if status == "failed" else nullcontext():
            record(status=status, ended=now())
        if trainer.world.main:
            with suppress(Exception) if status == "failed" else nullcontext():  # the first error is the one to tell
                run.write_card()
        notify("gendiff_run_ended", step=trainer.step, status=status)


def _loop(
    run: Run, trainer: Trainer, notify: Callable[..., None], preview: Callable[[Trainer], None], end: int
) -> None:
    settings = trainer.settings
    world = trainer.world
    about = {"run": run.info["id"], "versions": run.info["versions"], "data": trainer.config.data.fingerprint}
    start, first = time.perf_counter(), trainer.step
    workers = default_workers(trainer.device) if settings.workers is None else settings.workers
    loader = trainer.batches.loader(first + 1, end, workers, trainer.device)
    batches = moved(loader, trainer.device)
    # Alone, a process may stop wherever its state is whole; several must agree, or one waits for ever.
    between = interruptible if world.size == 1 else nullcontext

    def save(initial: bool = False, together: bool = False) -> None:
        """Save what was reached, where the disk does not hold it and it is whole; ``together``: all processes do."""
        if trainer.sharded and not together:
            return  # one process alone has only a part of it
        due = (initial or trainer.saved_step < trainer.step) and trainer.whole
        if due and (world.main or trainer.sharded):
            if not run.path.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(run.path))
            content = trainer.initial(about) if initial else trainer.checkpoint(about)
            if world.main:
                path = checkpoint.save(run.checkpoints, content, settings.keep)
                notify("gendiff_checkpoint_saved", step=trainer.step, checkpoint=path)
        if trainer.whole:
            trainer.saved_step = trainer.step

    def snap() -> None:
        """Keep the averages of which others are made later, before any checkpoint that a run goes on from behind them."""
        if is_snapped(settings, trainer.step) and (world.main or trainer.sharded):
            content = trainer.snapshot(about)
            if world.main:
                checkpoint.save(run.snapshots, content, keep=sys.maxsize)

    def halt(number: int) -> Stopped:
        save(initial=trainer.step == 0 and trainer.saved_step == 0, together=True)
        return stopped(f"at step {trainer.step}", number, "a checkpoint was saved", resuming(run))

    def look() -> None:
        """Log the losses of held-out and of training events; whoever goes on takes them first where a request ended it here."""
        if world.main:
            with saving_on_failure(save), between():
                row = generalisation(trainer)
            run.log({"step": trainer.step, **row})
            notify("gendiff_metrics_ready", step=trainer.step, values=numbers(row))

    def show() -> tuple[bool, bool]:
        """Draw the preview; returns whether it is drawn, and whether any process was asked to stop."""
        complete = True
        if world.main:
            with saving_on_failure(save):
                try:
                    with interruptible():
                        preview(trainer)
                except StopRequest:
                    complete = False
        return complete, world.any(bool(requests))

    with closing(loader), stop_requests() as requests:
        try:
            save()  # of a run that begins from another, which it needs no more
            if first and looks_at(trainer.config, first) and not _looked(run, first):
                look()
            if first and is_shown(settings, first) and not run.preview(first).exists():
                complete, stop = show()
                if stop and not (complete and first == settings.steps):
                    raise halt(requests[0] if requests else signal.SIGTERM)
            while trainer.step < end:
                with saving_on_failure(save):
                    with between():
                        batch = next(batches)
                    trainer.train_step(batch)
                    snap()
                step, last = trainer.step, trainer.step == end
                images_per_s = (step - first) * settings.batch / (time.perf_counter() - start)
                loss = trainer.window.means()["loss"]
                if is_logged(settings, step):
                    trainer.reduce_window()
                    row = {"step": step, "images": trainer.images, **trainer.window.means()}
                    row |= {"lr": learning_rate(settings, step), "images_per_s": round(images_per_s, 1)}
                    if trainer.speeds is not None and trainer.speeds.loss is not None:
                        row |= {f"speeds_{settings.speeds.loss}": trainer.speeds.loss}
                    if world.main:
                        run.log(row)
                    notify("gendiff_metrics_ready", step=step, values=numbers(row))
                    trainer.open_window()
                if looks_at(trainer.config, step):
                    look()
                stop, complete = trainer.asks(step) and world.any(bool(requests)), True
                shows = is_shown(settings, step)
                if last or stop or is_saved(settings, step):
                    trainer.reduce_window()
                    save(together=True)
                    world.barrier()
                notify("gendiff_step", step=step, loss=math.nan if loss is None else loss, images_per_s=images_per_s)
                if shows:
                    complete, stop = (False, True) if stop else show()
                if stop and not (last and complete):
                    raise halt(requests[0] if requests else signal.SIGTERM)
                if is_saved(settings, step):
                    trainer.compile_from_here((end - step) * settings.batch / images_per_s)
                trainer.keep_the_faster()
        except StopRequest as request:
            raise halt(request.number) from request


def _looked(run: Run, step: int) -> bool:
    """Whether the losses of both sides are logged at a step."""
    return any(row["step"] == step and "held_out" in row for row in run.rows())


def _silence(hook: str, **facts: Any) -> None:
    """What the other processes tell."""


def default_workers(device: torch.device) -> int:
    """Data processes when none are asked for: preparing data must not take the cores that a CPU trains on."""
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if device.type == "cuda" else 0
