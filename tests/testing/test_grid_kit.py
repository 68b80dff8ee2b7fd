"""What the kit asks of a grid: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import torch
from flaws import Fails, assert_found, broken, each, titles
from torch import Tensor

from gendiff import Diffusion
from gendiff.grid import Grid

fails = Fails()

FALLS, REAL, EVERY, SAME = (
    "its steps fall from N to 0",
    "it can leave steps real",
    "it takes every step where no number is given",
    "it is the same each time",
)


class Even(Grid):
    """equally spaced, for others to change."""

    name = "mutant"

    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        return self.changed(diffusion.N * torch.arange(n, 0, -1, dtype=torch.float64) / n)

    def changed(self, positions: Tensor) -> Tensor:
        return positions


@fails(FALLS, "grid 'mutant' gives no 1 steps from 200 down to 1")
class BelowTheEnd(Even):
    def changed(self, positions: Tensor) -> Tensor:
        return positions - 1


@fails(FALLS, "grid 'mutant' gives no 3 steps from 200 down to 1")
class ZigZag(Even):
    def changed(self, positions: Tensor) -> Tensor:
        return positions if len(positions) < 3 else positions.roll(1)


@fails(FALLS, "expected 1 evaluations; seen: 200")
class IgnoresNumber(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        return list(range(diffusion.N, -1, -1))


@fails(FALLS, "expected from N = 200 to 0; seen: 200 to 200")
class EndsEarly(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        return super().steps(diffusion, n)[:-1]


@fails(FALLS, "expected falling steps; seen: ")
class TwiceEach(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        steps = super().steps(diffusion, n)
        return [steps[0], *steps[:-2], 0]


@fails(FALLS, "expected whole numbers; seen: ")
class Fractions(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        return [float(i) for i in super().steps(diffusion, n)]  # type: ignore[misc]


@fails(FALLS, "the random numbers of the whole process left alone; seen: those of torch are not")
@fails(SAME, "expected the same steps; seen: others")
class Draws(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        between = sorted((1 + torch.randperm(diffusion.N - 1)[: (n or diffusion.N) - 1]).tolist(), reverse=True)
        return [diffusion.N, *between, 0]


@fails(FALLS, "expected 3 evaluations; seen: 2")
class OneFewer(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        steps = super().steps(diffusion, n)
        return steps if n in (None, 1, 2) else [*steps[:-2], 0]


@fails(EVERY, "expected every step where no number is given; seen: 10 steps")
class TenAtMost(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        return super().steps(diffusion, n or 10)


@fails(REAL, "expected steps between whole ones; seen: whole ones alone")
class RoundsThem(Even):
    def changed(self, positions: Tensor) -> Tensor:
        return positions.round()


@fails(REAL, "grid 'mutant' gives no 201 steps from 100 down to 1|grid 'mutant' gives no 401 steps from 200 down to 1")
class AtMostN(Even):
    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        return super().positions(diffusion, min(n, diffusion.N))


@fails(REAL, "expected falling steps, 1 or more; seen: ")
class AsksBelowOne(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        steps = super().steps(diffusion, n)
        return [*steps[:-2], 0.5, 0] if self.real and n not in (None, 1) else steps  # type: ignore[list-item]


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("grid") <= fails.titles


@each(Even)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []
