"""Trainer: a network on its way, one step after the other, the same on one process or many.

Everything that happens at step t is a function of the state after step t-1 and of (seed, t): data order, noise, dropout,
learning rate and averaging decay. A resumed run is therefore bit-identical to one that was never stopped (same machine,
thread and process count; on a GPU where `deterministic` is set, and else up to rounding).
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from gendiff.datasets.batches import Batch, Batches
from gendiff.denoiser import Denoiser
from gendiff.errors import DataError, GendiffError
from gendiff.machine import arithmetic, determinism
from gendiff.machine.memory import memory_for
from gendiff.machine.stopping import interruptible
from gendiff.machine.world import World
from gendiff.run.checkpoint import Checkpoint
from gendiff.run.config import Config
from gendiff.run.network import build_denoiser, load_weights
from gendiff.shapes import whole
from gendiff.streams import stream
from gendiff.training.agenda import is_logged, is_saved, is_snapped
from gendiff.training.bands import Bands
from gendiff.training.capture import Capture
from gendiff.training.compilation import Compilation
from gendiff.training.failure import culprits, gave_up
from gendiff.training.inheritance import Inheritance
from gendiff.training.law import Law
from gendiff.training.recipe import decays, learning_rate
from gendiff.training.recomputing import Recomputing
from gendiff.training.refusals import refuse_samplers, refuse_unequal_parts, refuse_whole_steps
from gendiff.training.sharding import copies, shard
from gendiff.training.speeds import Speeds, refuse_learned
from gendiff.training.step import PATIENCE, Step
from gendiff.training.weights import Weights
from gendiff.training.window import Window, count

ASK = 10  # steps after which several processes that compute on GPUs ask each other whether to stop


class Trainer:
    """A network on its way: weights, optimiser, averaged weights and the step they have reached.

    Args:
        world: the processes that train together.

    Attributes:
        step: the last that was taken.
        saved_step: the last step whose state is on the disk; that of step 0 follows from the configuration.
        first_step: the step that it began from, or was restored to.
        failures: steps in a row, up to the last that was looked at, that were not applied.
        window: what steps came to since the last row of metrics.jsonl.

    """

    def __init__(self, config: Config, device: torch.device, world: World) -> None:
        self.config = config
        self.settings = config.train
        self.device = device
        self.world = world
        self.step = 0
        self.saved_step = 0
        self.first_step = 0
        self.failures = 0
        self.window = Window()
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
            self.law.draws(),
        )
        refuse_unequal_parts(self.settings, world)
        self.bands = Bands(self.diffusion, config.data.event_shape, device)

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
        # Speeds that are learned move in place: the network and its step see them as they are.
        learned = bool(self.config.velocity.trained)
        self.speeds = Speeds(self.config, self.denoiser, self.world) if learned else None
        if self.speeds is not None:
            self.speeds.refuse_sampler()
            self.denoiser.diffusion = self.speeds.diffusion
        self.diffusion = self.denoiser.diffusion
        refuse_samplers(self.config, self.diffusion)
        refuse_whole_steps(self.config, self.diffusion)
        self.weights = Weights(self.settings, self.network, self.device, self.sharded, capturable=self.late)
        self.precision = arithmetic.chosen(self.settings.precision, self.device)
        self.denoiser.autocast = arithmetic.DTYPES[self.precision]
        if arithmetic.is_slow(self.precision, self.device):
            warnings.warn(arithmetic.SLOW, stacklevel=4)
        self.compilation = Compilation(self.settings, self.denoiser, self.weights, self.world, self.late)
        copied = self.world.size > 1 and not self.sharded
        self.parallel = DistributedDataParallel(self.denoiser) if copied else self.denoiser
        self.law = Law(self.config, self.diffusion, self.device)
        self.capture = Capture(self.settings, self.device, self.world)
        self.take_step = self._step()

    def _step(self) -> Step:
        averages, weights = self.weights.in_step()
        return Step(
            self.config.objective,
            self.parallel.train(),
            self.diffusion,
            self.weights.optimizer,
            averages,
            weights,
            self.settings.grad_clip,
            self.world,
            self.capture.recorder(),
            self.settings.accumulate,
            self.law.correction(),
            self.law.adaptation,
        )

    def compile_from_here(self, seconds: float) -> None:
        """Compile the network in the next step where that is left to us, and worth it in a run that goes on for so long."""
        if self.compilation.begin(seconds):
            self._renew_step()

    def keep_the_faster(self) -> None:
        """Leave the network as it was where compiling it, which was left to us, is seen not to pay."""
        if self.compilation.judge():
            self._renew_step()

    def _renew_step(self) -> None:
        """Go on with a new `Step` where the old one stands, whose recording is gone first: there may be no room for two."""
        tally, failed = self.take_step.tally, self.take_step.failed
        del self.take_step
        self.take_step = self._step()
        self.take_step.tally, self.take_step.failed = tally, failed

    @property
    def too_large(self) -> tuple[str, str]:
        """What is said of a step for which there is too little memory, and what makes it smaller."""
        parts = f" in {self.settings.accumulate} parts" if self.settings.accumulate > 1 else ""
        what = f"a step on {self.settings.batch} events{parts} with a network of {self.weights.size:,} parameters is too large"
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
        if self.take_step.settled and not self.compilation.pending:
            self.compilation.pace.begin(self.step)
        with memory_for(*self.too_large):
            batch = batch.to(self.device)
            with interruptible() if self.compilation.pending else nullcontext():
                self._take(step, batch)
            self.compilation.pending = False
            if self.speeds is not None and self.speeds.due(step):
                self.speeds.move(step, batch, self.denoiser)
            self.step = step
            self.capture.say_why_not(self.take_step.recorded)
            if not self.late or any(due(self.settings, step) for due in (is_logged, is_saved, is_snapped)):
                self.look()

    def _take(self, step: int, batch: Batch) -> None:
        torch.manual_seed(stream(self.settings.seed, "dropout", step, self.world.rank).initial_seed())
        rate, shares = learning_rate(self.settings, step), decays(self.settings, step)
        watched = self.recomputing if step == self.first_step + 1 else None
        try:
            with watched.watching(self.device) if watched else nullcontext():
                self.take_step(batch, rate, shares)
        except Exception as error:
            if not self.compilation.fall_back(error):
                raise
            self._renew_step()
            self._take(step, batch)

    def look(self) -> None:
        """Read what steps came to, which waits for them; raises `GendiffError` where too many in a row were not applied."""
        self._read()
        self.compilation.pace.end(self.step)
        # Fewer are given up on too where there are no others: a run must not end as if it had trained.
        hopeless = self.step == self.settings.steps and 0 < self.failures >= self.step - self.first_step
        if self.failures >= PATIENCE or hopeless:
            assert self.take_step.failed is not None
            raise self.gave_up(*culprits(self.take_step.failed, self.batches.data, self.bands))

    def _read(self) -> None:
        tally = self.take_step.tally.numbers()
        self.step = self.first_step + int(tally["count"])
        self.failures = int(tally["failures"])
        self.window = Window(
            steps=int(tally["applied"]), loss=tally["loss"], grad_norm=tally["grad_norm"], skipped=int(tally["skipped"])
        )
        if is_logged(self.settings, self.step) and self.window.steps and not self.failures:
            assert self.take_step.error_bar is not None
            self.window.bands = self.bands.means(self.take_step.error_bar)

    @property
    def images(self) -> int:
        """How many events were trained on."""
        return self.batches.taken(self.step)

    def asks(self, step: int) -> bool:
        """Whether the processes ask each other after this step whether one is to stop; each decides the same.

        The answer is a sum that a GPU takes in its turn: to wait for it at each step would be to launch nothing ahead.
        """
        at_once = self.world.size == 1 or not self.late
        return at_once or step % ASK == 0 or is_logged(self.settings, step) or is_saved(self.settings, step)

    def averaged(self) -> Denoiser:
        """A network ready to sample, with the averaged weights, the first of several; where none are kept, the current ones."""
        denoiser = build_denoiser(self.config if self.speeds is None else self.speeds.moved(), self.device)
        load_weights(denoiser.network, self.weights.sampled(self.step))
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
        tensors, adaptation = self.weights.tensors(), self.law.adaptation
        state = {"images": self.images, "failures": self.failures, "window": asdict(self.window)}
        if adaptation:
            tensors["levels"] = adaptation.state()
        if self.speeds is not None:
            tensors |= self.speeds.tensors()
            state |= self.speeds.state()
        groups = copies(tensors, self.world.main)
        self.weights.remember(self.step, groups)
        return Checkpoint(step=self.step, tensors=groups, state=state, about=about)

    def snapshot(self, about: dict[str, Any]) -> Checkpoint:
        """The averages of which others are made after training."""
        groups = {group: self.weights.averages[group] for group in self.settings.profiles}
        return Checkpoint(step=self.step, tensors=copies(groups, self.world.main), state={}, about=about)

    def initial(self, about: dict[str, Any]) -> Checkpoint:
        """The state before the first step, whatever this one has done since."""
        cpu = torch.device("cpu")
        return Trainer(self.config, cpu, World(0, 1, cpu)).checkpoint(about)

    def restore(self, source: Checkpoint) -> None:
        """Take up the state of a checkpoint; raises `DataError` where it belongs to another network."""
        self.weights.restore(source)
        try:
            window = Window.of(source.state["window"], source.step)
            self.failures = count(source.state["failures"], source.step)
            images = whole(source.state["images"])
            if images < source.step:
                raise ValueError(f"{images} events in {source.step} steps")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            what = f"the state.json of the checkpoint of step {source.step} lacks what training needs"
            raise DataError(what) from error
        self.weights.restore_moments(source, expected=self.failures < source.step)
        if self.law.adaptation:
            self.law.adaptation.restore(source.tensors.get("levels", {}))
        if self.speeds is not None:
            self.speeds.restore(source.tensors, source.state, source.step)
        else:
            refuse_learned(source.tensors, self.config.velocity)
        self.weights.remember(source.step, source.tensors)
        self.step = self.saved_step = self.first_step = source.step
        self.open_window(window)
        # One that gave up tries again, and gives up again at once where that fails too.
        self.take_step.tally.set(failures=min(self.failures, PATIENCE - 1), count=0)
        self.batches.origin = (source.step, images)  # the batch may be another from here on

    def inherit(self, source: Checkpoint, averaged: bool) -> Inheritance:
        """Begin with what fits of another run's checkpoint: weights, the averaged ones where asked for, averages and moments."""
        inheritance = self.weights.inherit(source, averaged)
        self.saved_step = -1  # the state of step 0 does not follow from the configuration alone
        return inheritance

    def gave_up(self, *details: str) -> GendiffError:
        """What to raise where the last steps were skipped and no more are tried."""
        return gave_up(self.failures, self.step, details, saved=not self.sharded)
