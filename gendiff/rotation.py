r"""Rotation: the coordinate system in which the corruption is diagonal.

A rotation is a real orthogonal map U, ``U^T U = I``, acting on events; ``x̄ = U^T x`` are the rotated coordinates, kept in the
shape of the event. It acts on each channel alike, or is ``V ⊗ W``: an orthogonal map V of the channels (`ChannelRotation`), and
W on each of them. U is never built as a dense d x d matrix unless the plugin is dense.

``A+B`` is one rotation after the other, ``x̄ = U_B^T U_A^T x``: any number that mix channels, and one of space (`Composition`).

Not promised: that U diagonalises a Gaussian blur. Where it does not (`Rotation.diagonalises_blur`), the attenuation of
component k is ``u_k^T W u_k`` with W the blur under symmetric borders, so that the blur velocity still means something.

Rotations run in float32 (float64 in, float64 out), outside autocast and without TF32: a DCT in bfloat16 is wrong by a
percent, in float32 by 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, cast, final

import torch
from pydantic import Field, PrivateAttr, create_model, model_validator
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

NARROWEST = 1e-3  # pixels: a blur narrower than this is none
SAME = 1e-9  # radians per pixel: frequencies that differ by less are one


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

    def channel_matrix(self, channels: int) -> Tensor | None:
        """V, ``(C, C)`` float64, columns v_c, where ``U = V ⊗ W`` mixes channels; None, as here, where it acts on each alike."""
        return None

    def axis_weights(self, event_shape: EventShape) -> tuple[float, ...]:
        """How much each spatial axis counts in ρ, and in the width of a blur; here all alike."""
        return (1.0,) * len(spatial(event_shape))

    def refusal(self, event_shape: EventShape) -> str:
        """Why there is no U for events of that shape, in a few words; empty, as here for every shape, where there is one.

        An author gives it for a basis that exists in some sizes only: ``"a side is no power of two"``.
        """
        return ""

    @classmethod
    def composed(cls, name: str, parts: Sequence[type[Component]]) -> type[Component] | None:
        """`Composition`: the class of ``A+B``; raises `ConfigError` where the parts do not make one rotation."""
        return _composition(name, cast(tuple[type[Rotation], ...], tuple(parts)))

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
        return self._spread(event_shape, "that heat could damp") ** 2

    @final
    def spread_frequencies(self, event_shape: EventShape, purpose: str) -> Tensor:
        """`frequencies`, for who needs them to be others from component to component; ``purpose`` says what for.

        Returns ρ in full, float64, ``(1, *spatial)`` where the channels share it, else ``(C, *spatial)``. An event of a single
        position has one component in a channel, and nothing that it would have to be told apart from.

        Raises:
            ConfigError: for a basis that knows no blur, D = 1: its components have no frequency of their own.
            PluginError: where its author's `frequencies` do not broadcast to the event.

        """
        single = torch.Size(spatial(check_shape(event_shape))).numel() == 1
        return self._frequencies(event_shape) if single else self._spread(event_shape, purpose)

    def _spread(self, event_shape: EventShape, purpose: str) -> Tensor:
        if not self.log_blur_spectrum(event_shape, 1.0).any():
            raise ConfigError(
                f"rotation '{self.name}' has no frequencies {purpose}: D = 1 there",
                fix=f"choose a basis with a blur: {option('--rotation', 'dct')}",
                subject="rotation.name",
            )
        return self._frequencies(event_shape)

    def _frequencies(self, event_shape: EventShape) -> Tensor:
        """ρ in full, once for all channels where they have the same, whatever the rounding."""
        rho = self.frequencies(event_shape)
        if not broadcasts(rho.shape, event_shape):
            raise PluginError(
                f"rotation '{self.name}' has frequencies of shape {tuple(rho.shape)} for events of {shown_shape(event_shape)}",
                details=[
                    f"one for each component: {(1, *spatial(event_shape))}, or what broadcasts to {tuple(event_shape)}"
                ],
                fix=f"see what is wrong: {command('plugins', 'check', self.name)}",
                subject="rotation.name",
            )
        rho = rho.double().expand(len(rho), *spatial(event_shape))
        return rho[:1] if bool(((rho - rho[:1]).abs() < SAME).all()) else rho

    def axis_energies(self, event_shape: EventShape, matrix: Callable[[int], Tensor]) -> Tensor:
        """``u_k^T M u_k``, float64, broadcasting to the event, M being the product over axes of ``matrix(n)``, ``(n, n)``."""
        matrices = [matrix(n) for n in spatial(event_shape)]
        return self._quadratic_form(event_shape, lambda u: apply_per_axis(u, matrices))

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

    ``axes`` gives axes a speed of their own: with weights w, ``ρ² = Σ_axis (w ω)²``, and a blur of std σ is one of w σ along that
    axis. So the frames of a video, ``(C, T, H, W)``, may keep apart longer than its pixels do: ``dct:axes=[0.25]``.
    """

    axes: tuple[Annotated[float, Field(ge=0, le=1e3)], ...] | None = Field(
        None,
        description="weight of the frequency, and of a blur's width, of the first, second, ... spatial axis; of the others 1",
    )

    def axis_weights(self, event_shape: EventShape) -> tuple[float, ...]:
        axes = len(spatial(event_shape))
        return ((self.axes or ()) + (1.0,) * axes)[:axes]

    def refusal(self, event_shape: EventShape) -> str:
        axes = len(spatial(event_shape))
        given = self.axes or ()
        if len(given) > axes:
            return f"it has {axes} spatial ax{'is' if axes == 1 else 'es'}, and 'axes' gives {len(given)} weights"
        return "'axes' gives every axis the weight 0" if given and not any(self.axis_weights(event_shape)) else ""

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
        sizes, weights = spatial(check_shape(event_shape)), self.axis_weights(event_shape)
        widths = [w * sigma if w * sigma >= NARROWEST else 0.0 for w in weights]
        per_axis = [self.axis_log_blur(n, width) for n, width in zip(sizes, widths, strict=True)]
        grids = torch.meshgrid(*per_axis, indexing="ij")
        return torch.stack(grids).sum(0).clamp_min(LOG_FLOOR)[None]

    def frequencies(self, event_shape: EventShape) -> Tensor:
        sizes, weights = spatial(check_shape(event_shape)), self.axis_weights(event_shape)
        return radius([w * self.axis_frequency(n) for n, w in zip(sizes, weights, strict=True)])[None]

    def axis_energies(self, event_shape: EventShape, matrix: Callable[[int], Tensor]) -> Tensor:
        bases = [(self.matrix(n), matrix(n)) for n in spatial(event_shape)]
        grids = torch.meshgrid(*((U * (M @ U)).sum(0) for U, M in bases), indexing="ij")
        return torch.stack(grids).prod(0)[None]

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
        U = _orthonormal(rotation, rotation.matrix(n), n, "matrix(n)", f"an axis of {n}")
        return U.to(device=device, dtype=dtype).clone(memory_format=torch.contiguous_format)


