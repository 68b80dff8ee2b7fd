"""Grids: where the steps of a sampler are, in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from gendiff_plugins.grids.spaced import arc_length
from processes import component, diffusion

from gendiff import Data, Diffusion, Rotation, Sampler
from gendiff.comparison.look import targets
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.gaussian import GaussianScore
from gendiff.grid import Grid, along, nearest
from gendiff.moments import Moments
from gendiff.plugin.registry import default_registry
from gendiff.run.layers import Layer, resolve
from gendiff.sampler import invert, sample
from gendiff.scales import VariancePreserving
from gendiff.testing import SmoothNoise
from gendiff.testing.probes import SteadyScales

EVENT = (2, 3, 5)
SPACED = [name for name in default_registry().names("grid") if name != "explicit"]


def steady(N: int = 101, moments: Moments | None = None) -> Diffusion:
    """λ falls by 0.1 a step from 5 in the component that lives longest, by 0.2 from 4 in the others."""
    first, last = torch.full((1, 1, 5), 4.0, dtype=torch.float64), torch.full((1, 1, 5), -16.0, dtype=torch.float64)
    first[..., 0], last[..., 0] = 5.0, -5.0
    return Diffusion(diffusion("identity", "blur", EVENT).rotation, SteadyScales(N, first, last), EVENT, moments)


@pytest.mark.parametrize("name", SPACED)
@pytest.mark.parametrize("n", [1, 3, 10, 49, 50, None])
def test_every_grid_falls_from_n_to_0(name, n):
    steps = component(Grid, name).steps(diffusion("dct", "blur", EVENT, N=50), n)
    assert (steps[0], steps[-1]) == (50, 0)
    assert all(i > j for i, j in pairwise(steps))
    assert len(steps) == (n or 50) + 1


def test_uniform_is_equally_spaced():
    assert component(Grid, "uniform").steps(diffusion("dct", "blur", EVENT, N=50), 4) == [50, 38, 25, 12, 0]


def slowest() -> Moments:
    """Data that live in the component that lives longest."""
    c = torch.full(EVENT, 1e-9, dtype=torch.float64)
    c[..., 0] = 1.0
    return Moments(0 * c, c, 1)


def test_lambda_is_equally_spaced_in_the_log_snr_of_what_counts():
    """In the mean of all, one fifth falls from 5 by 0.1 and four fifths from 4 by 0.2 as far as -5: from 4.2 to -5."""
    assert component(Grid, "lambda").steps(steady(), 5) == [101, 39, 27, 14, 1, 0]
    assert component(Grid, "lambda").steps(steady(moments=slowest()), 5) == [101, 76, 51, 26, 1, 0]


@pytest.mark.parametrize("velocity", ["spectrum-matched", "soft-conditioning:soft=0.05"])
@pytest.mark.parametrize("name", ["lambda", "karras"])
def test_no_steps_are_spent_where_nothing_is_decided(name, velocity):
    """λ falls without end at the last step of the one, and stands still at first in the other."""
    rotation = "hartley" if velocity == "spectrum-matched" else "dct"
    steps = component(Grid, name).steps(diffusion(rotation, velocity, EVENT, N=200), 20)
    assert len(steps) > 12


def test_karras_is_equally_spaced_in_a_root_of_the_noise():
    steps, rho = component(Grid, "karras:rho=3").steps(steady(moments=slowest()), 6), 3.0
    roots = [math.exp(-(5 - 0.1 * (i - 1)) / rho) for i in steps[:-1]]
    wanted = [roots[0] + (roots[-1] - roots[0]) * k / 5 for k in range(6)]
    for root, want in zip(roots, wanted, strict=True):
        assert abs(root - want) <= root * 0.1 / rho  # half a step, and a bit


def test_arc_length_counts_components_by_their_variance():
    """One component far larger than all others: equal steps in its own angle."""
    c = torch.full(EVENT, 1e-9, dtype=torch.float64)
    c[1, 1, 2] = 4.0
    process = steady(1001, Moments(0 * c, c, 1))
    steps = component(Grid, "arc-length").steps(process, 4)
    theta = [float(process.at(i, torch.float64).theta[1, 1, 2]) for i in steps]
    turns = [before - after for before, after in pairwise(theta)]
    assert turns == pytest.approx([theta[0] / 4] * 4, rel=0.03)
    other = component(Grid, "arc-length").steps(steady(1001), 4)
    assert other != steps  # without moments all components count alike


def test_the_way_begins_at_the_data():
    """ℓ(i) = Σ_{j<=i} sqrt(Σ_k c_k (θ_j - θ_{j-1})²), its first stretch from step 0; with NumPy."""
    c = torch.linspace(0.2, 3, 30, dtype=torch.float64).reshape(EVENT)
    process = steady(40, Moments(0 * c, c, 1))
    at = process.at(torch.arange(41), torch.float64)
    a, s = (np.broadcast_to(values.numpy(), (41, *EVENT)) for values in (at.a, at.s))
    theta = np.arctan2(s, a * np.sqrt(c.numpy()))
    way = np.sqrt((c.numpy() * np.diff(theta, axis=0) ** 2).reshape(40, -1).sum(1)).cumsum()
    assert way[0] > 0
    np.testing.assert_allclose(arc_length(process).numpy(), way, rtol=1e-9)


@pytest.mark.parametrize("rotation", ["identity", "haar"])
def test_arc_length_of_one_speed_is_that_of_the_dct_in_any_basis(rotation):
    """Single pixels all vary alike, and do not tell that their mean is decided long before them."""
    event, data = (1, 16, 16), component(Data, "gaussian-field:size=16,power=3")
    moments = {name: Moments.fit(data, component(Rotation, name)) for name in (rotation, "dct")}
    plain = diffusion(rotation, "isotropic", event, N=400)
    process = Diffusion(plain.rotation, plain.scales, event, moments[rotation])
    wanted = Diffusion(component(Rotation, "dct"), plain.scales, event, moments["dct"])
    grid = component(Grid, "arc-length")
    assert grid.steps(process, 12) == grid.steps(wanted, 12)
    blind = Diffusion(plain.rotation, plain.scales, event, replace(moments[rotation], modes=None))
    assert grid.steps(process, 12)[1] > grid.steps(blind, 12)[1]  # the first step is shorter


def test_modes_are_of_no_use_to_a_process_of_several_speeds():
    data, U = SmoothNoise(shape=EVENT), component(Rotation, "identity")
    moments = Moments.fit(data, U)
    grid = component(Grid, "arc-length")
    assert grid.steps(steady(moments=moments), 9) == grid.steps(steady(moments=replace(moments, modes=None)), 9)


def test_a_process_that_decides_nothing_after_its_first_step_has_no_lambda_grid():
    assert (
        len(component(Grid, "lambda").steps(diffusion("dct", "heat:sigma_max=5", EVENT), 5)) > 3
    )  # the mean stays for ever
    first = torch.full((1, 1, 5), -6.0, dtype=torch.float64)
    process = Diffusion(diffusion("identity", "blur", EVENT).rotation, SteadyScales(50, first, first - 3), EVENT)
    for name in ("lambda", "karras"):
        with pytest.raises(ConfigError, match="cannot be laid out by log-SNR"):
            component(Grid, name).steps(process, 5)
    assert component(Grid, "arc-length").steps(process, 5)[0] == 50


@pytest.mark.parametrize("steps", [0, 51, -1])
def test_impossible_numbers_of_steps(steps):
    with pytest.raises(ConfigError, match="choose between 1 and N = 50"):
        component(Grid, "uniform").steps(diffusion("dct", "blur", EVENT, N=50), steps)


class TestExplicit:
    def test_a_sampler_goes_where_it_is_told(self):
        process = diffusion("dct", "blur", EVENT, N=50)
        sampler = component(Sampler, "ddim:grid='explicit:at=[50, 20, 3]'")
        assert [(update.i, update.j) for update in sampler.plan(process)] == [(50, 20), (20, 3), (3, 0)]
        assert component(Sampler, sampler.spec) == sampler

    def test_the_order_does_not_matter(self):
        process = diffusion("dct", "blur", EVENT, N=50)
        assert component(Grid, "explicit:at=[3, 50, 20, 3]").steps(process, None) == [50, 20, 3, 0]

    @pytest.mark.parametrize("at", ["[]", "[50, 0]", "[50, -1]"])
    def test_steps_that_do_not_exist_are_refused(self, at):
        with pytest.raises(ConfigError, match="grid 'explicit': at = "):
            component(Grid, f"explicit:at={at}")

    def test_it_must_fit_the_process(self):
        process, grid = diffusion("dct", "blur", EVENT, N=50), component(Grid, "explicit:at=[50, 20, 3]")
        assert grid.steps(process, None) == grid.steps(process, 3) == [50, 20, 3, 0]
        with pytest.raises(ConfigError, match="2 sampling steps, and a grid of 3"):
            grid.steps(process, 2)
        with pytest.raises(ConfigError, match="begins at step 40, the process ends at N = 50"):
            component(Grid, "explicit:at=[40, 3]").steps(process, None)
        with pytest.raises(ArgumentError, match="diffusion"):
            grid.steps(50, None)

    @pytest.mark.parametrize("path", ["sampler", "train.preview"])
    def test_it_replaces_a_number_of_steps_that_nobody_gave_beside_it(self, path):
        file = Layer.at("a.toml", path, "ddim:steps=7")
        grid, steps = Layer.at("--grid", f"{path}.grid", "explicit:at=[1000,3]"), f"{path}.steps"

        def sampler(*layers: Layer) -> Sampler:
            config = resolve(layers).config
            return config.sampler if path == "sampler" else config.train.preview

        for layers in ([grid], [file, grid], [file, Layer.at("--sampler", path, "ddim:grid='explicit:at=[1000,3]'")]):
            assert (sampler(*layers).steps, sampler(*layers).grid.name) == (None, "explicit")
        assert sampler(file, Layer.at("--grid", f"{path}.grid", "lambda")).steps == 7
        for layers in (
            [file, Layer.at("--steps", steps, 5), grid],
            [file, grid, Layer.at("--steps", steps, 5)],
            [file, Layer.at("--sampler", path, "ddim:steps=5,grid='explicit:at=[1000,3]'")],
        ):
            assert sampler(*layers).steps == 5  # which the grid refuses


class Given(Grid):
    """what it is given."""

    name = "given"
    numbers: tuple[float, ...]

    def positions(self, diffusion, n):
        return torch.tensor(self.numbers)


@pytest.mark.parametrize(
    ("numbers", "steps"),
    [
        ((49.7, 20.4, 12.5, 0.6), [50, 20, 12, 1, 0]),
        ((49.7, 20.4, 20.2, 20.1, 0.6), [50, 21, 20, 19, 1, 0]),  # they make room on both sides
        ((50, 50, 49.8, 30), [50, 49, 48, 30, 0]),  # but not beyond N
        ((50, 1.2, 1, 1), [50, 3, 2, 1, 0]),  # nor below 1
        ((50, 21.0, 20.0, 20.0), [50, 21, 20, 19, 0]),
    ],
)
def test_positions_are_rounded_and_those_that_fall_together_make_room(numbers, steps):
    assert Given(numbers=numbers).steps(diffusion("dct", "blur", EVENT, N=50), len(numbers)) == steps


@pytest.mark.parametrize("velocity", ["blur", "isotropic", "blur:schedule=log", "cold", "spectrum-matched", "blurring"])
@pytest.mark.parametrize("name", SPACED)
def test_every_number_of_evaluations_up_to_n_is_made(name, velocity):
    process = diffusion("hartley" if velocity == "spectrum-matched" else "dct", velocity, EVENT, N=40)
    for n in range(1, 41):
        steps = component(Grid, name).steps(process, n)
        assert len(set(steps)) == len(steps) == n + 1
        assert (steps[0], steps[-1]) == (40, 0)
        assert steps == sorted(steps, reverse=True)


def test_a_number_of_evaluations_is_whole():
    with pytest.raises(ArgumentError, match=r"2\.5 evaluations"):
        component(Grid, "uniform").steps(steady(), 2.5)


@pytest.mark.parametrize(
    "numbers", [(50, 20), (40, 30, 20), (50, 20, 30), (50, 20, 20.4), (50, 20, 0.2), (50, 20, 0.5)]
)
def test_wrong_positions_are_refused(numbers):
    with pytest.raises(PluginError, match="grid 'given' gives no 3 steps from 50 down to 1"):
        Given(numbers=numbers).steps(diffusion("dct", "blur", EVENT, N=50), 3)


def test_a_process_that_falls_between_its_first_two_steps_is_laid_out_by_lambda():
    class Once(VariancePreserving):
        """λ falls from step 1 to step 2, and then stays."""

        N = 5
        device = torch.device("cpu")

        def log_alpha_bar(self, i):
            return torch.tensor([0, -0.5, -2, -2, -2, -2], dtype=torch.float64)[i].reshape(-1, 1, 1, 1)

    process = Diffusion(diffusion("identity", "blur", EVENT).rotation, Once(), EVENT)
    assert component(Grid, "lambda").steps(process, 2) == [5, 1, 0]


@pytest.mark.parametrize("chunk", [1, 100])
def test_the_way_of_the_data_is_one_however_many_steps_are_looked_at_at_a_time(chunk, monkeypatch):
    whole = arc_length(diffusion("dct", "blur", EVENT, N=50))
    monkeypatch.setattr("gendiff.diffusion.CHUNK", chunk)
    torch.testing.assert_close(arc_length(diffusion("dct", "blur", EVENT, N=50)), whole)


@pytest.mark.parametrize("chunk", [1, 100])  # an event at a time, three
def test_a_number_for_each_step_and_the_steps_nearest_to_numbers(chunk, monkeypatch):
    monkeypatch.setattr("gendiff.diffusion.CHUNK", chunk)
    values = along(steady(11), lambda at: at.half_log_snr.flatten(1).amax(1))
    torch.testing.assert_close(values, torch.linspace(5, -5, 11, dtype=torch.float64))
    assert nearest(values, torch.tensor([-9, -4.4, 0.6, 5.0]).double()).tolist() == [11, 10, 5, 1]
    assert nearest(-values, torch.tensor([9, 4.4, -0.6, -5.0]).double()).tolist() == [11, 10, 5, 1]
    flat = torch.tensor([5.0, 5.0, 4.0, 2.0, 2.0]).double()  # nothing moves at first, nor in the end
    assert nearest(flat[[0, 4, 3]], flat[[4, 0]]).tolist() == [3, 1]
    assert nearest(torch.full((4,), 3.0).double(), torch.tensor([3.0]).double()).tolist() == [4]
    wanted = torch.tensor([2.0, 4.0, 5.0]).double()
    assert nearest(flat, wanted).tolist() == nearest(-flat, -wanted).tolist() == [5, 3, 2]


class TestReal:
    """Steps that are left as they come out."""

    def test_uniform(self):
        process = diffusion("dct", "blur", EVENT, N=50)
        assert component(Grid, "uniform:real=true").steps(process, 4) == [50, 37.5, 25, 12.5, 0]
        steps = component(Grid, "uniform:real=true").steps(process, 5)
        assert steps == component(Grid, "uniform").steps(process, 5)
        assert all(isinstance(step, int) for step in steps)
        assert component(Grid, "uniform:real=true").steps(process, None) == list(range(50, -1, -1))

    @pytest.mark.parametrize("n", [3, 8, 300])
    def test_lambda_is_equally_spaced_where_no_whole_step_is(self, n):
        process = steady(moments=slowest())
        steps = component(Grid, "lambda:real=true").steps(process, n)[:-1]
        assert len(steps) == n  # more than there are whole ones too
        inside = [step for step in steps if step > 4]  # near the data a straight line is none between steps
        lam = torch.tensor([float(process.at(step, torch.float64).half_log_snr[0, 0, 0]) for step in inside])
        assert torch.allclose(lam.diff(), torch.full((len(lam) - 1,), 10 / (n - 1)), rtol=1e-2)

    @pytest.mark.parametrize("name", ["lambda", "karras", "arc-length"])
    def test_it_is_near_to_the_whole_ones(self, name):
        process = diffusion("dct", "blur", EVENT, N=1000)
        whole, real = (component(Grid, spec).steps(process, 9) for spec in (name, f"{name}:real=true"))
        assert max(abs(i - j) for i, j in zip(whole, real, strict=True)) <= 0.51
        assert any(isinstance(step, float) for step in real)

    def test_a_grid_by_hand(self):
        process = diffusion("dct", "blur", EVENT, N=50)
        steps = component(Grid, "explicit:at=[50, 20.0, 3.5]").steps(process, None)
        assert steps == [50, 20, 3.5, 0]
        assert isinstance(steps[1], int)
        with pytest.raises(ConfigError, match="at = "):
            component(Grid, "explicit:at=[50, 0.5]")
        with pytest.raises(ConfigError, match="has no parameter 'real'"):
            component(Grid, "explicit:at=[50],real=true")

    def test_more_steps_than_there_are_are_refused_with_the_way(self):
        with pytest.raises(ConfigError, match="60 sampling steps of a process of 50") as caught:
            component(Grid, "lambda").steps(diffusion("dct", "blur", EVENT, N=50), 60)
        assert "lambda:real=true" in caught.value.fix

    @pytest.mark.parametrize(
        ("numbers", "steps"),
        [
            ((50, 20.5, 12.25, 0.6), [50, 20.5, 12.25, 1, 0]),
            ((50, 20.5, 20.5, 10.5), [50, 20.5, 15.5, 10.5, 0]),
            ((50, 50, 50, 20), [50, 40, 30, 20, 0]),  # not beyond N
            ((50, 3, 0.5, 0.25), [50, 3, 2, 1, 0]),  # nor below 1
            ((50, 1, 1, 1, 1), [50, 37.75, 25.5, 13.25, 1, 0]),
            ((50, 50, 50), [50, 25.5, 1, 0]),
            ((50,), [50, 0]),
        ],
    )
    def test_those_that_coincide_are_spread(self, numbers, steps):
        process = diffusion("dct", "blur", EVENT, N=50)
        assert Given(numbers=numbers, real=True).steps(process, len(numbers)) == steps

    @pytest.mark.parametrize(
        "spec",
        [
            "ddim", "ddim:eta=0.5", "ancestral", "momentum", "dpmpp-2m", "sde-dpmpp-2m", "unipc-2", "heun", "churn",
            "trig", "trig:solver=ab2", "trig:solver=heun",
        ],
    )  # fmt: skip
    def test_every_sampler_does_there_what_it_does_at_whole_steps_of_a_finer_process(self, spec):
        """Of scales that are formulas in t: eight steps of 12.5 are eight of 100 where N is eight times as large."""
        coarse, fine = (diffusion("dct", "rectified-flow", EVENT, N=N) for N in (100, 800))
        sampler = component(Sampler, spec)
        plans = [
            sampler.model_copy(update={"grid": grid, "steps": 8 * sampler.stages}).plan(process)
            for process, grid in ((coarse, component(Grid, "uniform:real=true")), (fine, component(Grid, "uniform")))
        ]
        assert any(isinstance(update.i, float) for update in plans[0])
        for real, whole in zip(*plans, strict=True):
            assert 8 * real.i == pytest.approx(whole.i)
            for name in ("p", "q", "b", "e", "constant"):
                one, other = getattr(real, name), getattr(whole, name)
                assert (one is None) == (other is None)
                if one is not None:
                    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
            for one, other in zip(real.past, whole.past, strict=True):
                torch.testing.assert_close(one.b if one.q is None else one.q, other.b if other.q is None else other.q)

    def test_a_chain_is_turned_round_on_them_and_shown(self):
        c = torch.linspace(0.2, 3, 30, dtype=torch.float64).reshape(EVENT)
        plain = diffusion("dct", "blur", EVENT, N=50)
        process = Diffusion(plain.rotation, plain.scales, EVENT, Moments(0 * c, c, 1))
        model, grid = GaussianScore(process, 0 * c, c), component(Grid, "lambda:real=true")
        x_0 = process.unrotate(c.sqrt() * torch.randn(2, *EVENT, dtype=torch.float64, generator=torch.manual_seed(0)))
        x_bar = invert(process, model, x_0, grid.steps(process, 7))
        sampler = component(Sampler, "trig:clip=false").model_copy(update={"grid": grid, "steps": 7})
        back = sample(process, model, sampler, start=x_bar, dtype=torch.float64)
        torch.testing.assert_close(back, x_0)
        shown = targets(process, sampler)
        assert set(shown) < set(grid.steps(process, 7))
        assert any(isinstance(step, float) for step in shown)
