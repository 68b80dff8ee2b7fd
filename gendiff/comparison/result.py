"""Result: everything that was found, as plain values: what compare.json holds (docs/compare.md describes each field)."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gendiff.command import command
from gendiff.comparison import settings
from gendiff.comparison.difference import Estimate, Measured, difference, over_seeds, simultaneous
from gendiff.comparison.directory import Comparison
from gendiff.comparison.fairness import Unequal
from gendiff.comparison.gate import Gate
from gendiff.comparison.measure import REPLICATES, Measure
from gendiff.comparison.plan import FORMAT, LEVEL, Cell
from gendiff.comparison.verdict import verdict
from gendiff.dct import dct
from gendiff.errors import DataError
from gendiff.evaluation.event_set import spread
from gendiff.evaluation.number import Number, Remark, bounds, comparable
from gendiff.frequency import frequency_bands
from gendiff.plugin.discovery import version
from gendiff.run.directory import PACKAGES

SPECTRUM_EVENTS = 4096  # of the data, for their spectrum

Numbers = dict[str, dict[int, Number]]  # by name and seed
Estimates = dict[str, tuple[Estimate, Estimate | None]]  # by name: over seeds, and its difference to the baseline
Curves = dict[str, dict[int, dict[int, Measured]]]  # by label, network evaluations and seed


def result(comparison: Comparison, unequal: Sequence[Unequal], gates: Sequence[str] = ()) -> dict[str, Any]:
    """The result of a comparison that is finished.

    Args:
        unequal: what is not equal and allowed to be.
        gates: conditions to be checked; raises `ConfigError` where one cannot be read.

    """
    plan = comparison.plan
    measures = {(cell.place, cell.seed): _measures(comparison, cell) for cell in plan.cells()}
    numbers = [_numbers(measures, place, -1) for place in range(len(plan.contenders))]
    _require_comparable(numbers)
    first = next(iter(numbers[0]))
    better = {name: next(iter(by_seed.values())).better for name, by_seed in numbers[0].items()}
    count = len(plan.contenders) - 1
    estimates = [_estimates(of, numbers[0] if k else None, count) for k, of in enumerate(numbers)]
    labels = [contender.label for contender in plan.contenders]
    judgement = verdict(
        first,
        labels[0],
        {label: of[first][0] for label, of in zip(labels, estimates, strict=True)},
        {
            label: estimate
            for label, of in zip(labels, estimates, strict=True)
            if (estimate := of[first][1]) is not None
        },
        better[first] == "higher",
        LEVEL,
        [str(one) for one in unequal],
    )
    differing = settings.differing(plan.contenders)
    order = sorted(labels, key=lambda label: _order(estimates[labels.index(label)][first][0], better[first]))
    conditions = [Gate.parse(text, list(numbers[0])) for text in gates]
    return {
        "format": FORMAT,
        "created": comparison.about["created"],
        "path": str(comparison.path),
        "number": first,
        "better": better,
        "level": LEVEL,
        "difference_level": simultaneous(LEVEL, count),
        "n": plan.n,
        **plan.asking,
        "features": plan.features[0].spec,
        "reference": asdict(next(iter(numbers[0][first].values())).reference),
        "baseline": labels[0],
        "seeds": list(dict.fromkeys(cell.seed for cell in plan.cells())),
        "verdict": asdict(judgement),
        "arms": [
            {
                "label": contender.label,
                "text": contender.text,
                "rank": order.index(contender.label) + 1,
                "outcome": judgement.outcomes.get(contender.label),
                "sampler": plan.samplers(contender)[-1].spec,
                "prior": contender.config.sampler.prior,
                "findings": [asdict(finding) for finding in contender.findings],
                "runs": [_run(comparison, cell, numbers[place]) for cell in plan.cells() if cell.place == place],
                "numbers": _listed(estimates[place]),
                "curve": _curve(comparison, measures, place, first),
                "spectrum": _spectrum(measures, place),
                "alarms": _alarms(measures, place),
            }
            for place, contender in enumerate(plan.contenders)
        ],
        "data_spectrum": _data_spectrum(comparison),
        "unequal": [asdict(one) for one in unequal],
        "allowed": list(plan.allowed),
        "differ": settings.sentences(plan.contenders),
        "differences": {one.path: list(one.values) for one in differing},
        "groups": {one.path: one.group for one in differing},
        "asked": [one.path for one in differing if one.asked],
        "remarks": _remarks(measures),
        "gates": [_gated(gate, labels, estimates) for gate in conditions],
        "reproduce": {
            "command": comparison.about["argv"],
            "versions": {package: version(package) for package in PACKAGES},
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "plan": comparison.about["plan"],
        },
    }


def curves(comparison: Comparison) -> Curves:
    """The ranked number of every arm, as it was measured: what differences of any level are made of."""
    measures = {(cell.place, cell.seed): _measures(comparison, cell) for cell in comparison.plan.cells()}
    of_arms: Curves = {}
    for place, contender in enumerate(comparison.plan.contenders):
        points = of_arms.setdefault(contender.label, {})
        for k in range(len(comparison.plan.samplers(contender))):
            by_seed = next(iter(_numbers(measures, place, k).values()))
            drawing = next(iter(by_seed.values())).drawing
            if drawing and drawing.evaluations is not None:
                points[drawing.evaluations] = {seed: _measured(number) for seed, number in by_seed.items()}
    return of_arms


def _measures(comparison: Comparison, cell: Cell) -> list[Measure]:
    measures = [comparison.measured(cell, sampler) for sampler in comparison.plan.samplers(cell.contender)]
    whole = [measure for measure in measures if measure is not None]
    if len(whole) < len(measures):
        raise DataError(
            f"'{comparison.path}' lacks measures of {cell.name}", fix=command("compare", "--resume", comparison.path)
        )
    return whole


def _numbers(measures: dict[tuple[int, int], list[Measure]], place: int, sampler: int) -> Numbers:
    """The numbers of an arm with one of its samplers, by name and seed."""
    numbers: Numbers = {}
    for (of, seed), by_sampler in measures.items():
        if of == place:
            for number in by_sampler[sampler].evaluation.numbers:
                numbers.setdefault(number.name, {})[seed] = number
    return numbers


def _require_comparable(numbers: Sequence[Numbers]) -> None:
    """Numbers of different conditions are never ranked."""
    first = {name: next(iter(by_seed.values())) for name, by_seed in numbers[0].items()}
    for of in numbers:
        for name, by_seed in of.items():
            for number in by_seed.values():
                if why := comparable(first[name], number) if name in first else (f"{name} is not measured for all",):
                    raise DataError(
                        "numbers that cannot be ranked", details=why, fix="measure again in a new directory"
                    )


def _estimates(of: Numbers, baseline: Numbers | None, count: int) -> Estimates:
    """Mean over seeds of each number, and its difference to the baseline; None for the baseline itself."""
    level, estimates = simultaneous(LEVEL, count), {}
    for name, by_seed in of.items():
        ours = {seed: _measured(number) for seed, number in by_seed.items()}
        theirs = {seed: _measured(number) for seed, number in baseline[name].items()} if baseline else {}
        against = difference(ours, theirs, level) if baseline else None
        low, high = bounds(name)
        estimates[name] = (
            over_seeds(list(ours.values()), LEVEL).within((low, high)),
            against and against.within((low - high, high - low)),
        )
    return estimates


def _listed(estimates: Estimates) -> dict[str, dict[str, Any]]:
    """Estimates as plain values."""
    return {
        name: {"value": asdict(value), "difference": asdict(against) if against else None}
        for name, (value, against) in estimates.items()
    }


def _measured(number: Number) -> Measured:
    return Measured.of_interval(number.value, number.low, number.high, number.level, REPLICATES)


def _run(comparison: Comparison, cell: Cell, numbers: Numbers) -> dict[str, Any]:
    """One run, and what was measured on it."""
    of = [by_seed[cell.seed] for by_seed in numbers.values()]
    drawing = of[0].drawing
    return {
        "seed": cell.seed,
        "path": str(comparison.run_path(cell)),
        "images": drawing.step * cell.contender.config.train.batch if drawing else None,
        "drawing": asdict(drawing) if drawing else None,
        "samples": of[0].samples.fingerprint,
        "numbers": {number.name: {"value": number.value, "low": number.low, "high": number.high} for number in of},
    }


def _curve(
    comparison: Comparison, measures: dict[tuple[int, int], list[Measure]], place: int, name: str
) -> list[dict[str, Any]]:
    """The numbers against network evaluations; ``value`` and ``difference`` are those of the ranked one."""
    samplers, count = comparison.plan.samplers(comparison.plan.contenders[place]), len(comparison.plan.contenders) - 1
    points = []
    for k, sampler in enumerate(samplers):
        ours = _numbers(measures, place, k)
        numbers = _listed(_estimates(ours, _numbers(measures, 0, k) if place else None, count))
        drawing = next(iter(ours[name].values())).drawing
        points.append(
            {
                "sampler": sampler.spec,
                "evaluations": drawing.evaluations if drawing else None,
                **numbers[name],
                "numbers": numbers,
            }
        )
    return points


def _spectrum(measures: dict[tuple[int, int], list[Measure]], place: int) -> list[float]:
    """Mean power of the samples by frequency band, over seeds."""
    powers = [by_sampler[-1].power for (of, _), by_sampler in measures.items() if of == place]
    return by_frequency(torch.stack(powers).mean(0))


def _alarms(measures: dict[tuple[int, int], list[Measure]], place: int) -> list[str]:
    """The alarms of the first run that has any, and of how many it is one."""
    of = {seed: by_sampler[-1].evaluation.alarms for (at, seed), by_sampler in measures.items() if at == place}
    ringing = [seed for seed, alarms in of.items() if alarms]
    others = f"; seed {ringing[0]}, alarms in {len(ringing)} of {len(of)} runs" if ringing and len(of) > 1 else ""
    return [f"{text}{others}" for text in of[ringing[0]]] if ringing else []


def _remarks(measures: dict[tuple[int, int], list[Measure]]) -> list[dict[str, Any]]:
    """What must be known to read the numbers: each remark as the first run has it, and how many runs have it."""
    first, runs = dict[tuple[str, Any], Remark](), Counter[tuple[str, Any]]()
    for by_sampler in measures.values():
        of = {(remark.rule, remark.numbers.get("name")): remark for remark in by_sampler[-1].evaluation.remarks}
        first = {**of, **first}
        runs.update(list(of))
    return [{**asdict(remark), "runs": runs[key]} for key, remark in first.items()]


def _data_spectrum(comparison: Comparison) -> list[float]:
    reference = comparison.plan.reference
    count = min(reference.n, SPECTRUM_EVENTS)
    total = torch.zeros((), dtype=torch.float64)
    for events in reference.at(spread(count, reference.n)):
        total = total + dct(events).double().square().sum(0)
    return by_frequency(total / count)


def by_frequency(power: Tensor) -> list[float]:
    """Means over the bands of equal steps of ρ, the constant component left out; at most 24 bands, none empty."""
    spatial = tuple(power.shape[1:])
    band = frequency_bands(power.shape, min(max(spatial), 24)).flatten()[1:]
    mean = power.mean(0).flatten()[1:]
    count = torch.bincount(band)
    total = torch.zeros(len(count), dtype=torch.float64).index_add(0, band, mean)
    return [float(value) for value in (total / count)[count > 0]]


def _order(estimate: Estimate, better: str) -> float:
    return -estimate.value if better == "higher" else estimate.value


def _gated(gate: Gate, labels: Sequence[str], estimates: Sequence[Estimates]) -> dict[str, Any]:
    """A gate, and whether each arm but the baseline meets it."""
    arms = []
    for label, of in zip(labels[1:], estimates[1:], strict=True):

        def lookup(name: str, of: Estimates = of) -> Estimate:
            if name == "difference" and (against := of[gate.name][1]) is not None:
                return against
            return estimates[0][gate.name][0] if name == "baseline" else of[name][0]

        left, right = gate.sides(lookup)
        arms.append({"label": label, "left": left, "right": right, "passed": gate.passes(lookup)})
    return {"gate": gate.text, "number": gate.name, "passed": all(arm["passed"] for arm in arms), "arms": arms}
