r"""ADM: the U-Net of guided-diffusion and improved-diffusion, with the names that its weights have there.

It predicts ε, and beside it a variance that nobody here asks for, at t = i - 1 of its own schedule. In another process it is
asked at the t of equal s/a, of ``x_i/sqrt(a² + s²)``: ε stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn
from torch.nn import functional

from gendiff.component import Settings
from gendiff.condition import Condition, Conditions, Given
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, DataError, without_advice
from gendiff.pretrained import OF, Pretrained
from gendiff.schedule import NoiseSchedule
from gendiff.shapes import EventShape
from gendiff.storage import reading
from gendiff_plugins.models.embedding import sinusoids
from gendiff_plugins.models.levels import LABEL, check_events, check_labels, entries, mean_scales
from gendiff_plugins.models.unet import zero

MOST = 16 * 2**30  # bytes of a file
T = 1000  # steps of every published schedule
GROUPS = 32
OLDER = b"\x80\x02\x8a\x0a"  # how a file of torch.save begins that is no archive

Size = Annotated[int, Field(ge=1, le=8192)]


class Recipe(Settings):
    """What the weights do not say: the side of a picture, the heads of attention, the order of q, k and v, the schedule."""

    size: Annotated[int, Field(ge=1, le=8192)]
    heads: Annotated[int, Field(ge=0, le=1024)] = 0
    head_channels: Annotated[int, Field(ge=0, le=8192)] = 0
    new_order: bool = False
    noise: Literal["linear", "cosine"] = "linear"


class Architecture(Recipe):
    """All of it."""

    channels: Size
    widths: Annotated[tuple[Size, ...], Field(min_length=1, max_length=12)]
    blocks: Annotated[int, Field(ge=1, le=64)]
    attention: tuple[bool, ...]
    in_channels: Annotated[int, Field(ge=1, le=256)]
    out_channels: Annotated[int, Field(ge=1, le=512)]
    classes: Annotated[int, Field(ge=0, le=10**6)] = 0
    residual_resampling: bool
    scale_shift: bool


#: What the published networks were made with, by the channels of the first level and the multipliers.
PUBLISHED: Mapping[tuple[int, tuple[float, ...]], Recipe] = {
    (192, (1, 2, 3, 4)): Recipe(size=64, head_channels=64, new_order=True, noise="cosine"),
    (256, (1, 1, 2, 3, 4)): Recipe(size=128, heads=4),
    (256, (1, 1, 2, 2, 4, 4)): Recipe(size=256, head_channels=64),
    (256, (0.5, 1, 1, 2, 2, 4, 4)): Recipe(size=512, head_channels=64),
    (128, (1, 2, 2, 2)): Recipe(size=32, heads=4, noise="cosine"),
    (128, (1, 2, 3, 4)): Recipe(size=64, heads=4, noise="cosine"),
}


class ADM(Pretrained):
    """a network of guided-diffusion or improved-diffusion, from its state dict.

    What the weights do not say is that of the published network of these widths: ImageNet 64x64 to 512x512 and LSUN of
    guided-diffusion, CIFAR-10 and ImageNet 64x64 of improved-diffusion. Of others it is said by the parameters. The half of the
    output that is a variance is left aside. Without a label it is told the mean of its classes.

    Reference: Dhariwal, Nichol 2021, Diffusion Models Beat GANs on Image Synthesis, arXiv 2105.05233.
    """

    name = "adm"
    files: ClassVar[str] = "a state dict of guided-diffusion, such as 64x64_diffusion.pt"

    size: int | None = Field(
        None, ge=1, le=8192, description="side of a picture; left out, that of the published network"
    )
    heads: int | None = Field(None, ge=1, description="attention heads; left out, as published")
    head_channels: int | None = Field(None, ge=1, description="or channels of each head")
    new_order: bool | None = Field(
        None, description="q, k, v of all heads side by side, and not of each; left out, as published"
    )
    noise: Literal["linear", "cosine"] | None = Field(None, description="its noise schedule; left out, as published")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in residual blocks, in training")
    frequency_features: bool = Field(False, description="read U^T x beside x, through weights that begin at 0")

    @classmethod
    def read(cls, path: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
        shapes = {name: tuple(weight.shape) for name, weight in _state(path).items()}
        try:
            said = _said(shapes)
        except (KeyError, IndexError, ZeroDivisionError, ValueError) as error:
            raise _unreadable(path, "its weights are of another network") from error
        widths = tuple(width / said["channels"] for width in said["widths"])
        published = PUBLISHED.get((said["channels"], widths))
        own = {key: value for key in Recipe.model_fields if (value := parameters.get(key)) is not None}
        if "heads" in own or "head_channels" in own:
            own = {"heads": 0, "head_channels": 0, **own}
        if published is None and not ("size" in own and own.get("heads", 0) + own.get("head_channels", 0)):
            raise ConfigError(
                f"'{path}' is none of the published networks, and its weights do not say all",
                details=[
                    f"of {said['channels']} channels, {len(widths)} levels of {', '.join(map(str, said['widths']))}"
                ],
                fix=f"say the side of a picture and the heads: adm:path={path},size=64,head_channels=64",
                subject="model.path",
            )
        facts = {**(published.model_dump() if published else {}), **own, **said}
        try:
            made = Architecture.model_validate(facts)
        except ValidationError as error:
            raise _unreadable(path, "its weights are of another network") from error
        with torch.device("meta"):
            network = {name: tuple(weight.shape) for name, weight in _network(made, 0.0).state_dict().items()}
        if network != shapes:
            strange = sorted(name for name in network.keys() | shapes.keys() if network.get(name) != shapes.get(name))
            raise _unreadable(path, "its weights are of another network", f"such as '{strange[0]:.80}'")
        return made.model_dump(mode="json")

    @property
    def made(self) -> Architecture:
        """What it is made of."""
        facts = {key: value for key, value in self.facts.items() if key != OF}
        try:
            return Architecture.model_validate(facts)
        except ValidationError as error:
            raise ConfigError(
                "this is no architecture of ADM", fix="leave it out", subject="model.architecture"
            ) from error

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        given = dict(_state(self.located))
        if self.frequency_features:
            first = given["input_blocks.0.0.weight"]
            given["input_blocks.0.0.weight"] = torch.cat([first, torch.zeros_like(first)], dim=1)
        return given

    def configuration(self) -> dict[str, Any]:
        return {
            "N": T,
            "rotation": "identity",
            "velocity": {"name": "isotropic", "noise": self.made.noise},
            "objective": "eps",
            "sampler": {"name": "ancestral", "steps": 250, "grid": "uniform", "clip": True},
        }

    @property
    def event_shape(self) -> EventShape:
        return (self.made.in_channels, self.made.size, self.made.size)

    @property
    def conditions(self) -> Conditions:
        return {LABEL: Condition.label(self.made.classes)} if self.made.classes else {}

    def build(self, event_shape: EventShape) -> nn.Module:
        return self.build_conditional(event_shape, {})

    def build_conditional(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        made = self.made
        check_events(self, event_shape, made.in_channels, 2 ** (len(made.widths) - 1))
        check_labels(self, conditions, made.classes)
        return _network(made, self.dropout, self.in_channels(event_shape))

    def attach(self, network: nn.Module, diffusion: Diffusion) -> None:
        cast("ADMNetwork", network).attach(diffusion)

    def stages_of(self, network: nn.Module) -> list[nn.Module]:
        return [module for module in network.modules() if isinstance(module, ResBlock | AttentionBlock)]


class ADMNetwork(nn.Module):
    """``x_i (B, in, H, W), i (B,) -> ε̂ (B, C, H, W)``.

    Args:
        made: what it is made of.
        dropout: in residual blocks.
        in_channels: that it reads; more than those of an event where it reads U^T x beside.

    """

    t: Tensor
    scale: Tensor

    def __init__(self, made: Architecture, dropout: float, in_channels: int) -> None:
        super().__init__()
        self.made = made
        width, embedding = made.channels, 4 * made.channels
        self.time_embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        if made.classes:
            self.label_emb = nn.Embedding(made.classes, embedding)

        def block(channels: int, out: int, resample: Literal["", "up", "down"] = "") -> ResBlock:
            return ResBlock(channels, out, embedding, dropout, made.scale_shift, resample)

        def attention(channels: int) -> AttentionBlock:
            return AttentionBlock(channels, made.heads or max(channels // made.head_channels, 1), made.new_order)

        channels = made.widths[0]
        self.input_blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1))])
        skips = [channels]
        for level, out in enumerate(made.widths):
            for _ in range(made.blocks):
                attending = [attention(out)] if made.attention[level] else []
                self.input_blocks.append(nn.Sequential(block(channels, out), *attending))
                channels = out
                skips.append(out)
            if level < len(made.widths) - 1:
                down = block(out, out, "down") if made.residual_resampling else Downsample(out)
                self.input_blocks.append(nn.Sequential(down))
                skips.append(out)
        self.middle_block = nn.Sequential(block(channels, channels), attention(channels), block(channels, channels))
        self.output_blocks = nn.ModuleList()
        for level, out in reversed(list(enumerate(made.widths))):
            for k in range(made.blocks + 1):
                parts: list[nn.Module] = [block(channels + skips.pop(), out)]
                channels = out
                if made.attention[level]:
                    parts.append(attention(out))
                if level and k == made.blocks:
                    parts.append(block(out, out, "up") if made.residual_resampling else Upsample(out))
                self.output_blocks.append(nn.Sequential(*parts))
        self.out = nn.Sequential(Norm(channels), nn.SiLU(), zero(nn.Conv2d(channels, made.out_channels, 3, padding=1)))
        self.register_buffer("t", torch.arange(-1.0, T), persistent=False)
        self.register_buffer("scale", torch.ones(T + 1), persistent=False)

    def attach(self, diffusion: Diffusion) -> None:
        """Take from a process at which t of its own schedule each step is asked, and how large x_i is there."""
        a, s = (value.cpu() for value in mean_scales(diffusion))
        log_alpha_bar = NoiseSchedule(self.made.noise).log_alpha_bar(T)[1:]
        own = 0.5 * (log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar)))  # λ, falling
        here = (a.log() - s.log()).clamp(float(own[-1]), float(own[0]))
        above = torch.searchsorted(-own, -here).clamp(1, T - 1)
        t = above - (own[above] - here) / (own[above] - own[above - 1])
        whole = t.round()
        t = torch.where((t - whole).abs() < 1e-6, whole, t)
        first, device = torch.zeros(1, dtype=t.dtype), self.scale.device
        self.t = torch.cat([first, t]).float().to(device)
        self.scale = torch.cat([first + 1, (a**2 + s**2).rsqrt()]).float().to(device)

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        """``ε̂``, of the shape of an event."""
        embedding = self.time_embed(_steps(entries(self.t, i), self.made.channels))
        if self.made.classes:
            told = self.label_emb.weight.mean(0).expand_as(embedding)  # of no class, which it never was
            if condition:
                label = condition[LABEL][:, None]
                told = torch.where(
                    label < len(self.label_emb.weight), self.label_emb(label.squeeze(1) % self.made.classes), told
                )
            embedding = embedding + told
        x = x * entries(self.scale, i)[:, None, None, None]
        skips = []
        for parts in self.input_blocks:
            x = _through(parts, x, embedding)
            skips.append(x)
        x = _through(self.middle_block, x, embedding)
        for parts in self.output_blocks:
            x = _through(parts, torch.cat([x, skips.pop()], dim=1), embedding)
        output: Tensor = self.out(x)[:, : self.made.in_channels]
        return output


class ResBlock(nn.Module):
    """A residual block, which may halve the picture by means, or double it by repeating."""

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        dropout: float,
        scale_shift: bool,
        resample: Literal["", "up", "down"],
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.in_layers = nn.Sequential(Norm(channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out * (2 if scale_shift else 1)))
        last = zero(nn.Conv2d(out, out, 3, padding=1))
        self.out_layers = nn.Sequential(Norm(out), nn.SiLU(), nn.Dropout(dropout), last)
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``(B, channels, H, W), (B, embedding) -> (B, out, H', W')``."""
        norm, activation, conv = self.in_layers
        h = conv(self._resampled(activation(norm(x))))
        x = self._resampled(x)
        modulation = self.emb_layers(embedding)[:, :, None, None].to(h.dtype)
        norm, *rest = self.out_layers
        if self.scale_shift:
            scale, shift = modulation.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + modulation)
        for layer in rest:
            h = layer(h)
        output: Tensor = self.skip_connection(x) + h
        return output

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x


