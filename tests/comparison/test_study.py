"""Studies: the same seed finds the same, whatever interrupts it; trials are given up, shared, and never done twice."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plans import DATA, shared
from runs import CPU, exit_code, forked

from gendiff.comparison import study as study_module
from gendiff.comparison import work
from gendiff.comparison.arm import parse_arms
from gendiff.comparison.listener import Silent
from gendiff.comparison.report.study import ranked, render, write
from gendiff.comparison.search import StudyPlan, judged
from gendiff.comparison.space import space
from gendiff.comparison.study import FAILED, JOURNAL, Study
from gendiff.errors import ConfigError, DataError, GendiffError, PluginError, Stopped
from gendiff.features import Features
from gendiff.metric import Metric
from gendiff.plugin.registry import default_registry
from gendiff.run.directory import Run
from gendiff.run.generation import NotFinite
from gendiff.run.layers import Layer
from gendiff.storage.lock import claimed
from gendiff.training.trainer import Trainer

ROOT = Path(study_module.__file__).parents[2]
OVER = ("lr=1e-4..1e-1:log", "rotation=dct,identity")
TRIALS = 3


def planned(*over: str, **changed) -> StudyPlan:
    chosen = {
        "features": (Features.model_validate("pixels"),),
        "n": 16,
        "checks": 2,
        "by": "fd-pixels",
        "better": "lower",
    }
    return StudyPlan(tuple(shared()), space(over or OVER), **{**chosen, **changed})


def searched(path, plan: StudyPlan, trials: int = TRIALS, finished=lambda trial: None) -> dict:
    """What a study found, begun or gone on with."""
    study = Study.create(plan, path, ["tune"])
    with study.working() as heed:
        study.search(trials, default_registry(), CPU, Silent(), heed, finished)
    return study.facts()


def found(facts: dict) -> list:
    """What must be the same whatever the interruptions."""
    return [
        [one[key] for key in ("trial", "state", "value", "checks", "parameters", "numbers")] for one in facts["trials"]
    ]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def plan():
    return planned()


@pytest.fixture(scope="module")
def whole(plan, tmp_path_factory):
    """The study without any interruption."""
    return searched(tmp_path_factory.mktemp("whole") / "s", plan)


def test_each_trial_is_a_run_that_is_measured_on_its_way(plan, whole):
    assert len(whole["trials"]) == TRIALS
    for one in whole["trials"]:
        run = Run.open(one["runs"][0])
        assert run.info["status"] == "done"
        assert run.config.train.lr == one["parameters"]["lr"]
        assert run.config.rotation.name == one["parameters"]["rotation"]
        assert len(one["checks"]) == plan.checks
        assert one["value"] == one["checks"][-1] == one["numbers"]["fd-pixels"]
    assert len({one["parameters"]["lr"] for one in whole["trials"]}) == TRIALS
    assert whole["best"]["value"] == min(one["value"] for one in whole["trials"])


def test_a_seed_finds_the_same_and_another_one_something_else(plan, whole, tmp_path):
    assert found(searched(tmp_path / "same", plan)) == found(whole)
    other = searched(tmp_path / "other", replace(plan, search_seed=1), trials=1)
    assert other["trials"][0]["parameters"] != whole["trials"][0]["parameters"]


def test_killed_over_and_over_it_finds_the_same(plan, whole, tmp_path, monkeypatch):
    """In the middle of a training, between measuring and reporting, and between a report and what follows from it."""
    moments = iter(["step 1", "measured", "step 3", "told", "asked", "step 3", "told"])
    train_step, measured = Trainer.train_step, work.measure

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def attempt(moment: str) -> None:
        def step(trainer, batch):
            train_step(trainer, batch)
            if moment == f"step {trainer.step}":
                die()

        def measure(*arguments):
            result = measured(*arguments)
            if moment == "measured":
                die()
            return result

        def values(self, trial):
            if moment == "asked":
                die()
            return known(self, trial)

        def value(self, numbers):
            if moment == "told":
                die()
            return judge(self, numbers)

        known, judge = Study._values, Study._value
        Trainer.train_step, work.measure, Study._values, Study._value = step, measure, values, value
        searched(tmp_path / "s", plan)

    deaths = 0
    for moment in moments:
        code = exit_code(forked(lambda moment=moment: attempt(moment)))
        assert code in (0, -signal.SIGKILL)
        deaths += code != 0
    assert deaths > 4
    assert found(searched(tmp_path / "s", plan)) == found(whole)


def test_asked_to_stop_it_goes_on_to_the_same(plan, whole, tmp_path, monkeypatch):
    train_step = Trainer.train_step

    def step(trainer, batch):
        train_step(trainer, batch)
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        with pytest.raises(Stopped, match="stopped the study on SIGTERM") as stop:
            searched(tmp_path / "s", plan)
    assert stop.value.exit_code == 75
    assert f"gendiff tune --resume {tmp_path / 's'}" in str(stop.value)
    assert Run.open(tmp_path / "s" / "trials" / "00000" / "runs" / "s0").info["status"] == "stopped"
    assert found(searched(tmp_path / "s", plan)) == found(whole)


def test_more_trials_come_after_those_that_there_are(plan, whole, tmp_path):
    searched(tmp_path / "s", plan, trials=2)
    heard = []
    facts = searched(tmp_path / "s", plan, finished=heard.append)
    assert found(facts) == found(whole)
    assert [one["trial"] for one in heard] == [2]


def test_two_processes_share_a_study(plan, tmp_path):
    """None does what the other does, and together they do no more than was asked for."""
    Study.create(plan, tmp_path / "s", ["tune"])
    child = forked(lambda: searched(tmp_path / "s", plan, trials=8))
    facts = searched(tmp_path / "s", plan, trials=8)
    assert exit_code(child) == 0
    facts = Study.open(tmp_path / "s").facts()
    assert [one["trial"] for one in facts["trials"]] == list(range(8))
    assert {one["state"] for one in facts["trials"]} <= {"complete", "pruned"}  # by which of them ends first
    assert len({one["parameters"]["lr"] for one in facts["trials"]}) == 8
    pids = [Run.open(one["runs"][0]).info["pid"] for one in facts["trials"]]
    assert set(pids) == {os.getpid(), child}


def test_a_trial_that_somebody_works_on_is_left_to_them(plan, tmp_path):
    study = Study.create(plan, tmp_path / "s", ["tune"])
    study.optuna.ask()
    with claimed(tmp_path / "s" / "trials" / "00000"):
        facts = searched(tmp_path / "s", plan, trials=2)
        assert [one["state"] for one in facts["trials"]] == ["running", "complete"]
    assert [one["state"] for one in searched(tmp_path / "s", plan, trials=2)["trials"]] == ["complete"] * 2


def test_the_mean_over_seeds_decides(tmp_path):
    facts = searched(tmp_path / "s", planned(seeds=(3, 5), checks=1), trials=1)
    (trial,) = facts["trials"]
    study = Study.open(tmp_path / "s")
    values = [
        work.Measure.load(study._measure_path(0, seed, 1)).evaluation["fd-pixels"].value for seed in study.plan.seeds
    ]
    assert trial["value"] == sum(values) / 2
    assert [Run.open(path).config.train.seed for path in trial["runs"]] == [3, 5]


class TestGivingUp:
    def test_a_trial_that_is_bad_on_its_way_ends_there(self, tmp_path, monkeypatch):
        """The first five are trained to their end, those after them only where they are no worse than the median."""
        order = iter([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 0.5, 0.5])
        monkeypatch.setattr(Study, "_reached", lambda self, *arguments: {"fd-pixels": float(next(order))})
        facts = searched(tmp_path / "s", planned(), trials=7)
        assert [one["state"] for one in facts["trials"]] == ["complete"] * 5 + ["pruned", "complete"]
        assert facts["trials"][5]["checks"] == [2]
        assert facts["best"]["trial"] == 6
        assert [one["trial"] for one in ranked(facts)] == [6, 0, 1, 2, 3, 4, 5]

    def test_without_pruning_none_does(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Study, "_reached", lambda self, number, *_: {"fd-pixels": float(number)})
        facts = searched(tmp_path / "s", planned(prune="none"), trials=7)
        assert {one["state"] for one in facts["trials"]} == {"complete"}

    def test_a_pruned_run_is_one_that_can_go_on(self, tmp_path, monkeypatch):
        monkeypatch.setattr(
            study_module.Study, "_pruner", lambda self, optuna: optuna.pruners.ThresholdPruner(upper=0.0)
        )
        (trial,) = searched(tmp_path / "s", planned(), trials=1)["trials"]
        run = Run.open(trial["runs"][0])
        assert (trial["state"], run.info["status"]) == ("pruned", "stopped")
        assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-000000000002"]


class TestATrialThatFails:
    def test_tells_the_search_to_stay_away_and_the_study_goes_on(self, tmp_path, monkeypatch):
        reached = Study._reached

        def fails(self, number, *arguments):
            if number == 1:
                raise NotFinite("the samples are not finite")
            return reached(self, number, *arguments)

        monkeypatch.setattr(Study, "_reached", fails)
        facts = searched(tmp_path / "s", planned(checks=1), trials=3)
        assert [one["state"] for one in facts["trials"]] == ["complete", "failed", "complete"]
        assert facts["trials"][1]["failure"] == "the samples are not finite"
        assert facts["trials"][1]["value"] is None
        assert facts["best"]["trial"] != 1

    def test_the_first_ones_are_the_studys_failure(self, tmp_path, monkeypatch):
        def fails(self, *arguments):
            raise NotFinite("the samples are not finite")

        monkeypatch.setattr(Study, "_reached", fails)
        with pytest.raises(NotFinite, match="not finite") as caught:
            searched(tmp_path / "s", planned(), trials=9)
        assert f"the first {FAILED} trials failed" in str(caught.value)

    def test_what_is_not_of_the_trial_stops_the_study_which_goes_on(self, plan, whole, tmp_path, monkeypatch):
        def fails(self, *arguments):
            raise DataError("the data are gone")

        with monkeypatch.context() as patch:
            patch.setattr(Study, "_reached", fails)
            with pytest.raises(DataError, match="the data are gone"):
                searched(tmp_path / "s", plan)
        assert found(searched(tmp_path / "s", plan)) == found(whole)


class TestDirectory:
    def test_a_study_of_other_settings_is_refused(self, plan, tmp_path):
        Study.create(plan, tmp_path / "s")
        Study.create(plan, tmp_path / "s")
        with pytest.raises(ConfigError, match="holds a study of other settings") as refused:
            Study.create(planned("lr=1e-4..1e-2:log"), tmp_path / "s")
        assert "it differs in: over" in str(refused.value)
        assert "searched there: lr=0.0001..0.1:log; rotation=dct,identity" in str(refused.value)
        assert f"gendiff tune --resume {tmp_path / 's'}" in str(refused.value)

    def test_one_that_holds_something_else_is_refused(self, plan, tmp_path):
        (tmp_path / "mine.txt").write_text("mine")
        with pytest.raises(ConfigError, match="exists and is not empty"):
            Study.create(plan, tmp_path)
        with pytest.raises(ConfigError, match="is not a study directory"):
            Study.open(tmp_path)

    def test_the_plan_is_made_again_from_what_is_stored(self, plan, tmp_path):
        Study.create(plan, tmp_path / "s")
        assert Study.open(tmp_path / "s").plan.table() == plan.table()
        assert json.loads((tmp_path / "s" / "study.json").read_text())["study"] == json.loads(json.dumps(plan.table()))

    def test_a_plan_that_is_damaged_is_told(self, plan, tmp_path):
        Study.create(plan, tmp_path / "s")
        file = tmp_path / "s" / "study.json"
        file.write_bytes(file.read_bytes().replace(b"tpe", b"tpf"))
        with pytest.raises(DataError, match=r"study\.json"):
            Study.open(tmp_path / "s")

    def test_a_line_that_a_crash_left_unfinished_is_cut_off(self, plan, whole, tmp_path):
        searched(tmp_path / "s", plan, trials=2)
        with (tmp_path / "s" / JOURNAL).open("ab") as journal:
            journal.write(b'{"op_code":4,"worker_')
        assert found(searched(tmp_path / "s", plan)) == found(whole)

    def test_a_database_of_something_else_is_told(self, plan, tmp_path):
        Study.create(plan, tmp_path / "s")
        (tmp_path / "s" / JOURNAL).write_text("not a journal\nat all\n")
        with pytest.raises(DataError, match=r"journal\.log' is no database of a study"):
            searched(tmp_path / "s", plan)


class TestPlan:
    @pytest.mark.parametrize(
        ("over", "said"),
        [
            (["lrr=1e-4..1e-2"], "lrr"),
            (["schedule.f_mx=0.1..1"], "f_mx"),
            (["lr=1e-4..1e-2", "rotation=dct,dtc"], "dtc"),
            (["lr=-1.0..1"], "lr"),
        ],
    )
    def test_what_cannot_be_is_said_before_anything_is_made(self, over, said):
        with pytest.raises(ConfigError, match=said) as refused:
            planned(*over).check()
        assert refused.value.where.startswith("--over")

    @pytest.mark.parametrize("key", ["data", "size", "data.size", "hold_out", "latent"])
    def test_what_samples_are_compared_with_is_not_searched_over(self, key):
        with pytest.raises(ConfigError, match="changes what samples are compared with"):
            planned(f"{key}=8,16")

    def test_a_seed_is_no_setting(self):
        with pytest.raises(ConfigError, match="a seed is no setting"):
            planned("seed=0..9")

    @pytest.mark.parametrize(("changed", "said"), [({"search": "tpee"}, "tpe"), ({"prune": "medain"}, "median")])
    def test_searches_and_pruners_that_there_are(self, changed, said):
        with pytest.raises(ConfigError, match=f"did you mean '{said}'"):
            planned(**changed)

    @pytest.mark.parametrize("search", ["gp", "random"])
    @pytest.mark.parametrize("prune", ["halving"])
    def test_each_of_them_searches(self, search, prune, tmp_path, monkeypatch):
        monkeypatch.setattr(Study, "_reached", lambda self, number, *_: {"fd-pixels": float(number)})
        one, two = (searched(tmp_path / k, planned(search=search, prune=prune), trials=14) for k in "ab")
        assert found(one) == found(two)
        assert {one["state"] for one in one["trials"]} <= {"complete", "pruned"}

    def test_any_number_decides_that_there_is(self):
        plan = planned(metrics=(Metric.model_validate("spectrum:bands=3"),))
        numbers = plan.ruler.rehearse(CPU)
        assert judged(plan, numbers, None) == ("fd-pixels", "lower")
        assert judged(plan, numbers, "precision-pixels") == ("precision-pixels", "higher")
        assert judged(plan, numbers, "spectrum.band_0") == ("spectrum.band_0", "")
        with pytest.raises(ConfigError, match="no number is called 'fd-pixel'") as refused:
            judged(plan, numbers, "fd-pixel")
        assert "did you mean 'fd-pixels'" in str(refused.value)

    @pytest.mark.parametrize(("better", "best"), [("higher", 2), ("lower", 0), ("", 1)])
    def test_better_is_what_the_number_says(self, better, best, tmp_path, monkeypatch):
        values = [-2.0, 0.5, 3.0]
        monkeypatch.setattr(Study, "_reached", lambda self, number, *_: {"fd-pixels": values[number]})
        facts = searched(tmp_path / "s", planned(better=better, checks=1), trials=3)
        assert facts["best"]["trial"] == best


class TestPage:
    def test_it_holds_the_trials_the_best_one_and_how_to_go_on(self, whole):
        study = Study.open(Path(whole["path"]))
        values, page = write(study, whole)
        assert json.loads(values.read_text())["best"]["trial"] == whole["best"]["trial"]
        text = page.read_text()
        assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
        assert text.count('<svg viewBox="0 0 400') == 3  # two settings, and the order of trials
        assert text.count("<img") == 2
        assert f"gendiff train --config {whole['best']['config']}" in text
        assert "--arm &#39;lr=" in text
        assert "lr = " in text

    def test_one_of_nothing_yet(self, plan, tmp_path):
        study = Study.create(plan, tmp_path / "s", ["tune"])
        facts = study.facts()
        assert facts["best"] is None
        assert "No trial has come to its end yet" in render(facts)

    def test_what_somebody_called_a_thing_is_no_markup(self, whole):
        facts = json.loads(json.dumps(whole))
        facts["trials"][0]["failure"], facts["trials"][0]["state"] = "<script>alert(1)</script>", "failed"
        assert "<script>" not in render(facts)

    def test_the_commands_that_it_gives_are_understood(self, whole):
        words = shlex.split(whole["best"]["compare"])
        arms = parse_arms([words[k + 1] for k, word in enumerate(words) if word == "--arm"])
        config = Layer.from_file(Path(words[words.index("--config") + 1]))
        best, second = (arm.over([config]).config for arm in arms[:2])
        assert best.train.lr == whole["best"]["parameters"]["lr"]
        assert best.data.spec == second.data.spec
        assert DATA.partition(":")[0] in best.data.spec


def test_nobody_needs_the_library_who_does_not_search(monkeypatch):
    sources = [file for name in ("gendiff", "cli", "plugins") for file in (ROOT / name).rglob("*.py")]
    assert len(sources) > 100
    assert not [file for file in sources if re.search(r"^\s*(import|from) (optuna|submitit)\b", file.read_text(), re.M)]
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PluginError, match="a study needs the library optuna") as missing:
        study_module.library()
    assert missing.value.fix == "pip install 'gendiff[tune]'"


def test_a_number_that_is_none_is_a_failure(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(Study, "_reached", lambda self, *_: {"fd-pixels": float("nan")})
    with pytest.raises(GendiffError, match="fd-pixels is nan"):
        searched(tmp_path / "s", plan, trials=5)
