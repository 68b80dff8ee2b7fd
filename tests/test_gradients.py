"""Gradients through a chain, against finite differences: who guides a sample or trains through one needs them right."""

from __future__ import annotations

import pytest
import torch
from processes import component, diffusion, rotations
from torch import Tensor, nn

from gendiff import Diffusion, NetworkScore, Objective, Parametrization, Rotation, Sampler, sample
from gendiff.denoiser import Denoiser
from gendiff.plugin.registry import default_registry
from gendiff.sampler import Clamped, invert
from gendiff.testing.probes import noise

EVENT, N = (2, 3, 5), 12
#: In float64 a central difference of this length is right to 1e-9.
LENGTH = 1e-5


class Bent(nn.Module):
    """A network that mixes all numbers of an event, and is not linear."""

    def __init__(self) -> None:
        super().__init__()
        d = torch.Size(EVENT).numel()
        self.weight = nn.Parameter(noise((d, d), 3) / d**0.5)

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        return torch.tanh(x.flatten(1) @ self.weight + i.double()[:, None] / N).reshape(x.shape)


def process_of(sampler: str, rotation: str = "dct") -> Diffusion:
    velocity = {"heat-dissipation": "heat:sigma_max=2", "momentum": "heat:sigma_max=2"}.get(sampler, "blur")
    return diffusion(rotation, velocity, EVENT, N=N)


def differences(value, x: Tensor, direction: Tensor) -> float:
    """The derivative of ``value`` at ``x`` along ``direction``."""
    with torch.no_grad():
        return float(value(x + LENGTH * direction) - value(x - LENGTH * direction)) / (2 * LENGTH)


def model_of(process: Diffusion, value_range=None, network: nn.Module | None = None, predicts="v") -> NetworkScore:
    return NetworkScore(network or Bent(), process, Parametrization(predicts), value_range)


def chain(process: Diffusion, model: NetworkScore, sampler: Sampler, **graph: bool):
    later = [noise((2, *EVENT), 10 + k) for k in range(2 * N)]

    def value(z: Tensor) -> Tensor:
        draws = iter([z, *later])
        return sample(process, model, sampler, lambda: next(draws), dtype=torch.float64, **graph).square().sum()

    return value


#: dopri5 keeps no graph, and says so.
FIXED = [name for name in default_registry().names("sampler") if name != "dopri5"]


