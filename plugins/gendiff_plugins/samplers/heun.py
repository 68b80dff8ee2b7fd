"""Heun's method in s/a."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from pydantic import Field

from gendiff.component import by_name
from gendiff.diffusion import Diffusion
from gendiff.grid import Grid, GridSampler
from gendiff.sampler import Past, Update
from gendiff.score import LOG_A_PRIOR

LONG = 2.0  # of a step in λ


class Heun(GridSampler):
    """second order, a guess and its correction: two evaluations a step.

    With ``σ = s/a`` per component ``d(x̄/a)/dσ = ε̂``:

        guess     x̄^p_j = a_j x̂_0 + s_j ε̂                            (DDIM)
        correct   x̄_j   = x̄^p_j + a_j (σ_j - σ_i)/2 (ε̂^p_j - ε̂_i)

    The last step is DDIM. So is every step over which log σ of a component changes by more than 2, or that starts where it was
    pure prior: a straight line in σ from there says nothing of where it ends.

    Reference: Karras, Aittala, Aila, Laine 2022, Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364, Algorithm 1.
    """

    name = "heun"
    order = 2
    stages = 2

    grid: Grid = by_name("karras", "at which steps")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        for i, j in pairwise(self.descent(diffusion)):
            yield guess(diffusion, i, j)
            if j > 0:
                yield correction(diffusion, i, j)


def guess(diffusion: Diffusion, i: float, j: float) -> Update:
    """DDIM from i to j."""
    there = diffusion.at(j, torch.float64)
    return Update(i=i, j=j, q=there.a, b=there.s)


def correction(diffusion: Diffusion, i: float, j: float) -> Update:
    """At j > 0, of the guess from i."""
    here, there = diffusion.at(i, torch.float64), diffusion.at(j, torch.float64)
    first = (here.log_a < LOG_A_PRIOR) | (there.half_log_snr - here.half_log_snr > LONG)
    sigma_i = torch.exp(here.log_s + there.log_a - torch.where(first, 0.0, here.log_a))  # a_j σ_i
    half = torch.where(first, 0.0, (there.s - sigma_i) / 2)
    return Update(i=j, j=j, p=torch.ones_like(half), b=half, past=(Past(b=-half),))
