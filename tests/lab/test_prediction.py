"""The predicted error, against recursions and searches written another way."""

from __future__ import annotations

import itertools
import math
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from processes import component, diffusion, scales_at
from rich.text import Text
from runs import create, settings

from gendiff import Data, GaussianScore, Rotation, Sampler, sample
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.evaluation.remarks import Real
from gendiff.grid import Grid
from gendiff.lab.decision import Floor, decide
from gendiff.lab.prediction import _bending, _moved, at, best_grid, dense, diagonal, predict, thinned
from gendiff.lab.recursion import Gaussian, NetworkError, law
from gendiff.moments import Moments
from gendiff.run.layers import Layer, resolve
from gendiff.score import Parametrization, ScoreModel, decode, encode
from gendiff.testing import SmoothNoise

EVENT = (2, 4, 6)


def of_data(rotation="dct", velocity="blur:schedule=log", N=50, event=EVENT, m=0.0) -> Diffusion:
    """A process of data whose variance falls with frequency, and whose mean is m times the root of it."""
    process = diffusion(rotation, velocity, event, N)
    rho = torch.broadcast_to(process.rotation.frequencies(event), event)
    c = 0.5 / (0.2 + (rho * max(event[1:]) / math.pi).round()) ** 2
    return Diffusion(process.rotation, process.scales, event, Moments(m * c.sqrt(), c))


def sampler(spec: str) -> Sampler:
    return component(Sampler, spec)


# --- the error ----------------------------------------------------------------------------------------------------------


def test_the_error_of_ddim_is_that_of_a_recursion_of_standard_deviations():
    process = of_data()
    found = predict(process, sampler("ddim:steps=7,grid=uniform"), diagonal(process), bands=3)
    steps = [round(50 * k / 7) for k in range(7, 0, -1)]
    assert (found.evaluations, found.steps) == (7, steps)
    c = process.moments.variance.numpy()
    std = np.exp(process.at(50).log_s.numpy()) + 0 * c
    for i, j in itertools.pairwise([*steps, 0]):
        a_i, s_i, a_j, s_j = (scale.numpy() for k in (i, j) for scale in scales_at(process, k, torch.float64))
        v_i = a_i**2 * c + s_i**2
        std = std * np.abs(a_j * a_i * c / v_i + s_j * s_i / v_i)
    each = (std - np.sqrt(c)) ** 2
    assert found.total == pytest.approx(each.sum(), rel=1e-9)
    rho = torch.broadcast_to(process.rotation.frequencies(EVENT), EVENT).numpy()
    bands = np.minimum((rho / rho.max() * 3).astype(int), 2)
    assert found.bands == pytest.approx([each[bands == k].sum() for k in range(3)], rel=1e-9)


def test_what_is_exact_has_no_error():
    process = of_data(m=0.4)
    exact = predict(process, sampler("trig:steps=1,prior=matched"), diagonal(process))
    assert exact.total == pytest.approx(0, abs=1e-20)
    prior = predict(process, sampler("trig:steps=1"), diagonal(process))
    end, m, c = process.at(50, torch.float64), process.moments.mean, process.moments.variance
    # N(0, s²) in the place of N(a m, v): y is off by -a m/sqrt(v) and has the variance s²/v.
    wanted = c * ((end.a * m) ** 2 / end.v + (1 - end.s / end.v.sqrt()) ** 2)
    assert prior.total == pytest.approx(float(wanted.sum()))
    errors = [
        predict(process, sampler(f"ddim:steps={n},grid=uniform"), diagonal(process)).total for n in (5, 10, 20, 50)
    ]
    assert errors == sorted(errors, reverse=True)


def test_the_whole_covariance_of_independent_components_is_diagonal():
    process = of_data(m=0.3)
    c, m = process.moments.variance, process.moments.mean
    whole = Gaussian.dense(m, torch.diag(c.flatten()))
    for spec in ("ddim:steps=5", "dpmpp-2m:steps=6", "ancestral:steps=4"):
        one, other = (predict(process, sampler(spec), target, bands=3) for target in (diagonal(process), whole))
        assert one.total == pytest.approx(other.total, rel=1e-6)
        assert one.bands == pytest.approx(other.bands, rel=1e-6)  # the DCT's bands are those of the basis here
        assert sum(one.bands) == pytest.approx(one.total)


def test_of_a_process_of_one_speed_the_error_does_not_depend_on_the_basis():
    data = component(Data, "digits")
    errors = []
    for rotation in ("identity", "dct", "haar"):
        process = diffusion(rotation, "isotropic", data.event_shape, 60)
        errors.append(predict(process, sampler("ddim:steps=6,grid=uniform"), dense(data, process.rotation), bands=2))
    for other in errors[1:]:
        assert other.total == pytest.approx(errors[0].total, rel=1e-6)
        assert other.bands == pytest.approx(errors[0].bands, rel=1e-6)


