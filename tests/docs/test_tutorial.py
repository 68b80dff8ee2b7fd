"""The plugin tutorial does not lie: `pages` says how it is read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from command import TINY, run
from pages import blocks, commands, follow, same, unmatched
from PIL import Image
from places import ROOT

FOLDER = ROOT / "docs" / "plugins"
IMAGES = ROOT / "docs" / "images"


@pytest.fixture(scope="module")
def page() -> str:
    return (FOLDER / "tutorial.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENDIFF_PLUGINS", raising=False)
    follow(page)
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
