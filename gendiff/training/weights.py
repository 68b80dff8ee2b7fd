"""Weights: those of a network that trains, and all that is as large: their averages, and what the optimiser knows of each.

Out into a checkpoint and in from one they go here. Where each process holds a part of them, all must ask together for the whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gendiff.errors import ConfigError
from gendiff.run.checkpoint import Checkpoint
from gendiff.run.network import check_weights, load_weights
from gendiff.run.settings import TrainSettings
from gendiff.training import moments
from gendiff.training.inheritance import Inheritance, inherit
from gendiff.training.recipe import build_optimizer
from gendiff.training.sharding import local, put


class Weights:
    """The weights of a network on its way.

    Args:
        network: with those that it begins with.
        device: that of the network.
        sharded: whether each process holds a part of it.
        capturable: whether steps of the optimiser may be recorded.

    Attributes:
        optimizer: what moves them, and its moments.
        averages: averaged weights by name, by the name that each average has in a checkpoint.
        group: the name there of those that are sampled with.
        size: how many parameters they are.

    """

    def __init__(
        self, settings: TrainSettings, network: nn.Module, device: torch.device, sharded: bool, capturable: bool
    ) -> None:
        self.network = network
        self.sharded = sharded
        self.size = sum(parameter.numel() for parameter in network.parameters())
        self.optimizer = build_optimizer(settings, network, torch.zeros((), device=device), capturable)
        self.averages = {
            group: {name: weight.detach().clone() for name, weight in network.state_dict().items()}
            for group in (*settings.averages, *settings.profiles)
        }
        self.group = next(iter(settings.averages), "model")
        self._whole: tuple[int, Mapping[str, Tensor]] | None = None  # of those in parts, at the last checkpoint

    @property
    def ema(self) -> dict[str, Tensor]:
        """The averaged weights by name, the first where there are several; empty where none are kept."""
        return {} if self.group == "model" else self.averages[self.group]

    def sampled(self, step: int) -> Mapping[str, Tensor]:
        """The weights to sample with at ``step``: averaged, the first of several; where none are kept, the current ones."""
        at, whole = self._whole or (-1, {})
        return whole if at == step else self.ema or self.network.state_dict()

    def in_step(self) -> tuple[list[list[Tensor]], list[Tensor]]:
        """What a step averages: the tensors of each average, and the weights in their order, as this process holds them."""
        current = self.network.state_dict()
        names = [name for name, value in current.items() if value.is_floating_point()]
        averages = [[local(average[name]) for name in names] for average in self.averages.values()]
        return averages, [local(current[name]) for name in names]

    def lay_out(self, memory_format: torch.memory_format) -> None:
        """Let weights, averages and moments lie so in memory: all of them alike, since they are walked through together."""
        self.network.to(memory_format=memory_format)
        for named in (*self.averages.values(), *self.optimizer.state.values()):
            for name, value in named.items():
                if isinstance(value, Tensor) and value.ndim == 4:
                    named[name] = value.contiguous(memory_format=memory_format)

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """What a checkpoint keeps of them, by group."""
        own = moments.named(self.optimizer, dict(self.network.named_parameters()))
        return {"model": self.network.state_dict(), "optimizer": own, **self.averages}

    def remember(self, step: int, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Keep what is whole in a checkpoint of ``step`` where else there are parts: one process alone draws previews."""
        if self.sharded:
            self._whole = step, groups[self.group]

    def restore(self, source: Checkpoint) -> None:
        """Take up weights and averages of a checkpoint; raises `DataError` where it belongs to another network."""
        where = f"the checkpoint of step {source.step}"
        self._take(source.tensors.get("model", {}), f"model.safetensors, {where}")
        for group, average in self.averages.items():
            check_weights(average, source.tensors.get(group, {}), f"{group}.safetensors, {where}")
            for name, value in source.tensors[group].items():
                put(average[name], value)  # in its place: it is averaged there

    def restore_moments(self, source: Checkpoint, expected: bool) -> None:
        """Take up what the optimiser knew; ``expected`` and errors are those of `moments.restore`."""
        own, others = dict(self.network.named_parameters()), source.tensors.get("optimizer", {})
        moments.restore(self.optimizer, own, others, source.step, expected)

    def inherit(self, source: Checkpoint, averaged: bool) -> Inheritance:
        """Begin with what fits of another run's checkpoint: weights, the averaged ones where asked for, averages and moments.

        Raises `ConfigError` where they are held in parts.
        """
        if self.sharded:
            raise ConfigError(
                "a network in shards does not begin from another run", subject="train.shard", fix="begin without shards"
            )
        return inherit(source, averaged, self.network, self.averages, self.optimizer)

    def _take(self, weights: Mapping[str, Tensor], where: str) -> None:
        if not self.sharded:
            load_weights(self.network, weights, where)
            return
        own = self.network.state_dict()
        check_weights(own, weights, where)
        for name, value in weights.items():
            put(own[name], value)
