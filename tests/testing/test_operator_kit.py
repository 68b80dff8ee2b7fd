"""What the kit asks of an operator: every check finds something, and what is only unusual passes."""

from __future__ import annotations

import torch
from flaws import Fails, assert_found, broken, each, titles
from torch import Tensor

from gendiff import Rotation
from gendiff.errors import ConfigError
from gendiff.operator import Operator

fails = Fails()

SIZES = "it takes events of some size, or says which it does not take"
LINEAR, ADJOINT = "it is linear and deterministic", "its adjoint is its adjoint"
ALONE, SINGLE = "it measures each event by itself", "float32 in, float32 out, within 1e-5"
GRADIENT, DIAGONAL = "autograd goes through it", "it is diagonal where it says"


class Halves(Operator):
    """the first half of every line, for others to change."""

    name = "mutant"

    def apply(self, x: Tensor) -> Tensor:
        return x[..., : (x.shape[-1] + 1) // 2]

    def adjoint(self, y: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        x = y.new_zeros(len(y), *event_shape)
        x[..., : y.shape[-1]] = y
        return x

    def basis(self, rotation: Rotation, event_shape: tuple[int, ...]) -> Rotation | None:
        return Rotation("identity")


@fails(SIZES, "expected at least one size that it takes; seen: never")
class TakesNothing(Halves):
    def require(self, event_shape: tuple[int, ...]) -> None:
        raise ConfigError("never")


@fails(SIZES, "seen: operator 'mutant' makes ")
class NoBatch(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x).flatten()


@fails(LINEAR, "expected A 0 = 0; seen: something else")
class Shifted(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x) + 1


@fails(LINEAR, r"expected A \(2x - 3z\) = 2 A x - 3 A z within 1e-9; seen: ")
class Rectified(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x).clamp_min(0)


@fails(LINEAR, "left alone; seen: those of torch are not")
class Noisy(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x) + 0 * torch.rand(())


@fails(LINEAR, "expected x left as it was; seen: x changed")
class InPlace(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x.mul_(0.5))


@fails(ADJOINT, r"expected <A x, y> = <x, A\^T y> within 1e-10; seen: ")
class Inverse(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return 2 * super().apply(x)

    def adjoint(self, y: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        return super().adjoint(y, event_shape) / 2


@fails(ADJOINT, "expected events, .*; seen: ")
class BackToLess(Halves):
    def adjoint(self, y: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        return y


@fails(ALONE, "expected the same whichever events are measured with it; seen: ")
class OfTheBatch(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x - x.mean(0, keepdim=True) / 2)


@fails(ALONE, "expected the same adjoint whichever events are with it; seen: ")
class BackOfTheBatch(Halves):
    def adjoint(self, y: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        return super().adjoint(y.flip(0), event_shape)


@fails(ALONE, "expected as many measurements as events; seen: 1")
class Mean(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x.mean(0, keepdim=True))


@fails(SINGLE, "expected float32 for float32; seen: torch.float64")
class Doubles(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x).double()


@fails(SINGLE, "expected float64 for float64; seen: torch.float32")
class Singles(Halves):
    def adjoint(self, y: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        return super().adjoint(y, event_shape).float()


@fails(SINGLE, "float32 and float64 agree within 1e-5; seen: ")
class Rough(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x if x.dtype == torch.float64 else x.bfloat16().float())


@fails(GRADIENT, "no error; seen: RuntimeError: .*grad")
class Detached(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply(x).detach()


@fails(GRADIENT, "expected the gradient A\\^T y; seen: ")
class HalfDetached(Halves):
    def apply(self, x: Tensor) -> Tensor:
        return super().apply((x + x.detach()) / 2)


@fails(DIAGONAL, "expected a diagonal in its own basis, Rotation.*; seen: none")
class WrongBasis(Halves):
    def basis(self, rotation: Rotation, event_shape: tuple[int, ...]) -> Rotation | None:
        return Rotation("dct")


class NoBasis(Halves):
    """knows none."""

    name = "no-basis"

    def basis(self, rotation: Rotation, event_shape: tuple[int, ...]) -> Rotation | None:
        return None


class Numbers(Operator):
    """three numbers of each event, in no shape of an event."""

    name = "numbers"

    def apply(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]

    def adjoint(self, y: Tensor, event_shape: tuple[int, ...]) -> Tensor:
        x = y.new_zeros(len(y), torch.Size(event_shape).numel())
        x[:, :3] = y
        return x.reshape(len(y), *event_shape)


@fails.each
def test_a_mutant_is_found(mutant):
    assert_found(mutant)


def test_no_check_is_vacuous():
    assert titles("operator") <= fails.titles


@each(Halves)
def test_what_mutants_are_made_of_is_sound(cls):
    assert broken(cls()) == []


@each(NoBasis, Numbers)
def test_what_is_only_unusual_passes(cls):
    assert broken(cls()) == []
