"""Coloured noise: its spectrum and its power, what it does to a process, and closed forms of Gaussian data."""

from __future__ import annotations

import math

import pytest
import torch
from command import run
from processes import component, dense, diffusion
from torch import Tensor
from torch.nn.functional import interpolate

from gendiff import Diffusion, Rotation, Sampler, Velocity
from gendiff.colour import Colour
from gendiff.errors import ConfigError
from gendiff.formula import MOST
from gendiff.gaussian import GaussianScore
from gendiff.lab.likelihood import flow_likelihood
from gendiff.lab.recursion import Gaussian, law
from gendiff.moments import Moments
from gendiff.process import Process
from gendiff.scales import Scales, VariancePreserving, coloured

EVENT = (2, 6, 8)
COLOURS = [
    "power-law:alpha=2",
    "pink",
    "blue",
    "bands:edges=[0.3,0.6],powers=[1,0,0.5]",
    "pyramid",
    "offset:strength=0.5",
]
N = 40


def spectrum(colour: str, basis: str = "hartley", event: tuple[int, ...] = EVENT) -> Tensor:
    S = component(Colour, colour).spectrum(component(Rotation, basis), event).exp()
    return torch.broadcast_to(S, event)


def close(a, b, atol=1e-10, rtol=0.0):
    torch.testing.assert_close(a, b, atol=atol, rtol=rtol)


# --- spectra ------------------------------------------------------------------------------------------------------------


def test_power_laws():
    U = component(Rotation, "hartley")
    rho = torch.broadcast_to(U.frequencies(EVENT), EVENT)
    rho = torch.where(rho == 0, rho[rho > 0].min(), rho)  # the constant component: as the lowest beside it
    for colour, alpha in (("power-law:alpha=2.5", 2.5), ("pink", 1), ("blue", -1), ("power-law:alpha=0.5", 0.5)):
        S = rho**-alpha
        close(spectrum(colour), S / S.mean())


def test_bands_have_their_powers_and_one_without_has_the_floor():
    rho = torch.broadcast_to(component(Rotation, "dct").frequencies(EVENT), EVENT)
    r = rho / rho.max()
    S = torch.where(r < 0.3, 1.0, torch.where(r < 0.6, 0.0, 0.5)).double()
    S = (S / S.mean()).clamp_min(1e-4)
    close(spectrum("bands:edges=[0.3,0.6],powers=[1,0,0.5]", "dct"), S / S.mean())
    assert torch.equal(spectrum("bands:powers=[1,2,3,4]"), spectrum("bands:powers=[1,2,3,4],edges=[0.25,0.5,0.75]"))
    high = spectrum("bands:powers=[1,0],floor=0.01", "dct")
    assert float(high.min() / high.max()) == pytest.approx(0.01 * float((r < 0.5).double().mean()))
    process = diffusion("hartley", Process("two-bands:high=0").parts()[1].spec, EVENT, N)
    assert process.at(N).half_log_snr.isfinite().all()  # there is a score, and a chain can be inverted


@pytest.mark.parametrize("basis", ["hartley", "dct", "klt:patch=3"])
def test_multi_resolution_noise_is_the_diagonal_of_its_covariance(basis):
    """The noise written out: white noise of every size, enlarged by PyTorch."""
    event = (1, 6, 8)
    U = diffusion(basis, "isotropic", event).rotation
    covariance = torch.zeros(48, 48, dtype=torch.float64)
    for level, (h, w) in enumerate([(6, 8), (3, 4), (1, 2)]):
        units = torch.eye(h * w, dtype=torch.float64).reshape(-1, 1, h, w)
        P = interpolate(units, size=(6, 8), mode="bilinear", align_corners=False).flatten(1)
        covariance += 0.8 ** (2 * level) * P.T @ P
    columns = dense(U, event)
    S = (columns * (covariance @ columns)).sum(0).reshape(event)
    own = component(Colour, "pyramid:discount=0.8").spectrum(U, event).exp()
    close(torch.broadcast_to(own, event), S / S.mean())


def test_in_hartley_multi_resolution_noise_is_its_mean_over_all_shifts():
    event, columns = (1, 8), dense(component(Rotation, "hartley"), (1, 8))
    covariance = torch.eye(8, dtype=torch.float64)
    for level, m in enumerate((4, 2, 1), start=1):
        P = interpolate(torch.eye(m, dtype=torch.float64)[None], size=8, mode="linear", align_corners=False)[0]
        covariance = covariance + 0.9 ** (2 * level) * P.T @ P
    shifted = torch.stack([covariance.roll((k, k), (0, 1)) for k in range(8)]).mean(0)
    own = columns @ torch.diag(spectrum("pyramid", "hartley", event).flatten()) @ columns.T
    own = torch.stack([own.roll((k, k), (0, 1)) for k in range(8)]).mean(0)  # both phases of a frequency together
    close(own / own.trace(), shifted / shifted.trace())


