"""The sampler of soft diffusion."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from pydantic import Field

from gendiff.component import by_name
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.grid import Grid, GridSampler
from gendiff.sampler import Update


class Momentum(GridSampler):
    """x̂_0 corrupted anew at the next step, with the noise that is left.

    ``x̄_j = a_j x̂_0 + (s_j²/s_i) ε̂ + sqrt(s_i² - s_j²) z``, no noise at the last step: a reverse SDE of any process whose noise
    never shrinks. Where s is the same at both steps it is the deterministic update of cold diffusion.

    Reference: Daras et al. 2022, Soft Diffusion: Score Matching for General Corruptions, arXiv 2209.05442: its momentum sampler.
    """

    name = "momentum"

    grid: Grid = by_name("arc-length", "at which steps")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        for i, j in pairwise(self.descent(diffusion)):
            here, there = diffusion.at(i, torch.float64), diffusion.at(j, torch.float64)
            fall = 2 * (there.log_s - here.log_s)
            if fall.max() > 1e-9:
                raise ConfigError(
                    "sampler 'momentum' needs a process whose noise never shrinks",
                    details=[f"s is larger at i = {j:g} than at i = {i:g} for {int((fall > 1e-9).sum())} components"],
                    fix="use --sampler ancestral or --sampler ddim",
                    subject="sampler.name",
                )
            e = here.s * torch.sqrt(-torch.expm1(fall.clamp_max(0.0)))
            yield Update(
                i=i,
                j=j,
                q=there.a,
                b=torch.exp(2 * there.log_s - here.log_s),
                e=e if j > 0 and bool((e > 0).any()) else None,
            )
