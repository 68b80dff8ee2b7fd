"""Training: one loop, the same on one process or many, that can stop and go on at any step.

Everything that happens at step t is a function of the state after step t-1 and of (seed, t): data order, noise, dropout,
learning rate and averaging decay. A resumed run is therefore bit-identical to one that was never stopped (same machine,
thread and process count).
"""

from __future__ import annotations

import errno
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
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
from gendiff.errors import ConfigError, DataError, GendiffError, Stopped, failure, printable
from gendiff.memory import memory_for
from gendiff.network import build_denoiser, build_network, check_weights, load_weights
from gendiff.objective import Loss
from gendiff.observers import Observers
from gendiff.process_group import ProcessGroup
from gendiff.roll import absence
from gendiff.rotation import dct
from gendiff.run import Run, now, numbers
from gendiff.score import Denoiser
from gendiff.shapes import whole
from gendiff.stopping import StopRequest, interruptible, stop_requests, stopped
from gendiff.storage import disk
from gendiff.streams import stream
from gendiff.workers import DataProcessDied

BANDS = 4  # frequency bands of the loss in metrics.jsonl
LISTED = 20  # pictures named in the record of a run
PATIENCE = 5  # steps in a row with a non-finite loss or gradient before a run gives up


@dataclass
class Window:
    """Sums since the last row of metrics.jsonl; stored with a checkpoint so that a resumed run logs the same rows."""

    steps: int = 0
    loss: float = 0.0
    bands: list[float] | None = None  # of the last step, where that is logged and applied
    grad_norm: float = 0.0
    skipped: int = 0

    @classmethod
    def of(cls, table: Mapping[str, Any], step: int) -> Window:
        """The window that a checkpoint of ``step`` holds; raises `TypeError` or `ValueError` where it is none."""
        window = cls(**table)
        if not all(map(math.isfinite, [window.loss, window.grad_norm, *(window.bands or [])])):
            raise ValueError("sums that are not finite")
        if window.bands is not None and (not isinstance(window.bands, list) or len(window.bands) != BANDS):
            raise ValueError(f"a loss of other than {BANDS} bands")
        window.steps, window.skipped = _count(window.steps, step), _count(window.skipped, step)
        return window

    def means(self) -> dict[str, Any]:
        """Averages over the window's applied steps, None where none was applied; by band, the loss of the last step alone."""
        n = self.steps
        return {
            "loss": self.loss / n if n else None,
            "loss_bands": self.bands,
            "grad_norm": self.grad_norm / n if n else None,
            "skipped": self.skipped,
        }


