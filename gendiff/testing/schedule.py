"""What a blur schedule promises: f(i) >= 0 at every step, whatever N, and a process that only destroys."""

from __future__ import annotations

import math

import torch

from gendiff.blur import log_attenuation
from gendiff.frequency import dct_frequency
from gendiff.scales import BlurScales
from gendiff.schedule import BlurSchedule
from gendiff.testing.card import check, largest, require
from gendiff.testing.steps import STEPS, destroys, elementwise, terminal

_F = "`f(i, N)`: i is a float64 tensor of steps 1..N, of any subset and order"


@check("schedule", "f(i) is finite and never negative, for every N", _F)
def in_range(schedule: BlurSchedule) -> str:
    """The sum raises where it is not."""
    for N in STEPS:
        schedule.cumulative(N)
    i = torch.arange(1, 1001, dtype=torch.float64)
    f = schedule.f(i, 1000)
    return f"f from {float(f.min()):.3g} to {float(f.max()):.3g} at N = 1000"


@check("schedule", "f(i) is a function of i and N alone, in float64", _F)
def function(schedule: BlurSchedule) -> str:
    """Any subset of steps in any order gives the same values."""
    return elementwise(schedule.f)


@check("schedule", "F_i is the sum of f", "`cumulative` is final: this fails only where f is not a function")
def cumulative(schedule: BlurSchedule) -> str:
    """Against an exactly rounded sum."""
    worst = 0.0
    for N in STEPS:
        f = schedule.f(torch.arange(1, N + 1, dtype=torch.float64), N).tolist()
        F = schedule.cumulative(N).tolist()
        worst = largest(worst, *(abs(F[i] - math.fsum(f[:i])) / max(1.0, F[i]) for i in (0, 1, N // 2, N)))
    require(worst < 1e-12, "F_i = Σ f(j) within 1e-12", f"{worst:.1e}")
    return f"{worst:.1e}; F_N = {schedule.cumulative(1000)[-1]:.3g} at N = 1000"


@check("schedule", "with it, every component is only ever destroyed, and the steps compose to the marginal", _F)
def process(schedule: BlurSchedule) -> str:
    """As blur diffusion in the DCT basis with the paper's noise."""
    return "; ".join(destroys(_scales(schedule, N), (1, 16)) for N in (16, 1000))


@check("schedule", "its terminal signal-to-noise ratio", _F)
def terminal_snr(schedule: BlurSchedule) -> str:
    """A measurement: with the paper's noise it is small in any case."""
    return terminal(_scales(schedule, 1000))


def _scales(schedule: BlurSchedule, N: int) -> BlurScales:
    """Blur diffusion of signals of 16 samples: β linear from 1e-4 to 0.02 at N = 1000, σ = 0.4 pixels."""
    beta = torch.linspace(0.1 / N, min(20 / N, 0.999), N, dtype=torch.float64)
    log_alpha_bar = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-beta).cumsum(0)])
    return BlurScales(log_alpha_bar, schedule.cumulative(N), log_attenuation(dct_frequency(16), 0.4)[None])
