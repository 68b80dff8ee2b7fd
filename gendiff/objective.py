r"""Objective: what the network predicts, and how its errors are weighed.

    loss = mean_k  ω_k(i) (U^T out - target)_k²

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
from gendiff.score import Parametrization, Pivot, encode


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

    def weight(self, a: Tensor, s: Tensor) -> Tensor:
        """ω_k(i) >= 0 for the squared error of the output, broadcasting over ``(B, *event)``; here 1."""
        return torch.ones_like(s)

    @final
    def loss(self, denoiser: nn.Module, diffusion: Diffusion, x_0: Tensor, i: Tensor, eps: Tensor) -> Loss:
        """The loss of a batch of clean events ``(B, *event)``, steps ``(B,)`` and event-space noise ``(B, *event)``."""
        a, s = diffusion.marginal(i)
        pivot = Pivot(x_0=diffusion.rotate(x_0), eps=diffusion.rotate(eps))
        x_i = diffusion.unrotate(a * pivot.x_0 + s * pivot.eps)
        target = encode(self.parametrization, pivot, a, s)
        output = denoiser(x_i, i)
        error = diffusion.rotate(output) - target
        weighted = self.weight(a, s) * error**2
        return Loss(per_event=weighted.flatten(1).mean(1), error=diffusion.unrotate(error.detach()))
