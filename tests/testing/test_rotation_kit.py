"""What the kit asks of a rotation: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import itertools
import math
import os

import pytest
import torch
from flaws import COUNTER, NAMED, SPEED, Fails, assert_found, broken, each, titled, titles
from parts import Cosines, Walsh, power_of_two
from pydantic import PrivateAttr
from torch import Tensor

from gendiff import Data, Rotation
from gendiff.blur import log_attenuation
from gendiff.dct import dct_matrix
from gendiff.errors import ConfigError, PluginError
from gendiff.frequency import dct_frequency
from gendiff.testing import score
from gendiff.testing.card import CheckFailed

fails = Fails()

TAKEN = "it takes events of every size, or says which it does not take"


ORTHOGONAL, ROUND_TRIP = "U^T U = I in float64", "rotate is the inverse of unrotate, on all sizes and channels"


ADJOINT, SINGLE = "rotate is the adjoint of unrotate", "float32 in, float32 out, within 1e-5"


AUTOCAST, CHANNELS = "autocast does not lower its precision", "it treats each channel alike"


LINEAR, SPECTRA = "it is linear and deterministic", "blur and frequency of its components are in range"


class Plain(Rotation):
    """the identity, for others to change."""

    name = "mutant"

    def rotate(self, x: Tensor) -> Tensor:
        return x if x.dtype == torch.float64 else x.float()

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return self.rotate(x_bar)


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


@fails(
    TAKEN,
    r"U of 2x5x7, or a refusal; seen: RuntimeError: .*\(test_rotation_kit.py, line \d+\); so at 1x63x63, 1x31; look at `refusal",
)
class EvenOnly(Plain):
    """one level of Haar wavelets along the last axis, broken at 63 pixels."""

    def rotate(self, x: Tensor) -> Tensor:
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.cat([even + odd, even - odd], -1) / 2**0.5

    def unrotate(self, x_bar: Tensor) -> Tensor:
        sums, differences = x_bar.chunk(2, -1)
        return torch.stack([sums + differences, sums - differences], -1).flatten(-2) / 2**0.5


@fails(TAKEN, "U of 2x8x4, or a refusal; seen: RuntimeError: .*; so at 2x5x7, 3x4x8, 4x28x36")
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


@fails(TAKEN, "expected at least one size that it takes; seen: it refuses 2x8x4, 2x5x7, 1x6")
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


@fails(SPECTRA, r"expected frequencies that broadcast to the event \(1, 28, 28\); seen: \(28, 28\)")
class FrequenciesWithoutChannels(ExactCosines):
    def frequencies(self, event_shape: tuple[int, ...]) -> Tensor:
        return super().frequencies(event_shape)[0]


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


# --- what is only unusual passes ----------------------------------------------------------------------------------------


class SignalsOnly(Plain):
    """turns signals round; says while it rotates that it takes nothing else."""

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
    """turns squares round, and refuses all others."""

    name = "squares-only"

    def refusal(self, event_shape: tuple[int, ...]) -> str:
        square = len(event_shape) == 3 and event_shape[-1] == event_shape[-2]
        return "" if square else "they are no squares"

    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x).transpose(-1, -2).contiguous().reshape(x.shape)


class PowersOfTwo(Plain):
    """a level of Haar wavelets after the other along the last axis, as long as it can be halved to one."""

    name = "powers-of-two"

    def refusal(self, event_shape: tuple[int, ...]) -> str:
        n = event_shape[-1]
        return "the last side is no power of two" if n & (n - 1) else ""

    def rotate(self, x: Tensor) -> Tensor:
        x, details = super().rotate(x), []
        while x.shape[-1] > 1:
            even, odd = x[..., 0::2], x[..., 1::2]
            details.insert(0, (even - odd) / 2**0.5)
            x = (even + odd) / 2**0.5
        return torch.cat([x, *details], -1)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        x = x_bar[..., :1]
        while x.shape[-1] < x_bar.shape[-1]:
            details = x_bar[..., x.shape[-1] : 2 * x.shape[-1]]
            x = torch.stack([x + details, x - details], -1).flatten(-2) / 2**0.5
        return x


class Sixteenths(Plain):
    """takes pictures whose sides are multiples of 16."""

    name = "sixteenths"

    def refusal(self, event_shape: tuple[int, ...]) -> str:
        fits = len(event_shape) == 3 and not any(n % 16 for n in event_shape[1:])
        return "" if fits else "a side is no multiple of 16"

    def rotate(self, x: Tensor) -> Tensor:
        return super().rotate(x).roll(1, -1)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return x_bar.roll(-1, -1)


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("rotation") <= fails.titles


@each(Plain, Cosines, ExactCosines)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(Walsh, SignalsOnly, SignalsOfPowersOfTwo, SquaresOnly, PowersOfTwo, Sixteenths)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []


class Terse(Sixteenths):
    """says that it refuses a size, and not why."""

    name = "terse"

    def refusal(self, event_shape: tuple[int, ...]) -> str:
        return bool(super().refusal(event_shape))  # type: ignore[return-value]  # what an author may do


def test_a_refusal_that_is_no_text_is_explained_once():
    with pytest.raises(CheckFailed, match=r"rotation 'terse': refusal\(\(2, 8, 4\)\) gave True, no text"):
        titled(Terse(), TAKEN)()
    assert titled(Terse(), ROUND_TRIP)()
    with pytest.raises(PluginError, match="gave True, no text") as caught:
        Terse().require((2, 5, 7))
    assert "return a text, such as 'a side is no power of two'" in caught.value.fix


def test_what_was_refused_is_said():
    assert "refused: 2x5x7" in titled(Walsh(), ORTHOGONAL)()
    assert "refused: 1x28x28, 1x63x63, 4x28x36, 2x48, 1x31" in titled(Walsh(), ROUND_TRIP)()
    assert "signals only" not in titled(SignalsOnly(), SPEED)()
    assert "2x48" in titled(SignalsOnly(), SPEED)()


def test_a_size_that_is_refused_is_tried_by_no_check(monkeypatch):
    """The author says once what it does not take; no check then meets an error at that size."""
    rotate, sides = PowersOfTwo.rotate, set()

    def recorded(self, x):
        sides.add(x.shape[-1])
        return rotate(self, x)

    monkeypatch.setattr(PowersOfTwo, "rotate", recorded)
    assert broken(PowersOfTwo()) == []
    assert sides == {4, 8, 16, 32, 64}


@pytest.mark.parametrize(
    ("cls", "taken", "refused", "reason"),
    [
        (PowersOfTwo, "2x8x4, 1x8x8, 2x8, 1x16x16, 3x4x8, 3x32x32, 2x32", "2x5x7, 1x6", "the last side is no power of two"),
        (SquaresOnly, "1x8x8, 1x16x16, 1x28x28, 3x32x32, 1x63x63", "2x8x4, 2x5x7, 1x6", "they are no squares"),
        (SignalsOnly, "1x6, 2x8, 2x48, 1x31, 2x32", "2x8x4, 2x5x7", "signals only"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_which_sizes_were_tried_and_which_were_refused_is_said(cls, taken, refused, reason):
    said = titled(cls(), TAKEN)()
    assert said.startswith(f"tried {taken}; refused {refused}, ")
    assert said.endswith(f": {reason}")


def test_a_size_at_which_it_only_fails_costs_one_check_and_not_eight():
    failed = [line.title for line in score(EvenOnly()) if not line.passed]
    assert [title for title in failed if title != NAMED] == [TAKEN]
    assert "left out, since it fails there: 1x63x63, 1x31" in titled(EvenOnly(), ROUND_TRIP)()
