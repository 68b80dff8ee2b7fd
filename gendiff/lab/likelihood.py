r"""Likelihood: a bound on how probable the data are under a trained chain.

The chain x_N, ..., x_1, x_0 that draws from ``q(x̄_{i-1} | x̄_i, x̂_0)`` at every step, the ancestral
sampler with all N steps, is
a model with a density. Its negative logarithm is at most (Ho, Jain, Abbeel 2020; Kingma et al. 2021, arXiv 2107.00630)

    L(x_0) = KL(q(x̄_N | x_0) || p(x̄_N))  +  Σ_{i=2..N} E ½ Σ_k (SNR_{i-1} - SNR_i) (x̂_0 - x̄_0)²  -  E log
    p(x_0 | x_1) ,

with SNR = a²/s² per component k, and the expectation over ``x̄_i = a x̄_0 + s ε̄``: in terms of ε̂ a step is
``½ expm1(2(λ_{i-1} - λ_i)) (ε̂ - ε)²``. It holds for every process and objective, for all it needs is x̂_0,
and s_1 > 0.

What stands last, the decoder, is of two kinds.

* continuous: ``p(x̄_0 | x_1) = N(x̂_0, s_1²/a_1²)`` per component. L bounds a density, so it may be
negative, and depends on the
  units of x.
* 8-bit: events in [-1, 1] are rounded to the 256 values v/127.5 - 1, and every value of every pixel has the
probability that
  N(x̂_0, σ²) gives its bin, the outermost bins reaching to infinity; ``σ² = mean_k s_1²/a_1²``. L bounds the
  probability of a
  picture of bytes, in the convention of Ho et al., and bits per dimension compare with those of the literature.

The sum over i is estimated: each event draws some of the steps, one in each of equal parts of a distribution
that follows what
the terms are for Gaussian data of the same moments, and is weighed by its inverse. The estimate of L has no
bias, and its
standard error is that of the mean over events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.command import option
from gendiff.diffusion import Diffusion
from gendiff.errors import GendiffError
from gendiff.flow import Tolerance, Trace, log_prior, solve
from gendiff.lab.recursion import Gaussian
from gendiff.score import ScoreModel
from gendiff.streams import stream

LEVELS = 256  # values of a byte
SHOWN = 20  # numbers of events in one message
HALF_BIN = 1 / (LEVELS - 1)
UNIFORM = 0.2  # share of the steps that are drawn evenly: the weight of no step is above 5 times the even one


def prior_term(diffusion: Diffusion, x_bar_0: Tensor, matched: bool = False) -> Tensor:
    """``KL(q(x̄_N | x_0) || p(x̄_N))`` in nats, ``(B,)``, for ``x̄_0`` of shape ``(B, *event)``; see `Diffusion.prior`."""
    end = diffusion.at(diffusion.N, torch.float64)
    if matched:
        ratio = end.s**2 / end.v
        kl = 0.5 * ((end.a * (x_bar_0 - end.m)) ** 2 / end.v + ratio - 1 - ratio.log())
    else:
        kl = 0.5 * torch.exp(2 * end.half_log_snr) * x_bar_0**2
    return torch.broadcast_to(kl, x_bar_0.shape).flatten(1).sum(1)


def step_term(diffusion: Diffusion, model: ScoreModel, x_bar_0: Tensor, eps_bar: Tensor, i: Tensor) -> Tensor:
    """``½ Σ_k (SNR_{i-1} - SNR_i) (x̂_0 - x̄_0)²`` in nats, ``(B,)``, for steps 2..N of shape ``(B,)``."""
    at = diffusion.at(i, x_bar_0.dtype)
    x_0 = model.predict(at.a * x_bar_0 + at.s * eps_bar, i).x_0
    return (_lost_snr(diffusion, i) * (x_0 - x_bar_0).double() ** 2).flatten(1).sum(1) / 2


def _lost_snr(diffusion: Diffusion, i: Tensor) -> Tensor:
    """``SNR_{i-1} - SNR_i`` of steps i >= 2, float64, ``(B, *diagonal)``."""
    at = diffusion.at(i)
    before = at.before.half_log_snr
    return -torch.exp(2 * before) * torch.expm1(2 * (at.half_log_snr - before))


def continuous_decoder(diffusion: Diffusion, model: ScoreModel, x_0: Tensor, eps: Tensor) -> Tensor:
    """``-log N(x̄_0; x̂_0, s_1²/a_1²)`` in nats, ``(B,)``, for events and event-space noise."""
    x_bar_0, x_hat_0 = _decoded(diffusion, model, x_0, eps)
    lam = torch.broadcast_to(diffusion.at(1).half_log_snr, diffusion.event_shape)
    nats = 0.5 * torch.exp(2 * lam) * (x_hat_0 - x_bar_0).double() ** 2 + 0.5 * math.log(2 * math.pi) - lam
    return nats.flatten(1).sum(1)


def byte_decoder(diffusion: Diffusion, model: ScoreModel, x_0: Tensor, eps: Tensor) -> Tensor:
    """Minus the log-probability in nats, ``(B,)``, of the bytes that events ``x_0`` are (see `to_bytes`)."""
    x_hat_0 = diffusion.unrotate(_decoded(diffusion, model, x_0, eps)[1]).double()
    lam = torch.broadcast_to(diffusion.at(1).half_log_snr, diffusion.event_shape)
    sigma = torch.exp(-2 * lam).mean().sqrt()
    x = x_0.double()
    upper = torch.where(x > 1 - HALF_BIN, math.inf, (x + HALF_BIN - x_hat_0) / sigma)
    lower = torch.where(x < -1 + HALF_BIN, -math.inf, (x - HALF_BIN - x_hat_0) / sigma)
    return -_log_mass(lower, upper).flatten(1).sum(1)


def _decoded(diffusion: Diffusion, model: ScoreModel, x_0: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """``x̄_0``, and x̂_0 as it is seen from step 1."""
    at = diffusion.at(1, x_0.dtype)
    x_bar_0 = diffusion.rotate(x_0)
    first = torch.ones(len(x_0), dtype=torch.int64, device=x_0.device)
    return x_bar_0, model.predict(at.a * x_bar_0 + at.s * diffusion.rotate(eps), first).x_0


def _log_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """``log(Φ(upper) - Φ(lower))``, upper > lower, also far out in a tail."""
    flip = lower > 0  # in the lower tail, where Φ is small, it is exact
    lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    log_upper: Tensor = torch.special.log_ndtr(upper)
    return log_upper + torch.log(-torch.expm1(torch.special.log_ndtr(lower) - log_upper))


def to_bytes(x: Tensor) -> Tensor:
    """Events in [-1, 1] rounded to the 256 values v/127.5 - 1."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def proposal(diffusion: Diffusion) -> Tensor:
    """The distribution of the steps 2..N, float64, ``(N-1,)``: as the terms of Gaussian data, and a fifth of it even."""
    terms = []
    for i in torch.arange(2, diffusion.N + 1, device=diffusion.scales.device).split(64):
        at = diffusion.at(i, torch.float64)
        posterior = at.c * at.s**2 / at.v  # of x̄_0 given x̄_i
        term = _lost_snr(diffusion, i) * posterior
        terms.append(torch.broadcast_to(term, (len(i), *diffusion.event_shape)).flatten(1).sum(1))
    weight = torch.cat(terms).clamp_min(0).cpu()
    even = 1 / len(weight)
    return (1 - UNIFORM) * weight / weight.sum() + UNIFORM * even if weight.sum() > 0 else weight * 0 + even