def _orthonormal(rotation: Rotation, U: Tensor, n: int, method: str, place: str) -> Tensor:
    if U.shape != (n, n):
        raise PluginError(
            f"rotation '{rotation.name}' returned a matrix of shape {tuple(U.shape)} for {place}",
            fix=f"{method} must return ({n}, {n})",
            subject="rotation.name",
        )
    error = (U.T @ U - torch.eye(n, dtype=U.dtype)).abs().max().item()
    if not error < 1e-8:
        raise PluginError(
            f"rotation '{rotation.name}' is not orthogonal for {place}: max |U^T U - I| = {error:.1e}",
            details=["a rotation must keep inner products, or noise is no longer iid in rotated coordinates"],
            fix="return a float64 matrix with orthonormal columns",
            subject="rotation.name",
        )
    return U


class ChannelRotation(Rotation):
    """One orthonormal matrix V of the channels, the same at every position; an author gives `mixing`.

    Alone it leaves positions what they are, pixels, which know no blur: D = 1. With a basis of space it is ``ycbcr+dct``.
    """

    @abstractmethod
    def mixing(self, channels: int) -> Tensor:
        """``(C, C)`` float64, orthonormal columns v_c: channel c of x̄ is ``v_c^T x``; of C, parameters and what was learned."""

    @final
    def channel_matrix(self, channels: int) -> Tensor:
        """V, checked."""
        V = self.mixing(channels).double()
        return _orthonormal(self, V, channels, "mixing(channels)", f"{channels} channels")

    @final
    def rotate(self, x: Tensor) -> Tensor:
        return self._apply(x, transpose=False)

    @final
    def unrotate(self, x_bar: Tensor) -> Tensor:
        return self._apply(x_bar, transpose=True)

    def log_blur_spectrum(self, event_shape: EventShape, sigma: float) -> Tensor:
        return torch.zeros([1] * len(event_shape), dtype=torch.float64)

    def frequencies(self, event_shape: EventShape) -> Tensor:
        return pixel_frequencies(event_shape)

    def _apply(self, x: Tensor, transpose: bool) -> Tensor:
        x = in_full(x)
        V = _cast_channels(self, x.shape[1], x.dtype, x.device)
        return mixed(x, V.T if transpose else V)


