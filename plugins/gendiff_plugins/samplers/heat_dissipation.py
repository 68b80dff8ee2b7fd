"""The sampler of inverse heat dissipation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.sampler import Prior, Sampler, Update


class HeatDissipation(Sampler):
    """sharpens by the predicted residual and adds noise of its own, every step.

    ``x_{i-1} = x_i + residual + δ z`` with δ = ``delta`` s and no noise at the last step, which gives the mean. In the pivot the
    residual is ``(a_{i-1} - a_i) x̂_0 - s ε̂``, so any objective will do, and the network's own output of ``--objective residual``
    is added as it is, also where a has vanished. It needs every step, and noise that is the same at each. It promises no
    convergence: δ sets the spread of what comes out, which for Gaussian data is that of the data near δ = sqrt(2) s.

    Reference: Rissanen, Heinonen, Solin 2022, Generative Modelling with Inverse Heat Dissipation, arXiv 2206.13397, and its code.
    """

    name = "heat-dissipation"
    order = 0

    delta: float = Field(1.25, ge=0, le=100, description="δ/s: noise of a sampling step over that of the process")
    prior: Prior = Field("matched", description="where chains start: standard, matched or data (the paper's)")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        s = diffusion.at(diffusion.N, torch.float64).s
        for i in range(1, diffusion.N):
            off = float((diffusion.at(i, torch.float64).s - s).abs().max())
            if off > 1e-9:
                raise ConfigError(
                    "sampler 'heat-dissipation' needs a process whose noise is the same at every step",
                    details=[f"here s at i = {i} and at N = {diffusion.N} differ by {off:.2g}"],
                    fix="use --process heat-dissipation, or --sampler ancestral",
                    subject="sampler.name",
                )
        for i in range(diffusion.N, 0, -1):
            yield Update(
                i=i,
                j=i - 1,
                p=torch.ones_like(s),
                q=diffusion.at(i - 1, torch.float64).a - diffusion.at(i, torch.float64).a,
                b=-s,
                e=self.delta * s if i > 1 else None,
            )
