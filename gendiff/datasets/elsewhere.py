"""Elsewhere: what a network was trained on by others, known by its shape, range and conditions alone."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from gendiff.command import option
from gendiff.datasets.described import Described
from gendiff.errors import DataError


class Elsewhere(Described):
    """events that are not here: a network came with weights, and without them.

    Enough to sample. Who trains or measures needs events, and says which.
    """

    name = "elsewhere"
    source: str = Field("", description="the weights that came without them")

    @property
    def fingerprint(self) -> str:
        return "elsewhere"

    def require(self) -> None:
        raise DataError(
            f"the events that '{self.source}' was trained on are not here",
            details=[f"they are of shape {self.shape}, and nothing else is known of them"],
            fix=f"say which to take, {option('--data', 'SPEC')}; a run that was imported without goes on as a new one, "
            f"{option('--from', 'RUN')}",
            subject="data.name",
        )

    def __getitem__(self, index: int) -> Tensor:
        self.require()
        raise IndexError(index)
