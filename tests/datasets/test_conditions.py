"""What data say of their events: every source what it has, packed and parted too, and in batches a function of seed and step."""

from __future__ import annotations

import gzip
import json
import struct
from collections import Counter

import numpy as np
import pytest
import torch
from command import run
from published import cifar_archive, cifar_folder, encoded, idx_folder, values, zip_of
from torch.utils.data import Dataset, TensorDataset

from gendiff import Data, as_data
from gendiff.condition import Condition
from gendiff.data import fingerprint_of, told_of
from gendiff.datasets.batches import Batches
from gendiff.datasets.column import Column
from gendiff.datasets.packed import MANIFEST, _opened
from gendiff.datasets.packing import pack
from gendiff.datasets.preparation import Resize
from gendiff.datasets.split import HoldOut, Split
from gendiff.errors import ArgumentError, ConfigError, DataError, PluginError

X = torch.linspace(-1, 1, 12 * 64).reshape(12, 1, 8, 8)
Y = torch.arange(12) % 3


def labels(data):
    return [data.condition(k)["label"] for k in range(data.length)]


def folder(root, names):
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(values(4, 6, 3, seed=k)))
    return root


def refused(action, kind):
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [cifar_archive, lambda root: cifar_folder(root, "binary")])
def test_cifar10_has_its_classes(tmp_path, make):
    data = Data("cifar10", path=make(tmp_path / "c"))
    assert data.conditions["label"].classes[3::6] == ("cat", "truck")
    assert labels(data) == [3, 9] * 5


def idx_labels(path, numbers, compressed=False):
    content = struct.pack(">II", 0x00000801, len(numbers)) + bytes(numbers)
    path.write_bytes(gzip.compress(content) if compressed else content)


def test_idx_labels_lie_beside_the_pictures(tmp_path):
    root = idx_folder(tmp_path / "mnist")
    assert Data("mnist", path=root).conditions == {}
    before = Data("mnist", path=root).fingerprint
    idx_labels(root / "train-labels-idx1-ubyte.gz", [4, 0, 9, 1], compressed=True)
    data = Data("mnist", path=root)
    assert labels(data) == [4, 0, 9, 1]
    assert data.conditions["label"].classes == tuple("0123456789")
    assert data.fingerprint == before
    assert Data("mnist", path=root, split="test").conditions == {}
    assert Data("fashion-mnist", path=root).conditions["label"].classes[9] == "Ankle boot"


@pytest.mark.parametrize("numbers", [[1, 2, 3], [1, 2, 3, 10]])
def test_idx_labels_that_do_not_fit_are_named(tmp_path, numbers):
    root = idx_folder(tmp_path / "mnist")
    idx_labels(root / "train-labels-idx1-ubyte", numbers)
    text = refused(lambda: Data("mnist", path=root).condition(0), DataError)
    assert "train-labels-idx1-ubyte" in text
    assert "there are 4 pictures of 10 classes" in text


def test_the_folders_of_pictures_are_their_classes(tmp_path):
    names = ["cat/1.png", "cat/old/2.png", "dog/3.png"]
    data = Data("folder", path=folder(tmp_path / "f", names), size=4)
    assert data.conditions["label"].classes == ("cat", "dog")
    assert labels(data) == [0, 0, 1]
    archive = zip_of(tmp_path / "a.zip", {name: (tmp_path / "f" / name).read_bytes() for name in names})
    assert labels(Data("zip", path=archive, size=4)) == [0, 0, 1]


