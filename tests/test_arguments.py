"""Calls of the library: what it cannot take is an error that says what is expected, never a number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from processes import component, diffusion
from torch import Tensor, nn

from gendiff import (
    Data,
    Diffusion,
    GaussianScore,
    Grid,
    NetworkScore,
    Objective,
    Parametrization,
    Pivot,
    Rotation,
    Sampler,
    ScoreModel,
    Velocity,
    sample,
)
from gendiff.datasets.tensors import as_data
from gendiff.denoiser import Denoiser
from gendiff.errors import ArgumentError, GendiffError, PluginError
from gendiff.model import ask
from gendiff.moments import Moments
from gendiff.sampler import invert
from gendiff.score import decode, encode
from gendiff.testing.probes import noise

EVENT, N = (2, 3, 5), 20
X, EPS = noise((4, *EVENT), 1, torch.float32), noise((4, *EVENT), 2, torch.float32)
STEPS = torch.tensor([1, 5, 9, N])
POWER_LAW = "spectrum-matched:power_law=[1.59,0.0086,2]"


@pytest.fixture(scope="module")
def process() -> Diffusion:
    return diffusion("dct", "blur:schedule=quartic", EVENT, N=N)


class Echo(nn.Module):
    """What it sees, changed by ``change``."""

    def __init__(self, change=lambda x: x) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.change = change

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        return self.change(self.weight * x)


class PointWise(nn.Module):
    """One layer that computes in lower precision where it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        return self.layer(x)


def entrances(process: Diffusion) -> dict[str, object]:
    """Every way by which events and steps come in, as functions of both."""
    eps = component(Objective, "eps")
    optimal = GaussianScore(process, torch.zeros(()), torch.ones(()))
    return {
        "q_sample": lambda x, i: process.q_sample(x, i, EPS),
        "score": lambda x, i: process.score(i, x),
        "loss": lambda x, i: eps.loss(Echo(), process, x, i, EPS).per_event,
        "network": lambda x, i: NetworkScore(Echo(), process, Parametrization.EPS).predict(x, i).x_0,
        "optimal": lambda x, i: optimal.predict(x, i).x_0,
    }


ENTRANCES = ("q_sample", "score", "loss", "network", "optimal")


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    ("x", "says"),
    [
        ((X * 127).to(torch.uint8), r"of type uint8.*\n.*float32 or float64.*\n.*/ 127.5 - 1"),
        (X.to(torch.int64), "of type int64"),
        (X.half(), "of type float16"),
        (X.to(torch.complex64), "of type complex64"),
        (X[0], r"has the shape \(2, 3, 5\).*\n.*\(B, 2, 3, 5\).*\n.*\[None\]"),
        (X[:, :1], r"has the shape \(4, 1, 3, 5\)"),
        (X[None], r"has the shape \(1, 4, 2, 3, 5\)"),
        (X.mT, r"has the shape \(4, 2, 5, 3\)"),
        (X.numpy(), r"a ndarray, no tensor.*\n.*torch.as_tensor"),
    ],
    ids=["bytes", "integers", "half", "complex", "no-batch", "channels", "rank", "transposed", "numpy"],
)
def test_events_are_a_batch_of_floating_point_numbers(process, entrance, x, says):
    with pytest.raises(ArgumentError, match=says):
        entrances(process)[entrance](x, STEPS)


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize(
    ("i", "says"),
    [
        (torch.tensor([1, 5, 9, -1]), "step -1 is outside"),
        (torch.tensor([1, 5, 9, N + 1]), f"step {N + 1} is outside"),
        (torch.tensor([1.0, 5, 9, 2]).half(), "steps are of type float16"),
        (torch.tensor([True, True, False, True]), "steps are of type bool"),
        (STEPS[:, None], r"steps have the shape \(4, 1\)"),
        (-1, "step -1 is outside"),
        (N + 1, f"step {N + 1} is outside"),
        (N + 0.5, f"step {N + 0.5:g} is outside"),
        ("3", "step '3' is no whole number"),
    ],
)
def test_steps_are_whole_numbers_up_to_n(process, entrance, i, says):
    with pytest.raises(ArgumentError, match=says):
        entrances(process)[entrance](X, i)