def _count(number: Any, step: int) -> int:
    """A number of steps up to ``step``; raises `TypeError` or `ValueError` where it is none."""
    if not 0 <= whole(number) <= step:
        raise ValueError(f"{number} of {step} steps")
    return whole(number)


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

    Attributes:
        kept: the last step whose state is on the disk; that of step 0 follows from the configuration.
        begun: the step that it began from, or was restored to.
        whole: whether all of the state is of one step: not in the middle of an optimiser step.
        compiling: whether the next step compiles the network.

    """

    def __init__(self, config: Config, device: torch.device, group: ProcessGroup) -> None:
        self.config = config
        self.settings = config.train
        self.device = device
        self.group = group
        self.step = 0
        self.kept = 0
        self.begun = 0
        self.whole = True
        self.compiling = self.settings.compile
        self.failures = 0
        self.window = Window()
        too_large = f"the network of model '{config.model.name}' is too large to be trained here"
        with memory_for(too_large, "make it smaller: --model or --set model.KEY=VALUE"):
            self._build()
        self.batches = Batches(config.data, config.N, self.settings.seed, self.settings.batch, group.rank, group.world)
        shape = config.data.event_shape
        bands = one_hot(frequency_bands(shape, BANDS).flatten(), BANDS).float().to(device)
        self.band_means = bands / bands.sum(0).clamp_min(1)

    def _build(self) -> None:
        """The network and all that is as large as it is."""
        self.denoiser = build_denoiser(self.config, self.device)
        self.network = self.denoiser.network
        self.size = sum(parameter.numel() for parameter in self.network.parameters())
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
        self.parallel = DistributedDataParallel(self.denoiser) if self.group.world > 1 else self.denoiser

    def _refuse_samplers(self) -> None:
        """Raise `ConfigError` now, not when a grid is drawn, where a sampler of the run cannot sample its process."""
        samplers = {"sampler": self.config.sampler}
        if self.settings.sample_every:
            samplers["train.preview"] = self.settings.preview
        for key, sampler in samplers.items():
            try:
                next(iter(sampler.updates(self.diffusion)), None)
            except ConfigError as error:
                error.what = f"{key}: {error.what}"
                error.subject = f"{key}.{error.subject.partition('.')[2] or 'name'}"
                raise

    def train_step(self, batch: Batch) -> None:
        """One optimiser step; a step whose loss or gradient is not finite is counted and not applied.

        Raises `StopRequest` at once where one comes while the network is compiled, in the first step: that takes minutes, and
        nothing was done yet that the disk does not hold.
        """
        step = self.step + 1
        too_much = f"a step on {self.settings.batch} events with a network of {self.size:,} parameters is too large"
        with memory_for(too_much, "lower --batch, use --precision bf16, or choose a smaller network"):
            with interruptible() if self.compiling else nullcontext():
                batch = batch.to(self.device)
                loss, grad_norm, mean_loss = self._gradient(batch, step)
            self.compiling = False
            self._advance(step, batch, loss, grad_norm, mean_loss)

    def _gradient(self, batch: Batch, step: int) -> tuple[Loss, float, float]:
        """The loss, the norm of its gradient before it was clipped, and its mean."""
        torch.manual_seed(stream(self.settings.seed, "dropout", step, self.group.rank).initial_seed())
        self.parallel.train()
        loss = self.config.objective.loss(self.parallel, self.diffusion, batch.x_0, batch.i, batch.eps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.per_event.mean().backward()
        clip = self.settings.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), clip)
        mean = loss.per_event.detach().mean()
        # All that the host must know of this step in one transfer: a GPU waits at each.
        grad_norm, mean_loss = torch.stack([norm, mean]).tolist()
        return loss, grad_norm, mean_loss

    def _advance(self, step: int, batch: Batch, loss: Loss, grad_norm: float, mean_loss: float) -> None:
        """Apply the gradient, or skip the step."""
        self.step = step
        self.window.bands = None
        # Gradients are those of all processes, losses are not: each must know whether the others skip.
        if self.group.any(not (math.isfinite(grad_norm) and math.isfinite(mean_loss))):
            self._skip(batch, loss)
            return
        self.failures = 0
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(self.settings, step)
        self.whole = False
        self.optimizer.step()
        self._average(ema_decay(self.settings, step))
        self.window.steps += 1
        self.window.loss += mean_loss
        self.window.grad_norm += grad_norm
        if self.logged(step):
            self.window.bands = self._by_band(loss)
        self.whole = True

    def logged(self, step: int) -> bool:
        """Whether metrics.jsonl has a row of this step."""
        return step % self.settings.log_every == 0 or step == self.settings.steps

    def averaged(self) -> Denoiser:
        """A network with the averaged weights, or the current ones where none are kept, ready to sample."""
        network = build_network(self.config)
        load_weights(network, self.ema or self.network.state_dict())
        return Denoiser(network, self.diffusion, self.denoiser.frequency_features).to(self.device).eval()

    def reduce_window(self) -> None:
        """Average the window over processes, so that each holds what all saw."""
        window = self.window
        bands = window.bands or []  # of all processes or of none: they skip together
        window.loss, window.grad_norm, *bands = self.group.mean([window.loss, window.grad_norm, *bands])
        window.bands = bands or None

    def checkpoint(self, about: dict[str, Any]) -> Checkpoint:
        """The state as tensors by name, copies on the CPU, and small numbers."""
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
                group: {name: t.detach().to("cpu", copy=True).contiguous() for name, t in named.items()}
                for group, named in tensors.items()
            },
            state={"images": self.step * self.settings.batch, "failures": self.failures, "window": asdict(self.window)},
            about=about,
        )

    def initial(self, about: dict[str, Any]) -> Checkpoint:
        """The state before the first step, whatever this one has done since."""
        cpu = torch.device("cpu")
        return Trainer(self.config, cpu, ProcessGroup(0, 1, cpu)).checkpoint(about)

    def restore(self, saved: Checkpoint) -> None:
        """Take up the state of a checkpoint; raises `DataError` where it belongs to another network."""
        where = f"the checkpoint of step {saved.step}"
        load_weights(self.network, saved.tensors.get("model", {}), f"model.safetensors, {where}")
        if self.ema:
            check_weights(self.ema, saved.tensors.get("ema", {}), f"ema.safetensors, {where}")
            self.ema = {name: value.to(self.device) for name, value in saved.tensors["ema"].items()}
        try:
            self.window = Window.of(saved.state["window"], saved.step)
            self.failures = _count(saved.state["failures"], saved.step)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"the state.json of {where} lacks what training needs") from error
        self._restore_optimizer(saved)
        self.step = self.kept = self.begun = saved.step

    def _restore_optimizer(self, saved: Checkpoint) -> None:
        """Take up the moments of Adam, which must be those of these weights: torch would take any, and fail later or never."""
        known = dict(saved.tensors.get("optimizer", {}))
        applied = self.failures < saved.step  # where no step ever was, there are no moments
        for name, parameter in self.network.named_parameters():
            shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            if not any(f"{name}.{entry}" in known for entry in shapes) and not (applied and parameter.requires_grad):
                continue
            state = {}
            for entry, shape in shapes.items():
                value = known.pop(f"{name}.{entry}", None)
                dtype = torch.float32 if entry == "step" else parameter.dtype
                fits = value is not None and value.shape == shape and value.dtype == dtype
                if value is None or not fits or bool(checkpoint.spoilt("optimizer", f"{name}.{entry}", value).any()):
                    raise _unusable_moment(saved.step, f"{name}.{entry}", value, shape, dtype)
                state[entry] = value.to("cpu" if entry == "step" else self.device, copy=True)
            self.optimizer.state[parameter] = state
        if known:
            raise _unusable_moment(saved.step, *next(iter(known.items())))

    def _average(self, decay: float) -> None:
        if self.ema:
            current = self.network.state_dict()
            floating = [name for name in self.ema if self.ema[name].is_floating_point()]
            torch._foreach_lerp_([self.ema[name] for name in floating], [current[name] for name in floating], 1 - decay)

    def _by_band(self, loss: Loss) -> list[float]:
        """The mean squared error of the batch in each band of frequencies."""
        error = dct(self.diffusion.unrotate(loss.error_bar))
        means: list[float] = (error.square().mean((0, 1)).flatten() @ self.band_means).tolist()
        return means

    def _skip(self, batch: Batch, loss: Loss) -> None:
        self.window.skipped += 1
        self.failures += 1
        # Fewer are given up on too where there are no others: a run must not end as if it had trained.
        ended = self.step == self.settings.steps and self.failures >= self.step - self.begun
        if self.failures < PATIENCE and not ended:
            return
        events = zip(batch.index.tolist(), batch.i.tolist(), loss.per_event.tolist(), strict=True)
        blamed = [f"event {index} at i = {i}" for index, i, value in events if not math.isfinite(value)]
        bands = [str(band) for band, value in enumerate(self._by_band(loss)) if not math.isfinite(value)]
        raise self.gave_up(
            f"non-finite loss: {', '.join(blamed[:5])}" if blamed else "every loss is finite: the gradient overflows",
            f"frequency bands affected, 0 is the lowest of {BANDS}: {', '.join(bands)}" if bands else "",
        )

    def gave_up(self, *details: str) -> GendiffError:
        """What to raise where the last steps were skipped and no more are tried."""
        return GendiffError(
            f"the loss or its gradient was not finite in {self.failures} step{'s' * (self.failures > 1)} in a row, "
            f"up to step {self.step}",
            details=[*details, "none of these steps was applied; a checkpoint was saved"],
            fix="start a new run with a lower --lr, or with --precision fp32",
        )


def _unusable_moment(
    step: int, name: str, value: Tensor | None, shape: torch.Size | None = None, dtype: torch.dtype | None = None
) -> DataError:
    if value is None:
        what = "is missing"
    elif shape is None:
        what = "belongs to no weight of this network"
    elif value.shape == shape and value.dtype == dtype:
        what = "holds values that no training could go on with: not finite, or below 0"
    else:
        what = f"is {tuple(value.shape)} of {value.dtype}"
    return DataError(
        f"the checkpoint of step {step} has no usable state of the optimiser: '{name}' {what}".replace("torch.", ""),
        where="optimizer.safetensors",
        details=[f"expected: {tuple(shape)} of {dtype}".replace("torch.", "")] if shape is not None else [],
        fix="move that checkpoint to another place to go on from the one before it, or start a new run",
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
        preview: called every ``sample_every`` steps and after the last, in the main process, once the checkpoint of that step is
            saved; and first of all where the run was ended between the two: where the picture is not there.

    Raises:
        Stopped: on a request to stop, after the step is finished and a checkpoint saved.
        Exception: whatever data or components raise, after a checkpoint of the last finished step is saved.

    """
    if trainer.step == trainer.settings.steps and trainer.failures and run.info["status"] == "failed":
        raise trainer.gave_up()  # again: nothing has been done since, and it would count as done
    observers = observers or Observers()
    told = partial(observers.notify, run=run.path) if trainer.group.main else _silence
    status = "failed"

    def record(**facts: Any) -> None:
        if trainer.group.main:
            run.update(**facts)

    try:
        with telling_how_to_go_on(run, trainer):
            record(status="running", pid=os.getpid())
            told("gendiff_run_started", config=run.config.table(), step=trainer.step)
            _loop(run, trainer, told, preview)
        status = "done"
    except Stopped:
        status = "stopped"
        raise
    finally:
        with suppress(OSError, GendiffError) if status == "failed" else nullcontext():
            record(status=status, ended=now())
        told("gendiff_run_ended", step=trainer.step, status=status)