def test_offset_noise_is_diagonal():
    event, columns = (1, 3, 4), dense(component(Rotation, "dct"), (1, 3, 4))
    own = columns @ torch.diag(spectrum("offset:strength=0.5", "dct", event).flatten()) @ columns.T
    expected = torch.eye(12, dtype=torch.float64) + 0.25
    close(own, expected / expected.trace() * 12)


@pytest.mark.parametrize("colour", ["power-law:alpha=2", "pink", "blue"])
def test_a_colour_of_the_frequency_is_stationary_in_the_fourier_basis(colour):
    event = (1, 5, 6)
    columns = dense(component(Rotation, "hartley"), event)
    covariance = (columns @ torch.diag(spectrum(colour, event=event).flatten()) @ columns.T).reshape(5, 6, 5, 6)
    for dy, dx in ((1, 0), (0, 1), (3, 4)):
        close(covariance.roll((dy, dx, dy, dx), (0, 1, 2, 3)), covariance)


@pytest.mark.parametrize("colour", COLOURS)
def test_drawn_noise_has_the_spectrum_and_the_power_of_white_noise(colour):
    process = diffusion("hartley", f'coloured:colour="{colour}"', EVENT, N)
    eps = torch.randn(8000, *EVENT, generator=torch.manual_seed(0), dtype=torch.float64)
    x = process.q_sample(torch.zeros_like(eps), 30, eps)
    s = diffusion("hartley", "isotropic", EVENT, N).at(30, torch.float64).s
    S = spectrum(colour)
    assert float(S.mean()) == pytest.approx(1)
    assert ((process.rotate(x).square().mean(0) / (s**2 * S)).log().abs() < 0.08).all()  # five standard errors
    close((process.at(30, torch.float64).s ** 2).expand(EVENT).mean(), s.square().mean(), atol=1e-14)


# --- scales -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["white", "power-law:alpha=0", "offset:strength=0"])
@pytest.mark.parametrize("terminal", ["false", "true"])
@pytest.mark.parametrize("velocity", ["isotropic:noise=cosine", "blur:schedule=log", "edm"])
def test_white_noise_is_the_process_itself_to_the_bit(colour, terminal, velocity):
    own = diffusion("dct", f'coloured:velocity="{velocity}",colour="{colour}",terminal={terminal}', EVENT, N).scales
    plain = diffusion("dct", velocity, EVENT, N).scales
    i = torch.arange(N + 1)
    assert isinstance(own, VariancePreserving) == isinstance(plain, VariancePreserving)
    assert torch.equal(own.log_a(i), plain.log_a(i))
    assert torch.equal(own.log_s(i), plain.log_s(i))


class Own(Scales):
    """Scales of an author, who gives no formulas."""

    device = torch.device("cpu")

    def __init__(self, inner: Scales) -> None:
        self.inner, self.N = inner, inner.N

    def log_a(self, i: Tensor) -> Tensor:
        return self.inner.log_a(i)

    def log_s(self, i: Tensor) -> Tensor:
        return self.inner.log_s(i)


@pytest.mark.parametrize("velocity", ["isotropic", "blur:schedule=log", "edm", "heat", "rectified-flow"])
@pytest.mark.parametrize("terminal", [False, True])
def test_of_any_velocity_only_the_noise_changes(velocity, terminal):
    plain = diffusion("hartley", velocity, EVENT, N)
    S = spectrum("bands:powers=[1,0]")
    for scales in (plain.scales, Own(plain.scales)):
        own = coloured(scales, S.log(), terminal)
        assert bool(own.formulas) == (scales is plain.scales)
        for i in (0, 1, 7, N):
            at, step = plain.at(i, torch.float64), torch.tensor([i])
            a, s = (torch.broadcast_to(value, EVENT) for value in (at.a, at.s))
            close(own.log_a(step)[0].exp().expand(EVENT), a, atol=1e-13)
            variance = s**2 * ((a**2 + s**2 * S) / (a**2 + s**2) if terminal else S)
            close((2 * own.log_s(step)[0]).exp().expand(EVENT), variance, atol=1e-13, rtol=1e-9)
        lam = own.half_log_snr(torch.arange(N + 1))
        assert (lam.diff(dim=0) <= 1e-12).all()


def test_the_prior_alone_is_coloured_where_nothing_is_left_of_the_data():
    S = spectrum("power-law:alpha=2", "dct")
    process = diffusion("dct", 'coloured:colour="power-law:alpha=2",terminal=true', EVENT, 1000)
    plain = diffusion("dct", "isotropic", EVENT, 1000)
    first, last = ((process.at(i, torch.float64).s / plain.at(i, torch.float64).s) ** 2 for i in (1, 1000))
    assert ((first - 1).abs() < 1e-4 * S.max()).all()
    assert ((last / S[:1] - 1).abs() < 1e-3).all()


def test_a_formula_that_is_too_long_to_keep_becomes_code():
    long = diffusion("dct", 'interpolant:a="' + "+".join(["(1-t)*(1+r)"] * 30) + '",s=t', EVENT, N).scales
    own = coloured(long, spectrum("blue", "dct").log(), terminal=True)
    assert not own.formulas
    assert long.formulas["log_a"].storable
    assert MOST == 256
    assert own.half_log_snr(torch.tensor([3, 20])).isfinite().all()


