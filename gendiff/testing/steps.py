"""Steps: what every process promises from one step to the next."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.rotation import Rotation
from gendiff.scales import Scales, VariancePreserving
from gendiff.shapes import EventShape
from gendiff.testing.card import largest, require

STEPS = (2, 10, 137, 1000)  # values of N that a schedule is tried with


class _Identity(Rotation):
    """for scales that are looked at alone."""

    name = "identity"

    def rotate(self, x: Tensor) -> Tensor:
        return x

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return x_bar


def elementwise(function: Callable[[Tensor, int], Tensor]) -> str:
    """A schedule's value at i depends on i and N, not on which other steps are asked for."""
    for N in (10, 1000):
        i = torch.arange(1, N + 1, dtype=torch.float64)
        values = function(i, N)
        require(values.dtype == torch.float64, "float64 for float64 steps", str(values.dtype))
        require(torch.equal(i, torch.arange(1, N + 1, dtype=torch.float64)), "i left as it was", "i changed")
        require(torch.equal(function(i, N), values), "the same values each time", "others")
        for some in ([N, 1, N // 2], [N // 2, 2, N // 2 + 1], [3]):
            part = torch.tensor(some, dtype=torch.float64)
            part_values, same_values = function(part, N), values[part.long() - 1]
            require(
                part_values.shape == part.shape,
                f"values of the shape of i, {tuple(part.shape)}",
                str(tuple(part_values.shape)),
            )
            error = float(((part_values - same_values).abs() / same_values.abs().clamp_min(1)).max())
            require(error < 1e-12, "the same value at a step whichever others are asked for", f"{error:.1e} off")
    return "the same for any subset and order"


def destroys(scales: Scales, event_shape: EventShape) -> str:
    """Finite scales, λ non-increasing at every step, clean events at i = 0, one-step kernels that compose to the marginals."""
    N = scales.N
    i = torch.arange(N + 1)
    log_a, log_s = scales.log_a(i), scales.log_s(i)
    for what, values in (("log a", log_a), ("log s", log_s)):
        require(values.dtype == torch.float64, f"{what} in float64", str(values.dtype))
        require(
            values.shape == (N + 1, *log_a.shape[1:]), f"{what} for each of N + 1 = {N + 1} steps", str(values.shape)
        )
    require(bool(torch.isfinite(log_a).all()), "log a finite at every step", _where(~torch.isfinite(log_a)))
    require(bool(torch.isfinite(log_s[1:]).all()), "log s finite for i >= 1", _where(~torch.isfinite(log_s)))
    lam = scales.half_log_snr(i)
    rises = ~(lam[1:] <= lam[:-1] + 1e-9)
    require(not bool(rises.any()), "λ_i never rises", f"it does {_where(rises, 1)}")
    begins(log_a[0], log_s[0], exactly=isinstance(scales, VariancePreserving))
    diffusion = Diffusion(_Identity(), scales, event_shape)
    a, s = log_a.exp(), log_s.exp()
    composed_a, variance, worst = a[0], s[0] ** 2, 0.0
    for step in range(
        1, N + 1
    ):  # kernels ask for single steps: scales that depend on the others asked for are found out
        kernel = diffusion.kernel(step, step - 1)
        composed_a, variance = kernel.scale * composed_a, kernel.scale**2 * variance + kernel.std**2
        off_a, off_s = (composed_a - a[step]) / a[step].clamp_min(1), variance / s[step] ** 2 - 1
        worst = largest(worst, float(off_a.abs().max()), float(off_s.abs().max()))
    require(worst < 1e-9, "the product of the one-step kernels equals the marginal within 1e-9", f"{worst:.1e}")
    return f"N = {N}: composition within {worst:.0e}"


def begins(log_a: Tensor, log_s: Tensor, exactly: bool) -> None:
    """At i = 0 there is the event, where a² + s² = 1 the event alone; others may keep a little noise there."""
    a, s = log_a.exp(), log_s.exp()
    off = largest(float((a - 1).abs().max()), float(s.max()) if exactly else 0.0)
    require(
        off < (1e-6 if exactly else 0.01),
        "clean events at i = 0: a_0 = 1",
        f"a_0 from {float(a.min()):.6g}, s_0 to {float(s.max()):.2g}",
    )
    require(float(s.max()) < 0.1, "clean events at i = 0: s_0 < 0.1", f"s_0 = {float(s.max()):.2g}")


def terminal(scales: Scales) -> str:
    """The log signal-to-noise ratio at N over the components."""
    log_snr = 2 * scales.half_log_snr(torch.tensor([scales.N]))
    return f"log-SNR at N from {float(log_snr.min()):.1f} to {float(log_snr.max()):.1f}"


def _where(wrong: Tensor, offset: int = 0) -> str:
    steps = wrong.flatten(1).any(1).nonzero().flatten() + offset
    return (
        f"at i = {int(steps[0])}" + (f" and {len(steps) - 1} more steps" if len(steps) > 1 else "")
        if len(steps)
        else "nowhere"
    )
