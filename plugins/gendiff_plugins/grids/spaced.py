"""Grids that are equally spaced in something."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from pydantic import Field
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.grid import Grid, along, between, nearest
from gendiff.level import Level

UNDECIDED = 5.0  # half log-SNR: beyond, signal or noise prevails by more than e^5


class Uniform(Grid):
    """equally spaced in i.

    ``i_k = N k/n`` for k = n, ..., 1.
    """

    name = "uniform"

    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        return diffusion.N * torch.arange(n, 0, -1, dtype=torch.float64) / n


class Lambda(Grid):
    """equally spaced in log-SNR.

    n values of ``λ_ref(i) = Σ_k c_k λ_{i,k} / Σ_k c_k`` from N to 1, with the half log-SNR λ_{i,k} clamped to [-5, 5] and c the
    variance of the data: steps go where components that matter turn from signal to noise. Beyond, with 150 times as much of the
    one as of the other, nothing is decided, however fast λ falls.

    Reference: Lu, Zhou, Bao, Chen, Li, Zhu 2022, DPM-Solver, arXiv 2206.00927, Section 3.4; the mean over components is ours.
    """

    name = "lambda"

    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        lam = half_log_snr(diffusion)
        return _at(self, lam, torch.linspace(float(lam[-1]), float(lam[0]), n, dtype=torch.float64, device=lam.device))


class Karras(Grid):
    """equally spaced in (s/a)^(1/ρ).

    With ``σ_ref = exp(-λ_ref)``, ``σ_ref^(1/ρ)`` falls in equal steps from N to 1; a larger ρ spends more of them on little
    noise.

    Reference: Karras, Aittala, Aila, Laine 2022, Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364, eq. 5.
    """

    name = "karras"
    rho: float = Field(7.0, gt=0, le=100, description="ρ")

    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        root = torch.exp(-half_log_snr(diffusion) / self.rho)
        return _at(
            self, root, torch.linspace(float(root[-1]), float(root[0]), n, dtype=torch.float64, device=root.device)
        )


class ArcLength(Grid):
    """equally spaced in how far the data move.

    n + 1 points of ``ℓ(i) = Σ_{j<=i} sqrt(Σ_k c_k (θ_j - θ_{j-1})²)``, ``θ = atan2(s, a sqrt(c))``, from ℓ(N) to 0. Each
    component counts by the variance c of the data: steps go where components that matter turn from signal to noise. Where the
    process moves all components alike, they are those of the DCT, whatever its own basis.
    """

    name = "arc-length"

    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        path = arc_length(diffusion)
        targets = float(path[-1]) * torch.arange(n, 0, -1, dtype=torch.float64, device=path.device) / n
        return _at(self, path, targets)


def _at(grid: Grid, values: Tensor, targets: Tensor) -> Tensor:
    """Where values for 1..N are what is wanted: the nearest steps, or the real ones between them."""
    return (between if grid.real else nearest)(values, targets)


def _turning(diffusion: Diffusion) -> tuple[Callable[[Level], Tensor], Tensor]:
    """θ of a level, ``(B, ...)``, and how much each of its components counts."""
    modes, shape = diffusion.moments.modes, diffusion.event_shape

    def own(at: Level) -> Tensor:
        return at.theta.expand(-1, *shape).flatten(1)

    if modes is None or not diffusion.alike:
        return own, _counted(diffusion).expand(shape).flatten()
    deviation = modes.variance.sqrt()

    def of_modes(at: Level) -> Tensor:
        a, s = (values.flatten(1)[:, :1] for values in (at.a, at.s))
        return torch.atan2(s, a * deviation)

    return of_modes, modes.variance * modes.weight


def _counted(diffusion: Diffusion) -> Tensor:
    """How much each component counts: the variance of the data, for as many as it stands for."""
    return diffusion.moments.variance * diffusion.moments.weight


@lru_cache(maxsize=4)
def arc_length(diffusion: Diffusion) -> Tensor:
    """ℓ(i) for i = 1..N."""
    theta, weight = _turning(diffusion)
    last = theta(diffusion.at(torch.zeros(1, dtype=torch.int64, device=diffusion.scales.device), torch.float64))

    def speed(at: Level) -> Tensor:
        nonlocal last  # steps come in order
        here = theta(at)
        turns = torch.cat([last, here]).diff(dim=0)
        last = here[-1:]
        return (weight * turns**2).sum(1).sqrt()

    speeds = along(diffusion, speed)
    return speeds.cpu().cumsum(0).to(speeds.device)  # a GPU has no way to sum them that repeats itself


@lru_cache(maxsize=4)
def half_log_snr(diffusion: Diffusion) -> Tensor:
    """λ_ref(i) for i = 1..N; raises `ConfigError` where it does not fall."""
    weight = _counted(diffusion)

    def mean(at: Level) -> Tensor:
        return (
            (weight * at.half_log_snr.clamp(-UNDECIDED, UNDECIDED)).expand(-1, *diffusion.event_shape).flatten(1).sum(1)
        )

    lam = along(diffusion, mean) / weight.expand(diffusion.event_shape).sum()
    if not lam[0] > lam[-1]:
        raise ConfigError(
            "the steps of this process cannot be laid out by log-SNR",
            details=["there is no component whose log-SNR falls between -5 and 5 after the first step"],
            fix="lay them out by how far the data move: grid=arc-length",
            subject="sampler.grid",
        )
    return lam
