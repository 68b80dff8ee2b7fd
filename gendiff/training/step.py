r"""Step: one step of the optimiser, computed where the network is; nothing in it waits for the host.

    w <- Adam(w, clip(∇ mean_B loss)) ,     w̄ <- decay w̄ + (1 - decay) w

Whether the loss and the norm of its gradient are finite is decided on the device. Where one is not, weights, moments and averages
stay as they are, and the step is counted. After `PATIENCE` of these in a row nothing moves any more: whoever looks may look late,
and sees what there was to see then.

A batch may be taken in parts, one after the other, whose gradients add up to that of the whole: memory is that of one part.
Several processes put their gradients together once, after the last.

Where there is a recorder (`gendiff.machine.recording`), the whole of it is recorded once it has been run `WARM` times, and
replayed from then on: on CUDA a step of four thousand kernels is one launch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from gendiff.datasets.batches import Batch
from gendiff.diffusion import Diffusion
from gendiff.levels import Adaptation
from gendiff.machine.recording import Recorded, Recorder
from gendiff.machine.world import World
from gendiff.objective import Loss, Objective
from gendiff.training.sharding import full, gradients_kept_apart

PATIENCE = 5  # steps in a row with a non-finite loss or gradient before a run gives up
WARM = (
    3  # steps that are not recorded: cuDNN chooses its algorithms, a compiler compiles, the optimiser makes its state
)
LARGE = (
    2**18
)  # values of a tensor whose average is worth a kernel of its own: there reading it takes longer than a launch


@dataclass
class Tally:
    """What steps came to, as float64 scalars on the device of the network.

    Args:
        applied, skipped: steps since the last row of metrics.jsonl.
        loss, grad_norm: their sums over the applied ones.
        failures: steps in a row, up to the last, that were not applied.
        count: steps taken since this was made; those after `PATIENCE` failures are not.

    """

    applied: Tensor
    skipped: Tensor
    loss: Tensor
    grad_norm: Tensor
    failures: Tensor
    count: Tensor

    @classmethod
    def on(cls, device: torch.device) -> Tally:
        """All 0."""
        return cls(*(torch.zeros((), dtype=torch.float64, device=device) for _ in fields(cls)))

    def set(self, **numbers: float) -> None:
        """Give some of them these values, without waiting."""
        for name, number in numbers.items():
            getattr(self, name).fill_(number)

    def numbers(self) -> dict[str, float]:
        """All of them on the host, in one transfer; waits for the device."""
        names = [field.name for field in fields(self)]
        return dict(zip(names, torch.stack([getattr(self, name) for name in names]).tolist(), strict=True))

    def add(self, mean: Tensor, norm: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
        """Count a step; returns whether it is to be applied, and whether it is the last that failed."""
        alive = self.failures < PATIENCE
        applies, fails = alive & finite, alive & ~finite
        self.applied += applies
        self.skipped += fails
        self.loss += torch.where(applies, mean, 0.0)
        self.grad_norm += torch.where(applies, norm, 0.0)
        self.count += alive
        self.failures.mul_(~applies).add_(fails)
        return applies, fails


@dataclass
class Failed:
    """The last step that was not applied: its batch, the losses of its events, and their errors in rotated coordinates."""

    index: Tensor
    i: Tensor
    per_event: Tensor
    error_bar: Tensor


class Step:
    """The step of a trainer.

    Args:
        denoiser: as it is asked, compiled or of several processes as it may be.
        averages, weights: averages of the weights, and the weights: tensors of floating point numbers, in one order.
        recorder: what records it; left out, nothing does.
        accumulate: in how many parts a batch is taken, of which it must be a multiple.
        correction: by what the losses of events at steps i, ``(B,)``, are multiplied (`Levels.correction`); None: by nothing.
        adaptation: the law by which steps are drawn, where it follows the losses.

    Attributes:
        rate, keeps: the learning rate, and the share of each old average that stays, scalars on the device; shares in float64,
            for late in a long run 1 - keep is less than 1e-5, of which float32 keeps two digits.
        tally: what steps came to.
        error_bar: the unweighted error of the last batch in rotated coordinates.
        failed: the last step that was not applied; before the first of them, zeros.
        whole: whether all of the state is of one step: not in the middle of an update.

    """

    def __init__(
        self,
        objective: Objective,
        denoiser: nn.Module,
        diffusion: Diffusion,
        optimizer: torch.optim.Optimizer,
        averages: Sequence[Sequence[Tensor]],
        weights: Sequence[Tensor],
        grad_clip: float,
        world: World,
        recorder: Recorder | None = None,
        accumulate: int = 1,
        correction: Callable[[Tensor], Tensor] | None = None,
        adaptation: Adaptation | None = None,
    ) -> None:
        device = world.device
        self.objective = objective
        self.denoiser = denoiser
        self.diffusion = diffusion
        self.optimizer = optimizer
        self.averages, self.weights = [list(average) for average in averages], list(weights)
        self.parameters = [one for group in optimizer.param_groups for one in group["params"]]
        self.grad_clip = grad_clip or math.inf
        self.world = world
        self.accumulate = accumulate
        self.correction = correction
        self.adaptation = adaptation
        self.rate = torch.zeros((), device=device)
        self.keeps = [torch.zeros((), dtype=torch.float64, device=device) for _ in self.averages]
        self.running = running_statistics(denoiser)
        for group in optimizer.param_groups:
            group["lr"] = self.rate
        self.tally = Tally.on(device)
        self.error_bar: Tensor | None = None
        self.failed: Failed | None = None
        self.whole = True
        self._batch: Batch | None = None
        self.recorded = None if recorder is None else Recorded(recorder, WARM)

    @property
    def settled(self) -> bool:
        """Whether the steps to come are all done in one way: recorded, or known not to be."""
        return self.recorded is None or self.recorded.replay is not None or bool(self.recorded.why_not)

    def __call__(self, batch: Batch, rate: float, decays: Sequence[float]) -> None:
        """One step with a batch on the device, a learning rate and the decay of each average."""
        self.rate.fill_(rate)
        for keep, decay in zip(self.keeps, decays, strict=True):
            keep.fill_(decay)
        if self.recorded is None:
            self._batch = batch
            self._body()
            return
        if self._batch is None:
            self._batch = batch.copy()
        self._batch.take(batch)  # a recording reads the same memory every time
        if self.recorded.is_next:
            self.optimizer.zero_grad(set_to_none=True)  # gradients have memory of their own in a recording
        self.recorded(self._body)

    def _body(self) -> None:
        batch = self._batch
        assert batch is not None
        if self.adaptation and batch.u is not None:
            batch = replace(batch, i=self.adaptation.steps(batch.u))
        self.optimizer.zero_grad(set_to_none=True)
        before = [statistic.clone() for statistic in self.running]
        per_event, error_bar = self._backward(batch)
        norm = full(nn.utils.clip_grad_norm_(self.parameters, self.grad_clip))
        mean = per_event.mean()
        # Gradients are those of all processes, losses are not: each must know whether the others skip.
        finite = self.world.all(mean.isfinite() & norm.isfinite())
        applies, fails = self.tally.add(mean, norm, finite)
        self._remember((batch.index, batch.i, per_event, error_bar), fails)
        self.whole = False
        for statistic, old in zip(self.running, before, strict=True):
            statistic.copy_(torch.where(applies, statistic, old))
        self.optimizer.found_inf = (~applies).float()  # type: ignore[attr-defined]  # what a fused optimiser leaves out
        self.optimizer.step()
        self._average(applies)
        if self.adaptation:
            weighed = per_event if self.correction is None else per_event / self.correction(batch.i)
            self.adaptation.learn(batch.i, weighed, applies, self.world.sum)
        self.whole = True

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The losses of a batch and its errors in rotated coordinates, once the gradient of their mean is there."""
        *first, last = batch.parts(self.accumulate)
        with gradients_kept_apart(self.denoiser) if first else nullcontext():
            losses = [self._add_gradient(part) for part in first]
        losses.append(self._add_gradient(last))
        return torch.cat([loss.per_event for loss in losses]), torch.cat([loss.error_bar for loss in losses])

    def _add_gradient(self, part: Batch) -> Loss:
        loss = self.objective.loss(self.denoiser, self.diffusion, part.x_0, part.i, part.eps, part.condition)
        per_event = (
            loss.per_event if self.correction is None else loss.per_event * self.correction(part.i).to(loss.per_event)
        )
        (per_event.mean() / self.accumulate).backward()
        return Loss(per_event.detach(), loss.error_bar)

    def _average(self, applies: Tensor) -> None:
        move_averages = move_in_place if self.rate.is_cuda else move_on_host
        for average, keep in zip(self.averages, self.keeps, strict=True):
            move_averages(average, self.weights, keep, applies)

    def _remember(self, last: tuple[Tensor, ...], fails: Tensor) -> None:
        self.error_bar = last[-1]
        if self.failed is None:
            self.failed = Failed(*map(torch.zeros_like, last))
        for field, value in zip(fields(Failed), last, strict=True):
            kept = getattr(self.failed, field.name)
            kept.copy_(torch.where(fails, value, kept))


