"""``gendiff tune``: what it prints, and what it refuses before anything is made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command import TINY, run

from gendiff.comparison.study import Study

SMALL = (*TINY, "--sampler", "ddim:steps=3", "--set", "N=20", "--n", 16, "--features", "pixels", "--checks", 1)
OVER = ("--over", "lr=1e-4..1e-1:log", "--over", "rotation=dct,identity")


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def reached(monkeypatch):
    """Trials whose numbers are those of a formula: nothing is trained."""

    def numbers(self, number, contender, *_):
        return {"fd-pixels": 10.0 + number, "precision-pixels": 0.5}

    monkeypatch.setattr(Study, "_reached", numbers)
    config = "[train]\nlr = 0.5\n"

    def written(self, number):
        folder = self.path / "trials" / f"{number:05d}"
        (folder / "runs" / "s0").mkdir(parents=True, exist_ok=True)
        (folder / "runs" / "s0" / "config.toml").write_text(config)
        return folder

    monkeypatch.setattr(Study, "_folder", written)


def test_a_study_from_its_first_command_to_its_last():
    first = run("tune", *OVER, *SMALL, "--trials", 1, "--out", "s")
    assert first.code == 0, first.err
    assert "trial 0 is the best: fd-pixels" in first.out
    assert "1 trial: 1 trained to the end, 0 given up on the way" in first.out
    assert "next: gendiff train --config s/trials/00000/runs/s0/config.toml" in first.err
    again = run("tune", *OVER, *SMALL, "--trials", 2, "--out", "s", "--json")
    assert again.code == 0, again.err
    assert [one["trial"] for one in again.json["trials"]] == [0, 1]
    assert again.json == json.loads(Path("s/tune.json").read_text())
    assert Path("s/report.html").is_file()
    resumed = run("tune", "--resume", "s", "--trials", 2)
    assert resumed.code == 0, resumed.err
    assert "training" not in resumed.err
    trained = run("train", "--config", again.json["best"]["config"], "--out", "r")
    assert trained.code == 0, trained.err


def test_what_it_prints_of_many(reached):
    found = run("tune", *OVER, *SMALL, "--trials", 12, "--out", "s")
    assert found.code == 0, found.err
    assert "trial 0 is the best: fd-pixels 10 with lr=" in found.out
    assert "fd-pixels (lower is better)" in found.out
    assert "and 2 more" in found.out
    assert "note: trial 3: 13 with lr=" in found.err
    assert "next: gendiff compare --config s/trials/00000/runs/s0/config.toml --arm 'lr=" in found.err
    assert "label=trial-2' --seeds 1,2,3" in found.err


def test_it_goes_on_to_as_many_trials_as_were_asked_for_last(reached):
    def count(*words):
        found = run("tune", *words, "--json")
        assert found.code == 0, found.err
        return len(found.json["trials"])

    assert count(*OVER, *SMALL, "--trials", 3, "--out", "s") == 3
    assert count("--resume", "s") == 3
    assert count("--resume", "s", "--trials", 5) == 5
    assert count(*OVER, *SMALL, "--out", "s") == 5
    assert "trials   5 in all, 5 there already" in run("tune", "--resume", "s", "--dry-run").out
    assert "trials   20 in all, 0 there already" in run("tune", *OVER, *SMALL, "--dry-run").out


def test_another_number_decides(reached):
    found = run("tune", *OVER, *SMALL, "--trials", 2, "--by", "precision-pixels", "--out", "s", "--json")
    assert (found.json["number"], found.json["better"]) == ("precision-pixels", "higher")


def test_it_stops_after_some_minutes_and_goes_on():
    stopped = run("tune", *OVER, *SMALL, "--trials", 1, "--steps", 100_000, "--minutes", 0.05, "--out", "s")
    assert stopped.code == 0, stopped.err
    assert "no trial has come to its end yet" in stopped.out
    assert "note: 0.05 minutes are over; what was reached is saved" in stopped.err
    assert "next: gendiff tune --resume s --trials 1" in stopped.err
    assert list(Path("s/trials/00000/runs/s0/checkpoints").glob("step-*"))


def test_a_dry_run_makes_nothing():
    said = run("tune", *OVER, *SMALL, "--dry-run")
    assert said.code == 0, said.err
    assert "over     lr=0.0001..0.1:log; rotation=dct,identity" in said.out
    assert "by       fd-pixels, lower is better" in said.out
    assert "nothing was written" in said.out
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "a study has nothing to search over (from --over)"),
        (("--over", "lr=2..1"), "the range 2..1 of 'lr' is empty (from --over 'lr=2..1')"),
        (("--over", "lrr=1..2"), "lrr"),
        (("--over", "schedule.f_mx=0.1..1"), "did you mean 'f_max'"),
        ((*OVER, "--by", "fd-pixel"), "no number is called 'fd-pixel' (from --by fd-pixel)"),
        ((*OVER, "--search", "tpee"), "unknown search 'tpee' (from --search)"),
        ((*OVER, "--prune", "medain"), "unknown prune 'medain' (from --prune)"),
        (("--over", "data=digits,dead-leaves"), "'data' changes what samples are compared with"),
        (("--over", "seed=0..9"), "a seed is no setting to search over"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_made(words, said):
    refused = run("tune", *words, *SMALL, "--out", "s")
    assert refused.code == 2, refused.err
    assert said in refused.err
    assert not Path("s").exists()


def test_a_study_that_goes_on_keeps_its_plan(reached):
    assert run("tune", *OVER, *SMALL, "--trials", 1, "--out", "s").code == 0
    refused = run("tune", "--resume", "s", "--steps", 9, "--over", "lr=1..2")
    assert refused.code == 2
    assert "--over, --steps would change it (from --resume)" in refused.err
    other = run("tune", "--over", "lr=1e-3..1e-2", *SMALL, "--out", "s")
    assert other.code == 2
    assert "'s' holds a study of other settings (from --out)" in other.err
    assert "it differs in: over" in other.err
    nothing = run("tune", "--resume", "nowhere")
    assert nothing.code == 2
    assert "'nowhere' is not a study directory" in nothing.err


def test_without_the_library_it_is_said_how_to_have_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    missing = run("tune", *OVER, *SMALL)
    assert missing.code == 3
    assert "a study needs the library optuna, which is not installed" in missing.err
    assert "pip install 'gendiff[tune]'" in missing.err
    assert not list(Path().iterdir())
