"""Model: the recipe of a network.

A model component builds a ``torch.nn.Module`` that maps ``(x, i)`` to a tensor of the shape of an event, where ``x`` has
shape ``(B, in_channels, *spatial)`` and ``i`` is the step, shape ``(B,)``, a float in 1..N. What the output means (ε, x_0, v,
...) is the objective's business; the network never knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import nn

from gendiff.component import Component, abstractmethod
from gendiff.shapes import EventShape


class Model(Component):
    """Builds a network for events of a given shape."""

    kind: ClassVar[str] = "model"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    #: Concatenate the rotated input U^T x to x along the channels: the network then has ``2 C`` input channels.
    frequency_features: bool = False

    @abstractmethod
    def build(self, event_shape: EventShape) -> nn.Module:
        """A freshly initialised network for events ``(C, *spatial)``; `in_channels` gives its input channels.

        Raises `ConfigError` where the event's sizes do not fit the architecture. Initial weights come from torch's
        global generator, which the caller seeds.
        """

    def in_channels(self, event_shape: EventShape) -> int:
        """How many channels the network reads."""
        return event_shape[0] * (2 if self.frequency_features else 1)
