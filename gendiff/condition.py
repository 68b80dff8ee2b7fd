r"""Condition: what else is known of an event, and what a network is told of it.

A condition has a name and is of one of three kinds: a **label**, the number of one of K classes; a **vector** of n numbers,
each in [low, high]; an **image** ``(C, *spatial)``. `Data.conditions` says which a source has, `Data.condition` what they are
for an event. A network that is told of some is trained on ``q(x_0 | condition)``.

What is not said is *absent*, which a network is told too: class K of a label, NaN in every entry of a vector or an image. In
training conditions are left out at random (`train.condition_dropout`), all of an event together, so that one network knows
``q(x_0)`` too, as classifier-free guidance needs it (Ho, Salimans 2022, arXiv 2207.12598).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from gendiff.component import Settings
from gendiff.errors import ConfigError, did_you_mean

#: Of a batch: by name, labels ``(B,)`` int64, vectors ``(B, n)`` and images ``(B, C, *spatial)`` float32.
Given = Mapping[str, Tensor]

ABSENT = "none"  # how a user writes that a condition is absent
SHOWN = 12  # classes named in one message
Size = Annotated[int, Field(ge=1)]


class Condition(Settings):
    """One condition as data describe it: enough to build a network that takes it, and to read what a user writes.

    It is stored with a run, which then needs no data to be sampled under it.
    """

    type: Literal["label", "vector", "image"] = Field(description="label: one of classes; vector; image")
    classes: tuple[str, ...] = Field((), description="of a label, the name of each class, by its number")
    shape: tuple[Size, ...] = Field((), description="of a vector (n,), of an image (C, *spatial)")
    low: float = Field(-1.0, description="the least value of a vector or an image")
    high: float = Field(1.0, description="the largest")

    @classmethod
    def label(cls, classes: int | Sequence[str]) -> Self:
        """One of so many classes, or of classes with these names."""
        names = map(str, range(classes)) if isinstance(classes, int) else classes
        return cls(type="label", classes=tuple(names))

    @classmethod
    def vector(cls, size: int, low: float, high: float) -> Self:
        """So many numbers, each in [low, high]."""
        return cls(type="vector", shape=(size,), low=low, high=high)

    @classmethod
    def image(cls, shape: Sequence[int], low: float = -1.0, high: float = 1.0) -> Self:
        """Another event ``(C, *spatial)``, its values in [low, high]."""
        return cls(type="image", shape=tuple(shape), low=low, high=high)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.type == "label" and (not self.classes or len(set(self.classes)) < len(self.classes)):
            raise ValueError("a label needs classes, each with a name of its own")
        if self.type != "label" and (not self.shape or not self.low < self.high):
            raise ValueError(f"of a condition '{self.type}' shape and low < high must be said")
        return self

    @property
    def size(self) -> int:
        """K of a label, the number of entries of anything else."""
        return len(self.classes) if self.type == "label" else math.prod(self.shape)

    @property
    def absent(self) -> Tensor:
        """What stands for a condition of which nothing is said."""
        return self.absent_on(torch.device("cpu"))

    def absent_on(self, device: torch.device) -> Tensor:
        """The same on a device, which is not waited for."""
        label = self.type == "label"
        return torch.full(() if label else self.shape, self.size if label else torch.nan, device=device)

    @property
    def words(self) -> str:
        """What is allowed, for people."""
        if self.type == "label":
            more = f", ... ({self.size} classes)" if self.size > SHOWN else ""
            return f"a class: {', '.join(self.classes[:SHOWN])}{more}"
        numbers = "a number" if self.shape == (1,) else f"{'x'.join(map(str, self.shape))} numbers"
        return f"{numbers} in [{self.low:g}, {self.high:g}]"

    def includes(self, other: Condition) -> bool:
        """Whether each value of another condition is one of this, and means the same."""
        if self.type != other.type:
            return False
        if self.type == "label":
            return other.classes == self.classes[: other.size]
        return self.shape == other.shape and self.low <= other.low and other.high <= self.high

    def value(self, name: str, given: Any) -> Tensor:
        """One value as a tensor: what data say of an event, or a user asks for; the name of a class, or its number.

        Raises:
            ConfigError: where it is none, or out of range: what is allowed.

        """
        if given is None or (isinstance(given, str) and given == ABSENT and ABSENT not in self.classes):
            return self.absent
        return self._class(name, given) if self.type == "label" else self._numbers(name, given)

    def _class(self, name: str, given: Any) -> Tensor:
        if isinstance(given, str) and given in self.classes:
            return torch.tensor(self.classes.index(given))
        try:
            number = int(given)
            if number == float(given) and 0 <= number < self.size:
                return torch.tensor(number)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            pass
        hint = did_you_mean(given, self.classes) if isinstance(given, str) else ""
        raise ConfigError(
            f"condition '{name}' has no class {str(given)[:80]!r}", details=[f"allowed: {self.words}", hint]
        )

    def _numbers(self, name: str, given: Any) -> Tensor:
        try:
            numbers = float(given) if isinstance(given, str) else given
            value = torch.as_tensor(numbers, dtype=torch.float32).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"condition '{name}' is {str(given)[:80]!r}", details=[f"allowed: {self.words}"]
            ) from error
        if value.ndim == 0 and self.shape == (1,):
            value = value[None]
        if tuple(value.shape) != self.shape:
            raise ConfigError(
                f"condition '{name}' has the shape {tuple(value.shape)}", details=[f"allowed: {self.words}"]
            )
        if not bool(((value >= self.low) & (value <= self.high)).all()):
            least, most = float(value.min()), float(value.max())
            span = f"{least:.4g}" if least == most else f"{least:.4g} to {most:.4g}"
            raise ConfigError(f"condition '{name}' is out of range: {span}", details=[f"allowed: {self.words}"])
        return value


Conditions = Mapping[str, Condition]


def chosen(known: Conditions, names: Iterable[str], of: str) -> dict[str, Condition]:
    """Those of the conditions that are named; raises `ConfigError` for a name that data ``of`` do not have."""
    result = {}
    for name in names:
        if name not in known:
            allowed = [f"{own}: {condition.words}" for own, condition in known.items()]
            raise ConfigError(
                f"{of} have no condition '{name}'",
                details=[
                    f"they have: {'; '.join(allowed)}" if allowed else "they have none",
                    did_you_mean(name, known),
                ],
                fix="choose one of them" if allowed else "leave out condition, or choose data with labels",
                subject="condition",
            )
        result[name] = known[name]
    return result


def stacked(conditions: Conditions, values: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The conditions of several events as a batch; what one does not say is absent.

    Raises:
        ConfigError: for a value that is none, and for a name that none of the conditions has.

    """
    for names in values:
        if strange := next((name for name in names if name not in conditions), None):
            raise _unknown(strange, conditions)
    return {
        name: torch.stack([condition.value(name, one.get(name)) for one in values])
        for name, condition in conditions.items()
    }


