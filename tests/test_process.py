"""`gendiff process show|plot`: what a process does, in numbers and in pictures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from command import run
from PIL import Image
from processes import diffusion
from rich.text import Text
from runs import create, settings

from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.lab.figures import Curve, Strip, save, schedules, snr, strips
from gendiff.lab.forward import BandSNR
from gendiff.moments import Moments
from gendiff.schedule import BlurSchedule

DCT_LOG = ("--rotation", "dct", "--schedule", "log", "--data", "digits")


# --- show ---------------------------------------------------------------------------------------------------------------


def test_show_prints_the_bands_and_json_the_same_numbers():
    done = run("process", "show", *DCT_LOG, "--moments", 3)
    assert done.code == 0, done.err
    [found] = run("process", "show", *DCT_LOG, "--moments", 3, "--json").json["processes"]
    assert found["steps"] == [1, 500, 1000]
    rows = [line.split() for line in done.out.splitlines()]
    shown = [row for row in rows if row and row[0] == "500"]
    assert [float(value) for value in shown[0][1:]] == pytest.approx(found["snr_db"][1], abs=0.06)
    assert next(row for row in rows if row and row[0] == "1" and "i=" in row[1])[1:] == [
        f"i={i}" for i in found["crossing"]
    ]
    bands = [row for row in rows if row and row[0] in [f"{edge:.2f}" for edge in found["band_edges"]]]
    assert [int(row[3]) for row in bands] == found["data_crossing"]
    assert [float(row[2]) for row in bands] == pytest.approx(
        [db + data for db, data in zip(found["snr_db"][-1], found["data_db"], strict=True)], abs=0.06
    )
    assert "1x8x8 of digits" in done.out
    assert "next: gendiff process plot --rotation dct --schedule log --data digits" in done.err


def test_the_numbers_are_those_of_the_process():
    [found] = run("process", "show", *DCT_LOG, "--json").json["processes"]
    process = diffusion("dct", "blur:schedule=log", (1, 8, 8), 1000)
    decibel = 20 / math.log(10) * process.at(1000).half_log_snr
    assert found["terminal_snr_db"] == pytest.approx([float(decibel.min()), float(decibel.max())])
    F = 0.14 * sum(math.log(i) for i in range(1, 1001)) / math.log(1000)
    assert found["blur_pixels_nominal"] == pytest.approx(0.4 * math.sqrt(F))
    assert found["crossing"] == BandSNR(process, 4).below(0.0)
    speed, first, last = (found[key] for key in ("speed_db_per_step", "data_clean_until", "data_gone_from"))
    assert speed == pytest.approx([20 / max(b - a, 1) for a, b in zip(first, last, strict=True)])


def test_arms_are_shown_one_after_the_other(tmp_path):
    trained = create(tmp_path / "run", settings(rotation="dct"))
    arms = ("--arm", "identity", "--arm", "dct schedule=quartic label=paper", "--arm", trained.path)
    done = run("process", "show", "--data", "digits", *arms, "--json")
    assert [found["label"] for found in done.json["processes"]] == ["identity", "paper", str(trained.path)]
    assert [found["basis"] for found in done.json["processes"]] == ["dct"] * 3
    assert [found["blur_pixels"] is None for found in done.json["processes"]] == [True, False, False]
    assert done.json["processes"][2]["N"] == 20
    assert "blur-in-noise" in [finding["rule"] for finding in done.json["processes"][1]["findings"]]
    text = run("process", "show", "--data", "digits", *arms).out
    assert "blur-in-noise: the blur acts only where everything is already noise" in text
    assert text.count("process        ") == 3


@pytest.mark.slow
def test_show_takes_a_named_process_and_says_where_blur_is_approximate():
    done = run("process", "show", "--process", "blur-diffusion:schedule=cubic", "--data", "digits", "--json")
    assert done.json["processes"][0]["velocity"] == "blur:schedule=cubic"
    assert done.json["processes"][0]["event_shape"] == [1, 8, 8]
    assert "does not diagonalise a blur" in run("process", "show", "--rotation", "haar", "--size", 8).err
    assert "does not diagonalise" not in run("process", "show", "--rotation", "dct", "--size", 8).err


def test_a_band_without_components_crosses_nothing():
    options = ("--rotation", "dct", "--data", "digits", "--set", "N=20", "--bands", 40, "--moments", 2)
    [found] = run("process", "show", *options, "--json").json["processes"]
    empty = found["components"].count(0)
    rows = [line.split() for line in run("process", "show", *options).out.splitlines()]
    assert sum(row[1:] == ["-"] * 4 for row in rows) == empty > 0
    assert rows[-1].count("-") == empty if not found["findings"] else any(row.count("-") == empty for row in rows)


@pytest.mark.parametrize("columns", [40, 120])
def test_show_fits_a_terminal(columns, monkeypatch):
    from gendiff_cli import console
    from rich.console import Console

    terminal = Console(force_terminal=True, width=columns, highlight=False, soft_wrap=True)
    monkeypatch.setattr(console, "out", lambda: terminal)
    done = run("process", "show", "--rotation", "dct", "--schedule", "log:f_max=0.6", "--data", "digits", "--bands", 7)
    assert done.code == 0, done.err
    lines = Text.from_ansi(done.out).plain.splitlines()
    assert max(map(len, lines)) <= columns
    assert sum(line.startswith("i ") for line in lines) == (2 if columns == 40 else 1)  # the wide table in parts


# --- figures ------------------------------------------------------------------------------------------------------------


def test_schedules_are_drawn_as_they_are():
    curves = {name: Curve(BlurSchedule.model_validate(name)) for name in ("none", "log")}
    figure = schedules(curves, 30)
    per_step, total = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in per_step.lines}
    i = torch.arange(1, 31, dtype=torch.float64)
    assert lines.keys() == {"none", "log"}
    np.testing.assert_allclose(lines["log"][:, 1], 0.14 * i.log() / math.log(30), atol=1e-12)
    assert (lines["none"][:, 1] == 0).all()
    assert not total.lines  # whose width is unknown


def test_the_map_holds_the_snr_of_every_band():
    process = diffusion("dct", "blur:schedule=log", (1, 6, 9), 40)
    moments = Moments(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 0.1))
    bands = BandSNR(Diffusion(process.rotation, process.scales, process.event_shape, moments), 5)
    figure = snr({"one": bands, "other": bands}, columns=7)
    mesh = figure.axes[0].collections[0]
    steps = [1, 8, 14, 20, 27, 34, 40]
    np.testing.assert_allclose(mesh.get_array().reshape(5, 7), torch.stack([bands.decibel(i) for i in steps]).T)
    drawn = {line.get_label(): line.get_xdata().tolist() for line in figure.axes[0].lines}
    expected = {"SNR = 1": bands.below(0.0), "data-SNR = 1": bands.data_below(0.0)}
    assert drawn == {name: [i for i in steps if i is not None] for name, steps in expected.items()}


def test_a_strip_shows_its_events_and_leaves_out_what_is_never_reached():
    views = [torch.full((1, 4, 6), value) for value in (-1.0, 0.0, 1.0)]
    figure = strips([Strip("mine", [0, 7, None], views, views)], ["", "a", "b"])
    panels = figure.subfigs[0].axes
    assert [len(panel.images) for panel in panels] == [1, 1, 0, 1, 1, 0]
    assert panels[1].images[0].get_array().mean() == 128
    assert [panel.get_title() for panel in panels[:3]] == ["i = 0", "a\ni = 7", "b\nnever"]


def test_a_figure_is_the_same_file_twice(tmp_path):
    figure = schedules({"log": Curve(BlurSchedule.model_validate("log"))}, 9)
    for ending, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("PDF", b"%PDF")):
        written = []
        for name in "ab":
            path = tmp_path / f"{name}.{ending}"
            save(figure, path)
            written.append(path.read_bytes())
        assert written[0][:4] == magic
        assert written[0] == written[1]
    with pytest.raises(ConfigError, match="a figure is a PNG or a PDF"):
        save(figure, tmp_path / "a.svg")


# --- plot ---------------------------------------------------------------------------------------------------------------


def test_plot_draws_the_picture_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.zeros((30, 50, 3), np.uint8)
    pixels[:, 25:] = (250, 10, 120)
    Image.fromarray(pixels).save("mine.png")
    options = (
        "--data",
        "gaussian-field:size=24,channels=3",
        "--picture",
        "mine.png",
        "--moments",
        4,
        "--arm",
        "identity",
        "--arm",
        "dct schedule=log",
    )
    done = run("process", "plot", *options, "--out", "strip.png", "--json")
    assert done.json["rows"] == [
        {"label": "identity", "steps": [0, 333, 667, 1000]},
        {"label": "dct schedule=log", "steps": [0, 333, 667, 1000]},
    ]
    with Image.open("strip.png") as strip:
        drawn = np.asarray(strip.convert("RGB")).astype(int)
    ink = (
        np.abs(drawn - (250, 10, 120)).max(-1) < 8
    ).sum()  # half of x_0 in two rows for each process, and of no other view
    assert 0.1 < ink / (4 * (strip.width / 4) ** 2) < 0.6
    done = run("process", "plot", *options, "--at", "snr", "--json")
    for row in done.json["rows"]:
        assert row["steps"] == sorted(row["steps"])
    assert done.json["rows"][0]["steps"] > done.json["rows"][1]["steps"]
    assert (
        "next: gendiff process show --data gaussian-field:size=24,channels=3 --arm identity --arm 'dct schedule=log'"
        in done.err
    )


def test_plot_draws_every_schedule_there_is_and_maps_as_pdf(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("process", "plot", "schedules", "--out", "f.png", "--json")
    assert {"log", "none", "quartic", "triangular"} <= set(done.json["schedules"])
    assert run("process", "plot", "schedules", "--schedule", "log", "--json").json["figure"] == "process-schedules.png"
    assert run("process", "plot", "schedules", "--schedule", "log", "--json").json["schedules"] == [
        "identity, blur:schedule=log"
    ]
    several = ("--schedule", "log:f_max=0.6", "--schedule", "quartic")
    done = run("process", "plot", "schedules", *several, "--json")
    assert done.json["schedules"] == ["log:f_max=0.6", "quartic"], done.err
    assert "next: gendiff train\n" in done.err
    done = run("process", "plot", "snr", "--data", "digits", "--rotation", "dct", "--out", "snr.pdf")
    assert (done.code, done.out) == (0, "snr.pdf\n"), done.err
    assert "next: gendiff train --data digits --rotation dct" in done.err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--picture", "missing.png"), 4, "cannot read the picture 'missing.png'"),
        (("--picture", "text.png"), 4, "cannot read the picture 'text.png'"),
        (("--out", "no/such/folder/x.png"), 2, "cannot write 'no/such/folder/x.png'"),
        (("--out", "strip.nothing"), 2, "a figure is a PNG or a PDF"),
        (
            ("--picture", "text.png", "--arm", "dct data=gaussian-field:size=[9],channels=1"),
            2,
            "cannot become an event",
        ),
        (("--process", "ddpm", "--schedule", "log"), 2, "has no parameter 'schedule'"),
        (("--process", "dpm"), 2, "did you mean 'ddpm'?"),
        (("--arm", "dct schedule=lgo"), 2, "did you mean 'log'?"),
        (("schedules", "--arm", "ddpm"), 2, "has no blur schedule"),
        (
            ("schedules", "--process", "heat-dissipation"),
            2,
            "'dct, heat' has no blur schedule: velocity 'heat' has none",
        ),
        (("schedules", "--at", "snr"), 2, "'schedules' has no use for --at: no picture is drawn"),
        (("snr", "--picture", "text.png", "--moments", 4), 2, "'snr' has no use for --picture and --moments"),
        (("snr", "--schedule", "log", "--schedule", "quartic"), 2, "a process has one schedule"),
        (("schedules", "--arm", "dct", "--arm", "dct N=500"), 2, "draw schedules of one N together"),
    ],
)
def test_a_mistake_is_explained(options, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("no picture")
    done = run("process", "plot", *options, *(("--size", 8) if "gaussian" not in str(options) else ()))
    assert (done.code, said in done.err) == (code, True), done.err
    assert len(done.err.splitlines()) < 12