def _loop(run: Run, trainer: Trainer, told: Callable[..., None], preview: Callable[[Trainer], None]) -> None:
    settings = trainer.settings
    group = trainer.group
    about = {"run": run.info["id"], "versions": run.info["versions"], "data": trainer.config.data.fingerprint}
    started, first = time.perf_counter(), trainer.step
    workers = default_workers(trainer.device) if settings.workers is None else settings.workers
    loader = trainer.batches.loader(first + 1, settings.steps, workers, trainer.device)
    # Alone, a process may stop wherever its state is whole; several must agree, or one waits for ever.
    between = interruptible if group.world == 1 else nullcontext

    def save(initial: bool = False) -> None:
        """Save what was reached, where the disk does not hold it and it is whole."""
        if group.main and (initial or trainer.kept < trainer.step) and trainer.whole:
            if not run.path.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(run.path))
            saved = trainer.initial(about) if initial else trainer.checkpoint(about)
            path = checkpoint.save(run.checkpoints, saved, settings.keep)
            told("gendiff_checkpoint_saved", step=trainer.step, checkpoint=path)
        if trainer.whole:
            trainer.kept = trainer.step

    def halt(number: int) -> Stopped:
        save(initial=trainer.step == 0)
        return stopped(f"at step {trainer.step}", number, "a checkpoint was saved", resuming(run))

    def show() -> tuple[bool, bool]:
        """Draw the preview; returns whether it is drawn, and whether any process was asked to stop."""
        drawn = True
        if group.main:
            with saving_on_failure(save):
                try:
                    with interruptible():
                        preview(trainer)
                except StopRequest:
                    drawn = False
        return drawn, group.any(bool(requested))

    with closing(loader), stop_requests() as requested:
        try:
            if first and _shows(settings, first) and not run.grid(first).exists():
                drawn, stop = show()
                if stop and not (drawn and first == settings.steps):
                    raise halt(requested[0] if requested else signal.SIGTERM)
            while trainer.step < settings.steps:
                with saving_on_failure(save):
                    with between():
                        batch = next(loader)
                    trainer.train_step(batch)
                step, last = trainer.step, trainer.step == settings.steps
                images_per_s = (step - first) * settings.batch / (time.perf_counter() - started)
                loss = trainer.window.means()["loss"]
                if trainer.logged(step):
                    trainer.reduce_window()
                    row = {"step": step, "images": step * settings.batch, **trainer.window.means()}
                    row |= {"lr": learning_rate(settings, step), "images_per_s": round(images_per_s, 1)}
                    if group.main:
                        run.log(row)
                    told("gendiff_metrics_ready", step=step, values=numbers(row))
                    trainer.window = Window()
                stop, drawn = group.any(bool(requested)), True
                shows = _shows(settings, step)
                if last or stop or shows or step % settings.checkpoint_every == 0:
                    trainer.reduce_window()
                    save()
                    group.barrier()
                told("gendiff_step", step=step, loss=math.nan if loss is None else loss, images_per_s=images_per_s)
                if shows:
                    drawn, stop = (False, True) if stop else show()
                if stop and not (last and drawn):
                    raise halt(requested[0] if requested else signal.SIGTERM)
        except StopRequest as request:
            raise halt(request.number) from request


