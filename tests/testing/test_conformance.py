"""The conformance kit: every built-in keeps its contract, every check finds something, and what is only unusual passes.

A mutant is a component with one flaw, marked with the check that must find it and with words that the author must read. They
stand at the top of the module because components are sent to other processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import random
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from published import NAMES as DATASETS
from pydantic import ConfigDict, PrivateAttr, field_serializer, field_validator
from torch import Tensor, nn

from gendiff import (
    BlurSchedule,
    Component,
    Data,
    Diffusion,
    Lazy,
    Model,
    NoiseSchedule,
    Objective,
    Parametrization,
    Rotation,
    Sampler,
    Scales,
    SeparableRotation,
    Update,
    VariancePreserving,
    Velocity,
    component,
    hookimpl,
)
from gendiff.blur import log_attenuation
from gendiff.dct import dct_matrix
from gendiff.errors import ConfigError
from gendiff.frequency import dct_frequency
from gendiff.grid import Grid
from gendiff.level import Level
from gendiff.logger import Logger
from gendiff.metric import Metric
from gendiff.plugin.registry import default_registry
from gendiff.process import Process
from gendiff.sampler import Past
from gendiff.shapes import per_event
from gendiff.streams import stream
from gendiff.testing import Check, CheckFailed, Line, check, checks, require, score
from gendiff.testing.card import _CHECKS, largest
from gendiff.testing.sampler import _limit

KINDS = {entry.kind for entry in default_registry().entries()}


@pytest.fixture(autouse=True)
def one_thread(two_threads):
    torch.set_num_threads(1)


# --- every built-in keeps its contract ----------------------------------------------------------------------------------


def pictures() -> Path:
    """A small folder of pictures, the same one for the whole session."""
    folder = Path(os.environ["PYTEST_PICTURES"])
    if not folder.exists():
        folder.mkdir()
        for k in range(6):
            Image.fromarray(np.random.default_rng(k).integers(0, 256, (9 + k, 12, 3), dtype=np.uint8)).save(
                folder / f"{k}.png"
            )
    return folder


@pytest.fixture(scope="module", autouse=True)
def _pictures_folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_PICTURES", str(tmp_path_factory.mktemp("conformance") / "pictures"))
        yield


#: What a component needs that its defaults do not say; a logger that would talk to the network stays on the disk.
ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "grid explicit": lambda: {"at": [200, 100, 20, 3]},
    "data folder": lambda: {"path": pictures(), "size": 8},
    "logger wandb": lambda: {"mode": "offline"},
}


def built_in_checks() -> Iterator[Any]:
    """Each check of each built-in: the component is made when the test runs, its checks are known by kind."""
    for entry in default_registry().entries():
        if not entry.provider.built_in:
            continue
        if entry.name in DATASETS and entry.kind == "data":
            continue  # test_datasets.py writes their files, and runs the same checks
        cls = entry.load()
        stand_in = cls.model_construct()  # a required parameter is not there yet
        for one in checks(stand_in):
            arguments = ARGUMENTS.get(f"{entry.kind} {entry.name}", dict)
            yield pytest.param(one, cls, arguments, id=f"{entry.kind}-{entry.name}: {one.title}")


@pytest.mark.parametrize(("one", "cls", "arguments"), built_in_checks())
def test_built_in(one, cls, arguments, monkeypatch):
    monkeypatch.setenv("GENDIFF_FID_WEIGHTS", "missing.pth")  # no test fetches the Inception weights
    seen = dataclasses.replace(one, subject=cls.model_validate(arguments()))()
    assert isinstance(seen, str)
    assert 0 < len(seen.strip()) < 500


@pytest.mark.parametrize(
    "one",
    [
        pytest.param(one, id=f"preset-{name}: {one.title}")
        for name, path in default_registry().presets().items()
        for one in checks(path)
    ],
)
def test_preset(one):
    assert one()


def test_every_kind_has_checks_of_its_own():
    for kind in KINDS:
        assert len(_CHECKS[kind]) >= 2, kind


#: Variants of built-ins whose defaults are not all that they can be.
VARIANTS = [
    (Rotation, "klt:patch=3"),
    (Rotation, "haar:levels=1"),
    (Rotation, "dst:type=1"),
    (Rotation, "blur-eigen:sigma=1"),
    (BlurSchedule, "log:f_max=10000"),
    (BlurSchedule, "triangular:f_max=0.3,f_min=0.1"),
    (NoiseSchedule, "sigmoid:start=0,tau=0.3"),
    (Velocity, "fine-to-coarse:schedule=log"),
    (Velocity, "blur:noise=cosine,sigma=2"),
    (Velocity, "blurring:sigma_max=0,d_min=0"),
    (Velocity, "heat:sigma_max=300"),
    (Velocity, "cold:growth=1"),
    (Velocity, "spectrum-matched:power_law=[1.59,0.0086,2]"),
    (Velocity, "equal-snr:flipped=true"),
    (Velocity, "soft-conditioning:soft=0.001"),
    (Velocity, "reversed:velocity=equal-snr"),
    (Sampler, "ddim:eta=0.5,steps=7"),
    (Sampler, "ancestral:steps=10"),
    (Model, "unet:dropout=0.5,multipliers=[1,2,2]"),
    (Model, "mlp:frequency_features=true"),
    (Metric, "spectrum:bands=8"),
    (Data, "gaussian-field:size=[20]"),
    (Process, "blur-diffusion:schedule=log"),
    (Process, "reversed:process=heat-dissipation"),
    (Process, "reversed:process=flipped-snr"),
]


@pytest.mark.parametrize(("interface", "spec"), VARIANTS, ids=lambda value: str(value))
def test_variants_of_built_ins(interface, spec):
    assert [line for line in score(interface.model_validate(spec)) if not line.passed] == []


# --- mutants -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mutant:
    title: str
    says: str
    make: Callable[[], Any]
    kind: str
    name: str


MUTANTS: list[Mutant] = []
COUNTER = itertools.count()  # another number each time, and no chance in it


def fails(title: str, says: str) -> Callable[[type], type]:
    """The check with that title must fail on the class, and say so."""

    def mark(cls: type) -> type:
        MUTANTS.append(Mutant(title, says, cls, cls.kind, cls.__name__))
        return cls

    return mark


# Rotations

ORTHOGONAL, ROUND_TRIP = "U^T U = I in float64", "rotate is the inverse of unrotate, on all sizes and channels"
ADJOINT, SINGLE = "rotate is the adjoint of unrotate", "float32 in, float32 out, within 1e-5"
AUTOCAST, CHANNELS = "autocast does not lower its precision", "it treats each channel alike"
LINEAR, SPECTRA = "it is linear and deterministic", "blur and frequency of its components are in range"
SPEED = "its speed, beside dct"


class Plain(Rotation):
    """the identity, for others to change."""

    name = "mutant"

    def rotate(self, x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.float()

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return self.rotate(x_bar)


class Cosines(SeparableRotation):
    """the DCT, for others to change."""

    name = "mutant"

    def matrix(self, n: int) -> Tensor:
        return dct_matrix(n)


class ExactCosines(Cosines):
    """the DCT with its own blur and frequency, for others to change."""

    diagonalises_blur = True

    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        return log_attenuation(dct_frequency(n), sigma)

    def axis_frequency(self, n: int) -> Tensor:
        return dct_frequency(n)


@fails(ORTHOGONAL, r"seen: rotation 'mutant' is not orthogonal for an axis of 8: max \|U\^T U - I\|")
class ScaledMatrix(Cosines):
    def matrix(self, n: int) -> Tensor:
        return 1.001 * dct_matrix(n)


@fails(ORTHOGONAL, r"expected max \|U\^T U - I\| < 1e-10; seen: 7.5e-01")
@fails(ADJOINT, r"<U\^T x, y> = <x, U y> within 1e-10; seen: \d")
class Scaled(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return 2 * super().rotate(x)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return super().rotate(x_bar) / 2


@fails(ORTHOGONAL, r"\| < 1e-10; seen: 1.0e\+00")
class Shear(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        x = super().rotate(x)
        return torch.cat([x[..., :1] - x[..., 1:2], x[..., 1:]], -1)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        x = super().rotate(x_bar)
        return torch.cat([x[..., :1] + x[..., 1:2], x[..., 1:]], -1)


@fails(ROUND_TRIP, r"U U\^T x = x within 1e-10; seen: \d")
@fails(ADJOINT, "seen: ")
class Transposed(Plain):
    """unrotate is rotate, of a U that is not symmetric."""

    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x).roll(1, -1)


@fails(ROUND_TRIP, "within 1e-10; seen: nan")
class NotANumber(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x) * (math.nan if x.shape[-1] == 63 else 1)


@fails(ROUND_TRIP, "expected x left as it was; seen: x changed")
class InPlaceRotation(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return x.neg_()


@fails(ROUND_TRIP, r"seen: RuntimeError: The size of tensor a \(32\) .*\(test_conformance.py, line \d+\)")
class EvenOnly(Plain):
    """one level of Haar wavelets along the last axis, broken at 63 pixels."""

    def rotate(self, x: Tensor) -> Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.cat([even + odd, even - odd], -1) / 2**0.5

    def unrotate(self, x_bar: Tensor) -> Tensor:
        sums, differences = x_bar.chunk(2, -1)
        return torch.stack([sums + differences, sums - differences], -1).flatten(-2) / 2**0.5


@fails(ROUND_TRIP, "seen: RuntimeError: .*28")
class SquareOnly(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return x if x.ndim == 3 else dct_matrix(x.shape[-1]).to(x) @ x


@fails(ROUND_TRIP, r"expected the shape of x, \(3, 1, 28, 28\); seen: \(3, 784\)")
class Flat(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x).flatten(1)


@fails(SINGLE, "expected float64 for float64; seen: torch.float32")
class AlwaysSingle(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return x.float()


@fails(SINGLE, "expected float32 for float32; seen: torch.float64")
class AlwaysDouble(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return x.double()


class RawCosines(Plain):
    """The DCT of the last axis, without any care."""

    def rotate(self, x: Tensor) -> Tensor:
        x = super().rotate(x)
        return x @ dct_matrix(x.shape[-1]).to(x)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        x_bar = super().rotate(x_bar)
        return x_bar @ dct_matrix(x_bar.shape[-1]).to(x_bar).T


@fails(ORTHOGONAL, r"< 1e-10; seen: \d.\de-0[78]")
class SingleTables(RawCosines):
    def unrotate(self, x_bar: Tensor) -> Tensor:
        return x_bar @ dct_matrix(x_bar.shape[-1]).float().to(x_bar).T


@fails(SINGLE, r"agree within 1e-5; seen: \d")
class HalfTables(RawCosines):
    def unrotate(self, x_bar: Tensor) -> Tensor:
        table = dct_matrix(x_bar.shape[-1])
        return x_bar @ (table if x_bar.dtype == torch.float64 else table.half().float()).T


@fails(AUTOCAST, "expected float32 inside autocast; seen: torch.bfloat16; look at derive it from SeparableRotation")
class Autocast(RawCosines):
    pass


@fails(AUTOCAST, "expected float32 inside autocast; seen: torch.bfloat16")
class AutocastBack(RawCosines):
    def rotate(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return super().rotate(x)


@fails(AUTOCAST, r"as outside, within 1e-5; seen: \d.\de-0[123]")
class AutocastHidden(RawCosines):
    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x).to(x.dtype)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return super().unrotate(x_bar).to(x_bar.dtype)


@fails(CHANNELS, "the same U for each channel and event, whatever the others")
class MixedChannels(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x).flip(1)


@fails(CHANNELS, "the same U for each channel and event")
class ChannelOfItsOwn(Plain):
    """each channel has another U, and none sees another."""

    def rotate(self, x: Tensor) -> Tensor:
        sign = torch.ones(x.shape[1], dtype=x.dtype)
        sign[1:] = -1
        return super().rotate(x) * sign.reshape(-1, *[1] * (x.ndim - 2))


@fails(CHANNELS, "the same U for each channel and event")
class MixedEvents(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x).flip(0)


@fails(LINEAR, r"expected U\^T \(2x - 3y\) = 2 U\^T x - 3 U\^T y; seen: a difference of 2.0e\+00")
class Affine(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x) + 1

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return super().rotate(x_bar) - 1


@fails(LINEAR, "seen: .*difference")
class OtherEachCall(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x) * (1 + next(COUNTER) % 5)


@fails(LINEAR, r"expected the random numbers of the whole process left alone; seen: those of torch are not")
class RandomMatrix(Cosines):
    """caches hide that another process gets another matrix."""

    def matrix(self, n: int) -> Tensor:
        return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]


@fails(LINEAR, r"expected the same matrix\(8\) each time; seen: another")
class EntropyMatrix(Cosines):
    def matrix(self, n: int) -> Tensor:
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "little"))
        return torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]


@fails(LINEAR, r"expected the same 'shift' of fit\(data\) each time; seen: another")
class RandomFit(Plain):
    def fit(self, data: Data) -> dict[str, Tensor]:
        return {"shift": torch.tensor(int.from_bytes(os.urandom(4), "little"))}


@fails(LINEAR, "seen: .*grad")
class NoGradient(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x).detach()


@fails(LINEAR, "expected the same numbers each time; seen: others")
class OfItsOwnMind(Plain):
    _sign: float = PrivateAttr(default_factory=itertools.cycle([1.0, -1.0]).__next__)

    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x) * self._sign


@fails(LINEAR, "expected the gradient U y; seen: a difference of")
class WrongGradient(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(2 * x.detach() - x)


@fails(ORTHOGONAL, "expected at least one size that it takes; seen: it refuses 2x8x4, 2x5x7, 1x6")
@fails(SPEED, "expected at least one size that it takes; seen: it refuses 3x64x64")
class RefusesEverySize(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        raise ConfigError("no")


@fails(SPECTRA, r"expected log D in \[-1e4, 0\]; seen: .* to 0.1")
class Amplifies(Cosines):
    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        return torch.full((n,), 0.05, dtype=torch.float64)


@fails(SPECTRA, r"log_blur_spectrum in float64; seen: torch.float32")
class SingleSpectrum(Cosines):
    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        return super().axis_log_blur(n, sigma).float()


@fails(SPECTRA, r"log_blur_spectrum that broadcast to the event \(4, 28, 36\); seen: \(1, 36, 28\)")
class TransposedSpectrum(Cosines):
    def log_blur_spectrum(self, event_shape: tuple[int, ...], sigma: float) -> Tensor:
        return super().log_blur_spectrum(event_shape, sigma).transpose(1, -1)


@fails(SPECTRA, r"expected a Gaussian blur of 0.4 pixels, as `diagonalises_blur` says; seen: \d.* off")
class ReversedSpectrum(ExactCosines):
    """each attenuation is in range, and belongs to another component."""

    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        return super().axis_log_blur(n, sigma).flip(0)


@fails(SPECTRA, r"as `diagonalises_blur` says; seen: \d.* off")
class ContinuousSpectrum(ExactCosines):
    """what a Gaussian that is not sampled would do."""

    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        return -0.5 * (sigma * dct_frequency(n)) ** 2


@fails(SPECTRA, r"frequencies in \[0, \d")
class Hertz(Cosines):
    def axis_frequency(self, n: int) -> Tensor:
        return torch.arange(n, dtype=torch.float64)


@fails(SPECTRA, "expected frequencies that rise with how fast the components vary; seen: correlation -")
class ReversedFrequencies(ExactCosines):
    def axis_frequency(self, n: int) -> Tensor:
        return dct_frequency(n).flip(0)


@fails(SPECTRA, r"frequencies in \[0, \d.*; seen: nan")
class FrequencyNotANumber(Cosines):
    def axis_frequency(self, n: int) -> Tensor:
        return dct_frequency(n) * math.nan


@fails(SPEED, "seen: RuntimeError: too large")
class SmallOnly(Plain):
    def rotate(self, x: Tensor) -> Tensor:
        if x.shape[0] == 16:
            raise RuntimeError("too large")
        return super().rotate(x)


# Schedules

F_RANGE, F_FUNCTION = (
    "f(i) is finite and never negative, for every N",
    "f(i) is a function of i and N alone, in float64",
)
F_SUM, SNR = "F_i is the sum of f", "its terminal signal-to-noise ratio"
F_PROCESS = "with it, every component is only ever destroyed, and the steps compose to the marginal"


class Ramp(BlurSchedule):
    """f rises, for others to change."""

    name = "mutant"

    def f(self, i: Tensor, N: int) -> Tensor:
        return 0.1 * i / N


@fails(F_RANGE, r"seen: schedule 'mutant' gives f\(1\) = nan at N = 2")
@fails(F_SUM, r"gives f\(1\) = nan")
class NaNSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return ((i - 1) / (i - 1)) * 0.1


@fails(F_RANGE, r"gives f\(1\) = -0.5 at N = 2")
@fails(F_PROCESS, r"gives f\(1\) = ")
@fails(SNR, r"gives f\(1\) = .*; look at `f\(i, N\)`")
class NegativeSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i / N - 1


@fails(F_PROCESS, "expected log a finite at every step; seen: at i = ")
class InfiniteSum(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return torch.full_like(i, 1e308)


@fails(F_FUNCTION, "the same value at a step whichever others are asked for; seen: .* off")
class OverLast(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i / i[-1]


@fails(F_FUNCTION, "the same value at a step whichever others are asked for; seen: .* off")
class OverLargest(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i / i.max()


@fails(F_FUNCTION, "the same value at a step whichever others")
class FromSmallest(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return (i - i.min()) / N


@fails(F_FUNCTION, r"expected values of the shape of i, \(3,\); seen: \(10,\)")
class AllSteps(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return torch.linspace(0, 1, N, dtype=torch.float64)


@fails(F_FUNCTION, "expected float64 for float64 steps; seen: torch.float32")
class SingleSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i.float() / N


@fails(F_FUNCTION, "expected i left as it was; seen: i changed")
class InPlaceSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return i.div_(N)


@fails(F_FUNCTION, "expected the same values each time; seen: others")
@fails(F_SUM, r"F_i = Σ f\(j\) within 1e-12; seen: \d")
class RandomSchedule(Ramp):
    def f(self, i: Tensor, N: int) -> Tensor:
        return torch.rand_like(i)


# Noise schedules

BETA_RANGE, BETA_FUNCTION = "β_i is in [0, 1), for every N", "β_i is a function of i and N alone, in float64"
BETA_SUM, BETA_ENDS = "log ᾱ_i is the sum of log(1 - β)", "at the end the data are gone"
FITS = "what it learns from data follows from data and rotation alone"
DESTROYS = "information is only ever destroyed, and the steps compose to the marginal"


class Steady(NoiseSchedule):
    """β is constant, for others to change."""

    name = "mutant"

    def beta(self, i: Tensor, N: int) -> Tensor:
        return torch.full_like(i, 0.01)


@fails(BETA_RANGE, r"gives beta\(2\) = 1 at N = 2; .*; look at `beta")
@fails(BETA_SUM, r"gives beta\(2\) = 1")
@fails(DESTROYS, r"gives beta\(\d+\) = 1")
@fails(BETA_ENDS, r"gives beta\(1000\) = 1")
class AllNoise(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return i / N


@fails(BETA_RANGE, r"expected β_1 > 0, or step 1 has no noise and no score; seen: β_1 = 0")
@fails(DESTROYS, "log s finite for i >= 1; seen: at i = 0 and 1 more steps|log s finite")
class NoFirstNoise(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return 0.02 * (i - 1) / N


@fails(BETA_RANGE, r"gives beta\(1\) = nan")
class NaNNoise(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return (i - 1).log() / (i - 1).log() * 0.01


@fails(BETA_FUNCTION, "whichever others are asked for")
class NoiseOverLargest(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return 0.02 * i / i.max()


@fails(BETA_SUM, r"log ᾱ_i = Σ log\(1 - β_j\) within 1e-12; seen: \d")
class RandomNoise(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return 0.02 * torch.rand_like(i)


@fails(BETA_ENDS, r"a_N < 0.5 at N = 1000; seen: a_N = 0.995")
class NeverEnds(Steady):
    def beta(self, i: Tensor, N: int) -> Tensor:
        return torch.full_like(i, 1e-5)


# Velocities

SCALES = "its scales are those of N steps, for any steps in any order"


@dataclasses.dataclass(frozen=True)
class Tables(Scales):
    """log a and log s of each step, ``(N+1, *diagonal)``."""

    a: Tensor
    s: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]
        return len(self.a) - 1

    def log_a(self, i: Tensor) -> Tensor:
        return self.a[i]

    def log_s(self, i: Tensor) -> Tensor:
        return self.s[i]


@dataclasses.dataclass(frozen=True)
class Preserving(VariancePreserving):
    """L of each step."""

    L: Tensor

    @property
    def N(self) -> int:  # type: ignore[override]
        return len(self.L) - 1

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        return self.L[i]


def cooling(N: int, event_shape: tuple[int, ...], total: float = 10.0) -> Tensor:
    """L from 0 to -total, quadratic in i."""
    t = torch.linspace(0, 1, N + 1, dtype=torch.float64)
    return -total * per_event(t**2, len(event_shape))


class Cools(Velocity):
    """a quadratic L, for others to change."""

    name = "mutant"

    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        return Preserving(self.L(event_shape, N))

    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        return cooling(N, event_shape)


@fails(
    DESTROYS,
    "the signal-to-noise ratio of 1 components grows or is NaN at step 8",
)
@fails(SNR, r"grows or is NaN at step 1000; .*; look at `scales\(rotation, event_shape, N\)`")
class Rises(Cools):
    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        L = cooling(N, event_shape)
        L[-1] = L[-2] / 2
        return L


@fails(DESTROYS, r"expected λ_i never rises; seen: it does at i = 78")
class RisesBetween(Cools):
    """where the constructor of Diffusion does not look."""

    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        L = cooling(N, event_shape)
        if N > 100:
            L[77] = L[80]
        return L


@fails(DESTROYS, "grows or is NaN")
class MoreThanAll(Cools):
    """B > 1: what is kept is the logarithm of a negative number."""

    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        B = 1.2 * per_event(torch.linspace(0, 1, N + 1, dtype=torch.float64), len(event_shape))
        return torch.log1p(-B).cumsum(0)


@fails(DESTROYS, r"expected log a in float64; seen: torch.float32")
class SingleScales(Cools):
    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        return cooling(N, event_shape).float()


@fails(DESTROYS, "expected clean events at i = 0: a_0 = 1; seen: a_0 from 0.94")
class StartsLate(Cools):
    """forgot the entry of step 0."""

    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        return cooling(N + 1, event_shape)[1:]


@fails(DESTROYS, "a_0 = 1; seen: a_0 from 0.5")
class Faint(Cools):
    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        L = cooling(N, event_shape)
        return Tables(0.5 * L + math.log(0.5), 0.5 * torch.log(-torch.expm1(L)))


@fails(DESTROYS, "expected clean events at i = 0: s_0 < 0.1; seen: s_0 = 0.5")
class NeverClean(Cools):
    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        L = cooling(N, event_shape)
        return Tables(0.5 * L, torch.full_like(L, math.log(0.5)))


@dataclasses.dataclass(frozen=True)
class SummedAsAsked(Preserving):
    """sums over the steps that it is asked for: right for all of them in order only."""

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        return self.L.diff(dim=0, prepend=torch.zeros_like(self.L[:1]))[i].cumsum(0)


@fails(DESTROYS, "the product of the one-step kernels equals the marginal within 1e-9; seen: |grows or is NaN")
@fails(SCALES, "expected the same log a in a batch and alone; seen: others")
class AsAsked(Cools):
    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        return SummedAsAsked(cooling(N, event_shape))


@dataclasses.dataclass(frozen=True)
class OneAtATime(Tables):
    """A wrong s for whoever asks for a single step after the 100th; signal-to-noise still falls."""

    def log_s(self, i: Tensor) -> Tensor:
        return self.s[i] + 0.01 * ((i > 100) & (len(i) == 1)).reshape(-1, *[1] * (self.s.ndim - 1))


@fails(DESTROYS, r"equals the marginal within 1e-9; seen: \d.\de-02")
class DoNotCompose(Cools):
    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        L = cooling(N, event_shape)
        return OneAtATime(0.5 * L, 0.5 * torch.log(-torch.expm1(L)))


@fails(FITS, "left alone; seen: those of torch are not")
class LearnsAtRandom(Cools):
    def fit(self, data: Data, rotation: Rotation) -> dict[str, Tensor]:
        return {"rate": torch.rand(3)}


@fails(FITS, "expected the same 'rate' each time; seen: another")
class LearnsAnotherEachTime(Cools):
    def fit(self, data: Data, rotation: Rotation) -> dict[str, Tensor]:
        return {"rate": torch.tensor(next(COUNTER))}


@fails(FITS, r"expected the same names each time; seen: \['\d+'\] and \['\d+'\]")
class LearnsOtherNames(Cools):
    def fit(self, data: Data, rotation: Rotation) -> dict[str, Tensor]:
        return {str(next(COUNTER)): torch.zeros(1)}


@fails(SCALES, "expected N = 20; seen: 1000")
class ThousandSteps(Cools):
    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        return cooling(1000, event_shape)


@fails(SCALES, r"the scales have shape \(7, 5, 2\), the events \(2, 5, 7\)")
class OtherShape(Cools):
    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        return cooling(N, event_shape).expand(-1, *event_shape[::-1])


@dataclasses.dataclass(frozen=True)
class OneRow(Tables):
    def log_s(self, i: Tensor) -> Tensor:
        return self.s[-1:]


@fails(DESTROYS, r"expected log s for each of N \+ 1 = 9 steps; seen: .*\[1, 1, 1, 1\]")
class ConstantNoise(Cools):
    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        L = cooling(N, event_shape)
        return OneRow(0.5 * L, torch.full_like(L, math.log(0.01)))


@dataclasses.dataclass(frozen=True)
class Lost(Preserving):
    def to(self, device: torch.device) -> Lost:
        return Lost(self.L.to(device) / 2)


@fails(SCALES, r"the same N and log s after .to\(device\); seen: others")
class LostOnTheWay(Cools):
    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        return Lost(cooling(N, event_shape))


@fails(DESTROYS, "expected a basis, shape and N that it takes; seen: not today")
class TakesNothing(Cools):
    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        raise ConfigError("not today")


# Processes

PARTS = "its parts are known by name"


class Pair(Process):
    """a process, for others to change."""

    name = "mutant"

    def parts(self) -> tuple[Rotation, Velocity]:
        return Rotation.model_validate("identity"), Velocity.model_validate("blur")


@fails(PARTS, "seen: unknown velocity 'mutant'")
@fails(DESTROYS, "grows or is NaN")
class UnknownPart(Pair):
    def parts(self) -> tuple[Rotation, Velocity]:
        return Rotation.model_validate("identity"), Rises()


class Impostor(Cosines):
    name = "dct"


@fails(PARTS, "expected rotation 'dct' in the registry; seen: DCT")
class BorrowedName(Pair):
    def parts(self) -> tuple[Rotation, Velocity]:
        return Impostor(), Velocity.model_validate("blur")


@fails(DESTROYS, "expected pictures or signals that it takes; seen: velocity 'fine-to-coarse' cannot be used")
class DoNotFit(Pair):
    def parts(self) -> tuple[Rotation, Velocity]:
        return Rotation.model_validate("identity"), Velocity.model_validate("fine-to-coarse")


# Samplers

PLAN, REPEATABLE = "its plan leads from N to 0, without a gap", "its plan is the same each time"
SKIPS, ORDER = "steps that it skips cost nothing", "it converges to the data, at the order it claims"


def ddim(diffusion: Diffusion, steps: int | None) -> Iterator[Update]:
    for i, j in itertools.pairwise(Grid.model_validate("uniform").steps(diffusion, steps)):
        yield Update(i=i, j=j, q=diffusion.at(j).log_a.exp(), b=diffusion.at(j).log_s.exp())


class Plainest(Sampler):
    """DDIM, for others to change."""

    name = "mutant"
    steps: int | None = None

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return map(self.changed, ddim(diffusion, self.steps))

    def changed(self, update: Update) -> Update:
        return update


@fails(PLAN, "expected each step to begin where the last one ended; seen: 33, then 32")
class Gap(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, j=33) if update.j == 32 else update


@fails(PLAN, "expected from 64 to 0; seen: from 64 to 1")
class StopsEarly(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return (update for update in super().updates(diffusion) if update.j)


@fails(PLAN, "expected updates; seen: none")
class NoPlan(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return iter(())


@fails(PLAN, "expected j <= i; seen: 32 -> 33")
class Returns(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        for update in super().updates(diffusion):
            yield update
            if update.j == 32:
                yield dataclasses.replace(update, i=32, j=33)
                yield update


@fails(PLAN, "expected at most 1 earlier evaluations; seen: 2 at 32 -> 31")
@fails(ORDER, "expected no error; seen: the update .* of a plan looks 2 evaluations back, where there are 1")
class LooksTooFarBack(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, past=(Past(), Past())) if update.i == 32 else update


@fails(PLAN, "finite float64 coefficients; seen: b of 1 ago at 32 -> 31: torch.float32")
class SinglePast(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, past=(Past(b=torch.zeros(1)),)) if update.i == 32 else update


@fails(PLAN, "finite float64 coefficients; seen: b at 64 -> 63: torch.float32")
class SingleCoefficients(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, b=update.b.float())


@fails(PLAN, "finite float64 coefficients; seen: q at 1 -> 0")
class InfiniteCoefficient(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, q=update.q / update.j)


@fails(PLAN, "the random numbers of the whole process left alone; seen: those of torch are not")
@fails(REPEATABLE, "equal coefficients; seen: b differs at 32 -> 31; look at a plan must not draw")
class RandomPlan(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, b=update.b * (1 + 1e-3 * torch.rand((), dtype=torch.float64)))


@fails(REPEATABLE, "expected the same steps; seen: others")
class OtherSteps(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        return ddim(diffusion, next(COUNTER) % diffusion.N + 1)


@fails(SKIPS, r"expected an error like that at all 128 of 128 steps, \d.*; seen: .* of 512")
class OneStepBack(Plainest):
    """right only where j = i-1."""

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        for update in super().updates(diffusion):
            nearest = diffusion.at(max(update.i - 1, 0)).log_s.exp()
            yield dataclasses.replace(update, b=nearest if update.j else update.b)


@fails(ORDER, r"within 1 % of the spread, in the limit; seen: 1\.\d% off")
class BiasedMean(Plainest):
    """by half a percent of the data, at the last step."""

    def changed(self, update: Update) -> Update:
        return update if update.j else dataclasses.replace(update, q=update.q * 1.005)


@fails(ORDER, r"in the limit; seen: 2\.\d% off")
class BiasedSpread(Plainest):
    """noise at the end that does not vanish with the steps."""

    def changed(self, update: Update) -> Update:
        return update if update.j else dataclasses.replace(update, e=torch.full_like(update.q, 0.2 * 0.1**0.5))


@fails(ORDER, r"expected order 1; seen: -?0?\.?\d.*: errors")
class BiasedEachStep(Plainest):
    def changed(self, update: Update) -> Update:
        return dataclasses.replace(update, q=update.q * 1.001)


@fails(ORDER, r"expected order 2; seen: 0\.9\d: errors 9.1e-02, 4.6e-02, 2.3e-02 at \(64, 128, 256\) steps")
class ClaimsTwo(Plainest):
    order = 2


@fails(ORDER, "expected order 1; seen: ")
class OneSpeed(Plainest):
    """the mean speed of all components."""

    def changed(self, update: Update) -> Update:
        b, q = (torch.full_like(value, value.mean().item()) for value in (update.b, update.q))
        return dataclasses.replace(update, b=b, q=q)


@fails(
    ORDER, "expected a process that it takes: one that preserves variance, or one of constant noise; seen: never; never"
)
class RefusesAll(Plainest):
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        raise ConfigError("never")


# Grids

FALLS, EVERY, SAME = (
    "its steps fall from N to 0",
    "it takes every step where no number is given",
    "it is the same each time",
)


class Even(Grid):
    """equally spaced, for others to change."""

    name = "mutant"

    def positions(self, diffusion: Diffusion, n: int) -> Tensor:
        return self.changed(diffusion.N * torch.arange(n, 0, -1, dtype=torch.float64) / n)

    def changed(self, positions: Tensor) -> Tensor:
        return positions


@fails(FALLS, "grid 'mutant' gives no 1 steps from 200 down to 1")
class BelowTheEnd(Even):
    def changed(self, positions: Tensor) -> Tensor:
        return positions - 1


@fails(FALLS, "grid 'mutant' gives no 3 steps from 200 down to 1")
class ZigZag(Even):
    def changed(self, positions: Tensor) -> Tensor:
        return positions if len(positions) < 3 else positions.roll(1)


@fails(FALLS, "expected 1 evaluations; seen: 200")
class IgnoresNumber(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        return list(range(diffusion.N, -1, -1))


@fails(FALLS, "expected from N = 200 to 0; seen: 200 to 200")
class EndsEarly(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        return super().steps(diffusion, n)[:-1]


@fails(FALLS, "expected falling steps; seen: ")
class TwiceEach(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        steps = super().steps(diffusion, n)
        return [steps[0], *steps[:-2], 0]


@fails(FALLS, "expected whole numbers; seen: ")
class Fractions(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        return [float(i) for i in super().steps(diffusion, n)]  # type: ignore[misc]


@fails(FALLS, "the random numbers of the whole process left alone; seen: those of torch are not")
@fails(SAME, "expected the same steps; seen: others")
class Draws(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        between = sorted((1 + torch.randperm(diffusion.N - 1)[: (n or diffusion.N) - 1]).tolist(), reverse=True)
        return [diffusion.N, *between, 0]


@fails(FALLS, "expected 3 evaluations; seen: 2")
class OneFewer(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        steps = super().steps(diffusion, n)
        return steps if n in (None, 1, 2) else [*steps[:-2], 0]


@fails(EVERY, "expected every step where no number is given; seen: 10 steps")
class TenAtMost(Even):
    def steps(self, diffusion: Diffusion, n: int | None) -> list[int]:
        return super().steps(diffusion, n or 10)


# Models

SHAPE, GRADIENTS = "it maps (x, i) to a tensor of the shape of an event", "every parameter has a gradient"
NEIGHBOURS, DEPENDS = (
    "an event's output does not depend on its batch",
    "its output depends on the event and on the step",
)
SEEDED = "its initial weights follow from the seed"


class Net(nn.Module):
    def __init__(self, event: tuple[int, ...], in_channels: int) -> None:
        super().__init__()
        self.event = event
        d = math.prod(event)
        self.reads = nn.Linear(d * in_channels // event[0], 16)
        self.step = nn.Linear(1, 16)
        self.writes = nn.Linear(16, d)

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        hidden = torch.tanh(self.hidden(self.read(x), self.embed(i)))
        return self.write(hidden).reshape(-1, *self.event)

    def read(self, x: Tensor) -> Tensor:
        return self.reads(x.flatten(1))

    def embed(self, i: Tensor) -> Tensor:
        return self.step(i[:, None] / 1000)

    def hidden(self, read: Tensor, embedded: Tensor) -> Tensor:
        return read + embedded

    def write(self, hidden: Tensor) -> Tensor:
        return self.writes(hidden)


class Perceptron(Model):
    """a small network, for others to change."""

    name = "mutant"
    net: ClassVar[type[Net]] = Net

    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        return self.net(event_shape, self.in_channels(event_shape))


class NormNet(Net):
    def __init__(self, event, in_channels):
        super().__init__(event, in_channels)
        self.norm = nn.BatchNorm1d(16)

    def hidden(self, read, embedded):
        return self.norm(read + embedded)


@fails(NEIGHBOURS, "the same output whatever else is in the batch; seen: a relative difference of")
class BatchNorm(Perceptron):
    net = NormNet


class FirstStepNet(Net):
    def embed(self, i):
        return super().embed(i[:1])


@fails(NEIGHBOURS, "whatever else is in the batch; seen: a relative difference of")
class FirstStepForAll(Perceptron):
    net = FirstStepNet


class ExplodingNet(Net):
    """what is not a number is no equal output."""

    def write(self, hidden):
        return super().write(hidden) + (hidden.var(0) if len(hidden) > 1 else hidden * math.nan).sum() * 1e-20


@fails(NEIGHBOURS, "whatever else is in the batch; seen: a relative difference of nan")
class NaNAlone(Perceptron):
    net = ExplodingNet


class UnusedNet(Net):
    def __init__(self, event, in_channels):
        super().__init__(event, in_channels)
        self.unused = nn.Linear(3, 3)


@fails(
    GRADIENTS,
    "a gradient for every parameter; seen: none for unused.weight; look at a layer that `forward` does not use",
)
class Unused(Perceptron):
    net = UnusedNet


class DetachedNet(Net):
    def read(self, x):
        return super().read(x).detach()


@fails(GRADIENTS, "seen: none for reads.weight")
class Detached(Perceptron):
    net = DetachedNet


class RootNet(Net):
    def write(self, hidden):
        return super().write(hidden.sub(hidden.detach()).sqrt() + hidden)


@fails(GRADIENTS, "expected finite gradients; seen: not so for reads.weight")
class InfiniteGradient(Perceptron):
    net = RootNet


class TimelessNet(Net):
    def embed(self, i):
        return super().embed(0 * i)


@fails(DEPENDS, "expected another output at another step; seen: the same")
class IgnoresStep(Perceptron):
    net = TimelessNet


class BlindNet(Net):
    def read(self, x):
        return super().read(0 * x)


@fails(DEPENDS, "expected another output for another event; seen: the same")
class IgnoresEvent(Perceptron):
    net = BlindNet


class FlatNet(Net):
    def forward(self, x, i):
        return super().forward(x, i).flatten(1)


@fails(SHAPE, r"an output of shape \(3, 1, 8, 8\); seen: \(3, 64\)")
class WrongShape(Perceptron):
    net = FlatNet


class DoubleNet(Net):
    def write(self, hidden):
        return super().write(hidden).double()


@fails(SHAPE, "expected float32; seen: torch.float64")
class WrongType(Perceptron):
    net = DoubleNet


class DivisionNet(Net):
    def write(self, hidden):
        return super().write(hidden) / 0


@fails(SHAPE, "expected finite numbers; seen: some are not")
class NotFinite(Perceptron):
    net = DivisionNet


class GreedyNet(Net):
    def read(self, x):
        return super().read(x.mul_(2))


@fails(SHAPE, "expected x and i left as they were; seen: they changed")
class InPlaceModel(Perceptron):
    net = GreedyNet


@fails(SHAPE, "seen: RuntimeError: .*shapes")
class NoFeatures(Perceptron):
    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        return Net(event_shape, event_shape[0])


class OwnNet(Net):
    def __init__(self, event, in_channels):
        super().__init__(event, in_channels)
        nn.init.normal_(self.writes.weight, generator=torch.Generator().manual_seed(random.getrandbits(32)))


@fails(
    SEEDED, "the same weights for the same seed; seen: writes.weight differs; look at weights drawn with a generator"
)
class OwnGenerator(Perceptron):
    net = OwnNet


class BufferNet(Net):
    def __init__(self, event, in_channels):
        super().__init__(event, in_channels)
        self.register_buffer("frequencies", torch.from_numpy(np.random.default_rng().normal(size=16)).float())

    def embed(self, i):
        return super().embed(i) * self.frequencies


@fails(SEEDED, "the same weights for the same seed; seen: frequencies differs")
class RandomBuffer(Perceptron):
    net = BufferNet


@fails(DEPENDS, "that it takes; seen: never")
class TakesNoEvent(Perceptron):
    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        raise ConfigError("never")


# Objectives

OPTIMUM, GROWS = "at the right prediction the loss and its gradient are zero", "the loss grows away from it"
WEIGHT, PER_EVENT = "its weight is finite and never negative", "it gives one loss per event"


class Weighed(Objective):
    """ε with a weight, for others to change."""

    name = "mutant"
    parametrization = Parametrization.EPS


@fails(WEIGHT, "expected finite weights >= 0; seen: -")
class NegativeWeight(Weighed):
    def weight(self, at: Level) -> Tensor:
        return at.s - 0.5


@fails(WEIGHT, "expected finite weights >= 0; seen: nan")
@fails(OPTIMUM, "expected a loss of 0; seen: nan")
class NaNWhereNoNoise(Weighed):
    def weight(self, at: Level) -> Tensor:
        return (at.s - 0.02).sqrt()


@fails(WEIGHT, "expected finite weights >= 0; seen: .* to inf")
class InfiniteWhereNoSignal(Weighed):
    def weight(self, at: Level) -> Tensor:
        return (at.s / at.a) ** 2


@fails(WEIGHT, r"expected weights that broadcast to \(100, 1, 3, 5\); seen: \(100,\)")
class FlatWeight(Weighed):
    def weight(self, at: Level) -> Tensor:
        return at.s.flatten(1).mean(1)


@fails(WEIGHT, "expected a weight above 0 somewhere; seen: none")
@fails(GROWS, "expected a positive loss for a wrong prediction; seen: 0")
class NoWeight(Weighed):
    def weight(self, at: Level) -> Tensor:
        return 0 * at.s


@fails(OPTIMUM, "expected a loss of 0; seen: 1.0e-02; look at `parametrization` and")
class WrongTarget(Weighed):
    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        return super().loss(denoiser, diffusion, x_0, i, eps + 0.1)


@fails(OPTIMUM, "expected a gradient of 0; seen: ")
class Pulls(Weighed):
    """the loss is right, and its gradient is not."""

    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        found = super().loss(denoiser, diffusion, x_0, i, eps)
        pull = denoiser(x_0, i).mean()
        return dataclasses.replace(found, per_event=found.per_event + pull - pull.detach())


@fails(PER_EVENT, "expected a parametrization: one of Parametrization; seen: 'noise'")
class NoParametrization(Weighed):
    parametrization = "noise"  # type: ignore[assignment]


@fails(PER_EVENT, r"expected an error of shape \(4, 2, 3, 5\); seen: \(4, 30\)")
class FlatError(Weighed):
    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        found = super().loss(denoiser, diffusion, x_0, i, eps)
        return dataclasses.replace(found, error_bar=found.error_bar.flatten(1))


@fails(GROWS, "expected 4 times the loss at twice the error; seen: 2.000 times")
class Absolute(Weighed):
    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        found = super().loss(denoiser, diffusion, x_0, i, eps)
        return dataclasses.replace(found, per_event=found.per_event.clamp_min(1e-12).sqrt())


@fails(PER_EVENT, "expected the same loss alone; seen: another")
class BatchWeight(Weighed):
    def weight(self, at: Level) -> Tensor:
        return at.s / at.s.mean()


@fails(PER_EVENT, r"expected shape \(4,\); seen: \(\)")
class OneLoss(Weighed):
    def loss(self, denoiser, diffusion, x_0, i, eps):  # type: ignore[no-untyped-def, misc]
        found = super().loss(denoiser, diffusion, x_0, i, eps)
        return dataclasses.replace(found, per_event=found.per_event.mean())


# Data

DECLARED, DETERMINISTIC = (
    "every event has the shape and range that it declares",
    "the event at an index is always the same",
)
ELSEWHERE, OWN = "another process sees the same events", "an event that was given away can be changed"
LENGTH, WORKERS = "its length and fingerprint hold", "any number of workers gives the same batches"


class Field(Data):
    """white noise, for others to change."""

    name = "mutant"

    @property
    def event_shape(self) -> tuple[int, ...]:
        return (1, 3, 4)

    @property
    def length(self) -> int | None:
        return 100

    def drawn(self, key: int) -> Tensor:
        return torch.rand(self.event_shape, generator=stream(key, "field")) * 2 - 1

    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(index)

    @property
    def fingerprint(self) -> str:
        return "field/1"


@fails(DECLARED, r"expected values in \[-1, 1\]; seen: -1.\d+ to 1")
class OutOfRange(Field):
    def __getitem__(self, index: int) -> Tensor:
        return 1.5 * self.drawn(index)


@fails(DECLARED, "expected float32; seen: torch.float64")
class DoubleEvents(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(index).double()


@fails(DECLARED, r"expected shape \(1, 3, 4\); seen: \(3, 4, 1\)")
class ChannelsLast(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(index).movedim(0, -1)


@fails(DECLARED, "expected finite values; seen: some are not, at index 49")
class NaNEvent(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(index) * (math.nan if index == 49 else 1)


@fails(DETERMINISTIC, "the random numbers of the whole process left alone; seen: those of torch are not")
class DrawsAnew(Field):
    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(self.event_shape)


@fails(DETERMINISTIC, "left alone; seen: those of torch are not")
class SeedsTheProcess(Field):
    """the same each time, and so is everything random after it."""

    def __getitem__(self, index: int) -> Tensor:
        torch.manual_seed(index)
        return torch.rand(self.event_shape)


@fails(DETERMINISTIC, "left alone; seen: those of numpy are not")
class SeedsNumpy(Field):
    def __getitem__(self, index: int) -> Tensor:
        np.random.seed(index)
        return self.drawn(index)


@fails(DETERMINISTIC, "the same event at the same index; seen: another asked again")
class Entropy(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(int.from_bytes(os.urandom(4), "little"))


@fails(DETERMINISTIC, "the same event at the same index; seen: another of a copy")
class KnowsItself(Field):
    _key: int = PrivateAttr(default_factory=lambda: int.from_bytes(os.urandom(4), "little"))

    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(self._key + index)


@fails(DETERMINISTIC, "different events at different indices; seen: all are equal")
class AllEqual(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(0)


@fails(ELSEWHERE, r"expected the same events and fingerprint; seen: others in another process; look at `hash\(\)`")
class Hashed(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(hash(("field", index)))


@fails(ELSEWHERE, "expected no error in another process; seen: ValueError: only here")
class OnlyHere(Field):
    where: int = os.getpid()

    def __getitem__(self, index: int) -> Tensor:
        if os.getpid() != self.where:
            raise ValueError("only here")
        return self.drawn(index)


@fails(OWN, "expected the event as it was; seen: the change; look at `__getitem__` returns its cache")
class GivesItsCache(Field):
    _events: dict[int, Tensor] = PrivateAttr(default_factory=dict)

    def __getitem__(self, index: int) -> Tensor:
        return self._events.setdefault(index, self.drawn(index))


@fails(LENGTH, "expected the same fingerprint each time; seen: another")
class CountsLooks(Field):
    _looks: list[int] = PrivateAttr(default_factory=list)

    @property
    def fingerprint(self) -> str:
        self._looks.append(1)
        return f"field {len(self._looks)}"


@fails(LENGTH, "expected the fingerprint of a copy; seen: another")
class FingerprintOfTheObject(Field):
    @property
    def fingerprint(self) -> str:
        return f"field {id(self)}"


@fails(LENGTH, "expected a text; seen: ''")
class NoFingerprint(Field):
    @property
    def fingerprint(self) -> str:
        return ""


@fails(LENGTH, "expected a positive number of events, or None; seen: 0")
class Empty(Field):
    @property
    def length(self) -> int | None:
        return 0


@fails(LENGTH, "seen: IndexError")
class NotEndless(Field):
    @property
    def length(self) -> int | None:
        return None

    def __getitem__(self, index: int) -> Tensor:
        if index > 10_000:
            raise IndexError(index)
        return self.drawn(index)


@fails(WORKERS, "expected the same events; seen: others with two workers")
class SeedOfTheWorker(Field):
    def __getitem__(self, index: int) -> Tensor:
        return self.drawn(torch.initial_seed() % 2**31 + index)


# Metrics

ALARMS = "its alarms are lines of text, and silent where the two sets are the same"
FINITE, BEST = (
    "it measures finite numbers, headline first, for pictures and signals",
    "it is best where the two sets are the same",
)
PURE = "it depends on the sets alone, and changes neither"


class Distance(Metric):
    """the distance between means and spreads, for others to change."""

    name = "mutant"

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"distance": (samples.mean() - reference.mean()).abs().item() + self.spread(samples, reference)}

    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return (samples.std() - reference.std()).abs().item()


@fails(FINITE, "expected finite numbers; seen: distance = nan")
class NaNDistance(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return math.nan


@fails(FINITE, r"expected finite numbers; seen: distance = tensor\(")
class TensorDistance(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"distance": samples.mean() - reference.mean()}  # type: ignore[dict-item]


@fails(FINITE, "expected numbers by name; seen: 0.0")
class NoNames(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return 0.0  # type: ignore[return-value]


@fails(FINITE, "expected pictures or signals that it takes; seen: never")
class MeasuresNothing(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        raise ConfigError("never")


@fails(FINITE, "seen: RuntimeError: .*size")
class EqualCounts(Distance):
    """cannot compare sets of different sizes."""

    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return float((samples.std(0) - reference.std(0)).abs().mean() + 0 * (samples - reference).mean())


@fails(BEST, "no better number for a distorted set than for the same set; seen: -0, and -")
class WrongWay(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"likeness": -super().measure(samples, reference)["distance"]}


@fails(BEST, "no better number for a distorted set than for the same set; seen: ")
class SamplesAlone(Distance):
    """never looks at the reference."""

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"contrast": samples.std().item()}


@fails(BEST, "a worse number for a set that is too strong, too weak or noisy; seen: 1, and 1, 1, 1")
class Constant(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"one": 1.0}


@fails(ALARMS, r"expected no alarm for the same set; seen: \['too much'\]")
class AlwaysAlarmed(Distance):
    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        return ["too much"]


@fails(ALARMS, r"expected a list of single lines; seen: \['too\\nmuch'\]")
class TwoLines(Distance):
    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        return ["too\nmuch"] if samples.std() > 1.5 * reference.std() else []


@fails(ALARMS, "expected a list of single lines; seen: 'too much'")
class OneAlarm(Distance):
    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        return "too much" if samples.std() > 1.5 * reference.std() else []


@fails(ALARMS, "expected the events as they were; seen: they changed")
class AlarmsInPlace(Distance):
    def alarms(self, samples: Tensor, reference: Tensor) -> list[str]:
        samples -= samples.mean()
        return []


@fails(PURE, "left alone; seen: those of torch are not")
class RandomDistance(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return torch.rand(()).item()


@fails(PURE, "left alone; seen: those of torch are not")
class SeedsMetric(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        torch.manual_seed(0)
        return super().spread(samples, reference)


@fails(PURE, "the same numbers each time; seen: others")
class UrandomDistance(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return float(int.from_bytes(os.urandom(4), "little"))


@fails(PURE, "expected the events as they were; seen: they changed")
class InPlaceDistance(Distance):
    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        samples -= samples.mean()
        reference -= reference.mean()
        return {"distance": self.spread(samples, reference)}


@fails(PURE, r"the same numbers in any order; seen: distance: \d")
class Paired(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        n = min(len(samples), len(reference))
        return (samples[:n] - reference[:n]).square().mean().item()


@fails(PURE, "the same numbers in any order; seen: distance")
class FirstOfReference(Distance):
    def spread(self, samples: Tensor, reference: Tensor) -> float:
        return (samples.std() - reference[:5].std()).abs().item()


# Loggers

READY, WHOLE_RUN = "it says clearly when it cannot work", "its observer lives through a whole run"


class Watcher:
    @hookimpl
    def gendiff_step(self, step: int, loss: float) -> None:
        assert loss == 1 / step


class Watch(Logger):
    """a logger, for others to change."""

    name = "mutant"
    watcher: ClassVar[Callable[[], object]] = Watcher

    def observer(self, run: Path) -> object:
        return type(self).watcher()


@fails(READY, "expected an error that says how to fix it; seen: no library")
class NoFix(Watch):
    def ready(self) -> None:
        raise ConfigError("no library")


@fails(READY, "seen: ModuleNotFoundError: No module named")
class ImportsInReady(Watch):
    def ready(self) -> None:
        import a_module_that_is_not_here  # noqa: F401


class Failing:
    @hookimpl
    def gendiff_samples_ready(self) -> None:
        raise OSError("disk full")


@fails(WHOLE_RUN, r"expected no error; seen: gendiff_samples_ready: OSError: disk full \(test_conformance.py, line")
class FailsInHook(Watch):
    watcher = Failing


class Exits:
    @hookimpl
    def gendiff_run_ended(self) -> None:
        raise SystemExit(3)


@fails(WHOLE_RUN, "seen: gendiff_run_ended: SystemExit: 3")
class EndsTheProgram(Watch):
    watcher = Exits


class Misspelt:
    @hookimpl
    def gendiff_steps(self, step: int) -> None:
        pass


@fails(WHOLE_RUN, "seen: PluginValidationError: unknown hook 'gendiff_steps'")
class MisspeltHook(Watch):
    watcher = Misspelt


class WrongArgument:
    @hookimpl
    def gendiff_step(self, stp: int) -> None:
        pass


@fails(WHOLE_RUN, "seen: PluginValidationError: .*stp")
class MisspeltArgument(Watch):
    watcher = WrongArgument


@fails(WHOLE_RUN, "expected an observer with at least one hook; seen: none")
class HearsNothing(Watch):
    watcher = object


@fails(WHOLE_RUN, "expected nothing on stdout; seen: 'here I am")
class Prints(Watch):
    def observer(self, run: Path) -> object:
        print("here I am")
        return Watcher()


@fails(WHOLE_RUN, "seen: RuntimeError: no observer")
class CannotBeMade(Watch):
    def observer(self, run: Path) -> object:
        raise RuntimeError("no observer")


class Meddler:
    @hookimpl
    def gendiff_run_started(self, config: dict[str, Any]) -> None:
        config.pop("N")


# Any component

NAMED, WRITTEN = "it has a name to type and a summary to read", "its spec and its table give it again"
FROZEN, SENT = "its parameters do not change", "it can be sent to another process"


@fails(NAMED, "expected a name of lower-case words joined by hyphens; seen: 'two words'")
class TwoWords(Ramp):
    """has a space in its name."""

    name = "two words"


@fails(NAMED, "joined by hyphens; seen: 'Sine'")
class Capital(Ramp):
    """has a capital letter in its name."""

    name = "Sine"


@fails(NAMED, "joined by hyphens; seen: 'a_b'")
class Underscore(Ramp):
    """has an underscore in its name."""

    name = "a_b"


@fails(NAMED, "expected a docstring whose first line says what it is; seen: none")
class Silent(Ramp):
    pass


@fails(WRITTEN, "seen: TypeError: .*NoneType")
class NoneInside(Ramp):
    parts: tuple[int | None, ...] = (1, None)


@fails(WRITTEN, r"expected the parameters \{'rate': 0.123456\}; seen: \{'rate': 0.12\}")
class Rounded(Ramp):
    rate: float = 0.123456

    @field_serializer("rate")
    def _short(self, rate: float) -> float:
        return round(rate, 2)


@fails(WRITTEN, r"seen: \{'name': 'mutant', 'rate': 4.0\}")
class DoubledWhenRead(Ramp):
    rate: float = 1.0

    @field_validator("rate")
    @classmethod
    def _twice(cls, rate: float) -> float:
        return 2 * rate


@fails(FROZEN, "expected parameters that cannot be changed in place; seen: knots is a list; look at .* use a tuple")
class ListOfKnots(Ramp):
    knots: list[float] = [1.0, 2.0]


@fails(FROZEN, "expected parameters that cannot be set; seen: rate can")
class NotFrozen(Ramp):
    model_config = ConfigDict(frozen=False)
    rate: float = 1.0


@fails(SENT, "seen: TypeError: cannot pickle '_thread.lock' object")
class HoldsALock(Ramp):
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


class Forgets(Ramp):
    """comes back with its defaults."""

    rate: float = 1.0

    def __reduce__(self) -> Any:
        return Forgets, ()


MUTANTS.append(Mutant(SENT, "expected itself again; seen: another", lambda: Forgets(rate=2), "schedule", "Forgets"))


def local_class() -> Component:
    class Local(Ramp):
        """a class that pickle cannot find."""

    return Local()


MUTANTS.append(Mutant(SENT, r"seen: \w+: .*Local", local_class, "schedule", "local_class"))

# Presets

COMMENTED, VALID = "it begins with a comment that says what it is", "it is a valid configuration"
PRESETS = {
    "no-comment": (COMMENTED, r"expected a first line like '# what it is'; seen: 'N = 10'", "N = 10\n"),
    "empty-comment": (COMMENTED, r"seen: '#'", "#\nN = 10\n"),
    "blank": (COMMENTED, r"seen: ''", ""),
    "unknown-key": (VALID, "seen: .*has no parameter 'steps'", "# steps\nsteps = 10\n"),
    "unknown-part": (VALID, "seen: unknown rotation 'dtc'", '# r\nrotation = "dtc"\n'),
    "out-of-range": (VALID, "seen: .*N = 1: ", "# too few\nN = 1\n"),
    "no-toml": (VALID, "seen: .* is not valid TOML", "# broken\nN = = 1\n"),
}


def preset(name: str, folder: Path) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(PRESETS[name][2], encoding="utf-8")
    return path


def assert_fails(one: Check, says: str) -> None:
    with pytest.raises(CheckFailed, match=f"(?s){says}") as caught:
        one()
    failed = caught.value
    assert isinstance(failed, AssertionError)
    for text in (failed.expected, failed.seen, failed.look):
        assert text.strip()
        assert "\n" not in text
    assert str(failed) == f"expected {failed.expected}; seen: {failed.seen}; look at {failed.look}"


def titled(subject: Component | Path, title: str) -> Check:
    [one] = [one for one in checks(subject) if one.title == title]
    return one


@pytest.mark.filterwarnings("default")  # a mutant may do what it likes
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.kind}-{mutant.name}: {mutant.title}")
def test_a_mutant_is_found(mutant):
    with torch.random.fork_rng(devices=[]):
        assert_fails(titled(mutant.make(), mutant.title), mutant.says)


@pytest.mark.parametrize("name", PRESETS)
def test_a_broken_preset_is_found(name, tmp_path):
    title, says, _ = PRESETS[name]
    assert_fails(titled(preset(name, tmp_path), title), says)


def test_a_preset_that_cannot_be_written_down_is_found(gendiff_registry, tmp_path):
    gendiff_registry(types.SimpleNamespace(gendiff_components=hookimpl(lambda: [DoubledWhenRead]), __name__="acme"))
    path = tmp_path / "doubled.toml"
    path.write_text('# doubled\nvelocity = "blur:schedule=mutant"\n')
    assert_fails(titled(path, VALID), "expected the same configuration when it is written and read; seen: another")


def test_no_check_is_vacuous():
    """Every check of the kinds below finds a mutant; a kind that is not among them has its own tests."""
    kinds = {mutant.kind for mutant in MUTANTS} | {"preset", "component"}
    assert kinds >= {"rotation", "schedule", "noise", "velocity", "process", "sampler", "model", "objective"}
    assert kinds >= {"data", "metric", "logger", "grid"}
    found = {(mutant.kind, mutant.title) for mutant in MUTANTS} | {
        ("preset", title) for title, _, _ in PRESETS.values()
    }
    titles = {title for _, title in found}
    for kind in kinds:
        for title, _, _ in _CHECKS[kind]:
            assert ((kind, title) in found) or (kind == "component" and title in titles), f"{kind}: {title}"


BASES = [
    Plain,
    Cosines,
    ExactCosines,
    Ramp,
    Steady,
    Cools,
    Pair,
    Plainest,
    Even,
    Perceptron,
    Weighed,
    Field,
    Distance,
    Watch,
]


@pytest.mark.parametrize("base", BASES, ids=lambda base: base.__name__)
def test_what_mutants_are_made_of_is_sound(base):
    assert [line for line in score(base()) if not line.passed] == []


# --- what is only unusual passes ------------------------------------------------------------------------------------------


def power_of_two(n: int) -> None:
    if n & (n - 1):
        raise ConfigError(f"{n} is no power of two", fix="choose one")


class Walsh(SeparableRotation):
    """for powers of two only."""

    name = "walsh-only"

    def matrix(self, n: int) -> Tensor:
        power_of_two(n)
        U = torch.ones(1, 1, dtype=torch.float64)
        while len(U) < n:
            U = torch.cat([torch.cat([U, U], 1), torch.cat([U, -U], 1)]) / 2**0.5
        return U


class SignalsOnly(Plain):
    """turns signals round."""

    name = "signals-only"

    def rotate(self, x: Tensor) -> Tensor:
        if x.ndim != 3:
            raise ConfigError("signals only", fix="give a signal")
        return super().rotate(x).flip(-1)


class SignalsOfPowersOfTwo(SignalsOnly):
    """turns signals of a power of two round."""

    name = "signals-of-powers-of-two"

    def rotate(self, x: Tensor) -> Tensor:
        power_of_two(x.shape[-1])
        return super().rotate(x)


class SquaresOnly(Plain):
    """turns squares round."""

    name = "squares-only"

    def rotate(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[-1] != x.shape[-2]:
            raise ConfigError("squares only", fix="give a square")
        return super().rotate(x).transpose(-1, -2)


class Sixteenths(Plain):
    """takes pictures whose sides are multiples of 16."""

    name = "sixteenths"

    def rotate(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[-1] % 16 or x.shape[-2] % 16:
            raise ConfigError("multiples of 16 only", fix="give a picture of 16 x 16")
        return super().rotate(x).roll(1, -1)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return x_bar.roll(-1, -1)


class NoBlurAtAll(BlurSchedule):
    """f = 0."""

    name = "no-blur-at-all"

    def f(self, i: Tensor, N: int) -> Tensor:
        return 0 * i


class OnePulse(BlurSchedule):
    """all blur at one step."""

    name = "one-pulse"

    def f(self, i: Tensor, N: int) -> Tensor:
        return 30 * (i == N // 2).double()


class Sudden(NoiseSchedule):
    """nearly nothing, then nearly everything."""

    name = "sudden"

    def beta(self, i: Tensor, N: int) -> Tensor:
        return torch.where(i < N, 1e-8, (1 - 1e-6) * i / N)


class HeatDissipation(Velocity):
    """blurs, with a little noise that does not change: the constant component keeps its signal."""

    name = "heat"

    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        time = per_event(torch.linspace(0, 20, N + 1, dtype=torch.float64) ** 2 / 2, len(event_shape))
        a = (-time * rotation.frequencies(event_shape) ** 2).clamp_min(-1e4)
        return Tables(a, torch.full_like(a, math.log(0.01)))


class Exploding(Velocity):
    """variance exploding: a = 1, s from 0.01 to 1348."""

    name = "exploding"

    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        t = per_event(torch.linspace(0, 1, N + 1, dtype=torch.float64), len(event_shape))
        return Tables(0 * t, math.log(0.01) + t * math.log(134_800))


class ExplodingFromNothing(Velocity):
    """variance exploding, s_0 = 0, and a signal that grows too."""

    name = "exploding-from-nothing"

    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        t = per_event(torch.linspace(0, 1, N + 1, dtype=torch.float64), len(event_shape))
        return Tables(t, 2 * t + torch.log(80 * t))


class SignalsVelocity(Cools):
    """for signals only."""

    name = "signals-velocity"

    def L(self, event_shape: tuple[int, ...], N: int) -> Tensor:
        if len(event_shape) != 2:
            raise ConfigError("signals only", fix="give a signal")
        return super().L(event_shape, N)


class Fifty(Plainest):
    """takes 50 steps unless it is told otherwise."""

    name = "fifty"
    steps: int | None = 50


class Reluctant(Plainest):
    """every step of a variance-preserving process, and of no other."""

    name = "reluctant"

    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        if not isinstance(diffusion.scales, VariancePreserving):
            raise ConfigError("variance-preserving processes only", fix="choose another sampler")
        return super().updates(diffusion)


class FourChannels(Perceptron):
    """for events of four channels and 32 x 32 only, one parameter frozen."""

    name = "four-channels"

    def build(self, event_shape: tuple[int, ...]) -> nn.Module:
        if event_shape != (4, 32, 32):
            raise ConfigError("four channels only", fix="give four")
        network = Net(event_shape, self.in_channels(event_shape))
        network.step.weight.requires_grad_(False)
        return network


class Droops(Net):
    def hidden(self, read: Tensor, embedded: Tensor) -> Tensor:
        return nn.functional.dropout(read + embedded, 0.5, self.training)


class Dropout(Perceptron):
    """drops half of everything while it trains."""

    name = "dropout"
    net = Droops


class TableNet(Net):
    def __init__(self, event: tuple[int, ...], in_channels: int) -> None:
        super().__init__(event, in_channels)
        self.step = nn.Embedding(1001, 16)

    def embed(self, i: Tensor) -> Tensor:
        return self.step(i.long())


class TableOfSteps(Perceptron):
    """a learned vector for each step 1..1000."""

    name = "table-of-steps"
    net = TableNet


class Partial(Weighed):
    """no weight where there is little noise."""

    name = "partial"

    def weight(self, at: Level) -> Tensor:
        return (at.s > 0.5).to(at.s)


class ScalarWeight(Weighed):
    """one number."""

    name = "scalar-weight"

    def weight(self, at: Level) -> Tensor:
        return torch.tensor(3.0)


class Single(Field):
    """one event."""

    name = "single"

    @property
    def length(self) -> int | None:
        return 1


class Unbounded(Field):
    """values without bounds."""

    name = "unbounded"
    value_range: ClassVar[tuple[float, float] | None] = None

    def __getitem__(self, index: int) -> Tensor:
        return 1e3 * self.drawn(index)


class Likeness(Distance):
    """larger is better."""

    name = "likeness"
    larger_is_better = True

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        return {"likeness": math.exp(-super().measure(samples, reference)["distance"])}


class ColourOnly(Distance):
    """takes colour pictures only."""

    name = "colour-only"

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        if samples.ndim != 4 or samples.shape[1] != 3:
            raise ConfigError("colour pictures only", fix="give three channels")
        return super().measure(samples, reference)


class Structure(Distance):
    """blind to brightness and contrast."""

    name = "structure"

    def measure(self, samples: Tensor, reference: Tensor) -> dict[str, float]:
        ours, theirs = ((x - x.mean()) / x.std() for x in (samples.double(), reference.double()))
        steps = [float((x[..., 1:] - x[..., :-1]).square().mean()) for x in (ours, theirs)]
        return {"distance": round(abs(steps[0] - steps[1]), 9)}


class Missing(Watch):
    """needs a library that is not there."""

    name = "missing"

    def ready(self) -> None:
        raise ConfigError("no library", fix="pip install library")

    def observer(self, run: Path) -> object:
        raise AssertionError("nobody should ask")


class Talker:
    @hookimpl
    def gendiff_run_started(self, run: Path) -> None:
        print("hello", (run / "run.json").read_text())  # while a run goes on, stdout is kept free for it
        assert (run / "config.toml").read_text()


class Talks(Watch):
    """prints in a hook, and reads the run."""

    name = "talks"
    watcher = Talker


class Meddles(Watch):
    """changes what it is told: nobody else notices."""

    name = "meddles"
    watcher = Meddler


class FromFile(Field):
    """has a path, a nested component and a list."""

    name = "from-file"
    path: Path = Path("some/where, else = 1")
    noise: NoiseSchedule = component.by_name("linear", "noise")
    knots: tuple[float, ...] = (0.1, 1e-300)
    maybe: str | None = None


UNUSUAL = [
    Walsh,
    SignalsOnly,
    SignalsOfPowersOfTwo,
    SquaresOnly,
    Sixteenths,
    NoBlurAtAll,
    OnePulse,
    Sudden,
    HeatDissipation,
    Exploding,
    ExplodingFromNothing,
    SignalsVelocity,
    Fifty,
    Reluctant,
    FourChannels,
    Dropout,
    TableOfSteps,
    Partial,
    ScalarWeight,
    Single,
    Unbounded,
    Likeness,
    ColourOnly,
    Structure,
    Missing,
    Talks,
    Meddles,
    FromFile,
]


@pytest.mark.parametrize("cls", UNUSUAL, ids=lambda cls: cls.__name__)
def test_what_is_only_unusual_passes(cls):
    lines = list(score(cls()))
    assert [line for line in lines if not line.passed] == []
    assert all(line.seen for line in lines)


def test_what_was_refused_is_said():
    assert "refused: 2x5x7" in titled(Walsh(), ORTHOGONAL)()
    assert "refused: 1x28x28, 1x63x63, 4x28x36, 2x48, 1x31" in titled(Walsh(), ROUND_TRIP)()
    assert "signals only" not in titled(SignalsOnly(), SPEED)()
    assert "2x48" in titled(SignalsOnly(), SPEED)()


def test_a_process_of_such_parts_passes(gendiff_registry):
    class Waves(Process):
        """square waves."""

        name = "waves"

        def parts(self) -> tuple[Rotation, Velocity]:
            return Walsh(), Velocity.model_validate("blur")

    plugin = types.SimpleNamespace(gendiff_components=hookimpl(lambda: [Walsh]), __name__="waves")
    gendiff_registry(plugin)
    lines = {line.title: line for line in score(Waves())}
    assert lines[PARTS].passed
    assert lines[PARTS].seen == "walsh-only, blur"
    assert lines[DESTROYS].passed


def test_a_small_bias_is_told_from_the_error_of_few_steps():
    """`order` looks at the limit: the error of few steps is many times larger than a bias that it finds."""
    assert _limit(Plainest()) < 1e-3
    assert _limit(BiasedMean()) == pytest.approx(0.005 * 0.8 / 0.1**0.5, rel=0.05)


# --- a kind that gendiff does not know -------------------------------------------------------------------------------------


class Taste(Component):
    """somebody else's interface."""

    kind: ClassVar[str] = "taste"
    salt: float = 1.0


