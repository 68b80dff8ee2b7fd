r"""Diffusion: a rotation and the scales, composed.

    x_i = U a_i U^T x_0 + U s_i U^T ε ,   ε ~ N(0, I) in event space,   i = 0..N            (paper eq. 8, corrected)
    ∇ log q(x_i | x_0) = -U s_i^{-1} U^T ε                                               (paper eq. 15-17, corrected)

Between any two steps j < i everything is elementwise in rotated coordinates, with r = exp(2(λ_i - λ_j)) in [0, 1]:

    q(x̄_i | x̄_j)        = N( (a_i/a_j) x̄_j ,  s_i² - (a_i/a_j)² s_j² = s_i² (1 - r) )
    q(x̄_j | x̄_i, x̄_0)  = N( p x̄_i + a_j (1-r) x̄_0 ,  s_j² (1-r) ) ,   p = (a_j/a_i) r

"Paper" is Lee, Chung, Kim, Ye: Progressive Deblurring of Diffusion Models for Coarse-to-Fine Image Synthesis (2022),
arXiv 2207.11192; docs/notation.md lists its corrections.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Self, final

import torch
from torch import Tensor

from gendiff.errors import ArgumentError, PluginError
from gendiff.level import Level
from gendiff.moments import Moments
from gendiff.rotation import Rotation
from gendiff.scales import Scales, first
from gendiff.shapes import (
    EventShape,
    ShownByShape,
    broadcasts,
    check_count,
    check_device,
    check_events,
    check_kind,
    check_shape,
    check_step,
    check_steps,
    check_time,
    check_values,
)
from gendiff.velocity import Velocity

CHUNK = 2**18  # numbers of a process computed at a time: more of them leave the processor's cache


@dataclass(frozen=True, repr=False)
class Kernel(ShownByShape):
    """``q(x̄_i | x̄_j) = N(scale x̄_j, std²)``, j < i; float64 diagonals."""

    scale: Tensor
    std: Tensor


@dataclass(frozen=True, repr=False)
class Posterior(ShownByShape):
    """``q(x̄_j | x̄_i, x̄_0) = N(p x̄_i + q x̄_0, std²)``, j < i; float64 diagonals."""

    p: Tensor
    q: Tensor
    std: Tensor


@final
class Diffusion:
    """The generalized diffusion of events of one shape.

    Args:
        rotation: U.
        scales: (log a, log s) for i = 0..N, whose diagonals broadcast to ``event_shape``.
        event_shape: ``(C, *spatial)``.
        moments: m and c of the data in the coordinates of ``rotation``; left out, m = 0 and c = 1 are assumed.

    Raises:
        ArgumentError: where ``event_shape`` is no shape of an event, or the moments do not fit it.
        PluginError: where the rotation is not orthogonal (looked at with one vector), the scales do not fit the event, are not
            finite, or a component's SNR grows with i (looked at in about 18 steps).

    """

    def __init__(
        self, rotation: Rotation, scales: Scales, event_shape: EventShape, moments: Moments | None = None
    ) -> None:
        self.event_shape = check_shape(event_shape)
        self.rotation = rotation
        self.scales = scales
        self.moments = Moments.standard(self.event_shape) if moments is None else moments
        self.knows_data = moments is not None
        for name, kind in (("rotation", Rotation), ("scales", Scales), ("moments", Moments)):
            check_kind(getattr(self, name), kind, name)
        self._check()

    @classmethod
    def of(
        cls,
        rotation: Rotation | str,
        velocity: Velocity | str,
        event_shape: EventShape,
        N: int = 1000,
        moments: Moments | None = None,
    ) -> Self:
        """The diffusion of a recipe: the scales that ``velocity`` gives in the coordinates of ``rotation``, in N steps.

        Both are components or their specs.
        """
        rotation, velocity = Rotation(rotation), Velocity(velocity)
        event_shape = check_shape(event_shape)
        return cls(rotation, velocity.scales(rotation, event_shape, check_count(N)), event_shape, moments)

    def __repr__(self) -> str:
        moments = f", {self.moments}" if self.knows_data else ""
        return (
            f"Diffusion({self.rotation}, {type(self.scales).__name__}, events {self.event_shape}, N={self.N}{moments})"
        )

    @property
    def N(self) -> int:
        """The number of steps; 0 is clean data, N is the prior."""
        return self.scales.N

    def to(self, device: torch.device | str) -> Diffusion:
        """The same diffusion with its tables on ``device``; raises `ArgumentError` where that is not here."""
        device, diffusion = check_device(device), copy(self)
        diffusion.scales, diffusion.moments = self.scales.to(device), self.moments.to(device)
        return diffusion

    def until(self, i: int) -> Diffusion:
        """The first i steps of it, 1 <= i <= N: a process that ends where this one is at i.

        A sampler of it starts from x̄_i, and a model of this process is one of it too.
        """
        return self.scaled(first(self.scales, check_step(i, self.N, least=1)))

    def scaled(self, scales: Scales) -> Diffusion:
        """The same basis and moments with other scales, of the same shape, which are not looked at."""
        diffusion = copy(self)
        diffusion.__dict__.pop("alike", None)  # of the old ones
        diffusion.scales = scales
        return diffusion

    @cached_property
    def alike(self) -> bool:
        """Whether all components are scaled alike (looked at in about 8 steps): then the process is itself in any basis."""
        return self.scales.alike

    def rotate(self, x: Tensor) -> Tensor:
        """``x̄ = U^T x``, ``(B, *event)``, float32 or float64."""
        check_events(x, self.event_shape)
        return self.rotation.rotate(x)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        """``x = U x̄``, ``(B, *event)``, float32 or float64."""
        check_events(x_bar, self.event_shape, "x_bar")
        return self.rotation.unrotate(x_bar)

    # --- scales ------------------------------------------------------------------------------------------------------

    def at(self, i: float | Tensor, dtype: torch.dtype = torch.float32) -> Level:
        """Step ``i``, or the steps ``i`` of shape ``(B,)``, as numbers that broadcast over ``(B, *event)``.

        The one way to them: ``at(i).a`` and ``.s``, ``.log_a`` and ``.log_s``, ``.half_log_snr``, ``.theta`` and more. Steps may
        be real: ``at(12.5)``, or a tensor of float32 or float64.

        Raises:
            ArgumentError: where a step is no number in 0..N, or a real one where this process has no continuous limit.

        """
        return self._level(i, dtype)

    def levels(self, steps: Sequence[float], dtype: torch.dtype = torch.float32) -> Iterator[Level]:
        """The levels of many steps, in their order: each of several, as many as are computed in a processor's cache.

        Raises:
            ArgumentError: as of `at`.

        """
        at_a_time = max(CHUNK // math.prod(self.event_shape), 1)
        for begin in range(0, len(steps), at_a_time):
            i = torch.tensor(steps[begin : begin + at_a_time], device=self.scales.device)
            yield self.at(i, dtype)

    def asked(self, x_bar: Tensor, i: float | Tensor) -> Level:
        """The level at which a model is asked about ``x_bar``, in its precision: steps in 1..N, one or one for each event.

        Raises:
            ArgumentError: where a step is outside 1..N, or ``x_bar`` is no batch of events with as many steps.

        """
        return self._of_each(x_bar, i, "x_bar", least=1)

    # --- forward -----------------------------------------------------------------------------------------------------

    def q_sample(self, x_0: Tensor, i: float | Tensor, eps: Tensor) -> Tensor:
        """``x_i`` for clean events, one step or steps ``(B,)``, and event-space noise; float32 or float64, as ``x_0``.

        Raises:
            ArgumentError: where a step is outside 0..N, or events or noise are not ``(B, *event)`` in float32 or float64.

        """
        return self.unrotate(self.corrupted(self._of_each(x_0, i, "x_0"), self.rotate(x_0), self._rotated(eps, "eps")))

    def corrupted(self, at: Level, x_bar_0: Tensor, eps_bar: Tensor) -> Tensor:
        """``x̄_i = a x̄_0 + s ε̄`` at the steps ``at``, in rotated coordinates."""
        if eps_bar.shape != x_bar_0.shape or eps_bar.dtype != x_bar_0.dtype or len(at.i) not in (1, len(x_bar_0)):
            raise ArgumentError(
                f"{len(x_bar_0)} events of {x_bar_0.dtype}, noise for {len(eps_bar)} of {eps_bar.dtype}, {len(at.i)} steps",
                details=["each event has noise of its own, and a step of its own or one that all share"],
            )
        return at.a * x_bar_0 + at.s * eps_bar

    def score(self, i: float | Tensor, eps: Tensor) -> Tensor:
        """``∇ log q(x_i | x_0) = -U s_i^{-1} U^T ε`` in event space, i >= 1."""
        at = self._of_each(eps, i, "eps", least=1)
        return self.unrotate(-self.rotate(eps) / at.s)

    def kernel(self, i: float, j: float) -> Kernel:
        """``q(x̄_i | x̄_j)`` for 0 <= j < i <= N; ``kernel(i, i-1)`` is the paper's one step (A_i^{1/2}, B_i^{1/2})."""
        return Kernel(
            scale=(self.at(i).log_a - self.at(j).log_a).exp(),
            std=self.at(i, torch.float64).s * torch.sqrt(-torch.expm1(self._log_r(i, j))),
        )

    # --- reverse -----------------------------------------------------------------------------------------------------

    def posterior(self, i: float, j: float) -> Posterior:
        """``q(x̄_j | x̄_i, x̄_0)`` for 0 <= j < i <= N."""
        log_r = self._log_r(i, j)
        rest, here, there = -torch.expm1(log_r), self.at(i, torch.float64), self.at(j, torch.float64)  # 1 - r
        # (a_j/a_i) r, written so that two underflowing a never meet as 0/0.
        log_p = here.log_a - there.log_a + 2 * (there.log_s - here.log_s)
        return Posterior(p=log_p.exp(), q=there.a * rest, std=there.s * rest.sqrt())

    def prior(self, z: Tensor, matched: bool = False) -> Tensor:
        """``x̄_N = s_N U^T z`` for event-space noise ``z ~ N(0, I)``; ``matched``: with the moments that the data have at N.

        Then ``x̄_N = a_N m + sqrt(a_N² c + s_N²) U^T z``: exact for Gaussian data that are diagonal in U, where the standard prior
        lacks what a_N > 0 leaves of the data.
        """
        check_events(z, self.event_shape, "z")
        end = self.at(self.N, z.dtype)
        return end.a * end.m + end.v.sqrt() * self.rotate(z) if matched else end.s * self.rotate(z)

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _level(self, i: float | Tensor, dtype: torch.dtype, least: int = 0) -> Level:
        if isinstance(i, Tensor):
            check_values(i, "i")
            if i.device.type != "cpu" and i.device != self.scales.device:
                raise ArgumentError(
                    f"steps are on {i.device}, the process on {self.scales.device}",
                    fix="move the process: diffusion.to(i.device)",
                )
            return Level(self.scales, self.moments.mean, self.moments.variance, check_steps(i, self.N, least), dtype)
        time = check_time(i, self.N, least)
        kind = torch.float64 if isinstance(time, float) else torch.int64
        step = torch.full((1,), time, dtype=kind, device=self.scales.device)  # no device is waited for
        return Level(self.scales, self.moments.mean, self.moments.variance, step, dtype, one=True)

    def _of_each(self, x: Tensor, i: float | Tensor, name: str, least: int = 0) -> Level:
        """The level of each event of ``x``, in its precision."""
        check_events(x, self.event_shape, name)
        if x.device != self.scales.device:
            raise ArgumentError(
                f"{name} is on {x.device}, the process on {self.scales.device}",
                fix=f"move the process: diffusion.to({name}.device)",
            )
        at = self._level(i, x.dtype, least)
        if len(at.i) not in (1, len(x)):
            raise ArgumentError(f"{len(x)} events and {len(at.i)} steps", details=["one step, or one for each event"])
        return at

    def _rotated(self, x: Tensor, name: str) -> Tensor:
        check_events(x, self.event_shape, name)
        return self.rotation.rotate(x)

    def _log_r(self, i: float, j: float) -> Tensor:
        if not check_time(j, self.N) < check_time(i, self.N):
            raise ArgumentError(f"need 0 <= j < i <= {self.N}, got j = {j}, i = {i}")
        return (2 * (self.at(i).half_log_snr - self.at(j).half_log_snr)).clamp_max(0.0)

    def _check(self) -> None:
        self._check_shapes()
        self.rotation.check(self.event_shape)
        diagonal = self.at(self.N).log_a.shape
        if not broadcasts(diagonal, self.event_shape):
            raise PluginError(
                f"the scales have shape {tuple(diagonal)}, the events {self.event_shape}",
                fix="the scales of a velocity must broadcast to the event",
                subject="velocity.name",
            )
        self._check_snr()

    def _check_shapes(self) -> None:
        check_count(self.N)
        shape = self.event_shape
        for name, values in (("mean", self.moments.mean), ("variance", self.moments.variance)):
            check_kind(values, Tensor, f"the {name} of the data")
            check_values(values, f"the {name} of the data")
            if not broadcasts(values.shape, shape):
                raise ArgumentError(f"the {name} of the data has the shape {tuple(values.shape)}, events have {shape}")
            if not values.isfinite().all():
                raise ArgumentError(f"the {name} of the data is not finite")
        if not (self.moments.variance > 0).all():
            raise ArgumentError("the variance of the data is not positive", details=["c > 0 for every component"])

    def _check_snr(self) -> None:
        previous = self.at(0).half_log_snr
        steps = sorted({1, 2, *range(1, self.N, max(self.N // 16, 1)), self.N})
        for i, lam in zip(steps, (each for at in self.levels(steps) for each in at.half_log_snr), strict=True):
            grows = ~(lam <= previous + 1e-9)  # also true for NaN
            if grows.any():
                raise PluginError(
                    f"the signal-to-noise ratio of {int(grows.sum())} components grows or is NaN at step {i}",
                    details=["a diffusion only ever destroys information: λ_i must not increase with i"],
                    fix="check the velocity: B_i must lie in [0, 1] for every component",
                    subject="velocity.name",
                )
            if lam.isinf().any():
                raise PluginError(
                    f"{int(lam.isinf().sum())} components have no noise at step {i}",
                    details=["the score -ε/s exists only where s_i > 0, i = 1..N"],
                    fix="check the noise schedule: β_1 must be positive",
                    subject="velocity.name",
                )
            previous = lam
