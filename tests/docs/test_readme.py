"""The pages do not lie: their code runs, their links lead somewhere."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from places import ROOT

from gendiff.plugin.registry import default_registry

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks(page: Path) -> list[str]:
    """The blocks of a page but, where it is followed by a test of its own, those that are files."""
    text = page.read_text()
    followed = "```console" in text
    return [
        re.sub(r"(?m)^  (?=\S|  )", "", code)
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        if not (followed and re.match(r"# \w+\.py\n", code))
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_code_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}  # a block goes on from those above it
    for code in python_blocks(page):
        exec(compile(code, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_there_is_code_to_run():
    assert sum(len(python_blocks(page)) for page in PAGES) >= 3


def test_components_named_in_the_readme_exist():
    registry = default_registry()
    for flag, kind in (("rotation", "rotation"), ("schedule", "schedule"), ("data", "data"), ("sampler", "sampler")):
        for name in re.findall(rf"--{flag} \"?([a-z0-9-]+)", (ROOT / "README.md").read_text()):
            assert name in [*registry.names(kind), "sine"]
    for name in re.findall(r"--preset ([a-z-]+)", (ROOT / "README.md").read_text()):
        registry.preset(name)


def test_installed_entry_points_are_those_of_pyproject():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["gendiff"]
    found = {
        point.name: point.value
        for point in entry_points(group="gendiff")
        if point.dist and point.dist.name == "gendiff"
    }
    assert found == wanted, "run `pip install -e .` again: entry points have changed since it was installed"
