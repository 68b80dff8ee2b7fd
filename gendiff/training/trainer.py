"""Trainer: a network on its way, one step after the other, the same on one process or many.

Everything that happens at step t is a function of the state after step t-1 and of (seed, t): data order, noise, dropout,
learning rate and averaging decay. A resumed run is therefore bit-identical to one that was never stopped (same machine,
thread and process count).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.parallel import DistributedDataParallel

from gendiff.datasets.batches import Batch, Batches
from gendiff.dct import dct
from gendiff.denoiser import Denoiser
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.frequency import frequency_bands
from gendiff.machine.memory import memory_for
from gendiff.machine.stopping import interruptible
from gendiff.machine.world import World
from gendiff.objective import Loss
from gendiff.run import checkpoint
from gendiff.run.checkpoint import Checkpoint
from gendiff.run.config import Config, TrainSettings
from gendiff.run.network import build_denoiser, build_network, check_weights, load_weights
from gendiff.shapes import whole
from gendiff.streams import stream

BANDS = 4  # frequency bands of the loss in metrics.jsonl
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


@dataclass(frozen=True)
class Inheritance:
    """What a network took from another's checkpoint.

    Args:
        taken: how many named tensors of the network.
        left: those of either that have no counterpart, and why, a line each.
        moments: of how many weights the optimiser's state was taken.

    """

    taken: int
    left: list[str]
    moments: int


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
        world: the processes that train together.

    Attributes:
        kept: the last step whose state is on the disk; that of step 0 follows from the configuration.
        begun: the step that it began from, or was restored to.
        whole: whether all of the state is of one step: not in the middle of an optimiser step.
        compiling: whether the next step compiles the network.

    """

    def __init__(self, config: Config, device: torch.device, world: World) -> None:
        self.config = config
        self.settings = config.train
        self.device = device
        self.world = world
        self.step = 0
        self.saved_step = 0
        self.first_step = 0
        self.whole = True
        self.compiling = self.settings.compile
        self.failures = 0
        self.window = Window()
        too_large = f"the network of model '{config.model.name}' is too large to be trained here"
        with memory_for(too_large, "make it smaller: --model or --set model.KEY=VALUE"):
            self._build()
        self.batches = Batches(
            config.training, config.N, self.settings.seed, self.settings.batch, world.rank, world.size
        )
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
        self.parallel = DistributedDataParallel(self.denoiser) if self.world.size > 1 else self.denoiser

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

    @property
    def too_large(self) -> tuple[str, str]:
        """What is said of a step for which there is too little memory, and what makes it smaller."""
        what = f"a step on {self.settings.batch} events with a network of {self.size:,} parameters is too large"
        return what, "lower --batch, use --precision bf16, or choose a smaller network"

    def train_step(self, batch: Batch) -> None:
        """One optimiser step; a step whose loss or gradient is not finite is counted and not applied.

        Raises `StopRequest` at once where one comes while the network is compiled, in the first step: that takes minutes, and
        nothing was done yet that the disk does not hold.
        """
        step = self.step + 1
        with memory_for(*self.too_large):
            with interruptible() if self.compiling else nullcontext():
                batch = batch.to(self.device)
                loss, grad_norm, mean_loss = self._gradient(batch, step)
            self.compiling = False
            self._advance(step, batch, loss, grad_norm, mean_loss)

    def _gradient(self, batch: Batch, step: int) -> tuple[Loss, float, float]:
        """The loss, the norm of its gradient before it was clipped, and its mean."""
        torch.manual_seed(stream(self.settings.seed, "dropout", step, self.world.rank).initial_seed())
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
        if self.world.any(not (math.isfinite(grad_norm) and math.isfinite(mean_loss))):
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
            self.window.bands = self.by_band(loss)
        self.whole = True

    @property
    def images(self) -> int:
        """How many events were trained on."""
        return self.batches.taken(self.step)

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
        window.loss, window.grad_norm, *bands = self.world.mean([window.loss, window.grad_norm, *bands])
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
            state={"images": self.images, "failures": self.failures, "window": asdict(self.window)},
            about=about,
        )

    def initial(self, about: dict[str, Any]) -> Checkpoint:
        """The state before the first step, whatever this one has done since."""
        cpu = torch.device("cpu")
        return Trainer(self.config, cpu, World(0, 1, cpu)).checkpoint(about)

    def restore(self, source: Checkpoint) -> None:
        """Take up the state of a checkpoint; raises `DataError` where it belongs to another network."""
        where = f"the checkpoint of step {source.step}"
        load_weights(self.network, source.tensors.get("model", {}), f"model.safetensors, {where}")
        if self.ema:
            check_weights(self.ema, source.tensors.get("ema", {}), f"ema.safetensors, {where}")
            self.ema = {name: value.to(self.device) for name, value in source.tensors["ema"].items()}
        try:
            self.window = Window.of(source.state["window"], source.step)
            self.failures = _count(source.state["failures"], source.step)
            images = whole(source.state["images"])
            if images < source.step:
                raise ValueError(f"{images} events in {source.step} steps")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"the state.json of {where} lacks what training needs") from error
        self._restore_optimizer(source)
        self.step = self.saved_step = self.first_step = source.step
        self.batches.origin = (source.step, images)  # the batch may be another from here on

    def inherit(self, source: Checkpoint, averaged: bool) -> Inheritance:
        """Begin with what fits of another run's checkpoint: weights, the averaged ones where asked for, averages and moments."""
        weights, own = source.tensors["ema" if averaged else "model"], self.network.state_dict()
        left = [why for name in own if (why := _misfit(name, own[name], weights.get(name)))]
        taken = {name: weights[name] for name in own if not _misfit(name, own[name], weights.get(name))}
        left += [f"'{name}' is not in this network" for name in weights if name not in own]
        load_weights(self.network, {**own, **taken})
        averages = source.tensors.get("ema", weights)
        if self.ema:
            current = self.network.state_dict()
            self.ema = {
                name: (averages[name] if name in taken and name in averages else current[name])
                .detach()
                .to(self.device, current[name].dtype, copy=True)
                for name in self.ema
            }
        moments = source.tensors.get("optimizer", {})
        parameters = {name: parameter for name, parameter in self.network.named_parameters() if name in taken}
        for name, parameter in parameters.items():
            shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            state = {entry: moments.get(f"{name}.{entry}") for entry in shapes}
            if all(value is not None and value.shape == shapes[entry] for entry, value in state.items()):
                self.optimizer.state[parameter] = {
                    entry: value.to("cpu", torch.float32, copy=True)
                    if entry == "step"
                    else value.to(self.device, parameter.dtype, copy=True)
                    for entry, value in state.items()
                    if value is not None
                }
        self.saved_step = -1  # the state of step 0 does not follow from the configuration alone
        return Inheritance(len(taken), left, len(self.optimizer.state))

    def _restore_optimizer(self, source: Checkpoint) -> None:
        """Take up the moments of Adam, which must be those of these weights: torch would take any, and fail later or never."""
        moments = dict(source.tensors.get("optimizer", {}))
        expects_moments = self.failures < source.step  # where no step ever was, there are no moments
        for name, parameter in self.network.named_parameters():
            shapes = {"step": torch.Size(), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
            if not any(f"{name}.{entry}" in moments for entry in shapes) and not (
                expects_moments and parameter.requires_grad
            ):
                continue
            state = {}
            for entry, shape in shapes.items():
                value = moments.pop(f"{name}.{entry}", None)
                dtype = torch.float32 if entry == "step" else parameter.dtype
                fits = value is not None and value.shape == shape and value.dtype == dtype
                if value is None or not fits or bool(checkpoint.spoilt("optimizer", f"{name}.{entry}", value).any()):
                    raise _unusable_moment(source.step, f"{name}.{entry}", value, shape, dtype)
                state[entry] = value.to("cpu" if entry == "step" else self.device, copy=True)
            self.optimizer.state[parameter] = state
        if moments:
            raise _unusable_moment(source.step, *next(iter(moments.items())))

    def _average(self, decay: float) -> None:
        if self.ema:
            current = self.network.state_dict()
            floating = [name for name in self.ema if self.ema[name].is_floating_point()]
            torch._foreach_lerp_([self.ema[name] for name in floating], [current[name] for name in floating], 1 - decay)

    def by_band(self, loss: Loss) -> list[float]:
        """The mean squared error of the batch in each band of frequencies."""
        error = dct(self.diffusion.unrotate(loss.error_bar))
        means: list[float] = (error.square().mean((0, 1)).flatten() @ self.band_means).tolist()
        return means

    def _skip(self, batch: Batch, loss: Loss) -> None:
        self.window.skipped += 1
        self.failures += 1
        # Fewer are given up on too where there are no others: a run must not end as if it had trained.
        hopeless = self.step == self.settings.steps and self.failures >= self.step - self.first_step
        if self.failures < PATIENCE and not hopeless:
            return
        events = zip(batch.index.tolist(), batch.i.tolist(), loss.per_event.tolist(), strict=True)
        origin = self.batches.data.origin
        culprits = [f"{origin(index)} at i = {i}" for index, i, value in events if not math.isfinite(value)]
        bands = [str(band) for band, value in enumerate(self.by_band(loss)) if not math.isfinite(value)]
        raise self.gave_up(
            f"non-finite loss: {', '.join(culprits[:5])}"
            if culprits
            else "every loss is finite: the gradient overflows",
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


def _misfit(name: str, own: Tensor, other: Tensor | None) -> str:
    """Why another network's tensor cannot take the place of one's own; empty where it can."""
    if other is None:
        return f"'{name}' {tuple(own.shape)} is new"
    if own.shape != other.shape:
        return f"'{name}' is {tuple(own.shape)}, and was {tuple(other.shape)}"
    alike = own.dtype == other.dtype or (own.is_floating_point() and other.is_floating_point())
    return "" if alike else f"'{name}' is of another type"


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
