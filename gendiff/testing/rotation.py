"""What a rotation promises: ``U^T U = I``, the same for each channel, in float32 wherever it is called."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gendiff.blur import LOG_FLOOR
from gendiff.component import component_class
from gendiff.rotation import Rotation, SeparableRotation, mixed
from gendiff.shapes import shown_shape
from gendiff.testing.card import check, largest, require
from gendiff.testing.probes import EVENTS, SMALLS, Sizes, SmoothNoise, listed, noise, undisturbed

_MATRIX = "`rotate` and `unrotate`, or `matrix`: the columns must be orthonormal"


@check(
    "rotation",
    "it takes events of every size, or says which it does not take",
    "`refusal(event_shape)`: why there is no U of that size, such as 'a side is no power of two'",
)
def sizes_taken(rotation: Rotation) -> str:
    """The others try the sizes that it takes, and fail at none that it does not."""
    sizes = Sizes(tuple(dict.fromkeys((*SMALLS, *EVENTS))))
    taken = [shape for shape, _ in sizes.of(rotation)]
    for shape, error in sizes.failed.items():
        others = f"; so at {listed(list(sizes.failed)[1:])}" if len(sizes.failed) > 1 else ""
        require(False, f"U of {shown_shape(shape)}, or a refusal", f"{error}{others}")
    reasons = ", ".join(dict.fromkeys(sizes.refused.values()))
    return f"tried {listed(taken)}" + (f"; refused {listed(sizes.refused)}: {reasons}" if reasons else "")


@check("rotation", "U^T U = I in float64", _MATRIX)
def orthogonal(rotation: Rotation) -> str:
    """The whole matrix where it is small."""
    sizes, worst = Sizes(SMALLS), 0.0
    for shape, U in sizes.of(rotation):
        d = torch.Size(shape).numel()
        basis = U.unrotate(one_hot(torch.arange(d), d).double().reshape(d, *shape)).flatten(1)
        worst = largest(worst, float((basis @ basis.T - torch.eye(d, dtype=torch.float64)).abs().max()))
    require(worst < 1e-10, "max |U^T U - I| < 1e-10", f"{worst:.1e}")
    return sizes.seen(f"max |U^T U - I| = {worst:.1e}")


@check("rotation", "rotate is the inverse of unrotate, on all sizes and channels", _MATRIX)
def round_trip(rotation: Rotation) -> str:
    """Both ways round."""
    sizes, worst = Sizes(), 0.0
    for shape, U in sizes.of(rotation):
        x = noise((3, *shape))
        copy = x.clone()
        require(U.rotate(x).shape == x.shape, f"the shape of x, {tuple(x.shape)}", str(tuple(U.rotate(x).shape)))
        U.unrotate(x)
        require(torch.equal(x, copy), "x left as it was", "x changed")
        worst = largest(
            worst, *(float((y - x).abs().max()) for y in (U.unrotate(U.rotate(x)), U.rotate(U.unrotate(x))))
        )
    require(worst < 1e-10, "U U^T x = x within 1e-10", f"{worst:.1e}")
    return sizes.seen(f"{worst:.1e} in float64")


@check("rotation", "rotate is the adjoint of unrotate", "one of the two may be scaled, or mixed up with its transpose")
def adjoint(rotation: Rotation) -> str:
    """<U^T x, y> = <x, U y>."""
    sizes, worst = Sizes(), 0.0
    for shape, U in sizes.of(rotation):
        x, y = noise((3, *shape), 1), noise((3, *shape), 2)
        error = (U.rotate(x) * y).sum() - (x * U.unrotate(y)).sum()
        worst = largest(worst, float(error.abs() / (x.norm() * y.norm())))
    require(worst < 1e-10, "<U^T x, y> = <x, U y> within 1e-10", f"{worst:.1e}")
    return sizes.seen(f"{worst:.1e}")


@check("rotation", "float32 in, float32 out, within 1e-5", "compute tables in float64 and cast them once")
def single_precision(rotation: Rotation) -> str:
    """And float64 in, float64 out."""
    sizes, worst = Sizes(), 0.0
    for shape, U in sizes.of(rotation):
        x = noise((3, *shape))
        for turn in (U.rotate, U.unrotate):
            require(turn(x).dtype == torch.float64, "float64 for float64", str(turn(x).dtype))
            require(turn(x.float()).dtype == torch.float32, "float32 for float32", str(turn(x.float()).dtype))
            worst = largest(worst, float((turn(x.float()).double() - turn(x)).abs().max()))
    require(worst < 1e-5, "float32 and float64 agree within 1e-5", f"{worst:.1e}")
    return sizes.seen(f"{worst:.1e}")


@check("rotation", "autocast does not lower its precision", "derive it from SeparableRotation, or use `full_precision`")
def autocast(rotation: Rotation) -> str:
    """A DCT in bfloat16 is wrong by a percent."""
    sizes, worst = Sizes(), 0.0
    for shape, U in sizes.of(rotation):
        x = noise((3, *shape), dtype=torch.float32)
        for turn in (U.rotate, U.unrotate):
            plain = turn(x)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                cast = turn(x)
            require(cast.dtype == torch.float32, "float32 inside autocast", str(cast.dtype))
            worst = largest(worst, float((cast - plain).abs().max()))
    require(worst < 1e-5, "the same numbers as outside, within 1e-5", f"{worst:.1e}")
    return sizes.seen(f"{worst:.1e}")


@check(
    "rotation",
    "it treats each channel alike",
    "the spatial axes are those after the channel, `x.shape[2:]`; what mixes channels is a `ChannelRotation`",
)
def channels(rotation: Rotation) -> str:
    """And each event of a batch; where it mixes them, what is left when they are mixed back."""
    sizes, worst = Sizes(), 0.0
    for shape, U in sizes.of(rotation):
        x, V = noise((2, *shape)), U.channel_matrix(shape[0])

        def turn(x: Tensor, U: Rotation = U, V: Tensor | None = V) -> Tensor:
            return U.rotate(x) if V is None else mixed(U.rotate(x), V.T)

        together = turn(x)
        for c in range(shape[0]):
            alone = turn(x[:1, c : c + 1].expand(1, shape[0], *shape[1:]).contiguous())
            worst = largest(
                worst, float((alone - together[:1, c : c + 1]).abs().max())
            )  # every channel holds channel c
    require(worst < 1e-10, "the same U for each channel and event, whatever the others", f"a difference of {worst:.1e}")
    return sizes.seen("channels and events are independent")


@check("rotation", "it is linear and deterministic", "it must not draw random numbers or depend on earlier calls")
def linear(rotation: Rotation) -> str:
    """And autograd goes through it."""
    _depends_on_nothing(rotation)
    sizes = Sizes()
    for shape, U in sizes.of(rotation):
        x, y = noise((2, *shape), 1), noise((2, *shape), 2)
        error = float((U.rotate(2 * x - 3 * y) - (2 * U.rotate(x) - 3 * U.rotate(y))).abs().max())
        require(error < 1e-9, "U^T (2x - 3y) = 2 U^T x - 3 U^T y", f"a difference of {error:.1e}")
        copy = type(rotation).model_validate(rotation.table())  # no cache may stand in for it
        again = copy.with_learned(U.learned) if U.has_learned else copy
        require(torch.equal(again.rotate(x), U.rotate(x)), "the same numbers each time", "others")
        leaf = x.clone().requires_grad_()
        (U.rotate(leaf) * y).sum().backward()
        error = float((_gradient(leaf) - U.unrotate(y)).abs().max())
        require(error < 1e-9, "the gradient U y", f"a difference of {error:.1e}")
    return sizes.seen("linear, differentiable, the same each time")


@check(
    "rotation",
    "blur and frequency of its components are in range",
    "`log_blur_spectrum`, `frequencies` or their `axis_` forms",
)
def spectra(rotation: Rotation) -> str:
    """Log D in [-1e4, 0], ρ in [0, π sqrt(axes)], broadcasting to the event; each with the component that it belongs to."""
    sizes, share = Sizes(), 1.0
    for shape, U in sizes.of(rotation):
        rho = U.frequencies(shape)
        _broadcasts(rho, shape, "frequencies")
        limit = math.pi * math.hypot(*U.axis_weights(shape)) + 1e-9
        inside = bool(((rho >= 0) & (rho <= limit)).all())
        require(inside, f"frequencies in [0, {limit:.3f}]", f"{float(rho.min()):.3g} to {float(rho.max()):.3g}")
        for sigma in (0.2, 0.4, 3.0):
            log_D = U.log_blur_spectrum(shape, sigma)
            _broadcasts(log_D, shape, "log_blur_spectrum")
            inside = bool(((log_D <= 0) & (log_D >= LOG_FLOOR)).all())
            require(inside, "log D in [-1e4, 0]", f"{float(log_D.min()):.3g} to {float(log_D.max()):.3g}")
        share = min(share, float(log_D.exp().mean()))
        if U.diagonalises_blur:
            _blurs(U, shape)
    _frequencies_fit(rotation)
    return sizes.seen("D = 1: blur has no effect" if share == 1 else f"a blur of 3 pixels keeps {share:.0%} on average")


@check("rotation", "its speed, beside dct", "`rotate` and `unrotate`")
def speed(rotation: Rotation) -> str:
    """A measurement: it fails only where nothing can be measured."""
    dct = component_class("rotation", "dct")
    shape, U = next(Sizes(((3, 64, 64), (3, 32, 32), *EVENTS)).of(rotation))
    x = noise((16, *shape), dtype=torch.float32)
    times = [_milliseconds(turn, x) for turn in (U, dct.model_validate({}))]
    return f"{times[0]:.2f} ms for 16 events of {'x'.join(map(str, shape))}, {times[0] / times[1]:.1f} times dct"


def _depends_on_nothing(rotation: Rotation) -> None:
    """Behind every cache: a matrix and what is learned are the same each time, or a run could not be sampled tomorrow."""
    shape, _ = next(Sizes(SMALLS).of(rotation))
    with undisturbed():
        first, second = (_tables(rotation, shape) for _ in range(2))
    for name, value in first.items():
        require(torch.equal(value, second[name]), f"the same {name} each time", "another")


def _tables(rotation: Rotation, shape: tuple[int, ...]) -> dict[str, Tensor]:
    learned = {f"'{name}' of fit(data)": value for name, value in rotation.fit(SmoothNoise(shape=shape)).items()}
    matrices = {n: rotation.matrix(n) for n in shape[1:]} if isinstance(rotation, SeparableRotation) else {}
    return learned | {f"matrix({n})": value for n, value in matrices.items()}


def _milliseconds(rotation: object, x: Tensor) -> float:
    assert isinstance(rotation, Rotation)
    best = math.inf
    for _ in range(4):  # the first fills caches
        start = time.perf_counter()
        rotation.unrotate(rotation.rotate(x))
        best = min(best, 1000 * (time.perf_counter() - start))
    return best


def _blurs(U: Rotation, shape: tuple[int, ...]) -> None:
    """U D U^T is the Gaussian blur: far from the borders, whatever happens there, a point becomes its kernel."""
    centre = tuple(n // 2 for n in shape[1:])
    point = torch.zeros(1, *shape, dtype=torch.float64)
    point[(0, 0, *centre)] = 1
    for sigma in (0.4, 1.0):
        kernel = torch.ones([1] * (len(shape) - 1), dtype=torch.float64)
        for axis, (n, m, weight) in enumerate(zip(shape[1:], centre, U.axis_weights(shape), strict=True)):
            place = torch.arange(n, dtype=torch.float64) - m
            g = torch.exp(-0.5 * (place / (weight * sigma)) ** 2) if weight else (place == 0).double()
            kernel = kernel * (g / g.sum()).reshape([n if other == axis else 1 for other in range(len(shape) - 1)])
        image = U.apply_diagonal(point, U.log_blur_spectrum(shape, sigma).exp())[0, 0]  # mixed there and back
        error = float((image - kernel).abs().max())
        require(error < 1e-9, f"a Gaussian blur of {sigma:g} pixels, as `diagonalises_blur` says", f"{error:.1e} off")


def _frequencies_fit(rotation: Rotation) -> None:
    """ρ goes with how fast the components vary, u_k^T Λ u_k; a basis has its own notion of it, but not another order."""
    for shape, U in Sizes(SMALLS).of(rotation):
        own, rough = (rho.expand(shape).flatten() for rho in (U.frequencies(shape), Rotation.frequencies(U, shape)))
        own, rough = own - own.mean(), rough - rough.mean()
        norm = float(own.norm() * rough.norm())
        if norm > 1e-6:  # all of one frequency: there is no order
            cosine = float(own @ rough) / norm
            require(
                cosine > 0.5, "frequencies that rise with how fast the components vary", f"correlation {cosine:.2f}"
            )


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _broadcasts(values: Tensor, shape: tuple[int, ...], what: str) -> None:
    require(values.dtype == torch.float64, f"{what} in float64", str(values.dtype))
    fits = values.ndim == len(shape) and all(own in (1, n) for own, n in zip(values.shape, shape, strict=True))
    require(fits, f"{what} that broadcast to the event {shape}", str(tuple(values.shape)))
