"""Asked: what is asked of the images of a run, each known by its number: the condition, the guides, what was measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from gendiff.condition import ABSENT, Condition, Conditions, stacked
from gendiff.errors import ArgumentError, ConfigError
from gendiff.guide import Guide
from gendiff.operator import Measurement
from gendiff.run.config import Config
from gendiff.shapes import EventShape, check_events

ALL = "all"  # how a user asks for every class


@dataclass(frozen=True)
class Asked:
    """Image k is drawn under the k-th of the conditions, counted around.

    Where it is asked about P events, one after the other, image k is the draw k // P about event k % P: noise and condition are
    those of its draw, so that what is made of an event does not depend on which others are asked about.

    Args:
        conditions: values by name, a table for each; what a table does not name is absent.
        guides: in the order in which they are put on.
        measurement: of each of the events that are restored.
        source: events ``(P, *event)`` that are gone on from.
        strength: how far towards noise they are brought first, in (0, 1].

    """

    conditions: tuple[Mapping[str, Any], ...] = ({},)
    guides: tuple[Guide, ...] = ()
    measurement: Measurement | None = field(default=None, compare=False)
    source: Tensor | None = field(default=None, compare=False)
    strength: float = 1.0

    @classmethod
    def of(
        cls,
        config: Config,
        condition: Mapping[str, Any] | None = None,
        guides: Sequence[Guide] = (),
        measurement: Measurement | None = None,
    ) -> Asked:
        """What is asked of the images of a run.

        Args:
            condition: by name a value, or a list of values, of which each is drawn in turn; of several names all combinations.
                ``"all"`` is every class of a label, ``"none"`` nothing. Left out, every class in turn, and nothing of events that
                are restored.
            measurement: what was measured of events that are restored.

        Raises:
            ConfigError: for what the run does not take, and where a vector or an image is needed and none is said.

        """
        known = config.conditions
        if condition is None:
            condition = default(known) if measurement is None else unsaid(config)
        stacked(known, [dict.fromkeys(condition)])  # the names alone
        values = {name: _values(name, known[name], value) for name, value in condition.items()}
        combinations = [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]
        stacked(known, combinations)
        return cls(tuple(combinations), tuple(guides), measurement)

    def going_on(self, source: Tensor, strength: float, event_shape: EventShape) -> Asked:
        """The same, gone on from events ``(P, *event)``; raises `ArgumentError` where they are none, or the strength is none."""
        check_events(source, event_shape, "source")
        number = isinstance(strength, int | float) and not isinstance(strength, bool)
        if not number or not 0 < strength <= 1:
            raise ArgumentError(f"strength = {strength!r}", details=["a number in (0, 1]: 1 goes all the way to noise"])
        return replace(self, source=source, strength=float(strength))

    def start(self, N: int) -> int:
        """The step 1..N to which the events that are gone on from are brought."""
        return min(max(round(self.strength * N), 1), N)

    @property
    def events(self) -> int:
        """P, about how many events it is asked; 1 where it is about none."""
        about = self.measurement.y if self.measurement is not None else self.source
        return 1 if about is None else len(about)

    def draws(self, images: Sequence[int]) -> list[int]:
        """Which draw each of these images is."""
        return [k // self.events for k in images]

    def told(self, known: Conditions, images: Sequence[int]) -> dict[str, Tensor]:
        """What the network is told of these images."""
        return stacked(known, [self.conditions[draw % len(self.conditions)] for draw in self.draws(images)])


def default(known: Conditions) -> dict[str, Any]:
    """Every class of each label; raises `ConfigError` for a vector or an image, of which nobody has said anything."""
    if unsaid := next((name for name, condition in known.items() if condition.type != "label"), None):
        raise ConfigError(
            f"the network is told of '{unsaid}', and nothing is said of it",
            where="--condition",
            details=[f"allowed: {known[unsaid].words}, or {ABSENT}"],
            fix=f"say it: --condition {unsaid}=VALUE",
        )
    return dict.fromkeys(known, ALL)


def unsaid(config: Config) -> dict[str, Any]:
    """Nothing of any condition; raises `ConfigError` where the network was never trained so."""
    if config.conditions and not config.train.condition_dropout:
        raise ConfigError(
            "the network was always told of " + ", ".join(config.conditions) + ", and nothing is said of it",
            where="--condition",
            details=[f"allowed: {name}={condition.words}" for name, condition in config.conditions.items()],
            fix=f"say it: --condition {next(iter(config.conditions))}=VALUE",
        )
    return dict.fromkeys(config.conditions, ABSENT)


def read(assignments: Sequence[str]) -> dict[str, Any] | None:
    """What a user writes, ``label=3``, ``label=0,3,5``, ``label=all``, ``pose=[0.1,0.2]``, by name; None of nothing."""
    result: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise ConfigError(
                f"cannot read the condition {text!r}",
                where="--condition",
                fix="write NAME=VALUE, such as label=3 or label=all",
            )
        result[name] = _parsed(value)
    return result or None


def _parsed(text: str) -> Any:
    """A JSON list, or values with commas between them, each left as it was written."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            pass
    parts = text.split(",")
    return parts if len(parts) > 1 else text


def _values(name: str, condition: Condition, given: Any) -> list[Any]:
    if given == ALL and condition.type == "label" and ALL not in condition.classes:
        return list(range(condition.size))
    if isinstance(given, Tensor) and condition.type != "label":
        return list(given) if given.ndim > len(condition.shape) else [given]
    if not isinstance(given, list | tuple | range | Tensor):
        return [given]
    several = list(given)
    if not several:
        raise ConfigError(f"condition '{name}' is an empty list", details=[f"allowed: {condition.words}"])
    one_vector = (
        condition.type != "label" and condition.shape != (1,) and not isinstance(several[0], list | tuple | Tensor)
    )
    return [several] if one_vector else several
