"""What the kit asks of a preset."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
from flaws import assert_fails, titled, titles
from parts import DoubledWhenRead

from gendiff import hookimpl

COMMENTED, VALID = "it begins with a comment that says what it is", "it is a valid configuration"
PRESETS = {
    "no-comment": (COMMENTED, r"expected a first line like '# what it is'; seen: 'N = 10'", "N = 10\n"),
    "empty-comment": (COMMENTED, r"seen: '#'", "#\nN = 10\n"),
    "blank": (COMMENTED, r"seen: ''", ""),
    "unknown-key": (VALID, "seen: .*has no parameter 'steps'", "# steps\nsteps = 10\n"),
    "unknown-part": (VALID, "seen: unknown rotation 'dtc'", '# r\nrotation = "dtc"\n'),
    "out-of-range": (VALID, "seen: .*N = 1: ", "# too few\nN = 1\n"),
    "no-toml": (VALID, "seen: .* is not valid TOML", "# broken\nN = = 1\n"),
}


def preset(name: str, folder: Path) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(PRESETS[name][2], encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PRESETS)
def test_a_broken_preset_is_found(name, tmp_path):
    title, says, _ = PRESETS[name]
    assert_fails(titled(preset(name, tmp_path), title), says)


def test_a_preset_that_cannot_be_written_down_is_found(gendiff_registry, tmp_path):
    gendiff_registry(types.SimpleNamespace(gendiff_components=hookimpl(lambda: [DoubledWhenRead]), __name__="acme"))
    path = tmp_path / "doubled.toml"
    path.write_text('# doubled\nvelocity = "blur:schedule=mutant"\n')
    assert_fails(titled(path, VALID), "expected the same configuration when it is written and read; seen: another")


def test_no_check_is_vacuous():
    assert titles("preset") == {title for title, _, _ in PRESETS.values()}
