"""What a noise schedule promises: β_i in [0, 1) at every step, whatever N, and a process that ends in noise."""

from __future__ import annotations

import math

import torch

from gendiff.scales import BlurScales
from gendiff.schedule import NoiseSchedule
from gendiff.testing.card import check, largest, require
from gendiff.testing.steps import STEPS, destroys, elementwise, terminal

_BETA = "`beta(i, N)`: i is a float64 tensor of steps 1..N, of any subset and order"


@check("noise", "β_i is in [0, 1), for every N", _BETA)
def in_range(noise: NoiseSchedule) -> str:
    """The sum raises where it is not."""
    for N in STEPS:
        noise.log_alpha_bar(N)
    beta = noise.beta(torch.arange(1, 1001, dtype=torch.float64), 1000)
    require(float(beta[0]) > 0, "β_1 > 0, or step 1 has no noise and no score", f"β_1 = {float(beta[0]):g}")
    return f"β from {float(beta.min()):.3g} to {float(beta.max()):.3g} at N = 1000"


@check("noise", "β_i is a function of i and N alone, in float64", _BETA)
def function(noise: NoiseSchedule) -> str:
    """Any subset of steps in any order gives the same values."""
    return elementwise(noise.beta)


@check(
    "noise", "log ᾱ_i is the sum of log(1 - β)", "`log_alpha_bar` is final: this fails only where β is not a function"
)
def cumulative(noise: NoiseSchedule) -> str:
    """Against an exactly rounded sum."""
    worst = 0.0
    for N in STEPS:
        beta = noise.beta(torch.arange(1, N + 1, dtype=torch.float64), N).tolist()
        L = noise.log_alpha_bar(N).tolist()
        exact = {i: math.fsum(math.log1p(-b) for b in beta[:i]) for i in (0, 1, N // 2, N)}
        worst = largest(worst, *(abs(L[i] - exact[i]) / max(1.0, abs(L[i])) for i in exact))
    require(worst < 1e-12, "log ᾱ_i = Σ log(1 - β_j) within 1e-12", f"{worst:.1e}")
    return f"{worst:.1e}"


@check("noise", "information is only ever destroyed, and the steps compose to the marginal", _BETA)
def process(noise: NoiseSchedule) -> str:
    """As standard diffusion."""
    return "; ".join(destroys(_scales(noise, N), (1, 1)) for N in (16, 1000))


@check("noise", "at the end the data are gone", "β must be large enough: sampling starts from pure noise")
def ends(noise: NoiseSchedule) -> str:
    """A signal that is left at N is missing when sampling starts."""
    scales = _scales(noise, 1000)
    signal = float(scales.log_a(torch.tensor([1000])).exp())
    require(signal < 0.5, "a_N < 0.5 at N = 1000", f"a_N = {signal:.3f}")
    return f"a_N = {signal:.1e} at N = 1000; {terminal(scales)}"


def _scales(noise: NoiseSchedule, N: int) -> BlurScales:
    """Standard diffusion of one sample."""
    zero = torch.zeros(N + 1, dtype=torch.float64)
    return BlurScales(noise.log_alpha_bar(N), zero, torch.zeros(1, 1, dtype=torch.float64))
