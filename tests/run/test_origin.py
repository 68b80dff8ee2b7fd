"""What made a picture: said in the folder and in each file, read back anywhere, and of a stranger only data."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from command import TINY, run
from PIL import Image

import gendiff
from gendiff.datasets import pictures
from gendiff.errors import DataError
from gendiff.run.directory import Run
from gendiff.run.origin import FILE, FORMAT, Origin


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run with previews and a folder of three samples, with all that is drawn of them."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        more = ("--rotation", "dct", "--set", "train.sample_every=2", "--set", "train.preview.steps=2")
        assert run("train", *TINY, *more, "--sampler", "ddim:clip=false", "--out", "r").code == 0
        done = run("sample", "r", "--n", 3, "--steps", 2, "--trajectory", "--gif", "--json")
        assert done.code == 0, done.err
    return folder, folder / done.json["folder"]


@pytest.fixture
def samples(drawn, monkeypatch):
    monkeypatch.chdir(drawn[0])
    return drawn[1]


def test_the_folder_says_what_made_it(samples):
    facts = json.loads((samples / FILE).read_text())
    begun = Run.open("r")
    assert facts["run"] == {"id": begun.info["id"], "name": "r"}
    assert (facts["step"], facts["n"], facts["seed"], facts["weights"]["kind"]) == (3, 3, 0, "averaged")
    assert facts["weights"]["decay"] == begun.config.train.ema
    assert facts["sampler"]["evaluations"] == facts["sampler"]["steps"] == 2
    assert facts["process"]["rotation"] == {"name": "dct"}
    assert facts["data"] == begun.info["data"]["fingerprint"]
    assert facts["versions"].keys() == {"gendiff", "torch", "numpy"}


@pytest.mark.parametrize("name", ["grid.png", "trajectory.png", "trajectory.gif", "events/000002.png", "", "events"])
def test_each_file_says_the_same_anywhere(samples, tmp_path, name):
    path = samples / name
    if path.is_file():
        path = Path(shutil.copy(path, tmp_path / f"copied{path.suffix}"))
    facts, whole = dict(Origin.of(path).facts), dict(Origin.of(samples).facts)
    if "events/" in name:
        assert facts.pop("image") == 2
        assert facts.pop("command") == whole.pop("command").replace(" --trajectory --gif", "")
        del whole["n"]
    assert facts == whole


def test_a_preview_says_it_too(samples):
    facts = Origin.of(Path("r/samples/step-00000002.png")).facts
    assert (facts["step"], facts["n"], facts["weights"]["kind"]) == (2, 16, "averaged")


def test_the_command_draws_the_same_again(samples, tmp_path):
    command = Origin.of(samples / "events/000001.png").facts["command"]
    done = run(*shlex.split(command)[1:], "--out", tmp_path / "again")
    assert done.code == 0, done.err
    assert (tmp_path / "again/events/000001.png").read_bytes() == (samples / "events/000001.png").read_bytes()


@pytest.mark.slow
def test_a_run_that_was_trained_on_still_draws_what_it_drew(samples, tmp_path):
    command = Origin.of(samples).facts["command"]
    assert command.startswith("gendiff sample r@3 --n 3 ")
    shutil.copytree("r", tmp_path / "r")
    assert run("train", "--resume", tmp_path / "r", "--steps", 5, "--set", "train.keep=9").code == 0
    words = [str(tmp_path / "r@3") if word == "r@3" else word for word in shlex.split(command)[1:]]
    again = tmp_path / "again"
    done = run(*words, "--out", again)
    assert done.code == 0, done.err
    for file in ("000000.png", "000002.png"):
        there, drawn = (Image.open(folder / "events" / file) for folder in (samples, again))
        assert there.tobytes() == drawn.tobytes()
    later = run("sample", tmp_path / "r", "--n", 3, "--json").json
    assert later["step"] == 5
    measured = run("evaluate", tmp_path / "r@3", "--n", 8, "--metric", "spectrum", "--json").json
    assert measured["numbers"][0]["drawing"]["step"] == 3
    missing = run("sample", tmp_path / "r@1")
    assert (missing.code, "there is no checkpoint of step 1" in missing.err) == (4, True)
    assert gendiff.load(tmp_path / "r@3").step == 3


def test_the_card_follows_a_new_name(samples, tmp_path):
    shutil.copytree("r", tmp_path / "renamed")
    card = tmp_path / "renamed/README.md"
    before = card.read_text()
    assert before.startswith("# r\n")
    assert run("sample", tmp_path / "renamed", "--n", 1, "--steps", 1, "--out", tmp_path / "away").code == 0
    assert card.read_text() == before  # nothing was written into the run
    assert run("sample", tmp_path / "renamed", "--n", 1, "--steps", 1).code == 0
    assert card.read_text() == before.replace("# r\n", "# renamed\n", 1)
    card.write_text("mine\n")
    Run.open(tmp_path / "renamed").retitle_card()
    assert card.read_text() == "mine\n"


def test_the_command_names_what_the_sampler_of_the_run_would_lend(samples):
    done = run("sample", "r", "--n", 1, "--sampler", "ddim:clip=true,steps=2", "--json")
    command = Origin.of(Path(done.json["folder"])).facts["command"]
    assert "clip=true" in command


def test_runs_show_reads_it(samples, tmp_path):
    shutil.copy(samples / "events/000001.png", tmp_path / "found.png")
    shown = run("runs", "show", tmp_path / "found.png")
    assert shown.code == 0, shown.err
    assert "image 1 of seed 0" in shown.out
    assert "next: gendiff sample r@3 --n 2" in shown.err
    facts = run("runs", "show", tmp_path / "found.png", "--json").json
    assert (facts["file"], facts["image"]) == (str(tmp_path / "found.png"), 1)
    assert run("runs", "show", samples, "--json").json["n"] == 3


def test_raw_weights_are_said(samples):
    done = run("sample", "r", "--n", 1, "--steps", 2, "--no-ema", "--json")
    facts = Origin.of(Path(done.json["folder"])).facts
    assert facts["weights"]["kind"] == "raw"
    assert "decay" not in facts["weights"]
    assert " --no-ema" in facts["command"]


def strange(**changes):
    return json.dumps({"format": FORMAT, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "[" * 5000,
        strange(),
        strange(format=2),
        strange(run="r"),
        '{"format": 1, "step": NaN}',
    ],
    ids=range(8),
)
def test_what_is_damaged_or_foreign_is_one_error(samples, tmp_path, text):
    path = tmp_path / "x.png"
    with Path(samples / "grid.png").open("rb"):
        pictures.save(path, pictures.image(pictures.read_event(samples / "events", 0)), text)
    told = run("runs", "show", path)
    assert (told.code, told.err.startswith("error: "), "x.png" in told.err) == (4, True, True)
    assert len(told.err.splitlines()) < 8


@pytest.mark.parametrize("part", ["seed", "weights", "command", "versions"])
@pytest.mark.parametrize("value", [None, [1], "x" * 5000])
def test_a_part_of_another_kind(samples, tmp_path, part, value):
    facts = {**Origin.of(samples).facts, "format": FORMAT, part: value}
    (tmp_path / FILE).write_text(json.dumps(facts))
    with pytest.raises(DataError, match="nothing says what made"):
        Origin.of(tmp_path)


def test_what_a_terminal_would_obey_is_written_out(samples, tmp_path):
    facts = {**Origin.of(samples).facts, "format": FORMAT, "objective": {"name": "\x1b[2Jeps"}}
    (tmp_path / FILE).write_text(json.dumps(facts))
    assert "\x1b" not in run("runs", "show", tmp_path).out


def test_a_picture_of_an_evaluation_leads_to_its_numbers(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "n.png")
    alone = run("runs", "show", tmp_path / "n.png")
    assert "gendiff sample writes" in alone.err
    assert "does not say what made it" not in alone.err  # which is said already
    (tmp_path / "n.json").write_text("{}")
    beside = run("runs", "show", tmp_path / "n.png")
    assert beside.code == 4
    assert f"in the file beside its picture, '{tmp_path / 'n.json'}'" in beside.err
