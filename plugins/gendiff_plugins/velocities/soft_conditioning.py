"""Generative unified diffusion: from joint to autoregressive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.data import Data
from gendiff.formula import Formula, logsigmoid, maximum, over_components, over_time
from gendiff.moments import Moments
from gendiff.rotation import Rotation
from gendiff.scales import VariancePreserving
from gendiff.shapes import EventShape
from gendiff.velocity import Velocity, times

CLEAN = -24.0  # log(s²/a²) of a component that counts as clean


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

    @property
    def formulas(self) -> Mapping[str, Formula]:
        level = over_components(self.gamma) + over_time(self.t) * over_components(self.delta)
        clean = torch.where(self.t.isneginf(), self.t, CLEAN)
        return {"log_alpha_bar": logsigmoid(-maximum(level, over_time(clean)))}


class SoftConditioning(Velocity):
    """from joint to autoregressive: log(s²/a²) rises linearly in time, faint components first.

    ``γ_k(t) = γ_k + t Δ`` with t = i/N and a² + s² = 1;
    ``γ_k = g_denoise + log Σ_k + (l_k - l_max)/soft`` and ``Δ = g_noise - g_denoise + (l_max - l_min)/soft``.
    Σ_k is the data's variance, averaged over components of like frequency, and ``l_k = -log Σ_k`` orders the components. So the
    faintest has a data-SNR of exp(-g_denoise) at t = 0 and begins to drown; the strongest reaches exp(-g_noise) last, at t = 1.
    At soft = 1 all γ_k are equal: standard diffusion. Towards 0 one component drowns after the other, and generation is
    autoregressive; towards ∞ all drown together, as in ``equal-snr``. Step 0 is the data, without the noise of t = 0.

    Reference: Gerdes, Welling, Cheng 2024, GUD: Generation with Unified Diffusion, arXiv 2410.02667, and its code.
    """

    name = "soft-conditioning"

    soft: float = Field(1.0, gt=0, le=1e6, description="overlap of the components in time")
    g_denoise: float = Field(
        -7.0, ge=-60, le=60, description="log noise-to-signal at which a component counts as clean"
    )
    g_noise: float = Field(3.0, ge=-60, le=60, description="log noise-to-signal at which a component counts as noise")

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.g_noise <= self.g_denoise:
            raise ValueError(f"g_noise = {self.g_noise:g} is not above g_denoise = {self.g_denoise:g}")
        return self

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        return {"log_variance": Moments.fit(data, rotation).variance.log()}

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> LinearLogSNRScales:
        log_variance: Tensor = self.learned["log_variance"]
        order = -log_variance
        t = times(N)
        t[0] = -torch.inf  # the data themselves
        return LinearLogSNRScales(
            t=t,
            gamma=self.g_denoise + log_variance + (order - order.max()) / self.soft,
            delta=self.g_noise - self.g_denoise + (order.max() - order.min()) / self.soft,
        )