class Salty(Taste):
    """more of it."""

    name = "salty"


@pytest.fixture
def taste() -> Iterator[None]:
    @check("taste", "it is not too salty", "`salt`")
    def mild(taste: Taste) -> str:
        require(taste.salt < 2, "salt < 2", f"{taste.salt:g}")
        return f"{taste.salt:g}"

    yield
    del _CHECKS["taste"]


def test_a_new_kind_brings_its_own_checks(taste):
    assert [one.title for one in checks(Salty())] == [NAMED, WRITTEN, FROZEN, SENT, "it is not too salty"]
    lines = list(score(Salty(salt=3)))
    assert [line.passed for line in lines] == [True, True, True, True, False]
    assert lines[-1] == Line("it is not too salty", False, "3", "salt < 2", "`salt`")
    assert all(line.passed for line in score(Salty()))


def test_a_new_kind_without_checks_has_those_of_any_component():
    assert [one.title for one in checks(Salty())] == [NAMED, WRITTEN, FROZEN, SENT]


# --- the card --------------------------------------------------------------------------------------------------------------


def test_score_goes_on_after_a_failure():
    lines = list(score(NegativeSchedule()))
    assert [line.title for line in lines] == [one.title for one in checks(NegativeSchedule())]
    failed = [line for line in lines if not line.passed]
    assert {line.title for line in failed} == {NAMED, F_RANGE, F_SUM, F_PROCESS, SNR}
    for line in lines:
        assert line.seen
        assert bool(line.expected) == bool(line.look) == (not line.passed)


