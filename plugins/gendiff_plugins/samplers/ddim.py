"""Samplers that go through x̂_0, and so can skip steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from pydantic import Field

from gendiff.component import by_name
from gendiff.diffusion import Diffusion
from gendiff.grid import Grid, GridSampler
from gendiff.sampler import Update


class DDIM(GridSampler):
    """deterministic at η = 0, ancestral at η = 1, any number of steps.

    ``x̄_j = a_j x̂_0 + b ε̂ + e z`` with ``e = η s_j sqrt(1-r)`` and ``b = sqrt(s_j² - e²)``, per component.

    Reference: Song, Meng, Ermon 2021, Denoising Diffusion Implicit Models, arXiv 2010.02502, eq. 12.
    """

    name = "ddim"

    grid: Grid = by_name("arc-length", "at which steps")
    eta: float = Field(0.0, ge=0, le=1, description="η: share of the posterior's noise")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return plan(diffusion, self.descent(diffusion), self.eta)


class Ancestral(GridSampler):
    """draws from the posterior q(x_j | x_i, x̂_0).

    DDIM at η = 1: ``e = s_j sqrt(1-r)``, ``b = s_j sqrt(r)``.

    Reference: Ho, Jain, Abbeel 2020, arXiv 2006.11239, eq. 6-7, per component.
    """

    name = "ancestral"

    grid: Grid = by_name("arc-length", "at which steps")
    clip: bool = Field(True, description="clamp x̂_0 to the range of the data at every step")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return plan(diffusion, self.descent(diffusion), eta=1.0)


def plan(diffusion: Diffusion, steps: Sequence[float], eta: float) -> Iterator[Update]:
    """The updates of DDIM(η); the noise is absent where η = 0 and at the last step of a process with s_0 = 0."""
    for i, j in pairwise(steps):
        here, there = diffusion.at(i, torch.float64), diffusion.at(j, torch.float64)
        r = torch.exp(2 * (here.half_log_snr - there.half_log_snr)).clamp_max(1)
        e = eta * diffusion.posterior(i, j).std
        b = there.s * torch.sqrt(1 - eta**2 + eta**2 * r)
        noisy = bool((e > 0).any())
        yield Update(i=i, j=j, q=there.a, b=b, e=e if noisy else None)
