"""Conditions: what is one, what may be said of it, and what stands for nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gendiff import Diffusion, NetworkScore
from gendiff.condition import Condition, chosen, filled, rows, stacked, without
from gendiff.errors import ConfigError

LABEL = Condition.label(("cat", "dog", "7"))
POSE = Condition.vector(2, 0.0, 4.0)
MASK = Condition.image((1, 2, 2))
ALL = {"label": LABEL, "pose": POSE, "mask": MASK}
CPU = torch.device("cpu")


def refused(action):
    with pytest.raises(ConfigError) as caught:
        action()
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "number"),
    [("dog", 1), (0, 0), ("2", 2), ("7", 2), (1.0, 1), (torch.tensor(1), 1), (None, 3), ("none", 3)],
)
def test_a_class_by_its_name_or_its_number(given, number):
    assert LABEL.value("label", given) == number


def test_a_class_that_is_called_none_is_that_class():
    assert Condition.label(("none", "some")).value("label", "none") == 0


@pytest.mark.parametrize("given", ["cow", -1, 3, 0.5, float("inf"), float("nan"), [1], torch.zeros(2), "x" * 10_000])
def test_what_is_no_class_is_refused_with_what_is_allowed(given):
    text = refused(lambda: LABEL.value("label", given))
    assert "allowed: a class: cat, dog, 7" in text
    assert len(text) < 400


def test_a_class_that_is_nearly_one_is_named():
    assert "did you mean" in refused(lambda: LABEL.value("label", "dogs"))


def test_many_classes_are_counted():
    assert Condition.label(1000).words.endswith("11, ... (1000 classes)")


def test_numbers_within_their_range():
    assert POSE.value("pose", [0, 4]).tolist() == [0.0, 4.0]
    assert Condition.vector(1, 0.0, 1.0).value("angle", 0.5).shape == (1,)
    assert Condition.vector(1, 0.0, 1.0).value("angle", 0.5).dtype == torch.float32
    assert POSE.value("pose", None).isnan().all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([0, 4.5], "out of range: 0 to 4.5"),
        ([5.0, 5.0], "out of range: 5"),
        ([float("nan"), 0], "out of range"),
        ([1.0], r"has the shape (1,)"),
        (1.0, r"has the shape ()"),
        ("left", "'left'"),
        ([[1], 2], ""),
    ],
)
def test_numbers_that_are_not_allowed(given, words):
    text = refused(lambda: POSE.value("pose", given))
    assert words in text
    assert "allowed: 2 numbers in [0, 4]" in text


@pytest.mark.parametrize(
    "table",
    [
        {"type": "label"},
        {"type": "label", "classes": ["a", "a"]},
        {"type": "vector"},
        {"type": "vector", "shape": [2], "low": 1.0, "high": 1.0},
        {"type": "image", "shape": [0, 2]},
        {"type": "word"},
    ],
)
def test_what_is_no_condition(table):
    with pytest.raises(ValueError, match="Condition"):
        Condition.model_validate(table)


@pytest.mark.parametrize("condition", ALL.values())
def test_it_is_stored_and_read(condition):
    assert Condition.model_validate(condition.table()) == condition


@pytest.mark.parametrize(
    ("other", "included"),
    [
        (LABEL, True),
        (Condition.label(("cat", "dog")), True),
        (Condition.label(("dog", "cat")), False),
        (Condition.label(("cat", "dog", "7", "cow")), False),
        (POSE, False),
    ],
)
def test_which_labels_are_of_the_same_classes(other, included):
    assert LABEL.includes(other) is included


def test_which_numbers_are_in_the_same_range():
    assert POSE.includes(Condition.vector(2, 1.0, 4.0))
    assert not POSE.includes(Condition.vector(2, 1.0, 4.5))
    assert not POSE.includes(Condition.vector(3, 1.0, 2.0))


def test_those_that_are_named_are_chosen_in_that_order():
    assert list(chosen(ALL, ("pose", "label"), "data")) == ["pose", "label"]
    text = refused(lambda: chosen(ALL, ("labels",), "data 'x'"))
    assert "data 'x' have no condition 'labels'" in text
    assert "label: a class: cat, dog, 7" in text
    assert "they have none" in refused(lambda: chosen({}, ("label",), "data 'x'"))


def test_a_batch_of_what_is_said_of_each():
    told = stacked(ALL, [{"label": "dog", "pose": [1, 2], "mask": torch.zeros(1, 2, 2)}, {}])
    assert {name: tuple(value.shape) for name, value in told.items()} == {
        "label": (2,),
        "pose": (2, 2),
        "mask": (2, 1, 2, 2),
    }
    assert told["label"].dtype == torch.int64
    assert told["label"].tolist() == [1, 3]
    assert told["pose"][1].isnan().all()
    assert "there is no condition 'size' here" in refused(lambda: stacked(ALL, [{"size": 1}]))


def test_one_for_all_of_a_batch_or_one_for_each():
    told = filled(ALL, {"label": torch.tensor([1]), "pose": torch.ones(3, 2)}, 3, CPU)
    assert told["label"].tolist() == [1, 1, 1]
    assert told["mask"].isnan().all()
    assert "is given for 2 events, where there are 3" in refused(
        lambda: filled(ALL, {"label": torch.tensor([1, 2])}, 3, CPU)
    )
    assert "there is no condition 'size' here" in refused(lambda: filled({}, {"size": torch.ones(1)}, 1, CPU))


def test_all_conditions_of_an_event_are_dropped_together():
    told = stacked(ALL, [{"label": 0, "pose": [1, 2], "mask": torch.ones(1, 2, 2)}] * 3)
    left = without(ALL, told, torch.tensor([False, True, False]))
    assert left["label"].tolist() == [0, 3, 0]
    assert left["pose"].isnan().any(1).tolist() == [False, True, False]
    assert left["mask"].isnan().flatten(1).all(1).tolist() == [False, True, False]


def test_rows_of_a_batch():
    told = {"label": torch.tensor([4, 5, 6]), "pose": torch.ones(1, 2)}
    part = rows(told, [2, 0])
    assert part["label"].tolist() == [6, 4]
    assert part["pose"].shape == (1, 2)


class Copies(TorchDispatchMode):
    """Counts what is brought from one device to another."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._to_copy.default
        return function(*args, **(kwargs or {}))


def test_a_model_brings_its_conditions_to_the_device_once():
    """A copy from the host waits for all that the device has to do, and the network is asked at each step."""
    diffusion = Diffusion.of("identity", "isotropic", (1, 2, 2), 20)
    model = NetworkScore(torch.nn.Identity(), diffusion, "eps", conditions=ALL)
    model.diffusion = SimpleNamespace(scales=SimpleNamespace(device=torch.device("meta")))
    with Copies() as copies:
        model = model.given({"label": torch.tensor([1, 2]), "pose": torch.ones(1, 2)})
    assert copies.count == 2
    with Copies() as copies:
        for one in (model, model.given(model.condition), model.given({})):  # as guides ask, at each step
            told = filled(ALL, one.condition, 2, torch.device("meta"))
    assert copies.count == 0
    assert {value.device.type for value in told.values()} == {"meta"}


@pytest.mark.parametrize("condition", ALL.values(), ids=ALL)
def test_what_is_absent_is_the_same_on_a_device(condition):
    there = condition.absent_on(CPU)
    assert (there.dtype, there.shape) == (condition.absent_on(torch.device("meta")).dtype, condition.absent.shape)
    assert torch.equal(there, condition.absent) or bool(there.isnan().all())
    assert there.dtype == (torch.int64 if condition.type == "label" else torch.float32)
