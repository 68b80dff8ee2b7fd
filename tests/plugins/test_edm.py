"""Networks of EDM: its files read as data, its preconditionings, and its own sampler, step by step."""

from __future__ import annotations

import math
from itertools import pairwise

import nvidia
import pytest
import torch
from command import run
from gendiff_plugins.models import edm_pickle
from gendiff_plugins.models.edm import Preconditioned, _network
from gendiff_plugins.models.song_unet import DhariwalUNet, SongUNet

import gendiff
from gendiff import Diffusion, Model, NetworkScore, Sampler, Velocity, sample
from gendiff.condition import Condition
from gendiff.denoiser import Denoiser
from gendiff.errors import ConfigError

CASES = {
    "EDMPrecond": {"label_dim": 4, "augment_dim": 9},
    "VPPrecond": {},
    "VEPrecond": nvidia.NCSN,
    "iDDPMPrecond": {"model_type": "DhariwalUNet", "model_channels": 64, "label_dim": 4},
}
EVENT = (3, 8, 8)


def written(tmp_path, name="EDMPrecond", **options):
    arguments = {**CASES[name], **options}
    made = nvidia.network(preconditioning=name, **arguments)
    return made, nvidia.write(tmp_path / "network.pkl", made, **arguments)


# The velocity


def test_sigma_follows_the_formula_of_the_paper():
    N, low, high, rho = 18, 0.002, 80.0, 7.0
    process = Diffusion.of("dct", "edm", (2, 3, 5), N)
    t = [(high ** (1 / rho) + k / (N - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for k in range(N)]
    s = process.at(torch.arange(N, 0, -1), torch.float64).s.flatten()
    torch.testing.assert_close(s, torch.tensor(t, dtype=torch.float64), rtol=1e-12, atol=0)
    assert process.alike
    assert float(process.at(0, torch.float64).s) == 0
    assert (process.at(torch.arange(N + 1)).a == 1).all()


@pytest.mark.parametrize("spec", ["edm:rho=1", "edm:sigma_min=1e-6,sigma_max=1e6,rho=1", "edm:rho=100"])
def test_sigma_ends_where_it_is_said(spec):
    velocity = Velocity(spec)
    s = Diffusion.of("identity", velocity, EVENT, 100).at(torch.tensor([1, 100]), torch.float64).s.flatten()
    torch.testing.assert_close(s, torch.tensor([velocity.sigma_min, velocity.sigma_max], dtype=torch.float64))


def test_a_range_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="sigma_min = 80 is not below sigma_max = 80"):
        Velocity("edm:sigma_min=80")


def test_bands_begin_and_end_together_and_have_a_pace_of_their_own():
    event, N = (1, 8, 8), 101
    twin, process = (Diffusion.of("dct", spec, event, N) for spec in ("edm", "anisotropic:lead=1,bands=3"))
    i = torch.tensor([1, 51, 101])
    ratio = process.at(i, torch.float64).log_s - twin.at(i, torch.float64).log_s
    torch.testing.assert_close(ratio[[0, 2]], torch.zeros(2, 1, 8, 8, dtype=torch.float64), atol=1e-12, rtol=0)
    assert {round(float(value), 9) for value in ratio[1].flatten()} == {-1, 0, 1}
    assert (float(ratio[1, 0, 0, 0]), float(ratio[1, 0, 7, 7])) == pytest.approx((-1, 1))
    still = Diffusion.of("dct", "anisotropic:lead=0", event, N)
    i = torch.arange(N + 1)
    assert torch.equal(still.at(i).s.expand(-1, *event), twin.at(i).s.expand(-1, *event))


@pytest.mark.parametrize("lead", [1.7, -1.7])
def test_the_noise_of_no_band_falls(lead):
    Diffusion.of("dct", f"anisotropic:lead={lead}", (1, 8, 8), 1000)
    with pytest.raises(ConfigError, match="the noise of a band would fall"):
        Velocity("anisotropic", lead=1.1 * lead)


# EDM's own sampler, as its paper has it (Algorithm 1, without churn)


def edm_sampler(denoise, latents, N, heun, sigma_min=0.002, sigma_max=80.0, rho=7):
    k = torch.arange(N, dtype=torch.float64)
    t = (sigma_max ** (1 / rho) + k / (N - 1) * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    t = torch.cat([t, torch.zeros_like(t[:1])])
    x_next = latents.double() * t[0]
    for here, there in pairwise(t):
        x = x_next
        d = (x - denoise(x.float(), here.float()).double()) / here
        x_next = x + (there - here) * d
        if heun and there > 0:
            d_prime = (x_next - denoise(x_next.float(), there.float()).double()) / there
            x_next = x + (there - here) * (d + d_prime) / 2
    return x_next.float()


def preconditioned(made: Preconditioned, x, sigma, labels):
    """D(x; σ) as Table 1 of the paper has it, around the network inside."""
    outside, name = made.outside, made.outside.preconditioning
    s = sigma.reshape(1, 1, 1, 1)
    if name == "EDMPrecond":
        sd = 0.5
        c_skip, c_out, c_in = sd**2 / (s**2 + sd**2), s * sd / (s**2 + sd**2).sqrt(), 1 / (sd**2 + s**2).sqrt()
        c_noise = s.log() / 4
    elif name == "VEPrecond":
        c_skip, c_out, c_in, c_noise = 1, s, 1, (0.5 * s).log()
    else:
        c_skip, c_out, c_in = 1, -s, 1 / (s**2 + 1).sqrt()
        if name == "VPPrecond":
            c_noise = 999 * ((0.1**2 + 2 * 19.9 * (1 + s**2).log()).sqrt() - 0.1) / 19.9
        else:
            c_noise = (999 - torch.cdist(s.reshape(1, -1, 1), made.u.reshape(1, -1, 1)).argmin(2)).float()
    F = made.model(c_in * x, c_noise.flatten().expand(len(x)), labels)
    return c_skip * x + c_out * F[:, : outside.img_channels]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_pictures_are_those_of_edms_own_sampler(tmp_path, name, sampler):
    made, path = written(tmp_path, name)
    model = Model("edm", path=path)
    velocity = Velocity(model.configuration()["velocity"])
    diffusion = Diffusion.of("identity", velocity, EVENT, 18)
    network = model.build_conditional(EVENT, model.conditions).eval()
    network.load_state_dict(dict(model.weights(network)))
    model.attach(network, diffusion)
    score = NetworkScore(Denoiser(network, diffusion), diffusion, "x0", conditions=model.conditions)
    labels = None
    if model.conditions:
        score = score.given({"label": torch.tensor([1, 3, 4])})  # the last is that of no class
        labels = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0.0]])
    z = torch.randn(3, *EVENT, generator=torch.Generator().manual_seed(1))
    ours = sample(diffusion, score, Sampler(sampler, clip=False), lambda: z)
    theirs = edm_sampler(
        lambda x, sigma: preconditioned(made, x, sigma, labels),
        z,
        18,
        sampler == "heun",
        velocity.sigma_min,
        velocity.sigma_max,
    )
    spread = float(theirs.std())
    assert spread > 0.1
    torch.testing.assert_close(ours / spread, theirs / spread, rtol=0, atol=1e-5)


