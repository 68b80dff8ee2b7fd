"""Next: what a command proposes is something new, after every command."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from command import TINY, run
from PIL import Image

from gendiff.command import is_repetition, started


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, pictures and numbers."""
    path = tmp_path_factory.mktemp("next")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert run("train", *TINY, "--rotation", "dct", "--schedule", "log", "--out", "r").code == 0
        Path("photos").mkdir()
        for k in range(12):
            pixels = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(f"photos/{k}.png")
    return path


SMALL = "--rotation dct --schedule log"
LINES = [
    *(f"train {' '.join(map(str, TINY[:-2]))} --steps 1 {out}" for out in ("", "--out new")),
    "sample r -n 2 --steps 2 --out a",
    "sample r --trajectory --gif -n 2 --steps 2 --out b",
    "evaluate r --n 16 --steps 2 --features pixels",
    "evaluate photos --reference photos --features pixels",
    "evaluate photos --reference photos --features pixels --out n.json",
    f"config show {SMALL}",
    "config show r",
    "config show --presets",
    "config show --preset digits-demo",
    "plugins list",
    "plugins list --kind metric",
    "plugins info quartic",
    "plugins info digits-demo",
    "plugins check quartic",
    "plugins new acme-thing",
    "data list",
    "data info photos --workers 0",
    "data prepare photos eight --workers 0 --size 8",
    "data info ./eight --workers 0",
    "runs list .",
    "runs show r",
    "runs diff r r",
    f"process show {SMALL}",
    f"process plot {SMALL}",
    "process plot schedules",
    f"process predict {SMALL} --steps 2",
    "process predict --arm 'dct schedule=log' --steps 2",
    "process likelihood r --events 8 --draws 1",
    "reproduce figure4",
]


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES)
def test_what_comes_next_was_not_just_done_also_when_it_is_followed(place, line, monkeypatch):
    monkeypatch.chdir(place)
    words = shlex.split(line)
    for _ in range(2):
        done = run(*words)
        assert done.code == 0, done.err
        proposals = [said.removeprefix("next: ") for said in done.err.splitlines() if said.startswith("next: ")]
        for proposal in proposals:
            with started(words):
                assert not is_repetition(proposal)
        following = [shlex.split(one)[1:] for one in proposals if one.startswith("gendiff ")]
        if (
            len(proposals) != 1
            or not following
            or following[0][0] in ("train", "compare", "process", "reproduce")
            or "RUN" in following[0]
        ):
            return
        words = following[0]


@pytest.mark.parametrize(
    ("done", "proposal", "repeats"),
    [
        ("sample r --trajectory --gif", "gendiff sample r --trajectory --gif", True),
        ("sample r -n 9 --gif --trajectory", "gendiff sample r --trajectory --gif", True),
        ("sample r --trajectory --gif --json", "gendiff sample r --trajectory --gif --out x", True),
        ("evaluate r", "gendiff evaluate r --out numbers.json", True),
        ("sample r --set a=b", "gendiff sample r --set=a=b", True),
        ("train --steps=3", "gendiff train --steps 3", True),
        ("train --steps 3", "gendiff train --steps 30", False),
        ("-q sample 'my r'", "gendiff sample 'my r'", True),
        ("sample r", "gendiff sample r --trajectory --gif", False),
        ("sample r", "gendiff sample s", False),
        ("runs show r", "gendiff evaluate r", False),
        ("plugins new a", "pip install -e '.[test]' && pytest", False),
        ("plugins new a", "a ' that is not closed", False),
    ],
)
def test_what_is_a_repetition(done, proposal, repeats):
    with started(shlex.split(done)):
        assert is_repetition(proposal) is repeats
    assert not is_repetition(proposal)  # nothing was done


def test_what_proposes_a_repetition_proposes_the_next_best_or_nothing(capsys):
    from gendiff_cli.console import next_step

    with started(["sample", "r", "--gif"]):
        next_step("gendiff sample r", "gendiff evaluate r")
        next_step("gendiff sample r")
        next_step()
    assert capsys.readouterr().err == "next: gendiff evaluate r\n"
