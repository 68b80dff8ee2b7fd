"""``gendiff reproduce twin``."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gendiff.command import look_at, quoted, words
from gendiff.errors import Stopped
from gendiff.machine.load import Load
from gendiff_cli.comparison import show_cost
from gendiff_cli.console import busy, json_result, next_step, note, result
from gendiff_cli.crew import crew_of
from gendiff_cli.measured import chosen_instruments
from gendiff_cli.options import Given
from gendiff_cli.remarks import remark_overruled
from gendiff_cli.training import machine

if TYPE_CHECKING:
    from gendiff.comparison.plan import Plan
    from gendiff.comparison.reproduction import Scale
    from gendiff.plugin.registry import Registry


def of_twin(
    registry: Registry,
    scale: str,
    given: Given,
    seeds: int | None,
    steps: int | None,
    n: int | None,
    features: str | None,
    weights: Path | None,
    asked: Mapping[str, Any],
    device: str | None,
    load: Load,
    at_once: int | None,
    threads: int | None,
    folder: Path,
    dry_run: bool,
    json: bool,
) -> None:
    """Hold processes against their isotropic twin, with each objective, in ``folder``; what is there is not done again."""
    from gendiff.comparison import twin
    from gendiff.comparison.cost import cost, memory_on_card
    from gendiff.comparison.engine import Comparison
    from gendiff.comparison.fairness import require_fair
    from gendiff.comparison.measure import rehearse
    from gendiff.machine.world import choose_device, join
    from gendiff_cli.progress import Bars

    plans = _plans(registry, twin.SCALES[scale], scale, given, seeds, steps, n, features, weights, asked)
    for plan in plans.values():
        require_fair(plan)
    count = len(next(iter(plans.values())).cells())
    where = choose_device(device)
    first = plans[twin.OBJECTIVES[0]]
    crew = crew_of(
        count,
        at_once,
        threads,
        where,
        "runs are trained and measured",
        sharing=True,
        on_card=partial(memory_on_card, first, where),
    )
    rehearse(first, choose_device("cpu"))  # what would fail after hours fails here
    if dry_run:
        for objective, plan in plans.items():
            there = Comparison.held(plan, folder / objective)
            with busy(f"{objective}: taking a few steps with each arm, which are forgotten"):
                of_all = cost(plan, where, there or Comparison(folder / objective, plan))
            facts = machine(where, load, crew)
            if json:
                json_result({"target": "twin", "scale": scale, "objective": objective, **facts, **of_all.json()})
            else:
                result(objective)
                show_cost(of_all, facts)
        return
    comparisons = {name: Comparison.create(plan, folder / name, sys.argv[1:]) for name, plan in plans.items()}
    note(f"in {folder}")
    try:
        with join(device) as world:
            files = twin.twin(comparisons, folder, registry, world.device, Bars(registry), crew)
    except Stopped as stop:
        stop.fix = f"go on: {quoted('gendiff', *words())}"
        raise
    if json:
        json_result({"target": "twin", "scale": scale, "files": [str(file) for file in files]})
    else:
        result(files[0].read_text(encoding="utf-8"))
        for file in files:
            result(str(file))
    next_step(look_at(files[2]))


def _plans(
    registry: Registry,
    scale: Scale,
    name: str,
    given: Given,
    seeds: int | None,
    steps: int | None,
    n: int | None,
    features: str | None,
    weights: Path | None,
    asked: Mapping[str, Any],
) -> dict[str, Plan]:
    """The comparison of each objective; the features Inception are there besides where their weights are."""
    from gendiff.comparison import twin
    from gendiff.features import Features
    from gendiff.metric import Metric
    from gendiff.run.layers import resolve

    own = {"preset": [scale.preset], **({} if steps is None else {"steps": steps})}
    layers = Given({**given.values, **own}).layers(registry)
    remark_overruled(resolve(layers))
    more = ["inception"] if not features and (weights or os.environ.get("GENDIFF_FID_WEIGHTS")) else []
    instruments = chosen_instruments([features or scale.features, *more], None, weights, (), None)
    return {
        objective: twin.plan(
            objective,
            layers,
            seeds or scale.seeds,
            n or scale.n,
            twin.EVALUATIONS[name],
            [one for one in instruments if isinstance(one, Features)],
            [one for one in instruments if isinstance(one, Metric)],
            **asked,
        )
        for objective in twin.OBJECTIVES
    }
