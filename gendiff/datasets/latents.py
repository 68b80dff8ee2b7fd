"""Latents: data before which an autoencoder stands, and latents as the pictures that they decode to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from gendiff.component import abstractmethod
from gendiff.condition import Conditions
from gendiff.data import Data
from gendiff.errors import ConfigError
from gendiff.latent import Latent
from gendiff.shapes import EventShape

REMEMBERED = 2**28  # bytes of latents that a process keeps, so that it encodes no event twice
FLOAT = 4


class Over(Data):
    """Data event by event made of others, with all that these say of their events."""

    @property
    @abstractmethod
    def inner(self) -> Data:
        """The others."""

    @property
    def length(self) -> int | None:
        return self.inner.length

    @property
    def conditions(self) -> Conditions:
        return self.inner.conditions

    def condition(self, index: int) -> Mapping[str, Any]:
        return self.inner.condition(index)

    def require(self) -> None:
        self.inner.require()

    @property
    def parts(self) -> Mapping[str, int]:
        return self.inner.parts

    def origin(self, index: int) -> str:
        return self.inner.origin(index)

    def entry(self, index: int) -> str:
        return self.inner.entry(index)

    def group(self, index: int) -> str:
        return self.inner.group(index)

    @property
    def skipped(self) -> Sequence[tuple[str | Path, str]]:
        return self.inner.skipped


class Latents(Over):
    """the latents of other data, encoded when they are wanted.

    Each is a function of its index. A process remembers up to 256 MiB of them; more are better encoded once and for all,
    ``gendiff data prepare SOURCE NEW --latent SPEC``. Mirrored is the picture, before it is encoded.
    """

    name = "latents"
    value_range: ClassVar[tuple[float, float] | None] = None

    source: Data = Field(description="whose events are encoded")
    by: Latent = Field(description="what encodes and decodes them")

    _remembered: dict[int, Tensor] = PrivateAttr(default_factory=dict)
    _device: torch.device = PrivateAttr(default_factory=lambda: torch.device("cpu"))

    @model_validator(mode="after")
    def _mirrored_as_source(self) -> Self:
        if self.source.flip:  # it is the pictures that people want mirrored, and of the run that trainers ask it
            self.__dict__["flip"] = True
        return self

    def on(self, device: torch.device) -> Latents:
        """The same, encoded on a device: another rounds otherwise. Where that is a GPU they are of this process alone."""
        copy = self.model_copy()
        copy._device, copy._remembered = device, {}
        return copy

    @property
    def inner(self) -> Data:
        return self.source

    @property
    def latent(self) -> Latent:
        return self.by

    @property
    def shown(self) -> Data:
        return self.source

    @property
    def event_shape(self) -> EventShape:
        if self.source.latent is not None:
            raise ConfigError(
                f"data '{self.source.name}' are latents already", fix="leave out --latent", subject="data.by"
            )
        return self.by.latent_shape(self.source.event_shape)

    def __getitem__(self, index: int) -> Tensor:
        event = self._remembered.get(index)
        if event is None:
            event = self._encoded(self.source[index], index)
            if len(self._remembered) < REMEMBERED // (FLOAT * math.prod(event.shape)):
                self._remembered[index] = event
        return event.clone()

    def mirrored(self, index: int) -> Tensor:
        return self._encoded(self.source.mirrored(index), index)

    def _encoded(self, picture: Tensor, index: int) -> Tensor:
        return self.by.encode(picture[None].to(self._device), [index])[0].cpu()

    @property
    def fingerprint(self) -> str:
        return f"{self.source.fingerprint}, latents of {self.by.fingerprint}"


class Decoded(Over):
    """latents as the pictures that they decode to, within [-1, 1]."""

    name = "decoded"

    _inner: Data = PrivateAttr()

    @classmethod
    def of(cls, latents: Data) -> Decoded:
        """The pictures of ``latents``."""
        decoded = cls()
        decoded._inner = latents
        return decoded

    @property
    def inner(self) -> Data:
        return self._inner

    @property
    def event_shape(self) -> EventShape:
        return self._inner.picture_shape

    def __getitem__(self, index: int) -> Tensor:
        return self._inner.pictures(self._inner[index][None])[0].clamp(-1, 1)

    @property
    def fingerprint(self) -> str:
        assert self._inner.latent is not None
        return f"{self._inner.fingerprint}, decoded by {self._inner.latent.fingerprint}"

    @property
    def spec(self) -> str:
        return f"{self._inner.spec}, decoded"
