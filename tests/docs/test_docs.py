"""The pages that follow from the code are what the code says."""

from __future__ import annotations

import re

import pytest
from PIL import Image
from places import ROOT, docs_program

from gendiff.plugin.registry import default_registry

DOCS = ROOT / "docs"
generate, wrap = docs_program("generate"), docs_program("wrap")


@pytest.mark.parametrize("page", generate.PAGES, ids=lambda page: page.name)
def test_a_page_is_up_to_date(page):
    assert page.read_text(encoding="utf-8") == wrap.wrapped(generate.PAGES[page]()), "run `make docs`"


def test_every_named_process_is_on_the_page_with_its_pictures():
    sections = re.split(r"(?m)^## ", generate.processes())[1:]
    names = [entry.name for entry in default_registry().entries("process") if entry.provider.built_in]
    assert len(sections) == len(names) >= 10
    drawn = set()
    for name, section in zip(names, sections, strict=True):
        assert section.startswith(f"{name}\n\n")
        assert section.count("`") >= 2, "no formula"
        for picture in generate.pictures_of(name):
            assert f"({picture.relative_to(DOCS).as_posix()})" in section
            with Image.open(picture) as opened:
                assert opened.width > 300, "run `make pictures`"
            drawn.add(picture)
    assert drawn == set(picture.parent.glob("*.png")), "pictures of processes that are gone"


def test_every_built_in_component_is_in_the_reference_with_every_parameter():
    text = (DOCS / "plugins" / "reference.md").read_text(encoding="utf-8")
    for entry in default_registry().entries():
        if entry.provider.built_in:
            section = (
                text.partition(f"\n## {entry.kind}\n")[2].partition(f"\n### `{entry.name}`\n")[2].partition("\n##")[0]
            )
            assert section, entry
            for parameter, info in entry.load().model_fields.items():
                assert f"| `{parameter}` |" in section
                assert info.description, f"{entry.kind} {entry.name}: {parameter} has no description"
