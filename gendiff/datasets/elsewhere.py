"""Elsewhere: what a network was trained on by others, known by its shape, range and conditions alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor

from gendiff.command import option
from gendiff.condition import Condition, Conditions
from gendiff.data import Data
from gendiff.errors import DataError
from gendiff.shapes import EventShape


class Elsewhere(Data):
    """events that are not here: a network came with weights, and without them.

    Enough to sample. Who trains or measures needs events, and says which.
    """

    name = "elsewhere"
    shape: tuple[int, ...] = Field(description="of an event, (C, *spatial)")
    bounds: tuple[float, float] | None = Field(None, description="where their values lie; left out, anywhere")
    known: Mapping[str, Any] = Field({}, description="their conditions, by name")
    source: str = Field("", description="the weights that came without them")

    @property
    def conditions(self) -> Conditions:
        return {name: Condition.model_validate(table) for name, table in self.known.items()}

    @property
    def value_range(self) -> tuple[float, float] | None:  # type: ignore[override]  # a constant of other data
        return self.bounds

    @property
    def event_shape(self) -> EventShape:
        return self.shape

    @property
    def length(self) -> int | None:
        return 0

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
