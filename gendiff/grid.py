r"""Grid: which of the steps N..1 a sampler evaluates the model at.

A process has N steps; a sampler that can skip some asks a grid for n of them. The model is evaluated at each, from N down, and
the last update leads to 0. An author gives n real positions; they are rounded to the nearest step, and where several fall on the
same one they make room for each other: n evaluations are at n different steps, the nearest to those positions.

With ``real`` nothing is rounded: steps are real numbers in [1, N], and there may be more than N of them. Positions that are whole
are the steps that they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from pydantic import Field
from torch import Tensor

from gendiff.component import Component, abstractmethod, by_name
from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.level import Level
from gendiff.sampler import Sampler
from gendiff.shapes import MOST_STEPS, check_kind, whole

CLOSE = 1e-10  # of N: nearer to a whole step, a real one is that


Step = int | float  # whole, or real between two of them


class Grid(Component):
    """n of the steps N..1; an author gives `positions`."""

    kind: ClassVar[str] = "grid"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    #: Whether it says by itself how many steps there are.
    counted: ClassVar[bool] = False
    real: bool = Field(False, description="leave steps as they come out, real numbers, not rounded to whole ones")

    @abstractmethod
    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        """``n`` real numbers from N down to 1, non-increasing, the first of them N; 1 <= n < N, or any n > 0 with ``real``."""

    def steps(self, diffusion: Diffusion, n: int | None) -> list[Step]:
        """Different steps from N down to 0: ``n`` at which the model is evaluated, and 0; every whole step where n is None.

        Whole steps are of type int; others, which there are with ``real`` alone, are floats.

        Raises:
            ArgumentError: where n is no whole number.
            ConfigError: where n is not between 1 and N; with ``real`` it may be larger.
            PluginError: where `positions` are not what they should be.

        """
        check_kind(diffusion, Diffusion, "diffusion")
        try:
            n = n if n is None else whole(n)
        except TypeError:
            rule = f"a whole number between 1 and N = {diffusion.N}, or None for every step"
            raise ArgumentError(f"{n!r} evaluations", details=[rule]) from None
        return list(_steps(self, diffusion, n))


@lru_cache(maxsize=32)
def _steps(grid: Grid, diffusion: Diffusion, n: int | None) -> tuple[Step, ...]:
    N = diffusion.N
    if n is None or (n == N and not grid.real):
        return tuple(range(N, -1, -1))
    if not 1 <= n <= (MOST_STEPS if grid.real else N):
        raise ConfigError(
            f"{n} sampling steps of a process of {N}",
            fix=f"choose between 1 and N = {N}"
            + ("" if grid.real else f"; or steps between them, {grid.name}:real=true"),
            subject="sampler.steps",
        )
    with torch.no_grad():  # steps are chosen; what is learned of a process is learned at them
        positions = grid.positions(diffusion, n).double().cpu()
    falling = positions.shape == (n,) and bool((positions.diff() <= 0).all())
    if not falling or not (positions[0].round() == N and positions[-1].round() >= (0 if grid.real else 1)):
        raise PluginError(
            f"grid '{grid.name}' gives no {n} steps from {N} down to 1",
            details=[f"positions(diffusion, n) returned {positions.flatten()[:8].tolist()} ..."],
            fix="return n numbers, non-increasing, from N to 1 or more",
            subject="grid.name",
        )
    if grid.real:
        return (*_apart(positions.clamp(1, N), N), 0)
    return (*_different([int(position) for position in positions.round()], N), 0)


def _apart(positions: Tensor, N: int) -> list[Step]:
    """Positions from N down to 1 or more, as steps that differ: those that coincide are spread towards their neighbours."""
    whole = positions.round()
    values = torch.where((positions - whole).abs() < CLOSE * N, whole, positions)
    values[0] = N
    distinct, counts = values.unique_consecutive(return_counts=True)
    first = counts.cumsum(0) - counts
    # Where the first of them stays at N, the last stays where it is, and of others the one in the middle does.
    anchor = first + (counts - 1) // 2
    anchor[0], anchor[-1] = 0, len(values) - 1
    if len(distinct) == 1 and len(values) > 1:
        distinct, anchor = torch.stack([distinct[0], torch.ones_like(distinct[0])]), torch.tensor([0, len(values) - 1])
    places = torch.arange(len(values))
    right = torch.searchsorted(anchor, places).clamp_max(len(anchor) - 1)
    left = (right - 1).clamp_min(0)
    share = (places - anchor[left]).double() / (anchor[right] - anchor[left]).clamp_min(1)
    spread = torch.lerp(distinct[left], distinct[right], share)
    values = torch.where(places == anchor[right], distinct[right], spread)
    return [int(value) if value.is_integer() else value for value in values.tolist()]


def _different(steps: list[int], N: int) -> list[int]:
    """As many different steps N..1 as those given, which do not rise: the nearest to them in the sense of least squares."""
    n = len(steps)
    if len(set(steps)) == n:
        return steps
    from scipy.optimize import isotonic_regression  # a third of a second that most grids do not need

    # Steps i_k fall if i_k + k does not rise.
    sums = isotonic_regression([step + k for k, step in enumerate(steps)], increasing=False).x
    return [min(max(round(float(value)), n), N) - k for k, value in enumerate(sums)]


def along(diffusion: Diffusion, value: Callable[[Level], Tensor]) -> Tensor:
    """A number for each step 1..N, ``(N,)`` float64: ``value`` maps the level of steps ``(B,)``, in order, to ``(B,)``."""
    return torch.cat([value(at) for at in diffusion.levels(range(1, diffusion.N + 1), torch.float64)])


def between(values: Tensor, targets: Tensor) -> Tensor:
    """The real steps in [1, N] at which ``values`` for 1..N, rising or falling, and straight between two, are ``targets``."""
    rising, targets = (values, targets) if values[-1] >= values[0] else (-values, -targets)
    # Of equal values the last, as below.
    right = torch.searchsorted(rising.contiguous(), targets.contiguous(), right=True).clamp(1, len(values) - 1)
    low, high = rising[right - 1], rising[right]
    share = torch.where(high > low, (targets - low) / torch.where(high > low, high - low, 1.0), 1.0)
    return right + share.clamp(0, 1)


def nearest(values: Tensor, targets: Tensor) -> Tensor:
    """The steps whose ``values`` for 1..N, rising or falling, are nearest to ``targets``; positions for a grid."""
    rising = values if values[-1] >= values[0] else -values
    targets = targets if values[-1] >= values[0] else -targets
    middles = (rising[1:] + rising[:-1]) / 2
    # Of equal values the last: where nothing moves towards N, the first position still is N.
    return 1 + torch.searchsorted(middles.contiguous(), targets.contiguous(), right=True).double()


class GridSampler(Sampler):
    """A sampler that can skip steps: an author gives `updates`, which go down the steps of `descent`.

    With ``stages = 2`` there are two evaluations at each step but the last, an odd number in all: an even one is rounded down.
    """

    #: Evaluations at each step but the last, which has one.
    stages: ClassVar[int] = 1
    steps: int | None = Field(None, ge=1, description="model evaluations; one at every step when left out")
    grid: Grid = by_name("uniform", "at which steps")

    @property
    def left_out(self) -> str:
        """What becomes of an even number of evaluations with two stages, in a sentence; empty where all are made."""
        if self.steps is None or self.stages == 1 or self.steps % self.stages == 1:
            return ""
        evaluations = -(-self.steps // self.stages) * self.stages - self.stages + 1
        return f"{self.name} makes {evaluations} evaluations, not {self.steps}: {self.stages} at each step, and one at the last"

    @final
    def descent(self, diffusion: Diffusion) -> list[Step]:
        """Different steps from N down to 0: as many as make ``steps`` evaluations, or one fewer where two stages ask for it."""
        return self.grid.steps(diffusion, self.steps and -(-self.steps // self.stages))


def partway(sampler: Sampler, share: float) -> Sampler:
    """A sampler for a share, in (0, 1], of the steps of its process: with as many of its evaluations, at least one."""
    if not isinstance(sampler, GridSampler) or sampler.steps is None:
        return sampler
    return sampler.model_copy(update={"steps": max(round(share * sampler.steps), 1)})
