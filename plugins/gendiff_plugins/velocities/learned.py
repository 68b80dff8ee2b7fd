"""Speeds that are learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.component import by_name
from gendiff.data import Data
from gendiff.errors import ConfigError
from gendiff.frequency import bands_of
from gendiff.interpolation import between
from gendiff.rotation import Rotation
from gendiff.scales import VariancePreserving
from gendiff.schedule import NoiseSchedule
from gendiff.shapes import EventShape, spatial
from gendiff.velocity import Velocity

SLOWEST = 0.01  # speed of a clock at least: none stands still, and there is noise from step 1 on


@dataclass(frozen=True, repr=False)
class ClockedScales(VariancePreserving):
    """``L_{i,k} = log ᾱ(N τ_b(i/N))``: a scalar noise schedule, read by a clock of each band b of components.

    The clock goes from τ = 0 to 1 in K straight parts, and in each as fast as it is told: λ falls in every component, whatever
    ``log_speeds`` are.

    Args:
        log_alpha_bar_noise: ``log ᾱ_i`` of the schedule, shape ``(N+1,)``.
        log_speeds: of each band in each part of the time, up to a factor for each band, shape ``(bands, K)``; differentiable.
        band: which clock each component goes by, int64, shape ``diagonal``.

    """

    log_alpha_bar_noise: Tensor
    log_speeds: Tensor
    band: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]  # derived from the table
        return len(self.log_alpha_bar_noise) - 1

    def clocks(self, t: Tensor) -> Tensor:
        """``τ_b(t)`` in [0, 1], ``(T, bands)``, for times ``t`` in [0, 1] of shape ``(T,)``."""
        parts = self.log_speeds.shape[1]
        passed = torch.cat([torch.zeros_like(self.log_speeds[:, :1]), speeds(self.log_speeds).cumsum(1)], 1)
        passed = passed / passed[:, -1:]
        place = t * parts
        before = place.floor().clamp(0, parts - 1).long()
        here, there = passed[:, before], passed[:, before + 1]
        tau: Tensor = torch.lerp(here, there, (place - before).expand_as(here)).T
        return tau

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        tau = self.clocks(i.double() / self.N)
        L: Tensor = between(lambda step: self.log_alpha_bar_noise[step], self.N * tau.flatten(), self.N)
        # Step 0 is clean whatever the speeds: there log s = -inf, through which no gradient comes back.
        by_band = torch.where((i == 0)[:, None], torch.zeros_like(tau), L.unflatten(0, tau.shape))
        return by_band[:, self.band]


def speeds(log_speeds: Tensor) -> Tensor:
    """``(bands, K)`` of mean 1 over the K parts, none below `SLOWEST`."""
    relative: Tensor = SLOWEST + (1 - SLOWEST) * log_speeds.shape[1] * log_speeds.softmax(1)
    return relative


class Learned(Velocity):
    r"""a clock for each band of frequencies, learned with the network: a² = ᾱ(N τ_b(t)).

    ``B_i`` is that of a scalar noise schedule, which every band passes through from end to end, but at speeds of its own: where
    these are all 1 it is ``isotropic``. While a run trains they follow the gradient of ``train.speeds.loss``; afterwards they are
    numbers, as of any process. ``process fit`` finds those that are best for Gaussian data of the same moments, and writes them.

    Reference: for the bound, Sahoo et al. 2024, Diffusion Models With Learned Adaptive Noise, arXiv 2312.13236, whose schedules
    depend on the event too, and Kingma et al. 2021, arXiv 2107.00630; the clocks are our own.
    """

    name = "learned"
    trained: ClassVar[tuple[str, ...]] = ("log_speeds",)

    noise: NoiseSchedule = by_name("linear", "noise schedule β_i that every clock passes through")
    by: Literal["band", "component"] = Field(
        "band", description="what has a clock: bands of equal steps of frequency, or each component by itself"
    )
    bands: int = Field(
        16, ge=1, le=4096, description="of frequencies, from 0 to the highest; of no effect by component"
    )
    parts: int = Field(16, ge=1, le=1000, description="equal parts of the time, in each of which a clock goes evenly")
    channels: bool = Field(False, description="clocks of its own for each channel")
    speeds: tuple[tuple[float, ...], ...] = Field(
        (), description="how fast each clock goes in each part of the time, 1 being even: where learning begins"
    )

    @model_validator(mode="after")
    def _right_shape(self) -> Self:
        if any(len(row) != self.parts for row in self.speeds):
            raise ValueError(f"speeds: {self.parts} numbers for each clock, one for each part of the time")
        if any(not 0 < value <= 1e6 for row in self.speeds for value in row):
            raise ValueError("speeds are above 0, and 1e6 at most: time never goes back")
        return self

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        return {"log_speeds": self._start(len(self._bands(rotation, data.event_shape).unique()))}

    def scales(self, rotation: Rotation, event_shape: EventShape, N: int) -> ClockedScales:
        band = self._bands(rotation, event_shape)
        start = self.learned["log_speeds"] if self.has_learned else self._start(int(band.max()) + 1)
        return ClockedScales(self.noise.log_alpha_bar(N), start, band)

    def written(self, learned: Mapping[str, Tensor]) -> Mapping[str, object]:
        rows = speeds(learned["log_speeds"].detach().cpu())
        return {"speeds": [[float(f"{value:.6g}") for value in row] for row in rows.tolist()]}

    def _bands(self, rotation: Rotation, event_shape: EventShape) -> Tensor:
        """The clock of each component, ``(1, *spatial)`` or ``(C, *spatial)``; every number up to the largest is there."""
        one = torch.ones(1, *spatial(event_shape), dtype=torch.long)
        if self.by == "component":
            band = one.flatten().cumsum(0).reshape(one.shape)
        elif self.bands == 1:
            band = one
        else:
            band = bands_of(rotation.spread_frequencies(event_shape, "of which bands could have clocks"), self.bands)
        if self.channels:
            channel = torch.arange(event_shape[0]).reshape(-1, *[1] * (band.ndim - 1))
            band = band + channel * (int(band.max()) + 1)
        clock: Tensor = band.unique(return_inverse=True)[1]
        return clock

    def _start(self, clocks: int) -> Tensor:
        """``log_speeds`` of ``speeds``, or 0: all clocks go evenly."""
        if not self.speeds:
            return torch.zeros(clocks, self.parts, dtype=torch.float64)
        if len(self.speeds) != clocks:
            raise ConfigError(
                f"velocity 'learned' is given the speeds of {len(self.speeds)} clocks, and these events have {clocks}",
                details=["a clock for each band that there is, or component, in each channel where channels=true"],
                fix="leave out speeds, or take the data and the rotation that they were fitted for",
                subject="velocity.speeds",
            )
        even = torch.tensor(self.speeds, dtype=torch.float64)
        share = even / even.mean(1, keepdim=True)
        return ((share - SLOWEST).clamp_min(1e-9) / (1 - SLOWEST)).log()
