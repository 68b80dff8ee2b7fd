"""``gendiff compare``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gendiff.command import command
from gendiff.errors import ConfigError, Stopped
from gendiff.machine.load import Load
from gendiff_cli.comparison import describe, report, warning
from gendiff_cli.console import busy, counted, next_step, note, result
from gendiff_cli.crew import AtOnceOption, ThreadsOption, crew_of, one_at_a_time
from gendiff_cli.measured import chosen_instruments
from gendiff_cli.opening import asking, open_run
from gendiff_cli.options import (
    DeviceOption,
    Given,
    JsonOption,
    SampledCompileOption,
    SampledPrecisionOption,
    configured,
    numbers,
    spec_option,
    typed,
    weights_option,
)
from gendiff_cli.remarks import remark_overruled
from gendiff_cli.training import machine

if TYPE_CHECKING:
    import torch

    from gendiff.comparison.cost import Cost
    from gendiff.comparison.directory import Comparison
    from gendiff.comparison.engine import Engine
    from gendiff.comparison.fairness import Unequal
    from gendiff.comparison.plan import Contender, Plan
    from gendiff.features import Features
    from gendiff.metric import Metric
    from gendiff.plugin.registry import Registry
    from gendiff.run.layers import Layer
    from gendiff.shapes import EventShape

MEASURING = "Measuring"
SPREADING = "Several machines"


@configured(
    "arm grid seeds steps batch lr ema model data size latent condition hold_out noise objective sampler "
    "nfe n features fid_weights metric precision compiled gate allow device threads at_once workers worker out preset config set"
)
def compare(
    context: typer.Context,
    given: Given,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="'dct schedule=log:f_max=0.6': a rotation and what else differs; 'preset=NAME', a shipped configuration; or a "
            "run, or several that differ in their seed. May be given again; the first is the baseline.",
            metavar="TEXT",
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            help="Every arm with each of these values of a key; given again, with each combination.",
            metavar="KEY=VALUE,VALUE",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many seeds, 0, 1, 2, ..., or which: 0,4,7.", metavar="K|LIST")] = "3",
    nfe: Annotated[
        str | None,
        typer.Option(
            help="Steps of the sampler to try; the last is ranked.", metavar="10,20,50,100", rich_help_panel=MEASURING
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=16, help="Samples of each run.", rich_help_panel=MEASURING)] = 1000,
    features: Annotated[
        list[str] | None,
        spec_option(
            "features",
            "What is ranked by: inception, random-conv, bands, pixels, dct; others may follow. Default: inception for pictures "
            "of 32 pixels or more, and else random-conv.",
            MEASURING,
        ),
    ] = None,
    fid_weights: Annotated[Path | None, weights_option(MEASURING)] = None,
    metric: Annotated[
        list[str] | None, spec_option("metric", "What else is measured. Default: moments, spectrum.", MEASURING)
    ] = None,
    precision: SampledPrecisionOption = None,
    compiled: SampledCompileOption = False,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            help="Exit with 5 unless it holds for every arm, such as 'fid<=baseline*1.02'; may be given again.",
            metavar="CONDITION",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            help="What may be unequal: data, basis, N, images, weights, ema, precision, prior, nfe, seeds, all; may be given "
            "again.",
            metavar="NAME",
        ),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    at_once: AtOnceOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Let so many workers do it, jobs of Slurm where there is one, else processes of this machine (submitit).",
            metavar="N",
            rich_help_panel=SPREADING,
        ),
    ] = None,
    worker: Annotated[
        list[str] | None,
        typer.Option(
            help="What a worker gets, as submitit calls it: slurm_partition=gpu, gpus_per_node=1, timeout_min=600, "
            "cluster=local; may be given again.",
            metavar="KEY=VALUE",
            rich_help_panel=SPREADING,
        ),
    ] = None,
    take_part: Annotated[
        Path | None,
        typer.Option(
            "--join",
            help="Be a worker of a comparison that others work on: take what is free, until nothing is left.",
            metavar="DIR",
            rich_help_panel=SPREADING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory; default: the next number under comparisons/. The same comparison goes on."),
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a comparison.", metavar="DIR")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and what it costs.")] = False,
    json: JsonOption = False,
) -> None:
    """Compare arms under one budget: train what is missing, sample with shared noise, rank with intervals.

    gendiff compare --arm identity --arm "dct schedule=quartic" --seeds 3 --steps 2000
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            "a comparison runs in one process",
            fix="train the arms under torchrun with gendiff train, and give their runs as arms",
        )
    registry: Registry = context.obj
    load = Load()
    from gendiff.comparison.directory import Comparison
    from gendiff.comparison.engine import Engine
    from gendiff.comparison.fairness import require_fair
    from gendiff.comparison.gate import Gate
    from gendiff.comparison.measure import rehearse
    from gendiff.comparison.settings import sentences
    from gendiff.comparison.sweep import swept
    from gendiff.machine.world import join
    from gendiff_cli.progress import Bars

    if take_part is not None:
        _join(context, registry, take_part, device, threads)
        return
    parameters = _parameters(worker or [], workers, at_once)
    comparison: Comparison | None
    if resume is not None:
        others = {
            "--arm": arm, "--grid": grid, "--nfe": nfe, "--features": features, "--fid-weights": fid_weights, "--metric": metric,
            "--precision": precision, "--compile": compiled, "--allow": allow, "--out": out,
        }  # fmt: skip
        _refuse_changes([*given.options, *(option for option, value in others.items() if value)])
        comparison = Comparison.open(resume)
        plan = comparison.plan
    else:
        comparison = None
        asked = asking(precision, compiled, device)
        texts = swept(arm or [], grid) if grid else arm or []
        plan = _plan(
            registry, texts, given.layers(registry), seeds, nfe, n, features, fid_weights, metric, allow, asked
        )
        if all(contender.runs for contender in plan.contenders):
            seeds_given = "--seeds" in typed(context)
            _refuse_unused([o for o in given.options if o != "--sampler"] + ["--seeds"] * seeds_given)
    unequal = require_fair(plan)
    _remark(plan)
    for sentence in sentences(plan.contenders):
        note(sentence)
    for one in unequal:
        note(f"not equal, and allowed: {one}")
    for contender in () if dry_run else plan.contenders:
        for finding in contender.findings:
            note(warning(contender.label, finding.text))
    if out is not None:
        comparison = Comparison.held(plan, out)
    with join(device if workers is None else None) as world:
        if workers is None:
            count, what = len(plan.cells()), "runs are trained and measured"
            crew = crew_of(count, at_once, threads, world.device, what, sharing=True)
        else:
            crew = one_at_a_time(threads, world.device)
        names = rehearse(plan, world.device)
        for text in gate or []:
            Gate.parse(text, names)
        if dry_run:
            describe(plan, _cost(plan, world.device, comparison), machine(world.device, load, crew), json)
            return
        comparison = comparison or Comparison.create(plan, out, sys.argv[1:])
        note(f"in {comparison.path}")
        try:
            with comparison.working() as heed:
                engine = Engine(comparison, registry, world.device, Bars(registry), heed, crew)
                if workers is not None:
                    _spread(engine, workers, parameters, device)
                facts, files = _compared(engine, unequal, gate or [])
        except Stopped as stop:
            if workers is not None:
                own = [word for text in worker or [] for word in ("--worker", text)]
                stop.fix = f"go on: {command('compare', '--resume', comparison.path, '--workers', workers, *own)}"
            raise
    report(facts, files, json)


