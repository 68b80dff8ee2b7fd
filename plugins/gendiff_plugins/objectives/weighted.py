"""Objectives whose weights follow the signal-to-noise ratio."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gendiff.level import Level
from gendiff.objective import Objective
from gendiff.score import Parametrization


class MinSNR(Objective):
    """predict ε, with easy steps weighed down: min(SNR, γ)/SNR.

    SNR = a²/s² per component: errors of x_0 count by min(SNR, γ), so that steps of little noise do not drown the others.

    Reference: Hang et al. 2023, Efficient Diffusion Training via Min-SNR Weighting Strategy, arXiv 2303.09556.
    """

    name = "min-snr"
    parametrization = Parametrization.EPS

    gamma: float = Field(5.0, gt=0, le=1e6, description="γ: largest weight of an error of x_0")

    def weight(self, at: Level) -> Tensor:
        return torch.exp(-2 * at.half_log_snr).mul(self.gamma).clamp_max(1.0).to(at.dtype)

    @property
    def loss_of_one(self) -> str:
        return "that of an output of 0 where SNR < γ; steps of less noise count less"


class ELBO(Objective):
    """predict T, with the weights of the bound on the likelihood.

    ``ω = (N/2) (SNR_{i-1} - SNR_i) c sin² θ``, and SNR_1 instead of the difference at i = 1: with i uniform the expected loss is
    the bound in nats per dimension, without what no network changes (``gendiff process likelihood`` has it all). The network is
    that of ``wiener``, so that no weight is infinite however fast a component vanishes. At real steps
    ``ω = -((N-1)/2) dSNR/di c sin² θ``, and the expected loss is the bound of continuous time, from step 1 on: without what step
    1 leaves of the data.

    Reference: Kingma, Salimans, Poole, Ho 2021, Variational Diffusion Models, arXiv 2107.00630, eq. 13.
    """

    name = "elbo"
    parametrization = Parametrization.WIENER

    def weight(self, at: Level) -> Tensor:
        if at.i.dtype.is_floating_point:
            fall = -2 * at.half_log_snr_speed * torch.exp(2 * at.half_log_snr)
            return ((at.N - 1) / 2 * fall * at.variance * at.theta.sin() ** 2).to(at.dtype)
        lam, before = at.half_log_snr, at.before.half_log_snr
        first = torch.isinf(before) | (at.i == 1).reshape(-1, *[1] * (lam.ndim - 1))
        drop = torch.exp(2 * torch.where(first, lam, before)) * torch.where(
            first, 1.0, -torch.expm1(2 * (lam - before))
        )
        return (at.N / 2 * drop * at.variance * at.theta.sin() ** 2).to(at.dtype)

    @property
    def loss_of_one(self) -> str:
        return "1 nat of the bound per component, but for what no network changes"


class EDMWeighted(Objective):
    """predict x_0, weight a²/s² + 1/σ_data²: EDM's loss.

    It is ``1/c_out²``, ``c_out = σ σ_data/sqrt(σ² + σ_data²)``, σ = s/a: the squared error of what is inside of a preconditioned
    network, such as those of the model ``edm``. Steps are drawn uniformly, as those of every objective; EDM draws log σ from a
    normal law.

    Reference: Karras, Aittala, Aila, Laine 2022, Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364, eq. 8 and Table 1.
    """

    name = "edm"
    parametrization = Parametrization.X_0

    sigma_data: float = Field(0.5, gt=0, le=1e3, description="σ_data, the std of the data")

    def weight(self, at: Level) -> Tensor:
        return (torch.exp(2 * at.half_log_snr) + self.sigma_data**-2).to(at.dtype)

    @property
    def loss_of_one(self) -> str:
        return "that of a preconditioned network of which F is 0, for data of std sigma_data"
