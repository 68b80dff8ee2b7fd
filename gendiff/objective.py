r"""Objective: what the network predicts, and how its errors are weighed.

    loss = mean_k  ω_k(i) (U^T out - target)_k² ,     out = network(U network_input(x̄_i), i)

An objective is a parametrization (what the output stands for) and a weight ω. Errors are taken in rotated coordinates, where
the weight is diagonal; U keeps inner products, so with ω = 1 this is the plain mean squared error of the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from gendiff.component import Component
from gendiff.diffusion import Diffusion
from gendiff.level import Level
from gendiff.score import Parametrization, Pivot, encode, network_input


@dataclass(frozen=True)
class Loss:
    """What one batch says.

    Args:
        per_event: weighted loss of each event, ``(B,)``, differentiable.
        error: the unweighted output error in event space, ``(B, *event)``, detached: for monitoring by frequency.

    """

    per_event: Tensor
    error: Tensor


class Objective(Component):
    """A parametrization and a weight; an author sets the first and may override the second."""

    kind: ClassVar[str] = "objective"
    parametrization: ClassVar[Parametrization]

    def weight(self, at: Level) -> Tensor:
        """ω_k(i) >= 0 for the squared error of the output at the steps ``at``, broadcasting over ``(B, *event)``; here 1."""
        return torch.ones_like(at.s)

    @final
    def loss(self, denoiser: nn.Module, diffusion: Diffusion, x_0: Tensor, i: Tensor, eps: Tensor) -> Loss:
        """The loss of a batch of clean events ``(B, *event)``, steps ``(B,)`` and event-space noise ``(B, *event)``."""
        at = diffusion.at(i)
        pivot = Pivot(x_0=diffusion.rotate(x_0), eps=diffusion.rotate(eps))
        x_bar = at.a * pivot.x_0 + at.s * pivot.eps
        output = denoiser(diffusion.unrotate(network_input(self.parametrization, x_bar, at)), i)
        error = diffusion.rotate(output) - encode(self.parametrization, pivot, at)
        weighted = self.weight(at) * error**2
        return Loss(per_event=weighted.flatten(1).mean(1), error=diffusion.unrotate(error.detach()))