@pytest.mark.parametrize("entrance", ["q_sample", "loss", "network", "optimal"])
def test_there_is_a_step_for_each_event_or_one_for_all(process, entrance):
    with pytest.raises(ArgumentError, match="3 steps"):
        entrances(process)[entrance](X, STEPS[:3])
    one, same = (entrances(process)[entrance](X, i) for i in (torch.tensor([7]), torch.full((4,), 7)))
    torch.testing.assert_close(one, same)


@pytest.mark.parametrize("entrance", ["score", "loss", "network", "optimal"])
def test_step_0_has_no_score(process, entrance):
    for i in (0, torch.tensor([1, 5, 9, 0])):
        with pytest.raises(ArgumentError, match=f"step 0 is outside 1..{N}"):
            entrances(process)[entrance](X, i)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_steps_of_any_whole_type_mean_the_same(process, dtype):
    """A byte index would be taken for a mask by torch."""
    for name, entrance in entrances(process).items():
        torch.testing.assert_close(entrance(X, STEPS.to(dtype)), entrance(X, STEPS), msg=name)
    assert torch.equal(process.q_sample(X, np.int64(5), EPS), process.q_sample(X, 5, EPS))


def test_noise_is_one_for_each_event(process):
    with pytest.raises(ArgumentError, match=r"4 events of torch\.float32, noise for 3"):
        process.q_sample(X, 5, EPS[:3])
    with pytest.raises(ArgumentError, match=r"noise for 4 of torch\.float64"):
        process.q_sample(X, 5, EPS.double())


def test_levels_kernels_and_posteriors_take_steps_of_the_process(process):
    for call in (
        lambda: process.at(-1),
        lambda: process.at(torch.tensor([N + 1])),
        lambda: process.at(0).before,
        lambda: process.at(torch.tensor([3, 0])).before,
        lambda: process.kernel(3, 3),
        lambda: process.kernel(3, -1),
        lambda: process.posterior(N + 1, 2),
        lambda: process.posterior(2.0, 2.5),
    ):
        with pytest.raises(ArgumentError):
            call()


def test_an_argument_error_is_a_value_error_and_one_of_ours(process):
    with pytest.raises(ValueError):
        process.at(-1)
    with pytest.raises(GendiffError):
        process.at(-1)


@pytest.mark.parametrize("velocity", ["blur", "isotropic", "heat", "cold", "blurring", POWER_LAW, "reversed"])
@pytest.mark.parametrize("count", [10.0, "10", 1, 0, -3, None])
def test_n_is_a_whole_number(process, velocity, count):
    with pytest.raises(ArgumentError, match="N = "):
        component(Velocity, velocity).scales(process.rotation, EVENT, count)


@pytest.mark.parametrize("shape", [(3,), (2, 0, 5), (2, 3.0, 5), ()])
def test_an_event_has_channels_and_sizes(process, shape):
    with pytest.raises(ArgumentError, match="is no shape of an event"):
        Diffusion(process.rotation, process.scales, shape)


def test_moments_fit_the_event(process):
    c = torch.ones(3, 5, dtype=torch.float64)
    with pytest.raises(ArgumentError, match="the mean of the data has the shape"):
        Diffusion(process.rotation, process.scales, EVENT, Moments(0 * c, c))


def test_a_parametrization_is_one_of_those_that_there_are(process):
    at = process.at(5)
    for call in (
        lambda: encode("epsilon", Pivot(X, EPS), at),
        lambda: decode("epsilon", X, X, at),
        lambda: NetworkScore(Echo(), process, "epsilon"),
        lambda: decode(None, X, X, at),
    ):
        with pytest.raises(
            ArgumentError, match=r"unknown parametrization .*\n.*eps, x0, score, std, v, wiener, residual"
        ):
            call()
    assert torch.equal(decode("eps", X, X, at).x_0, decode(Parametrization.EPS, X, X, at).x_0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: (x, x), "a tuple"),
        (lambda x: {"sample": x}, "a dict"),
        (lambda x: x[:, :1], r"a tensor of shape \(4, 1, 3, 5\)"),
        (lambda x: x[0], r"a tensor of shape \(2, 3, 5\)"),
        (lambda x: x.mean(), r"a tensor of shape \(\)"),
        (lambda x: x.long(), "numbers of type int64"),
        (lambda x: x.half(), "numbers of type float16"),
        (lambda x: torch.complex(x, x), "numbers of type complex64"),
    ],
)
def test_a_network_returns_one_tensor_like_the_events(process, change, says):
    for entrance in (
        lambda net: component(Objective, "eps").loss(net, process, X, STEPS, EPS),
        lambda net: NetworkScore(net, process, Parametrization.EPS).predict(X, 5),
    ):
        with pytest.raises(PluginError, match=rf"the network returned {says}[^\n]*\n.*\(4, 2, 3, 5\)"):
            entrance(Echo(change))