def _shows(settings: TrainSettings, step: int) -> bool:
    """Whether there is a preview of this step."""
    return bool(settings.sample_every) and (step % settings.sample_every == 0 or step == settings.steps)


def resuming(run: Run, change: str = "") -> str:
    """The command that goes on with a run; ``change`` is a setting that it is to have from there on."""
    own: str = run.in_python.get("resume", "")
    return own or command("train", "--resume", run.path, *(["--set", change] if change else []))


@contextmanager
def saving_on_failure(save: Callable[[], None]) -> Iterator[None]:
    """Save what was reached where the block fails, without waiting for other processes: this one may have failed alone.

    A component that calls ``sys.exit`` has failed too.
    """
    try:
        yield
    except Exception as error:
        _save_after(error, save)
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failed = failure(error)
        _save_after(failed, save)
        raise failed from error


def _save_after(error: Exception, save: Callable[[], None]) -> None:
    """Save, and where that fails too, say so with the error that came first."""
    try:
        save()
    except (GendiffError, OSError) as second:
        if not isinstance(error, GendiffError):
            raise
        error.details = (*error.details, f"no checkpoint could be saved after that: {second}")


@contextmanager
def telling_how_to_go_on(run: Run, trainer: Trainer) -> Iterator[None]:
    """Errors of data, disks and processes say which checkpoint there is and the command that goes on from it."""
    try:
        yield
    except OSError as error:
        if not (run.path / "config.toml").exists():
            raise _vanished(run, trainer) from error
        if error.errno not in disk.FULL and not str(error.filename).startswith(str(run.path)):
            raise  # not of the run's own files
        raise disk.refusal(error, run.path, safe=_safe(run), go_on=_on(run)) from error
    except Stopped:
        raise
    except GendiffError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error, DataError):
            if not (run.path / "config.toml").exists():
                raise _vanished(run, trainer) from error
            error.details = (*error.details, *_safe(run))
            error.fix = ", then ".join(filter(None, ["make room", _on(run)]))
        elif isinstance(error, DataError) and _safe(run):
            error.details = (*error.details, *_safe(run))
            error.fix = way_on(run, trainer.config, error)
        elif isinstance(error, DataProcessDied) and _safe(run):
            error.details = (*error.details, *_safe(run))
            error.fix = f"{_on(run)}; or with fewer processes: {resuming(run, 'train.workers=0')}"
        raise


