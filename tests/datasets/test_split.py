"""The split: the same for ever, of whole groups, with nothing on both sides, and refused where a side would be empty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from held import configured, trained_on
from published import encoded, values

from gendiff.data import Data
from gendiff.datasets.split import UNSEEN, HoldOut, Split
from gendiff.errors import ConfigError
from gendiff.shapes import EventShape

H, W = 4, 6
NUMBERS = (10, 24, 60, 70, 93, 99)  # of 100
FILES = ("03.png", "05.png", "15.png", "16.png")  # of 20
FAR = NUMBERS[0]


class Plain(Data):
    """events that have numbers alone."""

    name = "plain"
    count: int = 100

    @property
    def event_shape(self) -> EventShape:
        return (1, 2, 3)

    @property
    def length(self) -> int:
        return self.count

    def __getitem__(self, index):
        return torch.full((1, 2, 3), index / 1000)

    @property
    def fingerprint(self):
        return f"plain {self.count}"


def folder(root, names):
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(values(H, W, 3, seed=k)))
    return Data(f"folder:path={root},size={H}x{W}")


def held(split):
    return {split.held_out.origin(k) for k in range(split.held_out.length)}


def refused(source, /, **hold_out):
    with pytest.raises(ConfigError) as caught:
        Split.of(source, HoldOut(**hold_out))
    return caught.value


# --- by event -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("events", "count"), [(0.1, 10), (0.333, 33), (1, 1), (99, 99), (0.001, 1)])
def test_as_many_as_asked_are_held_out_and_each_event_is_on_one_side(events, count):
    split = Split.of(Plain(), HoldOut(events=events))
    sides = [{side.origin(k) for k in range(side.length)} for side in (split.held_out, split.training)]
    assert [len(side) for side in sides] == [count, 100 - count]
    assert not sides[0] & sides[1]


def test_which_they_are_is_the_same_for_ever():
    """Written down: a change of these numbers would train a resumed run on what it held out."""
    assert held(Split.of(Plain(), HoldOut(events=6))) == {f"event {k}" for k in NUMBERS}


def test_which_files_they_are_is_the_same_for_ever(tmp_path):
    split = Split.of(folder(tmp_path, [f"{k:02}.png" for k in range(20)]), HoldOut(events=4))
    assert held(split) == set(FILES)


def test_a_file_stays_on_its_side_whatever_becomes_of_the_others(tmp_path):
    names = [f"{k:02}.png" for k in range(20)]
    before = Split.of(folder(tmp_path, names), HoldOut(events=5))
    for name in names[::3]:
        (tmp_path / name).unlink()
    after = Split.of(Data(f"folder:path={tmp_path},size={H}x{W}"), HoldOut(events=5), before.below)
    assert held(after) == held(before) - set(names[::3])


def test_another_seed_holds_out_others():
    assert held(Split.of(Plain(), HoldOut(events=10))) != held(Split.of(Plain(), HoldOut(events=10, seed=1)))


def test_the_seed_and_batch_of_training_do_not_matter():
    one = configured(Plain(), 0.2, seed=0, batch=2)
    other = configured(Plain(), 0.2, seed=5, batch=7)
    assert one.split.about == other.split.about


def test_what_repeats_a_held_out_file_is_on_neither_side(tmp_path):
    names = [f"{k:02}.png" for k in range(20)]
    data = folder(tmp_path, names)
    out = min(held(Split.of(data, HoldOut(events=4))))
    inside = next(name for name in names if name not in held(Split.of(data, HoldOut(events=4))))
    (tmp_path / inside).write_bytes((tmp_path / out).read_bytes())
    split = Split.of(Data(f"folder:path={tmp_path},size={H}x{W}"), HoldOut(events=4))
    assert (split.held_out.length, split.training.length) == (4, 15)
    assert inside not in {split.training.origin(k) for k in range(15)}
    assert split.words.endswith("; 1 that repeat one of them are left out")


# --- by group -----------------------------------------------------------------------------------------------------------


def test_directories_stay_together(tmp_path):
    data = folder(tmp_path, [f"{d}/{k}.png" for d in "abcde" for k in range(4)])
    split = Split.of(data, HoldOut(events=0.4, by="directory"))
    sides = [{side.origin(k)[0] for k in range(side.length)} for side in (split.held_out, split.training)]
    assert [len(side) for side in sides] == [2, 3]
    assert not sides[0] & sides[1]
    assert "8 of 20 events" in split.words
    assert "2 of 5 directories" in split.words


def test_crops_of_a_picture_stay_together(tmp_path):
    data = folder(tmp_path, [f"{d}/shot_{p}-{k}.png" for d in "ab" for p in range(4) for k in range(3)])
    split = Split.of(data, HoldOut(events=6, by="picture"))
    sides = [{side.origin(k)[:8] for k in range(side.length)} for side in (split.held_out, split.training)]
    assert [len(side) for side in sides] == [2, 6]
    assert not sides[0] & sides[1]


def test_what_of_a_name_is_the_picture_can_be_said(tmp_path):
    data = folder(tmp_path, [f"a{p}_{y}_{x}.png" for p in range(4) for y in range(2) for x in range(2)])
    split = Split.of(data, HoldOut(events=0.25, by="picture", pattern=r"(a\d)_"))
    assert len({name[:2] for name in held(split)}) == 1
    assert split.held_out.length == 4


def test_what_cannot_be_grouped_is_refused(tmp_path):
    assert "have no names" in refused(Plain(), events=2, by="directory").what
    data = folder(tmp_path, [f"IMG_{k}.png" for k in range(5)])
    assert "are of one directory" in refused(data, events=2, by="directory").what
    error = refused(data, events=2, by="picture")
    assert "all 5 events are of one picture, '/IMG'" in error.what
    assert 'hold_out={..., "pattern": "(.+)_crop"}' in error.fix


# --- other data and endless ones ----------------------------------------------------------------------------------------


def test_of_endless_data_those_are_held_out_that_no_training_reaches():
    data = Data("dead-leaves:size=8")
    split = Split.of(data, HoldOut(events=5))
    assert split.training is data
    assert [torch.equal(split.held_out[k], data[UNSEEN + k]) for k in range(5)] == [True] * 5
    assert "hold_out=500" in refused(data, events=0.1).fix


def test_other_data_are_held_out_whole(tmp_path):
    data = folder(tmp_path / "a", ["x.png", "y.png"])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "z.png").write_bytes(encoded(values(H, W, 3, seed=99)))
    others = Data(f"folder:path={tmp_path / 'b'},size={H}x{W}")
    split = Split.of(data, HoldOut(data=others))
    assert (split.training, split.held_out) == (data, others)


def test_other_data_that_are_not_other_are_refused(tmp_path):
    data = folder(tmp_path / "a", ["x.png", "y.png"])
    assert "are the training data themselves" in refused(data, data=data).what
    copy = folder(tmp_path / "b", ["x.png", "y.png"])  # the same files elsewhere
    assert "are the training data themselves" in refused(data, data=copy).what
    (tmp_path / "b" / "z.png").write_bytes(encoded(values(H, W, 3, seed=99)))
    overlapping = Data(f"folder:path={tmp_path / 'b'},size={H}x{W}")
    assert "2 of the 3 held-out pictures are training pictures too" in refused(data, data=overlapping).what


def test_other_data_of_another_shape_are_refused(tmp_path):
    data = folder(tmp_path / "a", ["x.png", "y.png"])
    error = refused(data, data=Data(f"folder:path={tmp_path / 'a'},size=3,channels=1"))
    assert "(1, 3, 3)" in error.what
    assert error.fix.endswith(f'size={H}x{W},channels=3"')
    assert error.subject == "hold_out.data"
    assert refused(data, data=Data("digits")).fix == "give data of the same kind"


@pytest.mark.parametrize("events", [0, -1, 0.0, 1.0, 2.5, -0.1])
def test_numbers_that_say_nothing(events):
    assert refused(Plain(), events=events).subject == "events"


@pytest.mark.parametrize("events", [100, 4000, 0.999])
def test_an_empty_side_is_refused(events):
    error = refused(Plain(), events=events)
    assert "none would be left to train on" in error.what
    assert error.fix == "hold out fewer: hold_out=10"


def test_a_pattern_without_a_group_is_refused():
    assert "no group" in refused(Plain(), events=1, pattern="a+").what
    assert "no regular expression" in refused(Plain(), events=1, pattern="(a").what


# --- nothing is trained on them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", ["plain", "digits", "dead-leaves:size=8,channels=1", "gaussian-field:size=8", "folder"]
)
def test_nothing_is_trained_on_what_is_held_out(spec, tmp_path):
    data = {"plain": lambda: Plain(count=12), "folder": lambda: folder(tmp_path, [f"{k}.png" for k in range(9)])}.get(
        spec, lambda: Data(spec)
    )()
    numbers, held_out = trained_on(data, 2)
    assert len(held_out) == 2
    assert not numbers & held_out
    if data.length is not None:
        assert numbers == set(range(data.length)) - held_out


def test_the_moments_are_those_of_training_events_alone():
    class Far(Plain):
        """events one of which lies far away."""

        name = "far"

        def __getitem__(self, index):
            return torch.full((1, 2, 3), 0.9 if index == FAR else 0.0)

    assert FAR in {int(k) for k in Split.of(Far(), HoldOut(events=6)).held_out._indices}
    mean = configured(Far(), 6, rotation="identity", velocity="blur").fitted().diffusion().moments.mean
    assert np.allclose(mean, 0)