def test_a_network_is_asked_in_its_own_precision(process):
    double = Echo().double()
    assert ask(double, X, STEPS, EVENT).dtype == torch.float64
    belief = NetworkScore(double, process, Parametrization.EPS).predict(X, 5)
    assert belief.x_0.dtype == torch.float32
    loss = component(Objective, "eps").loss(Echo(), process, X.double(), STEPS, EPS.double())
    assert loss.per_event.dtype == torch.float64


def test_chains_start_from_a_batch_of_events(process):
    model, ddim = GaussianScore(process, torch.zeros(()), torch.ones(())), component(Sampler, "ddim:steps=3")
    with pytest.raises(ArgumentError, match="start has the shape"):
        sample(process, model, ddim, lambda: EPS, start=EPS[0])
    with pytest.raises(ArgumentError, match=r"has the shape \(2, 3, 5\)"):
        sample(process, model, ddim, lambda: EPS[0])
    with pytest.raises(ArgumentError, match="dtype is torch"):
        sample(process, model, ddim, lambda: EPS, dtype=torch.bfloat16)
    with pytest.raises(ArgumentError, match="of type int64"):
        invert(process, model, EPS.long(), [N, 0])


def test_a_network_that_predicts_t_needs_mean_and_variance_of_the_data(process):
    """They are what T is written in; m = 0 and c = 1 are assumed only by who says so."""
    blind = Diffusion(process.rotation, process.scales, EVENT)
    for call in (
        lambda: component(Objective, "wiener").loss(Echo(), blind, X, STEPS, EPS),
        lambda: NetworkScore(Echo(), blind, Parametrization.WIENER),
    ):
        with pytest.raises(ArgumentError, match="needs mean and variance of the data"):
            call()
    standard = Diffusion(process.rotation, process.scales, EVENT, Moments.standard(EVENT))
    assert component(Objective, "wiener").loss(Echo(), standard, X, STEPS, EPS).per_event.shape == (4,)


@pytest.mark.parametrize(
    "limits",
    [
        (1, -1),
        (1, 1),
        (-1,),
        (-1, 0, 1),
        "ab",
        3,
        (-math.inf, 1),
        (-1, math.inf),
        (math.nan, 1),
        (-1, math.nan),
        ("a", 1),
    ],
)
def test_a_range_of_events_is_two_finite_numbers(process, limits):
    assert NetworkScore(Echo(), process, "eps", value_range=(-1, 1)).value_range == (-1, 1)
    assert NetworkScore(Echo(), process, "eps", value_range=[0, 0.5]).value_range == [0, 0.5]
    with pytest.raises(ArgumentError, match="value_range is"):
        NetworkScore(Echo(), process, "eps", value_range=limits)


def test_a_belief_shows_its_network(process):
    network = Echo()
    size = sum(parameter.numel() for parameter in network.parameters())
    assert size > 0
    for inner in (network, Denoiser(network, process)):
        shown = repr(NetworkScore(inner, process, "v"))
        assert shown.startswith(f"NetworkScore(Echo with {size:,} parameters, predicts v, Diffusion(")
    assert "function with 0 parameters" in repr(NetworkScore(lambda x, i: x, process, "v"))


def test_a_belief_is_of_a_diffusion(process):
    with pytest.raises(ArgumentError, match="diffusion"):
        NetworkScore(Echo(), process.rotation, "eps")


