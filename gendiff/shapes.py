"""The shape vocabulary.

======== ===================== =========================================================================
name     shape                 meaning
======== ===================== =========================================================================
event    ``(C, *spatial)``     one picture ``(C, H, W)`` or signal ``(C, L)``; ``C`` channels, any sizes
x        ``(B, *event)``       a batch of events
x_bar    ``(B, *event)``       the same batch in rotated coordinates
i        ``(B,)``              a step per event, 0..N: int64, or float32 or float64 where time is real
diagonal broadcasts to event   one number per component; the channel axis is 1 where channels share it
======== ===================== =========================================================================
"""

from __future__ import annotations

import inspect
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from typing import Any, SupportsIndex

import torch
from pydantic import BeforeValidator
from torch import Tensor

from gendiff.errors import ArgumentError

EventShape = tuple[int, ...]

MOST_STEPS = 1_000_000  # of a diffusion

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


def shown_shape(event_shape: Sequence[int]) -> str:
    """``(3, 32, 32)`` as ``"3x32x32"``."""
    return "x".join(map(str, event_shape))


def event_of_size(channels: int, size: int | tuple[int, ...]) -> EventShape:
    """The event of a ``size`` parameter: n is a square picture n x n, a tuple gives the spatial sizes themselves."""
    return (channels, *((size, size) if isinstance(size, int) else size))


def broadcasts(diagonal: Sequence[int], event_shape: EventShape) -> bool:
    """Whether a diagonal of that shape has one number per component of an event, or one for several."""
    return len(diagonal) == len(event_shape) and all(
        own in (1, size) for own, size in zip(diagonal, event_shape, strict=True)
    )


def whole(number: SupportsIndex) -> int:
    """``number`` as an int; raises TypeError where it is no whole number: True is none."""
    if isinstance(number, bool):
        raise TypeError("a truth value")
    return operator.index(number)


def check_kind(value: object, kind: type, name: str) -> None:
    """Raise `ArgumentError` where ``value`` is no object of ``kind``: the text of a component is not yet one."""
    if isinstance(value, kind):
        return
    what = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    text = isinstance(value, str) and hasattr(kind, "kind")  # a component, which its spec gives
    raise ArgumentError(
        f"{name} is {what}",
        details=[f"expected: an object of {kind.__name__}"],
        fix=f"write {kind.__name__}({value!r})" if text else "",
    )


def check_shape(event_shape: Iterable[SupportsIndex]) -> EventShape:
    """``event_shape`` as a tuple of ints; raises `ArgumentError` where it is no ``(C, *spatial)``."""
    try:
        shape = tuple(whole(size) for size in event_shape)
    except TypeError:
        shape = ()
    if len(shape) < 2 or min(shape) < 1:
        raise ArgumentError(
            f"{event_shape!r} is no shape of an event",
            details=["an event is (C, *spatial), whole numbers: (3, 64, 64), or (1, 48) for a signal"],
        )
    return shape


def check_width(sigma: float) -> float:
    """``sigma``, the std of a blur in pixels, as a float; raises `ArgumentError` where it is neither 0 nor in 0.001..1e6."""
    number = isinstance(sigma, int | float) and not isinstance(sigma, bool)
    if not number or not (sigma == 0 or 1e-3 <= sigma <= 1e6):
        raise ArgumentError(f"sigma = {sigma!r}", details=["a blur has a std of 0, or of 0.001..1e6 pixels"])
    return float(sigma)


def check_device(device: torch.device | str) -> torch.device:
    """``device`` as one that tensors with values can be on; raises `ArgumentError` where it is not here."""
    cause: Exception | None = None
    try:
        where = torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError, TypeError) as error:  # an AssertionError: torch was built without it
        where, cause = torch.device("meta"), error
    if where.type == "meta":
        gpus = torch.cuda.device_count()
        there = ["cpu", *(f"cuda:{number}" for number in range(gpus))]
        raise ArgumentError(f"{device!r} is no device that is here", details=[f"here: {', '.join(there)}"]) from cause
    return where


def check_values(x: Tensor, name: str) -> None:
    """Raise `ArgumentError` where a tensor is on the device ``meta``, which keeps shapes alone."""
    if x.device.type == "meta":
        raise ArgumentError(f"{name} is on the device 'meta', where tensors have no values", fix="make it on the cpu")


