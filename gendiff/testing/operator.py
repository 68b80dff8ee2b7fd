"""What an operator promises: a linear map of each event by itself, and its adjoint."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from gendiff.component import component_class
from gendiff.errors import ConfigError
from gendiff.operator import Operator
from gendiff.rotation import Rotation
from gendiff.shapes import EventShape
from gendiff.testing.card import check, largest, require
from gendiff.testing.probes import EVENTS, SMALLS, listed, noise, undisturbed

#: Bases in which an operator may be diagonal.
BASES = ("identity", "dct", "hartley", "haar")


@check(
    "operator",
    "it takes events of some size, or says which it does not take",
    "`require(event_shape)`: a ConfigError, with what is allowed",
)
def sizes_taken(operator: Operator) -> str:
    """And says which shape is measured."""
    refused: dict[EventShape, str] = {}
    taken = {shape: operator.measured(shape) for shape in _taken(operator, (*SMALLS, *EVENTS), refused)}
    shape, measured = next(iter(taken.items()))
    more = f"; refused {listed(refused)}" if refused else ""
    return f"{len(taken)} sizes, {listed([shape])} gives {listed([measured])}{more}"


@check("operator", "it is linear and deterministic", "`apply`: no constant is added, and no random number drawn")
def linear(operator: Operator) -> str:
    """A (2x - 3z) = 2 A x - 3 A z; the events stay as they were."""
    worst = 0.0
    for shape in _taken(operator):
        x, z = noise((2, *shape), 1), noise((2, *shape), 2)
        copy = x.clone()
        with undisturbed():
            first, second = operator.apply(x), operator.apply(x)
        require(torch.equal(first, second), "the same numbers each time", "others")
        require(torch.equal(x, copy), "x left as it was", "x changed")
        error = operator.apply(2 * x - 3 * z) - (2 * first - 3 * operator.apply(z))
        worst = largest(worst, float(error.abs().max()))
        require(not operator.apply(torch.zeros_like(x)).any(), "A 0 = 0", "something else")
    require(worst < 1e-9, "A (2x - 3z) = 2 A x - 3 A z within 1e-9", f"{worst:.1e}")
    return f"within {worst:.1e}"


@check("operator", "its adjoint is its adjoint", "`adjoint(y, event_shape)`: A^T, which is no inverse")
def adjoint(operator: Operator) -> str:
    """<A x, y> = <x, A^T y>."""
    worst = 0.0
    for shape in _taken(operator):
        x = noise((3, *shape), 1)
        of_x = operator.apply(x)
        y = noise(tuple(of_x.shape), 2)
        back = operator.adjoint(y, shape)
        require(back.shape == x.shape, f"events, {tuple(x.shape)}", str(tuple(back.shape)))
        error = (of_x * y).sum() - (x * back).sum()
        worst = largest(worst, float(error.abs() / (x.norm() * y.norm())))
    require(worst < 1e-10, "<A x, y> = <x, A^T y> within 1e-10", f"{worst:.1e}")
    return f"within {worst:.1e}"


@check("operator", "it measures each event by itself", "an axis that is summed or shuffled should not be the first")
def alone(operator: Operator) -> str:
    """And back."""
    for shape in _taken(operator):
        x = noise((3, *shape), 1)
        y = operator.apply(x)
        require(len(y) == 3, "as many measurements as events", str(len(y)))
        for k in range(3):
            one, back = operator.apply(x[k : k + 1])[0], operator.adjoint(y[k : k + 1], shape)[0]
            error = float((one - y[k]).abs().max())
            require(error < 1e-10, "the same whichever events are measured with it", f"{error:.1e} off")
            error = float((back - operator.adjoint(y, shape)[k]).abs().max())
            require(error < 1e-10, "the same adjoint whichever events are with it", f"{error:.1e} off")
    return "each by itself"


@check("operator", "float32 in, float32 out, within 1e-5", "make tables in float64 and cast them: `table.to(x)`")
def single_precision(operator: Operator) -> str:
    """And float64 in, float64 out; both ways."""
    worst = 0.0
    for shape in _taken(operator):
        x = noise((2, *shape))
        y = operator.apply(x)
        for turn, value in ((operator.apply, x), (lambda y: operator.adjoint(y, shape), y)):  # noqa: B023
            exact, rough = turn(value), turn(value.float())
            require(exact.dtype == torch.float64, "float64 for float64", str(exact.dtype))
            require(rough.dtype == torch.float32, "float32 for float32", str(rough.dtype))
            worst = largest(worst, float((rough.double() - exact).abs().max() / (1 + exact.abs().max())))
    require(worst < 1e-5, "float32 and float64 agree within 1e-5", f"{worst:.1e}")
    return f"within {worst:.1e}"


@check("operator", "autograd goes through it", "use torch alone, and nothing in place")
def differentiable(operator: Operator) -> str:
    """The gradient of <A x, y> is A^T y."""
    for shape in _taken(operator):
        x = noise((1, *shape)).requires_grad_()
        of_x = operator.apply(x)
        y = noise(tuple(of_x.shape), 2)
        (gradient,) = torch.autograd.grad((of_x * y).sum(), x)
        error = float((gradient - operator.adjoint(y, shape)).abs().max())
        require(error < 1e-9, "the gradient A^T y", f"{error:.1e} off")
    return "its gradient is its adjoint"


@check(
    "operator",
    "it is diagonal where it says",
    "`basis(rotation, event_shape)`: a U with A^T A = U diag(d²) U^T, or None",
)
def diagonal(operator: Operator) -> str:
    """A^T A as a whole matrix, in its own basis and in others."""
    seen = set()
    for shape in _taken(operator):
        gram = operator.gram(_units(shape)).flatten(1)
        own = operator.basis(_rotation("dct"), shape)
        if own is not None and not own.refusal(shape):
            own.check(shape)
            require(operator.diagonal(own, shape) is not None, f"a diagonal in its own basis, {own}", "none")
        for U in [*([own] if own is not None else []), *map(_rotation, BASES)]:
            if U.refusal(shape) or (d := operator.diagonal(U, shape)) is None:
                continue
            basis = U.unrotate(_units(shape)).flatten(1)
            error = float((basis @ gram @ basis.T - torch.diag(d.flatten() ** 2)).abs().max())
            require(error < 1e-8, f"A^T A = U diag(d²) U^T in {U}", f"{error:.1e} off")
            seen.add(U.name)
    return f"in {', '.join(sorted(seen))}" if seen else "in no basis that was tried"


def _taken(
    operator: Operator, shapes: tuple[EventShape, ...] = SMALLS, refused: dict[EventShape, str] | None = None
) -> Iterator[EventShape]:
    """The shapes that it takes; with three channels too, for whoever mixes colours."""
    refused = {} if refused is None else refused
    taken = False
    for shape in dict.fromkeys((*shapes, (3, 8, 4), (3, 8))):
        try:
            operator.require(shape)
        except ConfigError as error:
            refused[shape] = error.what
            continue
        taken = True
        yield shape
    require(taken, "at least one size that it takes", next(iter(refused.values()), ""))


def _units(shape: EventShape) -> Tensor:
    d = torch.Size(shape).numel()
    return one_hot(torch.arange(d), d).double().reshape(d, *shape)


def _rotation(name: str) -> Rotation:
    rotation = component_class("rotation", name).model_validate({})
    assert isinstance(rotation, Rotation)
    return rotation