@pytest.mark.parametrize(
    "x", [3, 2.5, "abc", None, X.numpy(), X.tolist(), X.to_sparse()], ids=lambda x: type(x).__name__
)
@pytest.mark.parametrize(
    "entrance", [*ENTRANCES, "rotate", "unrotate", "prior", "rotation", "diagonal", "start", "noise"]
)
def test_what_is_no_tensor_of_events_is_said(process, entrance, x):
    optimal, ddim = GaussianScore(process, torch.zeros(()), torch.ones(())), component(Sampler, "ddim:steps=3")
    ways = {name: lambda x, way=way: way(x, STEPS) for name, way in entrances(process).items()} | {
        "rotate": process.rotate,
        "unrotate": process.unrotate,
        "prior": process.prior,
        "rotation": process.rotation.rotate,
        "diagonal": lambda x: process.rotation.apply_diagonal(x, torch.ones(1, 3, 5)),
        "start": lambda x: sample(process, optimal, ddim, lambda: EPS, start=x),
        "noise": lambda x: sample(process, optimal, ddim, lambda: x),
    }
    if entrance == "start" and x is None:
        x = False  # None draws the prior
    with pytest.raises(ArgumentError):
        ways[entrance](x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("rotation", ["dct", "identity", "blur-eigen", "hadamard"])
def test_no_rotation_takes_numbers_that_are_not_real(rotation, dtype):
    with pytest.raises(ArgumentError, match="x is of type"):
        component(Rotation, rotation).rotate(torch.ones(2, 1, 8, 8).to(dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.complex64], ids=str)
def test_noise_and_start_are_looked_at_before_they_are_converted(process, dtype):
    optimal, ddim = GaussianScore(process, torch.zeros(()), torch.ones(())), component(Sampler, "ddim:steps=3")
    with pytest.raises(ArgumentError, match="noise that is drawn is of type"):
        sample(process, optimal, ddim, lambda: EPS.to(dtype))
    with pytest.raises(ArgumentError, match="start is of type"):
        sample(process, optimal, ddim, lambda: EPS, start=EPS.to(dtype))


def test_noise_is_drawn_for_as_many_events_as_there_are(process):
    optimal, ancestral = (
        GaussianScore(process, torch.zeros(()), torch.ones(())),
        component(Sampler, "ancestral:steps=3"),
    )
    with pytest.raises(ArgumentError, match="noise for 4 events is drawn, where there are 1"):
        sample(process, optimal, ancestral, lambda: EPS, start=X[:1])
    with pytest.raises(ArgumentError, match="a function without arguments"):
        sample(process, optimal, ancestral, EPS)


def test_objects_are_not_their_names(process):
    optimal, ddim = GaussianScore(process, torch.zeros(()), torch.ones(())), component(Sampler, "ddim:steps=3")
    U, scales = process.rotation, process.scales
    grid = component(Grid, "explicit:at=[20, 5]")
    for wrong in (None, "ddim:steps=3", 3, Sampler, type(U)):
        for call in (
            lambda wrong=wrong: sample(process, optimal, wrong, lambda: EPS),
            lambda wrong=wrong: sample(process, wrong, ddim, lambda: EPS),
            lambda wrong=wrong: sample(wrong, optimal, ddim, lambda: EPS),
            lambda wrong=wrong: Diffusion(wrong, scales, EVENT),
            lambda wrong=wrong: Diffusion(U, wrong, EVENT),
            lambda wrong=wrong: Diffusion(U, scales, EVENT, wrong or "none"),
            lambda wrong=wrong: NetworkScore(Echo(), wrong, "eps"),
            lambda wrong=wrong: NetworkScore(wrong, process, "eps").predict(X, 1),
            lambda wrong=wrong: GaussianScore(wrong, torch.zeros(()), torch.ones(())),
            lambda wrong=wrong: component(Grid, "uniform").steps(wrong, 3),
            lambda wrong=wrong: grid.steps(wrong, None),
            lambda wrong=wrong: Moments.fit(component(Data, "digits"), wrong),
            lambda wrong=wrong: invert(process, wrong, X, [N, 0]),
        ):
            with pytest.raises(ArgumentError, match=r"is (a|the class) \w+"):
                call()
    with pytest.raises(ArgumentError, match=r"write Sampler\('ddim:steps=3'\)"):
        sample(process, optimal, "ddim:steps=3", lambda: EPS)


class Says(ScoreModel):
    def __init__(self, answer) -> None:
        self.answer = answer

    def predict(self, x_bar, i):
        return self.answer(x_bar)


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: None,
        lambda x: x,
        lambda x: (x, x),
        lambda x: Pivot(None, None),
        lambda x: Pivot(x, None),
        lambda x: Pivot(x[:, :1], x),
        lambda x: Pivot(x[:1], x[:1]),
        lambda x: Pivot(x, x.mean()),
        lambda x: Pivot(x.double(), x.double()),
        lambda x: Pivot(x.half(), x),
        lambda x: Pivot(x, x.long()),
        lambda x: Pivot(x.numpy(), x.numpy()),
    ],
)
@pytest.mark.parametrize("sampler", ["ddim:steps=3", "trig:steps=3", "unipc-2:steps=3"])
def test_a_score_model_returns_a_pivot_like_the_events(process, answer, sampler):
    with pytest.raises(PluginError, match="the score model returned"):
        sample(process, Says(answer), component(Sampler, sampler), lambda: EPS)
    with pytest.raises(PluginError, match="the score model returned"):
        invert(process, Says(answer), X, [N, 5, 0])


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [N],
        [N, 5],
        [5, 0],
        [0, N],
        [N, N, 0],
        [N, 0, 5],
        [N + 1, 0],
        [N, -1],
        [N, 2.5, 2.5, 0],
        [N, math.nan, 0],
        "abc",
        None,
        5,
    ],
)
def test_an_inversion_goes_all_the_way(process, steps):
    optimal = GaussianScore(process, torch.zeros(()), torch.ones(()))
    with pytest.raises(ArgumentError):
        invert(process, optimal, X, steps)
    assert invert(process, optimal, X, np.array([N, 5, 0])).equal(invert(process, optimal, X, [N, 5, 0]))


