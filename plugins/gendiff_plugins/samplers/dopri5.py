"""The probability-flow ODE with error control."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gendiff.component import by_name
from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError
from gendiff.flow import Tolerance, solve
from gendiff.grid import Grid
from gendiff.sampler import Sampler, Update
from gendiff.score import Pivot, ScoreModel
from gendiff_plugins.samplers.ddim import plan

LEGS = 8  # between which the chain is looked at


class DormandPrince5(Sampler):
    """follows the probability-flow ODE in steps that it chooses by their error, for each event its own.

    ``dy/di = -θ'(i) T`` in real time, by Dormand and Prince's pair of orders 5 and 4: a step whose error is above
    ``atol + rtol |y|`` (y has unit variance) is taken again, shorter. From N to step 1 in eight legs, where the chain can be
    looked at, and from there to the data in one evaluation, as ``ddim``. How many evaluations there are depends on the network
    and on the event. Steps belong to an event alone: it is the same whichever others are drawn beside it.

    Reference: Dormand, Prince 1980; Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv 2011.13456,
    Section 4.3.
    """

    name = "dopri5"
    order = 0  # there is no number of steps
    affine: ClassVar[bool] = False

    rtol: float = Field(1e-3, ge=1e-10, le=1, description="error of a step, relative")
    atol: float = Field(1e-3, ge=1e-10, le=1, description="error of a step, absolute; y has unit variance")
    grid: Grid = by_name("arc-length", "where the chain is looked at, eight steps")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        steps = self.grid.steps(diffusion, None if self.grid.counted else min(LEGS, diffusion.N))
        return plan(diffusion, [*(step for step in steps if step > 1), 1, 0], eta=0.0)

    def step(
        self,
        diffusion: Diffusion,
        model: ScoreModel,
        update: Update,
        x_bar: Tensor,
        pivots: Sequence[Pivot],
        z_bar: Tensor | None,
    ) -> Tensor:
        if torch.is_grad_enabled():
            raise ArgumentError(
                "sampler 'dopri5' keeps no graph: how it steps depends on what it meets",
                fix="follow a chain of fixed steps: heun, or trig:solver=heun",
            )
        if update.j == 0:
            return super().step(diffusion, model, update, x_bar, pivots, z_bar)
        return solve(diffusion, model, x_bar, update.i, update.j, Tolerance(self.rtol, self.atol), first=1.0).x_bar
