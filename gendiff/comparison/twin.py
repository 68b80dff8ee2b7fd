"""Twin: does a process whose components have speeds of their own beat its isotropic twin?

The twin is standard diffusion in the same basis, with the same moments of the data, network, budget, grid of steps and number of
evaluations, so that the speeds alone are left to differ. With each objective it is one comparison over several seeds, against
pictures that are held out; the intervals are of paired differences, as in any comparison. `identity` is there as a check: a
process that moves all components alike is the twin itself, whatever its basis is called.

One sentence says what was found. It may name any arm, with any objective, at any number of evaluations, so that all of these
differences share one level: where no process differs from the twin, it names one in 5 of 100 such experiments at most. What three
seeds say of a spread is completed by the spreads of the other comparisons (`gendiff.comparison.moderation`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gendiff.comparison import report
from gendiff.comparison.arm import Arm
from gendiff.comparison.difference import (
    Estimate,
    Measured,
    difference,
    over_seeds,
    quantile,
    settling_seeds,
    simultaneous,
)
from gendiff.comparison.directory import Comparison
from gendiff.comparison.engine import Engine
from gendiff.comparison.listener import Listener
from gendiff.comparison.moderation import Spread
from gendiff.comparison.plan import LEVEL, Contender, Plan
from gendiff.comparison.reproduction import Scale
from gendiff.comparison.result import Curves, curves
from gendiff.comparison.result import result as result_of
from gendiff.comparison.verdict import listed, number, outcome, signed
from gendiff.evaluation.number import bounds
from gendiff.features import Features
from gendiff.machine.jobs import ALONE, Crew
from gendiff.metric import Metric
from gendiff.plain import json_bytes
from gendiff.plugin.registry import Registry
from gendiff.run.layers import Layer
from gendiff.storage.files import Files

TWIN, CHECK = "isotropic", "identity"
ARMS = {
    TWIN: "dct velocity=isotropic",
    CHECK: "identity",
    "quartic": "dct schedule=quartic",
    "log 0.14": "dct schedule=log:f_max=0.14",
    "equal-snr": "dct velocity=equal-snr",
    "soft-conditioning 0.5": "dct velocity=soft-conditioning:soft=0.5",
}
OBJECTIVES = ("wiener", "eps")
SCALES = {
    "tiny": Scale("twin-tiny", "random-conv", 64, 1, (5, 20)),
    "small": Scale("twin-small", "random-conv", 512, 3, (5, 10, 20, 50, 100)),
    "full": Scale("twin-full", "random-conv", 5000, 3, (5, 10, 20, 50, 100)),
}


def plan(
    objective: str,
    common: Sequence[Layer],
    seeds: int,
    n: int,
    evaluations: Sequence[int],
    features: Sequence[Features],
    metrics: Sequence[Metric] = (),
    precision: str = "fp32",
    compiled: bool = False,
) -> Plan:
    """The comparison of all arms with one objective; ``common`` are the layers that they have in common."""
    layers = [*common, Layer.at("the twin experiment", "objective", objective)]
    return Plan(
        contenders=tuple(
            Contender.of(Arm.parse(f"{text} label='{label}'"), text, layers) for label, text in ARMS.items()
        ),
        seeds=tuple(range(seeds)),
        features=tuple(features),
        n=n,
        metrics=tuple(metrics),
        evaluations=tuple(evaluations),
        precision=precision,
        compiled=compiled,
    )


def twin(
    comparisons: Mapping[str, Comparison],
    folder: Path,
    registry: Registry,
    device: torch.device,
    listener: Listener,
    crew: Crew = ALONE,
) -> list[Path]:
    """Train and measure what is missing of each objective's comparison; write the pages and what was found; returns the files."""
    results, numbers, pages = dict[str, dict[str, Any]](), dict[str, Curves](), list[Path]()
    for objective, comparison in comparisons.items():
        with comparison.working() as heed:
            engine = Engine(comparison, registry, device, listener, heed, crew)
            engine.finish()
            results[objective], numbers[objective] = result_of(comparison, ()), curves(comparison)
            pages += report.write(comparison, results[objective], engine.looks())[1:2]
    facts = found(next(iter(results.values())), numbers)
    values, page = folder / "twin.json", folder / "twin.md"
    Files().replace(values, json_bytes(facts))
    Files().replace(page, markdown(facts).encode())
    return [page, values, *pages]


def found(about: Mapping[str, Any], numbers: Mapping[str, Curves]) -> dict[str, Any]:
    """What came out, as plain values: a row for each arm, objective and number of evaluations.

    Args:
        about: a result of one of the comparisons, for what they have in common.
        numbers: what was measured, by objective.

    """
    name = about["number"]
    higher, (low, high) = about["better"][name] == "higher", bounds(name)
    points = [
        (objective, arm, count, by_seed)
        for objective, curve in numbers.items()
        for arm, at in curve.items()
        for count, by_seed in at.items()
    ]
    judged = [place for place, (_, arm, *_) in enumerate(points) if arm not in (TWIN, CHECK)]
    level = simultaneous(LEVEL, len(judged))
    rows = [
        {"objective": objective, "arm": arm, "evaluations": count, "value": _mean(by_seed)}
        | {"difference": None, "outcome": None}
        for objective, arm, count, by_seed in points
    ]
    against, scales = dict[int, Estimate](), dict[int, float]()
    for place, (objective, arm, count, by_seed) in enumerate(points):
        if arm != TWIN:
            of_twin = numbers[objective][TWIN][count]
            against[place] = difference(by_seed, of_twin, level)
            scales[place] = (_mean(by_seed) + _mean(of_twin)) / 2
    spread = Spread.of([against[place] for place in judged], [scales[place] for place in judged], level)
    for place, estimate in against.items():
        if place in judged:
            estimate = spread.moderate(estimate, scales[place], level)
        estimate = estimate.within((low - high, high - low))
        rows[place] |= {"difference": asdict(estimate), "outcome": outcome(estimate, higher)}
    facts = {
        **{key: about[key] for key in ("number", "n", "seeds", "reference")},
        "level": LEVEL,
        "comparisons": len(judged),
        "difference_level": level,
        "spread": asdict(spread),
        "rows": rows,
    }
    return {"finding": finding(facts), **facts}


