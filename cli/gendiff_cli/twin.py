"""``gendiff reproduce twin``."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from gendiff.command import look_at, quoted, words
from gendiff.errors import Stopped
from gendiff_cli.comparison import show_cost
from gendiff_cli.console import busy, json_result, next_step, note, result

if TYPE_CHECKING:
    from gendiff.comparison.plan import Plan
    from gendiff_cli.experiment import Experiment


def of_twin(experiment: Experiment) -> None:
    """Hold processes against their isotropic twin, with each objective; what is there is not done again."""
    from gendiff.comparison import twin
    from gendiff.comparison.cost import cost, memory_on_card
    from gendiff.comparison.directory import Comparison
    from gendiff.comparison.fairness import require_fair
    from gendiff.comparison.measure import rehearse
    from gendiff.machine.world import choose_device, join
    from gendiff_cli.progress import Bars

    plans, folder = _plans(experiment), experiment.folder
    for plan in plans.values():
        require_fair(plan)
    first, where = plans[twin.OBJECTIVES[0]], choose_device(experiment.device)
    crew = experiment.crew(len(first.cells()), where, partial(memory_on_card, first, where))
    rehearse(first, choose_device("cpu"))  # what would fail after hours fails here
    about = {"target": "twin", "scale": experiment.scale}
    if experiment.dry_run:
        for objective, plan in plans.items():
            there = Comparison.held(plan, folder / objective)
            with busy(f"{objective}: taking a few steps with each arm, which are forgotten"):
                of_all = cost(plan, where, there or Comparison(folder / objective, plan))
            facts = experiment.machine(where, crew)
            if experiment.json:
                json_result({**about, "objective": objective, **facts, **of_all.json()})
            else:
                result(objective)
                show_cost(of_all, facts)
        return
    comparisons = {name: Comparison.create(plan, folder / name, sys.argv[1:]) for name, plan in plans.items()}
    note(f"in {folder}")
    try:
        with join(experiment.device) as world:
            listener = Bars(experiment.registry)
            files = twin.twin(comparisons, folder, experiment.registry, world.device, listener, crew)
    except Stopped as stop:
        stop.fix = f"go on: {quoted('gendiff', *words())}"
        raise
    if experiment.json:
        json_result({**about, "files": [str(file) for file in files]})
    else:
        result(files[0].read_text(encoding="utf-8"))
        for file in files:
            result(str(file))
    next_step(look_at(files[2]))


def _plans(experiment: Experiment) -> dict[str, Plan]:
    """The comparison of each objective; the features Inception are there besides where their weights are."""
    from gendiff.comparison import twin
    from gendiff.features import Features
    from gendiff.metric import Metric

    scale = twin.SCALES[experiment.scale]
    layers = experiment.layers(scale.preset)
    weights = experiment.weights or os.environ.get("GENDIFF_FID_WEIGHTS")
    instruments = experiment.instruments(
        scale.features, *(["inception"] if weights and not experiment.features else [])
    )
    return {
        objective: twin.plan(
            objective,
            layers,
            experiment.seeds or scale.seeds,
            experiment.n or scale.n,
            scale.evaluations,
            [one for one in instruments if isinstance(one, Features)],
            [one for one in instruments if isinstance(one, Metric)],
            **experiment.asked,
        )
        for objective in twin.OBJECTIVES
    }
