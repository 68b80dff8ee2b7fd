r"""Solvers in the angle θ between signal and noise.

With ``v = a² c + s²``, ``y = (x̄ - a m)/sqrt(v)`` and ``θ = atan2(s, a sqrt(c))``, m and c the moments of the data, the
probability-flow ODE of any process is exactly

    dy/dθ = -T ,     T = sin θ (x̂_0 - m)/sqrt(c) - cos θ ε̂ ,

component by component. T is 0 for Gaussian data that are diagonal in U: one step is exact there, and what a network must
follow is only what the data have beyond mean and variance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from gendiff.component import by_name
from gendiff.diffusion import Diffusion
from gendiff.grid import Grid, GridSampler
from gendiff.sampler import Past, Update


class Trigonometric(GridSampler):
    """along the angle between signal and noise: exact in one step for Gaussian data, first or second order.

    With ``Δ = θ_j - θ_i``:

        euler   y_j = y_i - Δ T_i
        ab2     y_j = y_i - Δ [T_i + Δ/(2 Δ_prev) (T_i - T_prev)]                          one evaluation a step
        heun    y_j = y^p_j - Δ/2 (T^p_j - T_i) ,  y^p_j as euler                          two evaluations a step

    The last step is of first order, and ab2 extrapolates no component further than it came (``Δ/Δ_prev <= 1``): what T did while
    one hardly moved is the work of others. It needs no network of a certain kind, but follows one that predicts T (objective
    ``wiener``) without dividing by a or s.
    """

    name = "trig"

    grid: Grid = by_name("arc-length", "at which steps")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")
    solver: Literal["euler", "ab2", "heun"] = Field("euler", description="euler: order 1; ab2, heun: order 2")

    @property
    def order(self) -> int:  # type: ignore[override]  # it depends on the solver
        return 1 if self.solver == "euler" else 2

    @property
    def stages(self) -> int:  # type: ignore[override]  # it depends on the solver
        return 2 if self.solver == "heun" else 1

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        before, here = None, _Angle.of(diffusion, diffusion.N)
        for j in self.descent(diffusion)[1:]:
            there = _Angle.of(diffusion, j)
            w = (here.theta - there.theta) * there.root_v
            if self.solver == "ab2" and before is not None and j > 0:
                last_turn = before.theta - here.theta
                turns = (here.theta - there.theta) / torch.where(last_turn > 0, last_turn, 1.0)
                ahead = torch.where(last_turn > 0, turns.clamp_max(1.0), 0.0) / 2
                yield _update(here, there, (here, w * (1 + ahead)), (before, -w * ahead))
            else:
                yield _update(here, there, (here, w))
            if self.solver == "heun" and j > 0:
                yield _update(there, there, (there, w / 2), (here, -w / 2))
            before, here = here, there


@dataclass(frozen=True)
class _Angle:
    """A step in terms of θ: float64 diagonals, with ``T = of_x_0 x̂_0 + of_eps ε̂ + constant``."""

    i: float
    theta: Tensor
    root_v: Tensor
    centre: Tensor  # a m
    of_x_0: Tensor
    of_eps: Tensor
    constant: Tensor

    @classmethod
    def of(cls, diffusion: Diffusion, i: float) -> _Angle:
        at = diffusion.at(i, torch.float64)
        of_x_0 = at.sin / at.c.sqrt()
        return cls(i, at.theta, at.v.sqrt(), at.a * at.m, of_x_0, -at.cos, -of_x_0 * at.m)


def _update(here: _Angle, there: _Angle, *terms: tuple[_Angle, Tensor]) -> Update:
    """``y_j = y_i + Σ w T/sqrt(v_j)`` over ``terms``, (where T was evaluated, w), the newest first."""
    p = there.root_v / here.root_v
    constant = there.centre - p * here.centre
    for angle, w in terms:
        constant = constant + w * angle.constant
    (q, b), *past = [(w * angle.of_x_0, w * angle.of_eps) for angle, w in terms]
    return Update(here.i, there.i, p=p, q=q, b=b, constant=constant, past=tuple(Past(q, b) for q, b in past))