def _mean(by_seed: Mapping[int, Measured]) -> float:
    return over_seeds(list(by_seed.values()), LEVEL).value


def finding(facts: Mapping[str, Any]) -> str:
    """One sentence: which processes differ from their twin, and where; or that none can be told apart from it."""
    rows = [row for row in facts["rows"] if row["arm"] not in (TWIN, CHECK)]
    effects = dict[tuple[str, str, str], list[int]]()
    for row in sorted(rows, key=lambda row: row["outcome"]):  # better before worse
        if row["outcome"] != "undecided":
            effects.setdefault((row["arm"], row["objective"], row["outcome"]), []).append(row["evaluations"])
    counted = f"{facts['comparisons']} comparisons, which share the level of {facts['level']:.0%}"
    if not effects:
        names, objectives, counts = ({row[key] for row in rows} for key in ("arm", "objective", "evaluations"))
        sentence = (
            f"none of the {len(names)} processes with speeds of their own can be told apart from the isotropic twin, in any "
            f"of {counted}: {len(names)} processes, {len(objectives)} objectives, {len(counts)} numbers of evaluations"
        )
    else:
        parts = [
            f"{arm} ({objective}) is {kind} than {'it' if k else 'the isotropic twin'} at {listed(list(map(str, counts)))} "
            "evaluations"
            for k, ((arm, objective, kind), counts) in enumerate(effects.items())
        ]
        rest = sum(row["outcome"] == "undecided" for row in rows)
        others = (
            f"in the other {rest} of {counted}, none can be told apart from it"
            if rest
            else f"these are all of {counted}"
        )
        sentence = "; ".join([*parts, others])
    trust = "" if len(facts["seeds"]) > 1 else "With one seed, which says nothing of others, "
    return f"{trust}{sentence if trust else sentence[0].upper() + sentence[1:]}."


def markdown(facts: Mapping[str, Any]) -> str:
    """The page: the sentence first, then how sure it is, and a table for each objective."""
    seeds = len(facts["seeds"])
    lines = [
        facts["finding"],
        "",
        f"{facts['number']} of {facts['n']:,} samples, {seeds} seed{'s' if seeds > 1 else ''}; differences are paired, arm minus "
        f"isotropic twin, below 0 better. The intervals of all {facts['comparisons']} comparisons hold together at "
        f"{facts['level']:.0%} (Bonferroni): each is made at {facts['difference_level']:.5g}. {CHECK} is a check, and none of "
        "them. The page of one objective shares its level among the arms at one number of evaluations alone, and sees more.",
        *(["", sight] if (sight := _sight(facts)) else []),
    ]
    for objective in dict.fromkeys(row["objective"] for row in facts["rows"]):
        rows = [row for row in facts["rows"] if row["objective"] == objective]
        counts = sorted({row["evaluations"] for row in rows})
        heads = " | ".join(f"{count} evaluations" for count in counts)
        lines += ["", f"## {objective}", "", f"| arm | {heads} |", "|---|" + "---|" * len(counts)]
        for arm in dict.fromkeys(row["arm"] for row in rows):
            cells = " | ".join(_cell(row) for row in rows if row["arm"] == arm)
            lines.append(f"| {arm} | {cells} |")
    return "\n".join([*lines, ""])


def _sight(facts: Mapping[str, Any]) -> str:
    """How much so many seeds can see, and what the next would settle; empty where nothing is known of it."""
    seeds, level = len(facts["seeds"]), facts["difference_level"]
    if seeds < 2:
        return ""
    others, relative = facts["spread"]["freedom"], facts["spread"]["relative"]
    reach, of_twice = (f"{quantile(others + count - 1, level):.2g}" for count in (seeds, 2 * seeds))
    text = (
        f"With {seeds} seeds an interval reaches {reach} standard errors to each side, with {2 * seeds} it would reach "
        f"{of_twice} smaller ones: what is not told apart is not shown to be equal."
    )
    if others:
        so_many = f"{others:.0f}" if others > 10 else f"{others:.1f}"
        text += (
            f" The standard error of a comparison is of its own seeds, {seeds - 1} degrees of freedom, and of how much seeds "
            f"differ in the others, {relative:.2g} of the number, which count as {so_many} more (Smyth 2004)."
        )
    settling = [
        (count, row)
        for row in facts["rows"]
        if row["arm"] not in (TWIN, CHECK)
        and row["outcome"] == "undecided"
        and (count := settling_seeds(Estimate(**row["difference"]), level, others))
    ]
    if settling:
        count, row = min(settling, key=lambda pair: pair[0])
        text += (
            f" Nearest to a difference is {row['arm']} ({row['objective']}) at {row['evaluations']} evaluations: were mean and "
            f"spread over seeds what they are in these, {count} seeds would settle it, as often as not."
        )
    return text


def _cell(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return f"{number(row['value'])}"
    difference = row["difference"]
    low, high = difference["low"], difference["high"]
    interval = "" if low is None else f" [{signed(low)}, {signed(high)}]"
    mark = {"better": " **better**", "worse": " **worse**"}.get(row["outcome"], "")
    return f"{number(row['value'])}, {signed(difference['value'])}{interval}{mark}"