@dataclass(frozen=True)
class Part:
    """A part of the bound, in bits per dimension: its mean over events, and the standard error of that mean."""

    bits: float
    error: float


@dataclass(frozen=True)
class Bound:
    """The bound, in bits per dimension.

    Args:
        total: its estimate.
        prior, steps, decoder: what it is the sum of.
        events, draws: how many events, and how many steps each of them drew.

    """

    total: Part
    prior: Part
    steps: Part
    decoder: Part
    events: int
    draws: int


@torch.no_grad()
def bound(
    diffusion: Diffusion,
    model: ScoreModel,
    event: Callable[[int], Tensor],
    indices: Sequence[int],
    *,
    eight_bit: bool,
    matched: bool = False,
    draws: int = 8,
    seed: int = 0,
    chunk: int = 64,
    watch: Callable[[int], None] | None = None,
) -> Bound:
    """Estimate L over the events of these indices, at least two.

    Args:
        event: the event of an index, ``(*event)``; with ``eight_bit`` its values lie in [-1, 1] and are
        rounded to bytes.
        indices: what is drawn for an event is keyed by its index and the seed alone.
        matched: whether the chain starts from the matched prior.
        draws: steps that each event draws.
        chunk: how many events are computed at once.
        watch: called with the number of events that are done.

    Raises:
        GendiffError: where the bound of an event is not finite.

    """
    probability = proposal(diffusion)
    cumulative, weight = probability.cumsum(0), 1 / probability
    decoder = byte_decoder if eight_bit else continuous_decoder
    device = diffusion.scales.device
    parts: list[Tensor] = []
    for start in range(0, len(indices), chunk):
        part = indices[start : start + chunk]
        x_0 = torch.stack([event(index) for index in part])
        x_0 = (to_bytes(x_0) if eight_bit else x_0).to(device)
        x_bar_0 = diffusion.rotate(x_0)
        streams = [stream(seed, "likelihood", index) for index in part]

        def noise(like: Tensor = x_0, streams: list[torch.Generator] = streams) -> Tensor:
            return torch.stack([torch.randn(like.shape[1:], generator=each, dtype=like.dtype) for each in streams]).to(
                device
            )

        steps = torch.zeros(len(part), dtype=torch.float64, device=device)
        for draw in range(draws):
            u = torch.stack([torch.rand((), generator=each, dtype=torch.float64) for each in streams])
            place = torch.searchsorted(cumulative, (draw + u) / draws).clamp_max(len(weight) - 1)
            terms = step_term(diffusion, model, x_bar_0, diffusion.rotate(noise()), (place + 2).to(device))
            steps = steps + terms * weight[place].to(device) / draws
        prior = prior_term(diffusion, x_bar_0.double(), matched)
        parts.append(torch.stack([prior, steps, decoder(diffusion, model, x_0, noise())]).cpu())
        if watch:
            watch(start + len(part))
    nats = torch.cat(parts, dim=1)
    if odd := (~nats.isfinite().all(0)).nonzero()[:, 0].tolist():
        some = ", ".join(str(indices[k]) for k in odd[:SHOWN]) + (" ..." if len(odd) > SHOWN else "")
        raise GendiffError(
            f"the bound is not finite for {len(odd)} of {len(indices)} events",
            details=[f"events {some}"],
            fix="look whether the data hold such values; else the network returns them: "
            f"train again with a lower {option('--lr')}",
        )
    total, prior_part, steps_part, decoder_part = (_part(row, diffusion) for row in (nats.sum(0), *nats))
    return Bound(total, prior_part, steps_part, decoder_part, len(indices), draws)