def takes(function: Callable[..., object], *arguments: object) -> bool:
    """Whether a function can be called with these; True where it does not say, as one written in C."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def check_batch(x: Tensor, name: str = "x") -> None:
    """Raise `ArgumentError` where ``x`` is no batch of events of any shape, dense, in float32 or float64."""
    if not isinstance(x, Tensor):
        raise ArgumentError(f"{name} is a {type(x).__name__}, no tensor", fix=f"write torch.as_tensor({name})")
    if x.dtype not in (torch.float32, torch.float64):
        pixels = "" if x.dtype.is_floating_point else f"; bytes 0..255 are pictures as {name}.float() / 127.5 - 1"
        raise ArgumentError(
            f"{name} is of type {x.dtype}".replace("torch.", ""),
            details=["events are float32 or float64"],
            fix=f"convert it: {name}.float(){pixels}",
        )
    if x.layout != torch.strided:
        raise ArgumentError(f"{name} is sparse", details=["events are dense tensors"], fix=f"{name}.to_dense()")
    check_values(x, name)
    if x.ndim < 3:
        raise ArgumentError(f"{name} has the shape {tuple(x.shape)}", details=["a batch of events is (B, C, *spatial)"])


def in_full(x: Tensor) -> Tensor:
    """A batch of floating point numbers as float32, or float64 where it is; raises `ArgumentError` as `check_batch`."""
    x = x.float() if isinstance(x, Tensor) and x.dtype in (torch.float16, torch.bfloat16) else x
    check_batch(x)
    return x


def check_events(x: Tensor, event_shape: EventShape, name: str = "x") -> None:
    """Raise `ArgumentError` where ``x`` is not ``(B, *event)``, dense, in float32 or float64."""
    alone = isinstance(x, Tensor) and x.shape == event_shape
    check_batch(x[None] if alone else x, name)
    if x.shape[1:] != event_shape or x.ndim != len(event_shape) + 1:
        raise ArgumentError(
            f"{name} has the shape {tuple(x.shape)}",
            details=[f"a batch of events is (B, {', '.join(map(str, event_shape))})"],
            fix=f"one event is a batch of one: {name}[None]" if alone else "",
        )


def check_step(i: SupportsIndex, N: int, least: int = 0) -> int:
    """``i`` as an int; raises `ArgumentError` where it is no whole number in ``least..N``."""
    try:
        step = whole(i)
    except TypeError as error:
        raise ArgumentError(f"step {i!r} is no whole number", details=[f"steps are {least}..{N}"]) from error
    if not least <= step <= N:
        raise ArgumentError(f"step {step} is outside {least}..{N}")
    return step


def check_time(i: SupportsIndex | float, N: int, least: int = 0) -> int | float:
    """``i`` as an int, or a float where it is real; raises `ArgumentError` where it is no number in ``least..N``.

    Real steps reach down to 0, without it where ``least`` is 1: there is noise from the first moment on.
    """
    if not isinstance(i, float):
        return check_step(i, N, least)
    if not (0 < i <= N or i == least):  # also true for NaN
        raise ArgumentError(f"step {i:g} is outside {least}..{N}")
    return i


def check_steps(i: Tensor, N: int, least: int = 0) -> Tensor:
    """``i`` as int64, or float64 where it is real, ``(B,)``; raises `ArgumentError` where one is outside ``least..N``.

    Real steps as in `check_time`. A GPU is not waited for: there it is the device that fails, at the next wait.
    """
    if i.dtype not in (torch.float32, torch.float64) and (
        i.dtype.is_floating_point or i.dtype.is_complex or i.dtype == torch.bool
    ):
        raise ArgumentError(
            f"steps are of type {i.dtype}".replace("torch.", ""),
            details=[f"steps are whole numbers {least}..{N}, or real ones in float32 or float64"],
            fix="convert them: i.long(), or i.double()",
        )
    check_values(i, "i")
    if i.ndim > 1:
        raise ArgumentError(f"steps have the shape {tuple(i.shape)}", details=["steps are one for each event, (B,)"])
    i = (i.double() if i.dtype.is_floating_point else i.long()).reshape(-1)
    low = (i > 0) | (i == least) if i.dtype.is_floating_point else i >= least
    inside = low & (i <= N)
    if i.device.type != "cpu":
        torch._assert_async(inside.all(), f"a step is outside {least}..{N}")
    elif not inside.all():
        raise ArgumentError(f"step {i[~inside][0].item():g} is outside {least}..{N}")
    return i


def check_count(N: SupportsIndex) -> int:
    """``N``, the number of steps of a process, as an int; raises `ArgumentError` where it is no whole number >= 2."""
    try:
        count = whole(N)
    except TypeError as error:
        raise ArgumentError(f"N = {N!r} is no whole number", details=["a diffusion has N >= 2 steps"]) from error
    if not 2 <= count <= MOST_STEPS:
        raise ArgumentError(f"N = {count} steps", details=[f"a diffusion has N steps, 2..{MOST_STEPS}"])
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
    numbers = re.findall(r"\d+", text)
    if re.fullmatch(r"[\d\s,;*×xX()\[\]]+", text) and len(numbers) > 1:
        raise ValueError(f"write {'x'.join(numbers)} or [{', '.join(numbers)}] for height x width")
    raise ValueError(HOW)


def _of_text(value: Any) -> Any:
    return sides(value) if isinstance(value, str) else value


#: What a ``size`` parameter is annotated with, so that a spec may say ``size=32x48`` too.
AsText = BeforeValidator(_of_text)
