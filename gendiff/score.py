r"""Score model: what is believed about x_0 given x_i.

Every prediction is one of seven views of the same belief, the pivot ``(x̂_0, ε̂)`` with ``x̄_i = a x̂_0 + s ε̂``:

    ε        score = -ε/s        std = s ε        v = a ε - s x_0        x_0        T = sin θ (x_0 - m)/sqrt(c) - cos θ ε
    residual = a_{i-1} x_0 - x̄_i

There are seven conversions in (`decode`) and seven out (`encode`), all elementwise in rotated coordinates.

T is the Wiener view: what is left to predict after the best linear guess, the Wiener filter of data with mean m and variance
c per component. With ``y = (x̄ - a m)/sqrt(v)`` and θ as in `gendiff.level`, ``x̂_0 = m + sqrt(c) (cos θ y + sin θ T)`` and
``ε̂ = sin θ y - cos θ T``: nothing is divided by a or by s. T has unit variance at every step and component, Gaussian data that
are diagonal in U have T = 0, and the probability-flow ODE of every process is ``dy/dθ = -T``. Its network sees y, which has unit
variance too (`network_input`). Isotropic, with a = 1 and m = 0, it is the preconditioning of Karras et al. 2022 (arXiv
2206.00364); variance-preserving with m = 0, c = 1 it is -v.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

import torch
from torch import Tensor

from gendiff.condition import Given
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.level import Level
from gendiff.shapes import ShownByShape, check_kind, check_steps, takes

#: Below this log a the component is pure prior: x_0 cannot be read off x_i and ε, whose difference is rounding error.
LOG_A_PRIOR = -14.0


class Parametrization(StrEnum):
    """What the output of a network stands for."""

    EPS = "eps"
    X_0 = "x0"
    SCORE = "score"
    STD = "std"
    V = "v"
    WIENER = "wiener"
    RESIDUAL = "residual"

    @classmethod
    def _missing_(cls, value: object) -> None:
        raise ArgumentError(f"unknown parametrization {value!r}", details=[f"known: {', '.join(cls)}"])


@dataclass(frozen=True, repr=False)
class Pivot(ShownByShape):
    """The belief ``(x̂_0, ε̂)`` in rotated coordinates, each ``(B, *event)``."""

    x_0: Tensor
    eps: Tensor


def encode(parametrization: Parametrization, pivot: Pivot, at: Level) -> Tensor:
    """The view of ``pivot`` that ``parametrization`` names.

    Raises:
        ArgumentError: for a name that is none, and at step 0 for what is not there: the score and the residual.

    """
    match Parametrization(parametrization):
        case Parametrization.EPS:
            return pivot.eps
        case Parametrization.X_0:
            return pivot.x_0
        case Parametrization.SCORE:
            check_steps(at.i, at.N, least=1)
            return -pivot.eps / at.s
        case Parametrization.STD:
            return at.s * pivot.eps
        case Parametrization.V:
            return at.a * pivot.eps - at.s * pivot.x_0
        case Parametrization.WIENER:
            return at.sin * (pivot.x_0 - at.m) / at.c.sqrt() - at.cos * pivot.eps
        case Parametrization.RESIDUAL:
            return (at.before.a - at.a) * pivot.x_0 - at.s * pivot.eps


def decode(parametrization: Parametrization, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
    """The pivot that a network's output stands for, given ``x̄_i``; s must be positive, a may vanish.

    Raises:
        ArgumentError: for the name of a parametrization that is none, and at step 0, where no noise tells of anything.

    """
    check_steps(at.i, at.N, least=1)
    match Parametrization(parametrization):
        case Parametrization.EPS:
            return from_eps(output, x_bar, at)
        case Parametrization.X_0:
            return from_x_0(output, x_bar, at)
        case Parametrization.SCORE:
            return from_eps(-at.s * output, x_bar, at)
        case Parametrization.STD:
            return from_eps(output / at.s, x_bar, at)
        case Parametrization.V:
            norm = at.a**2 + at.s**2
            return Pivot(x_0=(at.a * x_bar - at.s * output) / norm, eps=(at.s * x_bar + at.a * output) / norm)
        case Parametrization.WIENER:
            y = normalized(x_bar, at)
            x_0 = at.m + at.c.sqrt() * (at.cos * y + at.sin * output)
            return Pivot(x_0=x_0, eps=at.sin * y - at.cos * output)
        case Parametrization.RESIDUAL:
            return from_residual(output, x_bar, at)


def from_x_0(x_0: Tensor, x_bar: Tensor, at: Level) -> Pivot:
    """``ε̂ = (x̄_i - a x̂_0)/s``: also how ε̂ follows after x̂_0 was clipped or guided."""
    return Pivot(x_0=x_0, eps=(x_bar - at.a * x_0) / at.s)


def from_eps(eps: Tensor, x_bar: Tensor, at: Level) -> Pivot:
    """``x̂_0 = (x̄_i - s ε̂)/a``, and m (then ε̂ = (x̄_i - a m)/s) where the component is pure prior."""
    prior = at.log_a < LOG_A_PRIOR
    x_0 = torch.where(prior, at.m, (x_bar - at.s * eps) / torch.where(prior, 1.0, at.a))
    return Pivot(x_0=x_0, eps=torch.where(prior, (x_bar - at.a * at.m) / at.s, eps))


def from_residual(residual: Tensor, x_bar: Tensor, at: Level) -> Pivot:
    """``x̂_0 = (x̄_i + residual)/a_{i-1}``, and m where a_{i-1} has vanished; ε̂ such that `encode` gives the residual again.

    So ``x̄_i + residual = x̄_i + (a_{i-1} - a_i) x̂_0 - s ε̂`` for every component, whatever the network says of dead ones.
    """
    before = at.before
    prior = before.log_a < LOG_A_PRIOR
    x_0 = torch.where(prior, at.m, (x_bar + residual) / torch.where(prior, 1.0, before.a))
    return Pivot(x_0=x_0, eps=((before.a - at.a) * x_0 - residual) / at.s)


def normalized(x_bar: Tensor, at: Level) -> Tensor:
    """``y = (x̄_i - a m)/sqrt(v)``."""
    return (x_bar - at.a * at.m) / at.v.sqrt()


def check_moments(parametrization: Parametrization, knows_data: bool) -> None:
    """Raise `ArgumentError` where T is to be predicted, which is written in m and c, of data that nobody looked at."""
    if parametrization is Parametrization.WIENER and not knows_data:
        raise ArgumentError(
            "a network that predicts T needs mean and variance of the data, and this process was given none",
            details=["T is what the best linear guess leaves open, which they decide"],
            fix="give them: Diffusion.of(..., moments=Moments.fit(data, rotation)); Moments.standard(...) is m = 0, c = 1",
        )


def network_input(parametrization: Parametrization, x_bar: Tensor, at: Level) -> Tensor:
    """What the network sees, in rotated coordinates: ``x̄_i``, and y where it predicts T."""
    return normalized(x_bar, at) if parametrization is Parametrization.WIENER else x_bar


class ScoreModel(ABC):
    """Anything that turns ``x̄_i`` into a pivot.

    ``value_range`` says where the values of its events lie, to which a sampler may clamp x̂_0; None where they have no bounds.
    ``condition`` is what it is told of the events besides: its belief is about ``q(x_0 | condition)``, and where that is empty
    about ``q(x_0)``.
    """

    value_range: tuple[float, float] | None = None
    condition: Given = MappingProxyType({})

    def given(self, condition: Given) -> ScoreModel:
        """The same model under another condition, of one event or of each of a batch; nothing, for ``{}``.

        Raises:
            ConfigError: where it does not take such a condition; here, where there is any.

        """
        if condition:
            raise ConfigError(
                f"a {type(self).__name__} takes no condition",
                details=[f"it is to be told of {', '.join(condition)}"],
                fix="train a network that does: gendiff train --condition NAME",
            )
        return self

    @abstractmethod
    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        """The belief about ``(x̄_0, ε̄)`` given ``x̄_i``, ``(B, *event)``, at one step 1 <= i <= N or at steps of shape ``(B,)``.

        Differentiable in ``x_bar`` and in what the model is made of; `sample` says when a graph is kept.

        Raises:
            ArgumentError: where a step is outside 1..N, or ``x_bar`` is no batch of events.

        """


def believe(model: ScoreModel, x_bar: Tensor, i: int | Tensor) -> Pivot:
    """What a model believes of ``x̄_i``, looked at before anything is made of it.

    Raises:
        ArgumentError: where ``model`` is no score model.
        PluginError: where its answer is anything but a `Pivot` of two tensors like ``x_bar``.

    """
    check_kind(model, ScoreModel, "model")
    try:
        pivot = model.predict(x_bar, i)
    except TypeError as error:
        if takes(model.predict, x_bar, i):
            raise
        raise PluginError(f"the score model cannot be asked: {error}", fix="write its predict(x_bar, i)") from error
    fault = "" if isinstance(pivot, Pivot) else f"a {type(pivot).__name__}"
    for name, value in (("x_0", pivot.x_0), ("eps", pivot.eps)) if not fault else ():
        if not isinstance(value, Tensor):
            fault = fault or f"a {type(value).__name__} as {name}"
        elif (value.shape, value.dtype, value.device) != (x_bar.shape, x_bar.dtype, x_bar.device):
            fault = fault or f"{name} of shape {tuple(value.shape)}, {value.dtype}, on {value.device}"
    if fault:
        answer = f"a Pivot of two tensors of shape {tuple(x_bar.shape)}, {x_bar.dtype}, on {x_bar.device}"
        raise PluginError(
            f"the score model returned {fault}".replace("torch.", ""),
            details=[f"expected: {answer}".replace("torch.", "")],
            fix="return that from its predict(x_bar, i)",
        )
    return pivot