def test_a_run_of_such_a_file_gives_the_same_pictures(tmp_path):
    made, path = written(tmp_path)
    out = tmp_path / "run"
    assert run("import", f"edm:{path}", "--set", "N=18", "--out", out).code == 0
    path.unlink()
    trained = gendiff.load(out)
    assert trained.config.sampler.spec == "heun:clip=false,steps=35,grid=uniform"
    z = torch.randn(2, *EVENT, generator=torch.Generator().manual_seed(1))
    score = trained.score.given({"label": torch.tensor([0, 3])})
    ours = sample(trained.diffusion, score, trained.config.sampler, lambda: z)
    theirs = edm_sampler(lambda x, sigma: preconditioned(made, x, sigma, torch.eye(4)[[0, 3]]), z, 18, heun=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_another_process_begins_from_its_weights(tmp_path):
    made = nvidia.network(img_channels=1)
    path = nvidia.write(tmp_path / "network.pkl", made, img_channels=1)
    result = run(
        *("train", "--from", f"edm:{path}", "--preset", "edm-anisotropic-cifar10", "--data", "digits"),
        *("--steps", 1, "--batch", 2, "--out", tmp_path / "run"),
    )
    assert result.code == 0
    count = len(made.state_dict())
    assert f"{count} of {count} tensors" in result.err
    assert gendiff.load(tmp_path / "run").config.velocity.name == "anisotropic"


def test_the_range_of_sigma_is_that_which_the_network_was_trained_for(tmp_path):
    spans = {}
    for name in CASES:
        _, path = written(tmp_path, name)
        velocity = Model("edm", path=path).configuration()["velocity"]
        spans[name] = velocity["sigma_min"], velocity["sigma_max"]
    assert spans["EDMPrecond"] == spans["VPPrecond"] == (0.002, 80)
    assert spans["VEPrecond"] == (0.02, 80)
    assert spans["iDDPMPrecond"] == pytest.approx((0.00643, 80), abs=1e-5)


# The file


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", CASES)
def test_a_file_says_what_its_network_is_and_has_its_weights(tmp_path, name, protocol):
    arguments = CASES[name]
    made = nvidia.network(preconditioning=name, **arguments)
    model = Model("edm", path=nvidia.write(tmp_path / "a.pkl", made, protocol, **arguments))
    assert model.event_shape == EVENT
    assert model.conditions == ({"label": Condition.label(4)} if "label_dim" in arguments else {})
    network = model.build_conditional(EVENT, model.conditions)
    weights = model.weights(network)
    network.load_state_dict(dict(weights), strict=True)
    own = made.state_dict()
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[key], own[key]) for key in own)


