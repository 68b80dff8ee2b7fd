"""The paper's experiments at the scale of a test, and the settings of the scale ``paper``."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from PIL import Image
from places import ROOT

from gendiff.comparison import report
from gendiff.comparison.reproduction import ARMS, PUBLISHED, SCALES, SCHEDULES, TARGETS, markdown, plan
from gendiff.plugin.registry import default_registry
from gendiff.run.layers import Layer, resolve
from gendiff.schedule import BlurSchedule

SMALL = ["--steps", "2", "--n", "16", "--set", "N=12", "--set", "model=mlp", "--set", "train.batch=4"]
PAGE = ROOT / "docs" / "reproduction.md"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Table 1, as small as it can be."""
    folder = tmp_path_factory.mktemp("table") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.figures, "write", lambda *_: [])  # those of any comparison: test_report.py
        done = run("reproduce", "table1", *SMALL, "--out", str(folder), "--json")
    assert done.code == 0, done.err
    return folder, done.json


def test_the_table_has_what_came_out_beside_what_is_published(table):
    folder, answer = table
    assert [Path(file).name for file in answer["files"]] == ["table1.md", "table1.json", "compare.json", "report.html"]
    rows = json.loads((folder / "table1.json").read_text())
    assert [row["arm"] for row in rows["arms"]] == list(ARMS)
    assert rows["number"] == "fd-pixels"  # and not FID
    assert (rows["n"], rows["seeds"]) == (16, [0])
    for row in rows["arms"]:
        assert np.isfinite(row["value"])
        assert row["published"] == {scene: PUBLISHED[scene].get(row["arm"]) for scene in PUBLISHED}
    page = (folder / "table1.md").read_text()
    assert page == markdown(rows)
    assert "| quartic 0.14 | " in page
    assert "7.86 | 5.89 |" in page


@pytest.mark.slow
@pytest.mark.parametrize("target", ["figure1", "figure2", "figure3"])
def test_a_figure_uses_the_runs_that_are_there(table, target):
    folder, _ = table
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/run.json")}
    assert len(before) == len(ARMS)
    done = run("reproduce", target, *SMALL, "--out", str(folder), "--json")
    assert done.code == 0, done.err
    assert done.json["files"] == [str(folder / f"{target}.png"), str(folder / f"{target}.pdf")]
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").glob("*/run.json")} == before
    assert np.asarray(Image.open(folder / f"{target}.png").convert("L")).std() > 10
    assert (folder / f"{target}.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_a_figure_trains_its_own_arms_alone(tmp_path):
    done = run("reproduce", "figure3", *SMALL, "--out", str(tmp_path / "f"))
    assert done.code == 0
    told = [line for line in done.err.splitlines() if line.startswith("training ")]
    assert sorted(told) == [
        "training fine-to-coarse, seed 0 (run 2 of 2)",
        "training quartic 0.14, seed 0 (run 1 of 2)",
    ]
    trained = sorted(path.name for path in (tmp_path / "f" / "runs").iterdir())
    assert trained == ["3-quartic-0.14-s0", "4-fine-to-coarse-s0"]


def test_figure_4_needs_no_training(tmp_path):
    done = run("reproduce", "figure4", "--out", str(tmp_path / "f"))
    assert done.code == 0
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["figure4.pdf", "figure4.png"]
    paper = {name for name in default_registry().names("schedule") if name != "none"}
    assert set(SCHEDULES) == paper
    assert all(BlurSchedule.model_validate(f"{name}:f_max=0.14") for name in SCHEDULES)


@pytest.mark.parametrize(
    ("preset", "arm"),
    [
        ("paper-bedroom-no-blur", "no blur"),
        ("paper-bedroom-log", "log 0.6"),
        ("paper-bedroom", "quartic 0.14"),
        ("paper-church-no-blur", "no blur"),
        ("paper-church", "quartic 0.14"),
    ],
)
def test_at_the_scale_paper_the_arms_are_the_presets_of_the_paper(preset, arm, tmp_path):
    scene = preset.split("-")[1]
    data = Layer("data", {"data": {"name": "folder", "path": str(tmp_path)}})
    layer = lambda name: Layer.from_file(default_registry().preset(name))  # noqa: E731
    scale = SCALES["paper"]
    contenders = plan(scale, [layer(scale.preset.format(scene=scene)), data], 1, scale.n).contenders
    config = next(one.config for one in contenders if one.label == arm)
    expected = resolve([layer(preset), data]).config
    for part in ("N", "rotation", "velocity", "objective", "model", "sampler"):
        assert getattr(config, part) == getattr(expected, part), part
    training = {"steps", "batch", "lr", "warmup", "grad_clip", "ema", "precision"}
    assert config.train.model_dump(include=training) == expected.train.model_dump(include=training)


@pytest.mark.parametrize("scale", SCALES)
def test_all_arms_of_a_scale_share_everything_but_the_corruption(scale, tmp_path):
    layers = [Layer.from_file(default_registry().preset(SCALES[scale].preset.format(scene="church")))]
    layers += [Layer("data", {"data": {"name": "folder", "path": str(tmp_path)}})] * (scale == "paper")
    first, *others = plan(SCALES[scale], layers, 1, 16).contenders
    for other in others:
        for part in ("N", "rotation", "objective", "model", "data", "train"):
            assert getattr(other.config, part) == getattr(first.config, part)
        assert (other.config.sampler.name == "ancestral") == (other.label == "fine-to-coarse")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["figure9"], "unknown target 'figure9' (from TARGET)"),
        (["table1", "--scale", "tinny"], "did you mean 'tiny'?"),
        (["table1", "--scale", "paper"], "give --data lsun:path=DIR"),
        (["table1", "--scale", "paper", "--scene", "kitchen"], "known: bedroom, church"),
        (["table1", "--features", "nothing"], "unknown features 'nothing'"),
        (["table1", "--scene", "church"], "the scale tiny has one kind of data, and --scene would have no effect"),
        (["figure4", "--scene", "church"], "--scene would have no effect"),
        (
            ["figure4", "--steps", "5", "--n", "32", "--features", "pixels", "--seeds", "4", "--data", "digits"],
            "figure4 trains and measures nothing, and --data, --seeds, --steps, --n, --features would have no effect",
        ),
        (["table1", "--fid-weights", "w.pth"], "--fid-weights are those of the features inception"),
    ],
)
def test_mistakes(words, said, tmp_path):
    done = run("reproduce", *words, "--out", str(tmp_path / "f"))
    assert done.code == 2
    assert said in done.err
    assert not (tmp_path / "f").exists()


def test_the_weights_of_inception_are_where_the_option_says(tmp_path):
    gone = str(tmp_path / "gone.pth")
    done = run("reproduce", "table1", "--features", "inception", "--fid-weights", gone, "--out", str(tmp_path / "f"))
    assert done.code == 4
    assert f"the Inception weights are not there: {gone}" in done.err


def test_another_budget_is_another_directory(table):
    folder, _ = table
    done = run("reproduce", "table1", *SMALL[2:], "--steps", "3", "--out", str(folder))
    assert done.code == 2
    assert "holds another comparison" in done.err


def test_the_page_shows_that_the_released_colour_path_is_no_blur():
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1]
    scope: dict = {}
    torch.manual_seed(0)
    exec(code.replace("print(", "found = ("), scope)
    assert scope["found"] > 0.2  # of the effect of the blur


def test_the_page_names_every_target():
    text = PAGE.read_text(encoding="utf-8")
    assert all(f"gendiff reproduce {target}" in text for target in TARGETS)
