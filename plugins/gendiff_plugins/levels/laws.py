"""Laws that are fixed before training."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.levels import Levels, log_sigma
from gendiff.velocity import times


class Uniform(Levels):
    """every step alike: p_i = 1/N."""

    name = "uniform"

    def mass(self, diffusion: Diffusion) -> Tensor:
        return torch.ones(diffusion.N, dtype=torch.float64)


class LogNormal(Levels):
    """log σ is normal: EDM's law.

    ``log σ ~ N(mean, std²)`` with σ = s/a, log σ being the mean over components where they differ. Step i has what lies nearer to
    its log σ_i than to that of another, cut half a spacing beyond the ends of the process.

    Reference: Karras, Aittala, Aila, Laine 2022, Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364, Table 1.
    """

    name = "log-normal"

    mean: float = Field(-1.2, ge=-20, le=20, description="of log σ")
    std: float = Field(1.2, gt=0, le=20, description="of log σ")

    def mass(self, diffusion: Diffusion) -> Tensor:
        values = log_sigma(diffusion)
        middles = (values[1:] + values[:-1]) / 2
        first, last = values[:1] - (middles[:1] - values[:1]), values[-1:] + (values[-1:] - middles[-1:])
        return _normal((torch.cat([first, middles, last]) - self.mean) / self.std)


class LogitNormal(Levels):
    """logit t is normal: Stable Diffusion 3's law.

    ``log(t/(1 - t)) ~ N(mean, std²)`` with t = i/N: a positive mean trains more on much noise.

    Reference: Esser et al. 2024, Scaling Rectified Flow Transformers for High-Resolution Image Synthesis, arXiv 2403.03206,
    Section 3.1.
    """

    name = "logit-normal"

    mean: float = Field(0.0, ge=-20, le=20, description="of log(t/(1 - t))")
    std: float = Field(1.0, gt=0, le=20, description="of log(t/(1 - t))")

    def mass(self, diffusion: Diffusion) -> Tensor:
        return _normal((torch.logit(times(diffusion.N)) - self.mean) / self.std)


class Cosine(Levels):
    """density 2/(π (1 - 2t + 2t²)): log-SNR as in the cosine schedule.

    ``t = 1 - 1/(tan(πu/2) + 1)`` of a uniform u ("CosMap"): on the path a = 1 - t, s = t the log-SNR is distributed as in the
    cosine schedule.

    Reference: Esser et al. 2024, arXiv 2403.03206, Section 3.1.
    """

    name = "cosine"

    def mass(self, diffusion: Diffusion) -> Tensor:
        t = times(diffusion.N)
        return (2 / math.pi * torch.atan2(t, 1 - t)).diff()


class LowDiscrepancy(Levels):
    """every step alike, the events of a batch spread evenly: less variance.

    ``u_b = (u + b/B) mod 1`` for the event at position b of a batch of B, u being drawn once for all of them: each is uniform,
    and the mean over a batch varies less. For losses that are to estimate the bound.

    Reference: Kingma, Salimans, Poole, Ho 2021, Variational Diffusion Models, arXiv 2107.00630, App. I.1.
    """

    name = "low-discrepancy"
    spread = True

    def mass(self, diffusion: Diffusion) -> Tensor:
        return torch.ones(diffusion.N, dtype=torch.float64)


def _normal(edges: Tensor) -> Tensor:
    """What a standard normal has between edges that rise; of the tail that is thin, exactly."""
    low, high = edges[:-1], edges[1:]
    upper = low > 0
    ndtr = torch.special.ndtr
    return torch.where(upper, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))
