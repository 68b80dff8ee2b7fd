"""What a grid promises: steps that fall from N to 0, as many as are asked for, always the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch

from gendiff.component import component_class
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.grid import Grid, Step
from gendiff.moments import Moments
from gendiff.rotation import Rotation
from gendiff.testing.card import check, require
from gendiff.testing.probes import SmoothScales, SteadyScales, undisturbed

_POSITIONS = "`positions(diffusion, n)`: n falling numbers, the first of them N, the last 1 or more"
EVENT = (2, 3, 5)


@check("grid", "its steps fall from N to 0", _POSITIONS)
def falls(grid: Grid) -> str:
    """For every number of evaluations that it takes, on processes that are fast and slow, long and short."""
    count, refusals = 0, set[str]()
    for diffusion in _diffusions():
        for n in (1, 2, 3, 10, diffusion.N - 1, diffusion.N, None):
            try:
                with undisturbed():
                    steps = grid.steps(diffusion, n)
            except ConfigError as error:
                refusals.add(error.what)
                continue
            count += 1
            require(
                (steps[0], steps[-1]) == (diffusion.N, 0), f"from N = {diffusion.N} to 0", f"{steps[0]} to {steps[-1]}"
            )
            require(all(i > j for i, j in pairwise(steps)), "falling steps", str(steps[:8]))
            require(grid.real or all(isinstance(i, int) for i in steps), "whole numbers", str(steps[:8]))
            require(steps[-2] >= 1, "the model asked at 1 or more", str(steps[-2]))
            evaluations = n or (len(steps) - 1 if grid.counted else diffusion.N)
            require(len(steps) == evaluations + 1, f"{evaluations} evaluations", str(len(steps) - 1))
    if not count:
        return f"not tried: {'; '.join(sorted(refusals))}"
    return f"{count} grids"


@check(
    "grid",
    "it can leave steps real",
    "`positions(diffusion, n)`: real numbers; `gendiff.grid.between` finds them, not `nearest`",
)
def real(grid: Grid) -> str:
    """As many as there are whole ones, and more; and near to those, where none made room for another."""
    if grid.counted:
        return "its steps are given"
    loose, count, between = grid.model_copy(update={"real": True}), 0, 0
    for diffusion in _diffusions():
        for n in (1, 2, 7, diffusion.N, 2 * diffusion.N + 1):
            try:
                with undisturbed():
                    steps = loose.steps(diffusion, n)
            except ConfigError:
                continue
            count += 1
            require(
                (steps[0], steps[-1], len(steps)) == (diffusion.N, 0, n + 1), f"{n} steps from N to 0", str(steps[:8])
            )
            require(
                all(i > j for i, j in pairwise(steps)) and steps[-2] >= 1, "falling steps, 1 or more", str(steps[:8])
            )
            between += n == 7 and any(isinstance(i, float) for i in steps)
    if not count:
        return "not tried: it takes none of the processes"
    require(between > 0, "steps between whole ones", "whole ones alone")
    return f"{count} grids"


@check("grid", "it takes every step where no number is given", "`steps`, where it is the author's own")
def every(grid: Grid) -> str:
    """From N down to 0, but for one that says itself how many there are."""
    if grid.counted:
        return "it says itself how many"
    diffusion = next(_diffusions())
    try:
        steps = grid.steps(diffusion, None)
    except ConfigError as error:
        return f"not tried: {error.what}"
    require(steps == list(range(diffusion.N, -1, -1)), "every step where no number is given", f"{len(steps) - 1} steps")
    return f"{len(steps) - 1} steps"


@check("grid", "it is the same each time", "positions are a function of the process and of n alone")
def repeatable(grid: Grid) -> str:
    """Images depend on their seed alone."""
    first, second = ([_or_refused(grid, diffusion) for diffusion in _diffusions()] for _ in range(2))
    require(first == second, "the same steps", "others")
    return "the same steps"


def _or_refused(grid: Grid, diffusion: Diffusion) -> list[Step] | str:
    try:
        return grid.steps(diffusion, 7)
    except ConfigError as error:
        return error.what


def _diffusions() -> Iterator[Diffusion]:
    identity = component_class("rotation", "identity").model_validate({})
    assert isinstance(identity, Rotation)
    spread = torch.linspace(0, 1, 30, dtype=torch.float64).reshape(EVENT)
    for N in (200, 23):
        yield Diffusion(identity, SmoothScales(N, 20 + 30 * spread), EVENT)
        yield Diffusion(identity, SmoothScales(N, 10 + 1e5 * spread), EVENT)  # what is fast is gone at once
        moments = Moments(0 * spread, torch.exp(-5 * spread))
        yield Diffusion(identity, SteadyScales(N, 6 + spread, -6 - 5 * spread), EVENT, moments)
