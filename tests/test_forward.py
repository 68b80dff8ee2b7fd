"""`gendiff process`: what a process does, in numbers and in a picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from command import run
from PIL import Image
from processes import diffusion

from gendiff.forward import band_snr, corrupted


def test_band_snr_is_the_mean_over_the_components_of_a_band():
    process = diffusion("dct", "blur:schedule=log", (2, 6, 9), N=40)
    snr = band_snr(process, bands=3, moments=5)
    rho = process.rotation.frequencies((2, 6, 9))[0]
    assert snr.steps == [1, 11, 20, 30, 40]
    assert snr.edges[-1] == pytest.approx(float(rho.max()))
    for row, i in enumerate(snr.steps):
        a, s = process.scales_at(i, torch.float64)
        decibel = 10 * torch.log10(a**2 / s**2)[0]
        low = 0.0
        for band, edge in enumerate(snr.edges):
            inside = (rho >= low) & ((rho < edge) | (band == 2))
            assert snr.decibel[row, band].item() == pytest.approx(decibel[inside].mean().item(), rel=1e-9)
            low = edge


def test_the_crossing_is_the_first_step_below_0_db():
    process = diffusion("dct", "blur:schedule=log", (1, 8, 8), N=200)
    crossing = band_snr(process, 4, 2).crossing
    every = band_snr(process, 4, 200)
    assert every.steps == list(range(1, 201))
    assert crossing == [int((every.decibel[:, band] < 0).nonzero()[0]) + 1 for band in range(4)]
    assert crossing == sorted(crossing, reverse=True)  # fine detail goes first
    weak = diffusion("identity", "isotropic:noise='linear:beta_max=0.0002'", (1, 4, 4), N=20)
    assert band_snr(weak, 1, 2).crossing == [None]


def test_an_empty_band_is_nothing():
    snr = band_snr(diffusion("dct", "blur", (1, 2), N=20), bands=8, moments=2)  # two components, eight bands
    assert snr.decibel.isnan().any()
    assert not snr.decibel.isnan().all()
    assert None in snr.crossing


def test_corrupted_is_q_sample_with_the_same_noise(rng):
    process = diffusion("dct", "blur", (2, 5, 7))
    x_0, eps = torch.randn(2, 3, 2, 5, 7, generator=rng)
    views = corrupted(process, x_0, eps, [0, 25, 50])
    torch.testing.assert_close(views[0], x_0, rtol=0, atol=1e-5)
    torch.testing.assert_close(views[1], process.q_sample(x_0, torch.full((3,), 25), eps))


def test_show_prints_the_bands_and_json_the_same_numbers():
    done = run("process", "show", "--rotation", "dct", "--schedule", "log", "--size", 16, "--moments", 3)
    assert done.code == 0, done.err
    assert "rotation dct, velocity blur:schedule=log, N = 1000, events 3x16x16" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    found = run(
        "process", "show", "--rotation", "dct", "--schedule", "log", "--size", 16, "--moments", 3, "--json"
    ).json
    assert found["steps"] == [1, 500, 1000]
    shown = next(line for line in lines if line[0] == "500")
    assert [float(value) for value in shown[1:]] == pytest.approx(found["snr_db"][1], abs=0.06)
    assert "next: gendiff process plot --rotation dct --schedule log --size 16" in done.err
    assert next(line for line in lines if line[:3] == ["<", "0", "dB"])[5] == str(found["crossing"][0])


def test_show_takes_a_named_process_and_any_data_and_says_where_blur_is_approximate():
    done = run("process", "show", "--process", "blur-diffusion:schedule=cubic", "--data", "digits", "--json")
    assert done.json["velocity"] == "blur:schedule=cubic"
    assert done.json["event_shape"] == [1, 8, 8]
    assert "does not diagonalise a blur" in run("process", "show", "--rotation", "haar", "--size", 8).err
    assert "does not diagonalise" not in run("process", "show", "--rotation", "dct", "--size", 8).err
    assert math.isfinite(done.json["snr_db"][0][0])


def test_plot_draws_the_picture_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((30, 50, 3), np.uint8)
    pixels[:, 25:] = (250, 10, 120)
    Image.fromarray(pixels).save("mine.png")
    options = (
        "--rotation",
        "dct",
        "--schedule",
        "log:f_max=0.6",
        "--size",
        48,
        "--picture",
        "mine.png",
        "--moments",
        4,
    )
    done = run("process", "plot", *options, "--out", "strip.png")
    assert (done.code, done.out.splitlines()[0]) == (0, "strip.png"), done.err
    assert "i = 0, 333, 667, 1000" in done.out
    with Image.open("strip.png") as strip:
        assert strip.mode == "RGB"
        drawn = np.asarray(strip).astype(int)
    tile = drawn[2:50, 2:50]
    assert np.abs(tile[24, 40] - (250, 10, 120)).max() < 6  # x_0: the picture itself, squeezed
    assert np.abs(tile[24, 6]).max() < 6
    noise, signal = drawn[2:50, -50:-2], drawn[-50:-2, -50:-2]
    assert noise.std() > 60  # x_N is noise
    assert np.abs(signal - 127).max() < 4  # and the signal is gone


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--picture", "missing.png"), 4, "cannot read the picture 'missing.png'"),
        (("--picture", "text.png"), 4, "cannot read the picture 'text.png'"),
        (("--out", "no/such/folder/x.png"), 2, "cannot write 'no/such/folder/x.png'"),
        (("--out", "strip.nothing"), 2, "cannot write 'strip.nothing'"),
        (("--picture", "text.png", "--data", "gaussian-field:size=[9],channels=1"), 2, "cannot become an event"),
        (("--process", "ddpm", "--schedule", "log"), 2, "has no parameter 'schedule'"),
        (("--process", "dpm"), 2, "did you mean 'ddpm'?"),
    ],
)
def test_a_mistake_is_explained(options, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    done = (
        run("process", "plot", "--size", 8, *options)
        if "gaussian" not in str(options)
        else run("process", "plot", *options)
    )
    assert (done.code, said in done.err) == (code, True), done.err
    assert len(done.err.splitlines()) < 12
