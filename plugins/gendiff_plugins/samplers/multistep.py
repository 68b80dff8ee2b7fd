r"""Multistep solvers in λ, each component at its own.

With ``h = λ_j - λ_i`` per component the probability-flow ODE from i to j is

    x̄_j = (s_j/s_i) x̄_i + a_j ∫ e^{λ-λ_j} X(λ) dλ ,     X = x̂_0 along the path,

and the solvers differ in how they extrapolate X from evaluations. A component with h = 0 stands still; one whose earlier
evaluation says nothing of x_0, because it did not move or was pure prior there, is taken to first order. One that moved little
before and moves much now is extrapolated no further than twice as far as it came (``h/h_prev <= 2``): what X did meanwhile is
the work of other components.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from gendiff.component import by_name
from gendiff.diffusion import Diffusion
from gendiff.grid import Grid, GridSampler
from gendiff.sampler import Past, Update
from gendiff.score import LOG_A_PRIOR

FARTHEST = 2.0  # of h/h_prev; components of one speed on a usual grid stay below


class DPM2M(GridSampler):
    """second order and deterministic, one evaluation a step.

    ``x̄_j = (s_j/s_i) x̄_i - a_j expm1(-h) [X_i + h/(2 h_prev) (X_i - X_prev)]``; the first and the last step are DDIM.

    Reference: Lu, Zhou, Bao, Chen, Li, Zhu 2022, DPM-Solver++, arXiv 2211.01095, Algorithm 2.
    """

    name = "dpmpp-2m"
    order = 2

    grid: Grid = by_name("lambda", "at which steps")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        for at in _walk(diffusion, self.descent(diffusion)):
            q, ahead = -at.a_j * torch.expm1(-at.h), at.ratio / 2
            yield Update(at.i, at.j, p=at.s_ratio, q=q * (1 + ahead), past=(Past(q=-q * ahead),) if at.second else ())


class SDEDPM2M(GridSampler):
    """second order in the drift, with the noise of the reverse SDE; one evaluation a step.

    ``x̄_j = (s_j/s_i) e^{-h} x̄_i - a_j expm1(-2h) [X_i + h/(2 h_prev) (X_i - X_prev)] + s_j sqrt(-expm1(-2h)) z``; the first and
    the last step are ``ancestral``.

    Reference: Lu, Zhou, Bao, Chen, Li, Zhu 2022, DPM-Solver++, arXiv 2211.01095, SDE-DPM-Solver++(2M).
    """

    name = "sde-dpmpp-2m"
    order = 2

    grid: Grid = by_name("lambda", "at which steps")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        for at in _walk(diffusion, self.descent(diffusion)):
            rest = -torch.expm1(-2 * at.h)  # 1 - r
            q, ahead, e = at.a_j * rest, at.ratio / 2, at.s_j * rest.sqrt()
            yield Update(
                at.i,
                at.j,
                p=at.s_ratio * torch.exp(-at.h),
                q=q * (1 + ahead),
                past=(Past(q=-q * ahead),) if at.second else (),
                e=e if bool((e > 0).any()) else None,
            )


class UniPC2(GridSampler):
    """a second-order predictor whose evaluation corrects the step before; one evaluation a step.

    Where it arrives, the predictor's guess x̄^p is corrected with the evaluation that is needed there anyway. With
    ``E = expm1(-h)``, ``φ = E/(-h) - 1``, ``R = (X_i - X_prev) h/h_prev``:

        predict   x̄^p_j = (s_j/s_i) x̄_i - a_j E (X_i + R/2)
        correct   x̄_j   = (s_j/s_i) x̄_i - a_j E (X_i + ρ_1 R + ρ_2 (X^p_j - X_i))

    ``b_1 = φ/E``, ``b_2 = 2 (φ/(-h) - 1/2)/E``, ``ρ_1 = (b_1 - b_2)/(1 + h_prev/h)``, ``ρ_2 = b_1 - ρ_1``; at the first step
    ρ_2 = 1/2 without R. The last step is DDIM.

    Reference: Zhao, Bai, Rao, Zhou, Lu 2023, UniPC, arXiv 2302.04867 (B_2, data prediction).
    """

    name = "unipc-2"
    order = 3  # of the correction, which the next step starts from

    grid: Grid = by_name("lambda", "at which steps")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        correction: tuple[Tensor, ...] = ()  # of the guess at i, in terms of X_i, X_prev and the one before
        for at in _walk(diffusion, self.descent(diffusion)):
            q, ahead = -at.a_j * torch.expm1(-at.h), at.ratio / 2
            terms = [q * (1 + ahead), -q * ahead] if at.second else [q * (1 + ahead)]
            terms += [torch.zeros_like(q)] * (len(correction) - len(terms))
            for k, value in enumerate(correction):
                terms[k] = terms[k] + at.s_ratio * value
            yield Update(at.i, at.j, p=at.s_ratio, q=terms[0], past=tuple(Past(q=term) for term in terms[1:]))
            rho_1, rho_2 = _corrector(at)
            R = q * (rho_1 - 0.5) * at.ratio
            correction = (q * rho_2, R - q * rho_2, *([-R] if at.second else []))


def _corrector(at: _Step) -> tuple[Tensor, Tensor]:
    """ρ_1 and ρ_2 of UniPC with B_2 = expm1(-h)."""
    E, hh = torch.expm1(-at.h), -at.h
    small = at.h.abs() < 1e-3  # there the differences are rounding errors, and their series exact to 1e-10
    safe = torch.where(small, 1.0, hh)
    phi = torch.where(small, hh / 2 + hh**2 / 6 + hh**3 / 24, E / safe - 1)
    rest = torch.where(small, hh / 6 + hh**2 / 24 + hh**3 / 120, phi / safe - 0.5)
    E = torch.where(small, hh + hh**2 / 2 + hh**3 / 6 + hh**4 / 24, E)
    still = at.h == 0
    b_1, b_2 = (torch.where(still, 0.5, value / torch.where(still, 1.0, E)) for value in (phi, 2 * rest))
    rho_1 = torch.where(at.ratio > 0, (b_1 - b_2) * at.ratio / (1 + at.ratio), 0.5)  # 1/(1 + h_prev/h)
    return rho_1, torch.where(at.ratio > 0, b_1 - rho_1, 0.5)


@dataclass(frozen=True)
class _Step:
    """A step i -> j of a walk: float64 diagonals.

    Args:
        s_ratio: s_j/s_i.
        h: λ_j - λ_i >= 0.
        ratio: h/h_prev, at most 2; 0 where the step is of first order.
        second: whether there is a step before that counts: this one is neither the first nor the last.

    """

    i: float
    j: float
    a_j: Tensor
    s_j: Tensor
    s_ratio: Tensor
    h: Tensor
    ratio: Tensor
    second: bool


def _walk(diffusion: Diffusion, steps: Sequence[float]) -> Iterator[_Step]:
    h_prev: Tensor | None = None
    dead = torch.zeros((), dtype=torch.bool)
    for i, j in pairwise(steps):
        here, there = diffusion.at(i, torch.float64), diffusion.at(j, torch.float64)
        h = (there.half_log_snr - here.half_log_snr).clamp_min(0)
        second = h_prev is not None and j > 0
        ratio = torch.zeros_like(h)
        if h_prev is not None and second:
            usable = (h_prev > 0) & ~dead
            ratio = torch.where(usable, h / torch.where(usable, h_prev, 1.0), 0.0).clamp_max(FARTHEST)
        s_ratio = torch.exp(there.log_s - here.log_s)
        yield _Step(i, j, there.a, there.s, s_ratio, h, ratio, second)
        h_prev, dead = h, here.log_a < LOG_A_PRIOR
