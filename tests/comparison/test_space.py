"""Spaces: what is said of a setting is what is searched, and what cannot be read is said."""

from __future__ import annotations

import pytest

from gendiff.comparison.arm import Arm
from gendiff.comparison.space import Dimension, space, words
from gendiff.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("schedule.f_max=0.05..2:log", Dimension("schedule.f_max", 0.05, 2.0, log=True)),
        ("lr = 1e-5 .. 1e-2 : log", Dimension("lr", 1e-5, 1e-2, log=True)),
        ("N=100..1000:step=100", Dimension("N", 100, 1000, step=100)),
        ("a=-1..1", Dimension("a", -1, 1)),
        ("a=-1.0..1:step=0.5", Dimension("a", -1.0, 1.0, step=0.5)),
        ("rotation=dct,identity", Dimension("rotation", choices=("dct", "identity"))),
        ("schedule=none,'log:f_max=0.1,f_min=0'", Dimension("schedule", choices=("none", "log:f_max=0.1,f_min=0"))),
    ],
)
def test_what_is_searched(text, dimension):
    assert Dimension.parse(text) == dimension
    assert Dimension.parse(dimension.text) == dimension


def test_whole_numbers_are_those_whose_ends_are_written_so():
    assert Dimension.parse("a=1..3").whole
    assert not Dimension.parse("a=1.0..3").whole
    assert not Dimension.parse("a=1,3").whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a", "'a' is no key with values"),
        ("=1..2", "is no key with values"),
        ("a=", "'a' has no values"),
        ("a=1", "'a' has the one value '1', and nothing to choose from"),
        ("a=1,1", "'a' has the value '1' twice"),
        ("a=2..1", r"the range 2..1 of 'a' is empty"),
        ("a=1..1", r"the range 1..1 of 'a' is empty"),
        ("a=0..1:log", "has no logarithm"),
        ("a=1..2:lgo", "cannot read ':lgo' after the range of 'a'"),
        ("a=1..4:step=0.5", "cannot read ':step=0.5'"),
        ("a=1..4:step=0", "cannot read ':step=0'"),
        ("a=1..4:step=9", "a step of 9 leads out of the range of 'a'"),
        ("a=x..y", "cannot read the range 'x..y' of 'a'"),
    ],
)
def test_what_is_none_is_said(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        Dimension.parse(text)
    assert "--over" in caught.value.where
    assert caught.value.fix


def test_a_key_has_one_range_and_there_is_one():
    with pytest.raises(ConfigError, match="'a' is there twice"):
        space(["a=1..2", "a=3,4"])
    with pytest.raises(ConfigError, match="nothing to search over"):
        space([])


def test_a_component_comes_before_its_parameters():
    assert [one.key for one in space(["schedule.f_max=0.1..1", "schedule=log,quartic"])] == [
        "schedule",
        "schedule.f_max",
    ]


def test_what_a_trial_sets_is_an_arm_to_the_last_bit():
    arm = Arm.parse(words({"schedule": "log:f_max=0.1,f_min=0", "lr": 0.1 + 0.2, "N": 7}))
    assert [dict(layer.table) for layer in arm.layers] == [
        {"velocity": {"schedule": "log:f_max=0.1,f_min=0"}},
        {"train": {"lr": 0.1 + 0.2}},
        {"N": 7},
    ]
