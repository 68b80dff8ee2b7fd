"""The page on conditions: its commands run, and it names every guide."""

from __future__ import annotations

import runpy

import pytest
from pages import follow
from places import ROOT

from gendiff.plugin.registry import default_registry

PAGE = (ROOT / "docs" / "conditions.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    follow(PAGE)
    runpy.run_path("classes.py")


def test_every_guide_that_restores_nothing_is_there():
    for entry in default_registry().entries("guide"):
        assert entry.load().restores or f"`{entry.name}`" in PAGE
