"""`gendiff runs`: what was trained, and who provided what."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from command import TINY, run
from rich.console import Console
from runs import create, settings


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
    assert lines[0].split() == [
        "name",
        "status",
        "step",
        "loss",
        "number",
        "data",
        "objective",
        "process",
        "size",
        "created",
    ]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["runs/00001-digits-identity-s0", "done", "3"],
        ["runs/00002-digits-dct-log-s4", "done", "3"],
    ]
    assert "left out: 'runs/00009-broken' is not a run directory" in listed.err
    found = run("runs", "list", "--json").json["runs"]
    assert [entry["process"] for entry in found] == ["identity (DDPM)", "dct blur log"]
    assert all(0 < entry["loss"] < 10 for entry in found)


def test_a_card_says_what_to_do_in_its_folder_and_which_process_is_that_of_ddpm(here, monkeypatch):
    cards = {path.parent.name: path.read_text() for path in here.glob("runs/*/README.md")}
    standard, blur = cards["00001-digits-identity-s0"], cards["00002-digits-dct-log-s4"]
    assert "| velocity | `blur`, all components at one speed, as in DDPM |" in standard
    assert "as in DDPM" not in blur
    (line,) = [line for line in blur.splitlines() if line.startswith("In this folder")]
    monkeypatch.chdir(here / "runs" / "00002-digits-dct-log-s4")
    for text in re.findall("`gendiff (.*?)`", line):
        assert run(*shlex.split(text), *(("--steps", 2, "-n", 1) if "sample" in text else ("--dry-run",))).code == 0


STRANGE = {
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "endless": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a hole": lambda path: os.truncate(path, 40 * 2**30),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "nested": lambda path: path.write_bytes((b"a=" if path.suffix == ".toml" else b"") + b"[" * 100_000),
    "a list": lambda path: path.write_bytes(b"[1, 2]"),
    "no text": lambda path: path.write_bytes(b"\xff\0" * 9),
}


@pytest.mark.parametrize("file", ["run.json", "config.toml", "metrics.jsonl", "process.safetensors"])
@pytest.mark.parametrize("how", STRANGE)
def test_a_strange_run_hides_no_other(folder, tmp_path, monkeypatch, file, how):
    monkeypatch.chdir(tmp_path)
    for name in ("good", "strange"):
        shutil.copytree(folder / "runs" / "00001-digits-identity-s0", tmp_path / "runs" / name)
    STRANGE[how](tmp_path / "runs" / "strange" / file)
    listed, shown = run("runs", "list"), run("runs", "show", "runs/strange")
    assert (listed.code, "runs/good" in listed.out) == (0, True)
    harmless = file == "metrics.jsonl" and how in ("nested", "a list", "no text")  # a torn line is passed over
    if not harmless:
        assert (shown.code, shown.err.startswith("error: ")) == (4, True)
        assert f"runs/strange/{file}" in shown.err.splitlines()[0]
        assert ("runs/strange" in listed.out) == (file == "process.safetensors"), "the list does not look at it"
    assert ("left out: " in listed.err) == ("runs/strange" not in listed.out)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 5},
        {"status": ["done"]},
        {"status": "x" * 10_000},
        {"versions": {"torch": 2}},
        {"data": {"fingerprint": 1}},
        {"data": {}},
        {"data": {"fingerprint": "x", "event_shape": [1, 10**6, 10**6]}},
        {"data": {"fingerprint": "x", "event_shape": "1x8x8"}},
        {"data": {"fingerprint": "x", "event_shape": [1, 8, 8], "value_range": 1}},
        {"providers": {"model mlp": "gendiff"}},
        {
            "plugin_files": {
                "a": dict.fromkeys(("plugin", "given", "origin", "sha256"), "x") | {"copy": "plugins/../../a"}
            }
        },
        {"process": {"sha256": 1}},
        {"switched_off": {"a": {}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_json_of_other_types(folder, tmp_path, change):
    path = tmp_path / "strange"
    shutil.copytree(folder / "runs" / "00001-digits-identity-s0", path)
    (path / "run.json").write_text(json.dumps({**json.loads((path / "run.json").read_text()), **change}))
    shown = run("runs", "show", path)
    assert (shown.code, "run.json' does not describe a run: " in shown.err) == (4, True)
    assert "left out" in run("runs", "list", tmp_path).err


def test_what_else_lies_among_runs(folder, tmp_path):
    shutil.copytree(folder / "runs" / "00001-digits-identity-s0", tmp_path / "good")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    listed = run("runs", "list", tmp_path, "--json")
    assert (listed.code, [entry["run"] for entry in listed.json["runs"]]) == (0, [str(tmp_path / "good")])


@pytest.mark.parametrize("loss", ["NaN", "-Infinity", "1e999", '"low"', "[1]", "null"])
def test_a_loss_that_is_no_number(folder, tmp_path, loss):
    shutil.copytree(folder / "runs" / "00001-digits-identity-s0", tmp_path / "x")
    (tmp_path / "x" / "metrics.jsonl").write_text(f'{{"step": 1, "loss": {loss}}}\n')
    for command in (("runs", "list", tmp_path), ("runs", "show", tmp_path / "x")):
        printed = run(*command, "--json")
        facts = json.loads(printed.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert facts.get("runs", [facts])[0]["loss"] is None
        assert run(*command).code == 0


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


@pytest.mark.parametrize("created", [None, "absent"])
def test_a_run_that_does_not_say_when_it_was_made_is_listed(tmp_path, created):
    begun = create(tmp_path / "runs" / "run", settings())
    facts = json.loads((begun.path / "run.json").read_text())
    facts["created"] = created
    if created:
        del facts["created"]
    (begun.path / "run.json").write_text(json.dumps(facts))
    done = run("runs", "list", tmp_path / "runs")
    assert (done.code, done.out.split()[-1]) == (0, "-"), done.err


def names(*options):
    done = run("runs", "list", *options, "--json")
    assert done.code == 0, done.err
    return [entry["name"] for entry in done.json["runs"]]


FIRST, SECOND = "00001-digits-identity-s0", "00002-digits-dct-log-s4"


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("status=done", [FIRST, SECOND]),
        ("status!=done", []),
        ("rotation=dct", [SECOND]),
        ("rotation.name!=dct", [FIRST]),
        ("name=*log*", [SECOND]),
        ("train.seed=4", [SECOND]),
        ("train.seed<4.0", [FIRST]),
        ("train.seed>=0", [FIRST, SECOND]),
        ("velocity.schedule.f_max=0.3", [SECOND]),
        ("train.compile=auto", [FIRST, SECOND]),
        ("number<5", []),
        ("created>2020", [FIRST, SECOND]),
        ("loss<-1", []),
    ],
)
def test_list_filters(here, condition, expected):
    assert names("--where", condition) == expected
    assert names("--where", condition, "--where", "name=00001*") == [name for name in expected if name == FIRST]


def test_list_sorts(here):
    assert names("--sort", "train.seed") == [FIRST, SECOND]
    assert names("--sort", "train.seed", "--reverse") == [SECOND, FIRST]
    assert names("--sort", "process") == [SECOND, FIRST]
    losses = [entry["loss"] for entry in run("runs", "list", "--sort", "loss", "--json").json["runs"]]
    assert losses == sorted(losses)


@pytest.mark.parametrize(
    "options", [("--sort", "los"), ("--where", "los=1"), ("--where", "loss"), ("--where", "=1")], ids=str
)
def test_what_a_list_cannot_sort_or_filter_by(here, options):
    told = run("runs", "list", *options)
    assert (told.code, f"(from {options[0]})" in told.err) == (2, True)
    assert ("did you mean 'loss'?" in told.err) == ("los" in options or "los=1" in options)


def test_the_size_is_that_of_all_its_files_and_of_no_other(folder, tmp_path):
    path = tmp_path / "x"
    shutil.copytree(folder / "runs" / FIRST, path)
    before = run("runs", "list", tmp_path, "--json").json["runs"][0]["size"]
    (path / "samples").mkdir(exist_ok=True)
    (path / "samples" / "more").write_bytes(os.urandom(100_000))
    (path / "link").symlink_to(folder)
    after = run("runs", "list", tmp_path, "--json").json["runs"][0]["size"]
    assert 100_000 <= after - before < 150_000


def test_the_last_number_is_that_of_the_last_evaluation(folder, tmp_path, monkeypatch):
    from gendiff_cli import runs

    from gendiff.evaluation.number import Evaluation

    path = tmp_path / "x"
    shutil.copytree(folder / "runs" / FIRST, path)
    assert run("runs", "list", tmp_path, "--json").json["runs"][0]["number"] is None
    assert run("evaluate", path, "--n", 16, "--steps", 2, "--no-cache").code == 0
    listed = run("runs", "list", tmp_path, "--json").json["runs"][0]["number"]
    ((_, evaluation),) = runs.stored_evaluations(path)
    assert isinstance(evaluation, Evaluation)
    assert listed == {"name": evaluation.numbers[0].name, "value": evaluation.numbers[0].value}


def test_a_narrow_terminal_keeps_what_matters(monkeypatch):
    from gendiff_cli import runs

    rows = [["runs/00001-digits-identity-s0", "done", "2,000", "0.1234", "-", *(["x" * 20] * 5)]]
    for width, kept in ((400, 10), (70, 5)):
        monkeypatch.setattr(runs, "room", lambda cell, width=width: width)
        columns = runs._fitting(rows)
        assert len(columns) == kept
        assert columns[:5] == ["name", "status", "step", "loss", "number"]
    monkeypatch.setattr(runs, "room", lambda cell: 91)
    assert runs._fitting(rows)[5:] == ["process"]  # by which runs are told apart


def test_a_list_reads_the_end_of_a_long_log_alone(folder, tmp_path, monkeypatch):
    path = tmp_path / "x"
    shutil.copytree(folder / "runs" / FIRST, path)
    row = json.dumps({"step": 1, "loss": 2.0, "bands": [0.1] * 20}) + "\n"
    metric = json.dumps({"step": 9, "n": 4, "metrics": {"x": 1.0}}) + "\n"
    last = json.dumps({"step": 9, "loss": 0.5}) + "\n"
    (path / "metrics.jsonl").write_text(row * 5000 + last + metric * 2000 + '{"step": 10, "lo')
    listed = run("runs", "list", tmp_path, "--json").json["runs"][0]
    assert (listed["step"], listed["loss"]) == (9, 0.5)
    from gendiff.storage import reading

    assert list(reading.last_rows(path / "metrics.jsonl")) == list(reading.rows(path / "metrics.jsonl"))[::-1]


def test_a_list_imports_no_torch(here):
    code = "import sys; from gendiff_cli import app; sys.argv = ['gendiff', 'runs', 'list']\ntry: app.main()\nfinally: "
    code += "print('torch' in sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert FIRST in done.stdout
    assert done.stderr.splitlines()[-1] == "False"


def test_evaluations_of_a_run_are_told_apart_and_break_between_words(folder, tmp_path, monkeypatch):
    path = tmp_path / "x"
    shutil.copytree(folder / "runs" / FIRST, path)
    for more in ([], ["--no-kid"]):
        line = ("evaluate", path, "--n", 16, "--steps", 2, "--no-cache", "--features", "pixels", *more)
        assert run(*line).code == 0
    screen = Console(file=io.StringIO(), force_terminal=True, width=80, soft_wrap=True, highlight=False)
    monkeypatch.setattr("gendiff_cli.console.out", lambda: screen)
    assert run("runs", "show", path).code == 0
    lines = re.sub(r"\x1b\[\d*m", "", screen.file.getvalue()).splitlines()
    at = [k for k, line in enumerate(lines) if line.startswith("fd-pixels")]
    assert len(at) == 2
    bodies = [" ".join(" ".join(lines[k + 1 : k + 3]).split()) for k in at]
    assert bodies[0] != bodies[1]
    assert max(map(len, lines[at[0] :])) <= 80
    assert "trig:steps=2" in " ".join(bodies)
