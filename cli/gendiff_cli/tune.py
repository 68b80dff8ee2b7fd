"""``gendiff tune``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command, look_at
from gendiff.errors import ConfigError, Stopped
from gendiff.machine.stopping import within
from gendiff_cli.compare import MEASURING, instruments, seed_numbers
from gendiff_cli.console import counted, json_result, next_step, note, paragraph, result, shown, table
from gendiff_cli.crew import ThreadsOption
from gendiff_cli.opening import asking
from gendiff_cli.options import (
    DeviceOption,
    Given,
    JsonOption,
    SampledCompileOption,
    SampledPrecisionOption,
    configured,
    spec_option,
    typed,
    weights_option,
)
from gendiff_cli.remarks import remark_overruled

if TYPE_CHECKING:
    from gendiff.comparison.search import StudyPlan
    from gendiff.comparison.study import Study
    from gendiff.plugin.registry import Registry

SEARCHING = "Searching"
SHOWN = 10  # trials in the table of a terminal


@configured(
    "over by trials minutes search prune checks search_seed process rotation schedule velocity noise objective levels model data "
    "size latent condition hold_out sampler grid prior steps batch lr ema seeds n features fid_weights metric precision compiled "
    "device threads out preset config set"
)
def tune(
    context: typer.Context,
    given: Given,
    over: Annotated[
        list[str] | None,
        typer.Option(
            help="A setting to search over: KEY=LOW..HIGH, :log or :step=S after it, or KEY=VALUE,VALUE; may be given again.",
            metavar="KEY=RANGE",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="The number that decides: fd-random-conv, precision-pixels, spectrum.band_0, ... Default: the first one.",
            metavar="NUMBER",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Trials in all, those of before among them. Default: as many as were asked for last, at first 20.",
            rich_help_panel=SEARCHING,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Stop after so long; the same command goes on.", rich_help_panel=SEARCHING),
    ] = None,
    search: Annotated[
        str, typer.Option(help="What chooses the next trial: tpe, gp, random.", rich_help_panel=SEARCHING)
    ] = "tpe",
    prune: Annotated[
        str, typer.Option(help="What gives a trial up on its way: median, halving, none.", rich_help_panel=SEARCHING)
    ] = "median",
    checks: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How often a trial is measured, the last time at its end. Default: 4; 1 without pruning.",
            rich_help_panel=SEARCHING,
        ),
    ] = None,
    search_seed: Annotated[
        int, typer.Option("--search-seed", min=0, help="What is tried follows from it.", rich_help_panel=SEARCHING)
    ] = 0,
    seeds: Annotated[
        str,
        typer.Option(
            help="With how many seeds each trial is trained, 0, 1, ..., or with which: 0,4,7.",
            metavar="K|LIST",
            rich_help_panel=MEASURING,
        ),
    ] = "1",
    n: Annotated[int, typer.Option("--n", "-n", min=16, help="Samples of each run.", rich_help_panel=MEASURING)] = 512,
    features: Annotated[
        list[str] | None,
        spec_option(
            "features", "What is measured: inception, random-conv, pixels, dct; as of gendiff compare.", MEASURING
        ),
    ] = None,
    fid_weights: Annotated[Path | None, weights_option(MEASURING)] = None,
    metric: Annotated[
        list[str] | None, spec_option("metric", "What else is measured. Default: moments, spectrum.", MEASURING)
    ] = None,
    precision: SampledPrecisionOption = None,
    compiled: SampledCompileOption = False,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory; default: the next number under studies/. The same study goes on."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a study, or take part in it.", metavar="DIR")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    json: JsonOption = False,
) -> None:
    """Search settings with Optuna: each trial is a run, measured on its way and given up early where that is bad.

    gendiff tune --rotation dct --schedule log --over schedule.f_max=0.05..2:log --over lr=1e-4..1e-2:log --steps 2000
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("a study runs in one process", fix="start gendiff tune several times with one --out")
    registry: Registry = context.obj
    from gendiff.comparison.study import TRIALS, Study, library
    from gendiff.machine.world import join

    library()  # before anything is made
    if resume is not None:
        _refuse_changes(context, given)
        study: Study | None = Study.open(resume)
        plan = study.plan if study else None
    else:
        study = None
        plan = _plan(
            registry, over or [], given, by, search, prune, checks, search_seed, seeds, n, features, fid_weights, metric,
            asking(precision, compiled, device),
        )  # fmt: skip
    assert plan is not None
    with join(device) as world:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        numbers = plan.ruler.rehearse(world.device)
        if study is None:
            plan = _judged(plan, numbers, by)
            plan.check()
            study = Study.held(plan, out) if out is not None else None
        if dry_run:
            _describe(plan, study, study.wanted(trials) if study else trials or TRIALS, json)
            return
        study = study or Study.create(plan, out, sys.argv[1:])
        trials = study.wanted(trials)
        note(f"in {study.path}")
        from gendiff.comparison.report.study import write
        from gendiff_cli.progress import Bars

        ended = False
        try:
            with within(minutes), study.working() as heed:
                study.search(trials, registry, world.device, Bars(registry), heed, _finished)
        except Stopped as stop:
            if minutes is None or stop.signal != signal.SIGUSR1:
                raise
            ended = True
        facts = study.facts()
        files = write(study, facts)
    if json:
        json_result(facts)
    else:
        _report(facts, files)
    go_on = command("tune", "--resume", study.path, "--trials", trials)
    if ended:
        note(f"{minutes:g} minutes are over; what was reached is saved")
    best = facts["best"]
    next_step(*([go_on] if ended else []), *([best["compare"] or best["train"]] if best else []), look_at(files[1]))


