"""Threads: of a training, chosen before it begins, said in one line and in its record, and kept where it goes on; of drawing."""

from __future__ import annotations

import pytest
import torch
from command import TINY, run
from gendiff_cli import interpolate, invert, restore, sample, train

from gendiff.machine import threads
from gendiff.run.directory import Run


@pytest.fixture(autouse=True)
def two_cores(monkeypatch, tmp_path):
    """Two cores that nobody said anything of; what other processes do is in the list."""
    monkeypatch.chdir(tmp_path)
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    others = [0.0]

    class Seen:
        def others(self):
            return others[0]

    for command in (train, sample, restore, invert, interpolate):
        monkeypatch.setattr(command, "Load", Seen)
    monkeypatch.setattr(threads, "cores", lambda: [0, 1])
    monkeypatch.setattr(threads, "allowance", lambda: 2.0)
    monkeypatch.setattr(threads, "STANDARD", 2)
    torch.set_num_threads(2)
    yield others
    torch.set_num_threads(1)


def line(done):
    assert done.code == 0, done.err
    return next(line.partition("threads")[2].strip() for line in done.err.splitlines() if line.startswith("threads"))


def test_as_many_as_are_free_and_a_run_keeps_its_number(two_cores):
    assert line(run("train", *TINY, "--out", "quiet")).startswith("2: one for each core")
    assert Run.open("quiet").info["threads"] == 2
    two_cores[0] = 1.6
    assert line(run("train", "--resume", "quiet", "--steps", 5)).startswith("2: as the run had before")
    assert Run.open("quiet").info["threads"] == 2
    assert line(run("train", *TINY, "--out", "busy")) == "1: other processes keep 1.6 of 2 cores busy"
    assert Run.open("busy").info["threads"] == 1
    two_cores[0] = 0.0
    torch.set_num_threads(2)
    done = run("train", "--resume", "busy", "--steps", 5)
    assert line(done) == "1: as the run had before"
    assert "last bits change" not in done.err


def test_what_is_said_stays(two_cores):
    two_cores[0] = 2.0
    assert line(run("train", *TINY, "--threads", 2, "--out", "r")).startswith("2: --threads 2")
    done = run("train", "--resume", "r", "--steps", 5, "--threads", 1)
    assert line(done) == "1: --threads 1"
    assert "note: 'r' had 2 threads, and has 1 from here on: last bits change" in done.err
    torch.set_num_threads(2)
    assert line(run("train", *TINY, "--threads", "auto", "--out", "auto")).startswith("1: other processes")


def test_with_deterministic_nothing_is_left_to_the_moment(two_cores):
    two_cores[0] = 2.0
    assert line(run("train", *TINY, "--deterministic", "--out", "r")).startswith("2: one for each core")


def test_the_number_decides_bits_and_auto_has_those_of_its_number(two_cores):
    words = ("train", "--batch", 16, "--steps", 2, "--set", "train.sample_every=0", "--model", "unet:channels=16")
    two_cores[0] = 2.0
    assert run(*words, "--out", "auto").code == run(*words, "--threads", 1, "--out", "one").code == 0
    weights = [next((Run.open(path).checkpoints).glob("*/model.safetensors")).read_bytes() for path in ("auto", "one")]
    assert weights[0] == weights[1]


@pytest.fixture
def run_and_picture() -> tuple[str, str]:
    """A run, and a picture of its size."""
    assert run("train", *TINY, "--out", "r").code == 0
    torch.set_num_threads(2)
    assert run("sample", "r", "--n", 1, "--out", "s").code == 0
    return "r", "s/events/000000.png"


@pytest.mark.slow
def test_drawing_has_the_threads_that_are_asked_for_or_free(two_cores, run_and_picture):
    name, picture = run_and_picture
    draw = ("sample", name, "--n", 2, "--steps", 2)
    restored = ("restore", name, picture, "--operator", "blur:sigma=1", "--simulate", "--steps", 2)
    for words in (draw, restored, ("invert", name, picture), ("interpolate", name, picture, picture)):
        torch.set_num_threads(2)
        done = run(*words)
        assert done.code == 0, done.err
        assert "note: threads" not in done.err
        assert torch.get_num_threads() == 2
        assert "note: threads 1: --threads 1" in run(*words, "--threads", 1).err
        assert torch.get_num_threads() == 1
    two_cores[0] = 1.6
    torch.set_num_threads(2)
    assert "note: threads 1: other processes keep 1.6 of 2 cores busy" in run(*draw, "--threads", "auto").err
    assert "note: threads 2: --threads 2" in run(*draw, "--threads", 2).err


def test_a_number_of_threads_that_is_none(run_and_picture):
    done = run("sample", run_and_picture[0], "--threads", "many")
    assert done.code == 2
    assert "cannot read the number 'many' (from --threads)" in done.err
    assert "allowed: auto, 1, 2, ..." in done.err
