"""Sweeps: every combination once, in order, and each an arm that says what it is."""

from __future__ import annotations

import pytest
from command import run
from plans import shared

from gendiff.comparison.arm import Arm, parse_arms
from gendiff.comparison.sweep import swept
from gendiff.errors import ConfigError


def specs(arms, *grids):
    return [arm.over(shared()).config.velocity.spec for arm in parse_arms(swept(arms, grids))]


def test_every_arm_has_every_combination_in_order():
    assert swept(["dct", "haar lr=1"], ["N=50,100", "schedule.f_max = 0.1, 0.2"]) == [
        *("dct N=50 schedule.f_max=0.1", "dct N=50 schedule.f_max=0.2"),
        *("dct N=100 schedule.f_max=0.1", "dct N=100 schedule.f_max=0.2"),
        *("haar lr=1 N=50 schedule.f_max=0.1", "haar lr=1 N=50 schedule.f_max=0.2"),
        *("haar lr=1 N=100 schedule.f_max=0.1", "haar lr=1 N=100 schedule.f_max=0.2"),
    ]


def test_a_key_below_a_shorthand_is_that_of_the_configuration():
    assert specs(["dct schedule=log"], "schedule.f_max=0.05,0.3") == specs(
        ["dct schedule=log:f_max=0.05", "dct schedule=log:f_max=0.3"]
    )


def test_values_with_commas_stand_in_quotes_or_brackets():
    (first, second) = swept([], ["schedule=quartic,'log:f_max=0.1,f_min=0.05'"])
    assert first == "schedule=quartic"
    assert Arm.parse(second).over(shared()).config.velocity.schedule.f_min == 0.05
    sizes = swept(["dct label=small"], ["data.size=[4,8],[8,8]"])
    assert [Arm.parse(text).over(shared()).config.data.size for text in sizes] == [(4, 8), (8, 8)]
    assert [Arm.parse(text).label for text in sizes] == ["small data.size=[4,8]", "small data.size=[8,8]"]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (["N"], "'N' is no key with values"),
        (["N="], "'N' has no values"),
        (["N=1,,2"], "a value of 'N' is empty"),
        (["N=1,'2"], "a value of 'N' is empty, or its quotes"),
        (["N=1,1"], "'N' has the value '1' twice"),
        (["N=1,2", "N=3"], "'N' is there twice"),
        ([f"N={','.join(map(str, range(300)))}"], "the grid has 300 arms"),
    ],
)
def test_what_is_no_grid_is_said(grid, said):
    with pytest.raises(ConfigError, match=said) as caught:
        swept(["dct"], grid)
    assert caught.value.fix


def test_the_command_sweeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--model", "mlp:width=8,depth=1", "--steps", 2, "--seeds", 1, "--n", 16, "--features", "pixels"]
    shorter = [*small, "--set", "sampler.steps=2", "--set", "N=10", "--set", "train.sample_every=0", "--at-once", 1]
    facts = run("compare", "--arm", "dct schedule=log", "--grid", "schedule.f_max=0.05,0.3", *shorter, "--json").json
    assert {arm["label"] for arm in facts["arms"]} == {f"dct schedule=log schedule.f_max={f}" for f in ("0.05", "0.3")}
    assert facts["differences"] == {"velocity.schedule.f_max": [0.05, 0.3]}
    done = run("compare", "--resume", "comparisons/00001-digits", "--grid", "N=1,2")
    assert (done.code, "--grid would change it" in done.err) == (2, True)