@pytest.mark.parametrize("i", [True, None, "1"])
def test_one_step_is_a_number(process, i):
    with pytest.raises(ArgumentError, match="is no whole number"):
        process.at(i)


@pytest.mark.parametrize("n", [True, 1.0, 2.5, "3", [3], torch.ones(2)])
@pytest.mark.parametrize("grid", ["uniform", "lambda", "karras", "arc-length"])
def test_a_number_of_evaluations_is_whole(process, grid, n):
    asked = component(Grid, grid)
    assert asked.steps(process, np.int64(1)) == asked.steps(process, 1) == [N, 0]  # which are kept, and 1.0 == 1
    with pytest.raises(ArgumentError, match="a whole number between 1 and N"):
        asked.steps(process, n)


@pytest.mark.parametrize("clip", [1, "yes", (1,), (1, -1), (float("nan"), 1), (None, None), True])
def test_a_range_to_clip_to_is_one(process, clip):
    with pytest.raises(ArgumentError, match="two finite numbers, the lower first"):
        NetworkScore(Echo(), process, "x0", value_range=clip)


@pytest.mark.parametrize(
    ("mean", "variance", "says"),
    [
        (0.0, torch.ones(()), "mean is a float"),
        (torch.zeros(()), torch.ones(1, 3, 4), "variance has the shape"),
        (torch.zeros(4, *EVENT), torch.ones(()), "mean has the shape"),
        (torch.tensor(float("nan")), torch.ones(()), "mean is not finite"),
        (torch.zeros(()), torch.tensor(-1.0), "variance is below 0"),
    ],
)
def test_optimal_models_have_moments_of_events(process, mean, variance, says):
    with pytest.raises(ArgumentError, match=says):
        GaussianScore(process, mean, variance)


@pytest.mark.parametrize(
    ("mean", "variance", "says"),
    [
        (torch.full((1, 1, 1), torch.nan), torch.ones(1, 1, 1), "mean of the data is not finite"),
        (torch.zeros(1, 1, 1), torch.full((1, 1, 1), torch.inf), "variance of the data is not finite"),
        (torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), "variance of the data is not positive"),
        (np.zeros((1, 1, 1)), torch.ones(1, 1, 1), "mean of the data is a ndarray"),
    ],
)
def test_moments_of_a_process_are_positive_and_finite(process, mean, variance, says):
    with pytest.raises(ArgumentError, match=says):
        Diffusion(process.rotation, process.scales, EVENT, Moments(mean, variance))


@pytest.mark.parametrize("shape", [8, None, "3x8x8", (3,), (), (0, 8, 8), (3, -8, 8), (3.0, 8.0, 8.0), (True, 8, 8)])
def test_shapes_are_whole_numbers_wherever_they_come_in(process, shape):
    U = process.rotation
    for call in (
        lambda: Diffusion(U, process.scales, shape),
        lambda: component(Velocity, "blur").scales(U, shape, N=10),
        lambda: U.frequencies(shape),
        lambda: U.log_blur_spectrum(shape, 0.4),
        lambda: Moments.standard(shape),
    ):
        with pytest.raises(ArgumentError, match="is no shape of an event"):
            call()


