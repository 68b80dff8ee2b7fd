"""Flows: straight paths, the velocity as a view of the pivot, and third parties' views."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from gendiff.component import component_class
from gendiff.diffusion import Diffusion
from gendiff.errors import PluginError
from gendiff.moments import Moments
from gendiff.sampler import Sampler, sample
from gendiff.score import Parametrization, Pivot, ScoreModel, decode, encode
from gendiff.testing import checks

EVENT = (2, 4, 6)


class Curved(ScoreModel):
    """A belief that is no straight line, seen through a parametrization and back."""

    def __init__(self, diffusion, view):
        self.diffusion, self.view = diffusion, view

    def predict(self, x_bar, i):
        at = self.diffusion.asked(x_bar, i)
        x_0 = torch.tanh(1.5 * x_bar)
        pivot = Pivot(x_0, (x_bar - at.a * x_0) / at.s)
        return decode(self.view, encode(self.view, pivot, at), x_bar, at)


def flow(spec="rectified-flow", rotation="identity", N=100):
    return Diffusion.of(rotation, spec, EVENT, N, Moments.standard(EVENT))


@pytest.mark.parametrize(("evaluations", "real"), [(20, "false"), (7, "true")])
def test_a_rectified_flow_is_that_of_diffusers_step_by_step(evaluations, real):
    """Euler's method there is `ddim` here, at whole steps and between them."""
    import diffusers

    diffusion = flow()
    model = Curved(diffusion, "velocity")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=100)
    theirs.set_timesteps(sigmas=np.arange(evaluations, 0, -1) / evaluations)  # older versions want an array
    x = torch.randn(3, *EVENT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sampler, looks = Sampler(f"ddim:steps={evaluations},clip=false,grid='uniform:real={real}'"), []
    sample(diffusion, model, sampler, start=x, dtype=torch.float64, watch=looks.append)
    assert len(looks) == evaluations + 1
    assert any(look.j % 1 for look in looks) == (real == "true")
    for t, (before, after) in zip(theirs.timesteps, pairwise(looks), strict=True):
        assert float(t) == pytest.approx(before.j, rel=1e-6)
        output = encode("velocity", model.predict(x, before.j), diffusion.at(before.j, torch.float64))
        x = theirs.step(output, t, x).prev_sample.double()
        assert (x - after.x_bar).abs().max() < 1e-5


@pytest.mark.parametrize("view", list(Parametrization))
def test_every_parametrization_has_the_same_belief(view):
    for diffusion in (flow(), flow("k-flow", "dct"), flow("low-pass-flow", "dct")):
        for i in (1, 7, 50, 95):
            at = diffusion.at(i, torch.float64)
            alive = (at.log_a > -8).expand(EVENT)
            pivot = Pivot(*torch.randn(2, 3, *EVENT, dtype=torch.float64).unbind())
            back = decode(view, encode(view, pivot, at), diffusion.corrupted(at, pivot.x_0, pivot.eps), at)
            assert torch.allclose(back.x_0[:, alive], pivot.x_0[:, alive], atol=1e-6)


def test_the_velocity_of_a_rectified_flow_is_noise_minus_data_and_the_end_is_pure_noise():
    diffusion = flow()
    pivot = Pivot(*torch.randn(2, 3, *EVENT, dtype=torch.float64).unbind())
    for i in (1, 50, 100):
        assert torch.allclose(encode("velocity", pivot, diffusion.at(i, torch.float64)), pivot.eps - pivot.x_0)
    z = torch.randn(3, *EVENT)
    assert diffusion.at(100).a.max() == 0
    assert torch.equal(diffusion.prior(z), z)


@pytest.mark.parametrize("spec", ["k-flow:bands=1", "k-flow:overlap=1", "low-pass-flow:sigma=0"])
def test_special_cases_are_rectified_flow_to_the_bit(spec):
    i = torch.arange(101)
    one, other = flow(spec, "dct").at(i), flow().at(i)
    assert torch.equal(one.log_a.expand(-1, *EVENT), other.log_a.expand(-1, *EVENT))
    assert torch.equal(one.log_s.expand(-1, *EVENT), other.log_s.expand(-1, *EVENT))


def test_of_a_component_that_rests_the_best_linear_guess_is_believed():
    from gendiff.testing.probes import level

    at = level(torch.tensor([[[0.6]]]), torch.tensor([[[0.8]]]))  # the same at every step
    x = torch.tensor([[[[0.5]]]]).double()
    assert torch.allclose(decode("velocity", 0 * x, x, at).x_0, 0.6 * x)


def test_a_view_of_ones_own_is_registered_and_looked_at():
    class Twice(Parametrization):
        name = "twice-the-noise"

        def of_pivot(self, pivot: Pivot, at) -> Tensor:
            return 2 * pivot.eps

        def to_pivot(self, output: Tensor, x_bar: Tensor, at) -> Pivot:
            return decode("eps", output / self.factor, x_bar, at)

        factor = 2

    try:
        objective = component_class("objective", "eps")
        own = type("Own", (objective,), {"name": "own", "parametrization": Parametrization("twice-the-noise")})()
        (check,) = [one for one in checks(own) if "view of the pivot" in str(one)]
        check()
        Twice.factor = 3
        with pytest.raises(AssertionError, match="there and back"):
            check()
        with pytest.raises(PluginError, match="two parametrizations"):
            type("Other", (Twice,), {"name": "eps"})
    finally:
        from gendiff import score

        score._REGISTERED.pop("twice-the-noise", None)
    with pytest.raises(PluginError, match="lacks of_pivot"):
        type("Empty", (Parametrization,), {"name": "empty"})


@pytest.mark.parametrize(
    "sampler", ["ddim:steps=10", "dpmpp-2m:steps=10,grid=lambda", "heun:steps=9", "unipc-2:steps=8"]
)
def test_samplers_take_the_first_step_from_pure_noise(sampler):
    diffusion = flow()
    path = [
        sample(diffusion, Curved(diffusion, view), Sampler(sampler), n=2, dtype=torch.float64)
        for view in ("velocity", "x0", "v")
    ]
    assert path[0].isfinite().all()
    for other in path[1:]:
        assert torch.allclose(path[0], other, atol=1e-4)


@pytest.mark.parametrize(
    "sampler", ["ddim:steps=10", "dpmpp-2m:steps=10", "heun:steps=9", "unipc-2:steps=8", "ancestral"]
)
@pytest.mark.parametrize("spec", ["blur:schedule=quartic", "edm"])
def test_every_parametrization_leads_a_sampler_along_the_same_path(spec, sampler):
    """Of processes with something left of x_0 at N, where the views that say nothing of it otherwise do."""
    diffusion = flow(spec, "dct", N=20)
    assert float(diffusion.at(20).log_a.min()) > -8
    paths = {}
    for view in Parametrization:
        looks = []
        sample(diffusion, Curved(diffusion, view), Sampler(sampler), n=2, dtype=torch.float64, watch=looks.append)
        paths[view] = torch.stack([look.x_bar for look in looks])
    assert len(paths) == 8
    first = paths.pop(Parametrization("eps"))
    assert len(first) > 8
    for path in paths.values():
        torch.testing.assert_close(path, first, rtol=1e-6, atol=1e-6)
