"""Moments: what Adam knows of each weight, by name, from a checkpoint into an optimiser."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gendiff.errors import DataError
from gendiff.run import checkpoint
from gendiff.training.sharding import put

COUNT = "step"  # a number, the others are of the shape of their weight
ENTRIES = (COUNT, "exp_avg", "exp_avg_sq")


def named(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The state of an optimiser by the names of the weights, ``WEIGHT.ENTRY``."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    return {
        f"{names[id(parameter)]}.{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    moments: Mapping[str, Tensor],
    step: int,
    expected: bool,
) -> None:
    """Take up all moments of ``step``, which must be those of these weights: torch would take any, and fail later or never.

    Args:
        expected: whether there must be some: where no step ever was applied, there are none.

    Raises:
        DataError: where one is missing, left over, of another shape, or of no use.

    """
    rest = dict(moments)
    for name, parameter in parameters.items():
        missing = not any(f"{name}.{entry}" in rest for entry in ENTRIES)
        if missing and not (expected and parameter.requires_grad):
            continue
        state = {}
        for entry in ENTRIES:
            value = rest.pop(f"{name}.{entry}", None)
            shape = _shape(entry, parameter)
            dtype = torch.float32 if entry == COUNT else parameter.dtype
            fits = value is not None and value.shape == shape and value.dtype == dtype
            if value is None or not fits or bool(checkpoint.spoilt("optimizer", f"{name}.{entry}", value).any()):
                raise _unusable(step, f"{name}.{entry}", value, shape, dtype)
            state[entry] = _place(entry, parameter)
            put(state[entry], value)
        optimizer.state[parameter] = state
    if rest:
        raise _unusable(step, *next(iter(rest.items())))


def inherit(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], moments: Mapping[str, Tensor]
) -> None:
    """Take up the moments of those parameters whose shapes they have."""
    for name, parameter in parameters.items():
        state = {entry: moments.get(f"{name}.{entry}") for entry in ENTRIES}
        if all(value is not None and value.shape == _shape(entry, parameter) for entry, value in state.items()):
            optimizer.state[parameter] = {
                entry: _place(entry, parameter).copy_(value) for entry, value in state.items() if value is not None
            }


def _shape(entry: str, parameter: Tensor) -> torch.Size:
    return torch.Size() if entry == COUNT else parameter.shape


def _place(entry: str, parameter: Tensor) -> Tensor:
    """Memory for it where a fused optimiser wants it, and with the strides of the weight."""
    return torch.zeros((), device=parameter.device) if entry == COUNT else torch.empty_like(parameter)


def _unusable(
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