def running_statistics(network: nn.Module) -> list[Tensor]:
    """What layers that normalise keep of the batches they saw: the pass forward writes it, whatever becomes of the step."""
    layers = [layer for layer in network.modules() if isinstance(layer, _NormBase) and layer.track_running_stats]
    return [statistic for layer in layers for statistic in layer.buffers(recurse=False)]


def move_on_host(average: list[Tensor], weights: list[Tensor], keep: Tensor, applies: Tensor) -> None:
    """``w̄ <- w̄ + (1 - keep)(w - w̄)`` where it ``applies``, on a processor, which waits for nobody."""
    torch._foreach_lerp_(average, weights, torch.where(applies, 1 - keep, 0.0).item())


def move_in_place(average: list[Tensor], weights: list[Tensor], keep: Tensor, applies: Tensor) -> None:
    """The same on a device, which is not waited for: large tensors are read once."""
    move = torch.where(applies, 1 - keep, 0.0)
    pairs = list(zip(average, weights, strict=True))
    for old, new in pairs:
        if old.numel() >= LARGE:
            old.lerp_(new, move.to(old.dtype))
    small = [pair for pair in pairs if pair[0].numel() < LARGE]
    if small:
        olds, news = [old for old, _ in small], [new for _, new in small]
        ways = torch._foreach_sub(news, olds)
        torch._foreach_mul_(ways, move.float())
        torch._foreach_add_(olds, ways)
