"""What is asked of the images of a run: the k-th of the conditions for image k, and how a user writes it."""

from __future__ import annotations

import pytest
import torch

from gendiff.condition import Condition
from gendiff.data import Data
from gendiff.errors import ConfigError
from gendiff.guide import Guide
from gendiff.run.asked import Asked, read
from gendiff.run.config import Config
from gendiff.run.stored import StoredData

LABEL = Condition.label(["cat", "dog", "owl"])
POSE = Condition.vector(2, 0, 1)
AGE = Condition.vector(1, 0, 100)


def config(**conditions: Condition) -> Config:
    known = {name: one.table() for name, one in conditions.items()}
    data = StoredData.model_validate({"shape": (1, 4, 4), "known": known})
    return Config(data=data, condition=tuple(conditions))


class TestOf:
    def test_every_class_in_turn_where_nothing_is_said(self):
        asked = Asked.of(config(label=LABEL))
        assert [asked.of_image(k)["label"] for k in range(5)] == [0, 1, 2, 0, 1]
        assert asked.options == ["--condition", "label=all"]

    def test_nothing_of_a_run_without_conditions(self):
        asked = Asked.of(config())
        assert asked.conditions == ({},)
        assert asked.told({}, range(3)) == {}
        assert asked.facts({}) == {}
        assert asked.options == []

    @pytest.mark.parametrize(
        ("given", "numbers", "words"),
        [
            (2, [2], "owl"),
            ("dog", [1], "dog"),
            ("none", [3], "none"),
            (None, [3], "none"),
            ("all", [0, 1, 2], "all"),
            (["owl", 0], [2, 0], "owl,cat"),
            ([0, 1, 2], [0, 1, 2], "all"),
            (torch.tensor([1, 1]), [1, 1], "dog,dog"),
            (range(1, 3), [1, 2], "dog,owl"),
        ],
    )
    def test_values_of_a_label(self, given, numbers, words):
        asked, known = Asked.of(config(label=LABEL), {"label": given}), {"label": LABEL}
        told = asked.told(known, range(2 * len(numbers)))["label"]
        assert told.tolist() == 2 * numbers
        assert told.dtype == torch.int64
        assert asked.words == {"label": words}
        again = Asked.of(config(label=LABEL), read([f"label={words}"]))
        assert again.told(known, range(4))["label"].tolist() == asked.told(known, range(4))["label"].tolist()

    @pytest.mark.parametrize(
        ("name", "given", "values", "words"),
        [
            ("pose", [0.5, 1], [[0.5, 1]], "[0.5, 1.0]"),
            ("pose", [[0.5, 1], [0, 0]], [[0.5, 1], [0, 0]], "[[0.5, 1.0],[0.0, 0.0]]"),
            ("pose", torch.tensor([[0.5, 1], [0, 0]]), [[0.5, 1], [0, 0]], "[[0.5, 1.0],[0.0, 0.0]]"),
            ("pose", torch.tensor([0.5, 1]), [[0.5, 1]], "[0.5, 1.0]"),
            ("age", 30, [[30]], "[30.0]"),
            ("age", ["30", "40"], [[30], [40]], "[[30.0],[40.0]]"),
        ],
    )
    def test_values_of_a_vector(self, name, given, values, words):
        known = {"pose": POSE, "age": AGE}
        asked = Asked.of(config(**known), {name: given})
        assert asked.told(known, range(len(values)))[name].tolist() == values
        assert asked.words == {name: words}
        again = Asked.of(config(**known), read([f"{name}={words}"]))
        assert again.told(known, range(len(values)))[name].tolist() == values

    def test_what_is_not_named_is_absent(self):
        known = {"label": LABEL, "pose": POSE}
        told = Asked.of(config(**known), {"label": 1}).told(known, [0])
        assert told["label"].tolist() == [1]
        assert bool(told["pose"].isnan().all())

    def test_all_combinations_of_several_names(self):
        known = {"label": LABEL, "age": AGE}
        asked = Asked.of(config(**known), {"label": [0, 2], "age": [10.0, 20.0]})
        told = asked.told(known, range(4))
        assert told["label"].tolist() == [0, 0, 2, 2]
        assert told["age"].flatten().tolist() == [10, 20, 10, 20]

    def test_the_record_of_all_and_of_one(self):
        guides = [Guide("cfg:weight=3")]
        asked = Asked.of(config(label=LABEL), {"label": "all"}, guides)
        assert asked.facts({"label": LABEL}) == {"condition": {"label": "all"}, "guides": ["cfg:weight=3.0"]}
        assert asked.facts({"label": LABEL}, 4)["condition"] == {"label": "dog"}
        assert asked.options == ["--condition", "label=all", "--guide", "cfg:weight=3.0"]

    def test_conditions_of_events_where_there_are_data(self):
        class Aged(Data):
            name = "aged"
            event_shape = property(lambda self: (1, 4, 4))
            length = property(lambda self: 3)
            fingerprint = property(lambda self: "aged/1")
            conditions = property(lambda self: {"age": AGE})

            def __getitem__(self, index):
                return torch.zeros(1, 4, 4)

            def condition(self, index):
                return {"age": 10.0 * index}

        asked = Asked.of(Config(data=Aged(), condition=("age",)))
        assert asked.told({"age": AGE}, range(4))["age"].flatten().tolist() == [0, 10, 20, 0]


class TestRefused:
    @pytest.mark.parametrize(
        ("known", "given", "what", "allowed"),
        [
            ({"label": LABEL}, {"label": 3}, "condition 'label' has no class '3'", "cat, dog, owl"),
            ({"label": LABEL}, {"label": -1}, "has no class '-1'", "cat, dog, owl"),
            ({"label": LABEL}, {"label": 1.5}, "has no class '1.5'", "cat"),
            ({"label": LABEL}, {"label": "cta"}, "has no class 'cta'", "did you mean 'cat'?"),
            ({"label": LABEL}, {"lable": 1}, "there is no condition 'lable' here", "did you mean 'label'?"),
            ({}, {"label": 1}, "there is no condition 'label' here", "the network takes none"),
            ({"age": AGE}, {"age": 101}, "condition 'age' is out of range: 101", "a number in [0, 100]"),
            ({"age": AGE}, {"age": "old"}, "condition 'age' is 'old'", "a number in [0, 100]"),
            ({"age": AGE}, {"age": float("nan")}, "out of range", "a number in [0, 100]"),
            ({"pose": POSE}, {"pose": [1, 1, 1]}, "has the shape (3,)", "2 numbers in [0, 1]"),
            ({"label": LABEL}, {"label": []}, "is an empty list", "a class"),
        ],
    )
    def test_it_says_what_is_allowed(self, known, given, what, allowed):
        with pytest.raises(ConfigError) as caught:
            Asked.of(config(**known), given)
        assert what in caught.value.what
        assert allowed in " ".join(caught.value.details)

    def test_a_vector_must_be_said_where_there_are_no_data(self):
        with pytest.raises(ConfigError, match="the network is told of 'age', and nothing is said of it"):
            Asked.of(config(age=AGE))

    @pytest.mark.parametrize("text", ["label", "label=", "=3", ""])
    def test_what_cannot_be_read(self, text):
        with pytest.raises(ConfigError, match="cannot read the condition"):
            read([text])


def test_nothing_that_is_written_is_nothing_that_is_said():
    assert read([]) is None
