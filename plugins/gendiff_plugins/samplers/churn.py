"""Karras' stochastic sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.component import by_name
from gendiff.diffusion import Diffusion
from gendiff.grid import Grid, GridSampler
from gendiff.sampler import Update
from gendiff_plugins.samplers.heun import correction, guess

MOST = math.sqrt(2) - 1  # of γ, Karras' own
FAR = 14.0  # half log-SNR beyond which a component is all signal or all noise
HALVINGS = 60


class Churn(GridSampler):
    """heun with noise put back in before each step (Karras' stochastic sampler).

    Before a step from i the process is run **forward** to the real step î > i at which the noise level is
    ``σ(î) = (1 + γ) σ(i)``, ``γ = min(S_churn/n, sqrt(2) - 1)`` where ``S_min <= σ(i) <= S_max``, else 0; the step of ``heun``
    then leads down from î. With one level for all components σ is s/a, and this is Karras' Algorithm 2. Where they move at
    speeds of their own, all go to the same î, each by its own kernel ``q(x̄_î | x̄_i)`` with the noise times S_noise, so that
    together they stay a state of the process, which a network was trained on; σ is then ``exp(-λ_ref)``, λ_ref the mean of λ
    over components by the variance of the data. Nothing is above N: no noise is put in before the first step. With
    S_churn = 0 it is ``heun``.

    Reference: Karras, Aittala, Aila, Laine 2022, Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364, Algorithm 2.
    """

    name = "churn"
    order = 0  # its errors depend on how much noise is put in
    stages = 2

    grid: Grid = by_name("karras", "at which steps")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")
    S_churn: float = Field(40.0, ge=0, le=1e6, description="how much noise is put in, over all steps")
    S_min: float = Field(0.05, ge=0, description="least σ at which it is")
    S_max: float = Field(50.0, gt=0, description="largest σ at which it is")
    S_noise: float = Field(1.003, ge=0, le=2, description="by what factor the new noise is larger")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.S_min > self.S_max:
            raise ValueError(f"S_min = {self.S_min:g} is above S_max = {self.S_max:g}")
        return self

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        steps = self.descent(diffusion)
        gamma = min(self.S_churn / (len(steps) - 1), MOST)
        i: float = steps[0]
        for j in steps[1:]:
            yield guess(diffusion, i, j)
            if j > 0:
                update = correction(diffusion, i, j)
                i = self._raised(diffusion, j, gamma)
                yield self._lifted(diffusion, update, i) if i > j else update

    def _raised(self, diffusion: Diffusion, i: float, gamma: float) -> float:
        """î; i itself where no noise is put in."""
        goal = _log_sigma(diffusion, i) + math.log1p(gamma)
        if gamma == 0 or not self.S_min <= math.exp(_log_sigma(diffusion, i)) <= self.S_max:
            return i
        low, high = float(i), float(diffusion.N)
        if _log_sigma(diffusion, high) <= goal:
            return diffusion.N
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if _log_sigma(diffusion, middle) < goal else (low, middle)
        return high

    def _lifted(self, diffusion: Diffusion, update: Update, i: float) -> Update:
        """The update, and then by the kernel of the process up to i: affine too, and one update."""
        kernel = diffusion.kernel(i, update.j)
        past = tuple(
            replace(each, q=_times(kernel.scale, each.q), b=_times(kernel.scale, each.b)) for each in update.past
        )
        p, q, b = (_times(kernel.scale, value) for value in (update.p, update.q, update.b))
        return replace(update, j=i, p=p, q=q, b=b, past=past, e=self.S_noise * kernel.std)


def _times(scale: Tensor, value: Tensor | None) -> Tensor | None:
    return None if value is None else scale * value


def _log_sigma(diffusion: Diffusion, i: float) -> float:
    """``-λ_ref(i)``."""
    weight = diffusion.moments.variance.expand(1, *diffusion.event_shape)[0]
    lam = torch.broadcast_to(diffusion.at(i).half_log_snr.clamp(-FAR, FAR), diffusion.event_shape)
    return -float((weight * lam).sum() / weight.sum())
