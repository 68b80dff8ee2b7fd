"""What the kit asks of a velocity: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch
from flaws import COUNTER, DESTROYS, FITS, SNR, Fails, assert_found, broken, each, titles
from parts import Cools, Preserving, Rises, cooling
from torch import Tensor

from gendiff import Data, Rotation, Scales, Velocity
from gendiff.errors import ConfigError
from gendiff.shapes import per_event

fails = Fails()

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


fails(SNR, r"grows or is NaN at step 1000; .*; look at `scales\(rotation, event_shape, N\)`")(Rises)
fails(
    DESTROYS,
    "the signal-to-noise ratio of 1 components grows or is NaN at step 8",
)(Rises)


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


# --- what is only unusual passes ----------------------------------------------------------------------------------------


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


LEARNS = "what it learns with a network moves its scales, and λ never rises"


class Paced(Velocity):
    """cools at a pace that is learned with a network."""

    name = "paced"
    trained: ClassVar[tuple[str, ...]] = ("pace",)
    pace: float = 0.0

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        return {"pace": torch.tensor([self.pace], dtype=torch.float64)}

    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        pace = self.learned["pace"] if self.has_learned else self.fit(None, rotation)["pace"]
        return Preserving(cooling(N, event_shape) * pace.exp())

    def written(self, learned: Mapping[str, Tensor]) -> Mapping[str, object]:
        return {"pace": float(learned["pace"])}


@fails(LEARNS, "expected scales that its `written` parameters give again; seen: others")
class Forgets(Paced):
    """does not say where it has come to."""

    def written(self, learned: Mapping[str, Tensor]) -> Mapping[str, object]:
        return {}


@fails(LEARNS, "expected a gradient of λ at steps 1..N in each, finite and not 0; seen: none")
class Deaf(Paced):
    """computes its scales where no gradient comes through."""

    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        with torch.no_grad():
            return super().scales(rotation, event_shape, N)


@fails(LEARNS, "expected fit gives what is trained; seen: no pace")
class Unfitted(Paced):
    """trains what it never had."""

    def fit(self, data: Data, rotation: Rotation) -> Mapping[str, Tensor]:
        return {"rate": torch.zeros(1)}

    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        return Preserving(cooling(N, event_shape))


class Wrapper(Velocity):
    """another velocity as it is, which does not say what that one learns."""

    name = "wrapper"
    velocity: Velocity = Paced()

    def scales(self, rotation: Rotation, event_shape: tuple[int, ...], N: int) -> Scales:
        return self.velocity.scales(rotation, event_shape, N)


def test_what_would_never_be_learned_is_refused():
    Wrapper(velocity=Cools())
    with pytest.raises(ConfigError, match="'wrapper': what velocity 'paced' learns with a network would never move"):
        Wrapper(velocity=Paced())


# --- the kit ------------------------------------------------------------------------------------------------------------


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("velocity") <= fails.titles


@each(Cools)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(Paced, HeatDissipation, Exploding, ExplodingFromNothing, SignalsVelocity)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []
