r"""Recursion: the law of what a sampler draws from Gaussian data, without drawing.

For data N(m, C) the optimal model is affine, ``x̂_0 = m + C a V^{-1} (x̄_i - a m)`` and ``ε̂ = s V^{-1} (x̄_i - a m)`` with
``V = a C a + s²``. Every update of a plan is affine in the point, in evaluations at this and at earlier points, and in fresh
noise. So mean and covariance of the points follow from update to update, exactly, and no training is needed to know what a number
of steps costs.

A network is not the optimal model. How its errors come through can be followed too: an output that is off by independent numbers
of one variance, in every component and evaluation (`NetworkError`), moves the belief by what the parametrization makes of it. In
terms of ε that is s/a times as much of x̂_0, which is why a vanishing a costs so much.

Components that are independent need no covariance: a law is kept as G independent groups of n components each, d groups of one
where the data are diagonal in U, one group of d where they are not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.level import Level
from gendiff.moments import Moments
from gendiff.sampler import Past, Sampler
from gendiff.score import Parametrization, decode
from gendiff.shapes import EventShape


@final
@dataclass(frozen=True)
class Gaussian:
    """A Gaussian law of events in rotated coordinates, as independent groups of components, in the order of ``x̄.flatten()``.

    Args:
        mean: ``(G, n)`` float64.
        covariance: ``(G, n, n)`` float64.
        event_shape: of events; G n is the number of their components.

    """

    mean: Tensor
    covariance: Tensor
    event_shape: EventShape

    @classmethod
    def diagonal(cls, mean: Tensor, variance: Tensor, event_shape: EventShape) -> Self:
        """Independent components; mean and variance broadcast to the event."""
        m, c = (torch.broadcast_to(values, event_shape).reshape(-1, 1) for values in (mean, variance))
        return cls(m, c[..., None], event_shape)

    @classmethod
    def of(cls, moments: Moments, event_shape: EventShape) -> Self:
        """Independent components with the moments of data."""
        return cls.diagonal(moments.mean, moments.variance, event_shape)

    @classmethod
    def dense(cls, mean: Tensor, covariance: Tensor) -> Self:
        """Correlated components: ``mean`` has the shape of the event, ``covariance`` is ``(d, d)``."""
        return cls(mean.reshape(1, -1), covariance[None], tuple(mean.shape))

    @property
    def variance(self) -> Tensor:
        """The variance of each component, in the shape of the event."""
        return self.covariance.diagonal(dim1=-2, dim2=-1).reshape(self.event_shape)

    def at(self, level: Level) -> Gaussian:
        """The law of ``x̄_i``, N(a m, a C a + s²), at one step."""
        a, s = (
            torch.broadcast_to(log.exp(), self.event_shape).reshape(self.mean.shape).to(self.mean)
            for log in (level.log_a, level.log_s)
        )
        covariance = a[..., None] * self.covariance * a[:, None] + torch.diag_embed(s**2)
        return Gaussian(a * self.mean, covariance, self.event_shape)

    def log_density(self, x_bar: Tensor) -> Tensor:
        """Its logarithm at ``x̄``, ``(B, *event)``, in nats: float64, ``(B,)``."""
        off = x_bar.double().reshape(len(x_bar), *self.mean.shape) - self.mean.to(x_bar.device)
        root = torch.linalg.cholesky(self.covariance.to(x_bar.device))
        white = torch.linalg.solve_triangular(root, off[..., None], upper=False)[..., 0]
        log_volume = root.diagonal(dim1=-2, dim2=-1).log().sum() + off[0].numel() * math.log(2 * math.pi) / 2
        log_density: Tensor = -0.5 * (white**2).flatten(1).sum(1) - log_volume
        return log_density

    def distance(self, other: Gaussian) -> Tensor:
        """Squared 2-Wasserstein (Fréchet) distance of each group, ``(G,)``: ``|m - m'|² + tr(C + C' - 2 (C^½ C' C^½)^½)``."""
        gap = ((self.mean - other.mean) ** 2).sum(1)
        if self.covariance.shape[-1] == 1:
            return gap + (_std(self) - _std(other)) ** 2
        root = _root(self.covariance)
        cross: Tensor = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp_min(0).sqrt().sum(1)
        traces = [law.covariance.diagonal(dim1=-2, dim2=-1).sum(1) for law in (self, other)]
        distance: Tensor = (gap + traces[0] + traces[1] - 2 * cross).clamp_min(0)
        return distance


@final
@dataclass(frozen=True)
class NetworkError:
    """What is wrong with a model: its output, as ``parametrization`` says it, is off by an independent N(0, std²).

    Args:
        limit: what clipping leaves of it: the root mean square over components by which x̂_0 may be off; ε̂ follows from x̂_0.

    """

    parametrization: Parametrization
    std: float
    limit: float = math.inf


def law(diffusion: Diffusion, sampler: Sampler, data: Gaussian, error: NetworkError | None = None) -> Gaussian:
    """The law of ``x̄_0`` when ``sampler`` runs with the optimal model of ``data`` from its own prior; never clipped.

    ``data`` need not be what ``diffusion.moments`` say: the plan is made from these, the model from ``data``.

    Args:
        error: of the model; None for the optimal one.

    Raises:
        ConfigError: for a sampler whose plan is not all that it does.

    """
    if not sampler.affine:
        raise ConfigError(
            f"sampler '{sampler.name}' chooses its steps as it goes: what it draws does not follow from a plan",
            fix="choose one of fixed steps: heun, dpmpp-2m",
            subject="sampler.name",
        )
    chain = _Chain(diffusion, data)
    points = [_prior(diffusion, sampler, data)]
    # Cov(k-th last point, l-th last point); evaluations are affine in the point where they were made.
    joint = {(0, 0): points[0].covariance}
    # Cov(k-th last point, error of the l-th last evaluation), in units of its std: points that are newer than it know of it.
    faults: dict[tuple[int, int], Tensor] = {}
    models: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    responses: list[tuple[Tensor, Tensor]] = []
    for update in sampler.plan(diffusion):
        models.insert(0, chain.model(update.i))
        if error is not None:
            responses.insert(0, chain.response(update.i, error))
        beliefs = (Past(update.q, update.b), *update.past)
        mean = 0 * points[0].mean if update.constant is None else chain.column(update.constant)
        maps, shifts = [], []
        for age, weights in enumerate(beliefs):
            x_0, x_0_rest, eps, eps_rest = models[age]
            q, b = chain.column(weights.q), chain.column(weights.b)
            slope = q[..., None] * x_0 + b[..., None] * eps
            if age == 0 and update.p is not None:
                slope = slope + torch.diag_embed(chain.column(update.p))
            maps.append(slope)
            mean = mean + q * x_0_rest + b * eps_rest + _times(slope, points[age].mean[..., None])[..., 0]
            if error is not None:
                shifts.append(q * responses[age][0] + b * responses[age][1])
        ages = range(len(points))
        cross = [_total([_times(maps[k], joint[k, l]) for k in range(len(maps))]) for l in ages]
        covariance = _total([_times(cross[k], maps[k].mT) for k in range(len(maps))])
        if update.e is not None:
            covariance = covariance + torch.diag_embed(chain.column(update.e) ** 2)
        new_faults = []
        for age, R in enumerate(shifts):
            through = [_times(maps[k], faults[k, age]) for k in range(len(maps)) if (k, age) in faults]
            cross_term = _total(through) * R[..., None, :] if through else 0.0 * covariance
            covariance = covariance + cross_term + cross_term.mT + torch.diag_embed(R**2)
            new_faults.append(_total([*through, torch.diag_embed(R)]))
            for l in ages:
                if (l, age) in faults:
                    cross[l] = cross[l] + R[..., None] * faults[l, age].mT
        covariance = (covariance + covariance.mT) / 2  # of itself an odd part, all rounding, grows in hundreds of steps
        points.insert(0, Gaussian(mean, covariance, data.event_shape))
        newest = range(len(update.past) + 1)
        joint = {
            (0, 0): covariance,
            **{(0, k + 1): cross[k] for k in newest},
            **{(k + 1, 0): cross[k].mT for k in newest},
            **{(k + 1, l + 1): joint[k, l] for k in newest for l in newest},
        }
        faults = {
            **{(0, l + 1): values for l, values in enumerate(new_faults)},
            **{(k + 1, l + 1): values for (k, l), values in faults.items() if k in newest and l in newest},
        }
        del points[len(newest) + 1 :], models[len(newest) :], responses[len(newest) :]
    return points[0]


class _Chain:
    """Diagonals of a diffusion in the groups of a law."""

    def __init__(self, diffusion: Diffusion, data: Gaussian) -> None:
        self.diffusion = diffusion
        self.data = data

    def column(self, diagonal: Tensor | None) -> Tensor:
        """``(G, n)``; 0 where it is absent."""
        if diagonal is None:
            return torch.zeros_like(self.data.mean)
        return torch.broadcast_to(diagonal, self.data.event_shape).reshape(self.data.mean.shape)

    def model(self, i: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The optimal x̂_0 and ε̂ at step i, each as a matrix ``(G, n, n)`` and what is added, ``(G, n)``."""
        m, C = self.data.mean, self.data.covariance
        at = self.diffusion.at(i, torch.float64)
        a, s = self.column(at.a), self.column(at.s)
        inverse = _inverse(a[..., :, None] * C * a[..., None, :] + torch.diag_embed(s**2))
        x_0 = _times(C * a[..., None, :], inverse)
        eps = s[..., :, None] * inverse
        shift = (a * m)[..., None]
        return x_0, m - _times(x_0, shift)[..., 0], eps, -_times(eps, shift)[..., 0]

    def response(self, i: float, error: NetworkError) -> tuple[Tensor, Tensor]:
        """By how much x̂_0 and ε̂ move where the output at step i is off by the std of ``error``, each ``(G, n)``."""
        at = self.diffusion.at(i, torch.float64)
        x_bar = torch.zeros(1, *self.data.event_shape, dtype=torch.float64)
        off, on = (decode(error.parametrization, x_bar + output, x_bar, at) for output in (0.0, error.std))
        x_0, eps = self.column(on.x_0[0] - off.x_0[0]), self.column(on.eps[0] - off.eps[0])
        size = x_0.square().mean().sqrt()
        if size <= error.limit:
            return x_0, eps
        share = error.limit / size
        return share * x_0, -share * x_0 * self.column(at.a / at.s)


def _prior(diffusion: Diffusion, sampler: Sampler, data: Gaussian) -> Gaussian:
    chain = _Chain(diffusion, data)
    end = diffusion.at(diffusion.N, torch.float64)
    a, s = chain.column(end.a), chain.column(end.s)
    match sampler.prior:
        case "standard":
            return Gaussian(0 * data.mean, torch.diag_embed(s**2), data.event_shape)
        case "matched":
            m, c = chain.column(diffusion.moments.mean), chain.column(diffusion.moments.variance)
            return Gaussian(a * m, torch.diag_embed(a**2 * c + s**2), data.event_shape)
        case "data":
            return Gaussian(a * data.mean, a[..., :, None] * data.covariance * a[..., None, :], data.event_shape)


def _times(one: Tensor, other: Tensor) -> Tensor:
    """The matrix product; of 1 x 1 matrices without its overhead."""
    return one * other if one.shape[-1] == 1 else one @ other


def _inverse(matrices: Tensor) -> Tensor:
    return 1 / matrices if matrices.shape[-1] == 1 else torch.linalg.inv(matrices)


def _total(matrices: list[Tensor]) -> Tensor:
    return torch.stack(matrices).sum(0)


def _std(law: Gaussian) -> Tensor:
    return law.covariance[:, 0, 0].clamp_min(0).sqrt()


def _root(matrices: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrices)
    root: Tensor = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT
    return root
