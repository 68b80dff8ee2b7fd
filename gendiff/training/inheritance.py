"""Inheritance: what a new network takes from another's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gendiff.run.checkpoint import Checkpoint
from gendiff.run.network import load_weights
from gendiff.training import moments


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


def inherit(
    source: Checkpoint,
    averaged: bool,
    network: nn.Module,
    averages: Mapping[str, Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
) -> Inheritance:
    """Let a network, its averages and its optimiser begin with what fits of a checkpoint, or of its averaged weights."""
    weights, own = source.tensors[first_average(source) if averaged else "model"], network.state_dict()
    left = [why for name in own if (why := _misfit(name, own[name], weights.get(name)))]
    taken = {name: weights[name] for name in own if not _misfit(name, own[name], weights.get(name))}
    left += [f"'{name}' is not in this network" for name in weights if name not in own]
    load_weights(network, {**own, **taken})
    current = network.state_dict()
    for group, named in averages.items():
        before = source.tensors.get(group) or source.tensors.get(first_average(source), weights)
        for name, average in named.items():  # in its place: it is averaged there
            average.copy_(before[name] if name in taken and name in before else current[name])
    parameters = {name: parameter for name, parameter in network.named_parameters() if name in taken}
    moments.inherit(optimizer, parameters, source.tensors.get("optimizer", {}))
    return Inheritance(len(taken), left, len(optimizer.state))


def _misfit(name: str, own: Tensor, other: Tensor | None) -> str:
    """Why another network's tensor cannot take the place of one's own; empty where it can."""
    if other is None:
        return f"'{name}' {tuple(own.shape)} is new"
    if own.shape != other.shape:
        return f"'{name}' is {tuple(own.shape)}, and was {tuple(other.shape)}"
    alike = own.dtype == other.dtype or (own.is_floating_point() and other.is_floating_point())
    return "" if alike else f"'{name}' is of another type"


def first_average(source: Checkpoint) -> str:
    """The averaged weights of a checkpoint, the first where there are several; empty where it has none."""
    return next((group for group in source.tensors if group == "ema" or group.startswith("ema-")), "")
