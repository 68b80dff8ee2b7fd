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

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import torch
from torch import Tensor, nn

from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError, PluginError
from gendiff.level import Level
from gendiff.shapes import EventShape, ShownByShape, check_kind, check_steps, check_values, takes

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


def check_moments(parametrization: Parametrization, diffusion: Diffusion) -> None:
    """Raise `ArgumentError` where T is to be predicted, which is written in m and c, of data that nobody looked at."""
    if parametrization is Parametrization.WIENER and not diffusion.knows_data:
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
    """

    value_range: tuple[float, float] | None = None

    @abstractmethod
    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        """The belief about ``(x̄_0, ε̄)`` given ``x̄_i``, ``(B, *event)``, at one step 1 <= i <= N or at steps of shape ``(B,)``.

        Differentiable in ``x_bar`` and in what the model is made of; `sample` says when a graph is kept.

        Raises:
            ArgumentError: where a step is outside 1..N, or ``x_bar`` is no batch of events.

        """


def ask(network: nn.Module, x: Tensor, i: Tensor, event_shape: EventShape, dtype: torch.dtype | None = None) -> Tensor:
    """What a network says of ``x`` at steps ``i``, ``(B, *event)``, asked in the precision of its own weights.

    Args:
        dtype: a lower precision in which it may answer, besides float32 and float64.

    Raises:
        PluginError: where the answer is anything but that: a tuple, other channels, another type of number.

    """
    weights = network.parameters() if isinstance(network, nn.Module) else ()
    if isinstance(network, type) or not callable(network):
        check_kind(network, nn.Module, "the network")
    x = x.to(next((weight.dtype for weight in weights if weight.is_floating_point()), x.dtype))
    try:
        output: Tensor = network(x, i)
    except TypeError as error:
        if takes(network.forward if isinstance(network, nn.Module) else network, x, i):
            raise
        raise PluginError(
            f"the network cannot be asked: {error}",
            details=["it is called with events (B, C, *spatial) and steps (B,)"],
            fix="write its forward(x, i), or wrap it in a module that does",
            subject="model.name",
        ) from error
    expected = (len(x), *event_shape)
    fault = ""
    if not isinstance(output, Tensor):
        fault = f"a {type(output).__name__}"
    elif output.device != x.device:
        fault = f"a tensor on {output.device}"
    elif output.layout != torch.strided:
        fault = "a sparse tensor"
    elif output.shape != expected:
        fault = f"a tensor of shape {tuple(output.shape)}"
    elif output.dtype not in (torch.float32, torch.float64, x.dtype, dtype):
        fault = f"numbers of type {output.dtype}".replace("torch.", "")
    if fault:
        raise PluginError(
            f"the network returned {fault}",
            details=[f"expected: one tensor of shape {expected}, {x.dtype}".replace("torch.", "")],
            fix="return that from its forward(x, i), or wrap it in a module that does",
            subject="model.name",
        )
    return output


class Clamped(ScoreModel):
    """Another model with x̂_0 clamped to the range of its events, **in event space**; ε̂ follows from that."""

    def __init__(self, model: ScoreModel, diffusion: Diffusion) -> None:
        self.model = model
        self.diffusion = diffusion
        self.value_range = model.value_range

    def __repr__(self) -> str:
        return f"Clamped({self.model})"

    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        pivot = believe(self.model, x_bar, i)
        if self.value_range is None:
            return pivot
        x_0 = self.diffusion.unrotate(pivot.x_0).clamp(*self.value_range)
        return from_x_0(self.diffusion.rotate(x_0), x_bar, self.diffusion.at(i, x_bar.dtype))


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
        expected = f"a Pivot of two tensors of shape {tuple(x_bar.shape)}, {x_bar.dtype}, on {x_bar.device}"
        raise PluginError(
            f"the score model returned {fault}".replace("torch.", ""),
            details=[f"expected: {expected}".replace("torch.", "")],
            fix="return that from its predict(x_bar, i)",
        )
    return pivot


class Denoiser(nn.Module):
    """A network on events, with what it needs to know of the rotation.

    Args:
        network: maps ``(B, in_channels, *spatial)`` and ``i`` to ``(B, *event)``.
        diffusion: gives U^T x where the network wants frequency features.
        frequency_features: concatenate U^T x to x along the channels.

    ``autocast`` (default None: float32) is the lower precision in which the network alone runs.

    """

    def __init__(self, network: nn.Module, diffusion: Diffusion, frequency_features: bool = False) -> None:
        super().__init__()
        self.network = network
        self.diffusion = diffusion
        self.frequency_features = frequency_features
        self.autocast: torch.dtype | None = None

    def to(self, device: torch.device) -> Self:  # type: ignore[override]  # a device is all it can move to
        """Move the network and the tables of the process."""
        self.diffusion = self.diffusion.to(device)
        return super().to(device)

    def extra_repr(self) -> str:
        """The process, for the repr of the module."""
        return repr(self.diffusion)

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        """The raw output in event space, float32, for ``x`` of shape ``(B, *event)`` and steps ``i`` of shape ``(B,)``."""
        if self.frequency_features:
            x = torch.cat([x, self.diffusion.rotate(x)], dim=1)
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            output = ask(self.network, x, i.to(x.dtype), self.diffusion.event_shape, self.autocast)
        return output.float()


class NetworkScore(ScoreModel):
    """A trained network as a score model.

    Args:
        denoiser: maps what it sees of ``x_i`` (`network_input`), and i, in event space to what ``parametrization`` says.
        value_range: of the events, which samplers that clamp keep x̂_0 in: (-1, 1) for pictures. None, as for events without
            bounds, clamps nothing: only who knows the data can say it.

    Raises:
        ArgumentError: where one of these is not that, or the network predicts T and nobody has told ``diffusion`` mean and
            variance of the data.

    """

    def __init__(
        self,
        denoiser: nn.Module,
        diffusion: Diffusion,
        parametrization: Parametrization | str,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        check_kind(diffusion, Diffusion, "diffusion")
        if value_range is not None and not _is_range(value_range):
            details = ["two finite numbers, the lower first, such as (-1, 1), or None"]
            raise ArgumentError(f"value_range is {value_range!r}", details=details)
        self.denoiser = denoiser
        self.diffusion = diffusion
        self.parametrization = Parametrization(parametrization)
        self.value_range = value_range
        check_moments(self.parametrization, diffusion)

    def __repr__(self) -> str:
        inner = self.denoiser.network if isinstance(self.denoiser, Denoiser) else self.denoiser
        size = sum(parameter.numel() for parameter in inner.parameters()) if isinstance(inner, nn.Module) else 0
        return f"NetworkScore({type(inner).__name__} with {size:,} parameters, predicts {self.parametrization}, {self.diffusion})"

    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        at = self.diffusion.asked(x_bar, i)
        x = self.diffusion.unrotate(network_input(self.parametrization, x_bar, at))
        output = ask(self.denoiser, x, at.i.expand(len(x)), self.diffusion.event_shape)
        return decode(self.parametrization, self.diffusion.rotate(output.to(x_bar.dtype)), x_bar, at)


def _spreads(shape: Sequence[int], event_shape: EventShape) -> bool:
    """Whether a tensor of that shape broadcasts to the event, and not beyond."""
    return len(shape) <= len(event_shape) and all(
        own in (1, size) for own, size in zip(reversed(shape), reversed(event_shape), strict=False)
    )


def _is_range(limits: object) -> bool:
    numbers = (
        isinstance(limits, tuple | list) and len(limits) == 2 and all(isinstance(end, int | float) for end in limits)
    )
    return numbers and math.isfinite(limits[0]) and math.isfinite(limits[1]) and limits[0] < limits[1]  # type: ignore[index]


class GaussianScore(ScoreModel):
    r"""The optimal model of Gaussian data ``x̄_0 ~ N(m, diag c)``, diagonal in the rotation of the process.

    ``x̂_0 = m + (a c / v)(x̄ - a m)`` and ``ε̂ = (s / v)(x̄ - a m)`` with ``v = a² c + s²``.

    Args:
        mean, variance: m and c >= 0, finite, broadcasting to the event.

    Raises:
        ArgumentError: where one of these is not that.

    """

    def __init__(self, diffusion: Diffusion, mean: Tensor, variance: Tensor) -> None:
        check_kind(diffusion, Diffusion, "diffusion")
        for name, value in (("mean", mean), ("variance", variance)):
            check_kind(value, Tensor, name)
            check_values(value, name)
            if not _spreads(value.shape, diffusion.event_shape):
                raise ArgumentError(
                    f"{name} has the shape {tuple(value.shape)}", details=[f"events have {diffusion.event_shape}"]
                )
            if not value.isfinite().all():
                raise ArgumentError(f"{name} is not finite")
        if (variance < 0).any():
            raise ArgumentError("variance is below 0")
        self.diffusion = diffusion
        self.mean = mean
        self.variance = variance

    def __repr__(self) -> str:
        return f"GaussianScore({self.diffusion})"

    def predict(self, x_bar: Tensor, i: int | Tensor) -> Pivot:
        at = self.diffusion.asked(x_bar, i)
        m, c = self.mean.to(x_bar), self.variance.to(x_bar)
        residual = (x_bar - at.a * m) / (at.a**2 * c + at.s**2)
        return Pivot(x_0=m + at.a * c * residual, eps=at.s * residual)
