"""The shape vocabulary.

======== ===================== =========================================================================
name     shape                 meaning
======== ===================== =========================================================================
event    ``(C, *spatial)``     one picture ``(C, H, W)`` or signal ``(C, L)``; ``C`` channels, any sizes
x        ``(B, *event)``       a batch of events
x_bar    ``(B, *event)``       the same batch in rotated coordinates
i        ``(B,)`` int64        a step per event, 0..N
diagonal broadcasts to event   one number per component; the channel axis is 1 where channels share it
======== ===================== =========================================================================
"""

from __future__ import annotations

from torch import Tensor

EventShape = tuple[int, ...]


def per_event(values: Tensor, event_ndim: int) -> Tensor:
    """``(B,) -> (B, 1, ..., 1)`` with ``event_ndim`` trailing ones, so that it broadcasts over ``(B, *event)``."""
    return values.reshape(-1, *([1] * event_ndim))


def spatial(event_shape: EventShape) -> tuple[int, ...]:
    """The sizes of an event without its channel axis."""
    return event_shape[1:]


def event_of_size(channels: int, size: int | tuple[int, ...]) -> EventShape:
    """The event of a ``size`` parameter: n is a square picture n x n, a tuple gives the spatial sizes themselves."""
    return (channels, *((size, size) if isinstance(size, int) else size))