def _part(nats: Tensor, diffusion: Diffusion) -> Part:
    bits = nats / (math.log(2) * math.prod(diffusion.event_shape))
    return Part(float(bits.mean()), float(bits.std() / math.sqrt(len(bits))))


@dataclass(frozen=True)
class FlowLikelihood:
    """-log p in bits per dimension by the probability-flow ODE.

    Args:
        total: its estimate: mean over events and standard error.
        evaluations: of the model, for the chunk of events that took most.
        events: how many.
        closed: the same of Gaussian data in closed form, where they are that.

    """

    total: Part
    evaluations: int
    events: int
    closed: Part | None = None


def flow_likelihood(
    diffusion: Diffusion,
    model: ScoreModel,
    event: Callable[[int], Tensor],
    indices: Sequence[int],
    *,
    eight_bit: bool,
    matched: bool = False,
    law: Gaussian | None = None,
    trace: Trace = "hutchinson",
    probes: int = 1,
    tolerance: Tolerance | None = None,
    seed: int = 0,
    chunk: int = 64,
    watch: Callable[[int], None] | None = None,
) -> FlowLikelihood:
    """-log p of the events of these indices, at least two, by the probability-flow ODE (`gendiff.flow`).

    p is the density of ``x̄_1/a_1``, the data with the noise of step 1, where the ODE begins, as in Song et
    al. 2021. With
    ``eight_bit`` an event is rounded to bytes and made continuous by uniform noise of one byte, and a byte's
    width is counted, so that the
    mean is a bound on the bits of the bytes themselves (uniform dequantisation).

    Args:
        indices: noise and probes of an event are keyed by its index and the seed alone.
        law: that of the data where they are Gaussian, of which ``model`` is the optimal one: with ``matched`` the prior is theirs
            at N, and their density at the same points is found in closed form too.
        trace: ``exact`` for events of few components, ``hutchinson`` with so many ``probes`` of ±1.

    Raises:
        GendiffError: where the ODE is not finite, or is not solved.

    """
    device, nats, exact, most = diffusion.scales.device, list[Tensor](), list[Tensor](), 0
    start_law = law.at(diffusion.at(diffusion.N)) if law and matched else None
    for start in range(0, len(indices), chunk):
        part = indices[start : start + chunk]
        x_0 = torch.stack([event(index) for index in part])
        streams = [stream(seed, "flow-likelihood", index) for index in part]
        if eight_bit:
            u = torch.stack([torch.rand(x_0.shape[1:], generator=each, dtype=x_0.dtype) for each in streams])
            x_0 = to_bytes(x_0) + (2 * u - 1) * HALF_BIN
        signs = [torch.randint(0, 2, (probes, *x_0.shape[1:]), generator=each) * 2.0 - 1 for each in streams]
        first = diffusion.at(1, x_0.dtype)
        x_bar = first.a * diffusion.rotate(x_0.to(device))
        solution = solve(
            diffusion, model, x_bar, 1, diffusion.N, tolerance, trace=trace, probes=torch.stack(signs, 1).to(device)
        )
        end = solution.x_bar
        log_p = start_law.log_density(end) if start_law else log_prior(diffusion, end, matched)
        # Of x̄_1/a_1, and in bytes.
        scale = torch.broadcast_to(first.log_a, diffusion.event_shape).sum()
        scale = scale + (math.prod(diffusion.event_shape) * math.log(2 * HALF_BIN) if eight_bit else 0.0)
        nats.append((-log_p - solution.log_density - scale).cpu())
        if law:
            exact.append((-law.at(first).log_density(x_bar) - scale).cpu())
        most = max(most, solution.evaluations)
        if watch:
            watch(start + len(part))
    closed = _part(torch.cat(exact), diffusion) if exact else None
    return FlowLikelihood(_part(torch.cat(nats), diffusion), most, len(indices), closed)
