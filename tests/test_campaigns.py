"""The scripts of the longer campaigns run, at their tiny size."""

from __future__ import annotations

import json

import data_benchmark
import digits_quality
import pytest
import torch
import unet_benchmark


def test_the_benchmark_agrees_with_the_reference_on_a_cpu(tmp_path, capsys):
    out = tmp_path / "table.md"
    assert unet_benchmark.main(["--device", "cpu", "--scale", "tiny", "--no-compile", "--out", str(out)]) == 0
    lines = [line for line in out.read_text().splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 4
    assert "bf16" in capsys.readouterr().out


def test_the_benchmark_of_data_agrees_with_its_sources(tmp_path, capsys):
    out = tmp_path / "table.md"
    assert data_benchmark.main(["--scale", "tiny", "--workers", "0", "--out", str(out)]) == 0
    rows = [line.split("|")[1:-1] for line in out.read_text().splitlines() if line.startswith("| ")]
    assert [row[0].strip() for row in rows[1:]] == ["folder", "packed from folder", "lsun", "packed from lsun"]
    assert all(float(cell.replace(",", "")) > 0 for row in rows[1:] for cell in row[1:])
    assert "packed from folder" in capsys.readouterr().out


def test_the_benchmark_of_data_fails_where_an_event_differs(monkeypatch, capsys):
    monkeypatch.setattr("gendiff_plugins.data.packed.Packed.__getitem__", lambda self, index: torch.zeros(3, 16, 16))
    monkeypatch.setattr(data_benchmark, "measured", lambda every, scale, workers: [])
    assert data_benchmark.main(["--scale", "tiny", "--workers", "0"]) == 1
    assert "12 packed events differ from those of folder" in capsys.readouterr().out


def test_a_quality_arm_trains_measures_and_is_not_repeated(tmp_path):
    threads = torch.get_num_threads()
    found = digits_quality.run_arm("dct, quartic 0.14", 0, steps=2, count=80, folder=tmp_path)
    torch.set_num_threads(threads)
    assert set(found) == set(digits_quality.SAMPLERS)
    assert all(value > 1 for value in found.values())  # two steps of training are far from digits
    (kept,) = tmp_path.rglob("distance.json")
    kept.write_text(json.dumps({"kept": 1.0}))
    assert digits_quality.run_arm("dct, quartic 0.14", 0, steps=2, count=80, folder=tmp_path) == {"kept": 1.0}


def test_frechet_distance_is_the_gaussian_formula(rng):
    from scipy.linalg import sqrtm

    frechet_distance = digits_quality.frechet_distance
    x = torch.randn(300, 2, 3, generator=rng, dtype=torch.float64)
    y = 1.5 * torch.randn(200, 2, 3, generator=rng, dtype=torch.float64) + 0.3
    C_x, C_y = (torch.cov(t.flatten(1).T).numpy() for t in (x, y))
    shift = (x.flatten(1).mean(0) - y.flatten(1).mean(0)).square().sum().item()
    expected = shift + (C_x + C_y - 2 * sqrtm(C_x @ C_y).real).trace()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
