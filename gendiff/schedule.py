r"""Schedules: how fast, before any coordinate system is chosen.

A noise schedule gives β_i in [0, 1), the variance added at step i = 1..N; a blur schedule gives f(i) >= 0, the exponent of the
attenuation D at step i. Both are **per step** and are not rescaled when N changes. What the marginals need are the running
sums, which the base classes derive in float64 with entry 0 for clean data:

    log ᾱ_i = Σ_{1<=j<=i} log(1 - β_j)          F_i = Σ_{1<=j<=i} f(j)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from torch import Tensor

from gendiff.component import Component, abstractmethod
from gendiff.errors import PluginError
from gendiff.shapes import check_count


class NoiseSchedule(Component):
    """β_i; an author gives `beta`."""

    kind: ClassVar[str] = "noise"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    @abstractmethod
    def beta(self, i: Tensor, N: int) -> Tensor:
        """β_i in [0, 1) for steps ``i`` (float64, values 1..N), same shape as ``i``."""

    @final
    def log_alpha_bar(self, N: int) -> Tensor:
        """``log ᾱ_i`` for i = 0..N, float64, shape ``(N+1,)``; raises `PluginError` where β leaves [0, 1)."""
        beta = _evaluate(self, "beta", self.beta, N, below=1.0)
        return _running_sum(torch.log1p(-beta))


class BlurSchedule(Component):
    """f(i); an author gives `f`."""

    kind: ClassVar[str] = "schedule"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    @abstractmethod
    def f(self, i: Tensor, N: int) -> Tensor:
        """f(i) >= 0 for steps ``i`` (float64, values 1..N), same shape as ``i``."""

    @final
    def cumulative(self, N: int) -> Tensor:
        """``F_i`` for i = 0..N, float64, shape ``(N+1,)``; raises `PluginError` where f is negative or not finite."""
        return _running_sum(_evaluate(self, "f", self.f, N, below=float("inf")))


def beta_from_curve(curve: Callable[[Tensor], Tensor], i: Tensor, largest: float = 0.999) -> Tensor:
    """``β_i = min(1 - g(i)/g(i-1), largest)`` for a decreasing curve g(i) proportional to ᾱ_i."""
    return (1 - curve(i) / curve(i - 1)).clamp(0.0, largest)


def _evaluate(
    schedule: Component, symbol: str, function: Callable[[Tensor, int], Tensor], N: int, below: float
) -> Tensor:
    N = check_count(N)
    i = torch.arange(1, N + 1, dtype=torch.float64)
    values = function(i, N)
    if not isinstance(values, Tensor) or values.shape != i.shape:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise PluginError(
            f"{schedule.kind} '{schedule.name}' returned {shape} from {symbol}(i, N)",
            fix=f"return a tensor of the shape of i, here ({N},)",
            subject=f"{schedule.kind}.name",
        )
    values = values.double()
    wrong = ~((values >= 0) & (values < below))  # also true for NaN
    if wrong.any():
        first = int(wrong.nonzero()[0])
        rule = "a finite number >= 0" if below == float("inf") else f"in [0, {below:g})"
        raise PluginError(
            f"{schedule.kind} '{schedule.name}' gives {symbol}({first + 1}) = {values[first].item():g} at N = {N}",
            details=[f"{symbol} must be {rule} at every step 1..N; {int(wrong.sum())} of {N} are not"],
            fix=f"change its parameters ({schedule.spec}) or its formula",
            subject=f"{schedule.kind}.name",
        )
    return values


def _running_sum(values: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.float64), values.cumsum(0)])
