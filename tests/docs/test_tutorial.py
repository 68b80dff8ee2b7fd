"""The plugin tutorial does not lie: every block of it is written, run or compared, in the order of the page.

How the page is read: a python or toml block that begins with ``# NAME`` is the file NAME; one that begins with ``# in NAME`` is a
part of that file. A diff block changes a file. A console block runs its ``$`` lines. The lines below one are its whole stdout and
whatever of its stderr; ``...`` stands for anything, and a line ``...`` for any lines of stdout. ``# exit code K`` is expected of
the command before it. A block without a language is a formula.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from command import TINY, Result, run
from PIL import Image
from places import ROOT

FOLDER = ROOT / "docs" / "plugins"
IMAGES = ROOT / "docs" / "images"
LANGUAGES = {"python", "toml", "diff", "console", ""}


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str

    @property
    def named(self) -> str:
        """What follows ``#`` in the first line."""
        first = self.text.partition("\n")[0]
        assert first.startswith("# "), (
            f"line {self.line}: a block of {self.language} must begin with the name of a file"
        )
        return first.removeprefix("# ")

    @property
    def rest(self) -> str:
        return self.text.partition("\n")[2]


def blocks(page: str) -> list[Block]:
    found = re.finditer(r"(?ms)^```(\w*)\n(.*?)^```$", page)
    return [Block(page.count("\n", 0, match.start()) + 1, match[1], match[2]) for match in found]


def commands(console: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console block, with the lines below it."""
    for part in re.split(r"(?m)^\$ ", console)[1:]:
        command, *shown = part.rstrip("\n").split("\n")
        yield command, shown


def same(shown: str, line: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, shown.split("..."))), line.rstrip()) is not None


def unmatched(shown: list[str], out: list[str], err: list[str]) -> str:
    """The first line that the page and the program do not share; empty where they agree."""
    out, err, skipping = list(out), list(err), False
    for line in shown:
        at, at_err = ([k for k, seen in enumerate(stream) if same(line, seen)] for stream in (out, err))
        if line == "...":
            skipping = True
        elif at and (skipping or at[0] == 0):
            del out[: at[0] + 1]
            skipping = False
        elif at_err:
            del err[: at_err[0] + 1]
        else:
            return f"not said: {line}"
    return "" if skipping or not out else f"not shown: {out[0]}"


def executed(command: str) -> tuple[Result, int]:
    """A command of the page, and the exit code that the page promises."""
    command, _, remark = command.partition("  # exit code ")
    words = shlex.split(command)
    given = dict(word.split("=", 1) for word in words[: words.index("gendiff")])
    with patch.dict(os.environ, given):
        return run(*words[words.index("gendiff") + 1 :]), int(remark or 0)


@pytest.fixture(scope="module")
def page() -> str:
    return (FOLDER / "tutorial.md").read_text(encoding="utf-8")


def test_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENDIFF_PLUGINS", raising=False)
    for block in blocks(page):
        assert block.language in LANGUAGES, f"line {block.line}: what is {block.language}?"
        if block.language == "console":
            for command, shown in commands(block.text):
                done, code = executed(command)
                said = f"line {block.line}: $ {command}\n{done.out}{done.err}"
                assert done.code == code, said
                wrong = unmatched(shown, done.out.splitlines(), done.err.splitlines())
                assert not wrong, f"{wrong}\n{said}"
        elif block.language == "diff":
            path = Path(block.named)
            old, new = ("".join(re.findall(rf"(?m)^[{sign}](.*\n)", block.rest)) for sign in "-+")
            assert path.read_text(encoding="utf-8").count(old) == 1, f"line {block.line}: nothing to change"
            path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        elif block.language and block.named.startswith("in "):
            part = Path(block.named.removeprefix("in ")).read_text(encoding="utf-8")
            assert block.rest in part, f"line {block.line}: not in that file"
        elif block.language:
            Path(block.named).write_text(block.text, encoding="utf-8")
    for picture in IMAGES.glob("plugin-*.png"):
        if (tmp_path / picture.name).exists():
            ours, theirs = (
                np.asarray(Image.open(path).convert("RGB"), float) for path in (tmp_path / picture.name, picture)
            )
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).mean() < 1, f"{picture.name} is not what its command draws"


def test_a_run_directory_executes_nothing(tmp_path, monkeypatch):
    """As the page says, at its end."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from pathlib import Path\n\nPath('executed').touch()\n")
    assert run("--plugin", "mine.py", "train", *TINY, "--out", "r").code == 0
    Path("executed").unlink()
    assert Path("r/plugins/mine.py").is_file()
    commands = [
        ("sample", "r", "--n", 2, "--sampler", "ddim:steps=2"),
        ("runs", "show", "r"),
        ("train", "--resume", "r", "--steps", 6),
    ]
    assert [run(*command).code for command in commands] == [0, 0, 0]
    config = Path("r/config.toml")
    config.write_text('plugins = ["plugins/mine.py"]\n' + config.read_text())
    commands += [("train", "--config", config, "--dry-run"), ("config", "show", "r"), ("runs", "list", ".")]
    assert [run(*command).code for command in commands] == [3, 3, 3, 3, 3, 0]
    assert not Path("executed").exists()
    assert run("--plugin", "mine.py", "train", "--config", config, "--dry-run").code == 0
    assert Path("executed").exists(), "which the user has named"


def test_there_is_something_to_run(page):
    found = [command for block in blocks(page) if block.language == "console" for command, _ in commands(block.text)]
    assert len(found) >= 15
    drawn = [name for name in re.findall(r"--out (plugin-\S+\.png)", page) if f"(../images/{name})" in page]
    assert drawn, "no picture that a command of the page draws is shown"


def test_links_and_pictures():
    shown = set()
    for path in sorted(FOLDER.glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (path.parent / target).exists(), f"{path.name} links to {target}"
                shown.add((path.parent / target).resolve())
    pictures = set(IMAGES.glob("plugin-*.png"))
    assert pictures <= shown, "a picture that no page shows"
    assert sum(picture.stat().st_size for picture in pictures) < 800_000  # noise does not compress


@pytest.mark.parametrize(
    ("shown", "wrong"),
    [
        ("a b", ""),
        ("a b f", ""),
        ("a ... e", ""),
        ("... f", ""),
        ("... b", ""),
        ("b", "not said: b"),
        ("a", "not shown: b"),
        ("... a", "not shown: b"),
        ("a c", "not said: c"),
        ("a b f e", "not said: e"),
    ],
)
def test_how_output_is_compared(shown, wrong):
    assert unmatched(shown.split(), ["a", "b"], ["e", "f"]) == wrong


@pytest.mark.parametrize(("shown", "line"), [("a ... c", "a b c"), ("a", "a  "), ("...(x)", "f(x)")])
def test_what_counts_as_the_same_line(shown, line):
    assert same(shown, line)
    assert not same(shown, line + "!")