def way_on(run: Run, config: Config, error: DataError) -> str:
    """How to go on with a run whose data became bad."""
    if "on_bad_image" in type(config.data).model_fields:
        return (
            f"put it back as it was, then go on: {resuming(run)}; "
            f"or go on without it: {resuming(run, 'data.on_bad_image=skip')}"
        )
    return "; ".join(filter(None, [error.fix, f"once the data are as they were, go on: {resuming(run)}"]))


def _on(run: Run) -> str:
    return f"go on: {resuming(run)}" if _safe(run) else ""


def _safe(run: Run) -> list[str]:
    """The checkpoint that a run would go on from, in one line; none where there is none."""
    steps = checkpoint.steps(run.checkpoints)
    return [f"the checkpoint of step {steps[0]} is safe"] if steps else []


def _vanished(run: Run, trainer: Trainer) -> GendiffError:
    return GendiffError(
        f"the run directory '{run.path}' is gone: it was removed or moved, or its disk was taken away",
        details=[f"it was noticed at step {trainer.step}; nothing was written in its place"],
        fix=f"bring it back, then go on: {resuming(run)}",
    )


def _silence(hook: str, **facts: Any) -> None:
    """What the other processes tell."""


def default_workers(device: torch.device) -> int:
    """Data processes when none are asked for: preparing data must not take the cores that a CPU trains on."""
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if device.type == "cuda" else 0