def test_a_check_is_a_titled_callable():
    one = titled(Ramp(), F_RANGE)
    assert str(one) == F_RANGE
    assert one.subject == Ramp()
    assert one() == "f from 0.0001 to 0.1 at N = 1000"


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (ValueError("bad\nvalue"), "ValueError: bad value"),
        (AssertionError(""), "AssertionError:"),
        (SystemExit(2), "SystemExit: 2"),
        (RecursionError("deep"), "RecursionError: deep"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_component_raises_is_a_failure_with_words(raised, seen):
    def function(subject: object) -> str:
        raise raised

    one = Check("a title", "a place", function, Ramp())
    with pytest.raises(CheckFailed) as caught:
        one()
    assert (caught.value.expected, caught.value.look) == ("no error", "a place")
    assert caught.value.seen.startswith(seen)
    assert caught.value.__cause__ is raised


def test_somebody_who_wants_to_stop_can():
    def function(subject: object) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Check("a title", "a place", function, Ramp())()


def test_a_check_may_say_where_to_look_itself():
    def function(subject: object) -> str:
        raise CheckFailed("this", "that", "here")

    with pytest.raises(CheckFailed, match=r"^expected this; seen: that; look at here$"):
        Check("a title", "there", function, Ramp())()
    assert str(CheckFailed("this", "that")) == "expected this; seen: that"


def test_require():
    require(True, "anything", "anything")
    with pytest.raises(CheckFailed, match="expected one; seen: two"):
        require(False, "one", "two")


def test_the_largest_error_is_not_lost():
    assert largest(1, 3, 2) == 3
    assert math.isnan(largest(1, math.nan))
    assert math.isnan(largest(math.nan, 1))


def test_checks_are_registered_once():
    for kind, found in _CHECKS.items():
        titles = [title for title, _, _ in found]
        assert len(set(titles)) == len(titles), kind
        for _, look, function in found:
            assert look, function
            assert function.__doc__, function


# --- the pytest plugin -------------------------------------------------------------------------------------------------------


class Bad:
    """a plugin that announces what is not there."""

    def __init__(self, found: Callable[[], list[Any]]) -> None:
        self.gendiff_components = hookimpl(found)


def raises() -> list[Any]:
    raise RuntimeError("no components today")


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (raises, "no components today"),
        (lambda: [int], "is not a component class"),
        (lambda: [Lazy("schedule", "gone", "a_module_that_is_not_here:Gone", "is not there")], "schedule 'gone': "),
        (lambda: [type("Linear", (Ramp,), {"name": "linear"})], "schedule 'linear' is already provided by gendiff"),
        (lambda: print("loud") or [], "it printed at import: 'loud'"),
    ],
    ids=["raises", "no-component", "announces-nothing", "name-taken", "prints"],
)
def test_the_fixture_fails_on_a_broken_plugin(gendiff_registry, found, says):
    before = component.component_class("schedule", "linear")
    with pytest.raises(AssertionError, match=says):
        gendiff_registry(Bad(found))
    assert component.component_class("schedule", "linear") is before