def test_weights_in_half_precision_and_with_strides_of_their_own_are_read(tmp_path):
    made = nvidia.network().to(torch.float16)
    weight = made.model.map_layer0.weight
    made.model.map_layer0.weight = torch.nn.Parameter(weight.T.contiguous().T, requires_grad=False)
    read = edm_pickle.weights(nvidia.write(tmp_path / "a.pkl", made))
    assert read["model.map_layer0.weight"].dtype == torch.float16
    assert torch.equal(read["model.map_layer0.weight"], weight)


def test_the_published_networks_have_their_sizes():
    with torch.device("meta"):
        ddpm = SongUNet(32, 3, 3, augment_dim=9, channel_mult=[2, 2, 2])
        adm = DhariwalUNet(64, 3, 3, label_dim=1000)
    count = [sum(parameter.numel() for parameter in network.parameters()) for network in (ddpm, adm)]
    assert [round(number / 1e6, 1) for number in count] == [55.7, 295.9]


def test_a_run_opens_where_the_file_is_gone(tmp_path):
    _, path = written(tmp_path)
    table = Model("edm", path=path).table()
    path.unlink()
    assert Model(table).event_shape == EVENT


def test_spec_and_table_give_it_again(tmp_path):
    _, path = written(tmp_path)
    model = Model("edm", path=path, frequency_features=True)
    assert model.spec == f"edm:frequency_features=true,path={path}"
    for same in (model.spec, model.table()):
        assert Model(same) == model
        assert hash(Model(same)) == hash(model)


# What it is asked for


def test_a_process_that_fades_the_signal_is_translated(tmp_path):
    made, path = written(tmp_path, "VPPrecond")
    model = Model("edm", path=path)
    network = model.build(EVENT).eval()
    network.load_state_dict(dict(model.weights(network)))
    process = Diffusion.of("identity", "isotropic", EVENT, 1000)
    model.attach(network, process)
    x, step = torch.randn(2, *EVENT), 300
    at = process.at(step)
    expected = preconditioned(made, x / at.a, at.s / at.a, None)
    torch.testing.assert_close(network(x, torch.tensor([300.0, 300.0])), expected, rtol=1e-5, atol=1e-4)


