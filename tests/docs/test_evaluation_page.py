"""The page on evaluation is true: its lines for a paper run, in their order, and every rule has its row."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
from command import TINY, run
from PIL import Image
from places import ROOT

from gendiff.evaluation import remarks

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
#: What makes a command of the page one of seconds; the network of the paper's features is not here.
SMALL = {"--steps": "2", "--seeds": "2", "--n": "16", "--size": "8"}
QUICK = {
    "compare": (*TINY[:2], *TINY[4:6], "--sampler", "ddim:steps=2", "--batch", "4", "--features", "pixels"),
    "evaluate": ("--sampler", "ddim:steps=2", "--features", "pixels", "--replicates", "2"),
}


def section(heading):
    return PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def commands(text):
    block = re.search(r"```\n(.*?)```", text, flags=re.DOTALL)[1]
    return [shlex.split(line, comments=True) for line in block.splitlines()]


def reduced(words):
    small = [SMALL.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    return [*small[1:], *QUICK.get(words[1], ())]


@pytest.mark.slow
def test_the_numbers_for_a_paper_can_be_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, count in (("photos", 24), ("held-out", 10)):
        (tmp_path / folder).mkdir()
        for k in range(count):
            pixels = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{k}.png")
    lines = commands(section("Numbers for a paper"))
    assert len(lines) >= 6
    said = []
    for words in lines:
        assert words[0] == "gendiff"
        done = run(*reduced(words))
        assert done.code == 0, f"{words}\n{done.err}"
        said.append(done.out)
    compared, held_out, own, _ = said[2:]
    for text in ("real-against-real: ", "training-data: ", "As asked, the arms differ in process: rotation"):
        assert text in compared
    assert "would settle it" in compared or "better than" in compared or "worse than" in compared
    assert "events of packed:path=held-out-64, which it was not trained on, are: " in held_out
    assert "training-data" not in held_out
    assert "training-data: " in own
    assert "closer-pixels" in own
    assert len(list((tmp_path / "paper" / "runs" / "1-identity-s0" / "eval").glob("*.png"))) == 2


def test_every_rule_has_its_row():
    rules = re.findall(r"^    ([a-z]+(?:-[a-z]+)+)   ", remarks.__doc__, flags=re.MULTILINE)
    assert len(rules) == 5
    assert all(f"| `{rule}` |" in PAGE for rule in [*rules, "neighbours"])
