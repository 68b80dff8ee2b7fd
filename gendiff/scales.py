r"""Scales: the process in numbers.

In rotated coordinates a generalized diffusion is one scalar Gaussian process per component,

    q(x̄_i | x̄_0) = N(a_i x̄_0, s_i²) ,     i = 0..N ,

so a pair of functions (log a_i, log s_i) says everything. Variance-preserving processes, which all of Lee et al. (2022) are,
have a² + s² = 1 and need only ``L_i = log Ā_i``: a = exp(L/2), s = sqrt(-expm1(L)).

Everything here is float64 and lives in logarithms: ``1 - ᾱ`` in float32 is wrong by 1.7e-4 at i = 1. Coefficients are cast once,
by whoever uses them. ``λ_i = log(a_i/s_i)``, the half log-SNR, must not increase with i in any component.

Steps may be real, i = N t. What an author writes is asked at whole steps alone, unless it is a formula, and is continued between
them (`Scales.at`): the laws of x̄_i at whole steps, which a network was trained on, stay what they are to the bit.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid as _logsigmoid

from gendiff.blur import LOG_FLOOR
from gendiff.errors import ArgumentError, PluginError
from gendiff.formula import Formula, expm1, log, logaddexp, logsigmoid, maximum, over_components, over_time
from gendiff.interpolation import between
from gendiff.shapes import per_event


class Scales(ABC):
    """The pair (log a, log s) for i = 0..N, as a frozen dataclass whose tensors are their tables.

    An author gives `formulas`, which a run keeps as they are, or `log_a` and `log_s`, of which a run keeps a table.
    """

    N: int

    @property
    def formulas(self) -> Mapping[str, Formula]:
        """``log_a`` and ``log_s`` as formulas, by these names; empty where their author computes them in another way."""
        return {}

    def log_a(self, i: Tensor) -> Tensor:
        """``log a_i``, float64 in [-1e4, ...), shape ``(B, *diagonal)`` for ``i`` of shape ``(B,)``."""
        return self._computed("log_a", i)

    def log_s(self, i: Tensor) -> Tensor:
        """``log s_i``, float64, -inf where there is no noise; shape ``(B, *diagonal)``."""
        return self._computed("log_s", i)

    @final
    def _computed(self, name: str, i: Tensor) -> Tensor:
        formulas = self.formulas
        if name not in formulas:
            raise PluginError(
                f"{type(self).__name__} does not say {name}",
                fix=f"give it a method {name}(i), or a formula of that name",
                subject="velocity.name",
            )
        tables = [table for formula in formulas.values() for table in formula.leaves("components")]
        diagonal = torch.broadcast_shapes(*(table.shape for table in tables))
        return formulas[name](i, len(diagonal)).expand(len(i), *diagonal)

    @property
    def device(self) -> torch.device:
        """Where the tables live."""
        return next(iter(self._tables().values())).device

    def to(self, device: torch.device) -> Self:
        """The same scales with their tables on ``device``."""
        tables = {name: table.to(device) for name, table in self._tables().items()}
        return replace(self, **tables)  # type: ignore[type-var]  # a dataclass, as the class says

    def _tables(self) -> dict[str, Tensor | Scales | Formula]:
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, Tensor | Scales | Formula)}

    @final
    @property
    def alike(self) -> bool:
        """Whether all components are scaled alike, looked at in about 8 steps."""
        i = torch.tensor(sorted({1, *(round(1 + k * (self.N - 1) / 7) for k in range(8))}), device=self.device)
        # Where all are -inf, they are alike.
        return not any(float(each.max() - each.min()) > 1e-9 for values in self.values(i) for each in values)

    def __repr__(self) -> str:
        diagonal = self.log_a(torch.tensor([self.N], device=self.device)).shape[1:]
        return f"{type(self).__name__}(N={self.N}, diagonal {tuple(diagonal)})"

    @final
    def half_log_snr(self, i: Tensor) -> Tensor:
        """``λ_i = log a_i - log s_i``; +inf where there is no noise."""
        log_a, log_s = self.at(i)
        return log_a - log_s

    @final
    def at(self, i: Tensor) -> tuple[Tensor, Tensor]:
        """``(log a, log s)`` at steps ``i``, whole or real, ``(B,)``: float64, each ``(B, *diagonal)``.

        At real steps formulas are read between the entries of their tables over time. Of scales that are none, L where they are
        variance-preserving, else log a and λ, which keeps λ from rising.

        Raises:
            ArgumentError: at a real step where this process jumps: it has no continuous limit there.

        """
        log_a, log_s = self.values(i)
        if i.dtype.is_floating_point:
            self.check_limit(i, log_a, log_s)
        return log_a, log_s

    @final
    def values(self, i: Tensor) -> tuple[Tensor, Tensor]:
        """As `at`, and nan where there is no limit: one of the two may have it where the other jumps."""
        as_written = not i.dtype.is_floating_point or bool(self.formulas)
        if isinstance(self, VariancePreserving):  # both from one L
            L = self.log_alpha_bar(i) if as_written else between(self.log_alpha_bar, i, self.N)
            return self.of_log_alpha_bar(L)
        if as_written:
            return self.log_a(i), self.log_s(i)
        log_a = between(self.log_a, i, self.N)
        log_s = log_a - between(lambda step: self.log_a(step) - self.log_s(step), i, self.N)
        nearest = i.detach().round()
        entry = self.log_s(nearest.long())
        is_entry = per_event(i.detach() == nearest, log_s.ndim - 1) & (entry > -torch.inf)
        # The entry itself, to the bit, and the slope of the curve through it.
        return log_a, log_s + torch.where(is_entry, entry - log_s, 0.0).detach()

    def check_limit(self, i: Tensor, *values: Tensor) -> None:
        """Raise `ArgumentError` where one of these is nan; a GPU is not waited for, there it is the device that fails."""
        jumps = torch.stack([value.isnan().reshape(len(i), -1).any(1) for value in values]).any(0)
        if i.device.type != "cpu":
            torch._assert_async(~jumps.any(), "a real step where the process has no continuous limit")
        elif jumps.any():
            step = float(i[jumps][0])
            raise ArgumentError(
                f"this process has no continuous limit at step {step:g}",
                details=[
                    f"its scales, {type(self).__name__}, jump between {int(step)} and {int(step) + 1}: there is no noise at one "
                    "of them, and a finite amount at the other"
                ],
                fix=f"ask at whole steps there, or at real ones from {int(step) + 1} on",
            )


class VariancePreserving(Scales):
    """a² + s² = 1; an author gives `log_alpha_bar`, or `formulas` with a formula of that name."""

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        """``L_i = log Ā_i`` <= 0, float64, shape ``(B, *diagonal)``."""
        return self._computed("log_alpha_bar", i)

    @final
    def log_a(self, i: Tensor) -> Tensor:
        return self.of_log_alpha_bar(self.log_alpha_bar(i))[0]

    @final
    def log_s(self, i: Tensor) -> Tensor:
        return self.of_log_alpha_bar(self.log_alpha_bar(i))[1]

    @staticmethod
    def of_log_alpha_bar(L: Tensor) -> tuple[Tensor, Tensor]:
        """``(log a, log s)`` of ``L = log Ā``."""
        return (0.5 * L).clamp_min(LOG_FLOOR), 0.5 * torch.log(-torch.expm1(L))


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

    @property
    def formulas(self) -> Mapping[str, Formula]:
        L = over_time(self.log_alpha_bar_noise) + 2 * over_time(self.F) * over_components(self.log_D)
        return {"log_alpha_bar": L}


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

    @property
    def formulas(self) -> Mapping[str, Formula]:
        heat = -over_time(self.tau) * over_components(self.mu)
        attenuation = logaddexp(over_components(torch.log1p(-self.d)) + heat, over_components(self.d.log()))
        return {
            "log_a": maximum(over_time(self.log_a_common) + attenuation, LOG_FLOOR),
            "log_s": over_time(self.log_s_common),
        }


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

    @property
    def formulas(self) -> Mapping[str, Formula]:
        log_alpha_bar = over_time(self.log_alpha_bar_noise)
        return {
            "log_a": maximum(0.5 * log_alpha_bar, LOG_FLOOR),
            "log_s": 0.5 * (log(-expm1(log_alpha_bar)) + over_components(self.log_C)),
        }


@final
@dataclass(frozen=True, repr=False)
class FormulaScales(Scales):
    """Scales that are nothing but their formulas.

    Args:
        N: steps.
        log_a_formula, log_s_formula: what they say.

    """

    N: int
    log_a_formula: Formula
    log_s_formula: Formula

    @property
    def formulas(self) -> Mapping[str, Formula]:
        return {"log_a": self.log_a_formula, "log_s": self.log_s_formula}


@final
@dataclass(frozen=True, repr=False)
class FormulaVariancePreserving(VariancePreserving):
    """The same of scales that are variance-preserving."""

    N: int
    log_alpha_bar_formula: Formula

    @property
    def formulas(self) -> Mapping[str, Formula]:
        return {"log_alpha_bar": self.log_alpha_bar_formula}


@final
@dataclass(frozen=True, repr=False)
class PickedScales(Scales):
    """The scales of some components of others that are no formulas.

    Args:
        inner: the scales that are picked from.
        index: flat indices in a channel, int64, ``(1, *channel)`` or ``(C, *channel)`` in the shape of the new channel.
        spatial: the shape of a channel of ``inner``.

    """

    inner: Scales
    index: Tensor
    spatial: tuple[int, ...]

    @property
    def N(self) -> int:  # type: ignore[override]  # that of the inner scales
        return self.inner.N

    def log_a(self, i: Tensor) -> Tensor:
        return _picked(self.inner.log_a(i), self.index, self.spatial)

    def log_s(self, i: Tensor) -> Tensor:
        return _picked(self.inner.log_s(i), self.index, self.spatial)


@final
@dataclass(frozen=True, repr=False)
class PickedVariancePreserving(VariancePreserving):
    """The same of scales that are variance-preserving."""

    inner: VariancePreserving
    index: Tensor
    spatial: tuple[int, ...]

    @property
    def N(self) -> int:  # type: ignore[override]  # that of the inner scales
        return self.inner.N

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        return _picked(self.inner.log_alpha_bar(i), self.index, self.spatial)


def picked(scales: Scales, index: Tensor, spatial: tuple[int, ...]) -> Scales:
    """The scales whose component k is the component ``index[k]`` of the same channel of ``scales``.

    Args:
        index: flat indices in a channel, int64, in the shape of the new one: a permutation of the old ones, or some of them.
            ``(1, *channel)`` where the channels are picked from alike, else ``(C, *channel)``.
        spatial: the shape of a channel of ``scales``.

    """
    formulas = {
        name: formula.map(lambda kind, table: _of_components(table, index, spatial) if kind == "components" else table)
        for name, formula in scales.formulas.items()
    }
    if formulas:
        return of_formulas(scales.N, formulas)
    if isinstance(scales, VariancePreserving):
        return PickedVariancePreserving(scales, index, spatial)
    return PickedScales(scales, index, spatial)


@final
@dataclass(frozen=True, repr=False)
class FirstScales(Scales):
    """The first N steps of scales that are no formulas."""

    inner: Scales
    N: int

    def log_a(self, i: Tensor) -> Tensor:
        return self.inner.log_a(i)

    def log_s(self, i: Tensor) -> Tensor:
        return self.inner.log_s(i)


@final
@dataclass(frozen=True, repr=False)
class FirstVariancePreserving(VariancePreserving):
    """The same of scales that are variance-preserving."""

    inner: VariancePreserving
    N: int

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        return self.inner.log_alpha_bar(i)


def first(scales: Scales, N: int) -> Scales:
    """The scales of the first N steps of a process."""
    if scales.formulas:
        return of_formulas(N, scales.formulas)
    if isinstance(scales, VariancePreserving):
        return FirstVariancePreserving(scales, N)
    return FirstScales(scales, N)


@final
@dataclass(frozen=True, repr=False)
class RecolouredScales(Scales):
    """What `coloured` gives of scales that are no formulas, or too long ones."""

    inner: Scales
    log_S: Tensor
    terminal: bool

    @property
    def N(self) -> int:  # type: ignore[override]  # that of the inner scales
        return self.inner.N

    def log_a(self, i: Tensor) -> Tensor:
        log_a = self.inner.log_a(i)
        return log_a.expand(len(i), *torch.broadcast_shapes(log_a.shape[1:], self.log_S.shape))

    def log_s(self, i: Tensor) -> Tensor:
        log_s = self.inner.log_s(i)
        if not self.terminal:
            return log_s + 0.5 * self.log_S
        noise_to_signal = 2 * (log_s - self.inner.log_a(i))
        return log_s + 0.5 * (_logsigmoid(-noise_to_signal) - _logsigmoid(-(noise_to_signal + self.log_S)))


def coloured(scales: Scales, log_S: Tensor, terminal: bool = False) -> Scales:
    r"""The same process with noise of another spectrum: a as it is, ``s_k sqrt(S_k)`` in the place of ``s_k``.

    With ``terminal`` only what is pure noise is coloured, and what is nearly clean has white noise:

        s_k² (a_k² + s_k² S_k)/(a_k² + s_k²)

    in the place of ``s_k²``. In either case λ never rises where it did not rise before: the ratio of noise to signal, q = s²/a²,
    becomes q S, or q (1 + q S)/(1 + q), and both grow with q for every S > 0.

    Args:
        log_S: log power of the noise, float64, in the shape ``diagonal``; where it is 0 everywhere, the scales are given back.

    """
    if not log_S.any():
        return scales
    formulas, colour = scales.formulas, over_components(log_S)
    if "log_alpha_bar" in formulas:
        L = formulas["log_alpha_bar"]
        log_a, noise = maximum(0.5 * L, LOG_FLOOR), log(-expm1(L))
        shifted = noise + colour
        log_s = 0.5 * (noise + logaddexp(L, shifted) if terminal else shifted)
    elif formulas:
        log_a, log_s = formulas["log_a"], formulas["log_s"]
        noise_to_signal = 2 * (log_s - log_a)
        log_s = log_s + 0.5 * (
            logsigmoid(-noise_to_signal) - logsigmoid(-(noise_to_signal + colour)) if terminal else colour
        )
    if not formulas or not log_s.storable:
        return RecolouredScales(scales, log_S, terminal)
    return of_formulas(scales.N, {"log_a": log_a, "log_s": log_s})


def common(scales: Scales, event_shape: tuple[int, ...]) -> Scales:
    """Scales that are `alike`, as those of any basis: one component stands for all."""
    return picked(scales, torch.zeros([1] * len(event_shape), dtype=torch.long), tuple(event_shape[1:]))


def of_formulas(N: int, formulas: Mapping[str, Formula]) -> Scales:
    """Scales of ``log_alpha_bar`` alone, which are variance-preserving, or of ``log_a`` and ``log_s``."""
    if "log_alpha_bar" in formulas:
        return FormulaVariancePreserving(N, formulas["log_alpha_bar"])
    return FormulaScales(N, formulas["log_a"], formulas["log_s"])


def _of_components(table: Tensor, index: Tensor, spatial: tuple[int, ...]) -> Tensor:
    return _picked(table[None], index, spatial)[0] if table.ndim else table


def _picked(values: Tensor, index: Tensor, spatial: tuple[int, ...]) -> Tensor:
    """``(B, C, *spatial)`` or what broadcasts to it, at the flat indices: ``(B, C, *index.shape[1:])``."""
    spread, flat = values.expand(*values.shape[:2], *spatial).flatten(2), index.flatten(1)
    if len(flat) == 1:
        result = spread[..., flat[0]]
    else:
        result = spread.expand(-1, len(flat), -1).gather(2, flat.expand(len(spread), -1, -1))
    components: Tensor = result.unflatten(2, index.shape[1:])
    return components
