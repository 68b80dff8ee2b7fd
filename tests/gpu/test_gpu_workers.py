"""Two workers that share one GPU come to what one comes to alone."""

from __future__ import annotations

import os
from functools import partial

import pytest
import torch
from plans import plan_of, shared

from gendiff.comparison.cost import memory_on_card
from gendiff.comparison.directory import Comparison
from gendiff.comparison.engine import Engine
from gendiff.comparison.listener import Silent
from gendiff.comparison.result import curves
from gendiff.machine.jobs import ALONE, CONTEXT, Crew, crew_on_card, free_on
from gendiff.plugin.registry import default_registry
from gendiff.run import checkpoint
from gendiff.run.directory import Run

UNET = "unet:channels=16,multipliers=[1,2],attention=[2],heads=2"


def plan():
    """Two arms whose trainings repeat themselves; steps enough that one is recorded."""
    data = "gaussian-field:size=[8,8],channels=1"
    own = {"model": UNET, "data": data, "steps": 12, "checkpoint_every": 6, "deterministic": True}
    return plan_of("identity", "dct schedule=log:f_max=0.14", below=shared(**own), n=32, evaluations=(4,))


def done(path, device, crew):
    comparison = Comparison.create(plan(), path, ["compare"])
    with comparison.working() as heed:
        engine = Engine(comparison, default_registry(), device, Silent(), heed, crew)
        engine.finish()
        engine.looks()
    runs = {cell.name: comparison.run_path(cell) for cell in plan().cells()}
    weights = {name: checkpoint.newest(path / "checkpoints").tensors for name, path in runs.items()}
    return {Run.open(path).info["pid"] for path in runs.values()}, weights, curves(comparison)


def test_two_at_a_time_are_as_one_after_the_other(device, tmp_path):
    threads = torch.get_num_threads()
    _, expected, numbers = done(tmp_path / "alone", device, ALONE)
    processes, weights, others = done(tmp_path / "both", device, Crew(2, threads, anew=True))
    assert os.getpid() not in processes
    for name, groups in expected.items():
        for group, named in groups.items():
            for key, value in named.items():
                assert torch.equal(weights[name][group][key], value), f"{name} {group}/{key}"
    for arm, points in numbers.items():
        for count, by_seed in points.items():
            for seed, number in by_seed.items():
                assert others[arm][count][seed].value == pytest.approx(number.value, rel=1e-3), f"{arm} {count} {seed}"


def test_what_a_run_takes_is_known_and_given_back(device, request, monkeypatch):
    if request.config.getoption("--rehearse"):
        for name, answer in {
            "max_memory_reserved": 2**28,
            "memory_reserved": 0,
            "mem_get_info": (2**36, 2**37),
        }.items():
            monkeypatch.setattr(torch.cuda, name, lambda device, answer=answer: answer)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    before = torch.cuda.memory_reserved(device)
    takes = memory_on_card(plan(), device)
    assert 0 < takes < 8 * 2**30
    assert torch.cuda.memory_reserved(device) <= before + 2**27
    crew = crew_on_card(4, None, 1, partial(free_on, device), partial(memory_on_card, plan(), device))
    assert crew.at_once >= 1
    assert crew.at_once * (takes + CONTEXT) <= free_on(device) or crew.at_once == 1
