r"""Objective: what the network predicts, and how its errors are weighed.

    loss = mean_k  ω_k(i) (U^T out - target)_k² ,     out = network(U network_input(x̄_i), i)

An objective is a parametrization (what the output stands for) and a weight ω. Errors are taken in rotated coordinates, where
the weight is diagonal; U keeps inner products, so with ω = 1 this is the plain mean squared error of the pictures. Absolute
errors depend on the basis, and are those of the pictures. A sum over k instead of a mean is said by the objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, final

import torch
from pydantic import Field
from torch import Tensor, nn

from gendiff.component import Component
from gendiff.condition import Given
from gendiff.diffusion import Diffusion
from gendiff.level import Level
from gendiff.model import ask
from gendiff.score import Parametrization, Pivot, check_moments, encode, network_input
from gendiff.shapes import ShownByShape


class Nothing(nn.Module):
    """A network that has learned nothing."""

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        return torch.zeros_like(x)


@dataclass(frozen=True, repr=False)
class Loss(ShownByShape):
    """What one batch says.

    Args:
        per_event: weighted loss of each event, ``(B,)``, differentiable.
        error_bar: the unweighted output error in rotated coordinates, ``(B, *event)``, detached: for monitoring by frequency.

    """

    per_event: Tensor
    error_bar: Tensor


class Objective(Component):
    """A parametrization and a weight; an author sets the first and may override the second."""

    kind: ClassVar[str] = "objective"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    basis: Literal["auto", "process"] = Field(
        "auto",
        description="in which m and c of the data are taken: process, that of U; auto, the DCT where U is of no consequence",
    )
    parametrization: ClassVar[Parametrization]
    #: The power of an error in the loss: 2, or 1 for absolute errors, in event space.
    power: ClassVar[Literal[1, 2]] = 2
    #: Whether the loss of an event is the sum over its components, not the mean.
    summed: ClassVar[bool] = False

    def weight(self, at: Level) -> Tensor:
        """ω_k(i) >= 0 for the squared error of the output at the steps ``at``, broadcasting over ``(B, *event)``; here 1.

        Of an absolute error it weighs the square.
        """
        return torch.ones_like(at.s)

    @property
    def loss_of_one(self) -> str:
        """What a loss of 1 means, as the end of "a loss of 1 is ..."; empty where the number says nothing by itself.

        An author whose weight is not 1 says it, where there is something to say.
        """
        if type(self).weight is not Objective.weight:
            return ""
        if self.power == 2 and not self.summed and self.parametrization.loss_of_one:
            return self.parametrization.loss_of_one
        power = "squared" if self.power == 2 else "absolute"
        return f"a {'summed' if self.summed else 'mean'} {power} error of 1{self.parametrization.of}, in the units of the data"

    @final
    def loss_of_nothing(self, diffusion: Diffusion, x_0: Tensor, i: Tensor, eps: Tensor) -> float:
        """The mean loss of a network that returns 0, on a batch as `loss` takes it: what one that has learned nothing has."""
        return float(self.loss(Nothing(), diffusion, x_0, i, eps).per_event.mean())

    @final
    def loss(
        self,
        denoiser: nn.Module,
        diffusion: Diffusion,
        x_0: Tensor,
        i: Tensor,
        eps: Tensor,
        condition: Given | None = None,
    ) -> Loss:
        """The loss of a batch of clean events ``(B, *event)``, steps ``(B,)`` in 1..N and event-space noise ``(B, *event)``.

        ``condition`` is what the network is told of the events besides; left out, or empty, it is called without.

        Raises:
            ArgumentError: where events, steps or noise are not that, or T is predicted without mean and variance of the data.
            PluginError: where the network does not return ``(B, *event)``.

        """
        check_moments(self.parametrization, diffusion.knows_data)
        pivot = Pivot(x_0=diffusion.rotate(x_0), eps=diffusion.rotate(eps))
        at = diffusion.asked(pivot.x_0, i)
        x_bar = diffusion.corrupted(at, pivot.x_0, pivot.eps)
        x = diffusion.unrotate(network_input(self.parametrization, x_bar, at))
        output = ask(denoiser, x, at.i.expand(len(x)), diffusion.event_shape, condition=condition)
        error = diffusion.rotate(output.to(x.dtype)) - encode(self.parametrization, pivot, at)
        weight = self.weight(at)
        losses = (weight * error**2 if self.power == 2 else diffusion.unrotate(weight.sqrt() * error).abs()).flatten(1)
        per_event = losses.sum(1) if self.summed else losses.mean(1)
        return Loss(per_event=per_event, error_bar=error.detach())
