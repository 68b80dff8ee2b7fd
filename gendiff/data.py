"""Data: a deterministic map from an index to an event.

A data component gives the shape of its events and the event at an index, and nothing else: order, batches, workers and
processes are the trainer's business (`gendiff.datasets.batches`). Because an event is a function of its index (and of the
component's own parameters), a run is reproducible without any loader state. Where ``flip`` is set, training sees an event or
its mirror image; all else, the moments of the data, what is fitted to them and what samples are compared with, sees the events as
they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

from pydantic import Field, ModelWrapValidatorHandler
from torch import Tensor

from gendiff.command import command
from gendiff.component import Component, abstractmethod
from gendiff.condition import Conditions, stacked
from gendiff.errors import ConfigError, PluginError
from gendiff.latent import Latent
from gendiff.plain import json_line
from gendiff.shapes import EventShape

TOLD, IMAGES_TOLD = (
    2**17,
    2**10,
)  # events whose conditions are part of the fingerprint of these; fewer where some are images
CHUNK = 1024


class Data(Component):
    """A source of events.

    ``value_range`` says where the values lie, (-1, 1) for pictures; ``None`` means unbounded, and samplers then never
    clip. Loading is lazy: constructing a component reads nothing; `event_shape` and `__getitem__` may read and cache.
    """

    kind: ClassVar[str] = "data"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    value_range: ClassVar[tuple[float, float] | None] = (-1.0, 1.0)

    flip: bool = Field(False, description="train on each picture, or its mirror image, with equal chances")

    @property
    @abstractmethod
    def event_shape(self) -> EventShape:
        """``(C, *spatial)`` of every event; raises `DataError` when the data cannot be found or read."""

    @property
    @abstractmethod
    def length(self) -> int | None:
        """The number of events, or None for an endless source, whose events exist for every index >= 0."""

    @abstractmethod
    def __getitem__(self, index: int) -> Tensor:
        """The event at ``index``: float32, shape ``event_shape``; raises `DataError` naming a damaged file."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that changes when the events change; stored with every checkpoint and number."""

    @property
    def conditions(self) -> Conditions:
        """What else is known of every event, by name: a label, a vector, an image; here nothing."""
        return {}

    def condition(self, index: int) -> Mapping[str, Any]:
        """What `conditions` are for the event at ``index``, by name; of a label the number of its class, or its name."""
        return {}

    @property
    def latent(self) -> Latent | None:
        """What the events are latents of; None where they are what they show."""
        return None

    @property
    def shown(self) -> Data:
        """The same events as pictures: what samples are compared with. Of latents, the pictures that they were made of."""
        return self

    def mirrored(self, index: int) -> Tensor:
        """The event at ``index``, left and right exchanged."""
        return self[index].flip(-1)

    @final
    def pictures(self, events: Tensor) -> Tensor:
        """Events ``(n, *event)`` as pictures ``(n, *picture)``: latents are decoded, others are what they are."""
        return events if self.latent is None else self.latent.decode(events)

    @final
    def events(self, pictures: Tensor) -> Tensor:
        """Pictures ``(n, *picture)`` as events ``(n, *event)``: encoded where events are latents."""
        return pictures if self.latent is None else self.latent.encode(pictures)

    @final
    @property
    def picture_shape(self) -> EventShape:
        """The shape of what `pictures` gives of an event."""
        return self.event_shape if self.latent is None else self.latent.picture_shape(self.event_shape)

    @final
    @property
    def in_pictures(self) -> bool:
        """Whether `pictures` gives pictures ``(C, H, W)`` in [-1, 1], which are kept in 8 bits."""
        return len(self.picture_shape) == 3 and (self.latent is not None or self.value_range == (-1, 1))

    def require(self) -> None:
        """Raise `DataError` where the events cannot be had here at all: they were given in Python, or never known."""
        return

    @property
    def parts(self) -> Mapping[str, int]:
        """A number for each file that holds one event, by its name, which another content would change; here none.

        It tells data of which some are gone from other data.
        """
        return {}

    @final
    def __len__(self) -> int:
        """`length`, for a ``torch.utils.data.DataLoader`` and others; raises `TypeError` for an endless source."""
        if self.length is None:
            raise TypeError(
                f"data '{self.name}' have no end, and so no length: say how many events to take, such as "
                "DataLoader(data, sampler=range(1000))"
            )
        return self.length

    @final
    def __bool__(self) -> bool:
        """Always: whether there are data does not depend on how many."""
        return True

    @final
    def spread(self, count: int) -> Sequence[int]:
        """The indices of ``count`` events, equally spread over a finite set, the first of an endless one; all of fewer."""
        if self.length is None or self.length <= count:
            return range(count if self.length is None else self.length)
        return [k * self.length // count for k in range(count)]

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        """The parameters that read what lies at ``path``, where it is of this kind by its form; here of no kind.

        It looks at no more than names and first bytes, and may raise `OSError`.
        """
        return None

    def origin(self, index: int) -> str:
        """What people call the event at ``index``, such as the name of its file."""
        return f"event {index}"

    def entry(self, index: int) -> str:
        """The name of the event at ``index`` in its source, folders before it with ``/``; here none.

        It tells the event from others whatever becomes of them, and which belong together (`gendiff.datasets.split`).
        """
        return ""

    def group(self, index: int) -> str:
        """What the event is a piece of, such as a photograph: all its pieces are held out together, or none; here nothing."""
        return ""

    @property
    def skipped(self) -> Sequence[tuple[str | Path, str]]:
        """``(name, reason)`` of everything that was left out because it cannot be read."""
        return ()

    @classmethod
    def _resolve_names(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return super()._resolve_names(value, handler)
        except ConfigError as error:
            name = value.get("name") if isinstance(value, Mapping) else value
            if error.subject == "data.name" and isinstance(name, str) and len(name) < 256 and Path(name).exists():
                error.fix = f"a path needs to be told what it is: {command('data', 'info', Path(name))} finds out"
            raise


def told_of(data: Data, conditions: Conditions, index: int) -> Mapping[str, Any]:
    """What data say of the event at ``index``, of some of their conditions.

    Raises:
        PluginError: where they do not say what they have promised.

    """
    given = data.condition(index)
    if missing := next((name for name in conditions if name not in given), None):
        raise PluginError(
            f"data '{data.name}' do not say the condition '{missing}' of event {index}",
            fix="return it from condition(index), None where it is not known",
            subject="data.name",
        )
    return {name: given[name] for name in conditions}


def fingerprint_of(data: Data, conditions: Conditions) -> str:
    """A short text that changes when these conditions of data do: a label, a range, the name of a class.

    It covers every event of up to 131072, and so many of more, equally spread; 1024 where any condition is an image.
    """
    most = IMAGES_TOLD if any(one.type == "image" for one in conditions.values()) else TOLD
    digest = hashlib.sha256(json_line({name: one.table() for name, one in sorted(conditions.items())}))
    indices = data.spread(most if data.length is not None else CHUNK)
    for start in range(0, len(indices), CHUNK):
        told = stacked(conditions, [told_of(data, conditions, k) for k in indices[start : start + CHUNK]])
        for name in sorted(told):
            digest.update(told[name].numpy().tobytes())
    return f"{', '.join(sorted(conditions))} {digest.hexdigest()[:16]}"