def check_given(conditions: Conditions, given: Given, count: int) -> None:
    """Raise `ConfigError` for a name that none of the conditions has, and for other than one or ``count`` of them."""
    if strange := next((name for name in given if name not in conditions), None):
        raise _unknown(strange, conditions)
    for name, value in given.items():
        if len(value) not in (1, count):
            raise ConfigError(f"condition '{name}' is given for {len(value)} events, where there are {count}")


def filled(conditions: Conditions, given: Given, count: int, device: torch.device) -> dict[str, Tensor]:
    """What a network is told of a batch of ``count``: what is given, of one or of each of its events; the rest is absent.

    Raises:
        ConfigError: for a name that none of the conditions has, and for other than one or ``count`` of them.

    """
    check_given(conditions, given, count)
    result = {}
    for name, condition in conditions.items():
        value = given[name].to(device) if name in given else condition.absent_on(device)[None]
        result[name] = value.expand(count, *value.shape[1:])
    return result


def without(conditions: Conditions, given: Given, dropped: Tensor) -> dict[str, Tensor]:
    """A batch in which the conditions of the events of ``dropped``, bool ``(B,)``, are absent."""
    return {
        name: torch.where(dropped.reshape(-1, *[1] * (value.ndim - 1)), conditions[name].absent.to(value), value)
        for name, value in given.items()
    }


def rows(given: Given, part: Sequence[int]) -> dict[str, Tensor]:
    """What is given for these events of a batch; what is given for one alone holds for each."""
    return {name: value if len(value) == 1 else value[list(part)] for name, value in given.items()}


def _unknown(name: str, conditions: Conditions) -> ConfigError:
    allowed = [f"{own}: {condition.words}" for own, condition in conditions.items()]
    return ConfigError(
        f"there is no condition '{name}' here",
        details=[f"the network takes {'; '.join(allowed) or 'none'}", did_you_mean(name, conditions)],
        fix="choose one of them" if allowed else "train a network that takes some: gendiff train --condition NAME",
    )
