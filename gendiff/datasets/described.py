"""Described: data of which shape, range and conditions are known, and no event: enough to sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from gendiff.condition import Condition, Conditions
from gendiff.data import Data
from gendiff.latent import Latent
from gendiff.shapes import EventShape


class Described(Data):
    """What is said of events that are not here; who asks for one hears why."""

    shape: tuple[int, ...] = Field(description="of an event, (C, *spatial)")
    bounds: tuple[float, float] | None = Field(None, description="where their values lie; left out, anywhere")
    by: Latent | None = Field(None, description="what they are latents of")
    known: Mapping[str, Any] = Field({}, description="their conditions, by name")

    @property
    def conditions(self) -> Conditions:
        return {name: Condition.model_validate(table) for name, table in self.known.items()}

    @property
    def latent(self) -> Latent | None:
        return self.by

    @property
    def value_range(self) -> tuple[float, float] | None:  # type: ignore[override]  # a constant of other data
        return self.bounds

    @property
    def event_shape(self) -> EventShape:
        return self.shape

    @property
    def length(self) -> int | None:
        return 0
