"""The emoji: what the package holds, at every size, and their groups."""

from __future__ import annotations

import hashlib

import pytest
import torch
from gendiff_plugins.data.emoji import Emoji, _pictures


def test_they_are_those_that_were_drawn():
    assert hashlib.sha256(_pictures(64).tobytes()).hexdigest()[:16] == "0d4d269d43dd7d4b"


def test_groups_and_names():
    data = Emoji()
    assert data.length == 1870
    assert data.conditions["label"].classes[:2] == ("Smileys & Emotion", "People & Body")
    assert data.conditions["label"].size == 9
    assert data.entry(0) == "Smileys & Emotion/grinning face"
    assert data.condition(data.length - 1) == {"label": 8}
    assert data.origin(data.length - 1) == "event 1869, flag: Wales"
    assert len({data.entry(k) for k in range(data.length)}) == data.length


@pytest.mark.parametrize("size", [32, 16, 8])
def test_a_smaller_picture_is_the_mean_over_squares(size):
    side = 64 // size
    large = (Emoji()[600] + 1) * 127.5
    means = large.reshape(3, size, side, size, side).mean((2, 4))
    small = (Emoji(size=size)[600] + 1) * 127.5
    assert float((small - means).abs().max()) <= 0.5 + 1e-3
    assert torch.allclose(small, small.round(), atol=1e-3)


def test_the_background_is_white_and_no_picture_is_empty():
    pictures = torch.from_numpy(_pictures(32)).float()
    assert float((pictures[:, :, 0, 0] > 250).all(1).float().mean()) > 0.95  # a few fill their square
    assert float(pictures.flatten(1).std(1).min()) > 3


@pytest.mark.parametrize("index", [-1, 1870])
def test_no_such_picture(index):
    with pytest.raises(IndexError):
        Emoji()[index]