def test_a_process_of_more_steps_than_can_be_is_refused():
    with pytest.raises(ArgumentError, match=r"2\.\.1000000"):
        component(Velocity, "blur").scales(component(Rotation, "dct"), EVENT, N=10**30)


def test_events_are_where_the_process_is(process, monkeypatch):
    monkeypatch.setattr(type(process.scales), "device", torch.device("cuda", 0))
    with pytest.raises(ArgumentError, match=r"x_0 is on cpu, the process on cuda:0\n.*diffusion\.to\(x_0\.device\)"):
        process.q_sample(X, STEPS, EPS)


def test_tensors_without_values_are_refused(process):
    meta, one = X.to("meta"), torch.ones(())
    optimal, ddim = GaussianScore(process, 0 * one, one), component(Sampler, "ddim:steps=3")
    for call in (
        *(lambda way=way: way(meta, STEPS) for way in entrances(process).values()),
        *(lambda way=way: way(X, STEPS.to("meta")) for way in entrances(process).values()),
        lambda: process.at(STEPS.to("meta")),
        lambda: process.rotation.rotate(meta),
        lambda: sample(process, optimal, ddim, start=meta),
        lambda: sample(process, optimal, ddim, lambda: meta),
        lambda: invert(process, optimal, meta, [N, 0]),
        lambda: GaussianScore(process, one.to("meta"), one),
        lambda: as_data(meta),
        lambda: Moments.fit(meta, process.rotation),
        lambda: Diffusion(process.rotation, process.scales, EVENT, Moments(meta[:1, :1, :1], one.reshape(1, 1, 1))),
    ):
        with pytest.raises(ArgumentError, match="on the device 'meta'"):
            call()


@pytest.mark.parametrize(
    "device", ["meta", "x", "", "cuda:99", "cpu:x", 3.5, None, torch.device("meta"), torch.float32]
)
def test_a_process_is_on_a_device_that_is_here(process, device):
    with pytest.raises(ArgumentError, match=r"is no device that is here\n.*cpu"):
        process.to(device)
    with pytest.raises(ArgumentError, match="is no device that is here"):
        Denoiser(Echo(), process).to(device)
    assert process.to("cpu").q_sample(X, 3, EPS).equal(process.to(torch.device("cpu")).q_sample(X, 3, EPS))


@pytest.mark.parametrize("velocity", ["blur", "isotropic", "heat", "cold", "blurring", POWER_LAW, "reversed"])
@pytest.mark.parametrize("rotation", ["dct", None, Rotation, 3])
def test_scales_are_those_of_a_rotation_and_a_shape(velocity, rotation):
    recipe, U = component(Velocity, velocity), component(Rotation, "dct")
    with pytest.raises(ArgumentError, match="rotation is"):
        recipe.scales(rotation, EVENT, 10)
    with pytest.raises(ArgumentError, match="is no shape of an event"):
        recipe.scales(U, 8, N=10)
    assert recipe.scales(rotation=U, event_shape=list(EVENT), N=np.int64(10)).N == 10


def test_the_rule_holds_for_velocities_and_rotations_of_others():
    class Own(component(Velocity, "blur").__class__):
        name = "own"

        def scales(self, rotation, event_shape, N):
            raise AssertionError("an author is asked with arguments that are none")

    with pytest.raises(ArgumentError, match="rotation is a str"):
        Own().scales("dct", EVENT, 10)


ROTATIONS = ["dct", "dst", "identity", "blur-eigen", "hadamard", "hartley", "haar", "klt"]


@pytest.mark.parametrize("sigma", [float("nan"), float("inf"), "x", 1e300, 1e-300, -1, None, True, [1], torch.ones(2)])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_the_width_of_a_blur_is_a_number_of_pixels(rotation, sigma):
    U = component(Rotation, rotation)
    with pytest.raises(ArgumentError, match=r"sigma = .*\n.*0\.001\.\.1e6 pixels"):
        U.log_blur_spectrum((1, 8, 8), sigma)
    with pytest.raises(ArgumentError, match="sigma = "):
        U.log_blur_spectrum(event_shape=(1, 8, 8), sigma=sigma)