@pytest.mark.parametrize("names", [["1.png", "2.png"], ["cat/1.png", "cat/2.png"], ["cat/1.png", "dog/2.png", "3.png"]])
def test_folders_that_are_no_classes(tmp_path, names):
    data = Data("folder", path=folder(tmp_path / "f", names), size=4)
    assert data.conditions == {}
    assert data.condition(0) == {}


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize(
    ("table", "name", "said"),
    [
        ([["00000/a.png", 4], ["00001/b.png", 0], ["00001/gone.png", 6]], "label", [4, 0]),
        ([["00000/a.png", [0.5, 1]], ["00001/b.png", [0, 2]]], "vector", [[0.5, 1], [0, 2]]),
        (None, None, None),
    ],
)
def test_a_dataset_json_says_the_labels(tmp_path, form, table, name, said):
    root = folder(tmp_path / "f", ["00000/a.png", "00001/b.png"])
    (root / "dataset.json").write_text(json.dumps({"labels": table}))
    before = Data("folder", path=root, size=4).fingerprint
    if form == "zip":
        files = {str(one.relative_to(root)): one.read_bytes() for one in root.rglob("*.*")}
        root = zip_of(tmp_path / "a.zip", files)
    data = Data(form, path=root, size=4)
    assert list(data.conditions) == ([name] if name else [])
    if name:
        assert [np.asarray(data.condition(k)[name]).tolist() for k in range(2)] == said
        assert data.conditions[name].size == (7 if name == "label" else 2)
    if form == "folder":
        (root / "dataset.json").unlink()
        assert Data("folder", path=root, size=4).fingerprint == before


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"labels": [["00000/a.png", 1]]}', '{"labels": [["00000/a.png", -1], ["00001/b.png", 0]]}']
)
def test_a_dataset_json_that_cannot_be_used_is_named(tmp_path, content):
    root = folder(tmp_path / "f", ["00000/a.png", "00001/b.png"])
    (root / "dataset.json").write_text(content)
    assert "dataset.json" in refused(lambda: Data("folder", path=root, size=4).conditions, DataError)


def test_npy_has_labels_in_a_second_file(tmp_path):
    np.save(tmp_path / "x.npy", values(4, 8, 8))
    np.save(tmp_path / "y.npy", np.array([2, 0, 1, 2]))
    np.save(tmp_path / "v.npy", np.array([[0.5, 2], [1, 3], [0, 2], [0, -1]]))
    plain = Data("npy", path=tmp_path / "x.npy")
    data = Data(f"npy:path={tmp_path / 'x.npy'},labels={tmp_path / 'y.npy'}")
    assert plain.conditions == {}
    assert labels(data) == [2, 0, 1, 2]
    assert data.fingerprint == plain.fingerprint
    vectors = Data("npy", path=tmp_path / "x.npy", labels=tmp_path / "v.npy")
    assert vectors.conditions == {"vector": Condition.vector(2, -1.0, 3.0)}
    assert vectors.condition(1)["vector"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.arange(3), "it has 3 entries, and there are 4 events"),
        (np.array([0, 1, -1, 0]), "it holds the label -1"),
        (np.array([0, 1, 10**9, 0]), "classes are counted from 0"),
        (np.array([0.0, 1, 2, 1]), "whole numbers, in floating point"),
        (np.array([0.5, np.nan, 2, 1]), "not finite"),
        (np.full((4, 2), 0.5), "0.5 for all events"),
        (np.zeros((4, 2), int), "labels have the shape (4, 2)"),
        (np.zeros((4, 2, 2)), "allowed: (n,) and (n, k)"),
        (np.array(list("abcd")), "it is of type <U1"),
    ],
)
def test_a_second_file_that_says_nothing_of_the_pictures(tmp_path, array, words):
    np.save(tmp_path / "x.npy", values(4, 8, 8))
    np.save(tmp_path / "y.npy", array)
    text = refused(lambda: Data("npy", path=tmp_path / "x.npy", labels=tmp_path / "y.npy").conditions, DataError)
    assert words in text
    assert "y.npy" in text
    missing = Data("npy", path=tmp_path / "x.npy", labels=tmp_path / "none.npy")
    assert "none.npy" in refused(lambda: missing.conditions, DataError)


