"""A grid by hand."""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field, field_validator
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.grid import Grid


class Explicit(Grid):
    """the steps that are given.

    ``explicit:at=[1000, 600, 300, 100, 20]``: the model is evaluated there, and the number of steps is left out. The first must
    be N, where the prior is.
    """

    name = "explicit"
    at: tuple[int, ...] = Field(description="steps from N down to 1 or more, falling")

    @field_validator("at")
    @classmethod
    def _falling(cls, at: tuple[int, ...]) -> tuple[int, ...]:
        if not at or at[-1] < 1 or any(i <= j for i, j in pairwise(at)):
            raise ValueError("the steps must fall, and end at 1 or more")
        return at

    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        return torch.tensor(self.at, dtype=torch.float64)

    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        if self.at[0] != diffusion.N:
            raise ConfigError(
                f"the grid begins at step {self.at[0]}, the process ends at N = {diffusion.N}",
                fix=f"let it begin at {diffusion.N}: the prior is there",
                subject="grid.at",
            )
        if n not in (None, len(self.at)):
            raise ConfigError(
                f"{n} sampling steps, and a grid of {len(self.at)}", fix="leave the number out", subject="sampler.steps"
            )
        return [*self.at, 0]
