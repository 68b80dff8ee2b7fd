"""The page on one's own pictures is true: its commands run in their order on a folder of 40, and its table has every setting."""

from __future__ import annotations

import re
import shlex

import pytest
import torch
from command import run
from PIL import Image
from places import ROOT

from gendiff.data import Data
from gendiff.datasets.split import HoldOut

PAGE = (ROOT / "docs" / "pictures.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.splitlines()]
#: What makes hours into seconds.
SMALL = {
    "train": ["--model", "mlp:width=8,depth=1", "--set", "train.sample_every=0", "--steps", "4"],
    "sample": ["--steps", "4"],
}
SMALL |= {"evaluate": ["--steps", "4"], "process": ["--draws", "1"]}


def photos(folder, count=40):
    folder.mkdir()
    scenes = Data("dead-leaves:size=40")
    for k in range(count):
        pixels = ((scenes[k] + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"IMG_{k:02}.png")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # notes of the command line
def test_the_commands_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    assert [shlex.split(line)[1] for line in COMMANDS] == [
        "data",
        "train",
        "runs",
        "sample",
        "evaluate",
        "evaluate",
        "evaluate",
        "process",
    ]
    results = []
    for line in COMMANDS:
        words = shlex.split(line)[1:]
        results.append(run(*words, *SMALL.get(words[0], [])))
        assert results[-1].code == 0, (line, results[-1].err)
    _, train, show, _, held_out, training, neighbours, likelihood = results
    notes = " ".join(train.err.split())
    assert "held out: 8 of 40 events of folder:path=photos,size=32" in notes
    assert "the batch of 64 is larger than the 32 events that there are: each step takes all of them" in notes
    assert "held-out loss" in show.out
    assert "held out: 8 of 40 events" in held_out.out
    assert "training: 32 of 40 events" in training.out
    assert "closer-random-conv" in neighbours.out
    assert "data it was not trained on" in " ".join(likelihood.out.split())


def test_every_setting_is_in_the_table():
    rows = re.findall(r"^\| `hold_out\.(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert set(rows) == set(HoldOut.model_fields)
    for setting in ("every", "most"):
        default = HoldOut.model_fields[setting].default
        assert re.search(rf"`hold_out\.{setting}` \|.* {default} \|", PAGE)
