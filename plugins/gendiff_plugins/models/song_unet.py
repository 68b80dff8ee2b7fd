"""The U-Nets of EDM, with the names that their weights have in NVIDIA's files.

`SongUNet` is DDPM++ and NCSN++ (Song et al. 2021, arXiv 2011.13456, Appendix C): a U-Net for the noise level c_noise, whose skip
branches may carry the picture itself from level to level. `DhariwalUNet` is ADM (Dhariwal, Nichol 2021, arXiv 2105.05233), as
Karras et al. 2022 (arXiv 2206.00364, Table 7 and Appendix F) have both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import silu


class Linear(nn.Module):
    """``x W^T + b``; weights begin uniform (or normal) with a variance of ``init² / fan``."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, init: float = 1.0, normal: bool = False
    ) -> None:
        super().__init__()
        self.in_features = in_features
        spread = torch.randn if normal else _uniform
        self.weight = nn.Parameter(spread(out_features, in_features) * (init * in_features**-0.5))
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in) -> (B, out)``."""
        return functional.linear(x, self.weight, self.bias)


class Conv2d(nn.Module):
    """A convolution, before or after which the picture is halved or doubled by a separable filter; kernel 0 only resamples.

    ``fused`` convolves before it halves: then the filter meets what the convolution gives.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        init: float = 1.0,
        resample: Literal["", "up", "down"] = "",
        taps: Sequence[float] = (1, 1),
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.resample, self.fused = resample, fused
        weight = _uniform(out_channels, in_channels, kernel, kernel) * (init / (max(kernel, 1) * in_channels**0.5))
        self.weight = nn.Parameter(weight) if kernel else None
        self.bias = nn.Parameter(torch.zeros(out_channels)) if kernel else None
        f = torch.tensor(taps, dtype=torch.float32)
        self.register_buffer("resample_filter", torch.outer(f, f)[None, None] / f.sum() ** 2 if resample else None)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in, H, W) -> (B, out, H', W')``."""
        padding = 0 if self.weight is None else self.weight.shape[-1] // 2
        if self.fused and self.resample == "down" and self.weight is not None:
            x = functional.conv2d(x, self.weight, padding=padding + self._reach())
            x = self._halved(x, 0)
            return x if self.bias is None else x + self.bias[:, None, None]
        if self.resample == "down":
            x = self._halved(x, self._reach())
        elif self.resample == "up":
            kernel = 4 * self._filter(x)
            x = functional.conv_transpose2d(x, kernel, stride=2, padding=self._reach(), groups=x.shape[1])
        return x if self.weight is None else functional.conv2d(x, self.weight, self.bias, padding=padding)

    def _filter(self, x: Tensor) -> Tensor:
        """The filter, once for each channel of x."""
        assert isinstance(self.resample_filter, Tensor)  # of whatever resamples
        return self.resample_filter.to(x.dtype).expand(x.shape[1], -1, -1, -1)

    def _reach(self) -> int:
        assert isinstance(self.resample_filter, Tensor)
        return (self.resample_filter.shape[-1] - 1) // 2

    def _halved(self, x: Tensor, padding: int) -> Tensor:
        return functional.conv2d(x, self._filter(x), stride=2, padding=padding, groups=x.shape[1])


class GroupNorm(nn.Module):
    """Group norm of at most 32 groups, none smaller than 4 channels."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.eps = min(32, channels // 4), eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        normed = functional.group_norm(x.float(), self.groups, self.weight.float(), self.bias.float(), self.eps)
        return normed.to(x.dtype)


