"""Verdict: what the numbers allow to be said, and no more.

An arm is better or worse than the baseline where the interval of their difference excludes 0; everything else is undecided,
which is not the same as equal. Only the first number of a comparison, with the first sampler, has a verdict: with many numbers
one of them would always look like a finding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gendiff.comparison.difference import FEWEST, MOST_SEEDS, Estimate, quantile, settling_seeds, simultaneous

SMALL = 0.01  # part of a number, below which a difference is seldom worth a seed

Outcome = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Verdict:
    """The outcome for each arm but the baseline, and a sentence for each of the things that can be said.

    Args:
        outcomes: by label.
        headline: one sentence.
        sentences: what stands behind it, one sentence per arm, and what limits it.
        seeds: for each arm that cannot be told apart, how many seeds would settle it, were the difference as it is seen; None
            where nothing can be said, or more than anybody trains.

    """

    outcomes: dict[str, Outcome]
    headline: str
    sentences: list[str]
    seeds: dict[str, int | None] = field(default_factory=dict)


def outcome(difference: Estimate, larger_is_better: bool) -> Outcome:
    """What a difference, arm minus baseline, shows."""
    if not difference.excludes_zero:
        return "undecided"
    return "better" if (difference.value > 0) == larger_is_better else "worse"


def verdict(
    name: str,
    baseline: str,
    values: Mapping[str, Estimate],
    differences: Mapping[str, Estimate],
    larger_is_better: bool,
    level: float,
    unfair: Sequence[str] = (),
) -> Verdict:
    """The verdict on the number called ``name``.

    Args:
        baseline: label of the baseline.
        values: of every arm, by label.
        differences: arm minus baseline, by label, of every arm but the baseline.
        level: that of all differences together.
        unfair: sentences on what was not equal.

    """
    outcomes = {label: outcome(estimate, larger_is_better) for label, estimate in differences.items()}
    sentences = [
        f"{label} {_says(outcomes[label], baseline)}{_hedge(estimate)}: {name} {number(values[label].value)} against "
        f"{number(values[baseline].value)}, difference {signed(estimate.value)}{_interval(estimate)}."
        for label, estimate in differences.items()
    ]
    each = simultaneous(level, len(differences))
    undecided = {label: differences[label] for label, kind in outcomes.items() if kind == "undecided"}
    seeds = {label: settling_seeds(estimate, each) for label, estimate in undecided.items()}
    sentences += [
        sentence
        for label, estimate in undecided.items()
        if (sentence := _settling(label, baseline, estimate, values[baseline], seeds[label], larger_is_better))
    ]
    methods = {estimate.method for estimate in differences.values()}
    if methods & {"sampling", "none"}:
        sentences.append(
            "With one seed nothing is known about other seeds: the intervals hold the chance of sampling alone, "
            "and another training may turn the order round."
        )
    if any(estimate.method == "seeds" and estimate.seeds == 2 for estimate in differences.values()):
        reach = quantile(1, each)
        sentences.append(
            f"Two seeds see little: an interval reaches {reach:.0f} standard errors to each side, and hides all but the most "
            "regular differences. Three or more see far more."
        )
    if "unpaired" in methods:
        sentences.append("Arms without a seed in common are compared unpaired, which sees less.")
    if len(differences) > 1:
        sentences.append(f"The {len(differences)} intervals hold together at {level:.0%} (Bonferroni).")
    sentences += [f"Not equal: {text}" for text in unfair]
    return Verdict(outcomes, _headline(baseline, outcomes, values, differences, larger_is_better), sentences, seeds)


def _headline(
    baseline: str,
    outcomes: Mapping[str, Outcome],
    values: Mapping[str, Estimate],
    differences: Mapping[str, Estimate],
    larger_is_better: bool,
) -> str:
    groups = {
        kind: [label for label in outcomes if outcomes[label] == kind] for kind in ("better", "worse", "undecided")
    }
    groups["better"].sort(key=lambda label: values[label].value, reverse=larger_is_better)
    parts = []
    if groups["better"]:
        parts.append(f"{listed(groups['better'])} {_is(groups['better'])} better than {baseline}")
    if groups["worse"]:
        parts.append(f"{listed(groups['worse'])} {_is(groups['worse'])} worse than {baseline}")
    if groups["undecided"]:
        parts.append(f"no difference can be seen between {baseline} and {listed(groups['undecided'], 'or')}")
    sentence = "; ".join(parts)
    if any(estimate.method in ("sampling", "none") for estimate in differences.values()):
        return f"At this one seed, {sentence}."
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence.startswith("no difference") else f"{sentence}."


def _settling(
    label: str, baseline: str, estimate: Estimate, against: Estimate, seeds: int | None, larger_is_better: bool
) -> str:
    """What is seen of a difference that is not shown, and how many seeds would settle it; empty where neither can be said."""
    if estimate.method not in ("seeds", "sampling") or estimate.value == 0:
        return ""
    way = "ahead of" if (estimate.value > 0) == larger_is_better else "behind"
    part = abs(estimate.value / against.value) if against.value else 1.0
    share = f" by {100 * part:.2g}% of its number" if against.value else ""
    seen = f"What is seen: {label} {way} {baseline}{share}"
    if estimate.method == "sampling":
        return (
            f"{seen}; with one seed nothing can be said of how many would settle it: three tell how much seeds differ."
        )
    if estimate.seeds < FEWEST:
        return f"{seen}; two seeds do not tell how much seeds differ, and so not how many would settle it: three do."
    if seeds is None:
        return f"{seen}; were that so, more than {MOST_SEEDS} seeds would be needed to show it: take them as level."
    return (
        f"{seen}; were mean and spread over seeds what they are in these {estimate.seeds}, {seeds} seeds would settle it, as "
        f"often as not{', if so small a difference matters' if part < SMALL else ''}."
    )


def _says(kind: Outcome, baseline: str) -> str:
    return {
        "better": f"is better than {baseline}",
        "worse": f"is worse than {baseline}",
        "undecided": f"and {baseline} cannot be told apart",
    }[kind]


def _hedge(estimate: Estimate) -> str:
    return " at this seed" if estimate.method == "sampling" else ""


def _is(labels: Sequence[str]) -> str:
    return "is" if len(labels) == 1 else "are"


def _interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return " (no interval)"
    over = {"seeds": f"{estimate.seeds} seeds", "unpaired": "unpaired", "sampling": "sampling only"}[estimate.method]
    return f" ({signed(estimate.low)} to {signed(estimate.high)}, {over})"


def listed(labels: Sequence[str], last: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} {last} {labels[-1]}"


def number(value: float) -> str:
    """A number with four significant digits, as tables and sentences show it."""
    return f"{value:.4g}"


def signed(value: float) -> str:
    """The same with its sign, a true minus."""
    return f"{value:+.3g}".replace("-", "−")
