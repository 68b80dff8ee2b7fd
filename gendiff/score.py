r"""Score model: what is believed about x_0 given x_i.

Every prediction is a view of the same belief, the pivot ``(x̂_0, ε̂)`` with ``x̄_i = a x̂_0 + s ε̂``:

    ε        score = -ε/s        std = s ε        v = a ε - s x_0        x_0        T = sin θ (x_0 - m)/sqrt(c) - cos θ ε
    residual = a_{i-1} x_0 - x̄_i        velocity = N ((a_i - a_{i-1}) x_0 + (s_i - s_{i-1}) ε), dx_t/dt for t = i/N

Each has a conversion in (`decode`) and one out (`encode`), elementwise in rotated coordinates; whoever writes another registers
it by subclassing `Parametrization`. The velocity is the slope over the step that ends at i: exact where a and s are linear in
t, as in rectified flow, and dx_t/dt as N grows. Of a component that rests in that step it says nothing, and the best linear
guess (the Wiener filter) is believed.

T is the Wiener view: what is left to predict after the best linear guess, the Wiener filter of data with mean m and variance
c per component. With ``y = (x̄ - a m)/sqrt(v)`` and θ as in `gendiff.level`, ``x̂_0 = m + sqrt(c) (cos θ y + sin θ T)`` and
``ε̂ = sin θ y - cos θ T``: nothing is divided by a or by s. T has unit variance at every step and component, Gaussian data that
are diagonal in U have T = 0, and the probability-flow ODE of every process is ``dy/dθ = -T``. Its network sees y, which has unit
variance too (`network_input`). Isotropic, with a = 1 and m = 0, it is the preconditioning of Karras et al. 2022 (arXiv
2206.00364); variance-preserving with m = 0, c = 1 it is -v.
"""

from __future__ import annotations

from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema
from torch import Tensor

from gendiff.condition import Given
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.level import Level
from gendiff.shapes import ShownByShape, check_kind, check_steps, per_event, takes

#: Below this log a the component is pure prior: x_0 cannot be read off x_i and ε, whose difference is rounding error.
LOG_A_PRIOR = -14.0

#: Below this slope of θ per unit of t a component rests: its velocity is rounding error.
RESTS = 1e-9


class _Registered(ABCMeta):
    """Names the registered views, in the order in which they came."""

    def __iter__(cls) -> Iterator[Parametrization]:
        return iter(_REGISTERED.values())


