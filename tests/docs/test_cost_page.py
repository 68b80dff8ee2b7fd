"""The page on cost is true: its commands run and print the lines that it shows, and it says what each objective says."""

from __future__ import annotations

import re
import shlex

import pytest
from command import TINY, run
from places import ROOT

from gendiff import Objective
from gendiff.plugin.registry import default_registry

PAGE = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
SHOWN = {
    line.removeprefix("$ "): block.partition("\n")[2]
    for block in BLOCKS
    for line in block.splitlines()
    if line.startswith("$ ")
}
MEASURED = re.compile(r"[-\d.,]+")


def words(line):
    return [word for word in shlex.split(line)[1:] if word != "gendiff" and "=1" not in word.partition("OMP")[2]]


@pytest.mark.slow
@pytest.mark.parametrize("line", SHOWN)
def test_a_command_runs_and_prints_what_the_page_shows(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dry = "--dry-run" in line
    small = TINY[:2] if line.startswith("gendiff compare") or "reproduce" in line else ()
    done = run(*words(line), *(("--set", "model=mlp:width=8,depth=1") if small else ()))
    assert done.code == 0, done.err
    assert not (dry and list(tmp_path.iterdir()))
    for shown in SHOWN[line].splitlines():
        if shown.startswith("note: "):
            assert shown in done.err.splitlines()
        elif "$" not in shown and not shown.startswith("threads"):
            of_line = shown.partition("  ")[0]
            told = next(told for told in done.out.splitlines() if told.partition("  ")[0] == of_line)
            assert _words(told) == _words(shown)


def _words(line):
    """What is said, without numbers and the units that follow from them."""
    return re.sub(r"# (h|min|s|d|B|KiB|MiB|GiB|less than)\b( # (min|s|h)\b)?", "#", MEASURED.sub("#", line)).split()


def test_every_objective_has_its_row():
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|$", PAGE, flags=re.MULTILINE))
    built_in = [entry.name for entry in default_registry().entries("objective") if entry.provider.built_in]
    assert rows == {name: Objective(name).loss_of_one for name in built_in}
