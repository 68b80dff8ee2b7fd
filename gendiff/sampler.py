r"""Sampler: an affine plan from the prior back to the data.

Every step of every sampler is elementwise in rotated coordinates and affine in what is known,

    x̄_j = p x̄_i + q x̂_0 + b ε̂ + e z ,     z ~ N(0, I) ,     j < i ,

with float64 coefficients per component that depend on the process alone. A sampler therefore only writes the plan; one loop
(`sample`) runs them all, and for Gaussian data the mean and variance of what comes out follow from the plan by recursion.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gendiff.component import Component
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.score import Pivot, ScoreModel


@dataclass(frozen=True)
class Update:
    """One step i -> j of a plan: float64 diagonals; a coefficient that is None is absent."""

    i: int
    j: int
    p: Tensor | None = None
    q: Tensor | None = None
    b: Tensor | None = None
    e: Tensor | None = None


class Sampler(Component):
    """An author gives `plan`."""

    kind: ClassVar[str] = "sampler"
    #: Observed order: the error of the sampled distribution falls like (number of steps)^-order.
    order: ClassVar[int] = 1
    #: Clamp x̂_0 to the range of the data at every step, in event space. Data without a range are never clipped.
    clip: bool = False

    @abstractmethod
    def plan(self, diffusion: Diffusion) -> Iterator[Update]:
        """The updates from i = N down to j = 0, in order; raises `ConfigError` for a process it cannot sample."""


def uniform_grid(N: int, steps: int | None) -> list[int]:
    """``steps + 1`` integer steps from N down to 0, equally spaced; every step when ``steps`` is None."""
    if steps is None or steps == N:
        return list(range(N, -1, -1))
    if not 1 <= steps <= N:
        raise ConfigError(
            f"{steps} sampling steps of a process of {N}", fix=f"choose between 1 and N = {N}", subject="sampler.steps"
        )
    return [round(N * k / steps) for k in range(steps, -1, -1)]


@dataclass(frozen=True)
class Moment:
    """A look at the chain: after the update to step ``j``, ``x̄_j`` and the pivot it was made from."""

    j: int
    x_bar: Tensor
    pivot: Pivot | None


def sample(
    diffusion: Diffusion,
    model: ScoreModel,
    sampler: Sampler,
    noise: Callable[[], Tensor],
    *,
    dtype: torch.dtype = torch.float32,
    watch: Callable[[Moment], None] | None = None,
) -> Tensor:
    """Run a sampler from the prior to the data.

    Args:
        noise: each call returns fresh **event-space** N(0, I) noise of shape ``(B, *event)`` on the right device; the first
            draw makes the prior, later ones are the sampler's z. Equal noise gives comparable pictures across rotations.
        dtype: float32, or float64 for proofs.
        watch: called with the prior (``pivot`` None) and after each update.

    Returns:
        x_0 of shape ``(B, *event)``.

    """
    x_bar = diffusion.prior(noise().to(dtype))
    if watch:
        watch(Moment(diffusion.N, x_bar, None))
    for update in sampler.plan(diffusion):
        pivot = model.predict(x_bar, update.i)
        z_bar = None if update.e is None else diffusion.rotate(noise().to(dtype))
        x_bar = apply(update, x_bar, pivot, z_bar)
        if watch:
            watch(Moment(update.j, x_bar, pivot))
    return diffusion.unrotate(x_bar)


def apply(update: Update, x_bar: Tensor, pivot: Pivot, z_bar: Tensor | None) -> Tensor:
    """``p x̄_i + q x̂_0 + b ε̂ + e z̄``; coefficients are cast to the dtype of ``x̄_i`` here and nowhere else."""
    terms = ((update.p, x_bar), (update.q, pivot.x_0), (update.b, pivot.eps), (update.e, z_bar))
    total = torch.zeros_like(x_bar)
    for coefficient, value in terms:
        if coefficient is not None and value is not None:
            total = total + coefficient.to(x_bar.dtype) * value
    return total