def check_disk(path: Path, trainer: Trainer) -> None:
    """Refuse to start where the checkpoints of the whole run at ``path``, which need not exist, cannot fit."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in trainer.network.parameters())
    copies = 3 + bool(trainer.ema)  # weights, two moments, the average
    keep = trainer.settings.keep
    needed = weights * copies * (keep + 1)  # one more is staged before the oldest goes
    held = sum(
        file.stat().st_size for file in (path / "checkpoints").rglob("*") if file.is_file()
    )  # a resumed run replaces these
    free = disk.free(path)
    if free + held < needed:
        raise GendiffError(
            f"not enough room in '{path}' for the checkpoints",
            details=[f"{needed:,} bytes needed for {keep + 1} checkpoints, {free:,} free"],
            fix="make room, choose another --out, or "
            + ("keep fewer: --set train.keep=1" if keep > 1 else "train a smaller network"),
        )


def changed_data(run: Run, config: Config) -> dict[str, Any]:
    """What has changed in the data since the run began, for its record; empty where nothing has.

    A resumed run must see the data it began with. Only pictures may be missing, and only where ``on_bad_image=skip`` says so.

    Raises `ConfigError` for other data, `DataError` for data that cannot be read, with how to go on.
    """
    before = run.info.get("data", {}).get("fingerprint")
    try:
        now = config.data.fingerprint
    except DataError as error:
        error.fix = way_on(run, config, error)
        raise
    if before is None or before == now:
        return {}
    details = [f"fingerprint then: {before}", f"fingerprint now:  {now}"]
    if not (known := run.roll()):
        fix = f"bring them back, then go on: {resuming(run)}; or start a new run"
        raise ConfigError(f"the data of '{run.path}' have changed since it began", details=details, fix=fix)
    difference = absence(known, config.data.parts)
    if difference.strange:
        names = ", ".join(printable(name) for name in difference.strange[:5])
        more = f" and {len(difference.strange) - 5} more" if len(difference.strange) > 5 else ""
        raise ConfigError(
            f"the data of '{run.path}' have changed since it began",
            details=[*details, f"new, or not as they were: {names}{more}"],
            fix=f"take these away or put them back as they were, then go on: {resuming(run, 'data.on_bad_image=skip')}",
        )
    if getattr(config.data, "on_bad_image", "") != "skip":
        raise ConfigError(
            f"{difference.count} of the pictures that '{run.path}' began with are gone",
            details=details,
            fix=f"put them back, then go on: {resuming(run)}; "
            f"or go on without them: {resuming(run, 'data.on_bad_image=skip')}",
        )
    unreadable = [[printable(str(name)), why] for name, why in config.data.skipped]
    return {
        "fingerprint": now,
        "before": before,
        "left_out": difference.count,
        "unreadable": unreadable[:LISTED],
    }


def refuse_other_data(run: Run, config: Config) -> None:
    """Raise as `changed_data` does, and also where pictures are left out: what is compared must have seen the same."""
    if change := changed_data(run, config):
        raise ConfigError(
            f"{change['left_out']} of the pictures that '{run.path}' began with are gone or cannot be read",
            details=[f"fingerprint then: {change['before']}", f"fingerprint now:  {change['fingerprint']}"],
            fix="put them back as they were, or compare from the beginning",
        )
