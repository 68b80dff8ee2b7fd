"""What the built-in metrics measure, and how a run uses them; their contract is in test_built_ins."""

from __future__ import annotations

import json
import math

import pytest
import torch
from command import TINY, run
from gendiff_plugins.metrics.moments import Levels
from processes import component

from gendiff import Metric
from gendiff.blur import symmetric_blur
from gendiff.run.rows import numbers
from gendiff.testing import SmoothNoise
from gendiff.training.preview import reference


def white(n: int, shape: tuple[int, ...], rng: torch.Generator) -> torch.Tensor:
    return torch.randn(n, *shape, generator=rng)


def test_levels_are_computed_in_double_precision(rng):
    x = 1000 + white(50, (2, 9, 9), rng).half().float()
    found, rows = Levels.of(x), x.double().numpy()
    assert found.mean.tolist() == pytest.approx(rows.mean((0, 2, 3)).tolist(), rel=1e-13)
    assert found.contrast.tolist() == pytest.approx(rows.std((0, 2, 3)).tolist(), rel=1e-10)


def test_the_least_contrast_is_a_grey_level_of_a_byte():
    black = torch.zeros(4, 1, 3, 3, dtype=torch.float64)
    alarms = component(Metric, "moments").alarms
    assert alarms(black + 0.0999 * 2 / 255, black) == []
    assert len(alarms(black + 0.1001 * 2 / 255, black)) == 1


class TestSpectrum:
    def test_a_gain_is_so_many_decibel_in_every_band(self, rng):
        x = white(6, (3, 9, 14), rng)
        found = component(Metric, "spectrum:bands=3").measure(2 * x, x)
        assert found == pytest.approx({"error": 6.0206, "band_0": 6.0206, "band_1": 6.0206, "band_2": 6.0206}, abs=1e-3)

    def test_a_constant_does_not_count(self, rng):
        x = white(4, (1, 8, 8), rng)
        assert component(Metric, "spectrum").measure(x + 0.7, x)["error"] == pytest.approx(0, abs=1e-4)

    def test_blur_lowers_the_bands_in_order(self, rng):
        x = white(64, (1, 16, 16), rng)
        found = component(Metric, "spectrum").measure(symmetric_blur(x.double(), 0.6).float(), x)
        bands = [found[f"band_{band}"] for band in range(4)]
        assert bands == sorted(bands, reverse=True)
        assert bands[0] > -4
        assert bands[-1] < -10

    def test_what_is_added_to_each_power(self):
        """Two pixels v and -v: one component, of power 2 v²."""
        x = torch.tensor([0.3, -0.3]).reshape(1, 1, 2).expand(4, 1, 2)
        found = component(Metric, "spectrum:bands=1").measure(0 * x, x)["band_0"]
        assert found == pytest.approx(10 * math.log10(1e-8 / (2 * 0.09 + 1e-8)), abs=1e-6)

    def test_a_single_pixel_has_no_frequencies(self, rng):
        x = white(3, (2, 1, 1), rng)
        assert component(Metric, "spectrum:bands=2").measure(x, x + 1) == {"error": 0, "band_0": 0, "band_1": 0}

    def test_an_empty_band_is_finite(self, rng):
        found = component(Metric, "spectrum:bands=64").measure(white(3, (1, 4, 4), rng), white(3, (1, 4, 4), rng))
        assert all(abs(value) < 100 for value in found.values())


def test_moments_find_the_tinted_channel(rng):
    x = white(5, (3, 6, 7), rng)
    y = x.clone()
    y[:, 1] = 0.5 * y[:, 1] - 0.25
    found = component(Metric, "moments").measure(y, x)
    assert found["mean_0"] == found["contrast_2"] == 0
    assert found["contrast_1"] == pytest.approx(-0.5 * x[:, 1].std(correction=0).item(), rel=1e-5)
    assert found["error"] == pytest.approx(max(abs(found["mean_1"]), abs(found["contrast_1"])))


def test_the_errors_of_brightness_and_contrast_are_how_they_scatter(rng):
    """Over many sets of events of unlike contrast, about a mean that is not 0."""

    def draw():
        gain = torch.tensor([1.0, 0.4]).reshape(2, 1, 1) * (0.5 + torch.rand(30, 1, 1, 1, generator=rng))
        return 0.7 + gain * (white(30, (2, 4, 5), rng) + white(30, (2, 1, 1), rng))

    levels = [Levels.of(draw()) for _ in range(300)]
    for name in ("mean", "contrast"):
        scatter = torch.stack([getattr(each, name) for each in levels]).std(0)
        errors = torch.stack([getattr(each, f"{name}_error") for each in levels]).mean(0)
        torch.testing.assert_close(errors, scatter, rtol=0.25, atol=0)
    alone = Levels.of(draw()[:1])
    assert not alone.mean_error.any()
    assert not alone.contrast_error.any()


