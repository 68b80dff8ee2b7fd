r"""Level: a step of the process as numbers, ready for elementwise use.

    x̄_i = a x̄_0 + s ε̄ ,     v = a² c + s² ,     θ = atan2(s, a sqrt(c))

with m and c the moments of the data. Everything is float64 inside and cast once, to the dtype that is asked for.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from gendiff.scales import Scales
from gendiff.shapes import check_steps


@final
class Level:
    """The scales at one step, or at steps of shape ``(B,)``: each value broadcasts over ``(B, *event)``.

    What belongs to a step has the shape ``diagonal`` at one step and ``(B, *diagonal)`` at several.

    Args:
        scales: of the process.
        mean, variance: of its data, m and c, float64, ``(1, *event)``.
        i: steps 0..N, int64, or float64 where they are real, ``(B,)``.
        dtype: of ``a``, ``s``, ``m``, ``c``, ``v``; what is logarithmic stays float64.
        one: ``i`` is a single step, and its values have no axis for it.

    """

    def __init__(
        self,
        scales: Scales,
        mean: Tensor,
        variance: Tensor,
        i: Tensor,
        dtype: torch.dtype = torch.float32,
        *,
        one: bool = False,
    ) -> None:
        self.scales = scales
        self.mean = mean
        self.variance = variance
        self.i = i
        self.dtype = dtype
        self.one = one

    def __repr__(self) -> str:
        steps = f"i={self.i[0].item():g}" if self.one else f"{len(self.i)} steps i"
        return f"Level({steps} of {self.N}, {self.dtype})".replace("torch.", "")

    @property
    def N(self) -> int:
        """The number of steps of the process."""
        return self.scales.N

    @cached_property
    def log_a(self) -> Tensor:
        """``log a_i``, float64."""
        return self._value(0)

    @cached_property
    def log_s(self) -> Tensor:
        """``log s_i``, float64; -inf where there is no noise."""
        return self._value(1)

    @cached_property
    def _values(self) -> tuple[Tensor, Tensor]:
        return self.scales.values(self.i)

    def _value(self, which: int) -> Tensor:
        value = self._values[which]
        if self.i.dtype.is_floating_point:
            self.scales.check_limit(self.i, value)
        return value[0] if self.one else value

    @property
    def half_log_snr(self) -> Tensor:
        """``λ_i``, float64."""
        return self.log_a - self.log_s

    @cached_property
    def a(self) -> Tensor:
        """``a_i``."""
        return self.log_a.exp().to(self.dtype)

    @cached_property
    def s(self) -> Tensor:
        """``s_i``."""
        return self.log_s.exp().to(self.dtype)

    @cached_property
    def m(self) -> Tensor:
        """``m``, the mean of the data."""
        return self.mean.to(self.dtype)

    @cached_property
    def c(self) -> Tensor:
        """``c``, the variance of the data."""
        return self.variance.to(self.dtype)

    @cached_property
    def v(self) -> Tensor:
        """``v = a² c + s²``, the variance of x̄_i."""
        return self.a**2 * self.c + self.s**2

    @property
    def log_v(self) -> Tensor:
        """``log v``, float64."""
        return torch.logaddexp(2 * self.log_a + self.variance.log(), 2 * self.log_s)

    @cached_property
    def cos(self) -> Tensor:
        """``cos θ = a sqrt(c/v)``."""
        return self.a * (self.c / self.v).sqrt()

    @cached_property
    def sin(self) -> Tensor:
        """``sin θ = s/sqrt(v)``."""
        return self.s / self.v.sqrt()

    @cached_property
    def theta(self) -> Tensor:
        """``θ`` in [0, π/2], float64: 0 for clean data, π/2 for pure noise."""
        return torch.atan2(self.log_s.exp(), self.log_a.exp() * self.variance.sqrt())

    @property
    def half_log_snr_speed(self) -> Tensor:
        """``dλ/di`` at real steps, float64."""
        with warnings.catch_warnings():  # forward mode loads what torch itself calls deprecated
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            speed: Tensor = torch.func.jvp(self.scales.half_log_snr, (self.i,), (torch.ones_like(self.i),))[1]
        return speed[0] if self.one else speed

    @property
    def theta_speed(self) -> Tensor:
        """``dθ/di = -dλ/di sin θ cos θ`` at real steps, float64: how fast signal turns to noise, the clock of `gendiff.flow`."""
        sin_cos = self.log_a.exp() * self.log_s.exp() * self.variance.sqrt() / self.log_v.exp()
        # Where one of both has vanished, which θ knows to rounding alone, nothing turns, however fast λ falls.
        speed = torch.where(sin_cos > 0, -self.half_log_snr_speed * sin_cos, 0.0)
        return speed

    @cached_property
    def before(self) -> Level:
        """The level of step i - 1, one nearer to the data; raises `ArgumentError` where i < 1."""
        return self.beside(check_steps(check_steps(self.i, self.N, least=1) - 1, self.N))

    def beside(self, i: Tensor) -> Level:
        """The level of other steps of the same process, as many as these."""
        return Level(self.scales, self.mean, self.variance, i, self.dtype, one=self.one)
