"""What a comparison or a reproduction will cost: the sum over arms and seeds of what is still to be done."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from command import run

from gendiff.comparison import cost as module
from gendiff.comparison.cost import cost
from gendiff.comparison.directory import Comparison
from gendiff.machine.load import Load, cores
from gendiff.training.cost import Memory, Pace

ARMS = ("--arm", "identity", "--arm", "dct schedule=log")
SMALL = (
    *("--model", "mlp:width=8,depth=1", "--batch", 4, "--steps", 6, "--set", "train.sample_every=0"),
    *("--set", "N=20", "--sampler", "ancestral:steps=4,grid=uniform", "--n", 32, "--features", "pixels", "--seeds", 2),
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("cost") / "c"
    assert run("compare", *ARMS, *SMALL, "--out", path).code == 0
    return path


@pytest.fixture
def paced(monkeypatch):
    """Steps of a second, evaluations of a tenth, and a gigabyte."""
    monkeypatch.setattr(module, "rehearse", lambda trainer: Pace(2.0, 1.0, 3, 0.5))
    monkeypatch.setattr(module, "evaluation_seconds", lambda denoiser, config, count: 0.1)
    monkeypatch.setattr(module, "most_memory", lambda trainer: Memory(2**30, "so", True))


@pytest.mark.slow
def test_it_is_the_sum_over_arms_and_seeds(finished, paced):
    plan = Comparison.open(finished).plan
    whole = cost(plan, CPU)
    assert [arm.label for arm in whole.arms] == ["identity", "dct schedule=log"]
    for arm in whole.arms:
        assert (arm.train, arm.sample) == (2, 2)
        assert arm.training == 2 + 6 * 1  # the first step, and no previews
        assert arm.sampling == pytest.approx(2 * 4 * 0.1 * math.ceil(32 / module.CHUNK["cpu"]))
    assert whole.seconds == pytest.approx(sum(2 * arm.training + arm.sampling for arm in whole.arms))
    assert whole.memory.peak == 2**30
    assert whole.disk == sum(2 * arm.disk.total for arm in whole.arms)
    assert whole.waiting == 32 * 64 * 4
    assert whole.peak_disk == whole.disk + max(
        whole.waiting, whole.arms[0].disk.checkpoint, whole.arms[1].disk.checkpoint
    )


@pytest.mark.slow
def test_what_is_done_is_not_counted(finished, paced, tmp_path):
    done = cost(Comparison.open(finished).plan, CPU, Comparison.open(finished))
    assert (done.seconds, done.disk, done.memory) == (0, 0, None)
    shutil.copytree(finished, tmp_path / "c")
    comparison = Comparison.open(tmp_path / "c")
    cell = comparison.plan.cells()[-1]
    shutil.rmtree(comparison.run_path(cell))
    rest = cost(comparison.plan, CPU, comparison)
    assert [(arm.label, arm.train, arm.sample) for arm in rest.arms] == [("identity", 0, 0), ("dct schedule=log", 1, 0)]
    shutil.rmtree(tmp_path / "c" / "measures" / cell.name)
    assert cost(comparison.plan, CPU, comparison).arms[1].sample == 1


def test_runs_that_are_reused_are_sampled_and_not_trained(finished, paced, tmp_path):
    runs = sorted((finished / "runs").iterdir())
    facts = run("compare", "--arm", runs[0], "--arm", runs[2], "--n", 32, "--features", "pixels", "--dry-run", "--json")
    arms = facts.json["cost"]["arms"]
    assert [(arm["train"], arm["sample"], arm["disk"]) for arm in arms] == [(0, 1, None)] * 2
    assert facts.json["cost"]["memory"] is None


def test_what_it_says_of_the_disk_is_what_a_comparison_keeps(finished):
    whole = cost(Comparison.open(finished).plan, CPU)
    kept = sum(file.stat().st_size for file in (finished / "runs").rglob("*") if file.is_file())
    assert whole.disk == pytest.approx(kept, rel=0.1)


class TestCommands:
    def test_compare(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        line = ("compare", *ARMS, *SMALL, "--dry-run")
        monkeypatch.setattr(Load, "others", lambda self: 0.0)
        whole = run(*line, "--json").json
        assert (whole["device"], whole["threads"], whole["cores_others_use"]) == ("cpu", torch.get_num_threads(), 0)
        facts = whole["cost"]
        assert facts["hours"] == facts["seconds"] / 3600 > 0
        assert facts["seconds"] == pytest.approx(sum(arm["seconds"] for arm in facts["arms"]))
        assert facts["disk"]["total"] == sum(2 * arm["disk"]["total"] for arm in facts["arms"])
        told = run(*line).out.splitlines()
        assert told[-1] == "nothing was written"
        assert told[-2].startswith(f"by steps on cpu, {torch.get_num_threads()} thread")
        assert told[-3].startswith("in all: ")
        at_once = whole["at_once"]
        assert at_once == 1 or f"with {at_once} at a time, " in told[-3]
        assert "of memory at most" in told[-3]
        assert "2 x " in told[-4]
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_it_says_that_other_processes_are_in_the_way(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(Load, "others", lambda self: float(len(cores())))
        for line in (("compare", *ARMS, *SMALL), ("reproduce", "figure1", "--steps", 2)):
            assert "busy: steps take longer than they would alone" in " ".join(run(*line, "--dry-run").err.split())
        facts = run("reproduce", "figure1", "--steps", 2, "--dry-run", "--json").json
        assert (facts["threads"], facts["cores_others_use"]) == (torch.get_num_threads(), len(cores()))
        assert facts["threads_because"]

    def test_compare_where_all_is_done(self, finished):
        for words in (("compare", *ARMS, *SMALL, "--out", finished), ("compare", "--resume", finished)):
            facts = run(*words, "--dry-run", "--json").json["cost"]
            assert (facts["seconds"], facts["disk"]["total"]) == (0, 0)

    def test_reproduce(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model = ("--set", "model=mlp:width=8,depth=1", "--set", "N=20", "--steps", 4, "--dry-run", "--json")
        table = run("reproduce", "table1", *model, "--seeds", 2, "--n", 16)
        assert table.code == 0, table.err
        arms = table.json["arms"]
        assert [(arm["train"], arm["sample"]) for arm in arms] == [(2, 2)] * 4
        figure = run("reproduce", "figure3", *model).json
        assert [(arm["label"], arm["train"], arm["sample"]) for arm in figure["arms"]] == [
            ("quartic 0.14", 1, 0),
            ("fine-to-coarse", 1, 0),
        ]
        assert not list(tmp_path.iterdir())
        told = run("reproduce", "figure3", *model[:-1]).out.splitlines()
        assert told[-1] == "nothing was written"
        assert run("reproduce", "figure4", "--dry-run").code == 2

    def test_after_figure_4_comes_the_table_in_a_folder_of_its_own(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        done = run("reproduce", "figure4")
        assert done.err == "next: gendiff reproduce table1\n"
        assert [path.name for path in (tmp_path / "reproductions").iterdir()] == ["figure4"]
