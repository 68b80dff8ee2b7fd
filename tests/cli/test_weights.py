"""``--ema`` chooses among the averages of a run, and what was drawn says of which it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import TINY, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "r"
    options = ("--ema", "0.9,0.1", "--set", "train.posthoc=[0.05,0.1]", "--set", "train.snapshot_every=1", "--lr", 0.05)
    assert run("train", *TINY, *options, "--set", "train.warmup=0", "--out", path).code == 0
    return path


def test_each_choice_is_another_drawing_with_its_name(trained):
    contents = {}
    for option, name in (
        ((), "ema-0.9"),
        (("--ema", "0.9"), "ema-0.9"),
        (("--ema", "0.1"), "ema-0.1"),
        (("--ema", "posthoc:0.07"), "posthoc-0.07"),
        (("--no-ema",), "model"),
    ):
        done = run("sample", trained, "--n", 2, "--steps", 2, *option, "--json")
        assert done.code == 0, done.err
        assert done.json["weights"] == name
        folder = Path(done.json["folder"])
        assert f"-{'raw' if name == 'model' else name}-" in folder.name
        contents[option] = (folder / "grid.png").read_bytes()
    assert len(set(contents.values())) == 4
    assert contents[()] == contents["--ema", "0.9"]


def test_numbers_say_which_weights_they_are_of(trained):
    options = ("--n", 8, "--reference-n", 16, "--steps", 2, "--features", "pixels", "--no-precision-recall", "--no-kid")
    told = run("evaluate", trained, *options, "--ema", "posthoc:0.1")
    assert told.code == 0, told.err
    assert "posthoc-0.1 weights" in told.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--ema", "0.9", "--no-ema"), "--no-ema asks for raw weights"),
        (("--ema", "0.7"), "it has: 0.9, 0.1, posthoc:WIDTH"),
        (("--ema", "posthoc:wide"), "cannot read the width 'wide'"),
    ],
)
def test_what_is_not_there_is_refused(trained, options, said):
    done = run("sample", trained, *options)
    assert done.code == 2
    assert said in done.err
    assert len(done.err.strip().splitlines()) <= 4


def test_samples_that_are_there_have_no_weights(tmp_path):
    (tmp_path / "ok").mkdir()
    done = run("evaluate", tmp_path / "ok", "--data", "digits", "--ema", "0.9")
    assert done.code == 2
    assert "--ema 0.9" in done.err
