"""The pages that follow from the code are what the code says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from gendiff.registry import default_registry

DOCS = Path(__file__).parent.parent / "docs"
_spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


@pytest.mark.parametrize("page", generate.PAGES, ids=lambda page: page.name)
def test_a_page_is_up_to_date(page):
    assert page.read_text(encoding="utf-8") == generate.PAGES[page](), "run `make docs`"


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
