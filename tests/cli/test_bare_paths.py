"""A bare path goes wherever data are named; a batch takes the set where it is larger."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from command import TINY, run
from PIL import Image

import gendiff
from gendiff.data import Data
from gendiff.datasets.split import HoldOut
from gendiff.errors import ArgumentError, ConfigError
from gendiff.run.directory import Run
from gendiff.run.layers import Layer, resolve

SMALL = ("--model", "mlp:width=4,depth=1", "--set", "train.sample_every=0", "--set", "N=20", "--steps", 2)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with ``photos``, ``others`` and ``a.npy``."""
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("photos", 0), ("others", 1)):
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 9, 9, 3), dtype=np.uint8)
        for k, picture in enumerate(pixels):
            Image.fromarray(picture).save(tmp_path / folder / f"{k:02}.png")
    np.save("a.npy", np.random.default_rng(2).integers(0, 256, (5, 6, 8), dtype=np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    ("layer", "spec"),
    [
        ({"data": "photos"}, "folder:path=photos"),  # and not the data of that name, which cannot be without a path
        ({"data": "a.npy"}, "npy:path=a.npy"),
        ({"data": {"name": "folder", "path": "photos", "size": 8}}, "folder:path=photos,size=8"),
    ],
)
def test_a_layer_names_data_by_a_path(here, layer, spec):
    assert resolve([Layer("the test", layer)]).config.data.spec == spec


def test_a_path_with_a_colon_is_a_path(here):
    (here / "photos").rename(here / "a:b")
    assert resolve([Layer("--data", {"data": "./a:b"})]).config.data.spec == "folder:path=a:b"


def test_a_path_is_a_path_in_every_layer(here):
    (here / "run.toml").write_text('data = "photos"\nhold_out = "others"\n')
    config = resolve([Layer.from_file(here / "run.toml"), Layer.at("--size", "data.size", 8)]).config
    assert config.data.spec == "folder:path=photos,size=8"
    assert config.hold_out.data.spec == "folder:path=others,size=8"  # the size of the data
    config = resolve([Layer.from_assignment("data=photos"), Layer.from_assignment("hold_out.data=others")]).config
    assert (config.data.spec, config.hold_out.data.spec) == ("folder:path=photos", "folder:path=others")


def test_who_holds_out_last_is_heard(here):
    part, others = Layer.from_assignment("hold_out=0.5"), Layer.from_assignment("hold_out=others")
    by = Layer.from_assignment("hold_out.by=picture")
    config = resolve([Layer.at("", "data", "photos"), part, by, others]).config
    assert (config.hold_out.events, config.hold_out.data.spec, config.hold_out.by) == (
        None,
        "folder:path=others",
        "picture",
    )
    config = resolve([Layer.at("", "data", "photos"), others, part]).config
    assert (config.hold_out.events, config.hold_out.data) == (0.5, None)


def test_commands_take_paths_and_the_size_of_the_run(here):
    done = run("train", "--data", "photos", "--size", 8, "--hold-out", "others", *SMALL, "--batch", 4, "--out", "r")
    assert done.code == 0, done.err
    assert "held out: 12 events of folder:path=others,size=8" in " ".join(done.err.split())
    facts = run("process", "likelihood", "r", "--data", "others", "--events", 4, "--draws", 1, "--json").json
    assert facts["data"] == "folder:path=others,size=8"
    facts = run("evaluate", "r", "--data", "photos", "-n", 8, "--features", "pixels", "--json").json
    assert facts["numbers"][0]["reference"]["spec"] == "folder:path=photos,size=8"
    arms = ("--arm", "identity data=photos size=8", "--arm", "dct data=photos data.size=8", "--allow", "all")
    done = run("compare", *arms, *SMALL[:2], "--batch", 4, "--features", "pixels", "--dry-run")
    assert done.code == 0, done.err
    done = run("reproduce", "figure1", "--data", "nowhere/photos", "--out", "x")
    assert (done.code, "there is no 'nowhere/photos' (from --data)" in done.err) == (4, True)


def test_reproduce_takes_a_path(here, monkeypatch):
    from gendiff.comparison import reproduction

    plans = []
    monkeypatch.setattr(
        reproduction, "plan", lambda scale, layers, *rest, **more: plans.append(resolve(layers).config) or 1 / 0
    )
    run("reproduce", "figure1", "--data", "photos", "--size", 16)
    assert plans[0].data.spec == "folder:path=photos,size=16"


def test_a_name_of_data_that_is_a_folder_too_is_said(here):
    (here / "digits").mkdir()
    with pytest.warns(
        UserWarning, match="'digits' is taken as the data of that name; what is called so here is ./digits"
    ):
        assert resolve([Layer.at("--data", "data", "digits")]).config.data == Data("digits")
    Image.new("RGB", (4, 4)).save("digits/a.png")
    assert resolve([Layer.at("--data", "data", "./digits")]).config.data.name == "folder"


def test_python_takes_a_path_and_holds_out(here):
    assert gendiff.as_data("photos") == Data("folder:path=photos")
    options = {"model": "mlp:width=4,depth=1", "N": 20, "steps": 2, "sample_every": 0, "progress": False}
    model = gendiff.train("a.npy", hold_out=2, out="r", **options)
    assert model.data.length == 3
    assert Run.open("r").split().held_out.length == 2
    again = gendiff.train(torch.rand(5, 1, 6, 8) * 2 - 1, hold_out={"events": 1, "seed": 3}, out="s", **options)
    assert again.data.length == 4
    with pytest.raises(ArgumentError, match="hold_out is a Tensor"):
        gendiff.train("a.npy", hold_out=torch.zeros(2, 1, 6, 8), out="t", **options)


class TestSmallData:
    def config(self, batch, **more):
        return resolve([Layer("the test", {"data": "a.npy", "train": {"batch": batch}, **more})]).config

    def test_a_batch_that_is_larger_takes_the_set_and_says_so(self, here):
        with pytest.warns(
            UserWarning, match="the batch of 64 is larger than the 5 events that there are: each step takes all"
        ):
            assert self.config(64).filled().train.batch == 5
        with pytest.warns(UserWarning, match="larger than the 3 events"):
            assert self.config(64, hold_out=2).filled().train.batch == 3

    def test_a_batch_that_fits_stays_and_nothing_is_said(self, here):
        config = self.config(5)
        assert config.filled() is config
        endless = resolve([Layer("the test", {"data": "dead-leaves:size=8"})]).config
        assert endless.filled() is endless

    def test_processes_share_it_evenly(self, here):
        with pytest.warns(UserWarning, match="each step takes 4 of them, a multiple of 2 processes"):
            assert self.config(64).filled(2).train.batch == 4
        with pytest.raises(ConfigError, match="5 events cannot be shared by 6 processes"):
            self.config(64).filled(6)

    @pytest.mark.filterwarnings("default")  # notes of the command line
    def test_the_run_says_what_it_took(self, here):
        done = run("train", "--data", "a.npy", *SMALL, "--out", "r")
        assert done.code == 0, done.err
        assert "the batch of 64 is larger than the 5 events" in " ".join(done.err.split())
        assert Run.open("r").table["train"]["batch"] == 5
        assert [row["images"] for row in Run.open("r").rows()] == [10]

    @pytest.mark.filterwarnings("default")
    def test_a_comparison_takes_the_set_too(self, here):
        arms = (
            "--arm",
            "identity",
            "--arm",
            "dct",
            "--data",
            "photos",
            "--size",
            8,
            "--hold-out",
            1,
            "--features",
            "pixels",
        )
        done = run("compare", *arms, *TINY[:2], "--dry-run")
        assert done.code == 0, done.err
        assert " ".join(done.err.split()).count("the batch of 64 is larger than the 11 events") == 1


@pytest.mark.parametrize(
    ("word", "code", "what", "fix"),
    [
        ("0", 2, "0 of the events cannot be held out (from --hold-out)", "without it nothing is held out"),
        ("1.0", 2, "1.0 of the events cannot be held out (from --hold-out)", "a part between 0 and 1"),
        ("-3", 2, "-3 of the events cannot be held out (from --hold-out)", "--hold-out 0.1 is a tenth"),
        (
            "12",
            2,
            "12 events cannot be held out of 12: none would be left to train on (from --hold-out)",
            "--hold-out 1",
        ),
        ("photos", 2, "the held-out data are the training data themselves (from --hold-out)", "--hold-out 0.1"),
        ("digits", 2, "events (1, 8, 8), the training data (3, 9, 9) (from --hold-out)", "data of the same kind"),
        ("folder:path=others,size=4", 2, "events (3, 4, 4), the training data", "size=9,channels=3"),
        ("0.1x", 2, "no data and no file or folder is called '0.1x' (from --hold-out)", "--hold-out 200 so many"),
        ("npy:path=x.npy", 4, "there is no 'x.npy' (from --hold-out)", "correct the path"),
        ("nope", 2, "no data and no file or folder is called 'nope' (from --hold-out)", "did you mean 'npy'?"),
    ],
)
def test_what_cannot_be_held_out_is_explained(here, word, code, what, fix):
    done = run("train", "--data", "photos", "--size", 9, "--batch", 4, "--hold-out", word, "--dry-run")
    text = " ".join(done.err.split())
    assert (done.code, what in text, fix in text) == (code, True, True), text
    assert done.err.count("\n") <= 6


def test_settings_say_what_they_hold_out_in_every_form():
    assert HoldOut.said("0.1") == {"events": 0.1}
    assert HoldOut.said("200") == {"events": 200}
    assert HoldOut.said("photos") == {"data": "photos"}
    assert HoldOut.said(3) == {"events": 3}
