"""Training: one loop, the same on one process or many, that can stop and go on at any step.

Everything that happens at step t is a function of the state after step t-1 and of (seed, t): data order, noise, dropout,
learning rate and averaging decay. A resumed run is therefore bit-identical to one that was never stopped (same machine,
thread and process count).
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.parallel import DistributedDataParallel

from gendiff import checkpoint
from gendiff.batches import Batch, Batches
from gendiff.blur import frequency_bands
from gendiff.checkpoint import Checkpoint
from gendiff.command import command
from gendiff.config import Config, TrainSettings
from gendiff.errors import ConfigError, DataError, GendiffError, Stopped, failure
from gendiff.network import build_denoiser, load_weights
from gendiff.objective import Loss
from gendiff.observers import Observers
from gendiff.process_group import ProcessGroup
from gendiff.rotation import dct
from gendiff.run import Run, now, numbers
from gendiff.score import Denoiser
from gendiff.stopping import stop_requests, stopped
from gendiff.streams import stream

BANDS = 4  # frequency bands of the loss in metrics.jsonl
PATIENCE = 5  # steps in a row with a non-finite loss or gradient before a run gives up


@dataclass
class Window:
    """Sums since the last row of metrics.jsonl; stored with a checkpoint so that a resumed run logs the same rows."""

    steps: int = 0
    loss: float = 0.0
    bands: list[float] = field(default_factory=lambda: [0.0] * BANDS)
    grad_norm: float = 0.0
    skipped: int = 0

    def means(self) -> dict[str, Any]:
        """Averages over the window's applied steps."""
        n = max(self.steps, 1)
        return {
            "loss": self.loss / n,
            "loss_bands": [value / n for value in self.bands],
            "grad_norm": self.grad_norm / n,
            "skipped": self.skipped,
        }


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Linear warm-up, then constant: a function of the step alone."""
    return settings.lr * min(1.0, step / settings.warmup) if settings.warmup else settings.lr


def ema_decay(settings: TrainSettings, step: int) -> float:
    """``min(decay, (1 + step)/(10 + step))``: early averages must not remember the initial weights."""
    return min(settings.ema, (1 + step) / (10 + step))


class Trainer:
    """A network on its way: weights, optimiser, averaged weights and the step they have reached.

    Args:
        group: the processes that train together.

    """

    def __init__(self, config: Config, device: torch.device, group: ProcessGroup) -> None:
        self.config = config
        self.settings = config.train
        self.device = device
        self.group = group
        self.step = 0
        self.failures = 0
        self.window = Window()
        self.denoiser = build_denoiser(config, device)
        self.network = self.denoiser.network
        self.diffusion = self.denoiser.diffusion
        self._refuse_samplers()
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.settings.lr)
        self.ema = (
            {name: weight.detach().clone() for name, weight in self.network.state_dict().items()}
            if self.settings.ema
            else {}
        )
        self.denoiser.autocast = torch.bfloat16 if self.settings.precision == "bf16" else None
        if self.settings.compile:
            self.denoiser.network = torch.compile(self.network)  # type: ignore[assignment]  # still a module
        self.parallel = DistributedDataParallel(self.denoiser) if group.world > 1 else self.denoiser
        self.batches = Batches(config.data, config.N, self.settings.seed, self.settings.batch, group.rank, group.world)
        shape = config.data.event_shape
        bands = one_hot(frequency_bands(shape, BANDS).flatten(), BANDS).float().to(device)
        self.band_means = bands / bands.sum(0).clamp_min(1)

    def _refuse_samplers(self) -> None:
        """Raise `ConfigError` now, not when a grid is drawn, where a sampler of the run cannot sample its process."""
        samplers = {"sampler": self.config.sampler}
        if self.settings.sample_every:
            samplers["train.preview"] = self.settings.preview
        for key, sampler in samplers.items():
            try:
                next(iter(sampler.plan(self.diffusion)), None)
            except ConfigError as error:
                error.what = f"{key}: {error.what}"
                error.subject = f"{key}.{error.subject.partition('.')[2] or 'name'}"
                raise

    def train_step(self, batch: Batch) -> None:
        """One optimiser step; a step whose loss or gradient is not finite is counted and not applied."""
        step = self.step + 1
        torch.manual_seed(stream(self.settings.seed, "dropout", step, self.group.rank).initial_seed())
        self.parallel.train()
        batch = batch.to(self.device)
        loss = self.config.objective.loss(self.parallel, self.diffusion, batch.x_0, batch.i, batch.eps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.per_event.mean().backward()
        clip = self.settings.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        mean = loss.per_event.detach().mean()
        # All that the host must know of this step in one transfer: a GPU waits at each.
        grad_norm, mean_loss, *bands = torch.cat([torch.stack([norm, mean]), self._by_band(loss)]).tolist()
        self.step = step
        # Gradients are those of all processes, losses are not: each must know whether the others skip.
        if self.group.any(not (math.isfinite(grad_norm) and math.isfinite(mean_loss))):
            self._skip(batch, loss, bands)
            return
        self.failures = 0
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(self.settings, step)
        self.optimizer.step()
        self._average(ema_decay(self.settings, step))
        self.window.steps += 1
        self.window.loss += mean_loss
        self.window.grad_norm += grad_norm
        for band, value in enumerate(bands):
            self.window.bands[band] += value

    def averaged(self) -> Denoiser:
        """A network with the averaged weights, or the current ones where none are kept, ready to sample."""
        denoiser = build_denoiser(self.config, self.device)
        load_weights(denoiser.network, self.ema or self.network.state_dict())
        return denoiser.eval()

    def reduce_window(self) -> None:
        """Average the window over processes, so that each holds what all saw."""
        window = self.window
        values = self.group.mean([window.loss, window.grad_norm, *window.bands])
        window.loss, window.grad_norm, window.bands = values[0], values[1], values[2:]

    def checkpoint(self, about: dict[str, Any]) -> Checkpoint:
        """The state as tensors by name and small numbers."""
        names = {id(parameter): name for name, parameter in self.network.named_parameters()}
        optimizer = {
            f"{names[id(parameter)]}.{key}": value
            for parameter, state in self.optimizer.state.items()
            for key, value in state.items()
        }
        tensors = {
            "model": self.network.state_dict(),
            "optimizer": optimizer,
            **({"ema": self.ema} if self.ema else {}),
        }
        return Checkpoint(
            step=self.step,
            tensors={
                group: {name: t.detach().cpu().contiguous() for name, t in named.items()}
                for group, named in tensors.items()
            },
            state={"images": self.step * self.settings.batch, "failures": self.failures, "window": vars(self.window)},
            about=about,
        )

    def restore(self, saved: Checkpoint) -> None:
        """Take up the state of a checkpoint; raises `DataError` where it belongs to another network."""
        load_weights(self.network, saved.tensors.get("model", {}))
        if self.ema:
            if saved.tensors.get("ema", {}).keys() != self.ema.keys():
                raise DataError("the checkpoint's averaged weights belong to another network")
            self.ema = {name: value.to(self.device) for name, value in saved.tensors["ema"].items()}
        moments: dict[str, dict[str, Tensor]] = {}
        for key, value in saved.tensors.get("optimizer", {}).items():
            name, _, entry = key.rpartition(".")
            moments.setdefault(name, {})[entry] = value
        for name, parameter in self.network.named_parameters():
            if name in moments:
                self.optimizer.state[parameter] = {
                    entry: value if entry == "step" else value.to(self.device) for entry, value in moments[name].items()
                }
        try:
            self.window = Window(**saved.state["window"])
            self.failures = int(saved.state["failures"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("the checkpoint's state.json lacks what training needs") from error
        self.step = saved.step

    def _average(self, decay: float) -> None:
        if self.ema:
            current = self.network.state_dict()
            floating = [name for name in self.ema if self.ema[name].is_floating_point()]
            torch._foreach_lerp_([self.ema[name] for name in floating], [current[name] for name in floating], 1 - decay)

    def _by_band(self, loss: Loss) -> Tensor:
        return dct(loss.error).square().mean((0, 1)).flatten() @ self.band_means

    def _skip(self, batch: Batch, loss: Loss, by_band: list[float]) -> None:
        self.window.skipped += 1
        self.failures += 1
        if self.failures < PATIENCE:
            return
        events = zip(batch.index.tolist(), batch.i.tolist(), loss.per_event.tolist(), strict=True)
        blamed = [f"event {index} at i = {i}" for index, i, value in events if not math.isfinite(value)]
        bands = [str(band) for band, value in enumerate(by_band) if not math.isfinite(value)]
        raise GendiffError(
            f"the loss or its gradient was not finite in {self.failures} steps in a row, up to step {self.step}",
            details=[
                f"non-finite loss: {', '.join(blamed[:5])}"
                if blamed
                else "every loss is finite: the gradient overflows",
                f"frequency bands affected, 0 is the lowest of {BANDS}: {', '.join(bands)}" if bands else "",
                "none of these steps was applied; a checkpoint was saved",
            ],
            fix="start a new run with a lower --lr, or with --precision fp32",
        )


def fit(
    run: Run,
    trainer: Trainer,
    observers: Observers | None = None,
    preview: Callable[[Trainer], None] = lambda trainer: None,
) -> None:
    """Train ``run`` from where ``trainer`` stands to its last step, and keep its status true.

    Args:
        observers: told what happens, in the main process.
        preview: called every ``sample_every`` steps and after the last, in the main process.

    Raises:
        Stopped: on SIGTERM, SIGINT or SIGUSR1, after the step is finished and a checkpoint saved.
        Exception: whatever data or components raise, after a checkpoint of the last finished step is saved.

    """
    observers = observers or Observers()
    told = partial(observers.notify, run=run.path) if trainer.group.main else _silence
    if trainer.group.main:
        run.update(status="running", pid=os.getpid())
    told("gendiff_run_started", config=run.config.table(), step=trainer.step)
    status = "failed"
    try:
        _loop(run, trainer, told, preview)
        status = "done"
    except Stopped:
        status = "stopped"
        raise
    finally:
        if trainer.group.main:
            run.update(status=status, ended=now())
        told("gendiff_run_ended", step=trainer.step, status=status)


def _loop(run: Run, trainer: Trainer, told: Callable[..., None], preview: Callable[[Trainer], None]) -> None:
    settings = trainer.settings
    group = trainer.group
    about = {"run": run.info["id"], "versions": run.info["versions"], "data": trainer.config.data.fingerprint}
    started, first = time.perf_counter(), trainer.step
    workers = default_workers(trainer.device) if settings.workers is None else settings.workers
    loader = trainer.batches.loader(first + 1, settings.steps, workers, trainer.device)

    def save() -> None:
        if group.main:
            path = checkpoint.save(run.checkpoints, trainer.checkpoint(about), settings.keep)
            told("gendiff_checkpoint_saved", step=trainer.step, checkpoint=path)

    with closing(loader), stop_requests() as requested:
        while trainer.step < settings.steps:
            with saving_on_failure(save):
                trainer.train_step(next(loader))
            step, last = trainer.step, trainer.step == settings.steps
            images_per_s = (step - first) * settings.batch / (time.perf_counter() - started)
            loss = trainer.window.means()["loss"]
            if step % settings.log_every == 0 or last:
                trainer.reduce_window()
                row = {"step": step, "images": step * settings.batch, **trainer.window.means()}
                row |= {"lr": learning_rate(settings, step), "images_per_s": round(images_per_s, 1)}
                if group.main:
                    run.log(row)
                told("gendiff_metrics_ready", step=step, values=numbers(row))
                trainer.window = Window()
            stop = group.any(bool(requested))
            saved = last or stop or step % settings.checkpoint_every == 0
            if group.main and settings.sample_every and (step % settings.sample_every == 0 or last):
                with saving_on_failure(save):
                    preview(trainer)  # before the checkpoint: killed in between, a run would never draw them
            if saved:
                trainer.reduce_window()
                save()
                group.barrier()
            told("gendiff_step", step=step, loss=loss, images_per_s=images_per_s)
            if stop and not last:
                number = requested[0] if requested else signal.SIGTERM
                kept = "a checkpoint was saved"
                raise stopped(f"at step {step}", number, kept, command("train", "--resume", run.path))


@contextmanager
def saving_on_failure(save: Callable[[], None]) -> Iterator[None]:
    """Save what was reached where the block fails, without waiting for other processes: this one may have failed alone.

    A component that calls ``sys.exit`` has failed too.
    """
    try:
        yield
    except Exception:
        save()
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        save()
        raise failure(error) from error


def _silence(hook: str, **facts: Any) -> None:
    """What the other processes tell."""


def default_workers(device: torch.device) -> int:
    """Data processes when none are asked for: preparing data must not take the cores that a CPU trains on."""
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if device.type == "cuda" else 0


def check_disk(run: Run, trainer: Trainer) -> None:
    """Refuse to start where the checkpoints of the whole run cannot fit."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trainer.network.parameters())
    copies = 3 + bool(trainer.ema)  # weights, two moments, the average
    needed = weights * copies * (trainer.settings.keep + 1)  # one more is staged before the oldest goes
    held = sum(
        file.stat().st_size for file in run.checkpoints.rglob("*") if file.is_file()
    )  # a resumed run replaces these
    free = shutil.disk_usage(run.path).free
    if free + held < needed:
        raise GendiffError(
            f"not enough room in '{run.path}' for the checkpoints",
            details=[f"{needed:,} bytes needed for {trainer.settings.keep + 1} checkpoints, {free:,} free"],
            fix="make room, choose another --out, or keep fewer: --set train.keep=1",
        )


def refuse_other_data(run: Run, config: Config) -> None:
    """A resumed run must see the data it began with."""
    before = run.info.get("data", {}).get("fingerprint")
    if before is not None and before != config.data.fingerprint:
        raise ConfigError(
            f"the data of '{run.path}' have changed since it began",
            details=[f"fingerprint then: {before}", f"fingerprint now:  {config.data.fingerprint}"],
            fix="restore the data, or start a new run",
        )
