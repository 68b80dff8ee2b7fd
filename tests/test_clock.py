"""What a network is told of a step: i, t, λ, or λ of each band."""

from __future__ import annotations

import pytest
import torch
from gendiff_plugins.models.mlp import MLP
from gendiff_plugins.models.transformer import DiT, UViT
from gendiff_plugins.models.unet import UNet
from torch import nn

import gendiff
from gendiff.clock import FACTOR, Clock
from gendiff.condition import Condition
from gendiff.diffusion import Diffusion
from gendiff.errors import ArgumentError, ConfigError
from gendiff.frequency import equal_bands
from gendiff.model import Model

EVENT, N, BANDS = (2, 8, 8), 40, 4
QUARTIC, FLAT = ("dct", "blur:schedule=quartic"), ("identity", "blur:noise=cosine")
TOLD = {"time": "bands", "bands": BANDS}
MODELS = [
    UNet(channels=8, heads=2, **TOLD),
    DiT(width=16, depth=2, heads=2, **TOLD),
    UViT(width=16, depth=3, heads=2, **TOLD),
    MLP(width=16, depth=1, **TOLD),
]


def process(recipe, steps=N):
    return Diffusion.of(*recipe, EVENT, steps)


def attached(time, recipe=QUARTIC, **counts):
    clock = Clock(time, **counts)
    clock.attach(process(recipe))
    return clock


class TestValues:
    def test_bands_are_the_means_of_the_scales(self):
        """Written out: the components of a channel by frequency, ties by index, cut into equal runs."""
        diffusion, clock = process(QUARTIC), attached("bands", channels=2, bands=BANDS)
        rho = [((y**2 + x**2), y * 8 + x) for y in range(8) for x in range(8)]
        order = [index for _, index in sorted(rho)]
        for i in (1, 17, N):
            level = diffusion.at(i, torch.float64).half_log_snr.clamp(-20, 20).expand(1, *EVENT).flatten(2)[0, 0]
            means = [level[order[16 * b : 16 * b + 16]].mean() for b in range(BANDS)]
            told = clock(torch.tensor([float(i)]))
            assert torch.allclose(told, FACTOR * torch.stack(means).float().repeat(2)[None], rtol=1e-6)
        assert told[0, 0] > told[0, 3] + 20  # low frequencies keep their signal

    def test_lambda_is_the_mean_of_the_bands(self):
        i = torch.arange(1.0, N + 1)
        one, several = attached("lambda")(i), attached("bands", channels=2, bands=BANDS)(i)
        assert one.shape == (N,)
        assert torch.allclose(one, several.mean(1), rtol=1e-5, atol=1e-3)

    def test_reference_is_one_component_of_the_lowest_frequency(self):
        """The constant one, of the first channel: no blur reaches it, whatever becomes of the others."""
        diffusion, clock = process(QUARTIC), attached("reference")
        i = torch.arange(1.0, N + 1)
        own = diffusion.at(i.long(), torch.float64).half_log_snr.expand(-1, *EVENT)[:, 0, 0, 0].clamp(-20, 20)
        assert clock(i).shape == (N,)
        assert torch.allclose(clock(i), FACTOR * own.float(), rtol=1e-6)
        assert (clock(i) - attached("lambda")(i)).max() > 20

    def test_reference_is_lambda_where_all_move_alike(self):
        i = torch.arange(1.0, N + 1)
        assert torch.equal(attached("reference", FLAT)(i), attached("lambda", FLAT)(i))

    def test_all_bands_of_one_speed_are_told_alike(self):
        told = attached("bands", FLAT, channels=2)(torch.tensor([3.0, 9.0]))
        assert (told == told[:, :1]).all()

    def test_t_is_that_of_a_thousand_steps(self):
        assert torch.allclose(attached("t")(torch.tensor([1.0, N])), torch.tensor([1000 / N, 1000.0]))

    def test_between_steps_it_goes_straight(self):
        clock = attached("lambda")
        ends, middle = clock(torch.tensor([4.0, 5.0])), clock(torch.tensor([4.25]))
        assert torch.allclose(middle, 0.75 * ends[0] + 0.25 * ends[1])

    def test_i_is_i(self):
        i = torch.rand(5)
        assert Clock()(i) is i

    def test_bands_hold_equally_many(self):
        band = equal_bands(torch.rand(5, 7, dtype=torch.float64), 4)
        assert sorted(band.flatten().bincount().tolist()) == [8, 9, 9, 9]

    def test_what_cannot_be_told(self):
        with pytest.raises(ArgumentError, match="allowed: 'i', 't', 'lambda', 'reference', 'bands'"):
            Clock("gamma")
        with pytest.raises(ArgumentError, match=r"Clock\('bands', channels=2\)"):
            attached("bands", channels=3)
        with pytest.raises(ConfigError, match="a channel has 64 components"):
            UNet(time="bands", bands=65).build(EVENT)


