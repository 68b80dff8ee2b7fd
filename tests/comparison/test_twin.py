"""The twin experiment: what is equal, what the sentence says, and that it goes on where its time was over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import run

from gendiff.comparison import look, report, twin
from gendiff.comparison.fairness import require_fair
from gendiff.comparison.twin import ARMS, OBJECTIVES, SCALES, finding, markdown, plan
from gendiff.features import Features
from gendiff.plugin.registry import default_registry
from gendiff.run.layers import Layer

MLP = ["--set", "model=mlp:width=16,depth=1", "--set", "N=30", "--set", "train.batch=4"]
SMALL = ["reproduce", "twin", "--steps", "2", "--n", "16", "--features", "pixels", *MLP]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_arms_differ_in_their_speeds_alone(scale, objective):
    preset = Layer.from_file(default_registry().preset(SCALES[scale].preset), "preset")
    made = plan(objective, [preset], 1, 16, (5,), [Features("pixels")])
    assert require_fair(made) == []
    assert [contender.label for contender in made.contenders] == list(ARMS)
    assert made.split.held_out is not None
    tables = [contender.config.table() for contender in made.contenders]
    for table in tables:
        table.pop("velocity")
        table.pop("rotation")
    assert all(table == tables[0] for table in tables)
    isotropic, identity, *others = (contender.diffusion for contender in made.contenders)
    assert isotropic.alike
    assert identity.alike
    assert not any(diffusion.alike for diffusion in others)


@pytest.fixture(scope="module")
def few():
    """Three arms, drawn in few steps; the figures are those of any comparison."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twin, "ARMS", {label: ARMS[label] for label in ("isotropic", "identity", "quartic")})
        patch.setattr(twin, "EVALUATIONS", {"tiny": (2, 3)})
        patch.setattr(report.figures, "write", lambda *_: [])
        patch.setattr(look, "EVENTS", 16)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory, few):
    folder = tmp_path_factory.mktemp("twin") / "whole"
    first = run(*SMALL, "--out", str(folder), "--minutes", "0.02")
    assert first.code == 75
    assert "go on: gendiff reproduce twin" in first.err
    done = run(*SMALL, "--out", str(folder), "--json")
    assert done.code == 0, done.err
    return folder, done.json


def test_it_says_what_was_found(whole):
    folder, answer = whole
    names = [str(Path(file).relative_to(folder)) for file in answer["files"]]
    assert names == ["twin.md", "twin.json", "wiener/report.html", "eps/report.html"]
    facts = json.loads((folder / "twin.json").read_text())
    assert len(facts["rows"]) == 3 * len(OBJECTIVES) * 2
    assert facts["finding"] == finding(facts)
    assert (folder / "twin.md").read_text() == markdown(facts)
    for row in facts["rows"]:
        if row["arm"] == "identity":  # the twin under another name
            assert row["difference"]["value"] == pytest.approx(0, abs=1e-3 * row["value"])
            assert row["outcome"] == "undecided"


def facts(outcomes: dict[str, str], seeds: int = 3) -> dict:
    difference = {"value": -1.0, "low": -2.0, "high": -0.5, "seeds": seeds, "method": "seeds"}
    rows = [
        {
            "objective": objective,
            "arm": arm,
            "evaluations": count,
            "value": 3.0,
            "difference": None if arm == "isotropic" else difference,
            "outcome": None if arm == "isotropic" else outcomes.get(f"{arm} {objective} {count}", "undecided"),
        }
        for objective in OBJECTIVES
        for arm in ARMS
        for count in (5, 100)
    ]
    return {"number": "fd", "n": 100, "seeds": list(range(seeds)), "rows": rows}


def test_the_sentence():
    nothing = "no process with speeds of its own can be told from its isotropic twin"
    assert finding(facts({})) == f"At 100 evaluations {nothing}; at 5 evaluations {nothing}."
    some = {"quartic wiener 100": "better", "equal-snr eps 100": "worse", "log 0.14 wiener 5": "better"}
    twin_of = "the isotropic twin"
    assert finding(facts(some)).split("; ") == [
        f"At 100 evaluations quartic (wiener) is better than {twin_of}, equal-snr (eps) is worse than {twin_of}, "
        "and 6 of 8 cannot be told from it",
        f"at 5 evaluations log 0.14 (wiener) is better than {twin_of}, and 7 of 8 cannot be told from it.",
    ]
    assert finding(facts({"identity wiener 100": "better"}, 1)).startswith(
        "With one seed, which says nothing of others, at 100"
    )
    assert "| quartic | 3, −1 [−2, −0.5] | 3, −1 [−2, −0.5] **better** |" in markdown({**facts(some), "finding": ""})


def test_scales_belong_to_targets():
    for words in (["twin", "--scale", "paper"], ["table1", "--scale", "full"]):
        done = run("reproduce", *words)
        assert (done.code, "unknown scale" in done.err) == (2, True)
