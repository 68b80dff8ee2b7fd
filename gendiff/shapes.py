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

import operator
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, SupportsIndex

import torch
from pydantic import BeforeValidator
from torch import Tensor

from gendiff.errors import ArgumentError

EventShape = tuple[int, ...]

HOW = "write 32, or 32x48 or [32, 48] for height x width"


class ShownByShape:
    """A dataclass whose repr gives the shapes of its tensors, not their values."""

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]  # a dataclass
        parts = (f"{name}={_shape(value)}" for name, value in values.items() if value is not None)
        return f"{type(self).__name__}({', '.join(parts)})"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else repr(value)


def per_event(values: Tensor, event_ndim: int) -> Tensor:
    """``(B,) -> (B, 1, ..., 1)`` with ``event_ndim`` trailing ones, so that it broadcasts over ``(B, *event)``."""
    return values.reshape(-1, *([1] * event_ndim))


def spatial(event_shape: EventShape) -> tuple[int, ...]:
    """The sizes of an event without its channel axis."""
    return event_shape[1:]


def event_of_size(channels: int, size: int | tuple[int, ...]) -> EventShape:
    """The event of a ``size`` parameter: n is a square picture n x n, a tuple gives the spatial sizes themselves."""
    return (channels, *((size, size) if isinstance(size, int) else size))


def broadcasts(diagonal: Sequence[int], event_shape: EventShape) -> bool:
    """Whether a diagonal of that shape has one number per component of an event, or one for several."""
    return len(diagonal) == len(event_shape) and all(
        own in (1, size) for own, size in zip(diagonal, event_shape, strict=True)
    )


def check_events(x: Tensor, event_shape: EventShape, name: str = "x") -> None:
    """Raise `ArgumentError` where ``x`` is not ``(B, *event)`` in float32 or float64."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{name} is a {type(x).__name__}, no tensor", fix=f"write torch.as_tensor({name})")
    if x.dtype not in (torch.float32, torch.float64):
        pixels = "" if x.dtype.is_floating_point else f"; bytes 0..255 are pictures as {name}.float() / 127.5 - 1"
        raise ArgumentError(
            f"{name} is of type {x.dtype}".replace("torch.", ""),
            details=["events are float32 or float64"],
            fix=f"convert it: {name}.float(){pixels}",
        )
    if x.shape[1:] != event_shape or x.ndim != len(event_shape) + 1:
        alone = x.shape == event_shape
        raise ArgumentError(
            f"{name} has the shape {tuple(x.shape)}",
            details=[f"a batch of events is (B, {', '.join(map(str, event_shape))})"],
            fix=f"one event is a batch of one: {name}[None]" if alone else "",
        )


def check_step(i: SupportsIndex, N: int, least: int = 0) -> int:
    """``i`` as an int; raises `ArgumentError` where it is no whole number in ``least..N``."""
    try:
        step = operator.index(i)
    except TypeError as error:
        raise ArgumentError(f"step {i!r} is no whole number", details=[f"steps are {least}..{N}"]) from error
    if not least <= step <= N:
        raise ArgumentError(f"step {step} is outside {least}..{N}")
    return step


def check_steps(i: Tensor, N: int, least: int = 0) -> Tensor:
    """``i`` as int64, ``(B,)``; raises `ArgumentError` where it holds anything but whole numbers in ``least..N``.

    A GPU is not waited for: there it is the device that fails, at the next wait.
    """
    if i.dtype.is_floating_point or i.dtype.is_complex or i.dtype == torch.bool:
        raise ArgumentError(
            f"steps are of type {i.dtype}".replace("torch.", ""),
            details=[f"steps are whole numbers {least}..{N}"],
            fix="convert them: i.long()",
        )
    if i.ndim > 1:
        raise ArgumentError(f"steps have the shape {tuple(i.shape)}", details=["steps are one for each event, (B,)"])
    i = i.long().reshape(-1)
    inside = ((i >= least) & (i <= N)).all()
    if i.device.type != "cpu":
        torch._assert_async(inside, f"a step is outside {least}..{N}")
    elif not inside:
        outside = i[(i < least) | (i > N)]
        raise ArgumentError(f"step {int(outside[0])} is outside {least}..{N}")
    return i


def check_count(N: SupportsIndex) -> int:
    """``N``, the number of steps of a process, as an int; raises `ArgumentError` where it is no whole number >= 2."""
    try:
        count = operator.index(N)
    except TypeError as error:
        raise ArgumentError(f"N = {N!r} is no whole number", details=["a diffusion has N >= 2 steps"]) from error
    if count < 2:
        raise ArgumentError(f"N = {count} steps", details=["a diffusion has N >= 2 steps"])
    return count


def check_number(n: SupportsIndex, name: str) -> int:
    """How many events there are to be, as an int; raises `ArgumentError` where it is no whole number >= 1."""
    try:
        count = operator.index(n)
    except TypeError as error:
        raise ArgumentError(
            f"{name} = {n!r} is no whole number", details=["a number of events is 1 or more"]
        ) from error
    if count < 1:
        raise ArgumentError(f"{name} = {count}", details=["a number of events is 1 or more"])
    return count


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