def _cost(plan: Plan, device: torch.device, comparison: Comparison | None) -> Cost:
    from gendiff.comparison.cost import cost

    with busy("taking a few steps with each arm, which are forgotten"):
        return cost(plan, device, comparison)


def _compared(engine: Engine, unequal: Sequence[Unequal], gates: Sequence[str]) -> tuple[dict[str, Any], list[Path]]:
    """Do what is left to do, and write the report."""
    from gendiff.comparison import report as pages
    from gendiff.comparison.result import result as result_of

    engine.finish()
    looks = engine.looks()
    facts = result_of(engine.comparison, unequal, gates)
    return facts, pages.write(engine.comparison, facts, looks)


def _join(context: typer.Context, registry: Registry, path: Path, device: str | None, threads: int | None) -> None:
    """Do what nobody else does of a comparison, until nothing is left."""
    from gendiff.comparison.directory import Comparison
    from gendiff.comparison.engine import Engine
    from gendiff.machine.world import join
    from gendiff_cli.progress import Bars

    kept = ("take_part", "device", "threads")
    others = typed(context, kept)
    if others:
        raise ConfigError(
            f"a worker does what the comparison says; {', '.join(others)} would change it",
            where="--join",
            details=["only --device and --threads may be given with --join"],
            fix="leave it out",
        )
    comparison = Comparison.open(path)
    with join(device) as world:
        one_at_a_time(threads, world.device)
        with comparison.working(alone=False) as heed:
            Engine(comparison, registry, world.device, Bars(registry), heed).share()
    result(f"nothing is left to do in {path}")
    next_step(command("compare", "--resume", path))


def _spread(engine: Engine, workers: int, parameters: Mapping[str, Any], device: str | None) -> None:
    """Let workers do what is missing, on a CPU with as many threads as this process has: they decide last bits."""
    import torch

    from gendiff.comparison.fleet import Fleet, Worker
    from gendiff_cli.worker import work

    comparison = engine.comparison
    if not (left := comparison.left()):
        return
    own = ["--device", device] if device is not None else []
    line = command("compare", "--join", comparison.path.absolute(), "--threads", torch.get_num_threads(), *own)
    fleet = Fleet(comparison.path / "workers", Worker(work, shlex.split(line)[1:]), workers, parameters)
    note(f"{counted(workers, 'worker')} ({fleet.cluster}), whose logs are in {fleet.folder}")
    with engine.listener.working(f"{counted(workers, 'worker')}: pieces of work", left) as advance:
        fleet.finish(comparison.left, engine.heed, advance, note)