def test_the_covariance_of_the_data():
    data = component(Data, "digits")
    U = diffusion("dct", "blur", data.event_shape).rotation
    found = dense(data, U)
    rows = U.rotate(torch.stack([data[k] for k in range(data.length)]).double()).flatten(1).numpy()
    np.testing.assert_allclose(found.mean[0].numpy(), rows.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.covariance[0].numpy(), np.cov(rows.T, bias=True), atol=1e-12)
    assert dense(component(Data, "gaussian-field:size=16"), U).covariance.shape == (1, 256, 256)
    with pytest.raises(ConfigError, match="events of 257 components are too large for a whole covariance"):
        dense(SmoothNoise(shape=(1, 257)), U)


# --- few components for all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("velocity", ["isotropic", "blur:schedule=none"])
def test_few_components_stand_for_all_that_are_alike(velocity):
    process = of_data(velocity=velocity, m=0.7, event=(2, 9, 13))
    few, weight = thinned(process)
    assert float(weight.sum()) == 2 * 9 * 13
    assert few.event_shape[1] < 9 * 13 / 4
    one = sampler("dpmpp-2m:steps=5,grid=uniform")
    each = law(few, one, diagonal(few)).distance(diagonal(few))
    assert float(each @ weight.flatten()) == pytest.approx(predict(process, one, diagonal(process)).total, rel=1e-9)


def test_components_are_alike_where_they_are_in_every_channel(monkeypatch):
    """A rotation may give its second channel frequencies of its own, here those of the first from high to low."""
    plain = type(component(Rotation, "dct")).frequencies

    def frequencies(self, event_shape):
        rho = plain(self, event_shape)
        return torch.cat([rho, rho.flip(1, 2)])

    monkeypatch.setattr(type(component(Rotation, "dct")), "frequencies", frequencies)
    process = of_data(velocity="isotropic", m=0.7, event=(2, 9, 13))
    few, weight = thinned(process)
    assert weight.sum(1).tolist() == [9 * 13, 9 * 13]
    one = sampler("dpmpp-2m:steps=5,grid=uniform")
    each = law(few, one, diagonal(few)).distance(diagonal(few))
    assert float(each @ weight.flatten()) == pytest.approx(predict(process, one, diagonal(process)).total, rel=1e-9)