def test_the_fixture_holds_gendiffs_plugins_and_the_given_ones_alone(gendiff_registry, monkeypatch):
    class Sine(Ramp):
        """another."""

        name = "sine"

    plugin = types.ModuleType("acme")
    plugin.gendiff_components = hookimpl(lambda: [Sine])  # type: ignore[attr-defined]
    registry = gendiff_registry(plugin)
    assert {entry.provider.distribution for entry in registry.entries()} == {"gendiff", "acme"}
    assert registry.component_class("schedule", "sine") is Sine
    assert BlurSchedule.model_validate("sine") == Sine()  # by the resolver in force
    assert Velocity.model_validate("blur:schedule=sine").schedule == Sine()
    other = gendiff_registry()
    assert "sine" not in other.names("schedule")
    with pytest.raises(ConfigError, match="unknown schedule 'sine'"):
        BlurSchedule.model_validate("sine")


PLUGIN_SESSION = """
import pytest
from gendiff import names

def mine(kind, name):
    return "mine"

def resolver():
    return names.default_resolver()

@pytest.fixture(scope="module", autouse=True)
def own():
    names.set_default_resolver(mine)

def test_in_force(gendiff_registry):
    registry = gendiff_registry()
    assert resolver() == registry.component_class

def test_restored():
    assert resolver() is mine

def test_after_a_failure(gendiff_registry):
    gendiff_registry()
    assert resolver() is not mine
    raise ValueError("on purpose")

def test_restored_again():
    assert resolver() is mine
"""


def test_the_fixture_restores_what_was_in_force(tmp_path):
    (tmp_path / "test_session.py").write_text(PLUGIN_SESSION)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_session.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 3 passed" in done.stdout, done.stdout
    assert "ValueError: on purpose" in done.stdout


def test_a_pytest_session_does_not_import_torch():
    code = (
        "import sys, gendiff.testing.pytest_plugin; assert not {'torch', 'numpy'} & {*sys.modules};"
        "from gendiff.testing import SmoothNoise, fitted, checks; assert 'torch' in sys.modules;"
        "import gendiff.testing as kit; assert all(hasattr(kit, name) for name in kit.__all__);"
        "assert not hasattr(kit, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_nothing_of_a_check_depends_on_the_one_before():
    """The sum of what is seen is the same in any order, speeds aside."""
    subject = Rotation.model_validate("dct")
    found = [one for one in checks(subject) if one.title != SPEED]
    seen = [
        hashlib.sha256(repr(sorted((one.title, one()) for one in some)).encode()).hexdigest()
        for some in (found, found[::-1])
    ]
    assert seen[0] == seen[1]
