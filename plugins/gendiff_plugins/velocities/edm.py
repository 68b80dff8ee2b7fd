"""Noise alone, and the signal as it is: variance exploding."""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, model_validator

from gendiff.formula import over_components, over_time
from gendiff.frequency import bands_of
from gendiff.rotation import Rotation
from gendiff.scales import FormulaScales
from gendiff.shapes import EventShape, check_count
from gendiff.velocity import Velocity


class EDM(Velocity):
    """noise alone, the signal as it is: a = 1, s = σ_i in equal steps of σ^(1/ρ).

    ``σ_i = (σ_min^(1/ρ) + (i-1)/(N-1) (σ_max^(1/ρ) - σ_min^(1/ρ)))^ρ`` for i = 1..N, and σ_0 = 0: Karras' steps, from N down to
    0. With ``--sampler heun`` (or ``ddim``), every step and ``clip=false`` pictures are those of EDM's deterministic sampler; a
    run of many steps is sampled in fewer by ``grid=uniform``, which is equal steps of σ^(1/ρ) again.

    Reference: Karras, Aittala, Aila, Laine 2022, Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364, eq. 5 and Table 1.
    """

    name = "edm"

    sigma_min: float = Field(0.002, ge=1e-6, le=1e6, description="std of the noise at i = 1")
    sigma_max: float = Field(80.0, gt=0, le=1e6, description="std of the noise at i = N")
    rho: float = Field(7.0, ge=1, le=100, description="ρ: a larger one spends more steps on little noise")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min:g} is not below sigma_max = {self.sigma_max:g}")
        return self

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> FormulaScales:
        fraction = torch.arange(check_count(N), dtype=torch.float64) / (N - 1)
        growth = math.expm1(math.log(self.sigma_max / self.sigma_min) / self.rho)  # of σ^(1/ρ), relative
        log_sigma = math.log(self.sigma_min) + self.rho * torch.log1p(growth * fraction)
        zero = torch.zeros(1, dtype=torch.float64)
        return FormulaScales(
            N=N,
            log_a_formula=over_components(torch.zeros([1] * len(event_shape), dtype=torch.float64)),
            log_s_formula=over_time(torch.cat([zero.log(), log_sigma])),
        )


class Anisotropic(EDM):
    """noise alone, coarse and fine at their own pace: a = 1, s = σ_i exp(lead sin(πτ) (2 r_k - 1)).

    σ_i is that of ``edm``, τ = (i-1)/(N-1), and ``r_k`` is 0 for the coarsest of ``bands`` of equal width in frequency, 1 for the
    finest. All begin at σ_min and end at σ_max; half way fine detail has ``exp(2 lead)`` times the noise of what is coarse. With
    ``lead=0`` it is ``edm``, its twin. The speeds are given, where AnisoVTO learns them.

    Reference: AnisoVTO 2026, arXiv 2602.19512, for processes of this kind; Karras, Aittala, Aila, Laine 2022, arXiv 2206.00364,
    for σ.
    """

    name = "anisotropic"

    lead: float = Field(
        0.7, ge=-10, le=10, description="of fine over middle in log σ, half way; below 0 the coarse leads"
    )
    bands: int = Field(2, ge=2, le=1024, description="of frequency, each with a pace of its own")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        growth = math.expm1(math.log(self.sigma_max / self.sigma_min) / self.rho)
        most = self.rho * growth / (1 + growth) / math.pi  # the least rise of log σ, by the steepest of lead
        if abs(self.lead) > most:
            raise ValueError(f"lead = {self.lead:g}: above {most:.3g} the noise of a band would fall somewhere")
        return self

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> FormulaScales:
        same = super().scales(rotation, event_shape, N)
        if self.lead == 0:
            return same
        band = bands_of(rotation.spread_frequencies(event_shape, "by which paces could differ"), self.bands)
        tau = torch.arange(-1, N, dtype=torch.float64) / (N - 1)
        bend = torch.sin(math.pi * tau)
        bend[0] = 0  # there is no noise to bend
        pace = self.lead * (2 * band.double() / (self.bands - 1) - 1)
        return FormulaScales(
            N=N,
            log_a_formula=same.log_a_formula,
            log_s_formula=same.log_s_formula + over_time(bend) * over_components(pace),
        )