def test_dead_leaves_of_a_range_say_their_largest_radius():
    data = Data("dead-leaves:size=8,r_max_range=[0.25,2]")
    assert data.conditions == {"r_max": Condition.vector(1, 0.25, 2.0)}
    said = [data.condition(k)["r_max"] for k in range(50)]
    assert 0.25 <= min(said) < 0.5
    assert 1.75 < max(said) <= 2
    one = Data("dead-leaves", size=8, r_max=said[3])
    assert torch.equal(data[3], one[3])
    assert Data("dead-leaves:size=8").conditions == {}
    assert data.fingerprint != Data("dead-leaves:size=8").fingerprint
    assert "low is less than high" in refused(lambda: Data("dead-leaves:r_max_range=[2,1]"), ConfigError)


# --- events of Python -------------------------------------------------------------------------------------------------


class Tuples(Dataset):
    def __init__(self, y=Y, **more):
        self.y = y
        vars(self).update(more)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return X[index % 12], int(self.y[index])


@pytest.mark.parametrize(
    "given",
    [(X, Y), (X.numpy(), Y.numpy()), (X, Y.tolist()), TensorDataset(X, Y), Tuples(), Tuples(Y, targets=Y.tolist())],
)
def test_labels_come_with_events(given):
    data = as_data(given)
    assert data.conditions == {"label": Condition.label(3)}
    assert labels(data) == Y.tolist()


def test_a_data_set_names_its_classes():
    assert as_data(Tuples(classes=["a", "b", "c", "d"])).conditions["label"].classes == ("a", "b", "c", "d")


def test_labels_leave_the_events_and_their_table_as_they_were():
    plain, told = as_data(X), as_data((X, Y))
    assert told.fingerprint == plain.fingerprint
    assert "known" not in plain.table()
    again = type(told).model_validate(told.table())
    assert again.conditions == told.conditions
    assert "give them again" in refused(lambda: again.condition(0), DataError)


def test_conditions_by_name():
    pose, mask = torch.rand(12, 2), torch.rand(12, 1, 8, 8)
    data = as_data(X, conditions={"label": Y, "pose": pose, "mask": mask, "angle": torch.rand(12)})
    kinds = {name: (one.type, one.shape) for name, one in data.conditions.items()}
    assert kinds == {
        "label": ("label", ()),
        "pose": ("vector", (2,)),
        "mask": ("image", (1, 8, 8)),
        "angle": ("vector", (1,)),
    }
    assert np.array_equal(data.condition(5)["pose"], pose[5].numpy())
    assert all(len(told_of(data, data.conditions, k)) == 4 for k in range(12))
    for name, one in data.conditions.items():  # the least and the largest are in the range
        for k in range(12):
            one.value(name, data.condition(k)[name])


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda: as_data((X, Y[:5])), "it has 5 entries, and there are 12 events"),
        (lambda: as_data((X, Y.float())), "of type float32"),
        (lambda: as_data((X, torch.eye(12))), "y.argmax(1)"),
        (lambda: as_data((X, Y - 1)), "it holds the label -1"),
        (lambda: as_data(X, conditions={"label": Y.float()}), "whole numbers, in floating point"),
        (lambda: as_data(X, conditions={"a b": Y}), "no name of a condition"),
        (lambda: as_data(X, conditions={"label": "three"}), "it has no length"),
        (lambda: as_data("digits", conditions={"label": Y}), "they have: label"),
        (lambda: as_data(Tuples(Y - 1)), "the data set has the label -1"),
    ],
)
def test_what_are_no_labels(action, words):
    assert words in refused(action, ArgumentError)


def test_a_label_that_was_not_met_is_named():
    y = torch.zeros(3000, dtype=torch.int64)
    y[1] = 5
    data = as_data(Tuples(y))
    assert "as_data(x, conditions={'label': labels})" in refused(lambda: data.condition(1), ArgumentError)


def test_two_events_in_a_tuple_are_two_events():
    data = as_data((X[0], X[1]))
    assert (data.length, data.conditions) == (2, {})


# --- packed, parted, looked at ----------------------------------------------------------------------------------------


