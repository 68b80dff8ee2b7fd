"""Speeds: those of a run that learns them, and the optimiser that moves them along with its network.

They move every so many optimiser steps of the network, up to a part of the run, by the loss that `gendiff.speeds` says, at the
network as it is just then. A step of theirs is a function of (seed, t) and of the state, as one of the network is; one whose
loss or gradient is not finite is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gendiff.bound import proposal, to_bytes
from gendiff.datasets.batches import Batch
from gendiff.denoiser import Denoiser
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, DataError
from gendiff.grid import GridSampler
from gendiff.machine.world import World
from gendiff.run import speeds as kept
from gendiff.run.config import Config
from gendiff.run.network import score_of
from gendiff.sampler import Clamped, Sampler
from gendiff.score import ScoreModel
from gendiff.shapes import whole
from gendiff.speeds import bound_loss, stratified, trajectory_loss
from gendiff.streams import stream
from gendiff.training import moments
from gendiff.velocity import Velocity

STATE = "speeds"  # of state.json: how many steps they have taken, and the loss of the last
MOMENTS = "speeds-optimizer"  # of a checkpoint


class Speeds:
    """What a velocity learns with a network.

    Args:
        config: of a run whose velocity is learned, with the speeds that it begins with.
        denoiser: of that run; nothing that it knows may depend on the speeds.

    Attributes:
        diffusion: the process as it is, for who takes no gradient of it: its numbers change as the speeds do.
        loss: of the last step of theirs; None before there is one.
        taken: how many steps were taken.
        count: events that one takes, of all processes together.
        whole: whether they are as an optimiser step leaves them: not while they move.

    Raises:
        ConfigError: where the network is told of the scales, which it would not see move, and for one in shards.

    """

    def __init__(self, config: Config, denoiser: Denoiser, world: World) -> None:
        self.config = config = config.fitted()
        self.settings = config.train.speeds
        self.world = world
        velocity = config.velocity
        if config.train.shard and world.size > 1:
            raise ConfigError(
                "speeds are not learned with a network in shards", subject="train.shard", fix="train it without shards"
            )
        self.free = {
            name: nn.Parameter(velocity.learned[name].clone().double().to(world.device)) for name in velocity.trained
        }
        self.optimizer = torch.optim.Adam(self.free.values(), self.settings.lr, fused=True)
        self._fixed = denoiser.diffusion
        self.diffusion = self._process({name: value.detach() for name, value in self.free.items()})
        self._proposal = proposal(self._fixed)  # of the steps of the bound: as of the speeds that it begins with
        self.loss: float | None = None
        self.taken = 0
        self.whole = True
        self.count = min(self.settings.events, config.train.batch)
        self._refuse_a_network_that_knows_them(denoiser.network)

    def due(self, step: int) -> bool:
        """Whether they move after an optimiser step."""
        return step % self.settings.every == 0 and step <= self.settings.until * self.config.train.steps

    def move(self, step: int, batch: Batch, denoiser: Denoiser) -> None:
        """Take a step of theirs with what an optimiser step was taken with; where that fails, they are `whole` no more."""
        self.whole = False
        own = self._slope(step, batch, denoiser)
        mean, *slope = self.world.mean([self.world.size * value for value in own])
        if all(map(math.isfinite, (mean, *slope))):
            self._take(slope)
            self.loss, self.taken = mean, self.taken + 1
        self.whole = True

    def _take(self, slope: Sequence[float]) -> None:
        values = torch.tensor(slope, dtype=torch.float64, device=self.world.device)
        sizes = [value.numel() for value in self.free.values()]
        for value, part in zip(self.free.values(), values.split(sizes), strict=True):
            value.grad = part.reshape(value.shape)
        self.optimizer.step()

    def _slope(self, step: int, batch: Batch, denoiser: Denoiser) -> list[float]:
        """What the events of this process add to the loss and to its gradient."""
        places, own = self._events(len(batch.i))
        if not own:
            return [0.0] * (1 + sum(value.numel() for value in self.free.values()))
        process = self._process(self.free)
        network = Denoiser(denoiser.network, process, denoiser.frequency_features)
        network.autocast, network.channels_last = denoiser.autocast, denoiser.channels_last
        few = batch.each(lambda tensor: tensor[own])
        learning = denoiser.network.training
        denoiser.network.eval()  # what it has learned, without dropout
        try:
            model = score_of(network, process, self.config).given(few.condition)
            loss = self._loss(step, few, process, model, places).sum() / self.count
            gradient = torch.autograd.grad(loss, list(self.free.values()))
        finally:
            denoiser.network.train(learning)
        numbers: list[float] = torch.cat([each.flatten() for each in (loss.detach(), *gradient)]).tolist()
        return numbers

    def _events(self, share: int) -> tuple[list[int], list[int]]:
        """Which of the events that all processes take this one has: their number there, and their place in its own batch.

        They are spread evenly over the global batch: who takes them changes nothing.
        """
        whole, first = share * self.world.size, share * self.world.rank
        at = [(number * whole) // self.count - first for number in range(self.count)]
        return [k for k in range(self.count) if 0 <= at[k] < share], [place for place in at if 0 <= place < share]

    def moved(self) -> Config:
        """The configuration of the run with the speeds as they are, in numbers of its own."""
        return self.config.with_trained(self._numbers())

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps, by group."""
        own = moments.named(self.optimizer, self.free)
        return {kept.GROUP: kept.group(self._numbers(), self.moved().diffusion()), MOMENTS: own}

    def state(self) -> dict[str, Any]:
        """What its state.json says."""
        return {STATE: {"taken": self.taken, "loss": self.loss}}

    def restore(self, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], step: int) -> None:
        """Take up those of a checkpoint; raises `DataError` where it has none, or others."""
        learned = kept.learned_of(tensors.get(kept.GROUP, {}))
        shapes = {name: value.shape for name, value in self.free.items()}
        if {name: value.shape for name, value in learned.items()} != shapes:
            raise DataError(
                f"the checkpoint of step {step} has no speeds of this velocity, '{self.config.velocity.name}'",
                where=f"{kept.GROUP}.safetensors",
                fix="move that checkpoint to another place to go on from the one before it",
            )
        try:
            about = state[STATE]
            self.taken, loss = whole(about["taken"]), about["loss"]
            self.loss = None if loss is None else float(loss)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the state.json of the checkpoint of step {step} does not say {STATE}") from error
        with torch.no_grad():
            for name, value in learned.items():
                self.free[name].copy_(value)
        moments.restore(self.optimizer, self.free, tensors.get(MOMENTS, {}), step, expected=self.taken > 0)

    def _numbers(self) -> dict[str, Tensor]:
        return {name: value.detach().cpu().clone() for name, value in self.free.items()}

    def _process(self, free: Mapping[str, Tensor]) -> Diffusion:
        """The process of these tensors, of which it is a differentiable function."""
        config = self.config
        velocity = config.velocity.with_learned({**config.velocity.learned, **free})
        scales = velocity.scales(config.rotation, config.data.event_shape, config.N)
        return self._fixed.scaled(scales.to(self.world.device))

    def _loss(self, step: int, batch: Batch, process: Diffusion, model: ScoreModel, places: Sequence[int]) -> Tensor:
        if self.settings.loss == "bound":
            u = torch.rand((), generator=stream(self.config.train.seed, "speeds", step))
            i, weight = (each[list(places)] for each in stratified(self._proposal, self.count, u))
            device, eight_bit = batch.x_0.device, self.config.data.value_range == (-1.0, 1.0)
            x_0 = to_bytes(batch.x_0) if eight_bit else batch.x_0
            return bound_loss(
                process,
                Clamped(model, process),
                x_0,
                batch.eps,
                i.to(device),
                weight.to(device),
                eight_bit=eight_bit,
                matched=self.config.sampler.prior != "standard",
            )
        sampler = self.settings.sampler
        if sampler.prior == "data":
            start = process.at(process.N).a * process.rotate(batch.x_0)
        else:
            start = process.prior(batch.eps, sampler.prior == "matched")
        return trajectory_loss(process, model, sampler, self._finer(), start)

    def _finer(self) -> Sampler:
        sampler = self.settings.sampler
        assert isinstance(sampler, GridSampler)
        assert sampler.steps is not None
        return sampler.model_copy(update={"steps": min(self.settings.finer * sampler.steps, self.config.N)})

    def refuse_sampler(self) -> None:
        """Raise `ConfigError` where the error of a sampler is to be made small that has none, or is not known for itself."""
        sampler = self.settings.sampler
        if self.settings.loss != "trajectory":
            return
        counted = isinstance(sampler, GridSampler) and sampler.steps is not None and not sampler.grid.counted
        if not counted or any(update.e is not None for update in sampler.plan(self.diffusion)):
            raise ConfigError(
                f"the trajectory of '{sampler.spec}' is not one that more steps come close to",
                details=["a deterministic sampler with a number of steps: trig:steps=10, ddim:steps=10"],
                fix="choose one",
                subject="train.speeds.sampler",
            )

    def _refuse_a_network_that_knows_them(self, network: nn.Module) -> None:
        """Raise `ConfigError` where what the network keeps of the process is another for other speeds."""
        model = self.config.model
        generator = stream(0, "other speeds")
        others = {
            name: value.detach() + torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
            for name, value in self.free.items()
        }
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        model.attach(network, self._process(others))
        knows = any(not torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
        model.attach(network, self._fixed)
        if knows:
            raise ConfigError(
                f"model '{model.name}' is told of the scales of its process, which would change under it",
                details=["speeds that are learned move while the network trains"],
                fix="tell it of i or of t: --model MODEL:time=i",
                subject="model.name",
            )


def refuse_learned(tensors: Mapping[str, Mapping[str, Tensor]], velocity: Velocity) -> None:
    """Raise `DataError` where a checkpoint has speeds, which its run learns, and this velocity learns none."""
    if kept.GROUP in tensors:
        raise DataError(
            f"the run learns its speeds, and velocity '{velocity.name}' does not",
            details=["numbers that are stored can be sampled from, not learned on"],
            fix="bring its plugin back, or begin a new run with its weights: --from",
        )
