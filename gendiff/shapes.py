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

import re
from typing import Any

from pydantic import BeforeValidator
from torch import Tensor

EventShape = tuple[int, ...]

HOW = "write 32, or 32x48 or [32, 48] for height x width"


def per_event(values: Tensor, event_ndim: int) -> Tensor:
    """``(B,) -> (B, 1, ..., 1)`` with ``event_ndim`` trailing ones, so that it broadcasts over ``(B, *event)``."""
    return values.reshape(-1, *([1] * event_ndim))


def spatial(event_shape: EventShape) -> tuple[int, ...]:
    """The sizes of an event without its channel axis."""
    return event_shape[1:]


def event_of_size(channels: int, size: int | tuple[int, ...]) -> EventShape:
    """The event of a ``size`` parameter: n is a square picture n x n, a tuple gives the spatial sizes themselves."""
    return (channels, *((size, size) if isinstance(size, int) else size))


def sides(text: str) -> int | list[int]:
    """``"32"`` as 32, and ``"32x48"`` or ``"[32, 48]"`` as [32, 48]; raises ValueError where it is no size."""
    if re.fullmatch(r"\s*\d+\s*", text):
        return int(text)
    if re.fullmatch(r"\d+(x\d+)+|\[\s*\d+\s*(,\s*\d+\s*)*\]", text.strip()):
        return [int(side) for side in re.findall(r"\d+", text)]
    raise ValueError(HOW)


def _of_text(value: Any) -> Any:
    return sides(value) if isinstance(value, str) else value


#: What a ``size`` parameter is annotated with, so that a spec may say ``size=32x48`` too.
AsText = BeforeValidator(_of_text)
