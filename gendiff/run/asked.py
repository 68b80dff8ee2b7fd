"""Asked: what is asked of the images of a run, each known by its number: the condition, the guides, what was measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from gendiff.condition import ABSENT, Condition, Conditions, stacked
from gendiff.data import told_of
from gendiff.errors import ArgumentError, ConfigError
from gendiff.guide import Guide
from gendiff.operator import Measurement
from gendiff.run.config import Config
from gendiff.shapes import EventShape, check_events

ALL = "all"  # how a user asks for every class
EVENTS = 64  # whose conditions are taken where nothing is said


@dataclass(frozen=True)
class Asked:
    """Image k is drawn under the k-th of the conditions, counted around.

    Where it is asked about P events, one after the other, image k is the draw k // P about event k % P: noise and condition are
    those of its draw, so that what is made of an event does not depend on which others are asked about.

    Args:
        conditions: values by name, a table for each; what a table does not name is absent.
        words: how a user asks for them, by name.
        guides: in the order in which they are put on.
        measurement: of each of the events that are restored.
        source: events ``(P, *event)`` that are gone on from.
        strength: how far towards noise they are brought first, in (0, 1].

    """

    conditions: tuple[Mapping[str, Any], ...] = ({},)
    words: Mapping[str, str] = field(default_factory=dict)
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
            if measurement is not None:
                condition = unsaid(config)
            elif any(one.type != "label" for one in known.values()):
                return cls(_of_events(config), guides=tuple(guides))
            else:
                condition = dict.fromkeys(known, ALL)
        stacked(known, [dict.fromkeys(condition)])  # the names alone
        values = {name: _values(name, known[name], value) for name, value in condition.items()}
        combinations = [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]
        stacked(known, combinations)
        words = {name: _words(known[name], several) for name, several in values.items()}
        return cls(tuple(combinations), words, tuple(guides), measurement)

    @property
    def options(self) -> list[str]:
        """The options of ``gendiff sample`` that ask for the same."""
        conditions = [word for name, value in self.words.items() for word in ("--condition", f"{name}={value}")]
        return conditions + [word for guide in self.guides for word in ("--guide", guide.spec)]

    def facts(self, known: Conditions, image: int | None = None) -> dict[str, Any]:
        """What the record of samples says of it: of all, or of one image."""
        one = self.of_image(image or 0)
        told = {name: _words(known[name], [one.get(name)]) for name in known} if image is not None else dict(self.words)
        return {
            **({"condition": told} if told else {}),
            **({"guides": [guide.spec for guide in self.guides]} if self.guides else {}),
        }

    def of_image(self, image: int) -> Mapping[str, Any]:
        """The condition of an image."""
        return self.conditions[image // self.events % len(self.conditions)]

    def told(self, known: Conditions, images: Sequence[int]) -> dict[str, Tensor]:
        """What the network is told of these images."""
        return stacked(known, [self.of_image(k) for k in images])

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


def _of_events(config: Config) -> tuple[Mapping[str, Any], ...]:
    """Conditions of some events of the data; raises `ConfigError` where there are no data to look at."""
    known = config.conditions
    if config.data.length == 0:
        unsaid = next(name for name, condition in known.items() if condition.type != "label")
        raise ConfigError(
            f"the network is told of '{unsaid}', and nothing is said of it",
            where="--condition",
            details=[f"allowed: {known[unsaid].words}, or {ABSENT}"],
            fix=f"say it: --condition {unsaid}=VALUE",
        )
    return tuple(told_of(config.training, known, index) for index in config.training.spread(EVENTS))


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


def _words(condition: Condition, several: Sequence[Any]) -> str:
    """How a user writes these values."""
    values = [condition.value("", one) for one in several]
    if condition.type == "label":
        numbers = [int(value) for value in values]
        if len(numbers) > 1 and numbers == list(range(condition.size)):
            return ALL
        return ",".join(ABSENT if k == condition.size else condition.classes[k] for k in numbers)
    texts = [
        ABSENT if value.isnan().all() else json.dumps([float(f"{x:.9g}") for x in value.flatten().tolist()])
        for value in values
    ]
    if condition.type == "image":
        return f"{len(values)} given as tensors"
    return texts[0] if len(texts) == 1 else f"[{','.join(texts)}]"


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
