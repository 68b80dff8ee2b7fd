"""Parameters for which the predicted error is smallest, against scans of the same parameters."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import run
from processes import component
from pydantic import Field

from gendiff import BlurSchedule, Rotation, Sampler, Velocity
from gendiff.component import component_class as installed
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError
from gendiff.lab.diagnosis import GONE
from gendiff.lab.fitting import (
    Parameter,
    _cost,
    _data_snr,
    _search,
    chosen,
    fit,
    kept,
    never_rises,
    parameters,
    with_values,
)
from gendiff.lab.forward import DECIBEL
from gendiff.lab.prediction import dense, diagonal, predict, thinned
from gendiff.moments import Moments
from gendiff.names import resolving_with
from gendiff.plugin.registry import default_registry
from gendiff.run.config import Config
from gendiff.run.layers import Layer, resolve
from gendiff.scales import VariancePreserving


def config(velocity: object = "blur:schedule=log", rotation: str = "dct", N: int = 60) -> Config:
    table = {"N": N, "rotation": rotation, "velocity": velocity, "data": "gaussian-field:size=[6,9]"}
    return resolve([Layer("the test", table)]).config.fitted()


def sampler(spec: str) -> Sampler:
    return component(Sampler, spec)


def error(of: Config, by: Sampler) -> float:
    process = of.diffusion()
    return predict(process, by, diagonal(process)).total


# --- which parameters ---------------------------------------------------------------------------------------------------


def test_the_numbers_of_a_velocity_are_those_of_what_it_owns_too():
    found = {parameter.path: parameter for parameter in parameters(component(Velocity, "blur:schedule=log"))}
    noise, schedule = (
        ("velocity.noise.beta_min", "velocity.noise.beta_max"),
        ("velocity.schedule.f_max", "velocity.schedule.f_min"),
    )
    assert found.keys() == {*noise, *schedule, "velocity.sigma"}
    assert found["velocity.sigma"] == Parameter("velocity.sigma", 0.4, 0.01, 100.0)
    assert found["velocity.noise.beta_max"] == Parameter("velocity.noise.beta_max", 0.02, 0.0, 1.0)
    deep = parameters(component(Velocity, "reversed:velocity='blur:sigma=0.6'"))
    assert [parameter.value for parameter in deep if parameter.path == "velocity.velocity.sigma"] == [0.6]


class Wave(BlurSchedule):
    """f(i) = f_max share sin²(π turns i / 2N), of somebody who declares a range of the one number and not of the other."""

    name = "wave"
    f_max: float = 0.14
    turns: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, ge=0, le=1)

    def f(self, i, N):
        return self.f_max * self.share * torch.sin(torch.pi * self.turns * i / (2 * N)) ** 2


@pytest.fixture
def wave():
    """The velocity of a schedule that is nobody's built-in."""
    known = default_registry().component_class
    with resolving_with(lambda kind, name: Wave if name == "wave" else known(kind, name)):
        yield component(Velocity, {"name": "blur", "schedule": "wave"})


def test_of_a_third_party_only_what_declares_a_range_is_fitted_unless_one_is_given(wave):
    paths = [parameter.path for parameter in chosen(wave, {})]
    assert "velocity.schedule.share" in paths
    assert "velocity.schedule.f_max" not in paths
    assert "velocity.schedule.turns" not in paths  # whole numbers have no slope to follow
    assert chosen(wave, {"f_max": (0.0, 2.0)}) == [Parameter("velocity.schedule.f_max", 0.14, 0.0, 2.0)]


