r"""Prediction: how far the samples of a process are from its data, before any training.

For Gaussian data the optimal model is known, and the law of what a sampler draws with it follows from its plan
(`gendiff.lab.recursion`). The error is the squared 2-Wasserstein distance between that law and the data's, which for Gaussians is
the squared Fréchet distance,

    W² = |m - m'|² + tr(C + C' - 2 (C^½ C' C^½)^½) = Σ_k (m_k - m'_k)² + (sqrt(c_k) - sqrt(c'_k))²   where both are diagonal.

It is what discretisation and prior cost with a perfect model; with a `NetworkError` also what a model costs whose every output is
off by as much, in the parametrization that it has. What data have beyond mean and covariance, errors that hang together from
step to step, and clipping are not in it. The data stand for themselves in one of two ways:

* diagonal: independent components with the moments of the process, in the basis of the process. For data of any size; a basis in
  which they are far from independent is flattered by it.
* dense: with the covariance that the data have, the same data for every process. For small events (`MOST_DENSE`).

Among the step grids of a sampler `best_grid` looks for the one with the smallest error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.frequency import frequency_bands
from gendiff.grid import Grid, GridSampler
from gendiff.lab.forward import BandSNR
from gendiff.lab.recursion import Gaussian, NetworkError, law
from gendiff.machine.threads import one_thread
from gendiff.moments import MOST_ENDLESS, MOST_EVENTS, Moments
from gendiff.rotation import Rotation
from gendiff.sampler import Sampler
from gendiff.scales import picked
from gendiff.shapes import spatial

MOST_DENSE = 256  # components of an event whose covariance is kept whole
UPDATES = 2500  # of plans that the search for a grid may compute
WAVES = 4  # shapes in which the search bends a grid before it moves single steps


@dataclass(frozen=True)
class Prediction:
    """What samples will be like.

    Args:
        evaluations: of the model, for each sample.
        steps: where it is evaluated.
        total: squared 2-Wasserstein distance between samples and data.
        bands: the same of each frequency band by itself; for diagonal data they add up to ``total``.

    """

    evaluations: int
    steps: list[float]
    total: float
    bands: list[float]


@one_thread()
def predict(
    diffusion: Diffusion, sampler: Sampler, data: Gaussian, bands: int = 4, error: NetworkError | None = None
) -> Prediction:
    """The error of what ``sampler`` draws with the optimal model of ``data``, or one that is wrong by ``error``.

    Raises:
        ConfigError: where it cannot sample the process.

    """
    steps = [update.i for update in sampler.plan(diffusion)]
    outcome = law(diffusion, sampler, data, error)
    if data.covariance.shape[-1] == 1:
        each = outcome.distance(data).reshape(diffusion.event_shape)
        member = BandSNR(diffusion, bands)
        return Prediction(len(steps), steps, float(each.sum()), member.sum(each).tolist())
    parts = [float(_part(outcome, inside).distance(_part(data, inside))) for inside in _dct_bands(diffusion, bands)]
    return Prediction(len(steps), steps, float(outcome.distance(data).sum()), parts)


def _dct_bands(diffusion: Diffusion, bands: int) -> list[Tensor]:
    """For each band the rows that lead from rotated coordinates to its components in the DCT, ``(n, d)``; none is empty."""
    shape, U = diffusion.event_shape, Rotation.model_validate("dct")
    rows = U.rotate(_dense(diffusion.rotation, shape).T.reshape(-1, *shape)).flatten(1).T  # DCT^T U
    band = frequency_bands(shape, bands).expand(shape).flatten()
    return [rows[band == k] for k in range(bands)]


def _dense(rotation: Rotation, event_shape: tuple[int, ...]) -> Tensor:
    """U, ``(d, d)`` float64: column k is the event of component k."""
    d = math.prod(event_shape)
    return rotation.unrotate(torch.eye(d, dtype=torch.float64).reshape(d, *event_shape)).reshape(d, d).T


def _part(law: Gaussian, rows: Tensor) -> Gaussian:
    """The law of some linear functions of the components."""
    return Gaussian.dense(rows @ law.mean[0], rows @ law.covariance[0] @ rows.T)


# --- the data -----------------------------------------------------------------------------------------------------------


def diagonal(diffusion: Diffusion) -> Gaussian:
    """Independent components with the moments of the process."""
    return Gaussian.of(diffusion.moments, diffusion.event_shape)


def dense(data: Data, rotation: Rotation) -> Gaussian:
    """Mean and covariance of the data in the coordinates of ``rotation``, over the events that moments are measured on.

    Raises:
        ConfigError: for events of more than `MOST_DENSE` components.

    """
    shape = data.event_shape
    if math.prod(shape) > MOST_DENSE:
        raise ConfigError(
            f"events of {math.prod(shape)} components are too large for a whole covariance",
            details=[f"it is kept for at most {MOST_DENSE} components"],
            fix="use independent components: diagonal",
        )
    indices = data.spread(MOST_EVENTS if data.length is not None else MOST_ENDLESS)
    x_bar = rotation.rotate(torch.stack([data[index] for index in indices]).double()).flatten(1)
    return Gaussian.dense(x_bar.mean(0).reshape(shape), torch.cov(x_bar.T, correction=0))


def thinned(diffusion: Diffusion) -> tuple[Diffusion, Tensor]:
    """A process of few components that stand for all of them, and how many each stands for, ``(C, K)``.

    Components whose frequency rounds to the same cycle per event, over which moments are smoothed, in each channel, are told by
    the one in their middle: its scales, the mean of their variances, and a mean whose square is that of theirs.
    """
    shape = diffusion.event_shape
    rho = diffusion.rotation.frequencies(shape)  # a rotation may give each channel frequencies of its own
    rho = torch.broadcast_to(rho, (rho.shape[0], *spatial(shape))).flatten(1)
    shell = (rho * max(spatial(shape)) / math.pi).round().long()
    shell = torch.unique(torch.where(rho < 1e-9, -1, shell), dim=1, return_inverse=True)[1]
    member = torch.nn.functional.one_hot(shell).double()
    order = torch.argsort(shell, stable=True)
    count = member.sum(0)
    middle = order[(count.cumsum(0) - count + (count - 1) // 2).long()]
    small = (shape[0], len(middle))
    weight = count.expand(small)
    square, variance = (
        torch.broadcast_to(values, shape).flatten(1) @ member / count
        for values in (diffusion.moments.mean**2, diffusion.moments.variance)
    )
    moments = Moments(square.sqrt(), variance, weight=weight, modes=diffusion.moments.modes)
    scales = picked(diffusion.scales, middle[None], spatial(shape))
    few = Diffusion(Rotation.model_validate("identity"), scales, small, moments)
    return few, weight


# --- the grid -----------------------------------------------------------------------------------------------------------


@one_thread()
def best_grid(
    diffusion: Diffusion,
    sampler: GridSampler,
    data: Gaussian,
    n: int,
    names: Sequence[str] = (),
    error: NetworkError | None = None,
) -> list[float]:
    """Steps from N down to 1 or more, n at most, at which ``sampler`` has the smallest error that a search finds.

    It begins with the best of the grids of these names and the sampler's own, bends it by a few sine waves (Powell's method),
    then moves single steps as long as that helps. Of many components few stand for all; the grid that is returned is never worse
    than the one it began with.
    """
    N = diffusion.N
    search, weight = (diffusion, None) if data.covariance.shape[-1] > 1 else thinned(diffusion)
    target = data if weight is None else diagonal(search)
    budget = max(UPDATES // n, 1)
    costs: dict[tuple[float, ...], float] = {}

    def cost(steps: tuple[float, ...]) -> float:
        nonlocal budget
        if steps not in costs:
            budget -= 1
            each = law(search, at(sampler, steps), target, error).distance(target)
            costs[steps] = float(each.sum() if weight is None else (each * weight.flatten()).sum())
        return costs[steps]

    grids = [sampler.grid, *(Grid.model_validate(name) for name in names)]
    starts = [tuple(grid.steps(diffusion, n)[:-1]) for grid in grids]
    best = start = min(starts, key=cost)
    if len(start) > 2:
        from scipy.optimize import minimize  # a third of a second that no prediction needs

        bend = _bending(start, N)
        waves = min(WAVES, len(start) - 1)
        minimize(
            lambda a: cost(bend(a)), np.zeros(waves), method="Powell", bounds=[(-0.9, 0.9)] * waves,
            options={"maxfev": budget // 2, "xtol": 0.02, "ftol": 1e-4},
        )  # fmt: skip
        best = min(costs, key=lambda steps: (costs[steps], steps))
    stride = max(N // (4 * n), 1)
    while budget > 0:
        candidate = _moved(best, stride, cost, lambda: budget > 0)
        if candidate == best and stride == 1:
            break
        stride = stride if candidate != best else max(stride // 2, 1)
        best = candidate
    whole = [predict(diffusion, at(sampler, steps), data, error=error).total for steps in (start, best)]
    return list(best if whole[1] < whole[0] else start)


def at(sampler: GridSampler, steps: Sequence[float]) -> GridSampler:
    """The sampler at these steps, from N down to 1 or more."""
    grid = Grid.model_validate({"name": "explicit", "at": list(steps)})
    return sampler.model_copy(update={"grid": grid, "steps": None})


def _bending(start: tuple[float, ...], N: int) -> Callable[[np.ndarray], tuple[float, ...]]:
    """Grids near ``start``: its steps as a curve over their number, in log i, at numbers that sine waves shift."""
    k = np.arange(len(start))
    ends = len(start) - 1
    log_i = np.log(np.array(start, dtype=np.float64))

    def bent(a: np.ndarray) -> tuple[float, ...]:
        shift = sum(a_m * np.sin(np.pi * m * k / ends) * ends / (np.pi * m) for m, a_m in enumerate(a, start=1))
        # The last step moves too: with the first wave, by as much as its neighbour.
        steps = np.exp(np.interp(np.clip(k + shift, 0, ends), k, log_i)).round().astype(int)
        return tuple(sorted({N, *(int(i) for i in steps)}, reverse=True))

    return bent


def _moved(
    steps: tuple[float, ...], stride: int, cost: Callable[[tuple[float, ...]], float], going_on: Callable[[], bool]
) -> tuple[float, ...]:
    """``steps`` with each but the first moved by ``stride`` either way where that costs less, one after the other."""
    for place in range(1, len(steps)):
        for way in (stride, -stride):
            step = steps[place] + way
            above, below = steps[place - 1], steps[place + 1] if place + 1 < len(steps) else 0
            candidate = (*steps[:place], step, *steps[place + 1 :])
            if below < step < above and going_on() and cost(candidate) < cost(steps):
                steps = candidate
                break
    return steps