class TestAlarms:
    """Of a reference of -1/2 and 1/2 in every event: brightness 0, contrast 1/2, and no scatter; all in units of the contrast."""

    def of(self, shift=(0.0,), gain=(1.0,), channels=3, scatter=0.0, n=40):
        x = torch.tensor([-1.0, 1.0]).repeat(n, channels, 8).double().reshape(n, channels, 4, 4)
        shift, gain = (torch.tensor(values).double().expand(channels).reshape(-1, 1, 1) for values in (shift, gain))
        events = torch.tensor([-scatter, scatter]).repeat(n // 2).double().reshape(-1, 1, 1, 1)
        return [
            text.partition(",")[0]
            for text in component(Metric, "moments").alarms((gain * x + shift + events) / 2, x / 2)
        ]

    def test_each_rings_beyond_a_tenth_of_the_contrast(self):
        of = "of the contrast of the reference (the alarm rings from 0.1)"
        assert self.of() == self.of(shift=(0.099,)) == self.of(shift=(-0.099,)) == self.of(gain=(1.099,)) == []
        assert self.of(shift=(0.101,)) == [f"bright samples: their mean is off by +0.10 {of}"]
        assert self.of(shift=(-0.2,)) == [f"dark samples: their mean is off by -0.20 {of}"]
        assert self.of(gain=(0.8, 1.0, 1.1)) == [f"pale samples: the contrast of channel 0 is off by -0.20 {of}"]
        assert self.of(gain=(0.9, 1.0, 1.3)) == [f"harsh samples: the contrast of channel 2 is off by +0.30 {of}"]
        assert self.of(shift=(0.04, 0.02, -0.15)) == ["tinted samples: blue is off by -0.12"]
        assert self.of(shift=(0.3, 0.0), channels=2) == [
            *(f"bright samples: their mean is off by +0.15 {of}", "tinted samples: channel 0 is off by +0.15"),
        ]

    def test_none_rings_within_four_standard_errors(self):
        """Events that are half a contrast brighter or darker in turn: 4 · 0.5/sqrt(n), and the contrast grows by it."""
        assert not [text for text in self.of(shift=(0.31,), scatter=0.5) if "mean" in text]
        assert [text for text in self.of(shift=(0.33,), scatter=0.5) if "mean" in text]
        assert [text for text in self.of(shift=(0.2,), scatter=0.5, n=160) if "mean" in text]


def test_the_contrast_of_a_reference_counts_as_a_grey_level_at_least():
    """Of pictures of one grey: off by 0.105 of 2/255 is above the limit of 0.1, by 0.095 it is not."""
    grey = torch.full((6, 1, 4, 5), 0.25, dtype=torch.float64)
    found = [component(Metric, "moments").alarms(grey + share * 2 / 255, grey) for share in (0.105, -0.105, 0.095)]
    assert found[0][0].startswith("bright")
    assert found[1][0].startswith("dark")
    assert found[2] == []


def test_the_reference_is_spread_over_the_data():
    events = reference(SmoothNoise(shape=(1, 4, 5)), 8)
    data = SmoothNoise(shape=(1, 4, 5))
    torch.testing.assert_close(events, torch.stack([data[k * data.length // 8] for k in range(8)]))
    digits = component(__import__("gendiff").Data, "digits")
    assert len({digits[int(k * digits.length / 40)].sum().item() for k in range(40)}) > 30


def test_a_run_measures_its_grids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--metric", "spectrum:bands=2", "--metric", "moments", "--set", "train.preview_images=6")
    done = run(
        "train", *TINY, *options, "--set", "train.sample_every=2", "--set", "train.preview.steps=2", "--out", "r"
    )
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    measured = [row for row in rows if "metrics" in row]
    assert [row["step"] for row in measured] == [2, 3]
    assert all(row["n"] == 6 for row in measured)
    assert set(measured[0]["metrics"]) == {"spectrum", "moments"}
    assert "metrics.spectrum.band_1" in numbers(measured[0])
    assert "step" not in numbers(measured[0])
    assert "last loss" in (tmp_path / "r" / "README.md").read_text()
    # The same numbers when the run is done in two parts.
    assert run("train", *TINY, *options, "--set", "train.sample_every=2", "--set", "train.preview.steps=2", "--steps", 2,
               "--out", "s").code == 0  # fmt: skip
    assert run("train", "--resume", "s", "--steps", 3).code == 0
    again = [json.loads(line) for line in (tmp_path / "s" / "metrics.jsonl").read_text().splitlines()]
    assert [row for row in again if "metrics" in row] == measured


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--metric", "spectru"), "unknown metric 'spectru' (from --metric)"),
        (("--metric", "spectrum:bands=0"), "metric 'spectrum': bands = 0"),
        (("--logger", "tensorbord"), "did you mean 'tensorboard'?"),
        (("--set", "train.metrics=3"), "metrics"),
    ],
)
def test_a_mistake_is_explained(options, said):
    done = run("train", *options, "--dry-run")
    assert (done.code, said in done.err) == (2, True), done.err
