r"""Likelihood: how probable the data are under a trained chain, estimated over events.

Of the bound (`gendiff.bound`) the sum over i is estimated: each event draws some of the steps, one in each of equal parts of a
distribution that follows what the terms are for Gaussian data of the same moments, and is weighed by its inverse. The estimate
has no bias, and its standard error is that of the mean over events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gendiff.bound import HALF_BIN, byte_decoder, continuous_decoder, prior_term, proposal, step_term, to_bytes
from gendiff.command import option
from gendiff.diffusion import Diffusion
from gendiff.errors import GendiffError
from gendiff.flow import Tolerance, Trace, log_prior, solve
from gendiff.lab.recursion import Gaussian
from gendiff.score import ScoreModel
from gendiff.streams import stream

SHOWN = 20  # numbers of events in one message


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
        event: the event of an index, ``(*event)``; with ``eight_bit`` its values lie in [-1, 1] and are rounded to bytes.
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
        off: by how much the ODE is above it, event by event: what its steps and the probes of the trace cost.

    """

    total: Part
    evaluations: int
    events: int
    closed: Part | None = None
    off: Part | None = None


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

    p is the density of ``x̄_1/a_1``, the data with the noise of step 1, where the ODE begins, as in Song et al. 2021. With
    ``eight_bit`` an event is rounded to bytes and made continuous by uniform noise of one byte, and a byte's width is counted, so
    that the mean is a bound on the bits of the bytes themselves (uniform dequantisation).

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
    whole = torch.cat(nats)
    total = _part(whole, diffusion)
    if not exact:
        return FlowLikelihood(total, most, len(indices))
    known = torch.cat(exact)
    return FlowLikelihood(total, most, len(indices), _part(known, diffusion), _part(whole - known, diffusion))