def test_what_is_not_fitted_is_said_with_the_reason(wave):
    left = kept(wave, chosen(wave, {}), {})
    assert left == {
        "velocity.schedule.f_max": 'it declares no range: ranges={"f_max": (LOW, HIGH)}',
        "velocity.schedule.turns": "it is a whole number",
    }
    ranges = {"f_max": (0.0, 2.0)}
    left = kept(wave, chosen(wave, ranges), ranges)
    assert left["velocity.schedule.share"] == "f_max alone is asked for"
    assert "velocity.schedule.f_max" not in left
    assert Parameter("a", 1.0, 0.0).missing == "no upper end"
    assert Parameter("a", 1.0, high=3.0).missing == "no lower end"
    assert Parameter("a", 1.0, 0.0, 3.0).missing == ""


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"f_mx": None}, "did you mean 'f_max'?"),
        ({"turns": None}, "no number of this velocity"),
        ({"f_max": None}, "declares no range with two ends"),
        ({"f_max": (0.5, 2.0)}, "is outside 0.5..2"),
        ({"f_max": (2.0, 0.0)}, "declares no range with two ends"),
        ({"sigma": None, "velocity.sigma": None, "beta": None}, "did you mean"),
    ],
)
def test_what_cannot_be_fitted_is_refused(wave, wanted, said):
    with pytest.raises(ConfigError) as raised:
        chosen(wave, wanted)
    assert said in str(raised.value)


def test_a_name_of_several_numbers_is_refused():
    both = component(Velocity, "reversed:velocity='reversed:velocity=blur'")
    assert len(chosen(both, {"sigma": None})) == 1
    doubled = component(Velocity, "blur:noise=sigmoid")
    with pytest.raises(ConfigError, match="no number"):
        chosen(doubled, {"beta_max": None})


def test_a_unit_is_the_distance_from_the_lower_end_or_a_thousandth_of_the_range():
    assert [Parameter("p", value, -5.0, 15.0).unit for value in (-5.0, -4.0, 15.0)] == [0.02, 1.0, 20.0]


@pytest.mark.parametrize(
    ("value", "low", "high"), [(0.14, 0.0, 1e4), (0.0, 0.0, 3.0), (-2.0, -5.0, 5.0), (1e-4, 0.0, 1.0)]
)
def test_coordinates_reach_the_whole_range(value, low, high):
    parameter = Parameter("p", value, low, high)
    assert parameter.at(parameter.coordinate(value)) == pytest.approx(value)
    assert parameter.at(0.0) == low
    assert parameter.at(parameter.coordinate(high) + 1) == high
    assert parameter.coordinate(high) < 20  # so that a search gets there


@pytest.mark.parametrize(
    ("error", "alive", "cost"),
    [
        (2.5, -3.0, math.log(2.5)),
        (2.5, 3.0, math.log(2.5) + 3),
        (0.0, 0.0, -300 * math.log(10)),
        (math.inf, 0.0, 300 * math.log(10)),
        (math.inf, 400.0, 1e3),
        (math.nan, 0.0, 1e3),
    ],
)
def test_a_cost_is_a_finite_logarithm_and_what_is_alive(error, alive, cost):
    assert _cost(error, alive) == pytest.approx(cost, rel=1e-12)


