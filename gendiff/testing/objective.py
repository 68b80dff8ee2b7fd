"""What an objective promises: the right prediction is its minimum, at every step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gendiff.component import component_class
from gendiff.diffusion import Diffusion
from gendiff.moments import Moments
from gendiff.objective import Objective
from gendiff.rotation import Rotation
from gendiff.score import Parametrization, Pivot, decode, encode
from gendiff.testing.card import check, require
from gendiff.testing.probes import SmoothScales, noise

EVENT = (2, 3, 5)
_PARTS = "`parametrization` and `weight(at)`"


class _Constant(nn.Module):
    """A network that says what it is told to say."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        return self.output


@check("objective", "at the right prediction the loss and its gradient are zero", _PARTS)
def optimum(objective: Objective) -> str:
    """For clean events and noise that are known."""
    loss, gradient, scale = _tried(objective, 0.0)
    require(loss < 1e-9 ** (objective.power / 2) * scale, "a loss of 0", f"{loss:.1e}")
    if objective.power == 2:  # an absolute value has none at 0
        require(gradient < 1e-4 * scale, "a gradient of 0", f"{gradient:.1e}")
    return f"predicts {objective.parametrization.value}: loss {loss:.0e}, gradient {gradient:.0e}"


@check("objective", "the loss grows away from it", _PARTS)
def grows(objective: Objective) -> str:
    """Quadratically, or linearly."""
    near, far = (_tried(objective, size)[0] for size in (0.1, 0.2))
    require(near > 0, "a positive loss for a wrong prediction", f"{near:.1e}")
    times = 2**objective.power
    require(abs(far / near - times) < 0.01, f"{times} times the loss at twice the error", f"{far / near:.3f} times")
    return "quadratically" if objective.power == 2 else "linearly"


@check("objective", "its weight is finite and never negative", "`weight(at)`: s is small at i = 1, a vanishes at N")
def weight(objective: Objective) -> str:
    """At every step, for every component."""
    diffusion = _diffusion()
    at = diffusion.at(torch.arange(1, diffusion.N + 1))
    omega, shape = objective.weight(at), tuple(at.s.shape)
    fits = omega.ndim <= len(shape) and all(
        own in (1, n) for own, n in zip(omega.shape[::-1], shape[::-1], strict=False)
    )
    require(fits, f"weights that broadcast to {shape}", str(tuple(omega.shape)))
    fine = bool((torch.isfinite(omega) & (omega >= 0)).all())
    require(fine, "finite weights >= 0", f"{float(omega.min()):.3g} to {float(omega.max()):.3g}")
    require(bool((omega > 0).any()), "a weight above 0 somewhere", "none")
    return f"ω from {float(omega.min()):.3g} to {float(omega.max()):.3g}"


@check("objective", "it gives one loss per event", "`loss` is final: this fails only where `weight` does not broadcast")
def per_event(objective: Objective) -> str:
    """Each of its own event alone."""
    valid = isinstance(objective.parametrization, Parametrization)
    require(valid, "a parametrization: one of Parametrization", repr(objective.parametrization))
    diffusion = _diffusion()
    x_0, eps, i = noise((4, *EVENT), 1).float(), noise((4, *EVENT), 2).float(), torch.tensor([1, 10, 60, 100])
    loss = objective.loss(_Constant(torch.zeros(4, *EVENT)), diffusion, x_0, i, eps)
    require(loss.per_event.shape == (4,), "shape (4,)", str(tuple(loss.per_event.shape)))
    require(loss.error_bar.shape == (4, *EVENT), f"an error of shape {(4, *EVENT)}", str(tuple(loss.error_bar.shape)))
    alone = objective.loss(_Constant(torch.zeros(1, *EVENT)), diffusion, x_0[2:3], i[2:3], eps[2:3]).per_event
    require(torch.allclose(alone, loss.per_event[2:3], rtol=1e-4), "the same loss alone", "another")
    return "independent of the batch"


@check("objective", "its parametrization is a view of the pivot", "`of_pivot` and `to_pivot` of the parametrization")
def view(objective: Objective) -> str:
    """There and back gives the belief again, affine in the output, and finite where a vanishes."""
    diffusion, named = _diffusion(), objective.parametrization
    i = torch.tensor([1, 2, 30, 100])
    at = diffusion.at(i, torch.float64)
    pivot = Pivot(noise((4, *EVENT), 1), noise((4, *EVENT), 2))
    x_bar = diffusion.corrupted(at, pivot.x_0, pivot.eps)
    there = encode(named, pivot, at)
    back = decode(named, there, x_bar, at)
    belief = torch.stack([back.x_0, back.eps])
    require(bool(belief.isfinite().all()), "a finite belief at every step", "one that is not")
    again = (at.a * back.x_0 + at.s * back.eps - x_bar).abs().max()
    require(float(again) < 1e-8, "a belief that adds up to x̄_i", f"{float(again):.1e} off")
    alive = (at.log_a > -5).expand_as(x_bar)  # x_0 is told from rounding error
    apart = max(
        float((one - other)[alive].abs().max()) for one, other in ((back.x_0, pivot.x_0), (back.eps, pivot.eps))
    )
    require(apart < 1e-6, "the same belief, there and back", f"{apart:.1e} apart")
    other = noise((4, *EVENT), 3)
    ends = [decode(named, output, x_bar, at) for output in (there, other, 0.25 * there + 0.75 * other)]
    middle = 0.25 * ends[0].x_0 + 0.75 * ends[1].x_0 - ends[2].x_0
    scale = max(float(end.x_0.abs().max()) for end in ends)
    require(float(middle.abs().max()) < 1e-8 * scale, "a conversion that is affine in the output", "one that is not")
    return f"{named}: within {apart:.0e}"


def _diffusion() -> Diffusion:
    dct = component_class("rotation", "dct").model_validate({})
    assert isinstance(dct, Rotation)
    rate = torch.linspace(2, 12, 15, dtype=torch.float64)
    rate[-1] = 1e5  # gone long before N: a = 0 and s = 1 in float32
    rate = rate.reshape(1, 3, 5)
    return Diffusion(dct, SmoothScales(100, rate), EVENT, Moments.standard(EVENT))


def _tried(objective: Objective, size: float) -> tuple[float, float, float]:
    """Loss and largest gradient when the prediction is off by ``size``, and the scale of both."""
    diffusion = _diffusion()
    i = torch.tensor([1, 2, 30, 100])  # not as many as any side of an event: what broadcasts wrongly must not fit
    x_0, eps = noise((4, *EVENT), 1).float(), noise((4, *EVENT), 2).float()
    at = diffusion.at(i)
    pivot = Pivot(diffusion.rotate(x_0), diffusion.rotate(eps))
    target = encode(objective.parametrization, pivot, at)
    output = diffusion.unrotate(target + size * noise((4, *EVENT), 3).float())
    network = _Constant(output)
    loss = objective.loss(network, diffusion, x_0, i, eps).per_event.mean()
    loss.backward()
    gradient = torch.zeros(()) if network.output.grad is None else network.output.grad
    scale = float((objective.weight(at) * target**2).mean().clamp_min(1)) * (
        target[0].numel() if objective.summed else 1
    )
    return float(loss.detach()), float(gradient.abs().max()), scale