def test_a_packed_set_keeps_what_is_said(tmp_path):
    source = as_data(X, conditions={"label": Y, "pose": torch.rand(12, 2)})
    pack(source, tmp_path / "p")
    data = Data("packed", path=tmp_path / "p")
    assert data.conditions == source.conditions
    assert labels(data) == Y.tolist()
    assert fingerprint_of(data, data.conditions) == fingerprint_of(source, source.conditions)
    assert np.load(tmp_path / "p" / "label.npy").tolist() == Y.tolist()
    pack(source, tmp_path / "p")  # it is whole
    pack(as_data(X), tmp_path / "plain")
    assert data.fingerprint == Data("packed", path=tmp_path / "plain").fingerprint
    assert not list((tmp_path / "plain").glob("label*"))
    assert "conditions" not in (tmp_path / "plain" / MANIFEST).read_text()
    with pytest.raises(ConfigError, match="packed from something else"):
        pack(source, tmp_path / "plain")


def test_what_is_left_out_leaves_no_label(tmp_path):
    root = folder(tmp_path / "f", ["cat/1.png", "cat/2.png", "dog/3.png"])
    whole = (root / "cat" / "1.png").read_bytes()
    (root / "cat" / "1.png").write_bytes(whole[:60])
    pack(Data("folder", path=root, size=4), tmp_path / "p", skip_bad=True)
    assert labels(Data("packed", path=tmp_path / "p")) == [0, 1]


def test_a_changed_label_in_a_packed_set_is_never_used(tmp_path):
    pack(as_data((X, Y)), tmp_path / "p")
    file = tmp_path / "p" / "label.npy"
    content = bytearray(file.read_bytes())
    content[-8] ^= 1
    file.write_bytes(bytes(content))
    _opened.cache_clear()
    assert "label.npy does not match" in refused(lambda: Data("packed", path=tmp_path / "p").conditions, DataError)


def test_images_beside_the_events_are_not_resized(tmp_path):
    source = as_data(X, conditions={"mask": torch.rand(12, 1, 8, 8)})
    assert "leave --size out" in refused(lambda: pack(source, tmp_path / "p", resize=Resize(4, 4)), ConfigError)
    assert not (tmp_path / "p").exists()


def test_parts_keep_what_is_said():
    data = Data("digits")
    split = Split.of(data, HoldOut(events=100))
    for part in (split.training, split.held_out):
        assert part.conditions == data.conditions
        number = next(k for k in range(data.length) if torch.equal(data[k], part[7]))
        assert part.condition(7) == data.condition(number)


@pytest.mark.parametrize(
    ("theirs", "words"),
    [(None, "no condition 'label'"), ((Y + 1) % 4, "another condition 'label'"), (Y % 2, "")],
)
def test_other_held_out_data_have_the_same_conditions(theirs, words):
    data, others = as_data((X, Y)), as_data(-0.5 * X if theirs is None else (-0.5 * X, theirs))
    hold_out = HoldOut(data=others)
    Split.of(data, hold_out)  # of a run that is told of nothing
    if words:
        assert words in refused(lambda: Split.of(data, hold_out, condition=("label",)), ConfigError)
    else:
        assert Split.of(data, hold_out, condition=("label",)).held_out is others


def test_info_shows_conditions(tmp_path):
    np.save(tmp_path / "x.npy", values(4, 8, 8))
    np.save(tmp_path / "v.npy", np.array([0.5, 2, 1, 3]))
    shown = run("data", "info", "digits").out
    assert "conditions   label: 10 classes, 174 to 183 events each" in shown
    assert "             1  182" in shown
    facts = run("data", "info", "digits", "--json").json
    assert facts["conditions"]["label"]["counts"][:3] == [178, 182, 177]
    shown = run("data", "info", f"npy:path={tmp_path / 'x.npy'},labels={tmp_path / 'v.npy'}").out
    assert "conditions   vector: a number in [0.5, 3]" in shown
    assert "conditions" not in run("data", "info", "dead-leaves:size=8", "--n", "4").out


