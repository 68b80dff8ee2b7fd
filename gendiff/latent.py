"""Latent: an autoencoder before the rotation, so that events are latents and not pictures.

It is no part of the process, which knows events alone: data give latents as events (`gendiff.datasets.latents`), and whoever
shows or measures a picture decodes them (`Data.pictures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ModelWrapValidatorHandler
from torch import Tensor

from gendiff.component import Component, abstractmethod, parse_spec
from gendiff.shapes import EventShape


class Latent(Component):
    """A pair of maps, from pictures in [-1, 1] to events, and back.

    What it makes of an event depends on that event alone, to the bit: not on the others of the batch, nor on random numbers of
    the process. It is in float32, and on the device of what it is given.
    """

    kind: ClassVar[str] = "latent"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    @abstractmethod
    def latent_shape(self, picture: EventShape) -> EventShape:
        """The shape of the event of a picture ``(C, H, W)``; raises `ConfigError` for a shape that it does not take."""

    @abstractmethod
    def picture_shape(self, event: EventShape) -> EventShape:
        """The shape of the picture of an event: what `latent_shape` is the inverse of; raises `ConfigError` likewise."""

    @abstractmethod
    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        """``(n, *event)`` float32, of about unit variance, without gradients.

        Raises `DataError` where it needs a file that is not there, or is another than it was.

        Args:
            pictures: ``(n, *picture)`` float32 in [-1, 1].
            indices: the numbers of these events in their data. Where it draws from a distribution, the draw is a function of
                them; without them it gives the centre.

        """

    @abstractmethod
    def decode(self, events: Tensor) -> Tensor:
        """``(n, *picture)`` float32, about within [-1, 1], without gradients; raises as `encode` does."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the events or the pictures change; no file is read for it."""

    @classmethod
    def _of(cls, *spec: Any, **parameters: Any) -> Component:
        return super()._of(*(latent_table(one) if isinstance(one, str) else one for one in spec), **parameters)

    @classmethod
    def _resolve_names(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return super()._resolve_names(latent_table(value) if isinstance(value, str) else value, handler)


def latent_table(text: str) -> dict[str, Any]:
    """The table of a spec, which for one that needs no more than a path may be ``NAME:PATH``."""
    name, colon, rest = text.partition(":")
    if colon and rest and ("=" not in rest or Path(rest).exists()):
        return {"name": name.strip(), "path": rest}
    return parse_spec(text)
