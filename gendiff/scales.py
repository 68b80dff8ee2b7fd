r"""Scales: the process in numbers.

In rotated coordinates a generalized diffusion is one scalar Gaussian process per component,

    q(x̄_i | x̄_0) = N(a_i x̄_0, s_i²) ,     i = 0..N ,

so a pair of functions (log a_i, log s_i) says everything. Variance-preserving processes, which all of Lee et al. (2022) are,
have a² + s² = 1 and need only ``L_i = log Ā_i``: a = exp(L/2), s = sqrt(-expm1(L)).

Everything here is float64 and lives in logarithms: ``1 - ᾱ`` in float32 is wrong by 1.7e-4 at i = 1. Coefficients are cast once,
by whoever uses them. ``λ_i = log(a_i/s_i)``, the half log-SNR, must not increase with i in any component.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from gendiff.blur import LOG_FLOOR
from gendiff.shapes import per_event


class Scales(ABC):
    """The pair (log a, log s) for i = 0..N."""

    N: int

    @abstractmethod
    def log_a(self, i: Tensor) -> Tensor:
        """``log a_i``, float64 in [-1e4, ...), shape ``(B, *diagonal)`` for ``i`` of shape ``(B,)``."""

    @abstractmethod
    def log_s(self, i: Tensor) -> Tensor:
        """``log s_i``, float64, -inf where there is no noise; shape ``(B, *diagonal)``."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the tables live."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same scales with their tables on ``device``."""

    @final
    def half_log_snr(self, i: Tensor) -> Tensor:
        """``λ_i = log a_i - log s_i``; +inf where there is no noise."""
        return self.log_a(i) - self.log_s(i)


class VariancePreserving(Scales):
    """a² + s² = 1; an author gives `log_alpha_bar`."""

    @abstractmethod
    def log_alpha_bar(self, i: Tensor) -> Tensor:
        """``L_i = log Ā_i`` <= 0, float64, shape ``(B, *diagonal)``."""

    @final
    def log_a(self, i: Tensor) -> Tensor:
        return (0.5 * self.log_alpha_bar(i)).clamp_min(LOG_FLOOR)

    @final
    def log_s(self, i: Tensor) -> Tensor:
        return 0.5 * torch.log(-torch.expm1(self.log_alpha_bar(i)))


@dataclass(frozen=True)
class BlurScales(VariancePreserving):
    r"""``L_{i,k} = log ᾱ_i + 2 F_i log D_k``: two vectors over time and one over components, never an N x d table.

    Args:
        log_alpha_bar_noise: ``log ᾱ_i`` of the scalar noise schedule, shape ``(N+1,)``.
        F: cumulative blur schedule, shape ``(N+1,)``.
        log_D: log attenuation in [-1e4, 0], shape ``diagonal``.

    """

    log_alpha_bar_noise: Tensor
    F: Tensor
    log_D: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # derived from the tables
        return len(self.F) - 1

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        ndim = self.log_D.ndim
        return per_event(self.log_alpha_bar_noise[i], ndim) + 2 * per_event(self.F[i], ndim) * self.log_D

    @property
    def device(self) -> torch.device:
        return self.F.device

    def to(self, device: torch.device) -> BlurScales:
        return BlurScales(self.log_alpha_bar_noise.to(device), self.F.to(device), self.log_D.to(device))
