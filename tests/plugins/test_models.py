"""The built-in networks: the paper's size to the digit, the promised shapes, and every misfit named."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import torch
from einops import einsum, rearrange
from gendiff_plugins.models import gendiff_components
from gendiff_plugins.models.embedding import StepEmbedding
from gendiff_plugins.models.mlp import MLP, Layer
from gendiff_plugins.models.unet import Attention, Block, Norm, UNet, UNetModule
from torch import nn

from gendiff.component import summary
from gendiff.errors import ConfigError

PAPER = UNet(channels=128, multipliers=(1, 2, 3, 4), blocks=3, attention=(4, 8), heads=4)
SMALL = UNet(channels=8, multipliers=(1, 2, 3), attention=(2,), heads=2)
TINY_MLP = MLP(width=16, depth=2)
CASES = [
    (UNet(), (1, 8, 8)),
    (SMALL, (3, 12, 20)),
    (SMALL, (2, 24)),
    (UNet(channels=4, multipliers=(1, 2), blocks=2, heads=1), (5, 6, 10)),
    (UNet(channels=12, multipliers=(1,), attention=(1,), heads=3), (2, 5, 7)),
    (TINY_MLP, (1, 8, 8)),
    (TINY_MLP, (3, 2, 5)),
    (TINY_MLP, (2, 7)),
    (TINY_MLP, (6,)),
]
IDS = [f"{model.name}-{'x'.join(map(str, event_shape))}" for model, event_shape in CASES]
each_case = pytest.mark.parametrize(("model", "event_shape"), CASES, ids=IDS)


def built(model, event_shape, scale=0.05):
    """A network whose every parameter was moved a little, so that nothing is zero by initialisation; evaluation mode."""
    torch.manual_seed(3)
    network = model.build(event_shape).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return network


def inputs(model, event_shape, batch=3):
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(batch, model.in_channels(event_shape), *event_shape[1:], generator=generator)
    return x, torch.tensor([1.0, 17.0, 1000.0, 400.0])[:batch]


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


# What the paper says


def test_the_papers_network_has_exactly_its_parameter_count():
    with torch.device("meta"):
        epsilon = parameters(PAPER.build((3, 64, 64)))
        with_variance = parameters(UNetModule(PAPER, in_channels=3, out_channels=6, dims=2))
    assert epsilon == 121_060_483
    assert round(epsilon / 1e6, 2) == 121.06
    # improved-diffusion's unconditional 64x64 network, whose second half of the output is a learned variance
    assert with_variance == 121_063_942


def test_the_default_network_is_small():
    with torch.device("meta"):
        assert 0.3e6 < parameters(UNet().build((1, 8, 8))) < 1e6


@pytest.mark.parametrize(
    ("multipliers", "attention", "expected"),
    [
        # encoder (one block), middle, decoder (two blocks)
        ((1, 1, 1), (2,), [(8, 12), (4, 6), (8, 12), (8, 12)]),
        ((1, 1, 1), (1, 4), [(16, 24), (4, 6), (4, 6), (4, 6), (4, 6), (16, 24), (16, 24)]),
        ((1, 1), (), [(8, 12)]),
    ],
)
def test_attention_acts_at_the_factors_asked_for_and_in_the_middle(multipliers, attention, expected):
    network = UNet(channels=4, multipliers=multipliers, attention=attention, heads=1).build((1, 16, 24))
    seen = []
    for module in network.modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(lambda _, arguments: seen.append(tuple(arguments[0].shape[2:])))
    network(torch.randn(2, 1, 16, 24), torch.ones(2))
    assert seen == expected


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (896, 32), (160, 32), (32, 8), (96, 24), (132, 22), (20, 5), (4, 1)]
)
def test_norm_groups_divide_the_channels_and_hold_at_least_four(channels, groups):
    assert Norm(channels).num_groups == groups


# Attention


@pytest.mark.parametrize("size", [(3, 5), (11,)])
def test_attention_is_softmax_over_all_positions(size):
    torch.manual_seed(0)
    attention, heads, c = Attention(12, heads=3), 3, 4
    nn.init.normal_(attention.projection.weight, std=0.3)
    x = torch.randn(2, 12, *size)
    flat = rearrange(attention.norm(x), "b c ... -> b (...) c")
    weight, bias = attention.qkv.weight[:, :, 0], attention.qkv.bias
    q, k, v = rearrange(flat @ weight.T + bias, "b n (three h c) -> three b h n c", three=3, h=heads)
    weights = torch.softmax(einsum(q, k, "b h n c, b h m c -> b h n m") / c**0.5, dim=-1)
    mixed = rearrange(einsum(weights, v, "b h n m, b h m c -> b h n c"), "b h n c -> b n (h c)")
    update = rearrange(mixed @ attention.projection.weight[:, :, 0].T, "b n c -> b c n").reshape(x.shape)
    torch.testing.assert_close(attention(x), x + update, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # a refused kernel warns before it raises, which is the failure
def test_attention_fits_the_fused_kernel():
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        assert Attention(12, heads=3)(torch.randn(2, 12, 4, 6)).shape == (2, 12, 4, 6)


@pytest.mark.parametrize("attending", [True, False])
def test_only_attention_carries_a_far_away_change(attending, monkeypatch):
    """Norms apart (their statistics are global too), convolutions alone see 30 or so positions to each side."""
    monkeypatch.setattr(Norm, "forward", lambda self, x: x)
    network, event_shape = built(UNet(channels=8, heads=2), (1, 256)), (1, 256)
    if not attending:
        for module in network.modules():
            if isinstance(module, Attention):
                nn.init.zeros_(module.projection.weight)
    x = torch.randn(1, *event_shape)
    changed = x.clone()
    changed[..., 0] += 30.0
    moved = (network(changed, torch.ones(1)) - network(x, torch.ones(1)))[0, 0] != 0
    assert moved[:10].all()
    assert moved[128:].all() if attending else not moved[128:].any()


@pytest.mark.parametrize(("channels", "out"), [(8, 8), (8, 12)])
def test_a_block_is_modulated_by_the_step(channels, out):
    torch.manual_seed(0)
    block = Block(channels, out, embedding=6, dropout=0.0, dims=2)
    nn.init.normal_(block.output[-1].weight, std=0.3)
    x, embedding = torch.randn(2, channels, 3, 5), torch.randn(2, 6)
    silu, group_norm, conv2d = nn.functional.silu, nn.functional.group_norm, nn.functional.conv2d
    last, first = block.output[-1], block.input[-1]
    scale, shift = block.modulation[-1](silu(embedding))[..., None, None].split(out, dim=1)
    h = conv2d(silu(group_norm(x, channels // 4)), first.weight, first.bias, padding=1)
    h = conv2d(silu((1 + scale) * group_norm(h, out // 4) + shift), last.weight, last.bias, padding=1)
    skip = x if channels == out else conv2d(x, block.skip.weight, block.skip.bias)
    torch.testing.assert_close(block(x, embedding), skip + h, rtol=1e-4, atol=1e-5)


def test_a_layer_of_the_perceptron_is_its_formula():
    torch.manual_seed(0)
    layer, h, embedding = Layer(6), torch.randn(3, 6), torch.randn(3, 12)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    scale, shift = (embedding @ layer.modulation.weight.T + layer.modulation.bias).split(6, dim=1)
    inner = h @ layer.input.weight.T + layer.input.bias
    normed = (inner - inner.mean(1, keepdim=True)) / (inner.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    modulated = (1 + scale) * (normed * layer.norm.weight + layer.norm.bias) + shift
    last = layer.output[-1]
    wanted = h + (modulated * torch.sigmoid(modulated)) @ last.weight.T + last.bias
    torch.testing.assert_close(layer(h, embedding), wanted, rtol=1e-4, atol=1e-5)


# Contract of a network


@each_case
def test_the_output_has_the_shape_of_the_events(model, event_shape):
    x, i = inputs(model, event_shape, batch=4)
    output = built(model, event_shape)(x, i)
    assert output.shape == (4, *event_shape)
    assert output.isfinite().all()


@each_case
def test_frequency_features_double_the_input_channels(model, event_shape):
    both = model.model_copy(update={"frequency_features": True})
    assert both.in_channels(event_shape) == 2 * event_shape[0]
    x, i = inputs(both, event_shape)
    assert x.shape[1] == 2 * event_shape[0]
    network = built(both, event_shape)
    output = network(x, i)
    assert output.shape == (3, *event_shape)
    for half in (slice(None, event_shape[0]), slice(event_shape[0], None)):
        without = x.clone()
        without[:, half] = 0
        assert not torch.allclose(network(without, i), output)


@each_case
def test_a_gradient_reaches_every_parameter_and_the_input(model, event_shape):
    network = built(model, event_shape)
    x, i = inputs(model, event_shape)
    x.requires_grad_()
    (network(x, i) ** 2).sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert (x.grad.flatten(1) != 0).float().mean() > 0.99


@each_case
def test_neighbours_in_the_batch_do_not_matter(model, event_shape):
    network = built(model.model_copy(update={"dropout": 0.0}), event_shape).train()
    x, i = inputs(model, event_shape)
    others = torch.cat([x[:1], 5 * torch.randn_like(x[1:])])
    steps = torch.cat([i[:1], i[1:] + 3])
    output = network(x, i)
    assert torch.equal(network(others, steps)[0], output[0])
    assert not torch.allclose(network(others, steps)[1:], output[1:])
    torch.testing.assert_close(network(x[:1], i[:1]), output[:1], rtol=1e-4, atol=1e-5)


@each_case
def test_the_step_matters(model, event_shape):
    network = built(model, event_shape)
    x, _ = inputs(model, event_shape)
    at = [network(x, torch.full((3,), float(i))) for i in (1, 2, 999, 1000)]
    for one, other in [(0, 1), (1, 2), (2, 3)]:
        assert (at[one] - at[other]).abs().max() > 1e-4


@each_case
def test_weights_and_output_follow_from_the_seed(model, event_shape):
    def seeded(seed):
        torch.manual_seed(seed)
        return model.build(event_shape)

    first, again, other = (seeded(seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    network, (x, i) = built(model, event_shape), inputs(model, event_shape)
    assert torch.equal(network(x, i), network(x, i))


def test_a_fresh_unet_answers_zero():
    torch.manual_seed(0)
    x, i = inputs(SMALL, (3, 12, 20))
    assert not SMALL.build((3, 12, 20))(x, i).any()


def test_dropout_acts_in_training_alone():
    network = built(SMALL.model_copy(update={"dropout": 0.5}), (3, 12, 20))
    x, i = inputs(SMALL, (3, 12, 20))
    assert torch.equal(network(x, i), built(SMALL, (3, 12, 20))(x, i))
    network.train()
    assert not torch.allclose(network(x, i), network(x, i))


# Precision and compilation


@each_case
def test_bfloat16_autocast_is_close(model, event_shape):
    network, (x, i) = built(model, event_shape), inputs(model, event_shape)
    exact = network(x, i)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(x, i)
    assert not torch.equal(rounded.float(), exact)
    assert (rounded.float() - exact).norm() < 0.03 * exact.norm()
    rounded.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_step_embedding_ignores_autocast():
    torch.manual_seed(0)
    embedding, i = StepEmbedding(8, 16), torch.tensor([1.0, 999.0, 1000.0])
    exact = embedding(i)
    assert exact.shape == (3, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(embedding(i), exact)


def test_the_embedding_has_frequencies_from_one_to_ten_thousandth():
    embedding = StepEmbedding(6, 6)
    embedding.layers = nn.Identity()
    frequencies = 1e4 ** -torch.tensor([0, 1 / 3, 2 / 3], dtype=torch.float64)
    for i in (0.0, 1.0, 37.0):
        expected = torch.cat([(i * frequencies).cos(), (i * frequencies).sin()])
        torch.testing.assert_close(embedding(torch.tensor([i]))[0].double(), expected, rtol=0, atol=1e-5)


def test_norms_compute_in_float32(monkeypatch):
    seen, group_norm = [], nn.functional.group_norm
    norm, x = Norm(12), 100 + torch.randn(2, 12, 3, 5)
    exact = group_norm(x, 3)

    def spy(x, *arguments):
        seen.append(x.dtype)
        return group_norm(x, *arguments)

    monkeypatch.setattr(nn.functional, "group_norm", spy)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(norm(x), exact)
        assert norm(x.bfloat16()).dtype == torch.bfloat16
    assert seen == [torch.float32] * 2


@pytest.mark.slow
@pytest.mark.parametrize(("model", "event_shape"), [(SMALL, (3, 12, 20)), (TINY_MLP, (2, 7))])
def test_it_compiles_as_one_graph(model, event_shape):
    network, (x, i) = built(model, event_shape), inputs(model, event_shape)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, i), network(x, i))


# Misfits


@pytest.mark.parametrize(
    ("model", "event_shape", "subject", "said"),
    [
        (PAPER, (3, 66, 64), "model.multipliers", ["divisible by 8, not 66", "64 or 72", "at most 2 of"]),
        (PAPER, (3, 64, 100), "model.multipliers", ["divisible by 8, not 100", "96 or 104", "at most 3 of"]),
        (UNet(), (1, 7), "model.multipliers", ["divisible by 2, not 7", "6 or 8", "at most 1 of"]),
        (PAPER, (3, 4, 8), "model.multipliers", ["divisible by 8, not 4", "8 or 16", "at most 3 of"]),
        (UNet(attention=(4,)), (1, 8, 8), "model.attention", ["at 1/4", "1/1, 1/2", "[1, 2]"]),
        (UNet(attention=(1, 3)), (1, 8, 8), "model.attention", ["at 1/3", "1/1, 1/2", "[1, 2]"]),
        # the first level attends and cannot be split; the last would do
        (UNet(channels=4, attention=(1,), heads=8), (1, 8, 8), "model.heads", ["4 channels", "8 att", "[1, 2, 4]"]),
        # no level is asked to attend, but the middle does
        (UNet(channels=4, multipliers=(1, 3), attention=(), heads=8), (1, 8), "model.heads", ["12 channels", "middle"]),
        (UNet(), (3,), "model.name", ["(3,)", "mlp"]),
        (UNet(), (3, 4, 6, 8, 2), "model.name", ["(3, 4, 6, 8, 2)", "mlp"]),
    ],
)
def test_a_misfit_is_named_with_what_would_fit(model, event_shape, subject, said):
    with pytest.raises(ConfigError) as raised:
        model.build(event_shape)
    assert raised.value.subject == subject
    assert raised.value.fix
    for words in said:
        assert words in str(raised.value)


@pytest.mark.parametrize("event_shape", [(3, 64, 72), (3, 8, 16), (1, 96)])
def test_the_sizes_said_to_fit_do_fit(event_shape):
    with torch.device("meta"):
        network = PAPER.build(event_shape)
        assert network.encoder[0].in_channels == event_shape[0]


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (UNet, "channels", 6),
        (UNet, "channels", 0),
        (UNet, "multipliers", ()),
        (UNet, "multipliers", (1, 0)),
        (UNet, "multipliers", (-1,)),
        (UNet, "blocks", 0),
        (UNet, "attention", (0,)),
        (UNet, "heads", 0),
        (UNet, "dropout", 1.0),
        (UNet, "dropout", -0.1),
        (MLP, "width", 7),
        (MLP, "depth", 0),
    ],
)
def test_parameters_out_of_range_are_refused(cls, field, value):
    with pytest.raises(ConfigError) as raised:
        cls(**{field: value})
    assert raised.value.subject.startswith(f"model.{field}")


# As a plugin


@pytest.mark.parametrize("model", [PAPER, SMALL, UNet(dropout=0.25, frequency_features=True), TINY_MLP])
def test_a_spec_gives_the_same_model_again(model):
    assert type(model).model_validate(model.spec) == model
    assert type(model).model_validate(model.table()) == model


@pytest.mark.parametrize("cls", [UNet, MLP])
def test_every_parameter_is_described(cls):
    assert [field for field, info in cls.model_fields.items() if not info.description] == []


@pytest.mark.parametrize("lazy", gendiff_components(), ids=lambda lazy: lazy.name)
def test_the_announcement_says_what_the_class_says(lazy):
    module, _, name = lazy.target.partition(":")
    cls = getattr(import_module(module), name)
    assert (lazy.kind, lazy.name, lazy.summary) == (cls.kind, cls.name, summary(cls))


def test_announcing_does_not_import_torch():
    code = "import sys, gendiff_plugins.models as m; m.gendiff_components(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