def _plan(
    registry: Registry,
    over: list[str],
    given: Given,
    by: str | None,
    search: str,
    prune: str,
    checks: int | None,
    search_seed: int,
    seeds: str,
    n: int,
    features: list[str] | None,
    fid_weights: Path | None,
    metrics: list[str] | None,
    asked: Mapping[str, Any],
) -> StudyPlan:
    from gendiff.comparison.search import StudyPlan
    from gendiff.comparison.space import space
    from gendiff.run.layers import resolve

    dimensions, layers = space(over), given.layers(registry)
    settings = resolve(layers)
    remark_overruled(settings)
    first, others = instruments(features, fid_weights, metrics, settings.config.data.picture_shape)
    return StudyPlan(
        tuple(layers),
        dimensions,
        first,
        n,
        others,
        seed_numbers(seeds),
        checks or (1 if prune == "none" else 4),
        search,
        prune,
        search_seed,
        **asked,
    )


def _judged(plan: StudyPlan, numbers: Any, by: str | None) -> StudyPlan:
    from dataclasses import replace

    from gendiff.comparison.search import judged

    name, better = judged(plan, numbers, by)
    return replace(plan, by=name, better=better)


def _refuse_changes(context: typer.Context, given: Given) -> None:
    """Raise `ConfigError` for options that would make another study of one that goes on."""
    kept = ("trials", "minutes", "device", "threads", "resume", "json", "dry_run")
    changes = typed(context, kept)
    if changes:
        raise ConfigError(
            f"a study that goes on keeps its plan; {', '.join(changes)} would change it",
            where="--resume",
            details=["only --trials, --minutes, --device, --threads, --dry-run and --json may be given with --resume"],
            fix="leave it out, or start another study",
        )


def _finished(trial: Mapping[str, Any]) -> None:
    """Say how a trial has ended."""
    how = {
        "complete": shown(trial["value"], ".4g"),
        "pruned": f"{shown(trial['value'], '.4g')}, given up at check {len(trial['checks'])}",
        "failed": f"failed: {trial['failure']}",
    }
    note(f"trial {trial['trial']}: {how.get(trial['state'], trial['state'])} with {_said(trial['parameters'])}")


def _said(parameters: Mapping[str, Any]) -> str:
    from gendiff.comparison.report.study import setting

    return ", ".join(f"{key}={setting(value)}" for key, value in parameters.items())


def _describe(plan: StudyPlan, study: Study | None, trials: int, json: bool) -> None:
    """Say what would be done."""
    done = len(study.optuna.get_trials(deepcopy=False)) if study else 0
    facts = {**plan.table(), "trials": trials, "there": done}
    if json:
        json_result(facts)
        return
    lines = {
        "over": "; ".join(one.text for one in plan.dimensions),
        "by": f"{plan.by}, {_way(plan.better)}",
        "trials": f"{trials} in all, {done} there already",
        "each": f"{counted(len(plan.seeds), 'run')} of {plan.base.config.train.steps:,} steps, {counted(plan.checks, 'check')} "
        f"of {plan.n:,} samples",
        "search": f"{plan.search}, seed {plan.search_seed}; pruning by {plan.prune}",
    }
    for key, value in lines.items():
        paragraph(f"{key:8} {value}", indent=9)
    result("nothing was written")


def _way(better: str) -> str:
    return {"higher": "higher is better", "lower": "lower is better"}.get(better, "nearer to 0 is better")


def _report(facts: Mapping[str, Any], files: list[Path]) -> None:
    """Print the best trials, and where the rest is."""
    from gendiff.comparison.report.study import ranked, setting

    trials, best = ranked(facts), facts["best"]
    states = [one["state"] for one in trials]
    headline = (
        f"trial {best['trial']} is the best: {facts['number']} {shown(best['value'], '.4g')} with {_said(best['parameters'])}"
        if best
        else "no trial has come to its end yet"
    )
    paragraph(headline, indent=2)
    counts = f"{states.count('complete')} trained to the end, {states.count('pruned')} given up on the way"
    more = [
        f"{count} {word}"
        for state, word in (("failed", "failed"), ("running", "not finished"))
        if (count := states.count(state))
    ]
    paragraph(f"{counted(len(trials), 'trial')}: {', '.join([counts, *more])}", indent=2)
    result("")
    keys = list(dict.fromkeys(key for one in trials for key in one["parameters"]))
    rows = [
        (
            str(one["trial"]),
            *(setting(one["parameters"][key]) if key in one["parameters"] else "" for key in keys),
            shown(one["value"], ".4g"),
            _state(one, facts["checks"]),
        )
        for one in trials[:SHOWN]
    ]
    table(
        ["trial", *keys, f"{facts['number']} ({_way(facts['better']).removesuffix(' is better')} is better)", ""], rows
    )
    if len(trials) > SHOWN:
        result(f"and {len(trials) - SHOWN} more")
    result("")
    for file in files:
        result(str(file))
    if best:
        result(best["config"])


def _state(one: Mapping[str, Any], checks: int) -> str:
    said = {
        "complete": "",
        "pruned": f"given up at check {len(one['checks'])} of {checks}",
        "running": "not finished",
        "failed": f"failed: {one['failure']}",
    }
    return said.get(one["state"], str(one["state"]))
