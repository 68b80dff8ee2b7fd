"""Velocities that are functions of frequency: of that of each component, in any basis that has some, and in no other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gendiff import Diffusion, Rotation, Velocity
from gendiff.errors import ConfigError, PluginError
from gendiff.streams import stream

EVENT, N = (3, 4, 5), 20
K = 20  # positions

OF_FREQUENCY = {
    "k-flow": "k-flow",
    "interpolant": {"name": "interpolant", "a": "(1-t)**(1+r)", "s": "t**(1 + rho/4)"},
    "anisotropic": "anisotropic:bands=3",
    "learned": "learned:bands=3,parts=4",
    "learned channels": "learned:bands=3,parts=4,channels=true",
    "power law": "spectrum-matched:power_law=[1.59,0.0086,2]",
    "flipped": "equal-snr:flipped=true",
    "reversed": "reversed:velocity=low-pass-flow",
    "coloured": "coloured:colour=pink",
}
OF_NONE = [
    "k-flow:bands=1",
    "k-flow:overlap=1",
    "k-flow:share=1",
    "interpolant",
    "anisotropic:lead=0",
    "learned:bands=1",
    "learned:by=component",
    "learned:by=component,channels=true",
    "spectrum-matched:power_law=[1.59,0.0086,0]",
    "reversed:velocity=isotropic",
    "coloured:velocity='learned:by=component',colour=white",
]


class Dense(Rotation):
    """any orthogonal matrix of all components, those of other channels among them."""

    name = "dense"

    def rotate(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self._matrix(x)).reshape(x.shape)

    def unrotate(self, x_bar: Tensor) -> Tensor:
        return (x_bar.flatten(1) @ self._matrix(x_bar).T).reshape(x_bar.shape)

    def _matrix(self, x: Tensor) -> Tensor:
        count = x[0].numel()
        normal = torch.randn(count, count, generator=stream(0, "dense"), dtype=torch.float64)
        return torch.linalg.qr(normal).Q.to(x)


def told(rho: Tensor) -> Rotation:
    """That rotation, of these frequencies."""

    class Told(Dense):
        name = "told"

        def frequencies(self, event_shape: tuple[int, ...]) -> Tensor:
            return rho

    return Told()


def velocity(spec) -> Velocity:
    """Such a velocity, with whatever it learns at random; clocks of four bands stand for any that there are."""
    recipe = Velocity(spec)
    if recipe.name == "learned":
        clocks = 9 if recipe.channels else 3
        speeds = torch.randn(3, 4, generator=stream(0, "speeds"), dtype=torch.float64).repeat(clocks // 3, 1)
        return recipe.with_learned({"log_speeds": speeds})
    if recipe.name == "equal-snr":
        log_C = torch.randn(1, *EVENT[1:], generator=stream(0, "C"), dtype=torch.float64).expand(EVENT)
        return recipe.with_learned({"log_C": log_C})
    return recipe


@pytest.mark.parametrize("spec", OF_FREQUENCY.values(), ids=OF_FREQUENCY)
def test_single_pixels_are_refused(spec):
    """They have no frequency to tell them apart by; those at the border would be another band than those inside."""
    with pytest.raises(ConfigError, match="rotation 'identity' has no frequencies") as caught:
        velocity(spec).scales(Rotation("identity"), EVENT, N)
    assert "dct" in caught.value.fix
    assert caught.value.subject == "rotation.name"


@pytest.mark.parametrize("spec", OF_NONE)
def test_what_asks_for_no_frequency_is_for_any_basis(spec):
    Diffusion.of("identity", spec, EVENT, N)


@pytest.mark.parametrize("rotation", ["identity", "dct"])
@pytest.mark.parametrize("spec", ["k-flow", "learned", "coloured"])
def test_a_single_position_has_nothing_to_tell_apart(spec, rotation):
    assert Diffusion.of(rotation, spec, (2, 1), N).alike


@pytest.mark.parametrize("spec", OF_FREQUENCY.values(), ids=OF_FREQUENCY)
def test_each_channel_is_scaled_by_its_own_frequencies(spec):
    """Where a basis does not treat channels alike: as if the others were as it is."""
    values = torch.linspace(0, 3, K, dtype=torch.float64)
    rho = torch.stack([values[torch.randperm(K, generator=stream(0, "rho", c))] for c in range(3)]).reshape(EVENT)
    i, recipe = torch.tensor([1, 7, 19]), velocity(spec)
    whole = recipe.scales(told(rho), EVENT, N)
    for channel in range(3):
        alone = recipe.scales(told(rho[channel : channel + 1]), EVENT, N)
        for one, other in ((whole.log_a(i), alone.log_a(i)), (whole.log_s(i), alone.log_s(i))):
            one, other = (value.expand(3, *EVENT)[:, channel] for value in (one, other))
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("spec", OF_FREQUENCY.values(), ids=OF_FREQUENCY)
def test_a_dense_basis_with_frequencies_of_the_core(spec):
    """``(C, *spatial)``, which differ from channel to channel."""
    rho = Dense().frequencies(EVENT)
    assert rho.shape == EVENT
    recipe = Velocity(spec)
    if recipe.name == "equal-snr":
        recipe = velocity(spec)
    Diffusion.of(Dense(), recipe, EVENT, N)


def test_frequencies_that_channels_share_are_one_whatever_their_rounding():
    shared = torch.linspace(0, 3, K, dtype=torch.float64).reshape(1, *EVENT[1:])
    rounded = shared.expand(EVENT) + 1e-12 * torch.arange(3).reshape(3, 1, 1)
    assert torch.equal(told(rounded).spread_frequencies(EVENT, ""), shared)
    row = told(shared[:, :1]).spread_frequencies(EVENT, "")
    assert torch.equal(row, shared[:, :1].expand(shared.shape))


@pytest.mark.parametrize("shape", [EVENT[1:], (2, *EVENT[1:]), (3, 5, 4)])
def test_frequencies_of_another_shape_are_the_author_s_mistake(shape):
    with pytest.raises(PluginError, match=r"rotation 'told' has frequencies of shape .* for events of 3x4x5") as caught:
        Diffusion.of(told(torch.ones(shape, dtype=torch.float64)), "k-flow", EVENT, N)
    assert "plugins check told" in caught.value.fix
