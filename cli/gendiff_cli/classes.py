"""Samples of a conditional run beside the events of their own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gendiff.errors import ConfigError
from gendiff_cli.console import note

if TYPE_CHECKING:
    from gendiff.condition import Condition, Conditions
    from gendiff.evaluation.event_set import EventSet, KnownStatistics, Seen
    from gendiff.evaluation.number import Evaluation
    from gendiff.features import Features
    from gendiff.metric import Metric
    from gendiff.run.asked import Asked


def label_of(conditions: Conditions, name: str) -> Condition:
    """The label of a run by which samples are told apart; raises `ConfigError` where it has none of that name."""
    condition = conditions.get(name)
    if condition is None or condition.type != "label":
        labels = [own for own, one in conditions.items() if one.type == "label"]
        known = f"its labels: {', '.join(labels)}" if labels else "the network is told of no label"
        raise ConfigError(
            f"the run has no classes by '{name}'",
            where=f"--by {name}",
            details=[known],
            fix="choose one of them" if labels else "leave --by out, or train a run with --condition label",
        )
    return condition


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
    label: Condition,
    samples: tuple[Seen, EventSet],
    reference: tuple[Seen | EventSet | KnownStatistics | None, EventSet | KnownStatistics | None],
    instruments: Sequence[Features | Metric],
    **options: Any,
) -> list[Evaluation]:
    """An evaluation of each class, by the features among the instruments."""
    from gendiff.evaluation import measuring
    from gendiff.evaluation.event_set import EventSet, Seen
    from gendiff.features import Features

    features = [one for one in instruments if isinstance(one, Features)]
    target, events = reference
    if not isinstance(events, EventSet):
        raise ConfigError("statistics have no classes", where=f"--by {name}", fix="give events: --data SPEC")
    seen = target if isinstance(target, Seen) else measuring.see(events, features, options["device"], options["cache"])
    classes = list(measuring.by_class(name, label, samples, (seen, events), features, **options))
    if len(classes) < label.size:
        note(f"{len(classes)} of {label.size} classes are measured: each needs {measuring.FEWEST} samples and events")
    return classes
