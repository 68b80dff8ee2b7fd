"""Comparisons that are worked on by several, and what must be equal between two of them."""

from __future__ import annotations

import json

import numpy as np
from runs import CPU

from gendiff.comparison.directory import Comparison
from gendiff.comparison.engine import Engine
from gendiff.comparison.fairness import unequal
from gendiff.comparison.listener import Silent
from gendiff.comparison.result import result
from gendiff.machine.jobs import Crew
from gendiff.plugin.registry import default_registry

PAIR = Crew(2, 1)


def done(path, plan, crew) -> tuple[dict, dict, dict]:
    """The numbers of a comparison, done or gone on with, and the hashes of its weights and of what there is to see."""
    comparison = Comparison.create(plan, path, ["compare"])
    with comparison.working() as heed:
        engine = Engine(comparison, default_registry(), CPU, Silent(), heed, crew)
        engine.finish()
        engine.looks()
    arms = json.loads(json.dumps(result(comparison, unequal(plan))))["arms"]
    for one in (one for arm in arms for one in arm["runs"]):
        del one["path"], one["drawing"]["run"]
    manifests = {
        run.name: json.loads(next(run.glob("checkpoints/step-*4/MANIFEST.json")).read_text())["files"]
        for run in sorted((path / "runs").iterdir())
    }
    weights = {
        name: {key: value for key, value in files.items() if "safetensors" in key} for name, files in manifests.items()
    }
    looks = {}
    for path in (comparison.path / "looks").iterdir():
        with np.load(path) as arrays:  # its key depends on the run's own name
            looks[path.name] = {name: array.tobytes() for name, array in arrays.items() if name != "key"}
    return {"arms": arms}, weights, looks