@pytest.mark.parametrize("rotation", [name for name in ROTATIONS if name != "klt"])  # which has to see data first
@pytest.mark.parametrize("sigma", [0, 1e-3, 1e6])
def test_the_widest_and_the_narrowest_blur_have_a_spectrum(rotation, sigma):
    log_D = component(Rotation, rotation).log_blur_spectrum((1, 8, 8), sigma)
    assert log_D.isfinite().all()
    assert (log_D <= 0).all()


@pytest.mark.parametrize("graph", ["yes", 1, 0, torch.ones(())])
def test_a_graph_is_kept_or_not(process, graph):
    optimal, ddim = GaussianScore(process, torch.zeros(()), torch.ones(())), component(Sampler, "ddim:steps=3")
    for call in (
        lambda: sample(process, optimal, ddim, n=1, graph=graph),
        lambda: sample(process, optimal, ddim, lambda: EPS, graph=graph),
        lambda: invert(process, optimal, X, [N, 0], graph=graph),
    ):
        with pytest.raises(ArgumentError, match="graph is"):
            call()


@pytest.mark.parametrize("watch", [3, "print", lambda: None, lambda a, b: None])
def test_who_watches_is_a_function_of_a_look(process, watch):
    optimal, ddim = GaussianScore(process, torch.zeros(()), torch.ones(())), component(Sampler, "ddim:steps=3")
    with pytest.raises(ArgumentError, match="a function of one argument"):
        sample(process, optimal, ddim, n=1, watch=watch)
    with pytest.raises(ArgumentError, match="a function without arguments"):
        sample(process, optimal, ddim, lambda shape: EPS)


class Blind(nn.Module):
    def forward(self, x):
        return x


class Failing(nn.Module):
    def forward(self, x, i):
        return x + None


def test_a_network_is_asked_with_events_and_steps(process):
    eps = component(Objective, "eps")
    for network in (Blind(), Denoiser(Blind(), process)):
        for call in (
            lambda network=network: eps.loss(network, process, X, STEPS, EPS),
            lambda network=network: NetworkScore(network, process, "eps").predict(X, 5),
        ):
            with pytest.raises(
                PluginError, match=r"the network cannot be asked: .*positional.*\n.*\n.*forward\(x, i\)"
            ):
                call()
    with pytest.raises(TypeError, match="unsupported operand"):  # an error of its own stays what it is
        NetworkScore(Failing(), process, "eps").predict(X, 5)


class Deaf(ScoreModel):
    def predict(self, x_bar):
        return Pivot(x_bar, x_bar)


def test_a_score_model_is_asked_with_events_and_steps(process):
    with pytest.raises(PluginError, match=r"the score model cannot be asked: .*positional.*\n.*predict\(x_bar, i\)"):
        sample(process, Deaf(), component(Sampler, "ddim:steps=3"), lambda: EPS)


@pytest.mark.parametrize("parametrization", list(Parametrization))
def test_no_view_is_read_and_no_score_made_where_there_is_no_noise(process, parametrization):
    for i in (0, torch.tensor([3, 0, 1, 2])):
        with pytest.raises(ArgumentError, match="step 0 is outside 1"):
            decode(parametrization, X, X, process.at(i))
        if parametrization in ("score", "residual", "velocity"):
            with pytest.raises(ArgumentError, match="step 0 is outside 1"):
                encode(parametrization, Pivot(X, EPS), process.at(i))
        else:
            assert encode(parametrization, Pivot(X, EPS), process.at(i)).isfinite().all()


def test_one_event_is_the_first_of_several(process):
    model, ddim = GaussianScore(process, torch.zeros(()), torch.ones(())), component(Sampler, "ddim:steps=3")
    one, several = (sample(process, model, ddim, n=n, seed=4) for n in (1, 3))
    assert torch.equal(one, several[:1])


def test_a_network_in_lower_precision_returns_numbers_in_full(process):
    network = Denoiser(PointWise(), process)
    network.autocast = torch.bfloat16
    assert network(X, STEPS).dtype == torch.float32


def test_data_without_any_variance_are_their_mean(process):
    mean = noise(EVENT, 3, torch.float64)
    belief = GaussianScore(process, mean, torch.zeros(EVENT, dtype=torch.float64)).predict(X, 5)
    torch.testing.assert_close(belief.x_0, mean.float().expand_as(X), rtol=1e-5, atol=1e-6)
    with pytest.raises(ArgumentError):
        GaussianScore(process, mean, torch.full(EVENT, -1e-9, dtype=torch.float64))
