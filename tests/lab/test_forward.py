"""What a process does before any training: SNR per band, widths of blurs, and the rules of `gendiff.lab.diagnosis`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from processes import component, diffusion, scales_at

from gendiff import Velocity
from gendiff.blur import kernel_std, log_attenuation
from gendiff.diffusion import Diffusion
from gendiff.frequency import dct_frequency
from gendiff.lab import figures
from gendiff.lab.diagnosis import diagnose
from gendiff.lab.forward import (
    BandSNR,
    as_planned,
    corrupted,
    first_below,
    in_frequencies,
    picture_decibel,
    spaced,
    steps_at,
)
from gendiff.moments import Moments
from gendiff.scales import VariancePreserving
from gendiff.testing import SmoothNoise


def of_data(process: Diffusion, c: torch.Tensor) -> Diffusion:
    """The process of data with variance c."""
    return Diffusion(process.rotation, process.scales, process.event_shape, Moments(torch.zeros_like(c), c))


def photographs(process: Diffusion, power: float = 2.0) -> Diffusion:
    """The process of data whose variance falls with frequency as that of photographs does, its mean over components 0.25."""
    rho = process.rotation.frequencies(process.event_shape)
    weight = (rho + math.pi / max(process.event_shape)) ** -power
    return of_data(process, 0.25 * weight / weight.mean())


# --- bands --------------------------------------------------------------------------------------------------------------


def test_the_snr_of_a_band_is_the_mean_over_its_components():
    process = diffusion("dct", "blur:schedule=log", (2, 6, 9), N=40)
    c = torch.rand(2, 6, 9, dtype=torch.float64) + 0.1
    snr = BandSNR(of_data(process, c), 3)
    rho = process.rotation.frequencies((2, 6, 9))[0]
    assert snr.edges[-1] == pytest.approx(float(rho.max()))
    for i in spaced(40, 5):
        a, s = scales_at(process, i, torch.float64)
        decibel = 10 * torch.log10(a**2 / s**2)[0]
        low = 0.0
        for band, edge in enumerate(snr.edges):
            inside = (rho >= low) & ((rho < edge) | (band == 2))
            assert snr.components[band] == 2 * int(inside.sum())
            assert snr.decibel(i)[band].item() == pytest.approx(decibel[inside].mean().item(), rel=1e-9)
            wanted = decibel[inside].mean() + 10 * torch.log10(c)[:, inside].mean()
            assert snr.data_decibel(i)[band].item() == pytest.approx(wanted.item(), rel=1e-9)
            low = edge


def test_the_steps_that_are_shown_are_spaced():
    assert spaced(40, 5) == [1, 11, 20, 30, 40]
    assert spaced(3, 100) == [1, 2, 3]


def test_a_band_is_below_a_level_from_the_first_step_on_that_says_so():
    process = diffusion("dct", "blur:schedule=log", (1, 8, 8), N=200)
    snr = BandSNR(photographs(process), 4)
    every = torch.stack([snr.decibel(i) for i in range(1, 201)])
    with_data = torch.stack([snr.data_decibel(i) for i in range(1, 201)])
    for level in (12.0, 0.0, -7.5):
        assert snr.below(level) == [int((every[:, band] < level).nonzero()[0]) + 1 for band in range(4)]
        assert snr.data_below(level) == [int((with_data[:, band] < level).nonzero()[0]) + 1 for band in range(4)]
    assert snr.below(0.0) == sorted(snr.below(0.0), reverse=True)  # fine detail goes first
    weak = diffusion("identity", "isotropic:noise='linear:beta_max=0.0002'", (1, 4, 4), N=20)
    assert BandSNR(weak, 1).below(0.0) == [None]


def test_levels_are_searched_for_side_by_side_each_as_by_itself():
    """In what all are for, or each in a column of its own; what is at the level is not below it."""
    asked = list[int]()

    def falling(steps: Sequence[int]) -> torch.Tensor:
        asked.extend(steps)
        return -torch.tensor(steps, dtype=torch.float64)[:, None]

    levels = torch.tensor([0.5, -2, -5, -4, math.nan], dtype=torch.float64)
    assert first_below(falling, 5, levels) == [1, 3, None, 5, None]
    assert set(asked) <= {1, 2, 3, 4, 5}
    assert first_below(lambda steps: falling(steps) * torch.tensor([1, 2, 3, 4, 5]), 5, levels) == [1, 2, 2, 2, None]
    assert first_below(falling, 1, levels) == [1, None, None, None, None]


def test_an_empty_band_is_nothing():
    snr = BandSNR(diffusion("dct", "blur", (1, 2), N=20), 8)  # two components, eight bands
    assert snr.components == [1, 0, 0, 0, 0, 0, 0, 1]
    assert snr.decibel(3).isnan().tolist() == [count == 0 for count in snr.components]
    for below in (snr.below(0.0), snr.data_below(0.0)):
        assert [step is None for step in below[1:7]] == [True] * 6
    for finding in diagnose(snr, component(Velocity, "blur")):
        assert "nan" not in finding.text


def test_a_map_has_no_gaps_where_small_pictures_have_no_frequency():
    snr = BandSNR(diffusion("dct", "blur", (1, 2), N=20), 8)
    panel = figures.snr({"blur": snr}).axes[0]
    mesh = panel.collections[0]
    assert not np.isnan(np.asarray(mesh.get_array().filled(np.nan))).any()
    edges = mesh.get_coordinates()[:, 0, 1]
    assert len(edges) == 3
    assert (edges[0], edges[-1]) == (0, snr.edges[-1])


def test_a_process_of_one_speed_is_looked_at_in_the_dct():
    for rotation, velocity in (("identity", "blur:schedule=log"), ("haar", "isotropic")):
        process = diffusion(rotation, velocity, (2, 5, 7))
        assert not in_frequencies(process).moments.measured
        data = SmoothNoise(shape=(2, 5, 7))
        seen = in_frequencies(process, data)
        assert seen.rotation.name == "dct"
        assert torch.equal(seen.moments.variance, Moments.fit(data, seen.rotation).variance)
        assert torch.equal(
            seen.at(17).half_log_snr + torch.zeros(1, 5, 7), process.at(17).half_log_snr + torch.zeros(1, 5, 7)
        )
    for process in (diffusion("dct", "blur:schedule=log", (2, 5, 7)), diffusion("haar", "fine-to-coarse", (2, 5, 7))):
        assert in_frequencies(process) is process


def test_plans_are_made_with_the_moments_of_single_pixels():
    """One variance for all of a channel, and the mean picture: the same in any basis."""
    own = Moments(torch.randn(2, 5, 7, dtype=torch.float64), torch.rand(2, 5, 7, dtype=torch.float64) + 0.5, 9)
    plain = diffusion("identity", "isotropic", (2, 5, 7))
    process = Diffusion(plain.rotation, plain.scales, (2, 5, 7), own)
    planned = as_planned(process, SmoothNoise(shape=(2, 5, 7)))
    assert planned.rotation.name == "dct"
    assert torch.allclose(planned.rotation.unrotate(planned.moments.mean), own.mean)
    assert torch.allclose(planned.moments.variance.flatten(), own.variance.flatten(1).mean(1))
    for other in (diffusion("dct", "blur:schedule=log", (2, 5, 7)), diffusion("dct", "isotropic", (2, 5, 7))):
        assert as_planned(other).moments is other.moments or not as_planned(other).moments.measured


# --- pictures -----------------------------------------------------------------------------------------------------------


def test_corrupted_is_q_sample_with_the_same_noise(rng):
    process = diffusion("dct", "blur", (2, 5, 7))
    x_0, eps = torch.randn(2, 3, 2, 5, 7, generator=rng)
    noisy, signal = corrupted(process, x_0, eps, [0, 25, 50])
    torch.testing.assert_close(noisy[0], x_0, rtol=0, atol=1e-5)
    torch.testing.assert_close(noisy[1], process.q_sample(x_0, torch.full((3,), 25), eps))
    torch.testing.assert_close(signal[1], process.q_sample(x_0, 25, 0 * eps))


def test_pictures_are_measured_in_double_precision(rng):
    process, x = diffusion("dct", "blur:schedule=log", (3, 8, 8)), torch.randn(4, 3, 8, 8, generator=rng)
    assert picture_decibel(process, x, [20]) == picture_decibel(process, x.double(), [20])


def test_steps_of_equal_snr_are_those_where_the_energies_say_so(rng):
    process = diffusion("dct", "blur:schedule=log", (2, 6, 9), N=60)
    x_0 = torch.randn(1, 2, 6, 9, generator=rng, dtype=torch.float64)
    energies = []
    for i in range(1, 61):
        clean = process.q_sample(x_0, torch.tensor([i]), torch.zeros_like(x_0)).square().sum()
        s = process.at(i).log_s.exp() + torch.zeros(2, 6, 9)
        energies.append(10 * math.log10(float(clean / s.square().sum())))
    assert picture_decibel(process, x_0, [30]).item() == pytest.approx(energies[29], abs=1e-9)
    expected = [
        next((i + 1 for i, e in enumerate(energies) if e < level), None) for level in (30.0, 3.0, -20.0, -500.0)
    ]
    assert steps_at(process, x_0, [30.0, 3.0, -20.0, -500.0]) == expected
    assert expected[-1] is None
    assert None not in expected[:2]


# --- widths of blurs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.4, 0.3, 1.0, 2.7])
def test_kappa_is_the_standard_deviation_of_the_sampled_kernel(sigma):
    j = np.arange(-60, 61)
    g = np.exp(-(j**2) / (2 * sigma**2))
    g /= g.sum()
    assert kernel_std(sigma) == pytest.approx(math.sqrt((g * j**2).sum()), rel=1e-12)
    tiny = torch.tensor([1e-3], dtype=torch.float64)  # log D = -κ² ω²/2 near ω = 0
    assert kernel_std(sigma) == pytest.approx(math.sqrt(-2 * float(log_attenuation(tiny, sigma))) / 1e-3, rel=1e-5)


def test_kappa_of_the_paper():
    assert kernel_std(0.4) == pytest.approx(0.284, abs=5e-4)
    width = component(Velocity, "blur:schedule=quartic").blur_width(1000)
    assert (round(float(width.true[-1]), 2), round(float(width.nominal[-1]), 2)) == (1.51, 2.12)
    assert float(width.true[0]) == 0.0


@pytest.mark.parametrize(
    "velocity",
    ["blur:schedule=log", "heat:sigma_max=5", "blurring:sigma_max=5", "blurring:sigma_max=4,d_min=0.2", "cold"],
)
def test_the_width_is_the_spread_of_a_blurred_point(velocity):
    process = diffusion("dct", velocity, (1, 101), N=30)
    width = component(Velocity, velocity).blur_width(30)
    tolerance = 1e-9 if velocity.startswith("blur:") else 1e-3  # heat has a spectrum that is cut off at π
    point = torch.zeros(1, 1, 101, dtype=torch.float64)
    point[0, 0, 50] = 1.0  # far from the borders
    for i in (4, 30):
        spread = process.q_sample(point, torch.tensor([i]), torch.zeros_like(point)).flatten()
        away = torch.arange(101, dtype=torch.float64) - 50
        assert float(width.true[i]) == pytest.approx(float((spread @ away**2 / spread.sum()).sqrt()), rel=tolerance)


def test_only_a_blur_has_a_width():
    assert component(Velocity, "isotropic").blur_width(20) is None
    assert component(Velocity, "fine-to-coarse").blur_width(20) is None


# --- diagnosis ----------------------------------------------------------------------------------------------------------


def rules(rotation: str, velocity: str, N: int = 1000, shape=(1, 24, 40), power: float = 2.0) -> dict:
    process = diffusion(rotation, velocity, shape, N)
    return {
        finding.rule: finding
        for finding in diagnose(BandSNR(photographs(process, power), 4), component(Velocity, velocity))
    }


def test_the_best_setting_of_the_paper_blurs_only_what_is_noise():
    found = rules("dct", "blur:schedule=quartic")
    assert found.keys() == {"blur-in-noise"}
    numbers = found["blur-in-noise"].numbers
    assert numbers["lost_db"] > 40
    assert numbers["lost_before_crossing_db"] < 0.01
    assert numbers["moved_steps"] <= 1
    # The same crossings as without any blur, to a step.
    blurred, plain = (
        diffusion("dct", f"blur:schedule={schedule}", (1, 24, 40), 1000) for schedule in ("quartic", "none")
    )
    crossings = [BandSNR(photographs(process), 4).data_below(0.0) for process in (blurred, plain)]
    assert max(abs(one - other) for one, other in zip(*crossings, strict=True)) == numbers["moved_steps"]


def test_a_blur_that_starts_at_once_destroys_bands_at_once():
    found = rules("dct", "blur:schedule='log:f_max=0.6'")
    assert found.keys() == {"destroyed-at-once"}
    process = diffusion("dct", "blur:schedule='log:f_max=0.6'", (1, 24, 40), 1000)
    snr = BandSNR(photographs(process), 4)
    decibel = torch.stack([snr.data_decibel(i) for i in range(1, 1001)])
    first, last = ((decibel < level).int().argmax(0) + 1 for level in (10, -10))
    fast = [k for k in range(4) if last[k] - first[k] < 20]
    numbers = found["destroyed-at-once"].numbers
    assert numbers["bands"] == fast
    assert numbers["first"] == [int(first[k]) for k in fast]
    assert numbers["last"] == [int(last[k]) for k in fast]


def test_a_process_that_keeps_its_data_never_ends():
    found = rules("identity", "isotropic:noise='linear:beta_max=0.002'", shape=(1, 12, 20), power=0.0)
    assert found.keys() == {"never-ends"}
    a, s = scales_at(diffusion("identity", "isotropic:noise='linear:beta_max=0.002'", (1, 12, 20), 1000), 1000)
    expected = 10 * math.log10(0.25 * float((a / s).max()) ** 2)
    assert found["never-ends"].numbers["highest_db"] == pytest.approx(expected, abs=1e-4)
    assert found["never-ends"].numbers["components"] == found["never-ends"].numbers["of"] == 240


@pytest.mark.parametrize(
    ("velocity", "said"),
    [
        ("isotropic:noise='linear:beta_max=0.002'", "use a longer or stronger noise schedule, or .*--prior matched$"),
        ("reversed:velocity='isotropic:noise=\"linear:beta_max=0.002\"'", "use a longer or stronger noise schedule"),
        ("heat", "; sample from what it ends in: --prior matched, or --prior data, as in --preset heat-dissipation$"),
        ("cold", "; sample from what it ends in: --prior matched, or --prior data, as in --preset cold$"),
    ],
)
def test_what_never_ends_is_told_what_helps(velocity, said):
    assert re.search(said, rules("dct", velocity, shape=(1, 12, 20))["never-ends"].text)


@pytest.mark.parametrize("velocity", ["isotropic", "blur:schedule=linear", "isotropic:noise=cosine"])
def test_an_ordinary_process_has_nothing_odd_about_it(velocity):
    assert rules("dct", velocity) == {}


class Fixed(VariancePreserving):
    """log Ā straight down to the same end, by component."""

    N = 100
    device = torch.device("cpu")

    def __init__(self, end: torch.Tensor) -> None:
        self.end = end

    def log_alpha_bar(self, i):
        return self.end * (i / self.N).reshape(-1, *([1] * self.end.ndim))

    def to(self, device):
        return self


def test_a_crossing_that_never_comes_is_no_crossing_to_compare():
    end = torch.full((1, 4, 6), -20.0, dtype=torch.float64)
    end[:, :2] = -1e-3  # half of the components stay: data-SNR 1 is never reached there
    process = Diffusion(diffusion("dct", "blur", (1, 4, 6)).rotation, Fixed(end), (1, 4, 6))
    found = {finding.rule for finding in diagnose(BandSNR(process, 3), component(Velocity, "blur"))}
    assert "never-ends" in found
    assert "blur-in-noise" not in found


class Told(VariancePreserving):
    """The SNR of two components in decibel, ``(N+1, 2)``."""

    device = torch.device("cpu")

    def __init__(self, decibel: np.ndarray) -> None:
        self.decibel = torch.tensor(decibel)

    @property
    def N(self):
        return len(self.decibel) - 1

    def log_alpha_bar(self, i):
        L = torch.nn.functional.logsigmoid(self.decibel[i] * math.log(10) / 10)
        return torch.where(i[:, None] == 0, 0.0, L).reshape(-1, 1, 1, 2)

    def to(self, device):
        return self


def told(decibel: np.ndarray, variance: float = 1.0) -> dict:
    """The rules that apply to a process of two components of variance 1 and another one, each a band."""
    process = Diffusion(diffusion("dct", "blur", (1, 1, 2)).rotation, Told(decibel), (1, 1, 2))
    process = of_data(process, torch.tensor([1.0, variance], dtype=torch.float64).reshape(1, 1, 2))
    return {finding.rule: finding.numbers for finding in diagnose(BandSNR(process, 2), component(Velocity, "blur"))}


@pytest.mark.parametrize(("N", "took", "at_once"), [(100, 1, True), (100, 2, False), (101, 2, True)])
def test_at_once_is_within_a_fiftieth_of_the_steps(N, took, at_once):
    slow = np.linspace(30, -30, N + 1)
    fast = np.where(np.arange(N + 1) < 40, 10.1, np.where(np.arange(N + 1) < 40 + took, 9.9, -10.1))
    found = told(np.stack([slow, fast], axis=1))
    assert ("destroyed-at-once" in found) == at_once
    if at_once:
        assert found["destroyed-at-once"] == {"bands": [1], "first": [40], "last": [40 + took]}


@pytest.mark.parametrize(
    ("N", "moved", "lost", "noise"),
    [
        (100, 1, 9, True),
        (100, 2, 9, False),
        (199, 2, 9, False),
        (200, 2, 9, True),
        (100, 1, 3.1, True),
        (100, 1, 2.9, False),
    ],
)
def test_blur_is_in_noise_where_no_crossing_moves_by_more_than_a_hundredth(N, moved, lost, noise):
    """The second band is as the first until ``moved`` steps before that crosses 0 dB, then ``lost`` decibel below it."""
    slow = 30 - 60 * (np.arange(N + 1) + 0.5) / N
    crossing = int((slow < 0).argmax())
    fast = slow - np.where(np.arange(N + 1) < crossing - moved, 0, lost)
    found = told(np.stack([slow, fast], axis=1))
    assert ("blur-in-noise" in found) == noise
    if noise:
        numbers = found["blur-in-noise"]
        assert (numbers["moved_steps"], numbers["crossing"]) == (moved, crossing - moved)
        assert all(isinstance(number, float | int) for number in numbers.values())
        assert numbers["lost_db"] == pytest.approx(lost, abs=0.02)
        kept = [10 ** (db / 10) / (1 + 10 ** (db / 10)) for db in (slow[crossing - moved], fast[crossing - moved])]
        assert numbers["lost_before_crossing_db"] == pytest.approx(10 * math.log10(kept[0] / kept[1]), abs=1e-4)


def test_blur_may_be_in_noise_where_the_data_never_are():
    """A band of so much variance that it never falls below 0 dB, and has lost 9 dB of its signal in the end."""
    slow = 30 - 60 * (np.arange(101) + 0.5) / 100
    fast = slow - np.where(np.arange(101) < 60, 0, 9)
    assert told(np.stack([slow, fast], axis=1), variance=1e6)["blur-in-noise"] == {
        "lost_db": pytest.approx(9, abs=0.02),
        **{"lost_before_crossing_db": 0, "crossing": 0, "moved_steps": 0},
    }


def test_dct_frequencies_are_those_of_the_bands():
    process = diffusion("dct", "blur", (1, 6, 9))
    assert BandSNR(process, 3).edges[-1] == pytest.approx(
        float((dct_frequency(6)[-1] ** 2 + dct_frequency(9)[-1] ** 2).sqrt())
    )
