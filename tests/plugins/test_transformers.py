"""The transformers: the published sizes to the digit, their blocks written out, and tokens of pixels and of coefficients."""

from __future__ import annotations

import math

import pytest
import torch
from einops import rearrange
from gendiff_plugins.models.transformer import Attention, DiT, DiTBlock, DiTModule, Patches, UViT, UViTModule, places
from torch import nn
from torch.nn import functional

from gendiff.condition import Condition
from gendiff.dct import dct
from gendiff.errors import ConfigError

IMAGENET = {"label": Condition.label(1000)}
EVENTS = [(1, 8, 8), (3, 4, 12), (2, 16), (2, 4, 4, 6)]


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def moved(network: nn.Module) -> nn.Module:
    """A network with no parameter left as it was set at first."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


class TestSizes:
    @pytest.mark.parametrize(
        ("size", "million", "exact"),
        [("S", 33, 32_963_360), ("B", 130, 130_512_416), ("L", 458, 458_102_816), ("XL", 675, 675_129_632)],
    )
    def test_dit_has_the_published_count(self, size, million, exact):
        """On latents of 4x32x32 with 1000 classes and a learned variance; theirs counts the fixed table of places too."""
        with torch.device("meta"):
            network = DiTModule(DiT(size=size), 4, (4, 32, 32), IMAGENET, out_channels=8)
        assert parameters(network) + 256 * DiT.sizes[size][0] == exact
        assert round(exact / 1e6) in (million, million + 1)  # 130.5 is published as 130

    @pytest.mark.parametrize(
        ("size", "shape", "patch", "conditions", "million"),
        [
            ("S", (3, 32, 32), 2, {}, 44),
            ("M", (3, 64, 64), 4, IMAGENET, 131),
            ("L", (4, 32, 32), 2, IMAGENET, 287),
            ("H", (4, 32, 32), 2, IMAGENET, 501),
        ],
    )
    def test_uvit_has_the_published_count(self, size, shape, patch, conditions, million):
        with torch.device("meta"):
            network = UViTModule(UViT(size=size, patch=patch), shape[0], shape, conditions)
        assert round(parameters(network) / 1e6) == million

    @pytest.mark.parametrize("model", [DiT(), UViT()])
    def test_the_default_is_for_a_cpu(self, model):
        with torch.device("meta"):
            assert parameters(model.build((1, 8, 8))) < 2e6

    def test_what_is_said_takes_the_place_of_the_sizes(self):
        assert DiT(size="B", depth=2).dimensions == (768, 2, 12)
        assert UViT(width=64, heads=2).dimensions == (64, 5, 2)


class TestPatches:
    @pytest.mark.parametrize("shape", EVENTS)
    @pytest.mark.parametrize("coefficients", [False, True])
    def test_cut_and_joined_are_inverse(self, shape, coefficients):
        x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
        patches = Patches(2, shape[1:], coefficients)
        tokens = patches.cut(x)
        assert tokens.shape == (3, math.prod(n // 2 for n in shape[1:]), shape[0] * 2 ** len(shape[1:]))
        assert torch.allclose(patches.joined(tokens), x, atol=1e-5)

    def test_a_token_is_a_patch(self):
        x = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(0))
        assert torch.equal(Patches(2, (4, 6), False).cut(x)[0, 4], x[0, :, 2:4, 2:4].flatten())

    def test_a_token_of_coefficients_is_a_square_of_neighbouring_frequencies(self):
        x = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(Patches(2, (4, 6), True).cut(x)[0, 4], dct(x)[0, :, 2:4, 2:4].flatten())

    def test_no_two_places_are_alike(self):
        for counts in ((5,), (4, 6), (3, 2, 4)):
            table = places(counts, 36)
            assert table.shape == (math.prod(counts), 36)
            assert bool((torch.cdist(table, table) + torch.eye(len(table)) > 0.1).all())

    def test_places_are_sines_and_cosines_of_each_axis(self):
        table = places((2, 3), 8)
        omega = torch.tensor([1.0, 1e-2])
        row, column = 1, 2
        expected = torch.cat([f(k * omega) for k in (row, column) for f in (torch.sin, torch.cos)])
        assert torch.allclose(table[row * 3 + column], expected)


class TestBlocks:
    def test_attention_is_softmax_over_all_tokens(self):
        torch.manual_seed(0)
        layer = Attention(8, 2, bias=True)
        x = torch.randn(2, 5, 8)
        q, k, v = layer.qkv(x).chunk(3, dim=2)
        heads = []
        for head in range(2):
            own = slice(4 * head, 4 * head + 4)
            weights = (q[..., own] @ k[..., own].transpose(1, 2) / 2).softmax(2)
            heads.append(weights @ v[..., own])
        assert torch.allclose(layer(x), layer.projection(torch.cat(heads, 2)), atol=1e-6)

    def test_a_block_of_dit_as_it_is_published(self):
        torch.manual_seed(0)
        block = moved(DiTBlock(DiT(width=8, depth=1, heads=2)))
        x, embedding = torch.randn(2, 5, 8), torch.randn(2, 8)
        shift, scale, gate, shift_2, scale_2, gate_2 = (
            part[:, None] for part in block.modulation[1](functional.silu(embedding)).chunk(6, 1)
        )

        def norm(h):
            return (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()

        h = x + gate * block.attention(norm(x) * (1 + scale) + shift)
        inner = functional.gelu(block.mlp[0](norm(h) * (1 + scale_2) + shift_2), approximate="tanh")
        assert torch.allclose(block(x, embedding), h + gate_2 * block.mlp[3](inner), atol=1e-5)

    def test_at_first_dit_says_nothing_and_its_blocks_do_nothing(self):
        torch.manual_seed(0)
        network = DiT(width=16, depth=2, heads=2).build((1, 8, 8)).eval()
        x = torch.randn(2, 1, 8, 8)
        assert not network(x, torch.ones(2)).any()
        tokens, embedding = torch.randn(2, 16, 16), torch.randn(2, 16)
        assert torch.equal(network.blocks[0](tokens, embedding), tokens)

    def test_the_first_block_of_uvit_is_read_by_the_last(self):
        torch.manual_seed(0)
        network = moved(UViT(width=16, depth=5, heads=2).build((1, 8, 8)))
        made, read = [], []
        for block in network.encoder:
            block.register_forward_hook(lambda _, arguments, output: made.append(output))
        for block in network.decoder:
            block.register_forward_pre_hook(lambda _, arguments: read.append(arguments[1]))
        network(torch.randn(2, 1, 8, 8), torch.ones(2))
        assert len(made) == len(read) == 2
        assert all(torch.equal(a, b) for a, b in zip(made, reversed(read), strict=True))

    def test_step_and_condition_of_uvit_are_tokens(self):
        torch.manual_seed(0)
        plain = UViT(width=16, depth=1, heads=2).build((1, 8, 8))
        told = UViT(width=16, depth=1, heads=2).build_conditional((1, 8, 8), IMAGENET)
        assert (plain.places.shape, told.places.shape) == ((17, 16), (18, 16))


@pytest.mark.parametrize("cls", [DiT, UViT])
class TestNetwork:
    @pytest.mark.parametrize("shape", EVENTS)
    @pytest.mark.parametrize("tokens", ["pixels", "coefficients"])
    def test_it_gives_the_shape_of_an_event(self, cls, shape, tokens):
        torch.manual_seed(0)
        model = cls(width=16, depth=3, heads=2, tokens=tokens, frequency_features=len(shape) == 3)
        network = moved(model.build(shape))
        x = torch.randn(3, model.in_channels(shape), *shape[1:])
        output = network(x, torch.tensor([1.0, 17.0, 1000.0]))
        assert output.shape == (3, *shape)
        assert output.isfinite().all()
        assert output.std() > 0

    def test_it_hears_the_condition(self, cls):
        torch.manual_seed(0)
        conditions = {
            "label": Condition.label(3),
            "age": Condition.vector(1, 0, 10),
            "sketch": Condition.image((1, 8, 8)),
        }
        network = moved(cls(width=16, depth=3, heads=2).build_conditional((1, 8, 8), conditions))
        x, i = torch.randn(1, 1, 8, 8), torch.tensor([10.0])
        told = {"label": torch.tensor([1]), "age": torch.tensor([[5.0]]), "sketch": torch.zeros(1, 1, 8, 8)}
        base = network(x, i, told)
        for name, other in (
            ("label", torch.tensor([3])),
            ("age", torch.tensor([[torch.nan]])),
            ("sketch", torch.full((1, 1, 8, 8), torch.nan)),
        ):
            assert not torch.allclose(network(x, i, told | {name: other}), base)

    @pytest.mark.parametrize(
        ("parameters", "shape", "what"),
        [
            ({"patch": 3}, (1, 8, 9), "cuts events into patches of 3, and 8 is no multiple"),
            ({"width": 20, "heads": 3}, (1, 8, 8), "a width of 20 cannot be split over 3 heads"),
            ({}, (6,), "reads events with axes to cut along"),
        ],
    )
    def test_misfits_are_named(self, cls, parameters, shape, what):
        with pytest.raises(ConfigError, match=what):
            cls(**parameters).build(shape)


def test_uvit_has_a_middle():
    with pytest.raises(ConfigError, match="has 4 blocks, and one of them stands in the middle"):
        UViT(depth=4).build((1, 8, 8))


def test_tokens_in_other_orders_are_another_event():
    """What `rearrange` does is what the pattern says: rows before columns."""
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(Patches(2, (4, 4), False).cut(x), rearrange(x, "b c (y p) (x q) -> b (y x) (c p q)", p=2, q=2))
