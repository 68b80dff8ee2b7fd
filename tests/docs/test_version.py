"""The version is said in one place, `gendiff.__version__`, and everything that names or records one follows it."""

from __future__ import annotations

import json
import re
import tomllib

from command import TINY, run
from gendiff_plugins.data.digits import Digits
from places import ROOT

from gendiff import __version__
from gendiff.plugin.discovery import installed, version


def test_it_is_a_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    assert run("--version").out == f"gendiff {__version__}\n"


def test_the_project_takes_it_from_the_code():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in pyproject["project"]["dynamic"]
    assert pyproject["tool"]["hatch"]["version"]["path"] == "gendiff/version.py"


def test_the_citation_has_it():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_changelog_has_a_dated_section_of_it_or_says_that_it_is_not_yet_released():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = re.search(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", text, re.MULTILINE)
    assert first[1] == "Unreleased" or (first[1] == __version__ and first[2])


def test_what_is_recorded_is_the_version_of_the_code_and_not_of_an_older_installation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert version("gendiff") == __version__
    own = {plugin.provider.version for plugin in installed() if plugin.provider.built_in}
    assert own == {__version__}
    assert run("train", *TINY, "--out", "r").code == 0
    info = json.loads((tmp_path / "r" / "run.json").read_text())
    assert info["versions"]["gendiff"] == __version__
    assert {row["plugin"] for row in info["providers"].values()} == {f"gendiff {__version__}"}
    manifest = json.loads(next((tmp_path / "r" / "checkpoints").glob("*/MANIFEST.json")).read_text())
    assert manifest["about"]["versions"]["gendiff"] == __version__
    assert f"gendiff {__version__}" in run("plugins", "info", Digits.name).out
