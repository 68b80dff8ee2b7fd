"""Shortest path diffusion."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from gendiff.blur import LOG_FLOOR
from gendiff.data import Data
from gendiff.errors import ConfigError
from gendiff.formula import Formula, expm1, log, maximum, over_components, over_time
from gendiff.moments import Moments
from gendiff.rotation import Rotation
from gendiff.scales import VariancePreserving
from gendiff.shapes import EventShape, spatial
from gendiff.velocity import Velocity, times


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

    @property
    def formulas(self) -> Mapping[str, Formula]:
        # With x = |ln S| nothing overflows: for S > 1 the fraction is S^(τ-1) times that of 1/S. At S = 1 it is τ.
        tau, x = over_time(self.tau), over_components(self.log_S.abs().clamp_min(1e-12))
        L = log(expm1(-tau * x) / expm1(-x)) + (tau - 1) * over_components(self.log_S.clamp_min(0))
        return {"log_alpha_bar": maximum(L, 2 * LOG_FLOOR)}


class SpectrumMatched(Velocity):
    """the straightest way from the data's spectrum to white: a² = (1-S^τ)/(1-S), τ = 1 - i/N.

    With a² + s² = 1, data of variance S have variance ``S^τ`` exactly: a straight line in log-variance, from S at i = 0 to 1
    at N, where nothing of the data is left. S is the data's own variance per component, averaged over components of like
    frequency; or, with ``power_law = [c_1, c_2, m]``, ``S = c_1/(c_2 + f)^m`` with f in cycles per picture, ``ρ max(H, W)/2π``.

    The authors' setting is the 2-D Fourier basis (``hartley`` is its real form, and S the same for both phases of a frequency)
    with ``power_law = [1.59, 0.0086, 2]`` and N = 4000 on CIFAR-10. Their code leaves out τ = 0, and caps B at 0.999.

    Reference: Das et al. 2023, Image Generation with Shortest Path Diffusion, arXiv 2306.00501, and its code.
    """

    name = "spectrum-matched"

    power_law: tuple[float, float, float] | None = Field(
        None, description="c_1, c_2, m of S = c_1/(c_2 + f)^m; left out, S is measured on the data"
    )

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        return {} if self.power_law else {"log_S": Moments.fit(data, rotation).variance.log()}

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> GeodesicScales:
        log_S = self._power_law(rotation, event_shape) if self.power_law else self.learned["log_S"]
        return GeodesicScales(tau=1 - times(N), log_S=log_S)

    def _power_law(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        assert self.power_law
        amplitude, offset, exponent = self.power_law
        if min(amplitude, offset) <= 0:
            raise ConfigError(
                f"a power law with c_1 = {amplitude:g} and c_2 = {offset:g} is no spectrum",
                fix="both must be positive",
                subject="velocity.power_law",
            )
        if exponent == 0:
            return torch.full([1] * len(event_shape), math.log(amplitude), dtype=torch.float64)
        rho = rotation.spread_frequencies(event_shape, "of which a power law could be a function")
        f = rho * max(spatial(event_shape)) / (2 * math.pi)
        return math.log(amplitude) - exponent * torch.log(offset + f)
