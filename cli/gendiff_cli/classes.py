"""The option ``--by`` of ``gendiff evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gendiff.errors import ConfigError
from gendiff_cli.console import note

if TYPE_CHECKING:
    from gendiff.condition import Condition, Conditions
    from gendiff.evaluation.event_set import EventSet, KnownStatistics, Seen
    from gendiff.evaluation.number import Evaluation
    from gendiff.features import Features
    from gendiff.metric import Metric


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


def by_class(
    name: str,
    label: Condition,
    samples: tuple[Seen, EventSet],
    reference: tuple[Seen | EventSet | KnownStatistics | None, EventSet | KnownStatistics | None],
    instruments: Sequence[Features | Metric],
    **options: Any,
) -> list[Evaluation]:
    """An evaluation of each class, by the features among the instruments."""
    from gendiff.evaluation import classes as of_classes
    from gendiff.evaluation import measuring
    from gendiff.evaluation.event_set import EventSet, Seen
    from gendiff.features import Features

    features = [one for one in instruments if isinstance(one, Features)]
    target, events = reference
    if not isinstance(events, EventSet):
        raise ConfigError("statistics have no classes", where=f"--by {name}", fix="give events: --data SPEC")
    seen = target if isinstance(target, Seen) else measuring.see(events, features, options["device"], options["cache"])
    classes = list(of_classes.by_class(name, label, samples, (seen, events), features, **options))
    if len(classes) < label.size:
        note(f"{len(classes)} of {label.size} classes are measured: each needs {measuring.FEWEST} samples and events")
    return classes
