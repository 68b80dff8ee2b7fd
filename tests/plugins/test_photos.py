"""Photographs: crops are functions of their number, magnify nothing, and those of one photograph stay on one side of a split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest

from gendiff.data import Data
from gendiff.datasets.packing import pack
from gendiff.datasets.split import HoldOut, Split
from gendiff.errors import ConfigError, DataError


def ramp(path, width=96, height=64, red=0):
    """Its green says how far right a pixel is, its blue how far down."""
    x, y = np.meshgrid(np.arange(width) / width, np.arange(height) / height)
    pixels = np.stack([np.full_like(x, red), 255 * x, 255 * y], -1).round().astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("photographs")
    for k in range(10):
        ramp(place / f"IMG_{k:02d}.png", red=20 * k)
    return place


def photos(folder, /, **parameters):
    return Data({"name": "photos", "path": folder, "size": 8, "crops": 5, **parameters})


def test_a_crop_is_what_its_box_holds(folder):
    data = photos(folder, crops=300, size=(8, 12), scale=(0.2, 0.9))
    for k in (0, 7, 299, 300, 2999):
        event = (data[k] + 1) * 127.5
        left, top, right, bottom = data._box(k, 96, 64)
        assert event.shape == (3, 8, 12)
        torch.testing.assert_close(event[0], torch.full((8, 12), 20.0 * (k // 300)), atol=1.1, rtol=0)
        columns = 255 * (left + (torch.arange(12) + 0.5) * (right - left) / 12 - 0.5) / 96
        rows = 255 * (top + (torch.arange(8) + 0.5) * (bottom - top) / 8 - 0.5) / 64
        inside = slice(1, -1)  # at an edge the filter sees one side alone
        torch.testing.assert_close(event[1, 4, inside], columns[inside], atol=2, rtol=0)
        torch.testing.assert_close(event[2, inside, 4], rows[inside], atol=2, rtol=0)


def test_sides_are_log_uniform_and_places_uniform(folder):
    data = photos(folder, crops=2000, scale=(0.25, 1.0))
    boxes = np.array([data._box(k, 96, 64) for k in range(2000)])
    side = boxes[:, 2] - boxes[:, 0]
    np.testing.assert_allclose(side, boxes[:, 3] - boxes[:, 1], rtol=1e-12)
    assert 16 <= side.min() <= side.max() <= 64
    assert ((boxes >= 0) & (boxes <= (96, 64, 96, 64))).all()
    assert kstest(np.log(side / 16) / np.log(4), "uniform").pvalue > 0.01
    assert kstest(boxes[:, 0] / (96 - side), "uniform").pvalue > 0.01


def test_nothing_is_magnified(folder):
    data = photos(folder, size=48, crops=200, scale=(0.01, 0.02))
    boxes = [data._box(k, 96, 64) for k in range(200)]
    assert min(right - left for left, _, right, _ in boxes) == pytest.approx(48)
    assert data[0].shape == (3, 48, 48)


def test_an_event_is_a_function_of_its_number(folder):
    data, again = photos(folder), photos(folder)
    assert data.length == 50
    forwards = [data[k] for k in range(50)]
    for k in (49, 3, 48, 4, 3):
        assert torch.equal(again[k], forwards[k])
    other = photos(folder, seed=1)
    assert not torch.equal(other[3], data[3])
    assert other.fingerprint != data.fingerprint == again.fingerprint


def sides(split):
    return [{part.group(k) for k in range(part.length)} for part in (split.training, split.held_out)]


def test_crops_of_a_photograph_are_held_out_together(folder):
    split = Split.of(photos(folder), HoldOut(events=0.3))
    training, held_out = sides(split)
    assert (len(training), len(held_out)) == (7, 3)
    assert not training & held_out
    assert "3 of 10 groups" in split.words
    by_picture = Split.of(photos(folder), HoldOut(events=0.3, by="picture"))
    assert [len(side) for side in sides(by_picture)] == [7, 3]


def test_a_copy_of_a_held_out_photograph_is_trained_on_by_nobody(folder, tmp_path):
    for k in range(10):
        ramp(tmp_path / f"{k}.png", red=20 * k)
    before = Split.of(photos(tmp_path), HoldOut(events=0.2))
    (held_out, *_) = sorted(sides(before)[1])
    ramp(tmp_path / "copy.png", red=20 * int(held_out[0]))
    after = Split.of(photos(tmp_path), HoldOut(events=0.2), before.below)
    assert held_out in sides(after)[1]
    assert "copy.png" not in sides(after)[0]


def test_a_packed_set_keeps_them_together(folder, tmp_path):
    pack(photos(folder), tmp_path / "set")
    packed = Data(f"packed:path={tmp_path / 'set'}")
    assert torch.equal(packed[17], photos(folder)[17])
    assert [len(side) for side in sides(Split.of(packed, HoldOut(events=10)))] == [8, 2]
    assert packed.group(4) == packed.group(0) != packed.group(5)


def test_small_ones_are_named_or_left_out(folder, tmp_path):
    ramp(tmp_path / "large.png")
    ramp(tmp_path / "small.png", 7, 30)
    with pytest.raises(DataError, match="1 of 2 photographs are too small") as caught:
        _ = photos(tmp_path).event_shape
    assert "small.png: 7x30 pixels, and a crop has 8x8 at least" in str(caught.value)
    kept = photos(tmp_path, on_bad_image="skip")
    assert kept.length == 5
    assert [name for name, _ in kept.skipped] == ["small.png"]


def test_one_photograph_cannot_be_split(tmp_path):
    ramp(tmp_path / "only.png")
    with pytest.raises(ConfigError, match=r"all 5 events are pieces of one thing, 'only\.png'"):
        Split.of(photos(tmp_path), HoldOut(events=2))


def test_sub_folders_are_labels(folder, tmp_path):
    ramp(tmp_path / "sea" / "1.png")
    ramp(tmp_path / "wood" / "1.png")
    data = photos(tmp_path)
    assert data.conditions["label"].classes == ("sea", "wood")
    assert [data.condition(k)["label"] for k in (0, 4, 5, 9)] == [0, 0, 1, 1]
