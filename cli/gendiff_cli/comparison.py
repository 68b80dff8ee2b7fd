"""What the terminal is told of a comparison: its plan, and its verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiff.command import look_at, quoted
from gendiff.errors import CheckError
from gendiff_cli.console import amount, counted, duration, json_result, next_step, paragraph, result, table
from gendiff_cli.training import remark_load

if TYPE_CHECKING:
    from gendiff.comparison.cost import Cost
    from gendiff.comparison.plan import Plan


def describe(plan: Plan, cost: Cost, machine: Mapping[str, Any], json: bool) -> None:
    """Print what would be done, and what it would take on this ``machine``."""
    from gendiff.comparison import settings

    arms: list[dict[str, Any]] = [
        {
            "label": contender.label,
            "train": [] if contender.runs else list(plan.seeds),
            "reuse": [str(path) for path in contender.runs.values()],
            "samplers": [sampler.spec for sampler in plan.samplers(contender)],
            "prior": contender.config.sampler.prior,
            "findings": [asdict(finding) for finding in contender.findings],
        }
        for contender in plan.contenders
    ]
    differing = settings.differing(plan.contenders)
    if json:
        facts = {"arms": arms, "n": plan.n, "features": [one.spec for one in plan.features]}
        facts |= {
            "differ": settings.sentences(plan.contenders),
            "differences": {one.path: list(one.values) for one in differing},
            "groups": {one.path: one.group for one in differing},
            "asked": [one.path for one in differing if one.asked],
        }
        json_result({**facts, **machine, "cost": cost.json()})
        return
    rows = []
    for arm in arms:
        work = f"{len(arm['train'])} runs to train" if arm["train"] else f"{len(arm['reuse'])} runs to reuse"
        rows.append((str(arm["label"]), work, ", ".join(map(str, arm["samplers"]))))
    table(["name", "work", "sampler"], rows)
    result("")
    table(
        ["name", "of", "asked", *(contender.label for contender in plan.contenders)],
        [(one.path, one.group, "yes" if one.asked else "no", *map(settings.shown, one.values)) for one in differing],
    )
    _warn(arms)
    result("")
    show_cost(cost, machine)
    result("nothing was written")


def show_cost(cost: Cost, machine: Mapping[str, Any]) -> None:
    """Print what is still to be done of a comparison, arm by arm and in all, and what these times are measured with."""
    rows = [
        (
            arm.label,
            f"{arm.train} x {duration(arm.training)}" if arm.train else "-",
            f"{arm.sample} x {duration(arm.sampling / arm.sample)}" if arm.sample else "-",
            amount(arm.memory.peak) if arm.memory else "-",
            f"{arm.train} x {amount(arm.disk.total)}" if arm.disk else "-",
        )
        for arm in cost.arms
    ]
    table(["name", "training", "sampling", "memory", "disk"], rows)
    most = f", {amount(cost.memory.peak)} of memory at most" if cost.memory else ""
    disk = f", {amount(cost.disk)} on the disk, {amount(cost.peak_disk)} on the way"
    time, at_once = duration(cost.seconds), machine["at_once"]
    if at_once > 1:
        time = f"{duration(cost.seconds / at_once)} with {at_once} at a time, {time} one after the other"
    paragraph(f"in all: {time}, and what measuring takes{most}{disk}", indent=8)
    threads = f", {counted(machine['threads'], 'thread')}: {machine['threads_because']}"
    paragraph(f"by steps on {machine['device']}{threads if machine['device'] == 'cpu' else ''}", indent=8)
    remark_load(machine)


def report(facts: dict[str, Any], files: Sequence[Path], json: bool) -> None:
    """Print the ranking and where the rest is; raises `CheckError` where a gate is not passed."""
    if json:
        json_result(facts)
    else:
        name = facts["number"]
        paragraph(facts["verdict"]["headline"], indent=2)
        for sentence in facts["differ"]:
            paragraph(_capital(sentence), indent=2)
        result("")
        better = "higher" if facts["better"][name] == "higher" else "lower"
        rows = [_row(arm, name) for arm in sorted(facts["arms"], key=lambda arm: arm["rank"])]
        table(["rank", "name", f"{name} ({better} is better)", "minus baseline", "verdict"], rows)
        result("")
        for sentence in facts["verdict"]["sentences"]:
            paragraph(sentence, indent=2)
        for remark in facts["remarks"]:
            paragraph(f"{remark['rule']}: {remark['text']}", indent=2)
        _warn(facts["arms"])
        for arm in facts["arms"]:
            for alarm in arm["alarms"]:
                paragraph(f"warning: {arm['label']}: {alarm}", indent=9)
        for gate in facts["gates"]:
            if gate["passed"]:
                result(f"gate passed: {gate['gate']}")
        result("")
        for file in files[:2]:
            result(str(file))
    failures = [one for one in facts["gates"] if not one["passed"]]
    if failures:
        raise CheckError(
            f"{len(failures)} of {len(facts['gates'])} gates are not passed",
            details=[
                f"{one['gate']}: {arm['label']} has {arm['left']:.6g} against {arm['right']:.6g}"
                for one in failures
                for arm in one["arms"]
                if not arm["passed"]
            ],
            fix=f"see {quoted(files[1])}",
        )
    next_step(look_at(files[1]))


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def warning(label: str, finding: str) -> str:
    """What is wrong with where the sampling of an arm starts, and the way out."""
    return f"{label}: {finding}: sampler.prior=matched in the arm"


def _warn(arms: Sequence[dict[str, Any]]) -> None:
    """Say of which arms sampling starts in the wrong place."""
    for arm in arms:
        for finding in arm["findings"]:
            paragraph(f"warning: {warning(arm['label'], finding['text'])}", indent=9)


def _row(arm: dict[str, Any], name: str) -> tuple[str, ...]:
    of = arm["numbers"][name]
    value, against = of["value"], of["difference"]
    outcome = {"better": "better", "worse": "worse", "undecided": "no difference seen", None: "baseline"}[
        arm["outcome"]
    ]
    outcome += ", at this seed" if against and against["method"] == "sampling" else ""
    difference = f"{against['value']:+.4g}{_ends(against, '+.3g')}" if against else ""
    return str(arm["rank"]), arm["label"], f"{value['value']:.4g}{_ends(value, '.4g')}", difference, outcome


def _ends(estimate: dict[str, Any], form: str) -> str:
    if estimate["low"] is None:
        return " [no interval]"
    return f" [{estimate['low']:{form}}, {estimate['high']:{form}}]"