@lru_cache(maxsize=64)
def _cast_channels(rotation: ChannelRotation, channels: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return rotation.channel_matrix(channels).to(device=device, dtype=dtype)


def mixed(x: Tensor, V: Tensor) -> Tensor:
    """``y_c = v_c^T x`` at every position of ``x``, ``(B, C, *spatial)``; v_c are the columns of ``V``, ``(C, C)``."""
    with full_precision(x.device):
        return (V.T @ x.flatten(2)).reshape(x.shape)


def pixel_frequencies(event_shape: EventShape) -> Tensor:
    """ρ of single pixels, ``(1, *spatial)``: the root of the diagonal of Λ, the same but at the borders."""
    return radius([laplacian_matrix(n).diagonal().sqrt() for n in spatial(event_shape)])[None]


class Composition(Rotation):
    """Rotations one after the other, ``x̄ = U_B^T U_A^T x`` for ``A+B``: any number that mix channels, and one of space.

    So ``U = V ⊗ W``. Frequencies, blur, and with them the speeds, are those of the basis of space, the same for each channel;
    what channels differ in, their mean and variance, a process hears of by the moments of the data. Parameters are those of
    the parts: ``ycbcr+block-dct:size=4``. The class of a composition is made where it is named (`Rotation.composed`).
    """

    rotations: ClassVar[tuple[type[Rotation], ...]] = ()
    _parts: tuple[object, tuple[Rotation, ...]] | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _ = self.parts  # each has rules of its own
        return self

    @property
    def parts(self) -> tuple[Rotation, ...]:
        """The rotations, in the order in which they are applied, each with what it has learned."""
        if self._parts is None or self._parts[0] is not self._learned:  # a copy may have learned something else
            self._parts = (self._learned, tuple(map(self._part, self.rotations)))
        return self._parts[1]

    @property
    def space(self) -> Rotation:
        """The one that is a basis of space."""
        return next(part for part in self.parts if not isinstance(part, ChannelRotation))

    def fit(self, data: Data) -> Mapping[str, Tensor]:
        """What the parts learn, each of the data as those before it have turned them; under ``PART.NAME``."""
        learned: dict[str, Tensor] = {}
        ready: list[Rotation] = []
        for part in self.parts:
            own = {} if type(part).fit is Rotation.fit else part.fit(Turned(source=data, by=tuple(ready)))
            learned |= {f"{part.name}.{name}": value for name, value in own.items()}
            ready.append(part.with_learned(own) if own else part)
        return learned

    def channel_matrix(self, channels: int) -> Tensor:
        V = torch.eye(channels, dtype=torch.float64)
        for part in self.parts:
            own = part.channel_matrix(channels)
            V = V if own is None else V @ own
        return V

    def rotate(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part.rotate(x)
        return x

    def unrotate(self, x_bar: Tensor) -> Tensor:
        for part in reversed(self.parts):
            x_bar = part.unrotate(x_bar)
        return x_bar

    def refusal(self, event_shape: EventShape) -> str:
        return next(filter(None, (part.refusal(event_shape) for part in self.parts)), "")

    def axis_weights(self, event_shape: EventShape) -> tuple[float, ...]:
        return self.space.axis_weights(event_shape)

    def log_blur_spectrum(self, event_shape: EventShape, sigma: float) -> Tensor:
        return self.space.log_blur_spectrum(event_shape, sigma)

    def frequencies(self, event_shape: EventShape) -> Tensor:
        return self.space.frequencies(event_shape)

    def axis_energies(self, event_shape: EventShape, matrix: Callable[[int], Tensor]) -> Tensor:
        return self.space.axis_energies(event_shape, matrix)

    def _part(self, rotation: type[Rotation]) -> Rotation:
        part = rotation.model_validate({key: getattr(self, key) for key in rotation.model_fields})
        prefix = f"{part.name}."
        own = {name.removeprefix(prefix): value for name, value in self._learned.items() if name.startswith(prefix)}
        return part.with_learned(own) if own else part

    def __reduce__(self) -> tuple[Any, ...]:  # its class has no place in a module
        return _again, (self.name, self.rotations, self.table(), dict(self._learned))


def _again(name: str, rotations: tuple[type[Rotation], ...], table: Mapping[str, Any], learned: Any) -> Rotation:
    composition = _composition(name, rotations).model_validate(table)
    return composition.with_learned(learned) if learned else composition


@lru_cache(maxsize=64)
def _composition(name: str, rotations: tuple[type[Rotation], ...]) -> type[Composition]:
    """The class of ``name``, whose parameters are those of its parts."""
    spaces = [rotation for rotation in rotations if not issubclass(rotation, ChannelRotation)]
    if len(spaces) != 1:
        bases = ", ".join(f"'{space.name}'" for space in spaces) or "none"
        raise ConfigError(
            f"rotation '{name}' is composed of {len(spaces)} bases of space",
            details=[f"bases of space in it: {bases}; a composition has one, and any number that mix channels"],
            fix=f"write it as {option('--rotation', 'ycbcr+dct')}",
            subject="rotation.name",
        )
    fields: dict[str, Any] = {}
    for rotation in rotations:
        for key, info in rotation.model_fields.items():
            if key in fields:
                raise ConfigError(
                    f"rotation '{name}': '{key}' is a parameter of two of its parts",
                    fix="compose rotations whose parameters have different names",
                    subject="rotation.name",
                )
            fields[key] = (info.annotation, info)
    composition = create_model("Composition", __base__=Composition, __module__=__name__, **fields)
    composition.name, composition.rotations = name, rotations
    composition.diagonalises_blur = spaces[0].diagonalises_blur
    composition.__doc__ = f"{' after '.join(rotation.name for rotation in reversed(rotations))}: U = V ⊗ W."
    return composition


class Turned(Data):
    """events as rotations turn them: what the next of a composition is fitted to."""

    name = "turned"
    value_range: ClassVar[tuple[float, float] | None] = None
    source: Data
    by: tuple[Rotation, ...]

    @property
    def event_shape(self) -> EventShape:
        return self.source.event_shape

    @property
    def length(self) -> int | None:
        return self.source.length

    def __getitem__(self, index: int) -> Tensor:
        x = self.source[index][None].double()
        for rotation in self.by:
            x = rotation.rotate(x)
        return x[0].float()

    @property
    def fingerprint(self) -> str:
        return f"{self.source.fingerprint} in {', '.join(rotation.spec for rotation in self.by)}"