class UNetBlock(nn.Module):
    """``κ (skip(x) + conv(silu(modulated norm(conv(silu(norm(x)))))))``, and attention, after which comes κ again.

    The embedding is added before the second norm, or scales and shifts what comes out of it (``adaptive``).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding: int,
        *,
        resample: Literal["", "up", "down"] = "",
        heads: int = 0,
        dropout: float = 0.0,
        kappa: float = 1.0,
        eps: float = 1e-5,
        taps: Sequence[float] = (1, 1),
        project: bool = False,
        adaptive: bool = True,
        init: float = 1.0,
        last: float = 0.0,
        attention: float | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.heads, self.kappa, self.adaptive = heads, kappa, adaptive
        self.norm0 = GroupNorm(in_channels, eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, init, resample, taps)
        self.affine = Linear(embedding, out_channels * (2 if adaptive else 1), init=init)
        self.norm1 = GroupNorm(out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = Conv2d(out_channels, out_channels, 3, last)
        self.skip = None
        if in_channels != out_channels or resample:
            kernel = 1 if project or in_channels != out_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, init, resample, taps)
        if heads:
            self.norm2 = GroupNorm(out_channels, eps)
            self.qkv = Conv2d(out_channels, 3 * out_channels, 1, init if attention is None else attention)
            self.proj = Conv2d(out_channels, out_channels, 1, last)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(B, in, H, W), (B, embedding) -> (B, out, H', W')``."""
        h = self.conv0(silu(self.norm0(x)))
        modulation = self.affine(embedding)[:, :, None, None].to(h.dtype)
        if self.adaptive:
            scale, shift = modulation.chunk(2, dim=1)
            h = silu(shift + self.norm1(h) * (1 + scale))
        else:
            h = silu(self.norm1(h + modulation))
        h = self.conv1(self.dropout(h)) + (x if self.skip is None else self.skip(x))
        h = h * self.kappa
        return self._attended(h) * self.kappa if self.heads else h

    def _attended(self, x: Tensor) -> Tensor:
        # Of each head q, k and v alternate from channel to channel.
        parts = self.qkv(self.norm2(x)).reshape(x.shape[0], self.heads, x.shape[1] // self.heads, 3, -1)
        q, k, v = (part.transpose(2, 3).contiguous() for part in parts.unbind(3))
        values = functional.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        attended: Tensor = self.proj(values.reshape(x.shape)) + x
        return attended


class PositionalEmbedding(nn.Module):
    """``[cos(c ω_k), sin(c ω_k)]``, ω_k from 1 down to 1e-4, which it reaches where ``endpoint`` says so."""

    def __init__(self, channels: int, endpoint: bool = False) -> None:
        super().__init__()
        self.channels, self.endpoint = channels, endpoint

    def forward(self, c: Tensor) -> Tensor:
        """``(B,) -> (B, channels)``."""
        half = self.channels // 2
        k = torch.arange(half, dtype=torch.float32, device=c.device) / (half - self.endpoint)
        angles = c.float()[:, None] * (1 / 10000) ** k
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """``[cos(2π c ω_k), sin(2π c ω_k)]`` with ω_k drawn once, of std 16."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, c: Tensor) -> Tensor:
        """``(B,) -> (B, channels)``."""
        angles = c.float()[:, None] * (2 * math.pi * self.freqs.float())
        return torch.cat([angles.cos(), angles.sin()], dim=1)


class _UNet(nn.Module):
    """What both have in common: the levels, their blocks, and what skips from one side to the other."""

    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def decoded(self, x: Tensor, block: nn.Module, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """One block of the decoder, which reads what the encoder had beside x where it has the channels for it."""
        if x.shape[1] != block.in_channels:
            x = torch.cat([x, skips.pop()], dim=1)
        output: Tensor = block(x, embedding)
        return output


class SongUNet(_UNet):
    """DDPM++ (standard encoder, ``positional``) and NCSN++ (residual encoder, ``fourier``).

    Args: those of the files, by their names.

    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
    ) -> None:
        super().__init__()
        self.label_dropout = label_dropout
        width, noise = model_channels * channel_mult_emb, model_channels * channel_mult_noise
        taps, top = tuple(resample_filter), len(channel_mult) - 1

        def block(
            cin: int, cout: int, *, resample: Literal["", "up", "down"] = "", attention: bool = False
        ) -> UNetBlock:
            return UNetBlock(
                cin,
                cout,
                width,
                resample=resample,
                heads=int(attention),
                dropout=dropout,
                kappa=0.5**0.5,
                eps=1e-6,
                taps=taps,
                project=True,
                adaptive=False,
                last=1e-5,
                attention=0.2**0.5,
            )

        if embedding_type == "positional":
            self.map_noise: nn.Module = PositionalEmbedding(noise, endpoint=True)
        else:
            self.map_noise = FourierEmbedding(noise)
        self.map_label = Linear(label_dim, noise) if label_dim else None
        self.map_augment = Linear(augment_dim, noise, bias=False).requires_grad_(False) if augment_dim else None
        self.map_layer0, self.map_layer1 = Linear(noise, width), Linear(width, width)

        self.enc, skips = nn.ModuleDict(), list[int]()
        cout = carried = in_channels
        for level, multiplier in enumerate(channel_mult):
            size = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == 0:
                cout = model_channels
                self.enc[f"{size}_conv"] = Conv2d(in_channels, cout, 3)
            else:
                self.enc[f"{size}_down"] = block(cout, cout, resample="down")
                if encoder_type == "skip":
                    self.enc[f"{size}_aux_down"] = Conv2d(carried, carried, 0, resample="down", taps=taps)
                    self.enc[f"{size}_aux_skip"] = Conv2d(carried, cout, 1)
                if encoder_type == "residual":
                    self.enc[f"{size}_aux_residual"] = Conv2d(carried, cout, 3, resample="down", taps=taps, fused=True)
                    carried = cout
            skips.append(cout)
            for k in range(num_blocks):
                cin, cout = cout, model_channels * multiplier
                attention = img_resolution >> level in attn_resolutions
                self.enc[f"{size}_block{k}"] = block(cin, cout, attention=attention)
                skips.append(cout)

        self.dec = nn.ModuleDict()
        for level, multiplier in reversed(list(enumerate(channel_mult))):
            size = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == top:
                self.dec[f"{size}_in0"] = block(cout, cout, attention=True)
                self.dec[f"{size}_in1"] = block(cout, cout)
            else:
                self.dec[f"{size}_up"] = block(cout, cout, resample="up")
            for k in range(num_blocks + 1):
                cin, cout = cout + skips.pop(), model_channels * multiplier
                attention = k == num_blocks and img_resolution >> level in attn_resolutions
                self.dec[f"{size}_block{k}"] = block(cin, cout, attention=attention)
            if decoder_type == "skip" or level == 0:
                if decoder_type == "skip" and level < top:
                    self.dec[f"{size}_aux_up"] = Conv2d(out_channels, out_channels, 0, resample="up", taps=taps)
                self.dec[f"{size}_aux_norm"] = GroupNorm(cout, eps=1e-6)
                self.dec[f"{size}_aux_conv"] = Conv2d(cout, out_channels, 3, init=1e-5)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """``(B, in, H, W)``, ``(B,)`` and one-hot labels ``(B, label_dim)`` ``-> (B, out, H, W)``."""
        cos, sin = self.map_noise(c_noise).chunk(2, dim=1)
        embedding = torch.cat([sin, cos], dim=1)
        if self.map_label is not None and labels is not None:
            labels = _dropped(labels, self.label_dropout, self.training)
            embedding = embedding + self.map_label(labels * self.map_label.in_features**0.5)
        embedding = silu(self.map_layer1(silu(self.map_layer0(embedding))))
        skips, carried = list[Tensor](), x
        for name, block in self.enc.items():
            if "aux_down" in name:
                carried = block(carried)
            elif "aux_skip" in name:
                x = skips[-1] = x + block(carried)
            elif "aux_residual" in name:
                x = skips[-1] = carried = (x + block(carried)) * 0.5**0.5
            else:
                x = block(x, embedding) if isinstance(block, UNetBlock) else block(x)
                skips.append(x)
        output: Tensor | None = None
        for name, block in self.dec.items():
            if "aux_up" in name:
                output = block(output)
            elif "aux_norm" in name:
                normed = block(x)
            elif "aux_conv" in name:
                picture = block(silu(normed))
                output = picture if output is None else picture + output
            else:
                x = self.decoded(x, block, skips, embedding)
        assert output is not None  # the first level always writes one
        return output


