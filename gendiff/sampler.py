r"""Sampler: an affine plan from the prior back to the data.

Every sampler is a sequence of updates, each with one evaluation of the model, elementwise in rotated coordinates and affine in
what is known then,

    x̄_j = constant + p x̄_i + q x̂_0 + b ε̂ + Σ_l (q_l x̂_0 + b_l ε̂)_(l evaluations ago) + e z ,     z ~ N(0, I) ,     j <= i ,

with float64 coefficients per component that depend on the process and its data's moments alone. A sampler therefore only writes
the plan; one loop (`sample`) runs them all, and for Gaussian data the law of what comes out follows from the plan by recursion.

A multistep method looks at earlier evaluations. A method of several stages moves on by a first guess and corrects it where it
arrived: the second stage of Heun is an update j -> j, affine in the guess and in the evaluations at both ends.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gendiff.component import Component
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, PluginError
from gendiff.score import Pivot, ScoreModel


@dataclass(frozen=True)
class Past:
    """The coefficients of an earlier evaluation in an update: of its x̂_0 and of its ε̂."""

    q: Tensor | None = None
    b: Tensor | None = None


@dataclass(frozen=True)
class Update:
    """One update i -> j of a plan, j <= i: float64 diagonals; a coefficient that is None is absent.

    Args:
        p, e, constant: of x̄_i, of fresh noise z, and what is added.
        q, b: of the evaluation at (x̄_i, i): of x̂_0 and of ε̂.
        past: of earlier evaluations, the newest first. It reaches at most one further back than that of the update before.

    """

    i: int
    j: int
    p: Tensor | None = None
    q: Tensor | None = None
    b: Tensor | None = None
    e: Tensor | None = None
    constant: Tensor | None = None
    past: tuple[Past, ...] = ()


class Sampler(Component):
    """An author gives `plan`."""

    kind: ClassVar[str] = "sampler"
    #: Observed order: the error of the sampled distribution falls like (number of steps)^-order; 0 claims no convergence.
    order: ClassVar[int] = 1
    #: Clamp x̂_0 to the range of the data at every step, in event space. Data without a range are never clipped.
    clip: bool = False

    @abstractmethod
    def plan(self, diffusion: Diffusion) -> Iterator[Update]:
        """The updates from i = N down to j = 0, each beginning where the last one ended.

        Raises:
            ConfigError: for a process that it cannot sample.

        """


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
class Snapshot:
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
    watch: Callable[[Snapshot], None] | None = None,
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
        watch(Snapshot(diffusion.N, x_bar, None))
    pivots: list[Pivot] = []
    for update in sampler.plan(diffusion):
        pivots.insert(0, model.predict(x_bar, update.i))
        z_bar = None if update.e is None else diffusion.rotate(noise().to(dtype))
        x_bar = apply(update, x_bar, pivots, z_bar)
        if watch:
            watch(Snapshot(update.j, x_bar, pivots[0]))
        del pivots[len(update.past) + 1 :]
    return diffusion.unrotate(x_bar)


def apply(update: Update, x_bar: Tensor, pivots: Sequence[Pivot], z_bar: Tensor | None) -> Tensor:
    """x̄_j; coefficients are cast to the dtype of ``x̄_i`` here and nowhere else.

    Args:
        pivots: the evaluation at x̄_i and the earlier ones, the newest first.

    Raises:
        PluginError: where the update looks further back than there are evaluations.

    """
    beliefs = (Past(update.q, update.b), *update.past)
    if len(beliefs) > len(pivots):
        raise PluginError(
            f"the update {update.i} -> {update.j} of a plan looks {len(update.past)} evaluations back, where there are "
            f"{len(pivots) - 1}",
            fix="a plan begins without `past`, and each update looks at most one further back than the one before",
            subject="sampler.name",
        )
    terms = [(update.p, x_bar), (update.e, z_bar)]
    for weights, pivot in zip(beliefs, pivots, strict=False):
        terms += [(weights.q, pivot.x_0), (weights.b, pivot.eps)]
    total = torch.zeros_like(x_bar) if update.constant is None else update.constant.to(x_bar).expand_as(x_bar)
    for coefficient, value in terms:
        if coefficient is not None and value is not None:
            total = total + coefficient.to(x_bar.dtype) * value
    return total
