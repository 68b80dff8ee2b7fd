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
from dataclasses import dataclass, fields, replace
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gendiff.blur import LOG_FLOOR
from gendiff.shapes import per_event

CLEAN = -24.0  # log(s²/a²) of a component that counts as clean


class Scales(ABC):
    """The pair (log a, log s) for i = 0..N; an author gives both, as a frozen dataclass whose tensors are their tables."""

    N: int

    @abstractmethod
    def log_a(self, i: Tensor) -> Tensor:
        """``log a_i``, float64 in [-1e4, ...), shape ``(B, *diagonal)`` for ``i`` of shape ``(B,)``."""

    @abstractmethod
    def log_s(self, i: Tensor) -> Tensor:
        """``log s_i``, float64, -inf where there is no noise; shape ``(B, *diagonal)``."""

    @property
    def device(self) -> torch.device:
        """Where the tables live."""
        return next(iter(self._tables().values())).device

    def to(self, device: torch.device) -> Self:
        """The same scales with their tables on ``device``."""
        moved = {name: table.to(device) for name, table in self._tables().items()}
        return replace(self, **moved)  # type: ignore[type-var]  # a dataclass, as the class says

    def _tables(self) -> dict[str, Tensor | Scales]:
        held: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in held.items() if isinstance(value, Tensor | Scales)}

    def __repr__(self) -> str:
        diagonal = self.log_a(torch.tensor([self.N], device=self.device)).shape[1:]
        return f"{type(self).__name__}(N={self.N}, diagonal {tuple(diagonal)})"

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


@dataclass(frozen=True, repr=False)
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


@dataclass(frozen=True, repr=False)
class DissipatingScales(Scales):
    r"""``a_{i,k} = a_i ((1 - d) exp(-μ_k τ_i) + d)`` and ``s_{i,k} = s_i``: heat spreads for a time τ, noise is the same for all.

    Args:
        log_a_common: ``log a_i``, shape ``(N+1,)``.
        log_s_common: ``log s_i``, shape ``(N+1,)``.
        tau: τ_i >= 0, half the variance of the blur in pixels², shape ``(N+1,)``.
        mu: μ_k >= 0, eigenvalues of the negative Laplacian in 1/pixel², shape ``diagonal``.
        d: the attenuation that is never passed, in [0, 1), shape ``()``.

    """

    log_a_common: Tensor
    log_s_common: Tensor
    tau: Tensor
    mu: Tensor
    d: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # derived from the tables
        return len(self.tau) - 1

    def log_a(self, i: Tensor) -> Tensor:
        ndim = self.mu.ndim
        heat = -per_event(self.tau[i], ndim) * self.mu
        attenuation = torch.logaddexp(torch.log1p(-self.d) + heat, self.d.log())
        return (per_event(self.log_a_common[i], ndim) + attenuation).clamp_min(LOG_FLOOR)

    def log_s(self, i: Tensor) -> Tensor:
        return per_event(self.log_s_common[i], self.mu.ndim).expand(-1, *self.mu.shape)


@dataclass(frozen=True, repr=False)
class ColouredScales(Scales):
    r"""``a_{i,k} = sqrt(ᾱ_i)`` and ``s_{i,k} = sqrt((1 - ᾱ_i) C_k)``: noise with a spectrum of its own.

    Args:
        log_alpha_bar_noise: ``log ᾱ_i`` of the scalar noise schedule, shape ``(N+1,)``.
        log_C: log variance of the noise, shape ``diagonal``.

    """

    log_alpha_bar_noise: Tensor
    log_C: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # derived from the table
        return len(self.log_alpha_bar_noise) - 1

    def log_a(self, i: Tensor) -> Tensor:
        log_alpha_bar = per_event(self.log_alpha_bar_noise[i], self.log_C.ndim)
        return (0.5 * log_alpha_bar).clamp_min(LOG_FLOOR).expand(-1, *self.log_C.shape)

    def log_s(self, i: Tensor) -> Tensor:
        log_alpha_bar = per_event(self.log_alpha_bar_noise[i], self.log_C.ndim)
        return 0.5 * (torch.log(-torch.expm1(log_alpha_bar)) + self.log_C)


@dataclass(frozen=True, repr=False)
class LinearLogSNRScales(VariancePreserving):
    r"""``log(s²/a²) = max(γ_k + t_i Δ, -24)``: every component falls at the same pace, each from a level of its own.

    At -24, s = 6e-6, a component counts as clean: less noise would be lost in the rounding of a picture in float32.

    Args:
        t: time, in [0, 1]; -inf where there is no noise, shape ``(N+1,)``.
        gamma: γ_k, shape ``diagonal``.
        delta: Δ > 0, shape ``()``.

    """

    t: Tensor
    gamma: Tensor
    delta: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # derived from the table
        return len(self.t) - 1

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        t = per_event(self.t[i], self.gamma.ndim)
        level = (self.gamma + t * self.delta).clamp_min(CLEAN)
        L: Tensor = logsigmoid(-torch.where(t.isneginf(), t, level))
        return L


@dataclass(frozen=True, repr=False)
class GeodesicScales(VariancePreserving):
    r"""``a² = (1 - S^τ)/(1 - S)``: data of variance S have variance ``S^τ_i``, from S at τ = 1 to 1 at τ = 0.

    Args:
        tau: τ_i in [0, 1], falling, shape ``(N+1,)``.
        log_S: log variance of the data, shape ``diagonal``.

    """

    tau: Tensor
    log_S: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # derived from the table
        return len(self.tau) - 1

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        # With x = |ln S| nothing overflows: for S > 1 the fraction is S^(τ-1) times that of 1/S. At S = 1 it is τ.
        tau, x = per_event(self.tau[i], self.log_S.ndim), self.log_S.abs().clamp_min(1e-12)
        L = torch.log(torch.expm1(-tau * x) / torch.expm1(-x)) + (tau - 1) * self.log_S.clamp_min(0)
        return L.clamp_min(2 * LOG_FLOOR)


@dataclass(frozen=True, repr=False)
class PermutedScales(Scales):
    """Component k takes the scales of another, ``partner[k]``, in every channel alike.

    Args:
        inner: the scales that are dealt out.
        partner: flat index in a channel, int64, shape ``spatial``.

    """

    inner: Scales
    partner: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # that of the inner scales
        return self.inner.N

    def log_a(self, i: Tensor) -> Tensor:
        return _dealt(self.inner.log_a(i), self.partner)

    def log_s(self, i: Tensor) -> Tensor:
        return _dealt(self.inner.log_s(i), self.partner)


@dataclass(frozen=True, repr=False)
class PermutedVariancePreserving(VariancePreserving):
    """`PermutedScales` of scales that are variance-preserving, and so are these.

    Args:
        inner: the scales that are dealt out.
        partner: flat index in a channel, int64, shape ``spatial``.

    """

    inner: VariancePreserving
    partner: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # that of the inner scales
        return self.inner.N

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        return _dealt(self.inner.log_alpha_bar(i), self.partner)


def permuted(inner: Scales, partner: Tensor) -> Scales:
    """The scales in which component k takes those of component ``partner[k]``; ``partner`` has the shape ``spatial``."""
    if isinstance(inner, VariancePreserving):
        return PermutedVariancePreserving(inner, partner)
    return PermutedScales(inner, partner)


def _dealt(values: Tensor, partner: Tensor) -> Tensor:
    """``(B, C, *spatial)`` or what broadcasts to it, its components permuted."""
    spread = values.expand(*values.shape[:2], *partner.shape)
    dealt: Tensor = spread.flatten(2)[..., partner.flatten()].unflatten(2, partner.shape)
    return dealt