class DhariwalUNet(_UNet):
    """ADM as EDM trained it.

    Args: those of the files, by their names.

    """

    def __init__(
        self,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.label_dropout = label_dropout
        width, top = model_channels * channel_mult_emb, len(channel_mult) - 1

        def block(
            cin: int, cout: int, *, resample: Literal["", "up", "down"] = "", attention: bool = False
        ) -> UNetBlock:
            heads = cout // 64 if attention else 0
            return UNetBlock(cin, cout, width, resample=resample, heads=heads, dropout=dropout, init=3**-0.5)

        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = (
            Linear(augment_dim, model_channels, bias=False, init=0).requires_grad_(False) if augment_dim else None
        )
        self.map_layer0, self.map_layer1 = (
            Linear(model_channels, width, init=3**-0.5),
            Linear(width, width, init=3**-0.5),
        )
        self.map_label = Linear(label_dim, width, bias=False, init=label_dim**0.5, normal=True) if label_dim else None

        self.enc, skips, cout = nn.ModuleDict(), list[int](), in_channels
        for level, multiplier in enumerate(channel_mult):
            size = f"{img_resolution >> level}x{img_resolution >> level}"
            attention = img_resolution >> level in attn_resolutions
            if level == 0:
                cout = model_channels * multiplier
                self.enc[f"{size}_conv"] = Conv2d(in_channels, cout, 3, init=3**-0.5)
            else:
                self.enc[f"{size}_down"] = block(cout, cout, resample="down")
            skips.append(cout)
            for k in range(num_blocks):
                cin, cout = cout, model_channels * multiplier
                self.enc[f"{size}_block{k}"] = block(cin, cout, attention=attention)
                skips.append(cout)
        self.dec = nn.ModuleDict()
        for level, multiplier in reversed(list(enumerate(channel_mult))):
            size = f"{img_resolution >> level}x{img_resolution >> level}"
            attention = img_resolution >> level in attn_resolutions
            if level == top:
                self.dec[f"{size}_in0"] = block(cout, cout, attention=True)
                self.dec[f"{size}_in1"] = block(cout, cout)
            else:
                self.dec[f"{size}_up"] = block(cout, cout, resample="up")
            for k in range(num_blocks + 1):
                cin, cout = cout + skips.pop(), model_channels * multiplier
                self.dec[f"{size}_block{k}"] = block(cin, cout, attention=attention)
        self.out_norm = GroupNorm(cout)
        self.out_conv = Conv2d(cout, out_channels, 3, init=0)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """``(B, in, H, W)``, ``(B,)`` and one-hot labels ``(B, label_dim)`` ``-> (B, out, H, W)``."""
        embedding = self.map_layer1(silu(self.map_layer0(self.map_noise(c_noise))))
        if self.map_label is not None and labels is not None:
            embedding = embedding + self.map_label(_dropped(labels, self.label_dropout, self.training))
        embedding, skips = silu(embedding), list[Tensor]()
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, UNetBlock) else block(x)
            skips.append(x)
        for block in self.dec.values():
            x = self.decoded(x, block, skips, embedding)
        output: Tensor = self.out_conv(silu(self.out_norm(x)))
        return output


def _uniform(*shape: int) -> Tensor:
    """Uniform numbers of variance 1."""
    return (2 * torch.rand(*shape) - 1) * 3**0.5


def _dropped(labels: Tensor, share: float, training: bool) -> Tensor:
    """Labels, of which training leaves out some."""
    if not training or not share:
        return labels
    return labels * (torch.rand(len(labels), 1, device=labels.device) >= share)
