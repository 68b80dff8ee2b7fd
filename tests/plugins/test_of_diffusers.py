"""Networks of diffusers: they sample as its own loop does, and what cannot be expressed is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from foreign import SCHEDULE, N, chain, dit, pipeline, unet

from gendiff.condition import Condition
from gendiff.denoiser import Denoiser, NetworkScore
from gendiff.errors import ConfigError, DataError, PluginError
from gendiff.model import Model
from gendiff.run.config import Config
from gendiff.sampler import Sampler, sample
from gendiff.training.branch import Foreign
from gendiff.training.importing import imported  # noqa: F401  # the same weights, by a run
from gendiff_plugins.models import of_diffusers

EVENT = (1, 8, 8)


def score(folder, event=EVENT, conditions=None):
    """The network at a folder as a score model, in the process of its scheduler."""
    model = Model("diffusers", path=str(folder))
    config = Config.model_validate({**model.configuration(), "data": {"name": "digits"}})
    diffusion = config.diffusion()
    network = model.build_conditional(event, conditions or {})
    network.load_state_dict(model.weights(network))
    model.attach(network, diffusion)
    parametrization = config.objective.parametrization
    return NetworkScore(Denoiser(network.eval(), diffusion), diffusion, parametrization, (-1, 1), conditions), diffusion


def drawn(model, diffusion, sampler, noise, later=None):
    """What gendiff makes of noise, as diffusers has it: the chain starts from the noise itself."""
    return sample(
        diffusion, model, Sampler(sampler), later, start=diffusion.rotate(noise.double()).float(), dtype=torch.float32
    )


@pytest.fixture(scope="module")
def noise():
    return torch.randn(3, *EVENT, generator=torch.Generator().manual_seed(1))


class TestChains:
    @pytest.mark.parametrize("clip", [True, False])
    @pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
    @pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
    def test_ddim_is_that_of_diffusers(self, tmp_path, noise, predicts, betas, clip):
        path = pipeline(tmp_path / "a", unet(), prediction_type=predicts, beta_schedule=betas)
        theirs = DDIMScheduler(**SCHEDULE, prediction_type=predicts, beta_schedule=betas, clip_sample=clip)
        expected = chain(unet(), theirs, noise, N)
        model, diffusion = score(path)
        ours = drawn(model, diffusion, f"ddim:steps={N},grid=uniform,clip={str(clip).lower()}", noise)
        assert (ours - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max()))

    def test_fewer_steps(self, tmp_path, noise):
        path = pipeline(tmp_path / "a")
        theirs = DDIMScheduler(**SCHEDULE, timestep_spacing="trailing", clip_sample=True)
        expected = chain(unet(), theirs, noise, 5)
        ours = drawn(*score(path), "ddim:steps=5,grid=uniform", noise)
        assert (ours - expected).abs().max() < 1e-5

    def test_ddpm_is_that_of_diffusers(self, tmp_path, noise):
        expected = chain(unet(), DDPMScheduler(**SCHEDULE), noise, N, generator=torch.Generator().manual_seed(5))
        same = torch.Generator().manual_seed(5)
        model, diffusion = score(pipeline(tmp_path / "a"))
        ours = drawn(
            model, diffusion, f"ancestral:steps={N},grid=uniform", noise, lambda: torch.randn(3, *EVENT, generator=same)
        )
        assert (ours - expected).abs().max() < 1e-5
