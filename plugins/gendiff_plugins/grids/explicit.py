"""A grid by hand."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.grid import Grid, Step
from gendiff.shapes import check_kind


class Explicit(Grid):
    """the steps that are given.

    ``explicit:at=[1000, 600, 300, 100, 20]``: the model is evaluated there, in falling order, and the number of steps is left
    out. The largest must be N, where the prior is; one that comes twice counts once. They may be real: ``at=[1000, 312.5, 40]``.
    """

    name = "explicit"
    counted = True

    real: ClassVar[bool] = True  # type: ignore[misc]  # it is no choice
    at: tuple[Annotated[int, Field(ge=1)] | Annotated[float, Field(ge=1, allow_inf_nan=False)], ...] = Field(
        min_length=1, description="steps between 1 and N, N among them"
    )

    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        return torch.tensor(self._falling, dtype=torch.float64)

    def steps(self, diffusion: Diffusion, n: int | None) -> list[Step]:
        check_kind(diffusion, Diffusion, "diffusion")
        falling = self._falling
        if falling[0] != diffusion.N:
            raise ConfigError(
                f"the grid begins at step {falling[0]}, the process ends at N = {diffusion.N}",
                fix=f"let it begin at {diffusion.N}: the prior is there",
                subject="grid.at",
            )
        if n not in (None, len(falling)):
            raise ConfigError(
                f"{n} sampling steps, and a grid of {len(falling)}", fix="leave the number out", subject="sampler.steps"
            )
        return [*falling, 0]

    @property
    def _falling(self) -> list[Step]:
        return sorted({int(step) if float(step).is_integer() else step for step in self.at}, reverse=True)
