r"""Bound: how improbable an event can be under a chain at most, term by term.

The chain x_N, ..., x_1, x_0 that draws from ``q(x̄_{i-1} | x̄_i, x̂_0)`` at every step, the ancestral sampler with all N steps, is
a model with a density. Its negative logarithm is at most (Ho, Jain, Abbeel 2020; Kingma et al. 2021, arXiv 2107.00630)

    L(x_0) = KL(q(x̄_N | x_0) || p(x̄_N))  +  Σ_{i=2..N} E ½ Σ_k (SNR_{i-1} - SNR_i) (x̂_0 - x̄_0)²  -  E log p(x_0 | x_1) ,

with SNR = a²/s² per component k, and the expectation over ``x̄_i = a x̄_0 + s ε̄``: in terms of ε̂ a step is
``½ expm1(2(λ_{i-1} - λ_i)) (ε̂ - ε)²``. It holds for every process and objective, for all it needs is x̂_0, and s_1 > 0.

What stands last, the decoder, is of two kinds.

* continuous: ``p(x̄_0 | x_1) = N(x̂_0, s_1²/a_1²)`` per component. L bounds a density, so it may be negative, and depends on the
  units of x.
* 8-bit: events in [-1, 1] are rounded to the 256 values v/127.5 - 1, and every value of every pixel has the probability that
  N(x̂_0, σ²) gives its bin, the outermost bins reaching to infinity; ``σ² = mean_k s_1²/a_1²``. L bounds the probability of a
  picture of bytes, in the convention of Ho et al., and bits per dimension compare with those of the literature.

Every term is differentiable, in what the model says and in the scales.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.score import ScoreModel

LEVELS = 256  # values of a byte
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
    return (lost_snr(diffusion, i) * (x_0 - x_bar_0).double() ** 2).flatten(1).sum(1) / 2


def lost_snr(diffusion: Diffusion, i: Tensor) -> Tensor:
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
        term = lost_snr(diffusion, i) * posterior
        terms.append(torch.broadcast_to(term, (len(i), *diffusion.event_shape)).flatten(1).sum(1))
    weight = torch.cat(terms).clamp_min(0).cpu()
    even = 1 / len(weight)
    return (1 - UNIFORM) * weight / weight.sum() + UNIFORM * even if weight.sum() > 0 else weight * 0 + even
