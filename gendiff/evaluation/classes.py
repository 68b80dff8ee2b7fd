"""Classes: samples of a conditional run beside the events of their own classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gendiff.condition import Condition, Conditions
from gendiff.errors import ConfigError
from gendiff.evaluation.event_set import EventSet, Seen
from gendiff.evaluation.measuring import FEWEST, evaluate
from gendiff.evaluation.number import Evaluation
from gendiff.features import Features
from gendiff.run.asked import Asked


def alike(reference: EventSet, conditions: Conditions, asked: Asked) -> EventSet:
    """The events of a reference whose labels are among those that samples are drawn under; all of them where one is left open."""
    labels = [name for name, one in conditions.items() if one.type == "label" and asked.words.get(name) != "all"]
    drawn = [{name: _number(conditions, name, one.get(name)) for name in labels} for one in asked.conditions]
    if (
        not labels
        or reference.told is None
        or any(conditions[name].size in one.values() for one in drawn for name in one)
    ):
        return reference

    def holds(told: Mapping[str, Any]) -> bool:
        return {name: _number(conditions, name, told.get(name)) for name in labels} in drawn

    return reference.under(" ".join(f"{name}={asked.words[name]}" for name in labels), holds)


def _number(conditions: Conditions, name: str, value: Any) -> int:
    return int(conditions[name].value(name, value))


def by_class(
    name: str,
    condition: Condition,
    samples: tuple[Seen, EventSet],
    reference: tuple[Seen, EventSet],
    features: Sequence[Features],
    **options: Any,
) -> Iterator[Evaluation]:
    """An evaluation of each class of a label, whose numbers bear its name: ``fd-random-conv[label=3]``.

    Args:
        name, condition: of the label.
        samples, reference: what was seen of them by ``features`` alone, and the events, which say what is known of them.
        options: of `evaluate`.

    Raises:
        ConfigError: where nothing is known of one of the two.

    """
    sides = [_places(name, condition, events) for _, events in (samples, reference)]
    for number, own in enumerate(condition.classes):
        words = f"{name}={own}"
        places = [side.get(number, []) for side in sides]
        if min(map(len, places)) < FEWEST:
            continue
        ours, theirs = (seen.some(some, words) for (seen, _), some in zip((samples, reference), places, strict=True))
        result = evaluate(ours, theirs, features, **options)
        yield replace(result, numbers=tuple(replace(one, name=f"{one.name}[{words}]") for one in result.numbers))


def _places(name: str, condition: Condition, events: EventSet) -> dict[int, list[int]]:
    """The numbers of the events of each class."""
    if events.told is None or name not in events.told(0):
        raise ConfigError(f"of {events.about.spec} no condition '{name}' is known", where=f"--by {name}")
    places: dict[int, list[int]] = {}
    for k in range(events.n):
        places.setdefault(int(condition.value(name, events.told(k)[name])), []).append(k)
    return places


def with_classes(evaluation: Evaluation, classes: Sequence[Evaluation]) -> Evaluation:
    """The evaluation over all, and after it that of each class; what must be known of the numbers is said of all of them."""
    return replace(evaluation, numbers=(*evaluation.numbers, *(number for one in classes for number in one.numbers)))
