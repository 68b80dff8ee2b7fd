"""The paper's sampler."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.sampler import Sampler, Update
from gendiff.scales import VariancePreserving


class ReverseDiffusion(Sampler):
    """the paper's sampler: the reverse SDE, one step at a time.

    ``x̄_{i-1} = (2 - sqrt(A_i)) x̄_i + B_i score + sqrt(B_i) z``, score = -ε̂/s_i; no noise at the last step. It needs every
    step j = i-1 and a variance-preserving process, and steps that are small: where B is near 1 it is no good approximation.

    Reference: Song et al. 2021, Score-Based Generative Modeling through SDEs, arXiv 2011.13456, App. E;
    Lee et al. 2022, arXiv 2207.11192, eq. 20 (corrected: i-1 in, B_i out).
    """

    name = "reverse-diffusion"

    clip: bool = Field(False, description="clamp x̂_0 to the range of the data at every step")

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        scales = diffusion.scales
        if not isinstance(scales, VariancePreserving):
            raise ConfigError(
                "sampler 'reverse-diffusion' needs a variance-preserving process",
                details=["its step is written in A_i and B_i = I - A_i, which this process does not have"],
                fix="use --sampler ancestral or --sampler ddim",
            )
        for i in range(diffusion.N, 0, -1):
            steps = torch.tensor([i, i - 1], device=scales.device)
            L = scales.log_alpha_bar(steps)
            log_A = (L[0] - L[1]).clamp_max(0.0)  # λ may rise within rounding
            B = -torch.expm1(log_A)
            yield Update(
                i=i,
                j=i - 1,
                p=2 - torch.exp(log_A / 2),
                b=-B / diffusion.at(i, torch.float64).s,
                e=B.sqrt() if i > 1 else None,
            )