def test_the_fingerprint_of_conditions_follows_them():
    mark = fingerprint_of(as_data((X, Y)), as_data((X, Y)).conditions)
    other = Y.clone()
    other[7] = 0
    assert fingerprint_of(as_data((X, other)), as_data((X, Y)).conditions) != mark
    assert fingerprint_of(as_data((X, Y)), {"label": Condition.label(("a", "b", "c"))}) != mark


def test_data_that_do_not_say_what_they_promised():
    class Silent(type(as_data(X))):
        def condition(self, index):
            return {}

    with pytest.raises(PluginError, match="do not say the condition 'label' of event 4"):
        told_of(Silent(**as_data((X, Y)).table() | {}), {"label": Condition.label(3)}, 4)


def test_a_column_keeps_no_other_numbers():
    column = Column.of(np.array([0.1, 0.7, 0.3]), 3)
    assert column.condition == Condition.vector(1, float(np.float32(0.1)), float(np.float32(0.7)))
    assert Column.of(np.array([True, False]), 2).condition == Condition.label(2)


# --- batches ----------------------------------------------------------------------------------------------------------

CONDITIONED = as_data(X, conditions={"label": Y, "pose": torch.rand(12, 2), "mask": 2 * X + 0.1})


def batches(rank=0, world=1, dropout=0.3, flip=False, batch=4):
    return Batches(CONDITIONED, 20, 3, batch, rank, world, flip, CONDITIONED.conditions, dropout)


def same(one, other):
    return all(torch.equal(one[name].nan_to_num(9e9), other[name].nan_to_num(9e9)) for name in one)


def test_conditions_are_those_of_the_events():
    batch = batches(dropout=0)[5]
    assert batch.condition["label"].tolist() == [int(Y[k]) for k in batch.index]
    assert torch.equal(batch.condition["mask"], (2 * X + 0.1)[batch.index])


def test_they_change_nothing_else_of_a_batch():
    plain, told = Batches(CONDITIONED, 20, 3, 4)[5], batches()[5]
    assert plain.condition == {}
    for one, other in zip(plain.tensors, told.tensors, strict=False):
        assert torch.equal(one, other)


@pytest.mark.parametrize("world", [2, 4])
def test_any_number_of_processes_tells_the_same(world):
    for step in (1, 2, 9):
        whole = batches()[step].condition
        parts = [batches(rank, world)[step].condition for rank in range(world)]
        assert same(whole, {name: torch.cat([part[name] for part in parts]) for name in whole})


def test_any_number_of_workers_tells_the_same():
    alone, together = (list(batches(flip=True).loader(1, 4, count, torch.device("cpu"))) for count in (0, 2))
    for one, other in zip(alone, together, strict=True):
        assert same(one.condition, other.condition)


def test_who_is_told_nothing_is_a_function_of_step_and_position():
    small, large = batches(batch=2), batches(batch=12)
    for step in range(1, 6):
        assert [small.is_untold(step, p) for p in range(2)] == [large.is_untold(step, p) for p in range(2)]
    untold = Counter(batches(batch=12).is_untold(step, p) for step in range(1, 101) for p in range(12))
    assert 0.25 < untold[True] / 1200 < 0.35
    for step in range(1, 10):
        told, every = batches()[step].condition, batches(dropout=0)[step].condition
        absent = torch.tensor([batches().is_untold(step, p) for p in range(4)])
        assert torch.equal(told["label"] == 3, absent)
        assert torch.equal(told["mask"].isnan().flatten(1).all(1), absent)
        assert torch.equal(told["pose"][~absent], every["pose"][~absent])


def test_an_image_is_mirrored_with_its_event():
    flipped = batches(dropout=0, flip=True)
    count = 0
    for step in range(1, 8):
        batch = flipped[step]
        assert torch.allclose(batch.condition["mask"], 2 * batch.x_0 + 0.1)
        count += sum(flipped.is_mirrored(step, p) for p in range(4))
    assert 0 < count < 28
