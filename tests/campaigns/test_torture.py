"""Fault campaigns (``make torture``): the ordinary tests' small samples, in numbers. Figures are printed with ``-s``."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import pytest
from faults import (
    DeleteFirst,
    NoDirectorySync,
    NoStaging,
    NoSync,
    accepted,
    crash_states,
    damages,
    made_up,
    replace_file,
    same,
    strange_contents,
)
from killed import kill_and_resume
from made import Made, kill_and_go_on
from made import content as files_of
from runs import MLP, UNET, create, final, grid, rows, settings, train

from gendiff.datasets import packing
from gendiff.datasets.packing import pack
from gendiff.errors import DataError
from gendiff.run import checkpoint

pytestmark = pytest.mark.torture


@pytest.fixture
def memory(tmp_path):
    """A folder in memory where there is such a place."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def two(memory):
    folder = memory / "checkpoints"
    for step in (1, 2):
        checkpoint.save(folder, made_up(step), keep=2)
    return folder


def say(text: str) -> None:
    print(f"torture: {text}")


@pytest.mark.parametrize("model", [MLP, f"{UNET},dropout=0.3"])
def test_two_hundred_kills(tmp_path, model):
    """A hundred for each network: at random moments and inside saves, always to the same bits, rows and pictures."""
    config = settings(model, steps=24, checkpoint_every=4, sample_every=8)
    whole = create(tmp_path / "whole", config)
    train(whole)
    rng = random.Random(2024)
    kills = runs = 0
    while kills < 100:
        run = create(tmp_path / f"run-{runs}", config)
        kills += kill_and_resume(run, rng)
        assert final(run) == final(whole)
        assert rows(run) == rows(whole)
        for step in (8, 16, 24):
            assert grid(run, step).read_bytes() == grid(whole, step).read_bytes()
        runs += 1
    say(f"{kills} kills in {runs} runs of {model}: 0 differences, 0 unreadable")


@pytest.mark.parametrize("workers", [0, 2])
def test_two_hundred_kills_of_a_packing(memory, monkeypatch, workers):
    """A hundred with and without data processes: always to the same bytes."""
    monkeypatch.setattr(packing, "CHUNK", 2)
    monkeypatch.setattr(packing, "BLOCK_BYTES", 1)
    pack(Made(), memory / "whole")
    rng = random.Random(2024)
    kills = sets = 0
    while kills < 100:
        kills += kill_and_go_on(memory / str(sets), rng, workers)
        assert files_of(memory / str(sets)) == files_of(memory / "whole")
        sets += 1
    say(f"{kills} kills in {sets} packings with {workers} data processes: 0 differences")


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_power_loss(memory, keep):
    found = crash_states(memory, saves=8, keep=keep, draws=25)
    assert found.violations == []
    assert found.states > 4000
    say(f"{found.states} crash states with keep = {keep}: 0 violations")


@pytest.mark.parametrize("mutant", [NoSync, NoDirectorySync, NoStaging, DeleteFirst])
def test_power_loss_finds_mutants(memory, mutant):
    found = crash_states(memory, mutant, saves=5, keep=1, draws=5)
    assert found.violations
    say(f"{mutant.__name__}: {len(found.violations)} violations in {found.states} crash states")


def test_five_thousand_damages(two):
    count = 5000
    assert accepted(two, 2, 1, damages(checkpoint.directory(two, 2), count, random.Random(7))) == []
    assert same(checkpoint.newest(two), made_up(2))
    say(f"{count} bit flips and truncations: all heard of, the older checkpoint used each time")


@pytest.mark.parametrize("name", ["MANIFEST.json", "state.json", "model.safetensors"])
def test_every_single_bit(two, name):
    file = checkpoint.directory(two, 2) / name
    content = file.read_bytes()

    def flips():
        for place in range(len(content)):
            for bit in range(8):
                changed = bytearray(content)
                changed[place] ^= 1 << bit
                yield file, bytes(changed)

    assert accepted(two, 2, 1, flips()) == []
    say(f"{8 * len(content)} bits of {name}: all heard of")


def test_ten_thousand_strange_contents(two):
    """Wrong inside, with hashes that fit: refused as damaged or read, and nothing else ever."""
    count, refused, path = 10_000, 0, checkpoint.directory(two, 2)
    intact = {file.name: file.read_bytes() for file in path.iterdir()}
    for name, content in strange_contents(path, count, random.Random(8)):
        replace_file(path, name, content)
        try:
            assert checkpoint.load(path).step == 2
        except DataError as error:
            refused += 1
            assert len(error.what) < 2000
        for restored in (name, checkpoint.MANIFEST):
            (path / restored).write_bytes(intact[restored])
    assert count // 2 < refused <= count
    say(f"{count} strange contents: {refused} refused with a DataError, {count - refused} read, 0 other outcomes")
