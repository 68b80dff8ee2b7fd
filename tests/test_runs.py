"""`gendiff runs`: what was trained, and who provided what."""

from __future__ import annotations

import json

import pytest
from command import TINY, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run("train", *TINY).code == 0
        assert run("train", *TINY, "--rotation", "dct", "--schedule", "log:f_max=0.3", "--seed", 4).code == 0
        (folder / "runs" / "notes").mkdir()
        (folder / "runs" / "00009-broken").mkdir()
        (folder / "runs" / "00009-broken" / "run.json").write_text("{")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_list_shows_each_run_and_passes_over_what_is_none(here):
    listed = run("runs", "list")
    assert listed.code == 0
    lines = listed.out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["runs/00001-digits-identity-s0", "done", "3"],
        ["runs/00002-digits-dct-log-s4", "done", "3"],
    ]
    assert "left out: 'runs/00009-broken' is not a run directory" in listed.err
    found = run("runs", "list", "--json").json["runs"]
    assert [entry["process"] for entry in found] == ["identity blur quartic", "dct blur log"]
    assert all(0 < entry["loss"] < 10 for entry in found)


def test_show_says_who_provided_what(here):
    shown = run("runs", "show", "runs/00002-digits-dct-log-s4")
    assert shown.code == 0
    rows = [line.split() for line in shown.out.splitlines()]
    assert any(row[:3] == ["schedule", "log", "gendiff"] for row in rows)
    assert any(row[:3] == ["rotation", "dct", "gendiff"] for row in rows)
    found = run("runs", "show", "runs/00002-digits-dct-log-s4", "--json").json
    assert found["providers"]["velocity blur"]["built_in"] is True
    assert found["notes"] == []
    assert found["data"]["fingerprint"].startswith("digits/1")


def test_diff_shows_what_differs_and_nothing_else(here):
    found = run("runs", "diff", "runs/00001-digits-identity-s0", "runs/00002-digits-dct-log-s4", "--json").json
    assert found == {
        "rotation.name": ["identity", "dct"],
        "velocity.schedule.name": ["quartic", "log"],
        "velocity.schedule.f_max": [0.14, 0.3],
        "train.seed": [0, 4],
    }
    shown = run("runs", "diff", "runs/00001-digits-identity-s0", "runs/00002-digits-dct-log-s4").out
    assert any(line.split() == ["velocity.schedule.name", "quartic", "log"] for line in shown.splitlines())
    assert "the same" in run("runs", "diff", *["runs/00001-digits-identity-s0"] * 2).out


@pytest.mark.parametrize(
    "line", [("list", "nowhere"), ("show", "nowhere"), ("show", "runs/notes"), ("diff", "runs/notes", "nowhere")]
)
def test_what_is_no_run_is_said_to_be_none(here, line):
    done = run("runs", *line)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert len(done.err.splitlines()) < 8


def test_json_is_all_there_is_on_stdout(here):
    for line in (("list",), ("show", "runs/00001-digits-identity-s0")):
        json.loads(run("runs", *line, "--json").out)