def test_at_a_real_step_it_is_asked_at_the_sigma_of_the_process_there(tmp_path):
    made, path = written(tmp_path)
    model = Model("edm", path=path)
    network = model.build(EVENT).eval()
    network.load_state_dict(dict(model.weights(network)))
    process = Diffusion.of("identity", "edm", EVENT, 40)
    model.attach(network, process)
    i = torch.tensor([1.0, 1.5, 17.25, 39.75, 40.0])
    x, sigma = torch.randn(5, *EVENT), process.at(i).s
    for k in range(5):
        expected = preconditioned(made, x[k : k + 1], sigma[k], torch.zeros(1, 4))
        torch.testing.assert_close(network(x[k : k + 1], i[k : k + 1]), expected, rtol=1e-3, atol=1e-3)
    asked = []
    network.model.register_forward_hook(lambda module, given, output: asked.append(given[1]))
    network(x, i)
    torch.testing.assert_close(4 * asked[0], sigma.flatten().log(), rtol=0, atol=2e-4)
    assert torch.equal(network._at(network.sigma, torch.arange(1.0, 41)), network.sigma[1:])  # to the bit


def test_components_with_speeds_of_their_own_are_asked_at_their_mean(tmp_path):
    _, path = written(tmp_path)
    model = Model("edm", path=path)
    network = model.build(EVENT)
    process = Diffusion.of("dct", "blur:schedule=quartic", EVENT, 100)
    model.attach(network, process)
    assert (network.sigma.diff() > 0).all()
    assert network(torch.randn(1, *EVENT), torch.tensor([100.0])).isfinite().all()
    a, s = process.at(50, torch.float64).a, process.at(50, torch.float64).s
    a, s = (value.square().expand(1, *EVENT).mean().sqrt() for value in (a, s))
    assert float(network.sigma[50]) == pytest.approx(float(s / a), rel=1e-5)


def test_what_the_network_does_not_take_is_refused(tmp_path):
    _, path = written(tmp_path)
    model = Model("edm", path=path)
    with pytest.raises(ConfigError, match="pictures of 3 channels and of sizes divisible by 2"):
        model.build((1, 8, 8))
    with pytest.raises(ConfigError, match="does not take this condition") as error:
        model.build_conditional(EVENT, {"label": Condition.label(5)})
    assert "it was trained with the condition 'label' of 4 classes, or none" in error.value.details
    _, path = written(tmp_path, "VPPrecond")
    with pytest.raises(ConfigError) as error:
        Model("edm", path=path).build_conditional(EVENT, {"label": Condition.label(4)})
    assert "it was trained with no condition" in error.value.details


def test_frequencies_beside_the_picture_begin_without_weight(tmp_path):
    _, path = written(tmp_path, "VEPrecond")
    plain, model = (Model("edm", path=path, frequency_features=flag) for flag in (False, True))
    x = torch.randn(2, 6, 8, 8)
    outputs = []
    for one, events in ((plain, x[:, :3]), (model, x)):
        network = one.build(EVENT).eval()
        network.load_state_dict(dict(one.weights(network)))
        outputs.append(network(events, torch.tensor([5.0, 900.0])))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-5)


def test_the_objective_is_edms_loss():
    from gendiff import Objective

    process = Diffusion.of("identity", "edm", EVENT, 20)
    at = process.at(torch.arange(1, 21), torch.float64)
    sigma, sigma_data = at.s, 0.5
    weight = Objective("edm").weight(at)
    torch.testing.assert_close(weight, (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2)


def test_levels_of_iddpm_are_those_of_its_schedule():
    made = _network({"preconditioning": "iDDPMPrecond", **nvidia.TINY})
    assert isinstance(made, Preconditioned)
    assert len(made.u) == 1001
    assert float(made.u[1000]) == 0
    # σ of the cosine schedule, which is 0 where j = M = 1000, but for what its cut at C_1 leaves out
    alpha_bar = [math.sin(j / 1000 / 1.008 * math.pi / 2) ** 2 for j in (500, 1000)]
    assert float(made.u[500]) == pytest.approx(math.sqrt(alpha_bar[1] / alpha_bar[0] - 1), rel=1e-5)
    assert (made.u.diff() < 0).all()
