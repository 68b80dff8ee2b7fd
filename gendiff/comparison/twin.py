"""Twin: does a process whose components have speeds of their own beat its isotropic twin?

The twin is standard diffusion in the same basis, with the same moments of the data, network, budget, grid of steps and number of
evaluations, so that the speeds alone are left to differ. With each objective it is one comparison over several seeds, against
pictures that are held out; the intervals are of paired differences, as in any comparison. `identity` is there as a check: a
process that moves all components alike is the twin itself, whatever its basis is called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gendiff.comparison import report
from gendiff.comparison.arm import Arm
from gendiff.comparison.difference import Estimate
from gendiff.comparison.engine import Comparison
from gendiff.comparison.plan import Contender, Plan
from gendiff.comparison.reproduction import Scale
from gendiff.comparison.result import result as result_of
from gendiff.comparison.verdict import listed, number, outcome, signed
from gendiff.comparison.work import Listener
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
    "tiny": Scale("twin-tiny", "random-conv", 64, 1),
    "small": Scale("twin-small", "random-conv", 512, 3),
    "full": Scale("twin-full", "random-conv", 5000, 3),
}
EVALUATIONS: Mapping[str, tuple[int, ...]] = {
    "tiny": (5, 20),
    "small": (5, 10, 20, 50, 100),
    "full": (5, 10, 20, 50, 100),
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
    results, pages = dict[str, dict[str, Any]](), list[Path]()
    for objective, comparison in comparisons.items():
        with comparison.working() as heed:
            comparison.finish(registry, device, listener, heed, crew)
            results[objective] = result_of(comparison, ())
            looks = comparison.looks(registry, device, listener, heed, crew)
            pages += report.write(comparison, results[objective], looks)[1:2]
    facts = found(results)
    values, page = folder / "twin.json", folder / "twin.md"
    Files().replace(values, json_bytes(facts))
    Files().replace(page, markdown(facts).encode())
    return [page, values, *pages]


def found(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What came out, as plain values: a row for each arm, objective and number of evaluations; ``results`` by objective."""
    first = next(iter(results.values()))
    rows = [
        {
            "objective": objective,
            "arm": arm["label"],
            "evaluations": point["evaluations"],
            "value": point["value"]["value"],
            "difference": point["difference"],
            "outcome": None
            if point["difference"] is None
            else outcome(Estimate(**point["difference"]), first["better"][first["number"]] == "higher"),
        }
        for objective, result in results.items()
        for arm in result["arms"]
        for point in arm["curve"]
    ]
    keys = ("number", "n", "seeds", "reference", "difference_level")
    facts = {**{key: first[key] for key in keys}, "rows": rows}
    return {"finding": finding(facts), **facts}


def finding(facts: Mapping[str, Any]) -> str:
    """One sentence: which processes beat their twin at the most evaluations, and at the fewest."""
    speeds = [row for row in facts["rows"] if row["arm"] not in (TWIN, CHECK)]
    counts = sorted({row["evaluations"] for row in speeds})
    parts = [_part(count, [row for row in speeds if row["evaluations"] == count]) for count in {counts[-1], counts[0]}]
    seeds = len(facts["seeds"])
    trust = "" if seeds > 1 else "With one seed, which says nothing of others, "
    sentence = "; ".join(sorted(parts, key=lambda part: -int(part.split()[1])))
    return f"{trust}{sentence if trust else sentence[0].upper() + sentence[1:]}."


def _part(count: int, rows: Sequence[Mapping[str, Any]]) -> str:
    words = []
    for kind in ("better", "worse"):
        names = [f"{row['arm']} ({row['objective']})" for row in rows if row["outcome"] == kind]
        if names:
            words.append(f"{listed(names)} {'is' if len(names) == 1 else 'are'} {kind} than the isotropic twin")
    rest = sum(row["outcome"] == "undecided" for row in rows)
    if not words:
        return f"at {count} evaluations no process with speeds of its own can be told from its isotropic twin"
    return f"at {count} evaluations {', '.join(words)}" + (
        f", and {rest} of {len(rows)} cannot be told from it" if rest else ""
    )


def markdown(facts: Mapping[str, Any]) -> str:
    """The page: the sentence first, then a table for each objective."""
    seeds = len(facts["seeds"])
    lines = [
        facts["finding"],
        "",
        f"{facts['number']} of {facts['n']:,} samples, {seeds} seed{'s' if seeds > 1 else ''}; differences are paired, arm minus "
        "isotropic twin, below 0 better. The intervals of a row of arms at one number of evaluations hold together, at 95%.",
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


def _cell(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return f"{number(row['value'])}"
    difference = row["difference"]
    low, high = difference["low"], difference["high"]
    interval = "" if low is None else f" [{signed(low)}, {signed(high)}]"
    mark = {"better": " **better**", "worse": " **worse**"}.get(row["outcome"], "")
    return f"{number(row['value'])}, {signed(difference['value'])}{interval}{mark}"
