"""Probes: what components are tried on."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gendiff.blur import symmetric_blur
from gendiff.data import Data
from gendiff.errors import ConfigError, GendiffError, reason
from gendiff.level import Level
from gendiff.moments import Moments
from gendiff.rotation import Rotation
from gendiff.scales import Scales, VariancePreserving
from gendiff.shapes import EventShape, per_event, shown_shape
from gendiff.streams import stream
from gendiff.testing.card import require
from gendiff.velocity import Velocity

#: Events of the sizes that people have: even, odd, powers of two, not square, several channels, signals.
EVENTS: tuple[EventShape, ...] = ((1, 28, 28), (3, 32, 32), (1, 63, 63), (4, 28, 36), (2, 48), (1, 31), (2, 32))
#: Sizes that all differ: a tensor laid out wrongly cannot pass for one laid out rightly.
SMALL: EventShape = (2, 5, 7)
#: Small enough for whole matrices; one for whoever takes signals only, squares, powers of two or three channels only.
SMALLS: tuple[EventShape, ...] = ((2, 8, 4), SMALL, (1, 6), (1, 8, 8), (2, 8), (1, 16, 16), (3, 4, 8))


class SmoothNoise(Data):
    """blurred noise of any shape, for components that learn from data."""

    name = "smooth-noise"
    shape: tuple[int, ...]
    sigma: float = 0.8

    @property
    def event_shape(self) -> EventShape:
        return self.shape

    @property
    def length(self) -> int | None:
        return 64

    def __getitem__(self, index: int) -> Tensor:
        white = torch.randn(1, *self.shape, generator=stream(0, "smooth-noise", index), dtype=torch.float64)
        return symmetric_blur(white, self.sigma)[0].float().clamp(-1, 1)

    @property
    def fingerprint(self) -> str:
        return self.spec


@lru_cache(maxsize=32)
def fitted(rotation: Rotation, event_shape: EventShape) -> Rotation:
    """A rotation ready for events of that shape: one that learns from data has learned from smooth noise."""
    if rotation.has_learned:
        return rotation
    learned = rotation.fit(SmoothNoise(shape=event_shape))
    return rotation.with_learned(learned) if learned else rotation


def fitted_velocity(velocity: Velocity, rotation: Rotation, event_shape: EventShape) -> Velocity:
    """A velocity ready for that rotation and events of that shape: one that learns from data has learned from smooth noise."""
    if velocity.has_learned:
        return velocity
    learned = velocity.fit(SmoothNoise(shape=event_shape), rotation)
    return velocity.with_learned(learned) if learned else velocity


def noise(shape: tuple[int, ...], key: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """N(0, I) of that shape, always the same for the same key."""
    return torch.randn(shape, generator=stream(key, "check"), dtype=dtype)


_SEED = 1_190_494_759


@contextmanager
def undisturbed() -> Iterator[None]:
    """The random numbers of the whole process are nobody's to draw or to seed: fails where the block did."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(_SEED)  # seeds that nobody else uses: whoever seeds is noticed too
    np.random.seed(_SEED)
    random.seed(_SEED)
    try:
        set_ = _random_states()
        yield
        names = [name for name, state in _random_states().items() if state != set_[name]]
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])
    require(not names, "the random numbers of the whole process left alone", f"those of {', '.join(names)} are not")


def _random_states() -> dict[str, object]:
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": pickle.dumps(np.random.get_state()),
        "random": random.getstate(),
    }


class Sizes:
    """The event shapes that a component takes, of those that are tried.

    One that it refuses (`Rotation.refusal`, or a `ConfigError`) is skipped, and recorded in ``refused`` with its reason; one at
    which it fails with an error that says nothing of sizes in ``failed``: that is one flaw, and one check is there for it.
    """

    def __init__(self, shapes: tuple[EventShape, ...] = EVENTS) -> None:
        self.shapes = shapes
        self.refused: dict[EventShape, str] = {}
        self.failed: dict[EventShape, str] = {}

    def of(self, rotation: Rotation) -> Iterator[tuple[EventShape, Rotation]]:
        """Each shape with the rotation ready for it."""
        takes = False
        for shape in self.shapes:
            try:
                rotation.require(shape)
                ready = fitted(rotation, shape)
                ready.unrotate(ready.rotate(noise((1, *shape))))
            except ConfigError as error:
                self.refused[shape] = rotation.refusal(shape) or error.what
                continue
            except GendiffError as error:
                if error.subject != "rotation.refusal":
                    raise
                self.failed[shape] = error.what
                continue
            except Exception as error:  # somebody else's component may raise anything
                self.failed[shape] = reason(error)
                continue
            takes = True
            yield shape, ready
        require(takes, "at least one size that it takes", "; ".join(self._skipped()))

    def _skipped(self) -> Iterator[str]:
        if self.refused:
            yield f"it refuses {listed(self.refused)}"
        if self.failed:
            yield f"it fails at {listed(self.failed)}: {next(iter(self.failed.values()))}"

    def seen(self, result: str) -> str:
        """What was measured, and what was skipped."""
        skipped = [("refused", self.refused), ("left out, since it fails there", self.failed)]
        return "; ".join([result, *(f"{why}: {listed(shapes)}" for why, shapes in skipped if shapes)])


def listed(shapes: Iterable[EventShape]) -> str:
    """Shapes as a score card names them."""
    return ", ".join(map(shown_shape, shapes))


@dataclass(frozen=True)
class SmoothScales(VariancePreserving):
    """A process with a limit: ``L_i = -rate_k (i/N)²``, each component at its own rate, whatever N is.

    Samplers converge on it as N grows, and at N nothing of the data is left.
    """

    N: int
    rate: Tensor

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        t = per_event(i.double() / self.N, self.rate.ndim)
        return -self.rate * t**2


@dataclass(frozen=True)
class SteadyScales(VariancePreserving):
    """A process whose λ falls in N - 1 equal steps from ``first`` at i = 1 to ``last`` at N, each component at its own pace.

    Where ``first`` is large, next to nothing is left to do in the last step of a sampler, and where ``last`` is far below 0, next
    to nothing of the data is left at N: what remains is the error of the steps between, at its order.
    """

    N: int
    first: Tensor
    last: Tensor

    def log_alpha_bar(self, i: Tensor) -> Tensor:
        i = per_event(i.double(), self.first.ndim)
        lam = self.first + (self.last - self.first) * (i - 1) / (self.N - 1)
        return torch.where(i == 0, 0.0, logsigmoid(2 * lam))


@dataclass(frozen=True)
class _Fixed(Scales):
    """The same a and s at every step."""

    a: Tensor
    s: Tensor
    N: int = 2

    def log_a(self, i: Tensor) -> Tensor:
        return self.a.double().log()

    def log_s(self, i: Tensor) -> Tensor:
        return self.s.double().log()


def level(a: Tensor, s: Tensor, mean: float = 0.0, variance: float = 1.0) -> Level:
    """A level with these scales, of any shape, for data of these moments; float64."""
    moments = Moments(torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64))
    return Level(_Fixed(a, s), moments.mean, moments.variance, torch.tensor([1]), torch.float64)
