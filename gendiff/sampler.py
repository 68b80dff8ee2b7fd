r"""Sampler: an affine plan from the prior back to the data.

Every sampler is a sequence of updates, each with one evaluation of the model, elementwise in rotated coordinates and affine in
what is known then,

    x̄_j = constant + p x̄_i + q x̂_0 + b ε̂ + Σ_l (q_l x̂_0 + b_l ε̂)_(l evaluations ago) + e z ,     z ~ N(0, I) ,

with float64 coefficients per component that depend on the process and its data's moments alone. A sampler therefore only writes
the plan; one loop (`sample`) runs them all, and for Gaussian data the law of what comes out follows from the plan by recursion.

A multistep method looks at earlier evaluations. A method of several stages moves on by a first guess and corrects it where it
arrived: the second stage of Heun is an update j -> j, affine in the guess and in the evaluations at both ends. A plan goes down,
but it may go up again on its way: to go from i down to j, and by the kernel q(x̄_k | x̄_j) up to k, is affine too, and one update
i -> k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, final

import torch
from pydantic import Field
from torch import Tensor

from gendiff.component import Component, abstractmethod
from gendiff.condition import Given, rows
from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.kept import Kept
from gendiff.score import Parametrization, Pivot, ScoreModel, believe, encode, from_x_0, normalized
from gendiff.shapes import ShownByShape, check_events, check_kind, check_number, check_time, takes
from gendiff.streams import ImageNoise


@dataclass(frozen=True, repr=False)
class Past(ShownByShape):
    """The coefficients of an earlier evaluation in an update: of its x̂_0 and of its ε̂."""

    q: Tensor | None = None
    b: Tensor | None = None


@dataclass(frozen=True)
class Update:
    """One update i -> j of a plan, steps whole or real: float64 diagonals; a coefficient that is None is absent.

    Args:
        p, e, constant: of x̄_i, of fresh noise z, and what is added.
        q, b: of the evaluation at (x̄_i, i): of x̂_0 and of ε̂.
        past: of earlier evaluations, the newest first. It reaches at most one further back than that of the update before.

    """

    i: float
    j: float
    p: Tensor | None = None
    q: Tensor | None = None
    b: Tensor | None = None
    e: Tensor | None = None
    constant: Tensor | None = None
    past: tuple[Past, ...] = ()

    def __repr__(self) -> str:
        # As the formula of the module, without what is absent; ' is an evaluation earlier.
        terms = ["constant"] if self.constant is not None else []
        terms += [
            f"{name} {of}" for name, of in (("p", "x"), ("q", "x_0"), ("b", "eps")) if getattr(self, name) is not None
        ]
        for back, past in enumerate(self.past, 1):
            terms += [
                f"{name} {of}" + "'" * back
                for name, of in (("q", "x_0"), ("b", "eps"))
                if getattr(past, name) is not None
            ]
        terms += ["e z"] if self.e is not None else []
        return f"Update({self.i:g} -> {self.j:g}: {' + '.join(terms) or '0'})"


#: ``standard``: N(0, s_N²). ``matched``: N(a_N m, a_N² c + s_N²), the moments that the data have at N. ``data``: an event of the
#: data brought to N without noise, ``a_N x̄_0``.
Prior = Literal["standard", "matched", "data"]


class Sampler(Component):
    """An author gives `updates`; clamping is in event space, and data without a range are never clamped."""

    kind: ClassVar[str] = "sampler"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    #: Observed order: the error of the sampled distribution falls like (number of steps)^-order; 0 claims no convergence.
    order: ClassVar[int] = 1
    #: Whether its updates are all that it does; False where `step` does more, and the plan says where it is looked at.
    affine: ClassVar[bool] = True
    clip: bool = Field(False, description="clamp x̂_0 to the range of the data at every step")
    prior: Prior = Field("standard", description="where chains start: standard, matched or data")

    @abstractmethod
    def updates(self, diffusion: Diffusion) -> Iterator[Update]:
        """The updates from i = N down to j = 0, each beginning where the last one ended.

        Raises:
            ConfigError: for a process that it cannot sample.

        """

    def step(
        self,
        diffusion: Diffusion,
        model: ScoreModel,
        update: Update,
        x_bar: Tensor,
        pivots: Sequence[Pivot],
        z_bar: Tensor | None,
    ) -> Tensor:
        """x̄_j out of x̄_i; here what the update says (`apply`). A sampler that chooses its steps itself may do more."""
        return apply(update, x_bar, pivots, z_bar)

    @final
    def evaluations(self, diffusion: Diffusion) -> int | None:
        """How often it asks the model for an event; None where it chooses its steps as it goes: that differs by event."""
        return len(self.plan(diffusion)) if self.affine else None

    @final
    def plan(self, diffusion: Diffusion) -> tuple[Update, ...]:
        """All `updates`, one for each evaluation of the model; computed once for a process, and kept."""
        return _PLANS.of((self, diffusion), lambda: tuple(self.updates(diffusion)))


def _numbers(plan: tuple[Update, ...]) -> int:
    """How many coefficients a plan has: a thousand steps of pictures are hundreds of megabytes."""
    parts = [part for update in plan for part in (update, *update.past)]
    return sum(value.numel() for part in parts for value in vars(part).values() if isinstance(value, Tensor))


_PLANS: Kept[tuple[Sampler, Diffusion], tuple[Update, ...]] = Kept(most=4, room=2**24, size=_numbers)


@dataclass(frozen=True, repr=False)
class Snapshot(ShownByShape):
    """A look at the chain: after the update to step ``j``, the ``number``-th, ``x̄_j`` and the pivot it was made from."""

    number: int
    j: float
    x_bar: Tensor
    pivot: Pivot | None

    def first(self, count: int) -> Snapshot:
        """The same look at the first ``count`` events alone."""
        pivot = self.pivot and Pivot(self.pivot.x_0[:count], self.pivot.eps[:count])
        return replace(self, x_bar=self.x_bar[:count], pivot=pivot)


#: Events computed at once: the last bits of a convolution and of a matrix product depend on it.
CHUNK = {"cpu": 16, "cuda": 64}


def sample(
    diffusion: Diffusion,
    model: ScoreModel,
    sampler: Sampler,
    noise: Callable[[], Tensor] | None = None,
    *,
    n: int | None = None,
    seed: int = 0,
    start: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    watch: Callable[[Snapshot], None] | None = None,
    graph: bool | None = None,
) -> Tensor:
    """Run a sampler from the prior to the data, ``n`` events of a seed or with noise of one's own.

    Event k of a seed is the same for every n, to the bit, and that of ``gendiff sample`` where network and process are: it has
    noise of its own, and events are computed 16 at a time (64 on a GPU), made up to that number.

    Args:
        n: how many events; left out where ``noise`` or ``start`` say it.
        seed: what the noise of event k follows from, and k; of no meaning where there is ``noise``.
        noise: each call returns fresh **event-space** N(0, I) noise of shape ``(B, *event)`` on the right device; the first
            draw makes the prior, where it is drawn here, later ones are the sampler's z. Equal noise gives comparable pictures
            across rotations.
        start: x̄_N, ``(B, *event)``; left out, the prior that the sampler says. The prior ``data`` must be given.
        dtype: float32, or float64 for proofs.
        watch: called with the prior (``pivot`` None) and after each update.
        graph: whether autograd follows the chain, through every evaluation of the model. Left out, it does where x̄_N requires a
            gradient, because the noise or ``start`` does: that of a network's weights alone would keep every evaluation in
            memory, and is asked for by True.

    Returns:
        x_0 of shape ``(B, *event)``.

    Raises:
        ArgumentError: where it is not said once how many events, or noise or ``start`` are no batch of events, in ``dtype``
            float32 or float64.
        ConfigError: where the sampler cannot sample this process, or its prior needs events.

    """
    if (n is None) == (noise is None and start is None):
        raise ArgumentError(
            "sample wants to be told once how many events",
            fix="write sample(diffusion, model, sampler, n=16), or give a function that draws noise (B, *event), or a start",
        )
    for name, value, kind in (
        ("diffusion", diffusion, Diffusion),
        ("sampler", sampler, Sampler),
        ("model", model, ScoreModel),
    ):
        check_kind(value, kind, name)
    if dtype not in (torch.float32, torch.float64):
        raise ArgumentError(f"dtype is {dtype!r}", details=["torch.float32 or torch.float64"])
    if start is None and sampler.prior == "data":
        raise ConfigError(
            "prior 'data' starts from events of the data, and there are none here",
            fix="use the moments of the data instead: prior=matched",
            subject="sampler.prior",
        )
    _check_graph(graph)
    if watch is not None and not (callable(watch) and takes(watch, None)):
        raise ArgumentError(f"watch is {watch!r:.80}", details=["a function of one argument, a Snapshot, or None"])
    if n is not None:
        return torch.cat(list(_of_seed(diffusion, model, sampler, n, seed, dtype, watch, graph)))
    if start is not None:
        check_events(start, diffusion.event_shape, "start")
        start = start.to(dtype)
    images = range(0 if start is None else len(start))
    draw = noise if noise is not None else ImageNoise(seed, images, diffusion.event_shape, diffusion.scales.device)
    matched = sampler.prior == "matched"
    x_bar = diffusion.prior(_drawn(draw, diffusion).to(dtype), matched) if start is None else start
    if watch:
        watch(Snapshot(0, diffusion.N, x_bar, None))
    if sampler.clip:
        model = Clamped(model, diffusion)
    pivots: list[Pivot] = []
    with torch.set_grad_enabled(x_bar.requires_grad if graph is None else graph):
        for number, update in enumerate(sampler.plan(diffusion), 1):
            pivots.insert(0, believe(model, x_bar, update.i))
            z_bar = None if update.e is None else diffusion.rotate(_drawn(draw, diffusion, len(x_bar)).to(dtype))
            x_bar = sampler.step(diffusion, model, update, x_bar, pivots, z_bar)
            if watch:
                watch(Snapshot(number, update.j, x_bar, pivots[0]))
            del pivots[len(update.past) + 1 :]
        return diffusion.unrotate(x_bar)


def _of_seed(
    diffusion: Diffusion,
    model: ScoreModel,
    sampler: Sampler,
    n: int,
    seed: int,
    dtype: torch.dtype,
    watch: Callable[[Snapshot], None] | None,
    graph: bool | None,
) -> Iterator[Tensor]:
    """The first ``n`` events of a seed, a chunk at a time."""
    device = diffusion.scales.device
    size, count = CHUNK.get(device.type, 16), check_number(n, "n")
    for first in range(0, count, size):
        part = range(first, min(first + size, count))
        images = [*part, *[part[0]] * (size - len(part))]
        noise = ImageNoise(seed, images, diffusion.event_shape, device)
        own = None if watch is None else partial(_look, watch, len(part))
        own_model = model.given(rows(model.condition, images)) if model.condition else model
        yield sample(diffusion, own_model, sampler, noise, dtype=dtype, watch=own, graph=graph)[: len(part)]


def _check_graph(graph: bool | None) -> None:
    if graph is not None and not isinstance(graph, bool):
        raise ArgumentError(f"graph is {graph!r:.80}", details=["True, False, or None: where x̄_N requires a gradient"])


def _drawn(noise: Callable[[], Tensor], diffusion: Diffusion, count: int | None = None) -> Tensor:
    """What ``noise`` draws, looked at: ``(B, *event)``, B being ``count`` where that is known."""
    if not callable(noise) or not takes(noise):
        raise ArgumentError(
            f"noise is a {type(noise).__name__}",
            details=["a function without arguments, which draws anew at each call"],
            fix=f"write lambda: torch.randn(B, {', '.join(map(str, diffusion.event_shape))})",
        )
    z = noise()
    check_events(z, diffusion.event_shape, "the noise that is drawn")
    if count is not None and len(z) != count:
        raise ArgumentError(f"noise for {len(z)} events is drawn, where there are {count}")
    return z


def _look(watch: Callable[[Snapshot], None], count: int, snapshot: Snapshot) -> None:
    watch(snapshot.first(count))


def invert(
    diffusion: Diffusion, model: ScoreModel, x_0: Tensor, steps: Sequence[float], *, graph: bool | None = None
) -> Tensor:
    """``x̄_N`` from which a deterministic sampler leads back to ``x_0``, up to the error of both.

    Euler's method along ``dy/dθ = -T`` (`gendiff.score`) from clean events to N, one evaluation a step; at step 0, where there is
    no score, that of step 1 is asked. Exact in one step for Gaussian data with the moments of the process.

    Args:
        x_0: events ``(B, *event)``, float32 or float64.
        steps: from N down to 0, as `Grid.steps` gives them.
        graph: as of `sample`: left out, autograd follows where ``x_0`` requires a gradient.

    Raises:
        ArgumentError: where ``x_0`` are no events, or ``steps`` do not fall from N to 0.

    """
    check_kind(diffusion, Diffusion, "diffusion")
    steps = _falling(steps, diffusion.N)
    _check_graph(graph)
    x_bar, here = diffusion.rotate(x_0), diffusion.at(0, x_0.dtype)
    y = normalized(x_bar, here)
    with torch.set_grad_enabled(x_0.requires_grad if graph is None else graph):
        for j, i in pairwise(reversed(steps)):
            step, there = max(j, 1), diffusion.at(i, x_0.dtype)
            T = encode(Parametrization.WIENER, believe(model, x_bar, step), diffusion.at(step, x_0.dtype))
            y = y - (there.theta - here.theta).to(y) * T
            x_bar, here = there.a * there.m + there.v.sqrt() * y, there
    return x_bar


def _falling(steps: Sequence[float], N: int) -> list[float]:
    try:
        falling = [check_time(step, N) for step in steps]
    except TypeError:  # no sequence
        falling = []
    if falling[:1] != [N] or falling[-1:] != [0] or any(j >= i for i, j in pairwise(falling)):
        raise ArgumentError(
            f"the steps {str(steps)[:80]} do not fall from N = {N} to 0", fix="write grid.steps(diffusion, n)"
        )
    return falling


def apply(update: Update, x_bar: Tensor, pivots: Sequence[Pivot], z_bar: Tensor | None) -> Tensor:
    """x̄_j; coefficients are cast to the dtype of ``x̄_i`` here and nowhere else.

    Args:
        pivots: the evaluation at x̄_i and the earlier ones, the newest first.

    Raises:
        PluginError: where the update looks further back than there are evaluations.

    """
    beliefs = (Past(update.q, update.b), *update.past)
    if len(beliefs) > len(pivots):
        raise PluginError(
            f"the update {update.i:g} -> {update.j:g} of a plan looks {len(update.past)} evaluations back, where there are "
            f"{len(pivots) - 1}",
            fix="a plan begins without `past`, and each update looks at most one further back than the one before",
            subject="sampler.name",
        )
    terms = [(update.p, x_bar), (update.e, z_bar)]
    for weights, pivot in zip(beliefs, pivots, strict=False):
        terms += [(weights.q, pivot.x_0), (weights.b, pivot.eps)]
    total = torch.zeros_like(x_bar) if update.constant is None else update.constant.to(x_bar).expand_as(x_bar)
    for coefficient, value in terms:
        if coefficient is not None and value is not None:
            total = total + coefficient.to(x_bar.dtype) * value
    return total


class Clamped(ScoreModel):
    """Another model with x̂_0 clamped to the range of its events, **in event space**; ε̂ follows from that."""

    def __init__(self, model: ScoreModel, diffusion: Diffusion) -> None:
        self.model = model
        self.diffusion = diffusion
        self.value_range = model.value_range
        self.condition = model.condition

    def __repr__(self) -> str:
        return f"Clamped({self.model})"

    def given(self, condition: Given) -> Clamped:
        return Clamped(self.model.given(condition), self.diffusion)

    def predict(self, x_bar: Tensor, i: float | Tensor) -> Pivot:
        pivot = believe(self.model, x_bar, i)
        if self.value_range is None:
            return pivot
        x_0 = self.diffusion.unrotate(pivot.x_0).clamp(*self.value_range)
        return from_x_0(self.diffusion.rotate(x_0), x_bar, self.diffusion.at(i, x_bar.dtype))
