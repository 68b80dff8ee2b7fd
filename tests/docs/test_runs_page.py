"""The page on runs is true: its commands run in their order, and say what it says."""

from __future__ import annotations

import shlex
import shutil

import pytest
from pages import blocks, commands, executed, unmatched
from places import ROOT

PAGE = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
FILES = {"mv": shutil.move, "cp": shutil.copy, "cp -r": shutil.copytree}


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    ran = set()
    for block in blocks(PAGE):
        assert block.language == "console", f"line {block.line}"
        for command, shown in commands(block.text):
            if not command.startswith("gendiff"):
                tool, source, target = command.rsplit(" ", 2)
                FILES[tool](source, target)
                continue
            done, code = executed(command)
            said = f"line {block.line}: $ {command}\n{done.out}{done.err}"
            assert done.code == code, said
            wrong = unmatched(shown, done.out.splitlines(), done.err.splitlines())
            assert not wrong, f"{wrong}\n{said}"
            ran |= {tuple(word for word in shlex.split(command)[1:] if word in ("--resume", "--from", "list", "show"))}
    assert ran >= {("--resume",), ("list",), ("show",)}


def test_what_it_says_in_python(tmp_path, monkeypatch):
    import gendiff

    monkeypatch.chdir(tmp_path)
    first = gendiff.train(
        "digits", model="mlp:width=16,depth=1", rotation="dct", steps=2, out="runs/blur", progress=False
    )
    assert gendiff.resume("runs/blur", steps=3, lr=1e-4, progress=False).step == 3
    line = next(line for line in PAGE.splitlines() if "gendiff.train(" in line)
    code = line.partition("`")[2].partition("`")[0].replace("@60", "@3").replace(")", ", steps=1, progress=False)")
    child = eval(code, {"gendiff": gendiff})
    assert child.config.objective.name == "eps"
    assert child.run.info["from"]["id"] == first.run.info["id"]


@pytest.mark.parametrize("word", ["--keep", "--checkpoint-every", "--from-averaged", "--where", "sample.json"])
def test_what_is_new_is_on_it(word):
    assert word in PAGE
