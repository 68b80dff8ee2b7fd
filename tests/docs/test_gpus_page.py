"""The page on several GPUs is true as far as two processes on a CPU can tell; tests/training has the rest of what it promises."""

from __future__ import annotations

import json

import pytest
import torch
from command import run
from pages import follow
from places import ROOT
from safetensors.torch import load_file

from gendiff.training.loop import default_workers

PAGE = (ROOT / "docs" / "gpus.md").read_text(encoding="utf-8")
ARGUMENTS = ("--rotation", "dct", "--schedule", "log", "--model", "mlp:width=32,depth=2", "--batch", 64)


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """What the page's block leaves behind, and the same run in one process, without a stop."""
    folder = tmp_path_factory.mktemp("gpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        follow(PAGE)
        assert run("train", *ARGUMENTS, "--steps", 20, "--out", "one").code == 0
    return folder


@pytest.mark.slow
def test_another_number_of_processes_goes_on_with_the_same_run_to_rounding(followed):
    weights = [
        load_file(next((followed / name / "checkpoints").glob("*20/model.safetensors"))) for name in ("one", "two")
    ]
    assert weights[0].keys() == weights[1].keys()
    for name, one in weights[0].items():
        assert torch.linalg.norm(weights[1][name] - one) <= 1e-5 * torch.linalg.norm(one), name


@pytest.mark.slow
def test_rows_are_written_once_and_speak_of_the_global_batch(followed):
    rows = [json.loads(line) for line in (followed / "two" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert all(row["images"] == 64 * row["step"] for row in rows)


@pytest.mark.slow
def test_pictures_are_those_of_one_process(followed, monkeypatch):
    monkeypatch.chdir(followed)
    assert run("sample", "two", "-n", 5, "--sampler", "ddim:steps=4", "--out", "alone").code == 0
    ours, theirs = (sorted((followed / name / "events").iterdir()) for name in ("drawn", "alone"))
    assert [file.read_bytes() for file in ours] == [file.read_bytes() for file in theirs]
    assert len(ours) == 5


def test_data_processes_are_counted_by_process():
    assert default_workers(torch.device("cpu")) == 0
    assert 1 <= default_workers(torch.device("cuda")) <= 8
    assert "up to 8 data processes for each GPU" in PAGE