def moved(network):
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return network.eval()


class TestNetworks:
    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
    def test_two_processes_are_told_apart(self, model):
        torch.manual_seed(0)
        network, x, i = moved(model.build(EVENT)), torch.randn(2, *EVENT), torch.tensor([12.0, 30.0])
        answers = []
        for recipe in (QUARTIC, FLAT, QUARTIC):
            model.attach(network, process(recipe))
            answers.append(network(x, i))
        assert torch.equal(answers[0], answers[2])
        assert (answers[0] - answers[1]).abs().amax((1, 2, 3)).min() > 1e-4

    @pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
    def test_what_is_told_is_no_weight(self, model):
        plain = model.model_copy(update={"time": "i"})
        torch.manual_seed(0)
        network = model.build(EVENT)
        assert not any("table" in name for name in network.state_dict())
        assert network.state_dict().keys() >= plain.build(EVENT).state_dict().keys()
        torch.manual_seed(0)
        told = model.build_conditional(EVENT, {"label": Condition.label(3)})
        label = {"label": torch.tensor([0, 2])}
        assert told(torch.zeros(2, *EVENT), torch.ones(2), label).shape == (2, *EVENT)

    def test_i_is_the_default_and_changes_nothing(self):
        for model in MODELS:
            own = {**model.table(), "time": "i"}
            old = {key: value for key, value in own.items() if key not in ("time", "bands")}
            states = []
            for table in (own, old):
                torch.manual_seed(1)
                network = Model(table).build(EVENT)
                Model(table).attach(network, process(QUARTIC))
                states.append(network.state_dict())
            assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

    def test_a_clock_in_any_network_is_attached(self):
        network = nn.Sequential(nn.Linear(1, 1), nn.Sequential(Clock("lambda")))
        UNet().attach(network, process(QUARTIC))
        assert torch.equal(network[1][0].table, attached("lambda").table)


def test_a_run_that_is_told_of_bands_goes_on_and_is_drawn_on_any_grid(tmp_path):
    """Stopped and continued it is the same run to the bit, and the scales of its process are read again where it is opened."""
    torch.manual_seed(2)
    x = torch.rand(16, 1, 4, 4) * 2 - 1
    recipe = {"model": "mlp:width=8,depth=1,time=bands,bands=4", "rotation": "dct", "velocity": "blur:schedule=quartic"}
    how = {**recipe, "batch": 4, "N": 30, "device": "cpu", "sample_every": 0, "progress": False}
    whole = gendiff.train(x, steps=8, out=tmp_path / "whole", **how)
    gendiff.train(x, steps=4, out=tmp_path / "half", **how)
    half = gendiff.resume(tmp_path / "half", data=x, steps=8, device="cpu")
    drawn = [one.sample(2, sampler="ddim:steps=7,grid=arc-length", seed=1) for one in (whole, half)]
    assert torch.equal(*drawn)
    clock = half.denoiser.network.embedding.clock
    level = half.diffusion.at(30, torch.float64).half_log_snr.clamp(-20, 20)
    assert torch.allclose(clock(torch.tensor([30.0])).mean(), FACTOR * level.mean().float(), rtol=1e-5)
    assert whole.run.info["config"]["model"]["time"] == "bands"