class AttentionBlock(nn.Module):
    """``x + proj(softmax(q k^T / sqrt(d)) v)`` over all positions."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = Norm(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W)``, the same shape out."""
        flat = self.qkv(self.norm(x.flatten(2)))
        B, channels, n = x.shape[0], x.shape[1], flat.shape[2]
        if self.new_order:
            parts = flat.reshape(B, 3, self.heads, channels // self.heads, n).transpose(1, 2)
        else:
            parts = flat.reshape(B, self.heads, 3, channels // self.heads, n)
        q, k, v = (part.transpose(2, 3).contiguous() for part in parts.unbind(2))
        values = functional.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(B, channels, n)
        update: Tensor = self.proj_out(values)
        return x + update.reshape(x.shape)


class Downsample(nn.Module):
    """Half the size by a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W) -> (B, channels, H/2, W/2)``."""
        smaller: Tensor = self.op(x)
        return smaller


class Upsample(nn.Module):
    """Twice the size by repeating, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels, H, W) -> (B, channels, 2 H, 2 W)``."""
        larger: Tensor = self.conv(functional.interpolate(x, scale_factor=2, mode="nearest"))
        return larger


class Norm(nn.GroupNorm):
    """Group norm of 32 groups, in float32."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape and dtype."""
        output: Tensor = super().forward(x.float())
        return output.to(x.dtype)


def _through(parts: nn.Module, x: Tensor, embedding: Tensor) -> Tensor:
    for part in cast("nn.Sequential", parts):
        x = part(x, embedding) if isinstance(part, ResBlock) else part(x)
    return x


def _steps(t: Tensor, channels: int) -> Tensor:
    with torch.autocast(t.device.type, enabled=False):
        table = sinusoids(t, channels // 2)
    return functional.pad(table, (0, channels % 2))


def _network(made: Architecture, dropout: float, in_channels: int | None = None) -> ADMNetwork:
    return ADMNetwork(made, dropout, in_channels or made.in_channels)


def _said(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """What the shapes of the weights say of the architecture; raises what a lookup raises where they are of another."""
    channels = shapes["time_embed.0.weight"][1]
    first = shapes["input_blocks.0.0.weight"]
    outputs = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("output_blocks."))
    # A block of the decoder that ends a level has, last, what doubles the picture.
    residual = {
        name.split(".")[1]
        for name in shapes
        if name.startswith("output_blocks.") and name.split(".")[2] != "0" and "in_layers.0.weight" in name
    }
    repeated = {
        name.split(".")[1] for name in shapes if name.startswith("output_blocks.") and name.endswith(".conv.weight")
    }
    levels = 1 + len(residual or repeated)
    blocks = outputs // levels - 1
    if blocks < 1 or levels > 12:
        raise ValueError("no levels")
    of_level = [1 + level * (blocks + 1) for level in range(levels)]
    widths = [shapes[f"input_blocks.{k}.0.out_layers.3.weight"][0] for k in of_level]
    return {
        "channels": channels,
        "widths": widths,
        "blocks": blocks,
        "attention": [f"input_blocks.{k}.1.qkv.weight" in shapes for k in of_level],
        "in_channels": first[1],
        "out_channels": shapes["out.2.weight"][0],
        "classes": shapes.get("label_emb.weight", (0,))[0],
        "residual_resampling": bool(residual),
        "scale_shift": shapes["input_blocks.1.0.emb_layers.1.weight"][0] == 2 * widths[0],
    }


def _state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, none of which is taken for anything else; raises `DataError`."""
    try:
        with reading.opened(path, MOST) as file:
            if reading.hollow(file, path.stat().st_size):
                raise ValueError("it is a hole with next to nothing in it")
            start = file.read(4)
            if start.startswith(b"PK"):
                with reading.archive(path) as members:
                    for info in members.infolist():
                        reading.sound(info)
            elif start != OLDER:
                raise ValueError("no file of torch.save" if start else reading.EMPTY)
            file.seek(0)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever it trips over
        raise _unreadable(path, _why(error)) from error
    if not isinstance(state, dict) or not state:
        raise _unreadable(path, "no state dict")
    if not all(isinstance(name, str) and isinstance(weight, Tensor) for name, weight in state.items()):
        raise _unreadable(path, "no state dict: it holds more than tensors by name")
    return state


def _why(error: Exception) -> str:
    return without_advice(" ".join(reading.why(error).split()))[:200] or type(error).__name__


def _unreadable(path: Path, why: str, *details: str) -> DataError:
    return DataError(
        f"cannot read '{path}': {why}",
        details=details,
        fix="take a state dict of guided-diffusion, or restore the file from a copy",
    )
