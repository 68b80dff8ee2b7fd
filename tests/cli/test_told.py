"""A conditional run from the command line: trained, drawn by class, guided, measured by class, and refused in one screen."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from command import TINY, run
from PIL import Image

import gendiff
from gendiff.datasets import pictures
from gendiff.run.directory import Run
from gendiff.run.origin import Origin

LABELLED = (*TINY, "--data", "digits", "--condition", "label", "--set", "N=20")
SAMPLE = ("--steps", 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that is told of labels, and one that is not."""
    folder = tmp_path_factory.mktemp("conditional")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = run("train", *LABELLED, "--out", "r")
        assert done.code == 0, done.err
        assert run("train", *TINY, "--set", "N=20", "--out", "plain").code == 0
    return folder, done


@pytest.fixture
def here(trained, monkeypatch, tmp_path):
    shutil.copytree(trained[0], tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


class TestTrain:
    def test_the_first_lines_say_what_it_is_told(self, trained):
        err = " ".join(trained[1].err.split())
        assert "condition label, a class: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; left out for 10% of the events" in err

    def test_the_record_holds_what_sampling_needs(self, here):
        info = Run.open("r").info
        assert info["data"]["conditions"]["label"]["classes"] == [str(k) for k in range(10)]
        assert "conditions" not in Run.open("plain").info["data"]

    def test_without_a_condition_the_weights_are_as_they_ever_were(self, here):
        """Another default of the dropout changes nothing where there is nothing to drop."""
        assert run("train", *TINY, "--set", "N=20", "--set", "train.condition_dropout=0.7", "--out", "q").code == 0
        weights = [gendiff.load(name, device="cpu").network.state_dict() for name in ("plain", "q")]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    @pytest.mark.parametrize(
        ("options", "what", "allowed"),
        [
            (["--condition", "lable"], "data 'digits' have no condition 'lable'", "did you mean 'label'?"),
            (
                ["--data", "gaussian-field:size=8", "--condition", "label"],
                "have no condition 'label'",
                "they have none",
            ),
        ],
    )
    def test_an_unknown_condition(self, tmp_path, monkeypatch, options, what, allowed):
        monkeypatch.chdir(tmp_path)
        done = run("train", *TINY, *options, "--out", "r")
        assert done.code == 2
        assert what in done.err
        assert allowed in done.err
        assert not Path("r").exists()

    def test_a_model_that_takes_none_says_so_before_training(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("plain_model.py").write_text(
            "from gendiff import Model\n"
            "from gendiff.plugin.hookspecs import hookimpl\n"
            "from torch import nn\n"
            "class Net(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.w = nn.Conv2d(1, 1, 1)\n"
            "    def forward(self, x, i):\n"
            "        return self.w(x)\n"
            "class Plain(Model):\n"
            '    """a plain one."""\n'
            '    name = "plain"\n'
            "    def build(self, event_shape):\n"
            "        return Net()\n"
            "@hookimpl\n"
            "def gendiff_components():\n"
            "    return [Plain]\n"
        )
        options = ("--plugin", "plain_model.py", "train", "--model", "plain", "--steps", 2, "--out", "r")
        done = run(*options, "--condition", "label")
        assert done.code == 2
        assert "model 'plain' takes no conditions" in done.err
        assert not Path("r").exists()
        assert run(*options, "--set", "train.sample_every=0", "--batch", 4).code == 0


class TestSample:
    def test_a_row_of_the_grid_for_each_class(self, here):
        done = run("sample", "r", *SAMPLE, "--json")
        assert done.code == 0, done.err
        folder = Path(done.json["folder"])
        assert done.json["n"] == 80
        assert done.json["condition"] == {"label": "all"}
        with Image.open(folder / "grid.png") as grid, Image.open(folder / "events" / "000003.png") as event:
            gap = pictures.GAP
            side = (grid.width - gap) // 8
            assert grid.height == 10 * side + gap
            tile = grid.crop((gap, 3 * side + gap, side, 4 * side)).resize(event.size, Image.Resampling.NEAREST)
            assert tile.tobytes() == event.tobytes()  # class 3: its first is image 3

    def test_image_k_is_the_same_whatever_else_is_drawn(self, here):
        one = run("sample", "r", *SAMPLE, "--condition", "label=4", "--n", 5, "--json").json
        assert run("sample", "r", *SAMPLE, "--condition", "label=2,4", "--n", 4, "--out", "both").code == 0
        alone = pictures.read_event(Path(one["folder"]) / "events", 3)
        assert torch.equal(alone, pictures.read_event(Path("both/events"), 3))

    def test_the_library_draws_the_same(self, here):
        folder = run("sample", "r", *SAMPLE, "--condition", "label=7,none", "--n", 4, "--json").json["folder"]
        model = gendiff.load("r", device="cpu")
        sampler = Run.open("r").config.sampler.model_copy(update={"steps": 2})
        events = model.sample(4, sampler, condition={"label": ["7", "none"]})
        for k, event in enumerate(events):
            assert torch.equal(
                pictures.to_uint8(event), pictures.to_uint8(pictures.read_event(Path(folder) / "events", k))
            )

    @pytest.mark.parametrize("options", [[], ["--condition", "label=3,5"], ["--condition", "label=none"]])
    def test_the_recorded_command_draws_the_same_again(self, here, options):
        folder = Path(
            run("sample", "r", *SAMPLE, *options, "--n", 4, "--guide", "cfg:weight=3", "--json").json["folder"]
        )
        facts = json.loads((folder / "sample.json").read_text())
        assert facts["guides"] == ["cfg:weight=3.0"]
        before = {path.name: path.read_bytes() for path in (folder / "events").iterdir()}
        shutil.rmtree(folder)
        assert run(*shlex.split(facts["command"])[1:]).code == 0
        assert {path.name: path.read_bytes() for path in (folder / "events").iterdir()} == before

    def test_each_picture_says_its_own_class(self, here):
        folder = Path(run("sample", "r", *SAMPLE, "--condition", "label=3,5", "--n", 3, "--json").json["folder"])
        said = [Origin.of(folder / "events" / f"00000{k}.png").facts["condition"]["label"] for k in range(3)]
        assert said == ["3", "5", "3"]

    def test_other_conditions_lie_in_other_folders(self, here):
        choices = (["label=3"], ["label=3,5"], ["label=all"], ["label=none"])
        folders = [
            run("sample", "r", *SAMPLE, "--n", 2, "--condition", *one, "--json").json["folder"] for one in choices
        ]
        folders.append(run("sample", "r", *SAMPLE, "--n", 2, "--guide", "cfg", "--json").json["folder"])
        assert len({*folders}) == 5

    @pytest.mark.parametrize(
        ("options", "what"),
        [
            (["--condition", "label=11"], "condition 'label' has no class '11'"),
            (["--condition", "lable=1"], "there is no condition 'lable' here"),
            (["--condition", "label"], "cannot read the condition 'label'"),
            (["--guide", "cgf"], "unknown guide 'cgf'"),
            (["--guide", "cfg:wieght=2"], "guide 'cfg' has no parameter 'wieght'"),
        ],
    )
    def test_bad_input_is_one_screen_and_writes_nothing(self, here, options, what):
        done = run("sample", "r", *options)
        assert done.code == 2
        assert what in done.err
        assert len(done.err.splitlines()) < 8
        assert not Path("r/samples").exists()

    def test_a_run_that_is_told_of_nothing(self, here):
        done = run("sample", "plain", "--condition", "label=1")
        assert done.code == 2
        assert "there is no condition 'label' here" in done.err
        assert "gendiff train --condition NAME" in done.err

    def test_a_guide_for_a_run_without_dropout(self, here):
        assert run("train", *LABELLED, "--set", "train.condition_dropout=0", "--out", "sure").code == 0
        done = run("sample", "sure", *SAMPLE, "--guide", "cfg:weight=3")
        assert done.code == 2
        assert "needs a network that was trained without conditions too" in done.err
        assert not Path("sure/samples").exists()


class TestEvaluate:
    def test_by_class_and_over_all(self, here):
        options = (
            "--n",
            80,
            *SAMPLE,
            "--features",
            "pixels",
            "--no-kid",
            "--no-precision-recall",
            "--metric",
            "moments",
        )
        done = run("evaluate", "r", *options, "--by", "label", "--json")
        assert done.code == 0, done.err
        numbers = {number["name"]: number for number in done.json["numbers"]}
        assert [name for name in numbers if "[" in name] == [f"fd-pixels[label={k}]" for k in range(10)]
        assert numbers["fd-pixels"]["samples"]["n"] == 80
        three = numbers["fd-pixels[label=3]"]
        assert (three["samples"]["n"], three["reference"]["n"]) == (8, 183)  # 183 digits show a 3
        assert three["reference"]["spec"] == "digits, label=3"
        assert three["drawing"]["condition"] == "label=all"

    def test_samples_of_a_class_are_compared_with_its_events(self, here):
        options = ("--n", 8, *SAMPLE, "--features", "pixels", "--no-kid", "--no-precision-recall", "--json")
        done = run("evaluate", "r", *options, "--condition", "label=3")
        assert {number["reference"]["n"] for number in done.json["numbers"]} == {183}
        free = run("evaluate", "r", *options, "--condition", "label=none")
        assert {number["reference"]["n"] for number in free.json["numbers"]} == {1797}

    @pytest.mark.parametrize(("source", "what"), [("r", "no classes by 'lbl'"), ("plain", "no classes by 'label'")])
    def test_no_such_label(self, here, source, what):
        done = run("evaluate", source, "--by", "lbl" if source == "r" else "label")
        assert done.code == 2
        assert what in done.err

    def test_events_that_are_there_are_drawn_under_nothing(self, here):
        done = run("evaluate", "digits", "--data", "digits", "--condition", "label=3")
        assert done.code == 2
        assert "--condition label=3" in done.err
