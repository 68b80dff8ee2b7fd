r"""Fitting: parameters of a process for which the predicted error is smallest.

The parameters are numbers that a velocity and the components it owns declare as fields, a third party's among them; each is
looked for in the range that its field declares, or in one that is given. The error is that of `gendiff.lab.prediction` for one
sampler and number of steps. It is neither smooth nor convex (a grid takes whole steps), so differential evolution (SciPy) looks
all over the ranges first, and Powell's method then goes on from the best that it found; both without derivatives, in
``asinh((p - low)/(start - low))``, which is linear up to the value that the search starts from and logarithmic beyond.

Two constraints. A process must be one: λ never rises, and whatever else its components refuse. And it must end, or doing nothing
would be best of all: the data-SNR of every component at N is at most -10 dB (rule ``never-ends`` of `gendiff.lab.diagnosis`).
Some processes, heat among them, keep components whatever their parameters, and say so by where they start: with the prior
``matched`` or ``data`` a component that is above -10 dB at the start of the search may stay there, but not rise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import differential_evolution, minimize
from torch import Tensor

from gendiff.command import is_command, option
from gendiff.component import Component, declared_range
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, GendiffError, did_you_mean
from gendiff.grid import GridSampler
from gendiff.lab.diagnosis import GONE
from gendiff.lab.forward import DECIBEL, as_planned, in_frequencies
from gendiff.lab.prediction import diagonal, thinned
from gendiff.lab.recursion import Gaussian, NetworkError, law
from gendiff.machine.threads import one_thread
from gendiff.moments import Moments
from gendiff.run.config import Config
from gendiff.run.layers import Layer, resolve
from gendiff.sampler import Sampler

REFUSED = 1e3  # what a process that is none costs; others cost the log of their error
EVALUATIONS = 400  # of the error, about at most
MEMBERS = 24  # of a generation
SLACK = 0.5  # decibel by which a component may miss its limit in the end: the constraint is a cost


@dataclass(frozen=True)
class Parameter:
    """A number of a velocity that may be changed.

    Args:
        path: where it is in the configuration, such as ``"velocity.schedule.f_max"``.
        value: what it is.
        low, high: its range; infinite where none is declared.

    """

    path: str
    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def bounded(self) -> bool:
        """Whether its range has two ends."""
        return math.isfinite(self.high - self.low)

    @property
    def missing(self) -> str:
        """Which ends its range lacks: ``"no upper end"``; empty where it has both."""
        ends = [name for name, limit in (("lower", self.low), ("upper", self.high)) if not math.isfinite(limit)]
        return {0: "", 1: f"no {''.join(ends)} end", 2: "no range"}[len(ends)]

    @property
    def unit(self) -> float:
        """How large a change is of the order of the value itself."""
        return self.value - self.low or 1e-3 * (self.high - self.low)

    def coordinate(self, value: float) -> float:
        """``asinh((value - low)/unit)``."""
        return math.asinh((value - self.low) / self.unit)

    def at(self, coordinate: float) -> float:
        """The value of a coordinate, within the range."""
        return min(max(self.low + self.unit * math.sinh(coordinate), self.low), self.high)


def parameters(component: Component, path: str = "velocity") -> list[Parameter]:
    """All numbers (not integers) of a component and those it owns."""
    return list(_parameters(component, path))


def _parameters(component: Component, path: str) -> Iterator[Parameter]:
    for name, info in type(component).model_fields.items():
        value = getattr(component, name)
        if isinstance(value, Component):
            yield from _parameters(value, f"{path}.{name}")
        elif isinstance(value, float):
            yield Parameter(f"{path}.{name}", value, *declared_range(info))


def chosen(velocity: Component, ranges: Mapping[str, tuple[float, float] | None]) -> list[Parameter]:
    """The parameters to fit: those of ``ranges``, by path or its end, in a range or the declared one; by default all with one.

    Raises:
        ConfigError: for a name that is none or several, a range without two ends, and where nothing is left to fit.

    """
    there = parameters(velocity)
    if not ranges:
        free = [parameter for parameter in there if parameter.bounded]
    else:
        free = [_named(there, name, limits) for name, limits in ranges.items()]
    if not free:
        raise ConfigError(
            f"velocity '{velocity.name}' has no number with a range to fit",
            details=[f"its numbers: {', '.join(parameter.path for parameter in there) or 'none'}"],
            fix=f"give the range of one: {varying('NAME')}",
        )
    return free


def varying(name: str) -> str:
    """How the range of a number is given: an option to a command, an entry of ``ranges`` in Python."""
    return option("--vary", f"{name}=LOW:HIGH") if is_command() else f'ranges={{"{name}": (LOW, HIGH)}}'


def kept(velocity: Component, free: Sequence[Parameter], ranges: Mapping[str, Any]) -> dict[str, str]:
    """The numbers that are not fitted, by path, and why each is not."""
    names = {parameter.path for parameter in free}
    reasons = {}
    for parameter in parameters(velocity):
        if parameter.path not in names:
            name = parameter.path.rpartition(".")[2]
            why = f"it declares {parameter.missing}: {varying(name)}" if parameter.missing else ""
            reasons[parameter.path] = (
                why or f"{', '.join(ranges)} alone {'is' if len(ranges) == 1 else 'are'} asked for"
            )
    return reasons | dict.fromkeys(_whole(velocity, "velocity"), "it is a whole number")


def _whole(component: Component, path: str) -> Iterator[str]:
    for name in type(component).model_fields:
        value = getattr(component, name)
        if isinstance(value, Component):
            yield from _whole(value, f"{path}.{name}")
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{path}.{name}"


def _named(there: Sequence[Parameter], name: str, limits: tuple[float, float] | None) -> Parameter:
    matching = [parameter for parameter in there if f".{parameter.path}".endswith(f".{name}")]
    if len(matching) != 1:
        paths = [parameter.path for parameter in matching or there]
        near = "" if matching else did_you_mean(name, [path.rpartition(".")[2] for path in paths])
        raise ConfigError(
            f"'{name}' is {'several numbers' if matching else 'no number'} of this velocity",
            details=[f"{'they are' if matching else 'its numbers'}: {', '.join(paths) or 'none'}", near],
            fix="name one of them",
        )
    parameter = matching[0]
    if limits is not None:
        parameter = replace(parameter, low=limits[0], high=limits[1])
    if not (parameter.bounded and parameter.low < parameter.high):
        raise ConfigError(f"'{parameter.path}' declares no range with two ends", fix=f"give one: {varying(name)}")
    if not parameter.low <= parameter.value <= parameter.high:
        raise ConfigError(
            f"{parameter.path} = {parameter.value:g} is outside {parameter.low:g}..{parameter.high:g}",
            fix="give a range that holds the value from which the search starts",
        )
    return parameter


@dataclass(frozen=True)
class Fit:
    """What was found.

    Args:
        config: with the fitted values and the sampler.
        values: by path.
        before, after: the error at the start and at the end.
        evaluations: how often it was computed.

    """

    config: Config
    values: dict[str, float]
    before: float
    after: float
    evaluations: int


@one_thread()
def fit(
    config: Config,
    sampler: Sampler,
    target: Gaussian | None,
    free: Sequence[Parameter],
    evaluations: int = EVALUATIONS,
    wrong: NetworkError | None = None,
) -> Fit:
    """Choose the values of ``free`` for which ``sampler`` has the smallest error.

    Args:
        config: fitted to its data.
        sampler: with its number of steps.
        target: the data in the coordinates of the process; None takes independent components with its moments.
        evaluations: of the error, about at most.
        wrong: what a network gets wrong at every evaluation; None for the optimal model.

    Raises:
        ConfigError: where the sampler cannot sample the process, and where no process that ends was found.
        GendiffError: where the error is not finite whatever the parameters.

    """
    config = config.fitted()  # its moments are in the basis that it then has
    start = config.diffusion()
    limit = torch.tensor(GONE, dtype=torch.float64)
    if sampler.prior != "standard":
        limit = _data_snr(start).clamp_min(GONE)
    moments = in_frequencies(start, config.training).moments  # of the data
    few = target is None and _same_steps(sampler, as_planned(start, config.training))

    def error(candidate: Config) -> tuple[float, float]:
        """The error, and by how many decibel a component is too alive at N."""
        diffusion = candidate.diffusion()
        if target is not None:
            return float(law(diffusion, sampler, target, wrong).distance(target).sum()), _alive(diffusion, limit)
        search, weight = as_planned(diffusion, config.training), torch.ones(())
        data = Diffusion(search.rotation, search.scales, search.event_shape, moments)
        if few:
            (search, weight), (data, _) = thinned(search), thinned(data)
        gaussian = diagonal(data)
        each = law(search, sampler, gaussian, wrong).distance(gaussian)
        return float((each * weight.flatten()).sum()), _alive(diffusion, limit)

    best, count = config, 1
    before, alive = error(config)
    best_cost = _cost(before, alive)

    def cost(y: np.ndarray) -> float:
        nonlocal best, best_cost, count
        count += 1
        try:
            numbers = {parameter.path: parameter.at(float(at)) for parameter, at in zip(free, y, strict=True)}
            candidate = with_values(config, numbers, start.moments)
            value = _cost(*error(candidate))
        except GendiffError:
            return REFUSED
        if value < best_cost:
            best, best_cost = candidate, value
        return value

    _search(cost, free, evaluations)
    if not never_rises(best.diffusion()):
        raise GendiffError("the best process that was found is none: λ rises at a step", fix="fit fewer parameters")
    if (above := _alive(best.diffusion(), limit)) > SLACK:
        raise ConfigError(
            f"no process was found that ends: a component of the data stays {above + GONE:+.1f} dB at N",
            details=[
                f"chains start from N(0, s_N²), so none may be above {GONE:g} dB; the search was over "
                f"{', '.join(parameter.path for parameter in free)}"
            ],
            fix="vary its noise too, or start chains from what the process ends in: --prior matched",
            subject="sampler.prior",
        )
    if not math.isfinite(after := error(best)[0]):
        raise GendiffError(
            "no parameters were found for which the predicted error is finite",
            fix="vary fewer of them, or in narrower ranges: --vary NAME=LOW:HIGH",
        )
    by_path = {parameter.path: parameter.value for parameter in parameters(best.velocity)}
    values = {parameter.path: by_path[parameter.path] for parameter in free}
    return Fit(best.model_copy(update={"sampler": sampler}), values, before, after, count)


def _search(cost: Callable[[np.ndarray], float], free: Sequence[Parameter], evaluations: int) -> None:
    """Ask for the cost at about so many coordinates at most, where it may be small."""
    bounds = [(0.0, parameter.coordinate(parameter.high)) for parameter in free]
    share = max(min(MEMBERS, evaluations // 8) // len(free), 1)  # of a parameter
    generations = (3 * evaluations // 4) // max(share * len(free), 5)  # SciPy has five members at least
    optimum = differential_evolution(
        cost,
        bounds,
        x0=[parameter.coordinate(parameter.value) for parameter in free],
        popsize=share,
        maxiter=max(generations - 1, 1),
        mutation=(0.3, 0.9),
        recombination=0.8,
        polish=False,
        rng=0,
    )
    options = {"maxfev": evaluations // 4, "xtol": 1e-2, "ftol": 1e-3}
    minimize(cost, optimum.x, method="Powell", bounds=bounds, options=options)


def with_values(config: Config, values: Mapping[str, float], moments: Moments) -> Config:
    """The configuration with other numbers in its velocity, and what was learned from data as it was.

    Raises `GendiffError` for what its components refuse.
    """
    table = {"velocity": config.velocity.table()}
    layers = [Layer("the configuration", table), *(Layer.at("fit", path, value) for path, value in values.items())]
    velocity = resolve(layers).config.velocity
    if config.velocity.has_learned:
        velocity = velocity.with_learned(config.velocity.learned)
    return config.holding(config.rotation, velocity, moments, config.basis)


def never_rises(diffusion: Diffusion) -> bool:
    """Whether λ never rises, at any step of any component: what a `Diffusion` looks at in some steps only."""
    previous = diffusion.at(0).half_log_snr
    for i in range(1, diffusion.N + 1):
        lam = diffusion.at(i).half_log_snr
        if not (lam <= previous + 1e-9).all():
            return False
        previous = lam
    return True


def _cost(error: float, alive: float) -> float:
    return min(math.log(min(max(error, 1e-300), 1e300)) + max(alive, 0.0), REFUSED) if error == error else REFUSED


def _data_snr(diffusion: Diffusion) -> Tensor:
    """Of each component at N, decibel."""
    return diffusion.at(diffusion.N).half_log_snr * DECIBEL + diffusion.moments.variance.log() * DECIBEL / 2


def _alive(diffusion: Diffusion, limit: Tensor) -> float:
    """By how many decibel the data-SNR of a component at N is above its limit, at most."""
    return float((_data_snr(diffusion) - limit).max())


def _same_steps(sampler: Sampler, diffusion: Diffusion) -> bool:
    """Whether the sampler takes the same steps on the few components that stand for all."""
    if not isinstance(sampler, GridSampler):
        return True
    return sampler.descent(diffusion) == sampler.descent(thinned(diffusion)[0])