def _parameters(texts: Sequence[str], workers: int | None, at_once: int | None) -> dict[str, Any]:
    """What ``--worker`` says of each worker."""
    from gendiff.component import parse_value

    if texts and workers is None:
        raise ConfigError(
            "--worker says what workers get, and there are none", where="--worker", fix="give --workers N too"
        )
    if workers is not None and at_once is not None:
        raise ConfigError(
            "each worker does one piece of work at a time",
            where=f"--at-once {at_once}",
            fix="leave it out, and give more --workers",
        )
    parts = [text.partition("=") for text in texts]
    if wrong := next(
        (text for text, (key, equals, _) in zip(texts, parts, strict=True) if not equals or not key.strip()), ""
    ):
        raise ConfigError(
            f"cannot read '{wrong}'", where="--worker", fix="write --worker KEY=VALUE, such as gpus_per_node=1"
        )
    return {key.strip(): parse_value(value.strip()) for key, _, value in parts}


def _plan(
    registry: Registry,
    texts: Sequence[str],
    common: list[Layer],
    seeds: str,
    nfe: str | None,
    n: int,
    features: list[str] | None,
    fid_weights: Path | None,
    metrics: list[str] | None,
    allow: list[str] | None,
    asked: Mapping[str, Any],
) -> Plan:
    from gendiff.comparison.arm import parse_arms
    from gendiff.comparison.plan import Contender, Plan

    if len(texts) < 2:
        raise ConfigError(
            f"a comparison has two arms at least, here {'is one' if texts else 'are none'}",
            where="--arm",
            fix='write gendiff compare --arm identity --arm "dct schedule=quartic", or --grid N=100,1000',
        )
    sampler = next((layer for layer in common if layer.origin == "--sampler"), None)
    arms = parse_arms(texts, registry)
    remark_overruled(*(arm.over(common) for arm in arms if arm.run is None))
    contenders = [Contender.of(arm, text, common, sampler) for arm, text in zip(arms, texts, strict=True)]
    first, others = instruments(features, fid_weights, metrics, contenders[0].config.data.picture_shape)
    return Plan(
        contenders=tuple(contenders),
        seeds=seed_numbers(seeds),
        features=first,
        n=n,
        metrics=others,
        evaluations=numbers(nfe, "--nfe", "10,20,50") if nfe is not None else _common_steps(contenders),
        allowed=tuple(allow or ()),
        **asked,
    )


def _common_steps(contenders: Sequence[Contender]) -> tuple[int, ...]:
    """The steps that all samplers ask for: then each shall evaluate the network so often, whichever steps its grid drops."""
    steps = {getattr(contender.config.sampler, "steps", None) for contender in contenders}
    return (only,) if len(steps) == 1 and isinstance(only := steps.pop(), int) else ()


def instruments(
    features: list[str] | None, weights: Path | None, metrics: list[str] | None, shape: EventShape
) -> tuple[tuple[Features, ...], tuple[Metric, ...]]:
    """The features and the metrics that are asked for, or those that suit the events; features first."""
    from gendiff.features import Features
    from gendiff.metric import Metric

    chosen = chosen_instruments(features, metrics, weights, shape, None)
    return (
        tuple(one for one in chosen if isinstance(one, Features)),
        tuple(one for one in chosen if isinstance(one, Metric)),
    )


def seed_numbers(text: str) -> tuple[int, ...]:
    """``3`` is three of them, ``0,4,7`` are these; ``4,`` is one."""
    if "," in text:
        return numbers(text, "--seeds", "0,4,7", least=0)
    return tuple(range(numbers(text, "--seeds", "3, or 0,4,7")[0]))


def _refuse_changes(given: Sequence[str]) -> None:
    if given:
        raise ConfigError(
            f"a comparison that goes on keeps its plan; {', '.join(given)} would change it",
            where="--resume",
            details=[
                "only --gate, --device, --threads, --at-once, --workers, --worker and --json may be given with --resume"
            ],
            fix="leave it out, or start another comparison",
        )


def _refuse_unused(given: Sequence[str]) -> None:
    if given:
        raise ConfigError(
            f"nothing is trained here, and {', '.join(given)} would have no effect",
            where="--arm",
            details=["every arm is a run that exists: it is compared as it was trained, with the seeds that it has"],
            fix="leave it out, or give an arm that is to be trained; --sampler holds for runs too",
        )


def _remark(plan: Plan) -> None:
    """Say what is odd about runs that are reused, and find out now whether loggers are there."""
    for contender in plan.contenders:
        for path in contender.runs.values():
            open_run(path, label=f"{path}: ")
        for logger in () if contender.runs else contender.config.train.loggers:
            logger.ready()
