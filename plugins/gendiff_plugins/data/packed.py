"""Events packed by gendiff."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from gendiff.condition import Conditions
from gendiff.data import Data
from gendiff.datasets.images import located
from gendiff.datasets.latents import Decoded
from gendiff.datasets.packed import JOURNAL, MANIFEST, PackedSet
from gendiff.errors import ConfigError
from gendiff.latent import Latent
from gendiff.shapes import EventShape


class Packed(Data):
    """a set that gendiff data prepare made, in one file that is mapped into memory.

    ``x = v/127.5 - 1`` for the 8-bit values v, in the order of the source. Nothing is loaded: an event is read when it is wanted,
    each process reads for itself, and the set may be larger than memory. Each event is checked against its CRC-32 when it is
    read. The fingerprint is that of the content, so it stays when the set is moved or copied. Conditions are those of the source.

    Latents, of ``gendiff data prepare --latent``, are float32, and what they decode to is what is shown and compared with.

    Raises `DataError` naming the set, and the event, that is missing, unfinished, truncated or damaged; `IndexError` outside
    0..length-1.
    """

    name = "packed"

    path: Path = Field(description="the folder that gendiff data prepare made; ~ is your home")

    @property
    def event_shape(self) -> EventShape:
        return self._set.event_shape

    @property
    def length(self) -> int:
        return self._set.count

    def __getitem__(self, index: int) -> Tensor:
        events = self._set
        if not 0 <= index < events.count:
            raise IndexError(f"event {index} of {events.count}")
        values = torch.from_numpy(events[index])
        return values / 127.5 - 1 if self.latent is None else values

    @property
    def value_range(self) -> tuple[float, float] | None:  # type: ignore[override]  # a constant of other data
        return (-1.0, 1.0) if self.latent is None else None

    @property
    def latent(self) -> Latent | None:
        table = self._set.facts.get("latent")
        return None if table is None else Latent.model_validate(table)

    @property
    def shown(self) -> Data:
        return self if self.latent is None else Decoded.of(self)

    def mirrored(self, index: int) -> Tensor:
        if self.latent is not None:
            raise ConfigError(
                "packed latents cannot be mirrored: that is not what encodes the mirror image",
                fix="leave out data.flip, or train on the pictures, with --latent",
                subject="data.flip",
            )
        return super().mirrored(index)

    @property
    def conditions(self) -> Conditions:
        return {name: column.condition for name, column in self._set.columns.items()}

    def condition(self, index: int) -> Mapping[str, Any]:
        return {name: column[index] for name, column in self._set.columns.items()}

    def group(self, index: int) -> str:
        return self._set.groups[index] if self._set.groups else ""

    @property
    def fingerprint(self) -> str:
        return self._set.fingerprint

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        return {"path": path} if (path / MANIFEST).is_file() or (path / JOURNAL).is_file() else None

    @property
    def _set(self) -> PackedSet:
        # Asked each time, because to touch a map of a file that has become shorter ends the process.
        return PackedSet.open(located(self.path))