@pytest.mark.parametrize(
    ("count", "evaluations", "share", "turns"),
    [(2, 400, 12, 11), (1, 40, 5, 5), (3, 400, 8, 11), (2, 16, 1, 1), (30, 8, 1, 1)],
)
def test_three_quarters_of_the_evaluations_look_all_over_and_a_quarter_nearby(
    count, evaluations, share, turns, monkeypatch
):
    asked = []
    place = lambda name, x: lambda cost, *_, **given: (asked.append((name, given)), SimpleNamespace(x=x))[1]  # noqa: E731
    monkeypatch.setattr(
        "gendiff.lab.fitting.minimize", lambda cost, x, **given: place("near", x)(cost, **given | {"x": x})
    )
    monkeypatch.setattr(
        "gendiff.lab.fitting.differential_evolution",
        lambda cost, bounds, **given: place("all over", [0.25])(cost, **given | {"bounds": bounds}),
    )
    free = [Parameter("p", 3.0, 1.0, 9.0)] * count
    _search(lambda y: 0.0, free, evaluations)
    (_, wide), (_, near) = asked
    assert (wide["popsize"], wide["maxiter"], wide["polish"]) == (share, turns, False)
    assert (wide["mutation"], wide["recombination"]) == ((0.3, 0.9), 0.8)
    assert wide["x0"] == pytest.approx([math.log(1 + math.sqrt(2))] * count)  # asinh 1: the value is where it bends
    assert wide["bounds"] == near["bounds"] == [(0.0, pytest.approx(math.log(4 + math.sqrt(17))))] * count
    assert (near["method"], near["x"]) == ("Powell", [0.25])
    assert near["options"] == {"maxfev": evaluations // 4, "xtol": 1e-2, "ftol": 1e-3}


def test_few_components_stand_for_all_only_where_the_steps_stay_the_same(monkeypatch):
    start = config("isotropic:noise='linear:beta_max=0.3'")
    monkeypatch.setattr("gendiff.lab.fitting._search", lambda *_: None)
    for spec in ("ddim:steps=6,grid=arc-length", "ddim:steps=6,grid=lambda", "ddim:steps=6,grid=uniform"):
        asked = []
        monkeypatch.setattr(
            "gendiff.lab.fitting.thinned", lambda process, asked=asked: asked.append(1) or thinned(process)
        )
        for same in (True, False):
            asked.clear()
            monkeypatch.setattr("gendiff.lab.fitting._same_steps", lambda *_, same=same: same)
            fit(start, sampler(spec), None, chosen(start.velocity, {}))
            assert bool(asked) == same


def test_what_is_computed_is_counted_from_the_start_on(monkeypatch):
    start = config("isotropic:noise='linear:beta_max=0.3'")
    free = chosen(start.velocity, {})
    at = np.array([parameter.coordinate(parameter.value) for parameter in free])
    monkeypatch.setattr("gendiff.lab.fitting._search", lambda cost, *_: [cost(at) for _ in range(4)])
    found = fit(start, sampler("dpmpp-2m:steps=4"), None, free)
    assert (found.evaluations, found.after) == (5, pytest.approx(found.before))


# --- the fit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["ddim:steps=6,grid=lambda", "dpmpp-2m:steps=6"])
def test_one_parameter_is_found_as_by_a_scan(spec):
    start, by = config("blur:schedule=log,noise='linear:beta_max=0.25'"), sampler(spec)
    target = diagonal(start.diffusion())
    found = fit(start, by, target, chosen(start.velocity, {"f_max": (0.0, 3.0)}), 40)
    scan = []
    for value in torch.linspace(0, 3, 31).tolist():
        scan.append(error(with_values(start, {"velocity.schedule.f_max": value}, start.diffusion().moments), by))
    assert found.before == pytest.approx(error(start, by))
    assert found.after == pytest.approx(error(found.config, by))
    assert found.after <= min(scan) * 1.01
    assert found.config.velocity.schedule.f_max == found.values["velocity.schedule.f_max"]
    assert found.config.sampler == by


@pytest.mark.slow
def test_it_matters_little_where_the_search_starts():
    by, found = sampler("dpmpp-2m:steps=5"), []
    for noise in ("linear:beta_max=0.15", "linear:beta_min=0.01,beta_max=0.9"):
        start = config(f"isotropic:noise='{noise}'")
        found.append(fit(start, by, None, chosen(start.velocity, {})))
    assert found[0].after == pytest.approx(found[1].after, rel=0.1)
    assert max(one.after for one in found) < min(one.before for one in found)


def test_the_answer_is_the_same_every_time():
    start, by = config(), sampler("dpmpp-2m:steps=4")
    one, other = (fit(start, by, None, chosen(start.velocity, {}), evaluations=40) for _ in range(2))
    assert (one.values, one.evaluations) == (other.values, other.evaluations)
    assert one.evaluations <= 60  # of SciPy's methods, each goes on for a little


def test_few_components_lead_to_the_same_place_as_all():
    start, by = config("blur:schedule=linear"), sampler("ddim:steps=6")
    free = chosen(start.velocity, {"beta_max": (0.01, 0.5)})
    all_ = fit(start, by, diagonal(start.diffusion()), free, evaluations=30)
    few = fit(start, by, None, free, evaluations=30)
    assert error(few.config, by) == pytest.approx(all_.after, rel=0.02)


def test_a_process_must_end_even_where_its_prior_is_matched():
    """From the matched prior a process that does nothing would be best of all."""
    start, by = config("isotropic:noise='linear:beta_max=0.3'"), sampler("ddim:steps=5,prior=matched")
    found = fit(start, by, None, chosen(start.velocity, {"beta_max": None, "beta_min": None}), 60)
    process = found.config.diffusion()
    alive = process.at(60).half_log_snr * DECIBEL + process.moments.variance.log() * DECIBEL / 2
    assert found.after < found.before
    assert float(alive.max()) <= GONE + 0.1
    assert never_rises(process)


def test_a_process_that_does_not_end_is_brought_to_an_end():
    start, by = config("isotropic:noise='linear:beta_max=0.01'"), sampler("ddim:steps=5")
    process = fit(start, by, None, chosen(start.velocity, {"beta_max": None}), 40).config.diffusion()
    alive = process.at(60).half_log_snr * DECIBEL + process.moments.variance.log() * DECIBEL / 2
    assert float(alive.max()) <= GONE + 0.1


def test_a_whole_covariance_is_fitted_to_as_well():
    start = resolve([Layer("the test", {"N": 20, "rotation": "haar", "data": "digits"})]).config.fitted()
    by = sampler("ddim:steps=4")
    found = fit(start, by, dense(start.data, start.rotation), chosen(start.velocity, {"beta_max": (0.01, 0.5)}), 20)
    assert found.after < found.before


class Kinked(VariancePreserving):
    """λ rises at one step that nobody looks at."""

    N = 100
    device = torch.device("cpu")

    def log_alpha_bar(self, i):
        return torch.where(i == 33, -0.001, -0.05 * i.double()).reshape(-1, 1, 1, 1)

    def to(self, device):
        return self


def test_every_step_is_looked_at_in_the_end():
    rotation = config().rotation
    assert never_rises(config().diffusion())
    assert not never_rises(Diffusion(rotation, Kinked(), (1, 4, 6)))


def test_from_the_standard_prior_a_process_that_cannot_end_is_refused():
    heat, by = config("heat:sigma_max=6"), sampler("ddim:steps=4")
    with pytest.raises(ConfigError, match="no process was found that ends") as refused:
        fit(heat, by, None, chosen(heat.velocity, {"sigma_max": (1.0, 9.0)}), 20)
    assert "--prior matched" in refused.value.fix


@pytest.mark.slow
def test_from_its_own_end_such_a_process_is_fitted_past_what_its_components_refuse():
    """Heat keeps its mean whatever its width, and refuses a sigma_min above sigma_max, which is most of the range."""
    start, by = config("heat:sigma_max=6"), sampler("dpmpp-2m:steps=6,prior=matched")
    found = fit(start, by, None, chosen(start.velocity, {}))
    assert found.after < 0.7 * found.before
    ends = (start.diffusion(), found.config.diffusion())
    before, after = (
        process.at(60).half_log_snr * DECIBEL + process.moments.variance.log() * DECIBEL / 2 for process in ends
    )
    assert float((after - before.clamp_min(GONE)).max()) < 0.5


# --- the command --------------------------------------------------------------------------------------------------------


def test_fit_writes_a_configuration_that_train_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--rotation", "dct", "--schedule", "linear", "--data", "digits", "--set", "N=60", "--steps", 4)
    done = run("process", "fit", *options, "--vary", "f_max=0:2", "--vary", "noise.beta_max=0.01:0.6", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["error_after"] < found["error_before"]
    assert found["covariance"] == "dense"
    written = tomllib.loads((tmp_path / "fitted.toml").read_text())
    assert written.keys() == {"N", "rotation", "velocity", "objective", "data", "sampler"}
    assert written["velocity"]["schedule"]["f_max"] == pytest.approx(found["values"]["velocity.schedule.f_max"])
    assert (written["sampler"]["name"], written["sampler"]["steps"]) == ("dpmpp-2m", 4)
    described = run("train", "--config", "fitted.toml", "--dry-run", "--json")
    assert described.code == 0, described.err
    assert described.json["N"] == 60
    again = run("process", "predict", "--config", "fitted.toml", "--sampler", "dpmpp-2m", "--steps", 4, "--json")
    assert again.json["predictions"][0]["off"]["error"] == pytest.approx(found["error_after"])
    assert found["network_error"] == again.json["predictions"][0]["off"]["network_error"] == 0.1


@pytest.mark.slow
def test_single_pixels_are_fitted_to_what_predict_says_of_them(tmp_path, monkeypatch):
    """More components than a whole covariance is kept of, and frequencies that pixels have none of."""
    monkeypatch.chdir(tmp_path)
    options = ("--process", "ddpm", "--data", "dead-leaves", "--size", 10, "--sampler", "dpmpp-2m", "--steps", 5)
    done = run("process", "fit", *options, "--vary", "noise.beta_max=0.01:0.1", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert found["covariance"] == "diagonal"
    same = ("--data", "dead-leaves", "--size", 10, "--sampler", "dpmpp-2m", "--steps", 5, "--json")
    for options, expected in ((("--process", "ddpm"), "error_before"), (("--config", "fitted.toml"), "error_after")):
        (row,) = run("process", "predict", *options, *same).json["predictions"]
        assert row["off"]["error"] == pytest.approx(found[expected], rel=1e-6)


def test_fit_says_what_it_changed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = (
        "--rotation",
        "dct",
        "--data",
        "gaussian-field:size=[6,9]",
        "--set",
        "N=40",
        "--noise",
        "linear:beta_max=0.5",
        "--steps",
        4,
        "--sampler",
        "ddim",
    )
    done = run("process", "fit", *options, "--vary", "sigma=0.1:2", "--covariance", "diagonal", "--out", "mine.toml")
    assert done.code == 0, done.err
    assert done.out.splitlines()[1].split()[:2] == ["velocity.sigma", "0.4"]
    assert done.out.splitlines()[1].endswith("0.1 to 2")
    assert "not varied: velocity.noise.beta_max, for sigma alone is asked for" in done.out
    assert "predicted error" in done.out
    assert "next: gendiff train --config mine.toml" in done.err


SOON = ("--rotation", "dct", "--data", "digits", "--set", "N=20", "--noise", "linear:beta_max=0.9")


def test_fit_says_what_a_schedule_of_ones_own_leaves_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import torch\nfrom pydantic import Field\nfrom gendiff import BlurSchedule, hookimpl\n"
        'class Sine(BlurSchedule):\n    """sine."""\n    name = \'sine\'\n    f_max: float = Field(0.14, ge=0)\n'
        "    def f(self, i, N):\n        return self.f_max * torch.sin(torch.pi * i / (2 * N)) ** 2\n"
        "@hookimpl\ndef gendiff_components():\n    return [Sine]\n"
    )
    monkeypatch.setattr("gendiff.lab.fitting._search", lambda cost, *_: [cost([0.1] * 3)])
    done = run("--plugin", "mine.py", "process", "fit", *SOON, "--schedule", "sine", "--steps", 2)
    assert done.code == 0, done.err
    left = "not varied: velocity.schedule.f_max, for it declares no upper end: --vary f_max=LOW:HIGH"
    assert left in done.out.splitlines()
    assert "--vary is given again for each that is to vary" in done.out
    assert "velocity.noise.beta_max" in done.out.splitlines()[2]


@pytest.mark.slow
def test_fit_takes_the_sampler_of_the_configuration_and_one_without_steps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("given.toml").write_text("[sampler]\nname = 'ddim'\nsteps = 3\nprior = 'matched'\n")
    vary = ("--vary", "sigma=0.3:0.5", "--json")
    assert run("process", "fit", *SOON, *vary).json["sampler"] == "dpmpp-2m:steps=10"
    for options, expected in (
        (("--config", "given.toml"), "ddim:prior=matched,steps=3"),
        (("--config", "given.toml", "--steps", 4), "ddim:prior=matched,steps=4"),
        (("--config", "given.toml", "--sampler", "dpmpp-2m:steps=2"), "dpmpp-2m:prior=matched,steps=2"),
        (("--sampler", "dpmpp-2m", "--grid", "explicit:at=[20,9]"), 'dpmpp-2m:grid="explicit:at=[20, 9]"'),
        (("--sampler", "reverse-diffusion"), "reverse-diffusion"),
    ):
        done = run("process", "fit", *SOON, *options, *vary)
        assert done.code == 0, done.err
        assert done.json["sampler"] == expected


def test_fit_replaces_its_own_file_and_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = (*SOON, "--steps", 2, "--vary", "sigma=0.3:0.5", "--out", "mine.toml")
    for _ in range(2):
        assert run("process", "fit", *options).code == 0
    Path("mine.toml").write_text("N = 7\n")
    done = run("process", "fit", *options)
    assert (done.code, "no file of an earlier fit" in done.err) == (2, True), done.err
    assert Path("mine.toml").read_text() == "N = 7\n"


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--vary", "f_mx"), 2, "did you mean 'f_max'?"),
        (("--vary", "f_max=low:high"), 2, "cannot read 'f_max=low:high'"),
        (("--vary", "f_max=3"), 2, "cannot read 'f_max=3'"),
        (("--vary", "f_max=3:1"), 2, "LOW must be below HIGH"),
        (("--vary", "f_max=0:1"), 2, "no process was found that ends"),
        (("--vary", "f_max=0:1", "--sampler", "reverse-diffusion", "--steps", 3), 2, "has no parameter 'steps'"),
        (("--vary", "f_max=0:1", "--out", "no/such/folder/x.toml"), 2, "cannot write 'no/such/folder/x.toml'"),
        (("--vary", "f_max=0:1", "--sampler", "ddmi"), 2, "did you mean 'ddim'?"),
        (("--vary", "f_max=0:1", "--steps", "70"), 2, "70 sampling steps of a process of 40"),
        (("--schedule", "none", "--noise", "cosine", "--vary", "f_max"), 2, "no number of this velocity"),
    ],
)
def test_a_mistake_is_explained(options, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ("--rotation", "dct", "--data", "digits", "--set", "N=40")
    done = run("process", "fit", *data, *(() if "--steps" in options else ("--steps", 3)), *options)
    assert (done.code, said in done.err) == (code, True), done.err
    assert len(done.err.splitlines()) < 12


def test_the_resolver_of_a_test_is_not_that_of_the_next():
    assert installed("schedule", "log").name == "log"


def test_the_snr_of_the_data_at_the_end():
    c = torch.linspace(0.5, 3, 30, dtype=torch.float64).reshape(2, 3, 5)
    U, velocity = component(Rotation, "dct"), component(Velocity, "blur")
    process = Diffusion.of(U, velocity, (2, 3, 5), 20, Moments(0 * c, c))
    a, s = (getattr(process.at(20, torch.float64), name) for name in ("a", "s"))
    torch.testing.assert_close(
        _data_snr(process).expand_as(c[None]), (10 * (a**2 * c / s**2).log10()).expand_as(c[None])
    )
