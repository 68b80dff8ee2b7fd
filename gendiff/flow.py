r"""Flow: the probability-flow ODE of any process in real time, and a solver that chooses its own steps.

In the coordinates ``y = (x̄ - a m)/sqrt(v)`` and the angle ``θ = atan2(s, a sqrt(c))`` of each component (`gendiff.level`) the ODE
of every (U, a, s) is exactly ``dy/dθ = -T`` (`gendiff.score`). All components share one clock, the real step i, so

    dy/di = -θ'(i) T(y, i) ,     θ' = -λ' sin θ cos θ ,

which divides by neither a nor s, whatever m and c are: with those of the data, T is only what mean and variance leave open, and a
solver takes long steps. The log-density follows from the trace of the same field,

    log p_i(x̄_i) = log p_N(x̄_N) + Σ_k ½ log(v_N/v_i) + ∫_i^N tr(∂(dy/di)/∂y) di .

The solver is Dormand and Prince's pair of orders 5 and 4, whose numbers are SciPy's. The loop is ours: that of a library
(torchdiffeq, SciPy) takes one step for a whole batch, and what becomes of an event would depend on those that are computed beside
it. Here each event has a step of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import GendiffError
from gendiff.score import Parametrization, ScoreModel, believe, encode, normalized
from gendiff.shapes import per_event

FIRST = 1 / 64  # of a long way: a first step, which the error corrects
SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
MOST = 10_000  # evaluations of an event

Trace = Literal["hutchinson", "exact"]


@dataclass(frozen=True)
class Tolerance:
    """What error a step may make: ``absolute + relative |y|``, root mean square over the components of an event."""

    relative: float = 1e-4
    absolute: float = 1e-4


@dataclass(frozen=True, repr=False)
class Solution:
    """Where the ODE led.

    Args:
        x_bar: there, ``(B, *event)``.
        log_density: by how much the log-density at the start is above that at the end, float64, ``(B,)``; 0 without a trace.
        evaluations: of the model, each of a whole batch.

    """

    x_bar: Tensor
    log_density: Tensor
    evaluations: int


def field(diffusion: Diffusion, model: ScoreModel, y: Tensor, i: Tensor) -> Tensor:
    """``dy/di = -θ' T`` at ``y``, ``(B, *event)``, and real steps ``(B,)``; float32 or float64, as y."""
    at = diffusion.at(i, y.dtype)
    x_bar = at.a * at.m + at.v.sqrt() * y
    return -at.theta_speed.to(y) * encode(Parametrization.WIENER, believe(model, x_bar, i), at)


