"""The twin experiment: what is equal, what the sentence says, and that it goes on where its time was over."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run

from gendiff.comparison import look, report, twin
from gendiff.comparison.difference import Estimate, Measured, quantile, settling_seeds, simultaneous
from gendiff.comparison.directory import Comparison
from gendiff.comparison.fairness import require_fair
from gendiff.comparison.plan import LEVEL
from gendiff.comparison.twin import ARMS, OBJECTIVES, SCALES, finding, found, markdown, plan
from gendiff.evaluation.event_set import EventSet
from gendiff.evaluation.measuring import evaluate
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
        patch.setitem(SCALES, "tiny", replace(SCALES["tiny"], evaluations=(2, 3)))
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
    for (
        objective
    ) in OBJECTIVES:  # the pictures that samples are held against are held out, and none is said to be trained on
        compared = json.loads((folder / objective / "compare.json").read_text())
        assert "held out" in compared["reference"]["spec"]
        assert "training-data" not in [remark["rule"] for remark in compared["remarks"]]
    for row in facts["rows"]:
        if row["arm"] == "identity":  # the twin under another name
            assert row["difference"]["value"] == pytest.approx(0, abs=1e-3 * row["value"])
            assert row["outcome"] == "undecided"


ABOUT = {"number": "fd", "better": {"fd": "lower"}, "n": 100, "reference": {}}
COUNTS = (5, 10, 20, 50, 100)


@pytest.mark.slow  # four minutes of a core; a part of it is above
def test_the_tiny_scale_as_it_is(tmp_path):
    """The command as users type it: all arms, their network, embedded pictures, and the pages with their figures."""
    done = run("reproduce", "twin", "--scale", "tiny", "--out", tmp_path / "t", "--json", "--device", "cpu")
    assert done.code == 0, done.err
    facts = json.loads((tmp_path / "t" / "twin.json").read_text())
    assert facts["comparisons"] == 4 * len(OBJECTIVES) * 2
    assert {row["arm"] for row in facts["rows"]} == set(ARMS)
    assert len(facts["rows"]) == len(ARMS) * len(OBJECTIVES) * 2
    assert facts["finding"].startswith("With one seed, which says nothing of others, ")
    values = {(row["objective"], row["arm"], row["evaluations"]): row["value"] for row in facts["rows"]}
    for objective in OBJECTIVES:
        folder = tmp_path / "t" / objective
        for arm in ("isotropic", "identity", "quartic", "equal-snr"):  # they have learned something
            assert values[objective, arm, 20] < of_noise(Comparison.open(folder).plan) / 2
        for count in SCALES["tiny"].evaluations:  # the check: the twin under another name
            twins = [values[objective, arm, count] for arm in ("isotropic", "identity")]
            assert twins[0] == pytest.approx(twins[1], rel=1e-2)
        assert len(list((folder / "figures").glob("*.png"))) == 6
        page = (folder / "report.html").read_text()
        assert all(arm in page for arm in ARMS)
        compared = json.loads((folder / "compare.json").read_text())
        names = set(compared["arms"][0]["numbers"])
        assert {"fd-random-conv", "kd-random-conv", "precision-random-conv", "recall-random-conv"} <= names
        assert all(one["drawing"]["step"] == 400 for arm in compared["arms"] for one in arm["runs"])


def of_noise(plan) -> float:
    """What pictures get that are noise."""
    noise = torch.randn(plan.n, *plan.data.event_shape, generator=torch.Generator().manual_seed(0))
    noise = EventSet.of_tensor(noise, "noise")
    return evaluate(noise, plan.reference, plan.features, replicates=2, manifold=False).numbers[0].value


def drawn(rng: np.random.Generator, counts=COUNTS, seeds: int = 3, **effects: float) -> dict:
    """An experiment in which every seed has luck of its own that its arms share, and arms besides that luck nothing but these.

    ``effects`` are what arm minus twin is, in standard deviations of a seed's difference, by arm, objective and evaluations.
    """
    numbers = {}
    for objective in OBJECTIVES:
        luck = 5 * rng.standard_normal((len(counts), seeds))
        numbers[objective] = {
            arm: {
                count: {
                    seed: Measured(
                        50 + luck[k, seed] + rng.standard_normal() + effects.get(f"{arm} {objective} {count}", 0)
                    )
                    for seed in range(seeds)
                }
                for k, count in enumerate(counts)
            }
            for arm in ARMS
        }
    return found({**ABOUT, "seeds": list(range(seeds))}, numbers)


NONE = (
    "None of the 4 processes with speeds of their own can be told apart from the isotropic twin, in any of 40 comparisons, which "
    "share the level of 95%: 4 processes, 2 objectives, 5 numbers of evaluations."
)


@pytest.mark.slow
def test_where_nothing_differs_the_sentence_names_something_no_more_often_than_its_level_says():
    rng, times = np.random.default_rng(0), 300
    experiments = [drawn(rng) for _ in range(times)]
    wrong = sum(facts["finding"] != NONE for facts in experiments)
    most = 1 - LEVEL
    assert wrong <= times * most + 2 * math.sqrt(times * most * (1 - most))


@pytest.mark.parametrize("effect", [-10.0, 10.0])
def test_an_effect_at_one_number_of_evaluations_alone_is_named_there(effect):
    rng = np.random.default_rng(1)
    kind = "better" if effect < 0 else "worse"
    sentences = [drawn(rng, **{"quartic eps 10": effect})["finding"] for _ in range(40)]
    named = (
        f"Quartic (eps) is {kind} than the isotropic twin at 10 evaluations; in the other 39 of 40 comparisons, which share the "
        "level of 95%, none can be told apart from it."
    )
    assert sentences.count(named) >= 34


def test_the_level_is_shared_among_all_that_the_sentence_may_name():
    facts = drawn(np.random.default_rng(2))
    assert facts["comparisons"] == 4 * len(OBJECTIVES) * len(COUNTS)
    assert facts["difference_level"] == simultaneous(LEVEL, 40)
    of_one = drawn(np.random.default_rng(2), counts=(5,))
    assert of_one["comparisons"] == 8
    page = markdown(facts)
    assert page.startswith(NONE)
    assert "The intervals of all 40 comparisons hold together at 95% (Bonferroni): each is made at 0.99875." in page
    others = facts["spread"]["freedom"]
    reach, of_twice = (quantile(others + count - 1, facts["difference_level"]) for count in (3, 6))
    assert of_twice < reach < 6  # by Student's t alone, 28
    assert f"With 3 seeds an interval reaches {reach:.2g} standard errors to each side, " in page
    assert f"with 6 it would reach {of_twice:.2g} smaller ones: " in page
    relative = facts["spread"]["relative"]
    assert relative == pytest.approx(math.sqrt(2) / 50, rel=0.2)
    assert f" 2 degrees of freedom, and of how much seeds differ in the others, {relative:.2g} of the number, " in page
    estimates = {
        f"{row['arm']} ({row['objective']}) at {row['evaluations']} evaluations": Estimate(**row["difference"])
        for row in facts["rows"]
        if row["arm"] not in ("isotropic", "identity")
    }
    seeds = {
        where: settling_seeds(estimate, facts["difference_level"], others) or math.inf
        for where, estimate in estimates.items()
    }
    nearest = min(seeds, key=seeds.get)
    assert f"Nearest to a difference is {nearest}: " in page
    assert f" {seeds[nearest]} seeds would settle it" in page


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
        for count in COUNTS
    ]
    level = {"level": LEVEL, "comparisons": 40, "difference_level": simultaneous(LEVEL, 40)}
    about = {"number": "fd", "n": 100, "seeds": list(range(seeds)), "spread": {"freedom": 0.0, "relative": 0.0}}
    return {**about, **level, "rows": rows}


def test_the_sentence():
    assert finding(facts({})) == NONE
    some = dict.fromkeys(["quartic wiener 5", "quartic wiener 100", "log 0.14 wiener 5"], "better")
    some |= {"equal-snr eps 10": "worse", "identity wiener 20": "better"}  # a check is none of them
    said = (
        "uartic (wiener) is better than the isotropic twin at 5 and 100 evaluations; log 0.14 (wiener) is better than it at 5 "
        "evaluations; equal-snr (eps) is worse than it at 10 evaluations; in the other 36 of 40 comparisons, which share the "
        "level of 95%, none can be told apart from it."
    )
    assert finding(facts(some)) == f"Q{said}"
    assert finding(facts(some, 1)) == f"With one seed, which says nothing of others, q{said}"
    assert finding(facts({}, 1)) == f"With one seed, which says nothing of others, n{NONE[1:]}"
    everything = {f"{arm} {o} {count}": "better" for arm in ARMS for o in OBJECTIVES for count in COUNTS}
    assert finding(facts(everything)).endswith("; these are all of 40 comparisons, which share the level of 95%.")
    assert "| quartic | 3, −1 [−2, −0.5] **better** | 3, −1 [−2, −0.5] |" in markdown({**facts(some), "finding": ""})


def test_scales_belong_to_targets():
    for words in (["twin", "--scale", "paper"], ["table1", "--scale", "full"]):
        done = run("reproduce", *words)
        assert (done.code, "unknown scale" in done.err) == (2, True)
