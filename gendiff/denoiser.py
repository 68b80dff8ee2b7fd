"""Denoiser: a network on events, and as a score model."""

from __future__ import annotations

import math
from copy import copy
from typing import Self

import torch
from torch import Tensor, nn

from gendiff.condition import Conditions, Given, check_given, filled
from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError
from gendiff.machine.arithmetic import DTYPES
from gendiff.model import ask
from gendiff.score import Parametrization, Pivot, ScoreModel, check_moments, decode, network_input
from gendiff.shapes import check_kind


class Denoiser(nn.Module):
    """A network on events, with what it needs to know of the rotation.

    Args:
        network: maps ``(B, in_channels, *spatial)`` and ``i``, and conditions where it takes some, to ``(B, *event)``.
        diffusion: gives U^T x where the network wants frequency features.
        frequency_features: concatenate U^T x to x along the channels.

    ``autocast`` (default None: float32) is the lower precision in which the network alone runs. ``channels_last`` (default False)
    is how pictures lie in memory when it reads them.

    """

    def __init__(self, network: nn.Module, diffusion: Diffusion, frequency_features: bool = False) -> None:
        super().__init__()
        self.network = network
        self.diffusion = diffusion
        self.frequency_features = frequency_features
        self.autocast: torch.dtype | None = None
        self.channels_last = False

    def to(self, device: torch.device) -> Self:  # type: ignore[override]  # a device is all it can move to
        """Move the network and the tables of the process."""
        self.diffusion = self.diffusion.to(device)
        return super().to(device)

    @property
    def precision(self) -> str:
        """In which the network runs: ``fp32`` or ``bf16``."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.autocast)

    def extra_repr(self) -> str:
        """The process, for the repr of the module."""
        return repr(self.diffusion)

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        """The raw output in event space, float32, for ``x`` of shape ``(B, *event)`` and steps ``i`` of shape ``(B,)``."""
        if self.frequency_features:
            x = torch.cat([x, self.diffusion.rotate(x)], dim=1)
        if self.channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        # Without a cache of cast weights: each is read once, and none would survive in a recorded step.
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=self.autocast is not None, cache_enabled=False):
            output = ask(self.network, x, i.to(x.dtype), self.diffusion.event_shape, self.autocast, condition)
        return output.float()


class NetworkScore(ScoreModel):
    """A trained network as a score model.

    Args:
        denoiser: maps what it sees of ``x_i`` (`network_input`), and i, in event space to what ``parametrization`` says.
        value_range: of the events, which samplers that clamp keep x̂_0 in: (-1, 1) for pictures. None, as for events without
            bounds, clamps nothing: only who knows the data can say it.
        conditions: that the denoiser is to be told of, as third argument.

    Raises:
        ArgumentError: where one of these is not that, or the network predicts T and nobody has told ``diffusion`` mean and
            variance of the data.

    """

    def __init__(
        self,
        denoiser: nn.Module,
        diffusion: Diffusion,
        parametrization: Parametrization | str,
        value_range: tuple[float, float] | None = None,
        conditions: Conditions | None = None,
    ) -> None:
        check_kind(diffusion, Diffusion, "diffusion")
        if value_range is not None and not _is_range(value_range):
            details = ["two finite numbers, the lower first, such as (-1, 1), or None"]
            raise ArgumentError(f"value_range is {value_range!r}", details=details)
        self.denoiser = denoiser
        self.diffusion = diffusion
        self.parametrization = Parametrization(parametrization)
        self.value_range = value_range
        self.conditions = conditions or {}
        check_moments(self.parametrization, diffusion.knows_data)

    def __repr__(self) -> str:
        inner = self.denoiser.network if isinstance(self.denoiser, Denoiser) else self.denoiser
        size = sum(parameter.numel() for parameter in inner.parameters()) if isinstance(inner, nn.Module) else 0
        return f"NetworkScore({type(inner).__name__} with {size:,} parameters, predicts {self.parametrization}, {self.diffusion})"

    def given(self, condition: Given) -> Self:
        check_given(self.conditions, condition, max([1, *map(len, condition.values())]))
        model, device = copy(self), self.diffusion.scales.device
        # Once: what is brought to a device waits for all that it has to do.
        model.condition = {name: value.to(device) for name, value in condition.items()}
        return model

    def predict(self, x_bar: Tensor, i: float | Tensor) -> Pivot:
        at = self.diffusion.asked(x_bar, i)
        x = self.diffusion.unrotate(network_input(self.parametrization, x_bar, at))
        told = filled(self.conditions, self.condition, len(x), x.device)
        output = ask(self.denoiser, x, at.i.expand(len(x)), self.diffusion.event_shape, condition=told)
        return decode(self.parametrization, self.diffusion.rotate(output.to(x_bar.dtype)), x_bar, at)


def _is_range(limits: object) -> bool:
    numbers = (
        isinstance(limits, tuple | list) and len(limits) == 2 and all(isinstance(end, int | float) for end in limits)
    )
    return numbers and math.isfinite(limits[0]) and math.isfinite(limits[1]) and limits[0] < limits[1]  # type: ignore[index]
