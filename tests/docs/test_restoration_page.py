"""The page on restoration: its commands run, and its tables hold every operator and every method."""

from __future__ import annotations

import re
import runpy

from pages import follow
from places import ROOT

from gendiff.plugin.registry import default_registry

PAGE = (ROOT / "docs" / "restoration.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    follow(PAGE)
    assert runpy.run_path("own_operator.py")["restored"].shape == (2, 1, 8, 8)


def test_every_operator_and_method_is_there():
    named = set(re.findall(r"(?m)^\| `([a-z-]+)", PAGE))
    registry = default_registry()
    methods = {entry.name for entry in registry.entries("guide") if getattr(entry.load(), "restores", False)}
    assert named == {*registry.names("operator"), *methods}
