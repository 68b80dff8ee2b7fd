"""Controls: what can be set of a component, whoever wrote it, read off its fields.

A number has a slider from its least value to ten times its default, or over its range where that is short; a field beside it
takes all that is declared. A component that it owns is a choice of names, and then the controls of what is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from gendiff.component import Component, declared_range
from gendiff.plugin.registry import Registry

STOPS = 200  # of a slider, about
LONG = 10  # defaults: a range is shown up to here, where it goes on


class Kind(StrEnum):
    """How a value is set."""

    NUMBER = "number"
    WHOLE = "whole number"
    CHOICE = "choice"
    SWITCH = "switch"
    TEXT = "text"


@dataclass(frozen=True)
class Control:
    """One value that can be set.

    Args:
        path: where it is in the configuration, such as ``velocity.schedule.f_max``.
        value: what it is.
        description: what it means.
        choices: of a choice, what each means by its name.
        low, high, step: of a number, its slider.

    """

    path: str
    kind: Kind
    value: Any
    description: str = ""
    choices: Mapping[str, str] | None = None
    low: float = 0.0
    high: float = 1.0
    step: float = 0.0

    @property
    def label(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


def controls(component: Component, path: str, registry: Registry) -> list[Control]:
    """The component itself as a choice among those of its kind, then all that can be set of it."""
    return list(_controls(component, path, registry))


def _controls(component: Component, path: str, registry: Registry, description: str = "") -> Iterator[Control]:
    names = {entry.name: entry.summary for entry in registry.entries(component.kind)}
    yield Control(
        path,
        Kind.CHOICE,
        component.name,
        description,
        {component.name: "", **names} if component.name not in names else names,
    )
    for name, info in type(component).model_fields.items():
        value, inner = getattr(component, name), f"{path}.{name}"
        if isinstance(value, Component):
            yield from _controls(value, inner, registry, info.description or "")
        elif (control := _control(value, inner, info)) is not None:
            yield control


def _control(value: Any, path: str, info: FieldInfo) -> Control | None:
    """How one value is set; None for one that only a file can say."""
    text = info.description or ""
    if isinstance(value, bool):
        return Control(path, Kind.SWITCH, value, text)
    if get_origin(info.annotation) is Literal:
        return Control(path, Kind.CHOICE, value, text, {str(one): "" for one in get_args(info.annotation)})
    if isinstance(value, str):
        return Control(path, Kind.TEXT, value, text)
    if isinstance(value, int | float):
        whole = isinstance(value, int)
        default = info.default if isinstance(info.default, int | float) else value
        return Control(path, Kind.WHOLE if whole else Kind.NUMBER, value, text, None, *span(default, info, whole))
    return None


def span(default: float, info: FieldInfo, whole: bool = False) -> tuple[float, float, float]:
    """Least and largest value and the step of a slider for a number with this default, within its declared range."""
    low, high = declared_range(info)
    if default > 0 and low > -math.inf:
        top = min(high, LONG * default)
    else:
        low = low if math.isfinite(low) else default - LONG * max(abs(default), 1)
        top = high if high - low <= STOPS else low + max(LONG * abs(default), 1)
    step = _round_step((top - low) / STOPS)
    if whole:
        step = max(1.0, step)
    first, last = math.ceil(round(low / step, 6)) * step, math.floor(round(top / step, 6)) * step
    open_below, open_above = _is_open(info)
    if open_below and first <= low:
        first += step
    if open_above and last >= high:
        last -= step
    digits = max(0, -math.floor(math.log10(step)))
    return round(first, digits), round(last, digits), step


def _is_open(info: FieldInfo) -> tuple[bool, bool]:
    """Whether the ends of its range do not belong to it."""
    return any(getattr(one, "gt", None) is not None for one in info.metadata), any(
        getattr(one, "lt", None) is not None for one in info.metadata
    )


def _round_step(size: float) -> float:
    """The largest of 1, 2, 5, 10, ... and their parts that is at most ``size``."""
    power = 10.0 ** math.floor(math.log10(size))
    return max(part * power for part in (1, 2, 5) if part * power <= size * (1 + 1e-9))