def test_the_component_in_the_middle_of_its_like_stands_for_them():
    process = of_data(event=(1, 9, 13), N=100, m=0.3)
    few, weight = thinned(process)
    rho = np.sqrt(np.add.outer((np.pi * np.arange(9) / 9) ** 2, (np.pi * np.arange(13) / 13) ** 2)).ravel()
    shells = [
        np.flatnonzero(np.round(rho * 13 / np.pi) == shell)
        for shell in range(int(np.round(rho.max() * 13 / np.pi)) + 1)
    ]
    shells = [shell for shell in shells if len(shell)]
    assert weight[0].tolist() == [len(shell) for shell in shells]
    middle = [shell[(len(shell) - 1) // 2] for shell in shells]
    for i in (1, 40, 100):
        np.testing.assert_array_equal(few.at(i).log_a.flatten(), process.at(i).log_a.flatten()[middle])
    c, m = (values.expand(1, 9, 13).flatten().numpy() for values in (process.moments.variance, process.moments.mean))
    np.testing.assert_allclose(few.moments.variance[0], [c[shell].mean() for shell in shells])
    np.testing.assert_allclose(few.moments.mean[0], [np.sqrt((m[shell] ** 2).mean()) for shell in shells])


def test_few_components_are_near_enough_where_they_are_not_alike():
    process = of_data(event=(1, 24, 24), N=100)
    few, weight = thinned(process)
    one = sampler("ddim:steps=8,grid=lambda")
    each = law(few, one, diagonal(few)).distance(diagonal(few))
    assert float(each @ weight.flatten()) == pytest.approx(predict(process, one, diagonal(process)).total, rel=0.02)


def test_few_components_know_how_many_they_stand_for():
    process = of_data(velocity="isotropic", event=(1, 9, 13), N=100)
    one = sampler("ddim:steps=8,grid=arc-length")
    assert one.descent(thinned(process)[0]) == one.descent(process)


# --- the best grid ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["ddim", "dpmpp-2m", "ancestral"])
def test_the_best_grid_is_that_of_a_search_through_all(spec):
    process = of_data(N=14, event=(1, 3, 4))
    target, one = diagonal(process), sampler(spec)
    every = {
        steps: predict(process, at(one, steps), target).total
        for n in (1, 2, 3)
        for steps in ((14, *reversed(rest)) for rest in itertools.combinations(range(1, 14), n - 1))
    }
    found = best_grid(process, one, target, 3, ["uniform", "lambda"])
    assert every[tuple(found)] <= min(every.values()) * 1.02


@pytest.fixture(
    scope="module", params=["blur:schedule=log:f_max=0.6", "soft-conditioning:soft=0.05", "blurring:sigma_max=5"]
)
def fast(request) -> tuple[Diffusion, Gaussian]:
    """Components that turn to noise one after the other, within a few steps of a thousand, and data that correlate them."""
    table = {"data": "digits", "rotation": "dct", "velocity": request.param, "N": 1000}
    config = resolve([Layer("test", table)]).config.fitted()
    return config.diffusion(), dense(config.data, config.rotation)


@pytest.mark.parametrize("spec", ["dpmpp-2m", "sde-dpmpp-2m", "unipc-2", "heun", "trig:solver=ab2"])
def test_a_component_that_moves_much_after_little_is_not_thrown_far(spec, fast):
    """Nothing that is extrapolated is worse than a sample without it would be, and more steps help, as far as any do."""
    process, target = fast
    one = sampler(f"{spec}{',' if ':' in spec else ':'}prior=matched")
    errors = [predict(process, one.model_copy(update={"steps": n}), target).total for n in (10, 20, 50, 300)]
    assert max(errors) < 0.4 * float(target.variance.sum())
    assert errors[2] < max(0.5 * errors[0], 1.2 * errors[3])


def test_single_steps_move_either_way_between_their_neighbours():
    """Where each step has a place of its own that costs nothing, it goes there as far as strides and neighbours let it."""

    def go(steps, places, stride, calls=999):
        left = iter(range(calls))
        cost = lambda steps: sum(abs(one - other) for one, other in zip(steps, places, strict=True))  # noqa: E731
        return _moved(steps, stride, cost, lambda: next(left, None) is not None)

    assert go((100, 60, 30, 10), (90, 50, 40, 15), 5) == (100, 55, 35, 15)  # the first stays: it is N
    assert go((100, 60, 30, 10), (100, 70, 20, 0), 10) == (100, 70, 20, 10)  # none is 0
    assert go((100, 60, 30, 10), (100, 70, 20, 1), 9) == (100, 69, 21, 1)
    assert go((100, 60, 50, 10), (100, 50, 60, 10), 10) == (100, 60, 50, 10)  # nor where another is
    assert go((100, 60, 30, 10), (100, 70, 20, 1), 9, calls=2) == (100, 69, 30, 10)


def test_a_grid_is_bent_by_four_waves_that_keep_its_order(monkeypatch):
    import scipy.optimize

    asked = []
    monkeypatch.setattr(
        scipy.optimize, "minimize", lambda cost, a, **rest: (asked.append((len(a), rest)), cost(a + 0.9))
    )
    process = of_data(N=50)
    for n in (2, 3, 4, 10):  # of two steps one moves: by itself
        best_grid(process, sampler("ddim"), diagonal(process), n)
    assert [waves for waves, _ in asked] == [2, 3, 4]
    for (waves, rest), n in zip(asked, (3, 4, 10), strict=True):
        assert rest["bounds"] == [(-0.9, 0.9)] * waves
        # One evaluation was spent on the grid that it begins with.
        assert rest["options"] == {"maxfev": (2500 // n - 1) // 2, "xtol": 0.02, "ftol": 1e-4}


def test_a_bent_grid_takes_its_steps_from_shifted_places():
    start = (100, 60, 30, 12, 5)
    bent = _bending(start, 100)
    assert bent(np.zeros(2)) == start
    for a in ([0.5], [-0.5], [0.3, -0.4], [0.1, 0.2, 0.3, 0.4]):
        wanted = {100}
        for place in range(5):
            moved = place + sum(
                a_m * math.sin(math.pi * m * place / 4) * 4 / (math.pi * m) for m, a_m in enumerate(a, 1)
            )
            left = min(max(math.floor(moved), 0), 3)
            part = min(max(moved - left, 0.0), 1.0)
            wanted.add(round(start[left] ** (1 - part) * start[left + 1] ** part))
        assert bent(np.array(a)) == tuple(sorted(wanted, reverse=True))


def test_strides_are_halved_until_single_steps_help_no_more(monkeypatch):
    strides = []
    monkeypatch.setattr("gendiff.lab.prediction._moved", lambda steps, stride, *_: (strides.append(stride), steps)[1])
    for n in (2, 20):
        best_grid(of_data(N=50), sampler("ddim"), diagonal(of_data(N=50)), n)
    assert strides == [6, 3, 1, 1]  # a quarter of the mean distance of two steps


def test_the_best_grid_is_better_than_where_the_search_began():
    process = of_data(N=200)
    one = sampler("dpmpp-2m")
    known = ["uniform", "lambda", "arc-length", "karras"]
    starts = [
        predict(process, one.model_copy(update={"steps": 8, "grid": component(Grid, name)}), diagonal(process)).total
        for name in known
    ]
    found = best_grid(process, one, diagonal(process), 8, known)
    assert found[0] == 200
    assert len(found) <= 8
    assert predict(process, at(one, found), diagonal(process)).total < 0.8 * min(starts)


def test_a_search_for_one_step_has_nothing_to_choose():
    process = of_data()
    assert best_grid(process, sampler("ddim"), diagonal(process), 1) == [50]


# --- the command --------------------------------------------------------------------------------------------------------


ARMS = ("--arm", "identity", "--arm", "dct schedule=log", "--data", "digits")


def test_predict_prints_a_table_and_json_the_same_numbers():
    options = (*ARMS, "--sampler", "ddim", "--sampler", "reverse-diffusion", "--steps", "5,20", "--set", "N=60")
    done = run("process", "predict", *options, "--json")
    assert done.code == 0, done.err
    rows = done.json["predictions"]
    assert [(row["process"], row["sampler"], row["asked"]) for row in rows] == [
        (process, name, n)
        for process in ("identity", "dct schedule=log")
        for name, counts in (("ddim", (5, 20)), ("reverse-diffusion", (60,)))
        for n in counts
    ]
    assert {row["covariance"] for row in rows} == {"dense"}
    process = diffusion("identity", "blur", (1, 8, 8), 60)
    target = dense(component(Data, "digits"), process.rotation)
    moments = Moments.fit(component(Data, "digits"), process.rotation)
    process = Diffusion(process.rotation, process.scales, (1, 8, 8), moments)
    assert rows[0]["error"] == pytest.approx(predict(process, sampler("ddim:steps=5"), target).total)
    assert rows[0]["of_variance"] == pytest.approx(rows[0]["error"] / float(target.variance.sum()))
    shown = run("process", "predict", *options)
    assert "next: gendiff compare --arm identity --arm 'dct schedule=log' --data digits" in shown.err
    text = shown.out
    lines = [line.split() for line in text.splitlines()]
    assert lines[1][-3:] == ["5", "20", "60"]
    assert lines[2][-3:] == [f"{rows[0]['error']:.3g}", f"{rows[1]['error']:.3g}", "-"]
    assert lines[3] == ["off", "by", "0.1", f"{rows[0]['off']['error']:.3g}", f"{rows[1]['off']['error']:.3g}", "-"]
    assert lines[4][-3:] == ["-", "-", f"{rows[2]['error']:.3g}"]
    perfect = run("process", "predict", *options, "--network-error", 0)
    assert "off by" not in perfect.out
    assert [
        row["error"] for row in run("process", "predict", *options, "--network-error", 0, "--json").json["predictions"]
    ] == [row["error"] for row in rows]


def test_predict_finds_steps_that_sample_takes():
    options = (*ARMS, "--sampler", "dpmpp-2m", "--steps", "4", "--set", "N=60", "--best-grid", "--bands", 2)
    rows = run("process", "predict", *options, "--json").json["predictions"]
    for row in rows:
        assert row["best"]["off"]["error"] <= row["off"]["error"]  # what is minimised
        assert row["best"]["grid"][0] == 60
    done = run("process", "predict", *options)
    grid = ",".join(map(str, rows[0]["best"]["grid"]))
    assert f"identity, dpmpp-2m, 4: --sampler dpmpp-2m --grid 'explicit:at=[{grid}]'" in done.out
    assert "at its best steps" in done.out
    assert "off by 0.1 there" in done.out
    assert "band 1  band 2" in done.out
    same = (*ARMS[:2], *ARMS[4:], "--sampler", "dpmpp-2m", "--set", "N=60")
    again = run("process", "predict", *same, "--grid", f"explicit:at=[{grid}]", "--json")
    assert again.json["predictions"][0]["error"] == pytest.approx(rows[0]["best"]["error"])


HEAT = ("--preset", "heat-dissipation", "--data", "digits", "--set", "N=20")


def test_predict_takes_sampler_and_prior_of_the_configuration(tmp_path):
    done = run("process", "predict", *HEAT, "--steps", "4", "--json")
    assert done.code == 0, done.err
    rows = done.json["predictions"]
    assert [row["sampler"] for row in rows] == ["heat-dissipation:prior=data", "ddim:prior=data", "dpmpp-2m:prior=data"]
    assert "does not end" not in done.err
    assert "heat-dissipation:prior=data cannot skip steps: it takes all 20" in done.err
    other = ("--sampler", "dpmpp-2m:prior=standard", "--sampler", "ddim", "--steps", 4)
    done = run("process", "predict", *HEAT, *other, "--json")
    assert [row["sampler"] for row in done.json["predictions"]] == ["dpmpp-2m", "ddim:prior=data"]
    assert "the process does not end" in done.err
    assert "--preset heat-dissipation" in done.err
    done = run(
        "process", "predict", "--preset", "soft-conditioning", "--sampler", "ddim", "--set", "N=20", "--steps", 2
    )
    assert "sampler" not in done.err.replace("--sampler", "")


def test_what_cannot_run_beside_the_sampler_of_the_configuration_is_left_out(monkeypatch):
    monkeypatch.setattr(sys.modules["gendiff_cli.process.predict"], "SAMPLERS", ("reverse-diffusion", "ddim"))
    done = run("process", "predict", *HEAT, "--steps", "4", "--json")
    assert [row["sampler"].partition(":")[0] for row in done.json["predictions"]] == ["heat-dissipation", "ddim"]
    assert "reverse-diffusion is left out" in done.err


def test_the_data_of_a_run_are_those_of_all_and_two_data_stand_in_no_table(tmp_path):
    trained = create(tmp_path / "run", settings(rotation="dct"))
    options = ("--sampler", "ddim", "--steps", "3", "--set", "N=20")
    done = run("process", "predict", "--arm", trained.path, "--arm", "identity", *options)
    assert done.code == 0, done.err
    assert "between samples and digits" in done.out
    assert f"'identity' names no data: shown with those of '{trained.path}'" in done.err
    rows = run("process", "predict", "--arm", trained.path, "--arm", "identity", *options, "--json").json["predictions"]
    [alone] = run("process", "predict", "--arm", "identity", "--data", "digits", *options, "--json").json["predictions"]
    assert rows[-1]["error"] == alone["error"]
    other = run("process", "predict", "--arm", trained.path, "--arm", "identity data=gaussian-field:size=8", *options)
    assert (other.code, "different data cannot stand in one table" in other.err) == (2, True), other.err
    assert "identity data=gaussian-field:size=8: gaussian-field:size=8" in other.err
    shown = run("process", "show", "--arm", trained.path, "--arm", "identity", "--size", 9, "--set", "N=20", "--json")
    assert [each["data"] for each in shown.json["processes"]] == ["digits", "dead-leaves:size=9"]


def test_a_number_of_steps_that_is_not_kept_is_said():
    options = ("--rotation", "dct", "--data", "digits", "--set", "N=20", "--steps", "1,2")
    done = run("process", "predict", *options, "--sampler", "heun", "--sampler", "reverse-diffusion")
    assert "note: heun: 1 evaluation where 2 are asked for" in done.err
    assert "note: reverse-diffusion cannot skip steps: it takes all 20, whatever --steps says" in done.err
    assert "evaluation" not in run("process", "predict", *options, "--sampler", "ddim").err
    given = run("process", "predict", *options[:-2], "--sampler", "ddim", "--grid", "explicit:at=[20,7]", "--json")
    assert [(row["asked"], row["grid"]) for row in given.json["predictions"]] == [(2, [20, 7])]


def test_what_comes_next_keeps_what_was_said(tmp_path):
    Path(tmp_path / "a.toml").write_text('rotation = "dct"\n')
    said = ("--config", tmp_path / "a.toml", "--set", "N=20", "--data", "digits")
    own = ("--sampler", "ddim", "--steps", "2", "--best-grid", "--network-error", "0")
    kept = " ".join(map(str, said))
    assert f"next: gendiff process fit {kept}\n" in run("process", "predict", *said, *own).err
    one = run("process", "predict", *said, *own, "--objective", "eps", "--arm", "identity")
    assert f"next: gendiff process show {kept} --arm identity\n" in one.err
    two = run("process", "predict", *said, *own, "--objective", "eps", "--arm", "identity", "--arm", "haar")
    assert f"next: gendiff compare {kept} --objective eps --arm identity --arm haar\n" in two.err


def test_it_is_said_where_a_schedule_has_no_effect():
    for command in ("show", "predict"):
        options = ("--schedule", "log", "--data", "digits", "--set", "N=20")
        done = run("process", command, *options, *(("--steps", "2") if command == "predict" else ()))
        assert "schedule 'log' has no effect, this is DDPM" in done.err
        assert "no effect" not in run("process", "show", *options, "--rotation", "dct").err


def test_a_search_shows_a_sign_of_life(monkeypatch):
    from gendiff_cli import console

    said = []
    monkeypatch.setattr(console.err(), "_force_terminal", True)
    monkeypatch.setattr(console.err(), "status", lambda text: said.append(text) or nullcontext())
    options = (
        "--rotation",
        "dct",
        "--data",
        "digits",
        "--set",
        "N=20",
        "--sampler",
        "ddim",
        "--steps",
        "2",
        "--best-grid",
    )
    assert run("process", "predict", *options).code == 0
    assert said == ["measuring the data", "dct, blur, ddim: searching", "what real events differ by"]


def test_independent_components_where_events_are_large_or_asked_for():
    options = ("--rotation", "dct", "--steps", "3", "--sampler", "ddim", "--set", "N=40", "--json")
    [large] = run("process", "predict", *options, "--data", "gaussian-field:size=24").json["predictions"]
    asked = (
        "process",
        "predict",
        "--rotation",
        "dct",
        "--schedule",
        "log",
        "--data",
        "digits",
        "--steps",
        2,
        "--set",
        "N=20",
    )
    assert (
        "next: gendiff process fit --rotation dct --schedule log --data digits" in run(*asked, "--sampler", "ddim").err
    )
    [small] = run("process", "predict", *options, "--data", "digits", "--covariance", "diagonal").json["predictions"]
    assert large["covariance"] == small["covariance"] == "diagonal"
    assert sum(large["bands"]) == pytest.approx(large["error"])


@pytest.mark.parametrize("columns", [40, 120])
def test_predict_fits_a_terminal(columns, monkeypatch):
    from gendiff_cli import console
    from rich.console import Console

    terminal = Console(force_terminal=True, width=columns, highlight=False, soft_wrap=True)
    monkeypatch.setattr(console, "out", lambda: terminal)
    done = run("process", "predict", *ARMS, "--sampler", "ddim", "--steps", "2,3,5,8,13", "--set", "N=40", "--bands", 6)
    assert done.code == 0, done.err
    assert max(map(len, Text.from_ansi(done.out).plain.splitlines())) <= columns


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--steps", "5,x"), 2, "cannot read the numbers '5,x'"),
        (("--steps", "0"), 2, "different whole numbers from 1 on"),
        (("--steps", "5,5"), 2, "different whole numbers from 1 on"),
        (("--steps", ","), 2, "write --steps 5,10,20"),
        (("--steps", "5000"), 2, "5000"),
        (("--sampler", "ddmi"), 2, "did you mean 'ddim'?"),
        (("--grid", "even"), 2, "unknown grid 'even'"),
        (("--covariance", "dense", "--data", "gaussian-field:size=24"), 2, "too large for a whole covariance"),
        (("--sampler", "reverse-diffusion", "--velocity", "heat"), 2, "reverse-diffusion"),
    ],
)
def test_a_mistake_is_explained(options, code, said):
    data = () if "--data" in options else ("--data", "digits")
    done = run("process", "predict", "--rotation", "dct", *data, *options)
    assert (done.code, said in done.err) == (code, True), done.err
    assert len(done.err.splitlines()) < 12


# --- what a network gets wrong ------------------------------------------------------------------------------------------


class Wrong(ScoreModel):
    """The optimal model, whose output is off by what is given for each evaluation."""

    def __init__(self, process: Diffusion, parametrization: Parametrization, offsets: list[torch.Tensor]) -> None:
        self.process, self.parametrization, self.offsets = process, parametrization, iter(offsets)
        self.optimal = GaussianScore(process, process.moments.mean, process.moments.variance)

    def predict(self, x_bar, i):
        at_i = self.process.at(i, x_bar.dtype)
        output = encode(self.parametrization, self.optimal.predict(x_bar, i), at_i)
        return decode(self.parametrization, output + next(self.offsets), x_bar, at_i)


@pytest.mark.parametrize(
    "spec",
    [
        "ddim:steps=6",
        "ancestral:steps=5",
        "dpmpp-2m:steps=6",
        "unipc-2:steps=5",
        "heun:steps=7",
        "trig:steps=5,solver=ab2",
        "sde-dpmpp-2m:steps=6",
    ],
)
@pytest.mark.parametrize("parametrization", [Parametrization.EPS, Parametrization.WIENER, Parametrization.V])
def test_the_errors_of_a_network_come_through_as_the_recursion_says(spec, parametrization):
    """The chain is affine in every offset: one row for each, which is 1 in every component, and one without any."""
    process, one, std = of_data(m=0.3), sampler(spec), 0.2
    updates = list(one.plan(process))
    draws = 1 + sum(update.e is not None for update in updates)
    rows = 1 + draws + len(updates)
    calls = itertools.count(1)

    def noise() -> torch.Tensor:
        drawn = torch.zeros(rows, *EVENT, dtype=torch.float64)
        drawn[next(calls)] = 1
        return process.unrotate(drawn)

    offsets = torch.zeros(len(updates), rows, *EVENT, dtype=torch.float64)
    for k in range(len(updates)):
        offsets[k, 1 + draws + k] = std
    model = Wrong(process, parametrization, list(offsets))
    x_bar = process.rotate(sample(process, model, one, noise, dtype=torch.float64))
    found = law(process, one, diagonal(process), NetworkError(parametrization, std))
    torch.testing.assert_close(found.mean.reshape(EVENT), x_bar[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(found.variance, ((x_bar[1:] - x_bar[0]) ** 2).sum(0), rtol=1e-8, atol=1e-10)
    whole = Gaussian.dense(process.moments.mean, torch.diag(process.moments.variance.flatten()))
    dense_law = law(process, one, whole, NetworkError(parametrization, std))
    torch.testing.assert_close(dense_law.variance, found.variance, rtol=1e-8, atol=1e-10)


def test_a_vanishing_a_costs_the_eps_parametrization_and_not_the_wiener_one():
    process = of_data(velocity="blur:schedule='log:f_max=0.6'", N=1000)
    one = sampler("dpmpp-2m:steps=10")
    perfect = predict(process, one, diagonal(process)).total
    errors = {
        parametrization: predict(process, one, diagonal(process), error=NetworkError(parametrization, 0.05)).total
        for parametrization in (Parametrization.EPS, Parametrization.WIENER)
    }
    assert errors[Parametrization.WIENER] < 2 * perfect
    assert errors[Parametrization.EPS] > 1e3 * perfect


def test_an_error_of_x_0_that_is_clipped_is_a_smaller_one():
    process = of_data(N=50)
    clipped, small = (NetworkError(Parametrization.X_0, std, limit) for std, limit in ((1.0, 0.3), (0.3, math.inf)))
    for spec in ("ddim:steps=5", "dpmpp-2m:steps=5", "trig:steps=5"):
        one, other = (law(process, sampler(spec), diagonal(process), error) for error in (clipped, small))
        torch.testing.assert_close(one.covariance, other.covariance, rtol=1e-6, atol=1e-12)


def test_clipping_limits_what_an_error_does():
    process = of_data(velocity="blur:schedule='log:f_max=0.6'", N=1000)
    one, eps = sampler("ddim:steps=10"), Parametrization.EPS
    free = predict(process, one, diagonal(process), error=NetworkError(eps, 0.1)).total
    clipped = predict(process, one, diagonal(process), error=NetworkError(eps, 0.1, limit=1.0)).total
    assert clipped < free / 10
    small = [
        predict(process, one, diagonal(process), error=NetworkError(eps, 1e-9, limit)).total
        for limit in (1.0, math.inf)
    ]
    assert small[0] == pytest.approx(small[1])  # what is below the limit is left alone


def test_what_says_nothing_of_x_0_cannot_be_wrong_about_it():
    process = of_data(velocity="isotropic:noise='linear:beta_min=0.9,beta_max=0.99'", N=40)  # log a < -14 from early on
    one = sampler("ddim:steps=3,grid=uniform")
    free, limited = (
        predict(process, one, diagonal(process), error=NetworkError(Parametrization.EPS, 0.5, limit)).total
        for limit in (math.inf, 1.0)
    )
    assert free == limited


def test_the_command_takes_the_error_of_a_network_in_terms_of_its_objective():
    arms = ("--arm", "dct schedule=log objective=eps", "--arm", "dct schedule=log objective=wiener", "--data", "digits")
    options = (*arms, "--steps", 5, "--sampler", "dpmpp-2m:clip=false", "--json")
    eps, wiener = run("process", "predict", *options).json["predictions"]
    assert (eps["objective"], wiener["objective"]) == ("eps", "wiener")
    assert eps["error"] == wiener["error"]  # the perfect model is the same in every parametrization
    assert eps["off"]["error"] > 1e3 * wiener["off"]["error"]
    one = ("--rotation", "dct", "--objective", "eps", "--schedule", "log", "--data", "digits", "--steps", 5, "--json")
    clipped, free = (
        run("process", "predict", *one, "--sampler", f"ddim:clip={clip}").json["predictions"][0]
        for clip in ("true", "false")
    )
    assert clipped["off"]["error"] < free["off"]["error"]


@pytest.mark.parametrize("command", ["predict", "fit"])
def test_more_steps_than_the_process_has_came_from_steps(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blurred = ("--data", "digits", "--rotation", "dct", "--schedule", "log")
    done = run("process", command, *blurred, "--set", "N=20", "--steps", 21)
    assert (done.code, "21 sampling steps of a process of 20 (from --steps)" in done.err) == (2, True), done.err


@pytest.mark.parametrize(("N", "asked"), [(20, [5, 10, 20]), (3, [3])])
def test_nobody_asked_for_more_steps_than_the_process_has(N, asked):
    done = run("process", "predict", "--data", "digits", "--set", f"N={N}", "--sampler", "ddim", "--json")
    assert [row["asked"] for row in done.json["predictions"]] == asked


def test_a_step_moves_to_where_it_costs_less_and_never_on_another():
    assert _moved((20, 9, 8, 3), 1, sum, lambda: True) == (20, 9, 7, 2)
    assert _moved((20, 9, 8, 1), 1, lambda steps: -sum(steps), lambda: True) == (20, 10, 9, 2)
    assert _moved((20, 4, 3), 1, sum, lambda: True) == (20, 4, 2)
    assert _moved((20, 9, 8, 3), 1, sum, lambda: False) == (20, 9, 8, 3)


# --- what it decides ----------------------------------------------------------------------------------------------------


def test_the_sampler_that_is_used_comes_first_and_is_that_of_train_and_sample():
    options = ("--rotation", "dct", "--data", "digits", "--set", "N=60", "--steps", "5,10")
    told = run("process", "predict", *options, "--json").json
    assert list(dict.fromkeys(row["sampler"] for row in told["predictions"])) == ["trig:solver=ab2", "ddim", "dpmpp-2m"]
    config = resolve([Layer("the test", {"rotation": "dct", "N": 60})]).config
    assert told["sampler"] == config.sampler.spec
    shown = run("process", "show", *options[:-2])
    assert f"sampler        {config.sampler.spec}, from the standard prior: what train and sample use" in shown.out
    heat = run("process", "show", *HEAT)
    assert "sampler        heat-dissipation:prior=data, from the data prior" in heat.out


def test_a_sampler_that_is_exact_says_that_its_line_says_nothing():
    """With independent components trig is exact, and what is left is the prior's; with the covariance of the data it is not."""
    options = ("--rotation", "dct", "--data", "digits", "--set", "N=60", "--steps", "5,10,20")
    rows = run("process", "predict", *options, "--covariance", "diagonal", "--json").json
    exact = {row["sampler"]: row["exact"] for row in rows["predictions"]}
    assert exact == {"trig:solver=ab2": True, "ddim": False, "dpmpp-2m": False}
    assert (rows["decision"]["worth"], rows["decision"]["column"]) == (None, None)
    done = run("process", "predict", *options, "--covariance", "diagonal").out
    assert "dct, blur, trig:solver=ab2: the same whatever the number of evaluations" in done
    assert "so it decides nothing between processes" in done.splitlines()[-1]
    assert not any(row["exact"] for row in run("process", "predict", *options, "--json").json["predictions"])
    alone = run("process", "predict", *options[:-1], "5", "--covariance", "diagonal", "--json").json["predictions"]
    assert not any(row["exact"] for row in alone)  # of one number of evaluations nothing is constant


def test_what_real_events_differ_by_is_that_of_pixels():
    data = component(Data, "digits")
    rows = torch.stack([data[k] for k in range(1797)]).flatten(1)
    told = run("process", "predict", "--data", "digits", "--set", "N=20", "--steps", "2", "--json").json["real"]
    assert told == {"value": pytest.approx(Real.of(rows, 1000).distance), "n": 1000, "m": 1797}
    few = run("process", "predict", "--data", "gaussian-field:size=6", "--set", "N=20", "--steps", "2", "--json").json
    assert (few["real"]["n"], few["real"]["m"]) == (1000, 1024)


FLOOR = Floor(0.2, 1000, 1797)
NEAR, FAR = {5: 1.0, 10: 0.1, 50: 0.01}, {5: 3.0, 10: 0.2, 50: 0.02}


@pytest.mark.parametrize(
    ("errors", "asked", "floor", "exact", "decided", "said"),
    [
        ({"a": NEAR, "b": FAR}, 50, FLOOR, False, (5, 2.0, False), "decide by the column 5: there b is 2 behind a"),
        (
            {"a": NEAR, "b": FAR},
            5,
            FLOOR,
            False,
            (5, 2.0, True),
            "b is 2 behind a, beyond what real events differ by (0.2",
        ),
        (
            {"a": NEAR, "b": NEAR},
            50,
            FLOOR,
            False,
            (None, 0.0, False),
            "not worth a training for what steps and prior cost, with",
        ),
        (
            {"a": {5: 9.0}, "b": {5: 9.1}},
            5,
            FLOOR,
            False,
            (None, pytest.approx(0.1), False),
            "the difference between processes is",
        ),
        ({"a": NEAR, "b": FAR}, 50, None, False, (None, pytest.approx(0.01), None), "the data are not here"),
        ({"a": NEAR, "b": NEAR}, 50, FLOOR, True, (None, 0.0, None), "decides nothing between processes"),
        ({"a": NEAR}, 50, FLOOR, False, (None, 0.0, None), "the error of a is below what real events differ by"),
        ({"a": NEAR}, 5, FLOOR, False, (5, 0.0, None), "the error of a is above what real events differ by"),
    ],
)
def test_a_decision_follows_from_what_real_events_differ_by(errors, asked, floor, exact, decided, said):
    choice = decide(errors, asked, floor, "ddim", "digits", exact)
    assert (choice.column, choice.gap, choice.worth) == decided
    assert choice.text.startswith(f"for digits, with ddim at {asked} evaluations: ")
    assert said in choice.text


@pytest.mark.parametrize("command", ["predict", "show"])
def test_a_process_is_held_against_standard_diffusion_of_its_noise(command):
    options = (
        "--rotation",
        "dct",
        "--schedule",
        "log:f_max=0.6",
        "--data",
        "digits",
        "--objective",
        "eps",
        "--set",
        "N=300",
    )
    steps = ("--set", "sampler.steps=5") if command == "show" else ("--steps", "5")
    options = options if command == "predict" else (*options[:-4], "--set", "objective=eps", *options[-2:])
    told = run("process", command, *options, *steps, "--json").json
    choice = told["decision"]
    assert (choice["asked"], choice["column"], choice["worth"]) == (5, 5, True)
    assert "behind standard diffusion" in choice["text"]
    both = ("--arm", "identity", "--arm", "dct schedule=log:f_max=0.6", *options[4:])
    twice = run("process", "predict", *both, "--steps", "5", "--json").json["decision"]
    assert twice["gap"] == pytest.approx(choice["gap"], rel=1e-6)
    assert "with objective eps, where a vanishes, the prediction is too good" in choice["text"]
    assert run("process", command, *options, *steps).out.splitlines()[-1] == choice["text"]


def test_where_samplers_differ_processes_are_held_against_each_other_by_one_that_all_have():
    arms = ("--arm", "identity", "--arm", "preset=heat-dissipation data=digits", "--data", "digits", "--set", "N=20")
    told = run("process", "predict", *arms, "--set", "N=20", "--steps", "4", "--json")
    assert told.code == 0, told.err
    assert "with ddim" in told.json["decision"]["text"] or "with dpmpp-2m" in told.json["decision"]["text"]
    alone = run("process", "predict", *HEAT, "--steps", "4", "--json").json["decision"]
    assert "standard diffusion" in alone["text"]