# --- Gaussian data ------------------------------------------------------------------------------------------------------

C = torch.linspace(0.05, 2.0, 96, dtype=torch.float64).reshape(EVENT)
M = torch.full(EVENT, 0.3, dtype=torch.float64)
GAUSSIAN = [
    'coloured:colour="power-law:alpha=2"',
    "coloured:colour=blue,velocity=edm",
    "coloured:colour=pyramid,terminal=true",
    'coloured:colour="bands:powers=[1,0]",velocity=blurring',
]


def of_gaussian_data(velocity: str, steps: int) -> Diffusion:
    process = diffusion("hartley", velocity, EVENT, steps)
    return Diffusion(process.rotation, process.scales, EVENT, Moments(M, C))


@pytest.mark.parametrize("velocity", GAUSSIAN)
def test_samplers_reach_gaussian_data(velocity):
    process, data = of_gaussian_data(velocity, 200), Gaussian.diagonal(M, C, EVENT)
    # Exact in one step, from a prior that is exact: the Wiener objective's ODE has T = 0.
    drawn = law(process, component(Sampler, "trig:steps=1,prior=matched"), data)
    first, last = (process.at(i, torch.float64) for i in (0, 200))
    v, v_N = (torch.broadcast_to(at.a**2 * C + at.s**2, EVENT) for at in (first, last))
    close(drawn.variance, v, atol=1e-9)
    close(drawn.mean.reshape(EVENT), torch.broadcast_to(first.a * M, EVENT), atol=1e-9)
    for name in ("ddim", "dpmpp-2m"):
        drawn = law(process, component(Sampler, f"{name}:prior=matched"), data)
        assert ((drawn.variance / v).log().abs() < 0.3).all(), name
    # The standard prior is N(0, s_N² S): what is left of the data at N is missing, and no more.
    drawn = law(process, component(Sampler, "trig:steps=1,prior=standard"), data)
    close(drawn.variance, torch.broadcast_to(v * last.s**2 / v_N, EVENT), atol=1e-9)


@pytest.mark.parametrize("velocity", GAUSSIAN[:3])
def test_the_likelihood_of_gaussian_data_is_their_own_density(velocity):
    process = of_gaussian_data(velocity, N)
    data = [
        process.unrotate(M + C.sqrt() * torch.randn(1, *EVENT, generator=torch.manual_seed(k), dtype=torch.float64))[0]
        for k in range(2)
    ]
    first = process.at(1, torch.float64)
    density = torch.distributions.Normal(M, (C + (first.s / first.a) ** 2).sqrt()).log_prob(
        process.rotate(torch.stack(data))
    )
    model = GaussianScore(process, M, C)
    own = flow_likelihood(process, model, data.__getitem__, range(2), eight_bit=False, matched=True, chunk=2)
    bits = -float(density.flatten(1).sum(1).mean()) / (96 * math.log(2))
    assert abs(own.total.bits - bits) < 1e-3


# --- recipes ------------------------------------------------------------------------------------------------------------


def test_a_colour_and_its_velocity_learn_beside_each_other():
    own = diffusion("dct", "coloured:velocity=soft-conditioning,colour=as-data", EVENT, N)
    plain = diffusion("dct", "soft-conditioning", EVENT, N)
    equal = diffusion("dct", "equal-snr", EVENT, N)
    S = 2 * (equal.at(N, torch.float64).log_s)
    S = S - S.exp().mean().log()  # that of the data, with the power of white noise
    close(own.at(9, torch.float64).log_s, plain.at(9, torch.float64).log_s + 0.5 * S)


def test_without_frequencies_there_is_no_colour():
    with pytest.raises(ConfigError, match="rotation 'identity' has no frequencies by which noise could be coloured"):
        diffusion("identity", "coloured", EVENT)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("bands:edges=[0.5],powers=[1,1,1]", "1 edges, which part 2 bands, and 3 powers"),
        ("bands:powers=[1]", "at least 2 items"),
        ("bands:edges=[0.5,0.5],powers=[1,1,1]", "edges do not rise"),
        ("bands:powers=[0,0]", "no band has any power"),
    ],
)
def test_bands_that_are_none_are_refused(spec, said):
    with pytest.raises(ConfigError, match=said):
        component(Colour, spec)


def test_a_schedule_of_a_coloured_process_is_its_own_parameter():
    assert Process("power-law:noise=cosine").parts()[1] == Velocity(
        "coloured", velocity="isotropic:noise=cosine", colour="power-law:alpha=2"
    )


def test_the_command_says_whose_the_schedule_is():
    done = run("config", "show", "--process", "power-law", "--noise", "cosine")
    assert done.code == 2
    assert "give it to the process: --process 'power-law:noise=cosine'" in done.err
    assert run("config", "show", "--process", "power-law:noise=cosine").code == 0
