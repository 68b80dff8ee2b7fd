r"""What guides have in common that restore an event from what was measured of it, ``y = A x_0 + σ_y n``.

x_0 is believed to be N(x̂_0, R) given x̄_i, with R = U diag(r²) U^T. Then y pulls x̂_0 along

    w = A^T u ,     (A R A^T + σ_y²) u = y - A x̂_0 ,

where U diagonalises A component by component, and else by conjugate gradients, each event by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from gendiff.errors import ConfigError
from gendiff.guide import Guide, Scene
from gendiff.operator import Measurement
from gendiff.score import Pivot, ScoreModel, believe

#: Of the standard deviation of the data: no σ_y is less, where an A that is ill-conditioned would make rounding errors large.
LEAST = 1e-4
MOST_ROUNDS = 300  # of conjugate gradients
CLOSE = {torch.float32: 1e-5, torch.float64: 1e-11}  # of what is left of the right-hand side


class Gradient(Protocol):
    """``J^T`` of a function of x̂_0, times a weight where it is no scalar, by ``x̄_i``."""

    def __call__(self, of: Callable[[Tensor], Tensor], weight: Tensor | None = None) -> Tensor:
        """``(B, *event)``."""


class Restoring(Guide):
    """A guide that needs a measurement."""

    restores = True

    def check(self, model: ScoreModel, scene: Scene) -> None:
        """Raise `ConfigError` where nothing was measured."""
        measurement_of(self, scene)


def measurement_of(guide: Guide, scene: Scene) -> Measurement:
    """What was measured; raises `ConfigError` where nothing was."""
    if scene.measurement is None:
        raise ConfigError(
            f"guide '{guide.name}' restores what was measured, and nothing was",
            fix="use gendiff restore RUN PICTURE, or model.restore(y, operator) in Python",
            subject="guide.name",
        )
    return scene.measurement


def noise_of(scene: Scene) -> float:
    """σ_y, or the least that is reckoned with."""
    assert scene.measurement is not None
    spread = float(scene.diffusion.moments.variance.mean().sqrt())
    return max(scene.measurement.sigma, LEAST * spread)


def residual(measurement: Measurement, x_0: Tensor) -> Tensor:
    """``y - A x̂_0`` for events, ``(B, *measured)``."""
    return measurement.to(x_0) - measurement.operator.apply(x_0)


def pull(scene: Scene, x_bar_0: Tensor, r2: Tensor) -> Tensor:
    """``U^T w`` for a belief ``U^T x̂_0``, ``(B, *event)``, of variance ``r2`` per component."""
    measurement, diffusion = scene.measurement, scene.diffusion
    assert measurement is not None
    shape, sigma2 = diffusion.event_shape, noise_of(scene) ** 2
    operator, left = measurement.operator, residual(measurement, diffusion.unrotate(x_bar_0))
    d = operator.diagonal(diffusion.rotation, shape)
    if d is not None:
        d = d.to(x_bar_0)
        return torch.where(d > 0, diffusion.rotate(operator.adjoint(left, shape)) / (r2 * d**2 + sigma2), 0.0)

    def through(u: Tensor) -> Tensor:
        x_bar = r2 * diffusion.rotate(operator.adjoint(u, shape))
        return operator.apply(diffusion.unrotate(x_bar)) + sigma2 * u

    return diffusion.rotate(operator.adjoint(conjugate_gradients(through, left), shape))


def conjugate_gradients(matrix: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
    """The u with ``matrix(u) = b``, symmetric and positive, ``(B, *any)``: each event by itself, which rests when it is done."""

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).flatten(1).sum(1).reshape(-1, *[1] * (b.ndim - 1))

    u, r, p = torch.zeros_like(b), b, b
    square = dot(r, r)
    enough = CLOSE[b.dtype] ** 2 * square
    for _ in range(MOST_ROUNDS):
        going = square > enough
        if not bool(going.any()):
            break
        along = matrix(p)
        length = dot(p, along)
        alpha = torch.where(going & (length > 0), square / torch.where(length > 0, length, 1.0), 0.0)
        u, r = u + alpha * p, r - alpha * along
        new = torch.where(going, dot(r, r), square)
        p = torch.where(going, r + new / torch.where(square > 0, square, 1.0) * p, p)
        square = new
    return u


def believed(model: ScoreModel, x_bar: Tensor, i: float | Tensor) -> tuple[Pivot, Gradient]:
    """What a model believes of ``x̄_i``, and how to differentiate what follows from it by ``x̄_i``.

    Where autograd follows the chain it goes on through both.
    """
    follows = torch.is_grad_enabled() and x_bar.requires_grad
    with torch.enable_grad():
        x = x_bar if follows else x_bar.detach().requires_grad_()
        pivot = believe(model, x, i)

    def gradient(of: Callable[[Tensor], Tensor], weight: Tensor | None = None) -> Tensor:
        with torch.enable_grad():
            if not pivot.x_0.requires_grad:  # a belief that x̄_i has no part in
                return torch.zeros_like(x_bar)
            (value,) = torch.autograd.grad(of(pivot.x_0), x, weight, create_graph=follows, allow_unused=True)
        return torch.zeros_like(x_bar) if value is None else value

    return (pivot if follows else Pivot(pivot.x_0.detach(), pivot.eps.detach())), gradient


def moved(pivot: Pivot, shift: Tensor, a: Tensor, s: Tensor) -> Pivot:
    """The belief with x̂_0 moved, and ε̂ such that ``x̄_i = a x̂_0 + s ε̂`` as before."""
    return Pivot(pivot.x_0 + shift, pivot.eps - a / s * shift)