def solve(
    diffusion: Diffusion,
    model: ScoreModel,
    x_bar: Tensor,
    start: float,
    end: float,
    tolerance: Tolerance | None = None,
    *,
    trace: Trace | None = None,
    probes: Tensor | None = None,
    first: float = FIRST,
) -> Solution:
    """Follow the ODE from ``x̄`` at the real step ``start`` to that at ``end``, up or down.

    Args:
        x_bar: ``(B, *event)``, float32 or float64.
        trace: how the change of density is found, not at all where left out: ``exact`` differentiates once for each component,
            ``hutchinson`` once for each of ``probes``.
        probes: ``(P, B, *event)``, entries of mean 0 and variance 1, ±1 best.
        first: the first step that is tried, as a share of the way.

    Raises:
        ArgumentError: where the process has no continuous limit on the way.
        GendiffError: where the field is not finite, or no step is short enough.

    """
    tolerance = tolerance or Tolerance()
    way = float(end) - float(start)
    here, there = diffusion.at(float(start), x_bar.dtype), diffusion.at(float(end), x_bar.dtype)
    evaluations, dtype = 0, x_bar.dtype

    def speed(y: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """(dy/du, d log p/du), u from 0 to 1 along the way."""
        nonlocal evaluations
        evaluations += 1
        i = start + u * way
        i = torch.where(u >= 1, float(end), i)
        if trace is None:
            with torch.no_grad():
                return way * field(diffusion, model, y, i), torch.zeros(len(y), dtype=torch.float64, device=y.device)
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            dy = field(diffusion, model, y, i)
            return way * dy.detach(), way * _trace(dy, y, trace, probes).detach()

    y, gained = _dormand_prince(speed, normalized(x_bar, here), tolerance, first)
    level = torch.broadcast_to((there.log_v - here.log_v) / 2, diffusion.event_shape).sum()
    return Solution((there.a * there.m + there.v.sqrt() * y).to(dtype), gained + level, evaluations)


def _trace(dy: Tensor, y: Tensor, trace: Trace, probes: Tensor | None) -> Tensor:
    """The trace of ∂dy/∂y of each event, float64, ``(B,)``."""
    if not dy.requires_grad:  # a model that does not look at y
        return torch.zeros(len(y), dtype=torch.float64, device=y.device)
    if trace == "exact":
        axes = torch.eye(y[0].numel(), dtype=y.dtype, device=y.device).reshape(-1, 1, *y.shape[1:])
        vectors, count = axes.expand(-1, *y.shape), 1
    else:
        assert probes is not None
        vectors, count = probes.to(y), len(probes)
    total = torch.zeros(len(y), dtype=torch.float64, device=y.device)
    for vector in vectors:
        (pulled,) = torch.autograd.grad(dy, y, vector, retain_graph=True)
        total = total + (pulled * vector).double().flatten(1).sum(1)
    return total / count


@lru_cache(maxsize=1)
def _tableau() -> tuple[list[float], list[list[float]], list[float]]:
    """Times, weights of each stage (the last is the step itself), and weights of the error."""
    from scipy.integrate import RK45  # a third of a second that no other sampler needs

    stages = [row[:k].tolist() for k, row in enumerate(RK45.A)] + [RK45.B.tolist()]
    return [*RK45.C.tolist(), 1.0], stages, RK45.E.tolist()


def _dormand_prince(
    speed: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], y: Tensor, tolerance: Tolerance, first: float
) -> tuple[Tensor, Tensor]:
    """Integrate from u = 0 to 1, each event of the batch at its own steps."""
    times, stages, error_weights = _tableau()
    count, ndim, size = len(y), y.ndim - 1, y[0].numel()
    u = torch.zeros(count, dtype=torch.float64, device=y.device)
    h = torch.full_like(u, first)
    gained = torch.zeros_like(u)
    slopes, evaluations = [speed(y, u)], 1
    while bool((u < 1).any()):
        step = torch.minimum(h, 1 - u)
        last = u + step >= 1 - 1e-12
        slopes = slopes[:1]
        for time, weights in zip(times[1:], stages[1:], strict=True):
            moved = sum(weight * slope for weight, (slope, _) in zip(weights, slopes, strict=True))
            at = torch.where(last & (time == 1), 1.0, u + time * step)
            slopes.append(speed(y + per_event(step, ndim).to(y) * moved, at))
        evaluations += len(stages) - 1
        arrived = y + per_event(step, ndim).to(y) * moved
        gain = sum(weight * more for weight, (_, more) in zip(stages[-1], slopes[:-1], strict=True)) * step
        off, off_gain = (
            sum(weight * slope[part] for weight, slope in zip(error_weights, slopes, strict=True)) for part in (0, 1)
        )
        scale = tolerance.absolute + tolerance.relative * torch.maximum(y.abs(), arrived.abs())
        squares = ((per_event(step, ndim).to(y) * off / scale) ** 2).double().flatten(1).mean(1)
        allowed = size * (tolerance.absolute + tolerance.relative)
        error = torch.maximum(squares.sqrt(), (step * off_gain).abs() / allowed)
        if not bool(error.isfinite().all()):
            raise GendiffError(
                "the probability-flow ODE is not finite",
                details=[f"near {float(u.min()):.3g} of the way"],
                fix="look at the network: gendiff process likelihood --method bound says where it is not",
            )
        taken = (error <= 1) & (u < 1)
        grown = SAFETY * error.clamp_min(1e-10) ** -0.2
        h = torch.where(u < 1, step * grown.clamp(SHRINK, GROW), h)
        keep = per_event(taken, ndim)
        slopes = [(torch.where(keep, slopes[-1][0], slopes[0][0]), torch.where(taken, slopes[-1][1], slopes[0][1]))]
        y, gained = torch.where(keep, arrived, y), torch.where(taken, gained + gain, gained)
        u = torch.where(taken, torch.where(last, 1.0, u + step), u)
        if evaluations > MOST or bool((h < 1e-12).any()):
            raise GendiffError(
                f"the probability-flow ODE is not solved after {evaluations} evaluations",
                details=[f"tolerance: {tolerance.relative:g} relative, {tolerance.absolute:g} absolute"],
                fix="allow a larger error: rtol and atol",
            )
    return y, gained


def log_prior(diffusion: Diffusion, x_bar: Tensor, matched: bool = False) -> Tensor:
    """log-density of the prior at ``x̄_N``, float64, ``(B,)``."""
    end = diffusion.at(diffusion.N, torch.float64)
    centre, log_variance = (end.a * end.m, end.log_v) if matched else (0.0 * end.a, 2 * end.log_s)
    log_variance = torch.broadcast_to(log_variance, diffusion.event_shape)
    squares = (x_bar.double() - centre) ** 2 / log_variance.exp()
    return -0.5 * (squares + log_variance + math.log(2 * math.pi)).flatten(1).sum(1)