@pytest.mark.parametrize("clip", [None, (-1.0, 1.0)])
@pytest.mark.parametrize("name", [*FIXED, "trig:solver=ab2", "trig:solver=heun", "ddim:eta=0.5"])
def test_through_every_sampler(name, clip):
    process = process_of(name)
    # With v and s = 0.02 a chain enlarges what it starts from so much that a difference steps over the kinks of clipping.
    model = model_of(process, clip, predicts="x0" if name == "heat-dissipation" else "v")
    value = chain(process, model, component(Sampler, name).model_copy(update={"clip": True}))
    z, direction = noise((2, *EVENT), 1).requires_grad_(), noise((2, *EVENT), 2)
    (gradient,) = torch.autograd.grad(value(z), z)
    assert float(gradient.abs().max()) > 1e-6
    torch.testing.assert_close(
        float((gradient * direction).sum()), differences(value, z, direction), rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("rotation", rotations())
def test_through_every_rotation(rotation):
    process = process_of("ddim", rotation)
    value = chain(process, model_of(process), component(Sampler, "ddim:steps=4"))
    z, direction = noise((2, *EVENT), 1).requires_grad_(), noise((2, *EVENT), 2)
    (gradient,) = torch.autograd.grad(value(z), z)
    torch.testing.assert_close(
        float((gradient * direction).sum()), differences(value, z, direction), rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("parametrization", list(Parametrization))
def test_through_a_belief(parametrization):
    process = process_of("ddim")
    model = Clamped(NetworkScore(Bent(), process, parametrization, (-1.5, 1.5)), process)

    def value(x_bar: Tensor) -> Tensor:
        belief = model.predict(x_bar, torch.tensor([3, 8]))
        return (belief.x_0 * belief.eps).sum()

    x_bar, direction = noise((2, *EVENT), 1).requires_grad_(), noise((2, *EVENT), 2)
    (gradient,) = torch.autograd.grad(value(x_bar), x_bar)
    torch.testing.assert_close(
        float((gradient * direction).sum()), differences(value, x_bar, direction), rtol=1e-5, atol=1e-8
    )


def test_through_an_inversion():
    process = process_of("trig")
    model = model_of(process)

    def value(x_0: Tensor) -> Tensor:
        return invert(process, model, x_0, [N, 8, 3, 0]).square().sum()

    x_0, direction = noise((2, *EVENT), 1).requires_grad_(), noise((2, *EVENT), 2)
    (gradient,) = torch.autograd.grad(value(x_0), x_0)
    torch.testing.assert_close(
        float((gradient * direction).sum()), differences(value, x_0, direction), rtol=1e-5, atol=1e-8
    )


def test_to_the_weights_where_that_is_asked_for():
    """They alone are no reason to keep every evaluation in memory."""
    process, network = process_of("ddim"), Bent()
    model, ddim, z = model_of(process, network=network), component(Sampler, "ddim:steps=4"), noise((2, *EVENT), 1)
    assert not chain(process, model, ddim)(z).requires_grad
    value = chain(process, model, ddim, graph=True)
    (gradient,) = torch.autograd.grad(value(z), network.weight)
    direction, before = noise(gradient.shape, 5), network.weight.detach().clone()

    def moved(weight: Tensor) -> Tensor:
        network.weight.copy_(weight)
        return chain(process, model, ddim)(z)

    torch.testing.assert_close(
        float((gradient * direction).sum()), differences(moved, before, direction), rtol=1e-5, atol=1e-8
    )


def test_a_graph_can_be_refused():
    process = process_of("ddim")
    value = chain(process, model_of(process), component(Sampler, "ddim:steps=3"), graph=False)
    assert not value(noise((2, *EVENT), 1).requires_grad_()).requires_grad


def test_a_denoiser_with_frequency_features_has_them():
    """In float32, as a trained network runs."""
    process = process_of("ddim")

    class Halves(nn.Module):
        def forward(self, x: Tensor, i: Tensor) -> Tensor:
            return torch.tanh(x[:, : EVENT[0]] * x[:, EVENT[0] :])

    model = model_of(process, network=Denoiser(Halves(), process, frequency_features=True))
    x_bar = noise((2, *EVENT), 1).requires_grad_()
    (gradient,) = torch.autograd.grad(model.predict(x_bar, 5).x_0.sum(), x_bar)

    def written_out(x_bar: Tensor) -> Tensor:
        x, at = process.unrotate(x_bar), process.at(5, torch.float64)
        v = process.rotate(torch.tanh(x * x_bar))
        return ((at.a * x_bar - at.s * v) / (at.a**2 + at.s**2)).sum()

    other = x_bar.detach().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(written_out(other), other)[0], rtol=1e-4, atol=1e-5)


def test_of_a_loss_also_where_nothing_but_the_events_requires_one():
    """Who distils or attacks asks for the gradient of the loss in x_0."""
    process, network = process_of("ddim"), Bent()
    i, eps = torch.tensor([3, 8]), noise((2, *EVENT), 6)
    for name in default_registry().names("objective"):
        objective = component(Objective, name)

        def value(x_0: Tensor, objective: Objective = objective) -> Tensor:
            return objective.loss(network, process, x_0, i, eps).per_event.sum()

        x_0, direction = noise((2, *EVENT), 1).requires_grad_(), noise((2, *EVENT), 2)
        (gradient,) = torch.autograd.grad(value(x_0), x_0)
        torch.testing.assert_close(
            float((gradient * direction).sum()), differences(value, x_0, direction), rtol=1e-4, atol=1e-7, msg=name
        )


def test_rotations_are_differentiated_by_their_transpose():
    for name in rotations():
        process = diffusion(name, "isotropic", EVENT, N=N)
        assert isinstance(process.rotation, Rotation)
        x, w = noise((2, *EVENT), 1).requires_grad_(), noise((2, *EVENT), 2)
        (gradient,) = torch.autograd.grad((process.rotate(x) * w).sum(), x)
        torch.testing.assert_close(gradient, process.unrotate(w))
