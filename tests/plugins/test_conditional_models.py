"""unet and mlp are told of classes, vectors and images, of one or of all, and of nothing."""

from __future__ import annotations

import pytest
import torch

from gendiff import Model
from gendiff.condition import Condition, stacked
from gendiff.errors import ConfigError

MODELS = ["mlp:width=16,depth=1", "unet:channels=8,multipliers=[1,2],attention=[2],heads=1,blocks=1"]
EVENT = (2, 8, 8)
CONDITIONS = {
    "label": Condition.label(("a", "b")),
    "pose": Condition.vector(3, -5.0, 1.0),
    "mask": Condition.image((1, 8, 8), 0.0, 2.0),
}
SAID = [{"label": "b", "pose": [-5, 0, 1], "mask": torch.ones(1, 8, 8)}, {}, {"pose": [1, 1, 1]}]


def built(model, conditions=CONDITIONS, event=EVENT, seed=0):
    torch.manual_seed(seed)
    network = Model(model).build_conditional(event, conditions).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():  # the last layers begin at zero
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs(event=EVENT):
    return torch.randn(3, *event, generator=torch.Generator().manual_seed(2)), torch.tensor([1.0, 10.0, 900.0])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", CONDITIONS)
def test_each_condition_changes_its_own_event(model, name):
    network, (x, i) = built(model), inputs()
    told = stacked(CONDITIONS, SAID)
    nothing = {**told, name: CONDITIONS[name].absent.expand_as(told[name])}
    with torch.no_grad():
        one, other = network(x, i, told), network(x, i, nothing)
    said = torch.tensor([name in row for row in SAID])
    assert torch.equal((one != other).flatten(1).any(1), said)
    assert one.isfinite().all()


@pytest.mark.parametrize("model", MODELS)
def test_numbers_are_scaled_to_their_range(model):
    """Of ranges that differ, the same part of each is the same to a network."""
    ranges = [(-1.0, 1.0), (0.0, 1000.0)]
    outs = []
    for low, high in ranges:
        conditions = {"pose": Condition.vector(1, low, high), "mask": Condition.image((1, 8, 8), low, high)}
        value = low + 0.75 * (high - low)
        told = stacked(conditions, [{"pose": value, "mask": torch.full((1, 8, 8), value)}] * 3)
        with torch.no_grad():
            outs.append(built(model, conditions)(*inputs(), told))
    assert torch.allclose(*outs, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["type", "keys", "values", "training", "forward"])
def test_a_condition_may_have_any_name(model, name):
    for condition, value in ((Condition.label(2), 1), (Condition.vector(2, 0.0, 1.0), [0, 1])):
        conditions = {name: condition}
        out = built(model, conditions)(*inputs(), stacked(conditions, [{name: value}] * 3))
        assert out.shape == (3, *EVENT)


@pytest.mark.parametrize("model", MODELS)
def test_signals_are_told_too(model):
    event = (2, 16)
    conditions = {"label": Condition.label(2), "shape": Condition.image((3, 16))}
    out = built(model, conditions, event)(*inputs(event), stacked(conditions, [{"shape": torch.ones(3, 16)}, {}, {}]))
    assert out.shape == (3, *event)


@pytest.mark.parametrize("model", MODELS)
def test_frequency_features_beside_images(model):
    network = built(model + ",frequency_features=true")
    x, i = inputs()
    assert network(torch.cat([x, x], 1), i, stacked(CONDITIONS, SAID)).shape == (3, *EVENT)


@pytest.mark.parametrize("model", MODELS)
def test_an_image_of_another_size_is_refused(model):
    with pytest.raises(ConfigError, match="'mask' beside the event, of another size") as caught:
        built(model, {"mask": Condition.image((1, 4, 8))})
    assert "4x8, where events are 8x8" in str(caught.value)


@pytest.mark.parametrize("model", MODELS)
def test_without_conditions_it_is_the_network_that_it_was(model):
    states = []
    for build in (lambda one: one.build(EVENT), lambda one: one.build_conditional(EVENT, {})):
        torch.manual_seed(5)
        states.append(build(Model(model)).state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
