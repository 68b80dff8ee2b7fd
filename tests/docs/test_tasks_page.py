"""The page of ten tasks: its commands run, and each task leads to a page or to a section that is there."""

from __future__ import annotations

import re

import pytest
from pages import follow
from places import ROOT

DOCS = ROOT / "docs"
PAGE = (DOCS / "tasks.md").read_text(encoding="utf-8")


def anchors(page: str) -> set[str]:
    """What a link after # may say: the headings in small letters, without punctuation, joined by hyphens."""
    headings = re.findall(r"(?m)^#+ (.+)$", re.sub(r"(?ms)^```.*?^```$", "", page))
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    follow(PAGE)


def test_there_are_ten_tasks_and_each_leads_somewhere():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    for row in rows:
        links = re.findall(r"\]\(([^)]+)\)", row)
        assert links, row
        for link in links:
            file, _, anchor = link.partition("#")
            text = (DOCS / file).read_text(encoding="utf-8") if file else PAGE
            assert not anchor or anchor in anchors(text), link
