"""What a sampler promises: a plan from N to 0 whose result converges to the data, at the order that it claims.

It is tried on a variance-preserving process, and where it refuses that on one of heat and constant noise.

For Gaussian data the optimal model is affine, so what comes out is an affine map of the noise that goes in: its mean and
covariance are found exactly by sending unit noise through the loop, one draw at a time. There is no Monte Carlo here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gendiff.component import component_class
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.gaussian import GaussianScore
from gendiff.grid import GridSampler
from gendiff.rotation import Rotation
from gendiff.sampler import Sampler, Update, sample
from gendiff.scales import DissipatingScales
from gendiff.testing.card import CheckFailed, check, require
from gendiff.testing.probes import SteadyScales, undisturbed

_PLAN = "`updates(diffusion)`"
_NS = (64, 128, 256)
MEAN = torch.tensor([[0.5, -0.3, 0.0, 0.8]], dtype=torch.float64)
VARIANCE = torch.tensor([[1.5, 1.0, 0.4, 0.1]], dtype=torch.float64)
FIRST = torch.tensor([[9.0, 9.5, 10.0, 11.0]], dtype=torch.float64)
LAST = torch.tensor([[-9.0, -10.0, -11.0, -13.0]], dtype=torch.float64)
MU = torch.tensor([[4.7, 5.0, 5.7, 6.7]], dtype=torch.float64)


@dataclass
class _UnitNoise:
    """At its k-th call, a batch whose row k + 1 is 1 and all others 0: row 0 stays without any noise."""

    rows: int
    calls: int = field(default=0)

    def __call__(self) -> Tensor:
        z = torch.zeros(self.rows, *MEAN.shape, dtype=torch.float64)
        self.calls += 1
        if self.calls < self.rows:
            z[self.calls] = 1
        return z


@check("sampler", "its plan leads from N to 0, without a gap", _PLAN)
def plan(sampler: Sampler) -> str:
    """With finite float64 coefficients."""
    diffusion = _diffusion(sampler, 64)
    with undisturbed():
        updates = list(_steps(sampler, 64).plan(diffusion))
    require(bool(updates), "updates", "none")
    require((updates[0].i, updates[-1].j) == (64, 0), "from 64 to 0", f"from {updates[0].i} to {updates[-1].j}")
    for before, after in pairwise(updates):
        require(before.j == after.i, "each step to begin where the last one ended", f"{before.j}, then {after.i}")
    earlier = 0
    for update in updates:
        where = f"{update.i} -> {update.j}"
        # Up again only by fresh noise, as the process itself goes.
        require(update.j <= update.i or update.e is not None, "j <= i", where)
        require(len(update.past) <= earlier, f"at most {earlier} earlier evaluations", f"{len(update.past)} at {where}")
        earlier = len(update.past) + 1
        for name, value in _coefficients(update).items():
            exact = value.dtype == torch.float64 and bool(torch.isfinite(value).all())
            require(exact, "finite float64 coefficients", f"{name} at {where}: {value.dtype}")
    return f"{len(updates)} evaluations"


@check("sampler", "its plan is the same each time", "a plan must not draw random numbers: noise is the loop's business")
def repeatable(sampler: Sampler) -> str:
    """Images depend on their seed alone."""
    diffusion = _diffusion(sampler, 32)
    first, second = (list(_steps(sampler, 32).updates(diffusion)) for _ in range(2))
    steps, others = ([(update.i, update.j) for update in updates] for updates in (first, second))
    require(steps == others, "the same steps", "others")
    for one, two in zip(first, second, strict=True):
        mine, other = _coefficients(one), _coefficients(two)
        for name in mine.keys() | other.keys():
            same = name in mine and name in other and torch.equal(mine[name], other[name])
            require(same, "equal coefficients", f"{name} differs at {one.i} -> {one.j}")
    return "equal coefficients"


@check("sampler", "steps that it skips cost nothing", "coefficients of i -> i-1 where those of i -> j are wanted")
def skips(sampler: Sampler) -> str:
    """As many model evaluations of a finer process: the error must not grow."""
    if "steps" not in type(sampler).model_fields:
        return "not tried: it has no parameter `steps`"
    n = _NS[1]
    every, some = (_error(*_sampled(sampler, n, N)) for N in (n, 4 * n))
    require(
        some < 1.5 * every + 1e-6, f"an error like that at all {n} of {n} steps, {every:.1e}", f"{some:.1e} of {4 * n}"
    )
    return f"error {some:.1e} at {n} of {4 * n} steps, {every:.1e} at all of {n}"


@check("sampler", "it converges to the data, at the order it claims", "the coefficients, or the class variable `order`")
def order(sampler: Sampler) -> str:
    """On Gaussian data, whose every component moves at its own speed."""
    errors = [_error(*_sampled(sampler, N)) for N in _NS]
    text = ", ".join(f"{error:.1e}" for error in errors)
    if sampler.order == 0:
        return f"claims no convergence; errors {text} at {', '.join(map(str, _NS))} steps"
    slope = math.log2(errors[-2] / errors[-1]) if errors[-1] > 1e-12 else math.inf
    if errors[-1] > 1e-6:  # below, what is left is the data that the prior does not know of
        require(slope > sampler.order - 0.3, f"order {sampler.order}", f"{slope:.2f}: errors {text} at {_NS} steps")
    rest = _limit(sampler)
    require(
        rest < 0.01,
        "mean and standard deviation of the data, within 1 % of the spread, in the limit",
        f"{rest:.1%} off",
    )
    return f"order {slope:.2f}, claimed {sampler.order}; errors {text} at {', '.join(map(str, _NS))} steps"


def _coefficients(update: Update) -> dict[str, Tensor]:
    """Those that are there, by name: ``q`` of this evaluation, ``q of 2 ago`` of an earlier one."""
    coefficients = {name: getattr(update, name) for name in ("p", "q", "b", "e", "constant")}
    for ago, past in enumerate(update.past, 1):
        coefficients |= {f"q of {ago} ago": past.q, f"b of {ago} ago": past.b}
    return {name: value for name, value in coefficients.items() if value is not None}


def _steps(sampler: Sampler, N: int) -> Sampler:
    """The sampler from pure noise, at N steps that are equally spaced, where that is a parameter."""
    settings: dict[str, Any] = {"steps": N, "prior": "standard"}
    if isinstance(sampler, GridSampler):
        settings["grid"] = component_class("grid", "uniform").model_validate({})
    return sampler.model_copy(
        update={key: value for key, value in settings.items() if key in type(sampler).model_fields}
    )


def _diffusion(sampler: Sampler, N: int) -> Diffusion:
    """The first process of N steps that the sampler takes."""
    identity = component_class("rotation", "identity").model_validate({})
    assert isinstance(identity, Rotation)
    refusals = []
    for scales in (SteadyScales(N, FIRST, LAST), _heat(N)):
        diffusion = Diffusion(identity, scales, tuple(MEAN.shape))
        try:
            next(iter(_steps(sampler, min(N, 2)).updates(diffusion)), None)
        except ConfigError as error:
            refusals.append(error.what)
            continue
        return diffusion
    raise CheckFailed(
        "a process that it takes: one that preserves variance, or one of constant noise", "; ".join(refusals)
    )


def _heat(N: int) -> DissipatingScales:
    """Components that fade to e^-5 in noise of 0.05, which is there from step 1."""
    t = torch.arange(N + 1, dtype=torch.float64) / N
    s = torch.where(t > 0, 0.05, 0.0).double()
    return DissipatingScales(0 * t, s.log(), tau=t**2, mu=MU, d=torch.zeros((), dtype=torch.float64))


def _sampled(sampler: Sampler, steps: int, N: int | None = None) -> tuple[Tensor, Tensor]:
    """Mean and variance of what comes out after so many steps, of a process of as many, or of N."""
    diffusion = _diffusion(sampler, N or steps)
    sampler = _steps(sampler, steps)
    model = GaussianScore(diffusion, MEAN, VARIANCE)
    noise = _UnitNoise(2 * steps + 2)  # the prior's, and at most one of each evaluation
    out = sample(diffusion, model, sampler, noise, dtype=torch.float64)
    if noise.calls >= noise.rows:
        out = sample(diffusion, model, sampler, _UnitNoise(noise.calls + 1), dtype=torch.float64)
    return out[0], ((out[1:] - out[0]) ** 2).sum(0)


def _deviations(mean: Tensor, variance: Tensor) -> Tensor:
    """How far mean and standard deviation are from the data's, relative to its standard deviation."""
    std = VARIANCE.sqrt()
    return torch.stack([(mean - MEAN) / std, variance.sqrt() / std - 1])


def _error(mean: Tensor, variance: Tensor) -> float:
    return float(_deviations(mean, variance).abs().max())


def _limit(sampler: Sampler) -> float:
    """The error that no number of steps removes, extrapolated: a small bias hides behind the error of few steps."""
    coarse, fine = (_deviations(*_sampled(sampler, N)) for N in (2 * _NS[-1], 4 * _NS[-1]))
    return float((fine + (fine - coarse) / (2**sampler.order - 1)).abs().max())
