"""Trainer: a network on its way, one step after the other, the same on one process or many.

Everything that happens at step t is a function of the state after step t-1 and of (seed, t): data order, noise, dropout,
learning rate and averaging decay. A resumed run is therefore bit-identical to one that was never stopped (same machine,
thread and process count; on a GPU where `deterministic` is set, and else up to rounding).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.nn.parallel import DistributedDataParallel

from gendiff.datasets.batches import Batch, Batches
from gendiff.dct import dct
from gendiff.denoiser import Denoiser
from gendiff.errors import ArgumentError, ConfigError, DataError, GendiffError, reason
from gendiff.frequency import frequency_bands
from gendiff.levels import Adaptation, AdaptiveLevels, Draws, part_of
from gendiff.machine import arithmetic, determinism
from gendiff.machine.memory import memory_for
from gendiff.machine.recording import Recorder, recorder_for
from gendiff.machine.stopping import interruptible
from gendiff.machine.world import World
from gendiff.objective import Nothing
from gendiff.run import speeds as kept
from gendiff.run.checkpoint import Checkpoint
from gendiff.run.config import Config
from gendiff.run.network import build_denoiser, check_weights, load_weights
from gendiff.run.settings import TrainSettings
from gendiff.shapes import whole
from gendiff.streams import stream
from gendiff.training import moments
from gendiff.training.inheritance import Inheritance, inherit
from gendiff.training.pace import Pace
from gendiff.training.recipe import build_optimizer, decays, learning_rate
from gendiff.training.recomputing import Recomputing
from gendiff.training.sharding import copies, local, put, shard
from gendiff.training.speeds import Speeds
from gendiff.training.step import PATIENCE, Step
from gendiff.training.window import BANDS, Window, count

ASK = 10  # steps after which several processes that compute on GPUs ask each other whether to stop


def is_shown(settings: TrainSettings, step: int) -> bool:
    """Whether there is a preview of this step."""
    return bool(settings.sample_every) and (step % settings.sample_every == 0 or step == settings.steps)


class Trainer:
    """A network on its way: weights, optimiser, averaged weights and the step they have reached.

    Args:
        world: the processes that train together.

    Attributes:
        kept: the last step whose state is on the disk; that of step 0 follows from the configuration.
        begun: the step that it began from, or was restored to.
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
        self.compiling = False
        self.failures = 0
        self.window = Window()
        self._said = False  # why steps are not recorded
        self._tried_to_compile = False
        self._pace = Pace()
        self._uncompiled: float | None = None  # seconds of a step before the network was compiled, until that is judged
        too_large = f"the network of model '{config.model.name}' is too large to be trained here"
        with memory_for(too_large, "make it smaller: --model or --set model.KEY=VALUE"):
            self._build()
        self.batches = Batches(
            config.training,
            config.N,
            self.settings.seed,
            self.settings.batch,
            world.rank,
            world.size,
            config.data.flip,
            config.conditions,
            self.settings.condition_dropout,
            self._draws(),
        )
        self._refuse_unequal_parts()
        shape = config.data.event_shape
        bands = one_hot(frequency_bands(shape, BANDS).flatten(), BANDS).float().to(device)
        self.band_means = bands / bands.sum(0).clamp_min(1)

    def _build(self) -> None:
        """The network and all that is as large as it is."""
        if self.settings.deterministic:
            determinism.prepare(self.device)
        self.sharded = self.settings.shard and self.world.size > 1
        self.denoiser = build_denoiser(self.config, torch.device("cpu") if self.sharded else self.device)
        self.network = self.denoiser.network
        self.recomputing = Recomputing(self.config.model, self.network) if self.settings.recompute else None
        if self.sharded:
            shard(self.network, self.config.model.stages_of(self.network), self.world)
            self.denoiser.to(self.device)
        self._sampled: tuple[int, Mapping[str, Tensor]] | None = None
        self.size = sum(parameter.numel() for parameter in self.network.parameters())
        # Speeds that are learned move in place: the network and its step see them as they are.
        learned = bool(self.config.velocity.trained)
        self.speeds = Speeds(self.config, self.denoiser, self.world) if learned else None
        if self.speeds is not None:
            self.denoiser.diffusion = self.speeds.diffusion
        self.diffusion = self.denoiser.diffusion
        self._refuse_samplers()
        if self.settings.continuous:
            self._refuse_whole_steps()
        rate = torch.zeros((), device=self.device)
        self.optimizer = build_optimizer(self.settings, self.network, rate, capturable=self.late)
        self.averages = {
            group: {name: weight.detach().clone() for name, weight in self.network.state_dict().items()}
            for group in (*self.settings.averages, *self.settings.profiles)
        }
        self.precision = arithmetic.chosen(self.settings.precision, self.device)
        self.denoiser.autocast = arithmetic.DTYPES[self.precision]
        if arithmetic.is_slow(self.precision, self.device):
            warnings.warn(arithmetic.SLOW, stacklevel=4)
        if self.settings.compile is True:
            self._compile()
        copied = self.world.size > 1 and not self.sharded
        self.parallel = DistributedDataParallel(self.denoiser) if copied else self.denoiser
        levels, self.adaptation = self.settings.levels, None
        if isinstance(levels, AdaptiveLevels):
            self.adaptation = Adaptation(levels, self.config.N, self.device, self.settings.continuous)
        self.take_step = self._step()

    def _draws(self) -> Draws | None:
        """Which steps are drawn; None for every whole one alike."""
        settings, N = self.settings, self.config.N
        if settings.levels is not None:
            return settings.levels.draws(self.diffusion, settings.seed, settings.batch, settings.continuous)
        if not settings.continuous:
            return None
        even = torch.arange(1, N + 1, dtype=torch.float64) / N
        return Draws(even, settings.seed, settings.batch, continuous=True)

    def _correction(self) -> Callable[[Tensor], Tensor] | None:
        levels = self.settings.levels
        if levels is None or not levels.unbiased:
            return None
        if self.adaptation:
            return self.adaptation.correction
        table = levels.correction(self.diffusion)
        assert table is not None
        table = table.to(self.device)
        return lambda i: table[part_of(i, self.config.N)]

    def _step(self) -> Step:
        current = self.network.state_dict()
        averaged = [name for name, value in current.items() if value.is_floating_point()]
        return Step(
            self.config.objective,
            self.parallel.train(),
            self.diffusion,
            self.optimizer,
            [[local(average[name]) for name in averaged] for average in self.averages.values()],
            [local(current[name]) for name in averaged],
            self.settings.grad_clip,
            self.world,
            self._recorder(),
            self.settings.accumulate,
            self._correction(),
            self.adaptation,
        )

    def _compile(self) -> None:
        self.compiling = True
        how: dict[str, Any] = determinism.compiling(self.settings.deterministic, self.device)
        self.denoiser.network = torch.compile(self.network, **how)  # type: ignore[assignment]  # still a module
        # A compiled network is faster so on a GPU, and slower on a CPU.
        if self.device.type == "cuda" and not self.sharded:
            self.denoiser.channels_last = True
            self._lay_out(torch.channels_last)

    def _lay_out(self, memory_format: torch.memory_format) -> None:
        """Let weights, averages and moments lie so in memory: all of them alike, since they are walked through together."""
        self.network.to(memory_format=memory_format)
        for named in (*self.averages.values(), *self.optimizer.state.values()):
            for name, value in named.items():
                if isinstance(value, Tensor) and value.ndim == 4:
                    named[name] = value.contiguous(memory_format=memory_format)

    def compile_from_here(self) -> None:
        """Compile the network in the next step where that is left to us, once; a run that repeats leaves nothing to a clock."""
        left_to_us = self.settings.compile == "auto" and not self.settings.deterministic
        if left_to_us and self.late and self.world.size == 1 and not self._tried_to_compile:
            self._tried_to_compile = True
            self._uncompiled, self._pace = self._pace.seconds, Pace()
            self._compile()
            self._renew_step()

    def keep_the_faster(self) -> None:
        """Leave the network as it was where compiling it, which was left to us, is seen not to pay."""
        before, now = self._uncompiled, self._pace.seconds
        if before is None or now is None:
            return
        self._uncompiled = None
        if now >= before:
            warnings.warn(
                f"compiled, a step takes {1e3 * now:.3g} ms, and {1e3 * before:.3g} as it was: it goes on as it was",
                stacklevel=3,
            )
            self._leave_uncompiled()

    def _leave_uncompiled(self) -> None:
        self.compiling, self.denoiser.network = False, self.network
        if self.denoiser.channels_last:
            self.denoiser.channels_last = False
            self._lay_out(torch.contiguous_format)
        self._renew_step()

    @property
    def compiled(self) -> bool:
        """Whether the network is compiled, or is in the next step."""
        return self.denoiser.network is not self.network

    def _renew_step(self) -> None:
        """Go on with a new `Step` where the old one stands, whose recording is gone first: there may be no room for two."""
        tally, failed = self.take_step.tally, self.take_step.failed
        del self.take_step
        self.take_step = self._step()
        self.take_step.tally, self.take_step.failed = tally, failed

    def _recorder(self) -> Recorder | None:
        recorder = recorder_for(self.device) if self.settings.capture else None
        if recorder and self.world.size > 1:
            # Whether it can be recorded each process sees for itself: one that cannot would wait for sums of the others forever.
            if self.settings.capture is True:
                raise _not_recorded(f"there are {self.world.size} processes, which must all do the same")
            warnings.warn(
                "steps are launched kernel by kernel: those of several processes are not recorded, which must all do the same",
                stacklevel=4,
            )
            return None
        return recorder

    def _refuse_samplers(self) -> None:
        """Raise `ConfigError` now, not when a grid is drawn, where a sampler of the run cannot sample its process."""
        if self.speeds is not None:
            self.speeds.refuse_sampler()
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

    def _refuse_whole_steps(self) -> None:
        """Raise `ConfigError` now where the network, the process or the loss knows whole steps alone."""
        config, fix = self.config, "train at whole steps: leave train.continuous out"
        if config.model.reads_whole_steps:
            raise ConfigError(
                f"the network of model '{config.model.name}' knows whole steps alone",
                details=["it has one entry in a table for each, and says nothing of what is between them"],
                fix=f"choose another model, or {fix}",
                subject="train.continuous",
            )
        N = config.N
        i = torch.tensor([1.0, 1.25, 1.75, min(2.5, N), (N + 1) / 2 + 0.25, N - 0.25, N], dtype=torch.float64)
        x = torch.zeros(len(i), *config.data.event_shape)
        try:
            loss = config.objective.loss(Nothing(), self.diffusion.to("cpu"), x, i, x + 1)
            why = "" if loss.per_event.isfinite().all() else f"the loss '{config.objective.name}' is not finite there"
        except ArgumentError as error:
            why = error.what
        if why:
            raise ConfigError(
                "this process cannot be trained at real steps", details=[why], fix=fix, subject="train.continuous"
            )

    def _refuse_unequal_parts(self) -> None:
        """Raise `ConfigError` where a batch cannot be taken in the parts that are asked for: their means would not add up."""
        batch, parts = self.settings.batch, self.world.size * self.settings.accumulate
        if batch % parts:
            of_each = f" on each of {self.world.size} processes" if self.world.size > 1 else ""
            raise ConfigError(
                f"a batch of {batch} cannot be taken in {self.settings.accumulate} equal parts{of_each}",
                fix=f"choose a multiple of {parts} for train.batch, or another train.accumulate",
                subject="train.accumulate",
            )

    @property
    def too_large(self) -> tuple[str, str]:
        """What is said of a step for which there is too little memory, and what makes it smaller."""
        parts = f" in {self.settings.accumulate} parts" if self.settings.accumulate > 1 else ""
        what = f"a step on {self.settings.batch} events{parts} with a network of {self.size:,} parameters is too large"
        less = "take fewer at once with --set train.accumulate=2 or more, keep less with --set train.recompute=true"
        return what, f"{less}, lower --batch, use --precision bf16, or choose a smaller network"

    @property
    def late(self) -> bool:
        """Whether what steps come to is read on logged steps alone: a GPU would have to be waited for."""
        return self.device.type == "cuda"

    @property
    def whole(self) -> bool:
        """Whether all of the state is of one step: not in the middle of an update."""
        return self.take_step.whole and (self.speeds is None or self.speeds.whole)

    def train_step(self, batch: Batch) -> None:
        """One optimiser step; a step whose loss or gradient is not finite is counted and not applied.

        What it came to is read at once on a CPU, and on a GPU, which computes it later, on logged steps and by `look`.

        Raises `StopRequest` at once where one comes while the network is compiled, in the first step: that takes minutes, and
        nothing was done yet that the disk does not hold. Raises `GendiffError` where it is seen that too many were not applied.
        """
        step = self.step + 1
        if self.take_step.settled and not self.compiling:
            self._pace.begin(self.step)
        with memory_for(*self.too_large):
            batch = batch.to(self.device)
            with interruptible() if self.compiling else nullcontext():
                self._take(step, batch)
            self.compiling = False
            if self.speeds is not None and self.speeds.due(step):
                self.speeds.move(step, batch, self.denoiser)
            self.step = step
            self._say_why_not()
            if not self.late or self.logged(step) or self.saved(step) or self.snapped(step):
                self.look()

    def _take(self, step: int, batch: Batch) -> None:
        torch.manual_seed(stream(self.settings.seed, "dropout", step, self.world.rank).initial_seed())
        rate, shares = learning_rate(self.settings, step), decays(self.settings, step)
        watched = self.recomputing if step == self.first_step + 1 else None
        try:
            with watched.watching(self.device) if watched else nullcontext():
                self.take_step(batch, rate, shares)
        except Exception as error:
            if not (self.compiling and self.settings.compile == "auto"):
                raise
            warnings.warn(f"the network could not be compiled, and runs as it is: {reason(error)}", stacklevel=4)
            self._leave_uncompiled()
            self._take(step, batch)

    def _say_why_not(self) -> None:
        recorded = self.take_step.recorded
        if recorded and recorded.why_not and not self._said:
            self._said = True
            if self.settings.capture is True:
                raise _not_recorded(recorded.why_not)
            warnings.warn(
                f"steps are launched kernel by kernel, for they could not be recorded: {recorded.why_not}", stacklevel=3
            )

    def look(self) -> None:
        """Read what steps came to, which waits for them; raises `GendiffError` where too many in a row were not applied."""
        self._read()
        self._pace.end(self.step)
        # Fewer are given up on too where there are no others: a run must not end as if it had trained.
        hopeless = self.step == self.settings.steps and 0 < self.failures >= self.step - self.first_step
        if self.failures >= PATIENCE or hopeless:
            raise self.gave_up(*self._culprits())

    def _read(self) -> None:
        tally = self.take_step.tally.numbers()
        self.step = self.first_step + int(tally["count"])
        self.failures = int(tally["failures"])
        self.window = Window(
            steps=int(tally["applied"]), loss=tally["loss"], grad_norm=tally["grad_norm"], skipped=int(tally["skipped"])
        )
        if self.logged(self.step) and self.window.steps and not self.failures:
            assert self.take_step.error_bar is not None
            self.window.bands = self.by_band(self.take_step.error_bar)

    @property
    def images(self) -> int:
        """How many events were trained on."""
        return self.batches.taken(self.step)

    def logged(self, step: int) -> bool:
        """Whether metrics.jsonl has a row of this step."""
        return step % self.settings.log_every == 0 or step == self.settings.steps

    def saved(self, step: int) -> bool:
        """Whether there is a checkpoint of this step, whatever comes."""
        return (
            is_shown(self.settings, step) or step % self.settings.checkpoint_every == 0 or step == self.settings.steps
        )

    def asks(self, step: int) -> bool:
        """Whether the processes ask each other after this step whether one is to stop; each decides the same.

        The answer is a sum that a GPU takes in its turn: to wait for it at each step would be to launch nothing ahead.
        """
        at_once = self.world.size == 1 or not self.late
        return at_once or step % ASK == 0 or self.logged(step) or self.saved(step)

    def snapped(self, step: int) -> bool:
        """Whether there is a snapshot of this step, of which averages are made later."""
        every = self.settings.snapshot_period
        return bool(self.settings.profiles) and (step % every == 0 or step == self.settings.steps)

    @property
    def ema(self) -> dict[str, Tensor]:
        """The averaged weights by name, the first where there are several; empty where none are kept."""
        return next((self.averages[group] for group in self.settings.averages), {})

    def averaged(self) -> Denoiser:
        """A network ready to sample, with the averaged weights, the first of several; where none are kept, the current ones."""
        denoiser = build_denoiser(self.config if self.speeds is None else self.speeds.moved(), self.device)
        step, weights = self._sampled or (-1, {})
        if step != self.step:
            weights = self.ema or self.network.state_dict()
        load_weights(denoiser.network, weights)
        return denoiser.eval()

    def open_window(self, window: Window | None = None) -> None:
        """Begin to sum anew, or go on from sums."""
        self.window = window or Window()
        self.take_step.tally.set(
            applied=self.window.steps,
            skipped=self.window.skipped,
            loss=self.window.loss,
            grad_norm=self.window.grad_norm,
        )

    def reduce_window(self) -> None:
        """Average the window over processes, so that each holds what all saw."""
        window = self.window
        bands = window.bands or []  # of all processes or of none: they skip together
        window.loss, window.grad_norm, *bands = self.world.mean([window.loss, window.grad_norm, *bands])
        window.bands = bands or None
        if self.world.size > 1:
            self.open_window(window)

    def checkpoint(self, about: dict[str, Any]) -> Checkpoint:
        """The state as tensors by name, copies on the CPU, and small numbers."""
        if self.late:
            self._read()
        tensors = {
            "model": self.network.state_dict(),
            "optimizer": moments.named(self.optimizer, dict(self.network.named_parameters())),
            **self.averages,
            **({"levels": self.adaptation.state()} if self.adaptation else {}),
        }
        tensors |= {} if self.speeds is None else self.speeds.tensors()
        state = {"images": self.images, "failures": self.failures, "window": asdict(self.window)}
        state |= {} if self.speeds is None else self.speeds.state()
        whole = copies(tensors, self.world.main)
        if self.sharded:  # one process alone draws previews
            self._sampled = self.step, whole[next(iter(self.settings.averages), "model")]
        return Checkpoint(
            step=self.step,
            tensors=whole,
            state=state,
            about=about,
        )

    def snapshot(self, about: dict[str, Any]) -> Checkpoint:
        """The averages of which others are made after training."""
        groups = {group: self.averages[group] for group in self.settings.profiles}
        return Checkpoint(step=self.step, tensors=copies(groups, self.world.main), state={}, about=about)

    def initial(self, about: dict[str, Any]) -> Checkpoint:
        """The state before the first step, whatever this one has done since."""
        cpu = torch.device("cpu")
        return Trainer(self.config, cpu, World(0, 1, cpu)).checkpoint(about)

    def restore(self, source: Checkpoint) -> None:
        """Take up the state of a checkpoint; raises `DataError` where it belongs to another network."""
        where = f"the checkpoint of step {source.step}"
        self._take_weights(source.tensors.get("model", {}), f"model.safetensors, {where}")
        for group, average in self.averages.items():
            check_weights(average, source.tensors.get(group, {}), f"{group}.safetensors, {where}")
            for name, value in source.tensors[group].items():
                put(average[name], value)  # in its place: it is averaged there
        try:
            window = Window.of(source.state["window"], source.step)
            self.failures = count(source.state["failures"], source.step)
            images = whole(source.state["images"])
            if images < source.step:
                raise ValueError(f"{images} events in {source.step} steps")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"the state.json of {where} lacks what training needs") from error
        expected = self.failures < source.step
        weights = dict(self.network.named_parameters())
        moments.restore(self.optimizer, weights, source.tensors.get("optimizer", {}), source.step, expected)
        if self.adaptation:
            self.adaptation.restore(source.tensors.get("levels", {}))
        self._restore_speeds(source)
        if self.sharded:
            self._sampled = source.step, source.tensors[next(iter(self.settings.averages), "model")]
        self.step = self.saved_step = self.first_step = source.step
        self.open_window(window)
        # One that gave up tries again, and gives up again at once where that fails too.
        self.take_step.tally.set(failures=min(self.failures, PATIENCE - 1), count=0)
        self.batches.origin = (source.step, images)  # the batch may be another from here on

    def _restore_speeds(self, source: Checkpoint) -> None:
        if self.speeds is not None:
            self.speeds.restore(source.tensors, source.state, source.step)
        elif kept.GROUP in source.tensors:
            raise DataError(
                f"the run learns its speeds, and velocity '{self.config.velocity.name}' does not",
                details=["numbers that are stored can be sampled from, not learned on"],
                fix="bring its plugin back, or begin a new run with its weights: --from",
            )

    def inherit(self, source: Checkpoint, averaged: bool) -> Inheritance:
        """Begin with what fits of another run's checkpoint: weights, the averaged ones where asked for, averages and moments."""
        if self.sharded:
            raise ConfigError(
                "a network in shards does not begin from another run", subject="train.shard", fix="begin without shards"
            )
        self.saved_step = -1  # the state of step 0 does not follow from the configuration alone
        return inherit(source, averaged, self.network, self.averages, self.optimizer)

    def _take_weights(self, weights: Mapping[str, Tensor], where: str) -> None:
        if not self.sharded:
            load_weights(self.network, weights, where)
            return
        own = self.network.state_dict()
        check_weights(own, weights, where)
        for name, value in weights.items():
            put(own[name], value)

    def by_band(self, error_bar: Tensor) -> list[float]:
        """The mean squared error of a batch in each band of frequencies."""
        error = dct(self.diffusion.unrotate(error_bar))
        means: list[float] = (error.square().mean((0, 1)).flatten() @ self.band_means).tolist()
        return means

    def _culprits(self) -> list[str]:
        """Which events and bands were not finite in the last step that was not applied."""
        last = self.take_step.failed
        assert last is not None
        events = zip(last.index.tolist(), last.i.tolist(), last.per_event.tolist(), strict=True)
        origin = self.batches.data.origin
        culprits = [f"{origin(index)} at i = {i}" for index, i, value in events if not math.isfinite(value)]
        bands = [str(band) for band, value in enumerate(self.by_band(last.error_bar)) if not math.isfinite(value)]
        return [
            f"non-finite loss: {', '.join(culprits[:5])}"
            if culprits
            else "every loss is finite: the gradient overflows",
            f"frequency bands affected, 0 is the lowest of {BANDS}: {', '.join(bands)}" if bands else "",
        ]

    def gave_up(self, *details: str) -> GendiffError:
        """What to raise where the last steps were skipped and no more are tried."""
        return GendiffError(
            f"the loss or its gradient was not finite in {self.failures} step{'s' * (self.failures > 1)} in a row, "
            f"up to step {self.step}",
            details=[*details, f"none of these steps was applied{'' if self.sharded else '; a checkpoint was saved'}"],
            fix="start a new run with a lower --lr, or with --precision fp32",
        )


def _not_recorded(why: str) -> ConfigError:
    """What to raise where nothing but recorded steps is asked for."""
    return ConfigError(
        "steps cannot be recorded",
        details=[why],
        fix="let them be launched kernel by kernel: --set train.capture=auto",
        subject="train.capture",
    )
