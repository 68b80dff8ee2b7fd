"""Data that take the place of those of a preset or a file: what is another size then is said, and how to keep it."""

from __future__ import annotations

import pytest
from command import TINY, run

from gendiff.run.layers import Layer, resolve

FOR_64 = Layer("preset big", {"data": {"name": "folder", "size": 64, "channels": 3, "crop": "none"}})


def overruled(*layers):
    return resolve(layers).overruled()


def named(spec, origin="--data"):
    return Layer.at(origin, "data", spec)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([FOR_64, named("dead-leaves")],
         ["preset big has size 64x64, and with data 'dead-leaves' (from --data) it is 32x32: --size 64 keeps it"]),
        ([FOR_64, named("dead-leaves:size=64")], []),
        ([FOR_64, named("dead-leaves"), Layer.at("--size", "data.size", 64)], []),
        ([FOR_64, named("dead-leaves"), Layer.at("--size", "data.size", 16)], []),  # asked for
        ([FOR_64, named("folder:path=x"), Layer.at("--size", "data.size", 16)], []),
        ([FOR_64, named("digits")],
         ["preset big has size 64x64, and with data 'digits' (from --data) it is 8x8, the only one that these data have",
          "preset big has channels 3, and with data 'digits' (from --data) it is 1, the only one that these data have"]),
        ([FOR_64, Layer("other.toml", {"data": {"name": "dead-leaves"}})],
         ["preset big has size 64x64, and with data 'dead-leaves' (from other.toml) it is 32x32: --size 64 keeps it"]),
        ([Layer("a.toml", {"data": "dead-leaves:size=[8,12],channels=1"}), named("folder:path=x,size=[8,12]")],
         ["a.toml has channels 1, and with data 'folder' (from --data) it is 3: --set data.channels=1 keeps it"]),
        ([named("dead-leaves:size=8"), named("digits", "--set data")], []),  # a flag is no preset
        ([named("dead-leaves")], []),
        ([Layer("p", {"data": {"name": "folder", "path": "a", "crop": "center"}}), named("zip:path=b")],
         ["p has crop center, and with data 'zip' (from --data) it is none: --set data.crop=center keeps it"]),
    ],
)  # fmt: skip
def test_what_is_said(layers, said, monkeypatch):
    monkeypatch.setattr(  # no files are read
        "gendiff_plugins.data.picture_files.PictureFiles.event_shape",
        property(lambda self: (self.channels, *self._height_width)),
    )
    assert overruled(*layers) == said


SAID = "note: preset paper-church has size 64x64, and with data 'dead-leaves' (from --data) it is 32x32: --size 64 keeps it\n"


@pytest.mark.parametrize(
    "line",
    [
        ("config", "show", "--preset", "paper-church", "--data", "dead-leaves"),
        ("train", "--preset", "paper-church", "--data", "dead-leaves", *TINY, "--dry-run"),
        ("process", "show", "--preset", "paper-church", "--data", "dead-leaves", "--set", "N=20"),
    ],
    ids=lambda line: line[0],
)
def test_every_command_says_it_once(line):
    done = run(*line)
    assert done.code == 0, done.err
    assert done.err.count(SAID) == 1
    assert SAID not in run(*line, "--size", "64").err
    assert run(*line, "-q").err == ""


@pytest.mark.slow
def test_comparisons_say_it_once_for_all_arms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ("compare", "--arm", "identity", "--arm", "dct", "--preset", "reproduce-small", "--data", "digits",
            *TINY, "--n", 16, "--seeds", 1, "--features", "pixels", "--dry-run")  # fmt: skip
    done = run(*line)
    assert done.code == 0, done.err
    assert done.err.count("note: preset reproduce-small has size 64x64, and with data 'digits'") == 1
    told = run("reproduce", "figure1", "--scale", "small", "--data", "digits", "--set", "model=mlp:width=8,depth=1",
               "--steps", 2, "--dry-run")  # fmt: skip
    assert told.code == 0, told.err
    assert "note: preset reproduce-small has size 64x64, and with data 'digits' (from --data) it is 8x8" in told.err


def test_a_configuration_is_shown_where_its_data_are_not():
    done = run("config", "show", "--preset", "paper-church", "--data", "zip:path=missing.zip")
    assert (done.code, "note: " in done.err) == (0, False)
