"""Numbers with their conditions: what may be compared, and the JSON that outlives a session."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from gendiff.errors import DataError
from gendiff.evaluation.number import Drawing, Evaluation, Events, Number, comparable

SAMPLES, REFERENCE = Events("00001-digits-dct-s0", "events/1 0123", 500), Events("digits", "digits/1 4567", 1797)
DRAWING = Drawing("00001-digits-dct-s0", 1000, "ema", "89ab", "ddim:steps=50", 50, 3)
ONE = Number(
    "fd-pixels", 0.5, 0.4, 0.6, 0.95, "lower", "pixels", "pixels/1 downsample=1", SAMPLES, REFERENCE, DRAWING, "0.1.0"
)


class TestComparable:
    @pytest.mark.parametrize(
        "other",
        [
            ONE,
            replace(ONE, value=3.0, low=2.0, high=4.0, gendiff="9.9"),
            replace(ONE, samples=Events("a folder", "files/1 89", 500), drawing=None),
            replace(ONE, drawing=replace(DRAWING, sampler="ancestral", evaluations=1000, seed=4, weights="model")),
        ],
    )
    def test_how_samples_came_to_be_is_what_is_compared(self, other):
        assert comparable(ONE, other) == comparable(other, ONE) == ()

    @pytest.mark.parametrize(
        ("other", "why"),
        [
            (replace(ONE, samples=replace(SAMPLES, n=501)), "500 and 501 samples"),
            (replace(ONE, reference=replace(REFERENCE, fingerprint="digits/1 5")), "different events"),
            (replace(ONE, reference=replace(REFERENCE, n=1000)), "against 1797 and 1000 events of digits"),
            (replace(ONE, name="fd-dct"), "fd-pixels and fd-dct are different numbers"),
            (replace(ONE, instrument_fingerprint="pixels/1 downsample=2"), "measured by"),
        ],
    )
    def test_what_forbids_a_ranking_is_told(self, other, why):
        for reasons in (comparable(ONE, other), comparable(other, ONE)):
            assert len(reasons) == 1
        assert why in comparable(ONE, other)[0]

    def test_every_reason_is_told(self):
        other = replace(ONE, name="kd-pixels", samples=replace(SAMPLES, n=9), reference=replace(REFERENCE, n=8))
        assert len(comparable(ONE, other)) == 3


class TestJSON:
    def test_it_holds_every_condition_of_every_number(self):
        table = json.loads(json.dumps(Evaluation((ONE,), ("dark",), "2026-01-01").json()))
        assert table["numbers"][0] == {
            "name": "fd-pixels", "value": 0.5, "low": 0.4, "high": 0.6, "level": 0.95, "better": "lower",
            "instrument": "pixels", "instrument_fingerprint": "pixels/1 downsample=1", "gendiff": "0.1.0",
            "samples": {"spec": "00001-digits-dct-s0", "fingerprint": "events/1 0123", "n": 500},
            "reference": {"spec": "digits", "fingerprint": "digits/1 4567", "n": 1797},
            "drawing": {
                "run": "00001-digits-dct-s0", "step": 1000, "weights": "ema", "weights_hash": "89ab",
                "sampler": "ddim:steps=50", "evaluations": 50, "seed": 3,
                "precision": "fp32", "condition": "", "guides": "",
            },
        }  # fmt: skip

    @pytest.mark.parametrize("drawing", [DRAWING, None])
    def test_it_comes_back_whole(self, drawing, tmp_path):
        unknown = replace(ONE, name="fid", drawing=drawing, reference=Events("theirs.npz", "statistics/1 3", None))
        evaluation = Evaluation((ONE, unknown), ("dark samples",), "2026-01-01T00:00:00+00:00")
        evaluation.save(tmp_path / "e.json")
        assert Evaluation.load(tmp_path / "e.json") == evaluation
        assert evaluation["fid"] == unknown
        with pytest.raises(KeyError):
            evaluation["kid"]

    @pytest.mark.parametrize(
        "change",
        [
            lambda table: table.update(format=2),
            lambda table: table.pop("alarms"),
            lambda table: table.update(numbers={}),
            lambda table: table["numbers"][0].pop("low"),
            lambda table: table["numbers"][0].update(value="0.5"),
            lambda table: table["numbers"][0].update(value=float("nan")),
            lambda table: table["numbers"][0].update(more=1),
            lambda table: table["numbers"][0]["samples"].pop("n"),
            lambda table: table["numbers"][0].update(drawing=[]),
        ],
    )
    def test_anything_else_is_refused(self, change, tmp_path):
        table = Evaluation((ONE,)).json()
        change(table)
        (tmp_path / "e.json").write_text(json.dumps(table))
        with pytest.raises(DataError) as raised:
            Evaluation.load(tmp_path / "e.json")
        assert str(tmp_path / "e.json") in str(raised.value)

    @pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
    def test_a_damaged_file_is_a_data_error(self, content, tmp_path):
        (tmp_path / "e.json").write_bytes(content)
        for path in (tmp_path / "e.json", tmp_path / "none.json", tmp_path):
            with pytest.raises(DataError):
                Evaluation.load(path)


def test_conditions_are_all_but_what_was_found():
    assert replace(ONE, value=1.0, low=0.0, high=2.0, gendiff="9").conditions == ONE.conditions
    assert replace(ONE, drawing=replace(DRAWING, seed=4)).conditions != ONE.conditions


def test_stored_numbers_are_read_without_torch():
    code = "import sys, gendiff.evaluation.number; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
