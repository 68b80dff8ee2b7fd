r"""Rotation: the coordinate system in which the corruption is diagonal.

A rotation is a real orthogonal map U, ``U^T U = I``, acting on events; ``x̄ = U^T x`` are the rotated coordinates, kept in the
shape of the event. It acts on each channel alike. U is never built as a dense d x d matrix unless the plugin is dense.

Not promised: that U diagonalises a Gaussian blur. Where it does not (`Rotation.diagonalises_blur`), the attenuation of
component k is ``u_k^T W u_k`` with W the blur under symmetric borders, so that the blur velocity still means something.

Rotations run in float32 (float64 in, float64 out), outside autocast and without TF32: a DCT in bfloat16 is wrong by a
percent, in float32 by 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gendiff.blur import LOG_FLOOR, laplacian_matrix, negative_laplacian, symmetric_blur, symmetric_blur_matrix
from gendiff.command import command, option
from gendiff.component import Component, abstractmethod, guard
from gendiff.data import Data
from gendiff.dct import apply_per_axis
from gendiff.errors import ArgumentError, ConfigError, PluginError
from gendiff.frequency import radius
from gendiff.precision import full_precision
from gendiff.shapes import EventShape, broadcasts, check_kind, check_shape, check_width, in_full, shown_shape, spatial
from gendiff.streams import stream


class Rotation(Component):
    """An orthogonal map U; an author gives `rotate` (U^T x) and `unrotate` (U x̄)."""

    kind: ClassVar[str] = "rotation"

    if TYPE_CHECKING:

        def __init__(self, spec: str | Mapping[str, Any] | Self = ..., /, **parameters: Any) -> None: ...

    #: Whether a Gaussian blur is exactly diagonal in this basis, and so an operator this rotation applies exactly.
    diagonalises_blur: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        guard(cls, "log_blur_spectrum", _checked)

    @abstractmethod
    def rotate(self, x: Tensor) -> Tensor:
        """``x̄ = U^T x`` for ``x`` of shape ``(B, *event)``; float32 or float64, the dtype is kept."""

    @abstractmethod
    def unrotate(self, x_bar: Tensor) -> Tensor:
        """``x = U x̄`` for ``x̄`` of shape ``(B, *event)``."""

    def refusal(self, event_shape: EventShape) -> str:
        """Why there is no U for events of that shape, in a few words; empty, as here for every shape, where there is one.

        An author gives it for a basis that exists in some sizes only: ``"a side is no power of two"``.
        """
        return ""

    @final
    def require(self, event_shape: EventShape) -> None:
        """Raise `ConfigError` where there is no U for events of that shape: asked before anything else is asked of U.

        And `PluginError` where its author's `refusal` gives no text.
        """
        why = self.refusal(event_shape)
        if why and not isinstance(why, str):
            raise PluginError(
                f"rotation '{self.name}': refusal({tuple(event_shape)}) gave {why!r}, no text",
                details=["a text says why there is no U of that size; an empty one, that there is"],
                fix="return a text, such as 'a side is no power of two' where it is refused, and '' where it is not",
                subject="rotation.refusal",
            )
        if why:
            raise ConfigError(
                f"rotation '{self.name}' does not take events of {shown_shape(event_shape)}: {why}",
                fix=f"choose another size, or another rotation: {option('--rotation', 'dct')} takes every size",
                subject="rotation.name",
            )

    @final
    def check(self, event_shape: EventShape) -> None:
        """Whether U keeps the length of one vector and gives it back: what can be seen without the whole matrix.

        Raises `ConfigError` where there is no U of that size (`refusal`), `PluginError` where U is no rotation.
        """
        self.require(event_shape)
        x = torch.randn(1, *event_shape, generator=stream(0, "probe"), dtype=torch.float64)
        x_bar = self.rotate(x)
        if x_bar.shape != x.shape:
            raise PluginError(
                f"rotation '{self.name}' turns an event of shape {event_shape} into {tuple(x_bar.shape[1:])}",
                fix="rotated coordinates keep the shape of the event",
                subject="rotation.name",
            )
        error = max(float((self.unrotate(x_bar) - x).abs().max()), abs(float(x_bar.norm() / x.norm()) - 1))
        if not error < 1e-6:
            raise PluginError(
                f"rotation '{self.name}' is not orthogonal for events of shape {event_shape}",
                details=[f"U U^T x differs from x, or their lengths do, by {error:.1e}"],
                fix=f"see what is wrong: {command('plugins', 'check', self.name)}",
                subject="rotation.name",
            )

    def fit(self, data: Data) -> Mapping[str, Tensor]:
        """What this rotation learns from the data of a run, tensors by name; here nothing.

        It is asked once, when a run is made, and the tensors are stored with the run (`learned`): a pure function of the data
        and the parameters.
        """
        return {}

    @final
    def apply_diagonal(self, x: Tensor, diagonal: Tensor) -> Tensor:
        """``U diag U^T x``; ``diagonal`` broadcasts to the event."""
        x = in_full(x)
        x_bar, event = self.rotate(x), tuple(x.shape[1:])
        check_kind(diagonal, Tensor, "diagonal")
        if not broadcasts(diagonal.shape, event):
            raise ArgumentError(f"diagonal has the shape {tuple(diagonal.shape)}", details=[f"events have {event}"])
        return self.unrotate(diagonal.to(x_bar) * x_bar)

    def log_blur_spectrum(self, event_shape: EventShape, sigma: float) -> Tensor:
        """``log D``, float64, broadcasting to the event: the attenuation of each component by a blur of std ``sigma`` pixels.

        Here, for a basis that need not diagonalise the blur, ``D_k = u_k^T W u_k``.

        Raises `ArgumentError` where ``event_shape`` is no shape of an event, or ``sigma`` neither 0 nor in 0.001..1e6.
        """
        event_shape, sigma = _checked(event_shape, sigma)
        energy = self._quadratic_form(event_shape, lambda u: symmetric_blur(u, sigma))
        return energy.clamp(0, 1).log().clamp_min(LOG_FLOOR)  # rounding may leave [0, 1]

    def frequencies(self, event_shape: EventShape) -> Tensor:
        """ρ, float64, broadcasting to the event: angular frequency of each component, radians per pixel.

        Here, for any basis, ``ρ_k² = u_k^T Λ u_k`` with Λ the negative Laplacian under symmetric borders.
        """
        return self._quadratic_form(event_shape, negative_laplacian).clamp_min(0).sqrt()

    @final
    def heat_spectrum(self, event_shape: EventShape) -> Tensor:
        """``μ = ρ²`` in 1/pixel², float64, broadcasting to the event: in a time τ the heat equation leaves ``exp(-μ τ)``.

        Exactly so in a basis of sines and cosines; a blur of std σ pixels is τ = σ²/2.

        Raises:
            ConfigError: for a basis that knows no blur, D = 1.

        """
        if not self.log_blur_spectrum(event_shape, 1.0).any():
            raise ConfigError(
                f"rotation '{self.name}' has no frequencies that heat could damp: D = 1 there",
                fix=f"choose a basis with a blur: {option('--rotation', 'dct')}",
                subject="rotation.name",
            )
        return self.frequencies(event_shape) ** 2

    def _quadratic_form(self, event_shape: EventShape, operator: Callable[[Tensor], Tensor]) -> Tensor:
        """``u_k^T M u_k`` for every component k, in the shape of the event; ``operator`` applies M to ``(B, *event)``."""
        count = torch.Size(check_shape(event_shape)).numel()
        forms = []
        for chunk in torch.arange(count).split(256):  # not all at once: a basis is as large as a dense U
            u = self.unrotate(one_hot(chunk, count).double().reshape(-1, *event_shape))
            forms.append((u * operator(u)).flatten(1).sum(1))
        return torch.cat(forms).reshape(event_shape)


def _checked(event_shape: EventShape, sigma: float) -> tuple[EventShape, float]:
    return check_shape(event_shape), check_width(sigma)


class SeparableRotation(Rotation):
    """One orthonormal matrix per spatial axis: ``U = U_y ⊗ U_x``, the same for each channel.

    An author gives `matrix`; a basis with its own notion of blur or frequency also gives `axis_log_blur`, `axis_frequency`.
    """

    @abstractmethod
    def matrix(self, n: int) -> Tensor:
        """``(n, n)`` float64, orthonormal columns u_k, for an axis of n samples; a pure function of n and the parameters."""

    def axis_log_blur(self, n: int, sigma: float) -> Tensor:
        """``log D`` of one axis, shape ``(n,)``; D is the product over axes."""
        U = self.matrix(n)
        D = (U * (symmetric_blur_matrix(n, sigma) @ U)).sum(0)
        return D.clamp(0, 1).log().clamp_min(LOG_FLOOR)  # rounding may leave [0, 1]

    def axis_frequency(self, n: int) -> Tensor:
        """ω of one axis, shape ``(n,)``, radians per pixel; ρ is the radius over axes."""
        U = self.matrix(n)
        return (U * (laplacian_matrix(n) @ U)).sum(0).clamp_min(0).sqrt()

    def log_blur_spectrum(self, event_shape: EventShape, sigma: float) -> Tensor:
        per_axis = [self.axis_log_blur(n, sigma) for n in spatial(check_shape(event_shape))]
        grids = torch.meshgrid(*per_axis, indexing="ij")
        return torch.stack(grids).sum(0).clamp_min(LOG_FLOOR)[None]

    def frequencies(self, event_shape: EventShape) -> Tensor:
        return radius([self.axis_frequency(n) for n in spatial(check_shape(event_shape))])[None]

    @final
    def rotate(self, x: Tensor) -> Tensor:
        return self._apply(x, transpose=False)

    @final
    def unrotate(self, x_bar: Tensor) -> Tensor:
        return self._apply(x_bar, transpose=True)

    def _apply(self, x: Tensor, transpose: bool) -> Tensor:
        x = in_full(x)
        matrices = [_cast_matrix(self, n, x.dtype, x.device) for n in x.shape[2:]]
        with full_precision(x.device):
            return apply_per_axis(x, [matrix.T for matrix in matrices] if transpose else matrices)


@lru_cache(maxsize=64)
def _cast_matrix(rotation: SeparableRotation, n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix of one axis where and how it is used; refuses a matrix that is not orthonormal."""
    with torch.inference_mode(False):  # what is first used while sampling may later meet autograd
        return _orthonormal(rotation, n).to(device=device, dtype=dtype).clone(memory_format=torch.contiguous_format)


def _orthonormal(rotation: SeparableRotation, n: int) -> Tensor:
    U = rotation.matrix(n)
    if U.shape != (n, n):
        raise PluginError(
            f"rotation '{rotation.name}' returned a matrix of shape {tuple(U.shape)} for an axis of {n}",
            fix=f"matrix(n) must return ({n}, {n})",
            subject="rotation.name",
        )
    error = (U.T @ U - torch.eye(n, dtype=U.dtype)).abs().max().item()
    if not error < 1e-8:
        raise PluginError(
            f"rotation '{rotation.name}' is not orthogonal for an axis of {n}: max |U^T U - I| = {error:.1e}",
            details=["a rotation must keep inner products, or noise is no longer iid in rotated coordinates"],
            fix="return a float64 matrix with orthonormal columns",
            subject="rotation.name",
        )
    return U
