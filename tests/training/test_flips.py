"""Flips are a setting of the data: training sees mirror images, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from runs import ALONE, CPU, asked_to_stop_in, create, final, settings, train

import gendiff
from gendiff.errors import Stopped
from gendiff.run.directory import Run
from gendiff.training.trainer import Trainer

FLIPPED = {"name": "digits", "flip": True}


def test_training_sees_mirror_images_and_goes_on_to_the_same_bits(tmp_path):
    config = settings(data=FLIPPED)
    batches, plain = (Trainer(one, CPU, ALONE).batches for one in (config, settings()))
    mirrored = [
        torch.equal(one, other.flip(-1))
        for step in range(1, 9)
        for one, other in zip(batches[step].x_0, plain[step].x_0, strict=True)
    ]
    assert set(mirrored) == {False, True}
    whole, stopped = (create(tmp_path / name, config) for name in ("whole", "stopped"))
    train(whole)
    with pytest.raises(Stopped):
        train(stopped, prepare=asked_to_stop_in(7))
    train(stopped, workers=2)
    assert final(stopped) == final(whole)
    assert final(whole) != final(_trained(tmp_path / "plain", settings()))


def _trained(path, config):
    run = create(path, config)
    train(run)
    return run


def test_the_process_and_what_is_compared_with_do_not(tmp_path):
    plain, flipped = settings(rotation="dct").fitted(), settings(rotation="dct", data=FLIPPED).fitted()
    assert torch.equal(plain._moments.mean, flipped._moments.mean)
    assert torch.equal(plain._moments.variance, flipped._moments.variance)
    assert plain.data.fingerprint == flipped.data.fingerprint
    assert torch.equal(flipped.data[7], plain.data[7])


def test_its_records_say_it(tmp_path):
    run = _trained(tmp_path / "run", settings(data=FLIPPED, steps=1))
    run.write_card()
    assert "digits:flip=true" in (run.path / "README.md").read_text()
    assert Run.open(run.path, training=True).config.data.flip
    assert not settings().data.flip


def test_events_given_in_python_are_mirrored_and_are_when_they_are_given_again(tmp_path):
    x = torch.linspace(-1, 1, 8 * 16).reshape(8, 1, 4, 4)
    train = {
        "model": "mlp:width=8,depth=1",
        "N": 20,
        "device": "cpu",
        "progress": False,
        "sample_every": 0,
        "warmup": 0,
    }
    data = gendiff.as_data(x, flip=True)
    assert data.flip
    whole = gendiff.train(data, steps=4, out=tmp_path / "whole", **train)
    gendiff.train(data, steps=2, out=tmp_path / "parts", **train)
    parts = gendiff.resume(tmp_path / "parts", data=x, steps=4, device="cpu", progress=False)
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, parts.network.state_dict()[name])
    assert gendiff.as_data("digits", flip=True).spec == "digits:flip=true"