class Parametrization(str, metaclass=_Registered):
    """What the output of a network stands for: a view of the pivot, by its name.

    ``Parametrization("v")`` is the registered one of that name. Another is a subclass with a ``name``, and the two conversions:
    both elementwise in rotated coordinates, and affine. It is registered when its class is made, and an objective names it
    (``parametrization = Parametrization("mine")``); ``gendiff plugins check`` of that objective looks at the conversions.

    Raises:
        ArgumentError: where no view has that name.
        PluginError: where a class has a name that another has already, or lacks a conversion.

    """

    name: ClassVar[str]
    #: Whether it is written in mean and variance of the data, which must then be known.
    needs_moments: ClassVar[bool] = False
    #: What a mean squared error of 1 of it is, as the end of "a loss of 1 is ..."; empty where that says nothing by itself.
    loss_of_one: ClassVar[str] = ""
    #: What its errors are of, where the units are those of the data: " of x_0".
    of: ClassVar[str] = ""

    EPS: ClassVar[Parametrization]
    X_0: ClassVar[Parametrization]
    SCORE: ClassVar[Parametrization]
    STD: ClassVar[Parametrization]
    V: ClassVar[Parametrization]
    WIENER: ClassVar[Parametrization]
    RESIDUAL: ClassVar[Parametrization]
    VELOCITY: ClassVar[Parametrization]

    def __new__(cls, name: str) -> Parametrization:
        if name not in _REGISTERED:
            raise ArgumentError(f"unknown parametrization {name!r}", details=[f"known: {', '.join(_REGISTERED)}"])
        return _REGISTERED[name]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        name = getattr(cls, "name", None)
        if not isinstance(name, str) or not name:
            raise PluginError(f"the parametrization {cls.__name__} has no name", fix="give it a name: name = ...")
        lacks = [
            method for method in ("of_pivot", "to_pivot") if getattr(cls, method) is getattr(Parametrization, method)
        ]
        if lacks:
            raise PluginError(f"the parametrization '{name}' lacks {' and '.join(lacks)}", fix=f"write {lacks[0]}")
        other = _REGISTERED.get(name)
        if other is not None and type(other).__qualname__ != cls.__qualname__:  # a file may be read twice
            raise PluginError(
                f"two parametrizations are named '{name}'",
                details=[f"{type(each).__module__}.{type(each).__qualname__}" for each in (other,)],
                fix="give the new one another name",
            )
        _REGISTERED[name] = str.__new__(cls, name)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def named(value: str) -> Parametrization:
            try:
                return Parametrization(value)
            except ArgumentError as error:
                raise ValueError(error.what) from error

        as_text = core_schema.to_string_ser_schema()
        return core_schema.no_info_after_validator_function(named, core_schema.str_schema(), serialization=as_text)

    def __reduce__(self) -> tuple[type[Parametrization], tuple[str]]:
        return Parametrization, (str(self),)

    def __str__(self) -> str:
        return str.__str__(self)

    @property
    def value(self) -> str:
        """Its name."""
        return str(self)

    def of_pivot(self, pivot: Pivot, at: Level) -> Tensor:
        """The view of ``pivot`` at the steps ``at``."""

    def to_pivot(self, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
        """The pivot whose view is ``output``, given ``x̄_i``; s > 0, and a may vanish: finite there too."""

    def sees(self, x_bar: Tensor, at: Level) -> Tensor:
        """What the network sees of ``x̄_i``: here that itself."""
        return x_bar


_REGISTERED: dict[str, Parametrization] = {}


@dataclass(frozen=True, repr=False)
class Pivot(ShownByShape):
    """The belief ``(x̂_0, ε̂)`` in rotated coordinates, each ``(B, *event)``."""

    x_0: Tensor
    eps: Tensor


class _Eps(Parametrization):
    name = "eps"
    loss_of_one = "that of an output of 0, which knows nothing of the noise"

    def of_pivot(self, pivot: Pivot, at: Level) -> Tensor:
        return pivot.eps

    def to_pivot(self, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
        return from_eps(output, x_bar, at)


class _X0(Parametrization):
    name = "x0"
    of = " of x_0"

    def of_pivot(self, pivot: Pivot, at: Level) -> Tensor:
        return pivot.x_0

    def to_pivot(self, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
        return from_x_0(output, x_bar, at)


class _Score(Parametrization):
    name = "score"
    loss_of_one = "a mean squared error of 1 of the score"

    def of_pivot(self, pivot: Pivot, at: Level) -> Tensor:
        check_steps(at.i, at.N, least=1)
        return -pivot.eps / at.s

    def to_pivot(self, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
        return from_eps(-at.s * output, x_bar, at)


class _Std(Parametrization):
    name = "std"
    of = " of s ε"

    def of_pivot(self, pivot: Pivot, at: Level) -> Tensor:
        return at.s * pivot.eps

    def to_pivot(self, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
        return from_eps(output / at.s, x_bar, at)


class _V(Parametrization):
    name = "v"
    loss_of_one = "that of an output of 0, for data of mean square 1"

    def of_pivot(self, pivot: Pivot, at: Level) -> Tensor:
        return at.a * pivot.eps - at.s * pivot.x_0

    def to_pivot(self, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
        norm = at.a**2 + at.s**2
        return Pivot(x_0=(at.a * x_bar - at.s * output) / norm, eps=(at.s * x_bar + at.a * output) / norm)


class _Wiener(Parametrization):
    name = "wiener"
    needs_moments = True
    loss_of_one = "that of the best linear guess, an output of 0"

    def of_pivot(self, pivot: Pivot, at: Level) -> Tensor:
        return at.sin * (pivot.x_0 - at.m) / at.c.sqrt() - at.cos * pivot.eps

    def to_pivot(self, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
        y = normalized(x_bar, at)
        x_0 = at.m + at.c.sqrt() * (at.cos * y + at.sin * output)
        return Pivot(x_0=x_0, eps=at.sin * y - at.cos * output)

    def sees(self, x_bar: Tensor, at: Level) -> Tensor:
        return normalized(x_bar, at)


class _Residual(Parametrization):
    name = "residual"

    def of_pivot(self, pivot: Pivot, at: Level) -> Tensor:
        return (at.before.a - at.a) * pivot.x_0 - at.s * pivot.eps

    def to_pivot(self, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
        return from_residual(output, x_bar, at)


class _Velocity(Parametrization):
    name = "velocity"
    of = " of dx_t/dt"

    def of_pivot(self, pivot: Pivot, at: Level) -> Tensor:
        rate_a, rate_s = (rate.to(at.dtype) for rate in _rates(at))
        return rate_a * pivot.x_0 + rate_s * pivot.eps

    def to_pivot(self, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
        # a ṡ - s ȧ, the slope of -λ times a s: 0 where a component rests, of which the velocity says nothing.
        rate_a, rate_s = _rates(at)
        a, s = at.log_a.exp(), at.log_s.exp()
        norm = a * rate_s - s * rate_a
        rests = norm <= RESTS * (a**2 + s**2)
        x_0, x_eps, out_0, out_eps = (
            (value / torch.where(rests, 1.0, norm)).to(at.dtype) for value in (rate_s, -rate_a, -s, a)
        )
        best = at.m + (at.c * at.a / at.v) * (x_bar - at.a * at.m)
        return Pivot(
            x_0=torch.where(rests, best, x_0 * x_bar + out_0 * output),
            eps=torch.where(rests, (x_bar - at.a * best) / at.s, x_eps * x_bar + out_eps * output),
        )


for _name in ("EPS", "SCORE", "STD", "V", "WIENER", "RESIDUAL", "VELOCITY"):
    setattr(Parametrization, _name, _REGISTERED[_name.lower()])
Parametrization.X_0 = _REGISTERED["x0"]


def _rates(at: Level) -> tuple[Tensor, Tensor]:
    """``N (a_i - a_{i-1})`` and ``N (s_i - s_{i-1})``, float64: slopes over the step that ends at i, for t = i/N.

    At a real step those of the whole steps beside it, in proportion: what a network says there goes over into what it says at
    whole ones, however it was trained.
    """
    if not at.i.dtype.is_floating_point:
        before = at.before
        return at.N * (at.log_a.exp() - before.log_a.exp()), at.N * (at.log_s.exp() - before.log_s.exp())
    left = at.i.detach().floor().clamp(1, at.N - 1)
    share = (at.i - left).clamp_min(0)
    share = share[0] if at.one else per_event(share, at.log_a.ndim - 1)
    (a_left, s_left), (a_right, s_right) = (_rates(at.beside(i)) for i in (left.long(), left.long() + 1))
    return torch.lerp(a_left, a_right, share), torch.lerp(s_left, s_right, share)


def encode(parametrization: Parametrization | str, pivot: Pivot, at: Level) -> Tensor:
    """The view of ``pivot`` that ``parametrization`` names.

    Raises:
        ArgumentError: for a name that is none, and at step 0 for what is not there: score, residual, velocity.

    """
    return Parametrization(parametrization).of_pivot(pivot, at)


def decode(parametrization: Parametrization | str, output: Tensor, x_bar: Tensor, at: Level) -> Pivot:
    """The pivot that a network's output stands for, given ``x̄_i``; s must be positive, a may vanish.

    Raises:
        ArgumentError: for the name of a parametrization that is none, and at step 0, where no noise tells of anything.

    """
    check_steps(at.i, at.N, least=1)
    return Parametrization(parametrization).to_pivot(output, x_bar, at)


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
    if not parametrization.needs_moments or knows_data:
        return
    output = "T" if parametrization is Parametrization.WIENER else f"the {parametrization}"
    raise ArgumentError(
        f"a network that predicts {output} needs mean and variance of the data, and this process was given none",
        details=[
            "T is what the best linear guess leaves open, which they decide"
            if parametrization is Parametrization.WIENER
            else f"the {parametrization} is written in them"
        ],
        fix="give them: Diffusion.of(..., moments=Moments.fit(data, rotation)); Moments.standard(...) is m = 0, c = 1",
    )


def network_input(parametrization: Parametrization, x_bar: Tensor, at: Level) -> Tensor:
    """What the network sees, in rotated coordinates: ``x̄_i``, y where it predicts T, or what another view says."""
    return parametrization.sees(x_bar, at)


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
    def predict(self, x_bar: Tensor, i: float | Tensor) -> Pivot:
        """The belief about ``(x̄_0, ε̄)`` given ``x̄_i``, ``(B, *event)``, at one step 1 <= i <= N or at steps of shape ``(B,)``.

        Differentiable in ``x_bar`` and in what the model is made of; `sample` says when a graph is kept.

        Raises:
            ArgumentError: where a step is outside 1..N, or ``x_bar`` is no batch of events.

        """


def believe(model: ScoreModel, x_bar: Tensor, i: float | Tensor) -> Pivot:
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
