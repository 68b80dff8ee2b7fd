r"""Networks of EDM, preconditioned as they were trained.

    D(x; σ) = c_skip x + c_out F(c_in x; c_noise)          (Karras et al. 2022, eq. 7 and Table 1)

is the clean event that is expected under noise of std σ. A process asks at steps i: of x_i it is told ``x = x_i/a`` with
``σ_i = s/a``. Where components are scaled by different a and s, which such a network was never trained for, a² and s² are their
means, a² weighed by the variance of the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field, ValidationError
from torch import Tensor, nn

from gendiff.component import Settings, invalid_parameter
from gendiff.condition import Condition, Conditions, Given
from gendiff.diffusion import Diffusion
from gendiff.errors import ConfigError, DataError
from gendiff.pretrained import OF, Pretrained
from gendiff.shapes import EventShape
from gendiff_plugins.models import edm_pickle
from gendiff_plugins.models.levels import LABEL, check_events, check_labels, entries, mean_scales
from gendiff_plugins.models.song_unet import DhariwalUNet, SongUNet, UNetBlock

HIGHEST = 1e5  # σ: beyond, where a vanishes, it is noise whatever the number is
SPAN = 0.002, 80.0  # of σ in sampling, where a network was trained for more
N = 1000

Size = Annotated[int, Field(ge=1, le=8192)]
Levels = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=12)]


class Outside(Settings):
    """What all preconditionings are made with; what they say besides belongs to the network inside."""

    preconditioning: Literal["EDMPrecond", "VPPrecond", "VEPrecond", "iDDPMPrecond"]
    img_resolution: Size
    img_channels: Annotated[int, Field(ge=1, le=256)]
    label_dim: Annotated[int, Field(ge=0, le=10**6)] = 0
    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    sigma_min: Annotated[float, Field(ge=0)] = 0.02
    sigma_max: Annotated[float, Field(gt=0)] = 100.0
    beta_d: Annotated[float, Field(gt=0)] = 19.9
    beta_min: Annotated[float, Field(gt=0)] = 0.1
    M: Annotated[int, Field(ge=2, le=10**5)] = 1000
    epsilon_t: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    C_1: Annotated[float, Field(gt=0, lt=1)] = 0.001
    C_2: Annotated[float, Field(gt=0, lt=1)] = 0.008


class Inside(Settings):
    """What both networks are made with."""

    augment_dim: Annotated[int, Field(ge=0, le=1000)] = 0
    model_channels: Size
    channel_mult: Levels
    channel_mult_emb: Annotated[int, Field(ge=1, le=64)] = 4
    num_blocks: Annotated[int, Field(ge=1, le=64)]
    attn_resolutions: tuple[int, ...]
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    label_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0


class Song(Inside):
    """A SongUNet."""

    model_channels: Size = 128
    channel_mult: Levels = (1, 2, 2, 2)
    num_blocks: Annotated[int, Field(ge=1, le=64)] = 4
    attn_resolutions: tuple[int, ...] = (16,)
    embedding_type: Literal["positional", "fourier"] = "positional"
    channel_mult_noise: Annotated[int, Field(ge=1, le=64)] = 1
    encoder_type: Literal["standard", "skip", "residual"] = "standard"
    decoder_type: Literal["standard", "skip"] = "standard"
    resample_filter: Annotated[tuple[float, ...], Field(min_length=2, max_length=16)] = (1, 1)


class Dhariwal(Inside):
    """A DhariwalUNet."""

    model_channels: Size = 192
    channel_mult: Levels = (1, 2, 3, 4)
    num_blocks: Annotated[int, Field(ge=1, le=64)] = 3
    attn_resolutions: tuple[int, ...] = (32, 16, 8)


NETWORKS: Mapping[str, tuple[type[Inside], type[nn.Module]]] = {
    "SongUNet": (Song, SongUNet),
    "DhariwalUNet": (Dhariwal, DhariwalUNet),
}
POSITIONAL = ("img_resolution", "img_channels", LABEL + "_dim", "use_fp16")
#: Of each preconditioning, what its network is where nothing is said, and what it has of its own.
OWN: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "EDMPrecond": ("DhariwalUNet", ("sigma_data",)),
    "VPPrecond": ("SongUNet", ("beta_d", "beta_min", "M", "epsilon_t")),
    "VEPrecond": ("SongUNet", ("sigma_min", "sigma_max")),
    "iDDPMPrecond": ("DhariwalUNet", ("C_1", "C_2", "M")),
}


class EDMModel(Pretrained):
    """a network of EDM, from NVIDIA's pickle, of which nothing is run.

    Its step is ``σ_i = s_i/a_i`` of whatever process it is asked in, its condition the label. Without one it is told of no class.
    The settings that belong to it are the velocity ``edm`` (or a part of its range of σ) in 1000 steps, the objective ``edm`` and
    Heun's sampler. With ``N=18`` and every step pictures of CIFAR-10 are those of EDM's own sampler, with 40 those of 64x64.

    Reference: Karras, Aittala, Aila, Laine 2022, Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364.
    """

    name = "edm"
    files: ClassVar[str] = "a network pickle of EDM, such as edm-cifar10-32x32-cond-vp.pkl"

    frequency_features: bool = Field(False, description="read U^T x beside x, through weights that begin at 0")

    @classmethod
    def read(cls, path: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
        network = edm_pickle.read(path)
        try:
            facts = _facts(network)
        except ConfigError as error:  # nothing that the user set
            raise _unreadable(path, error.what, *error.details) from error
        size = path.stat().st_size
        weights = sum(value.numel() for value in _network(facts, meta=True).state_dict().values())
        if 2 * weights > size:
            raise _unreadable(path, f"its network would have {weights:,} weights, and the file has {size:,} bytes")
        return facts

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        given = edm_pickle.weights(self.located)
        if self.frequency_features:
            own = network.state_dict()
            given = {name: _wider(value, own.get(name)) for name, value in given.items()}
        return given

    def configuration(self) -> dict[str, Any]:
        outside, _ = _parts(self.facts)
        low, high = span(outside)
        return {
            "N": N,
            "rotation": "identity",
            "velocity": {"name": "edm", "sigma_min": max(low, SPAN[0]), "sigma_max": min(high, SPAN[1])},
            "objective": {"name": "edm", "sigma_data": outside.sigma_data},
            "sampler": {
                "name": "heun",
                "steps": 35 if outside.img_resolution < 64 else 79,
                "grid": "uniform",
                "clip": False,
            },
        }

    @property
    def event_shape(self) -> EventShape:
        outside, _ = _parts(self.facts)
        return (outside.img_channels, outside.img_resolution, outside.img_resolution)

    @property
    def conditions(self) -> Conditions:
        outside, _ = _parts(self.facts)
        return {LABEL: Condition.label(outside.label_dim)} if outside.label_dim else {}

    def build(self, event_shape: EventShape) -> nn.Module:
        return self.build_conditional(event_shape, {})

    def build_conditional(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        outside, inside = _parts(self.facts)
        check_events(self, event_shape, outside.img_channels, 2 ** (len(inside.channel_mult) - 1))
        check_labels(self, conditions, outside.label_dim)
        return _network(self.facts, self.in_channels(event_shape))

    def attach(self, network: nn.Module, diffusion: Diffusion) -> None:
        cast("Preconditioned", network).attach(diffusion)

    def stages_of(self, network: nn.Module) -> list[nn.Module]:
        return [module for module in network.modules() if isinstance(module, UNetBlock)]


class Preconditioned(nn.Module):
    """``D(x_i/a; s/a)`` at steps i: the clean event that is expected.

    Args:
        model: F, which maps ``(x, c_noise, labels)``.
        outside: what the preconditioning was made with.

    """

    sigma: Tensor
    scale: Tensor
    u: Tensor

    def __init__(self, model: nn.Module, outside: Outside) -> None:
        super().__init__()
        self.outside = outside
        if outside.preconditioning == "iDDPMPrecond":
            self.register_buffer("u", _levels(outside))
        self.model = model
        self.register_buffer("sigma", torch.linspace(0, 80, N + 1), persistent=False)
        self.register_buffer("scale", torch.ones(N + 1), persistent=False)

    def attach(self, diffusion: Diffusion) -> None:
        """Take σ and 1/a of each step from a process."""
        a, s = mean_scales(diffusion)
        sigma = (s / a).clamp_max(HIGHEST)
        first = torch.zeros(1, dtype=sigma.dtype, device=sigma.device)
        device = self.scale.device
        self.sigma = torch.cat([first, sigma]).float().to(device)
        self.scale = torch.cat([first + 1, sigma / s]).float().to(device)

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        """``x̂_0``, of the shape of an event."""
        sigma, scale = (self._at(table, i)[:, None, None, None] for table in (self.sigma, self.scale))
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        x = x.float() * scale
        channels = self.outside.img_channels
        F = self.model(c_in * x, c_noise.flatten(), self.labels(x.shape[0], condition, x.device))
        output: Tensor = c_skip * x[:, :channels] + c_out * F[:, :channels].float()
        return output

    @staticmethod
    def _at(table: Tensor, i: Tensor) -> Tensor:
        """An entry at a whole step, to the bit; between two, their logarithms are joined."""
        whole = i == i.round()
        return torch.where(whole, table[i.long()], entries(table.log(), i).exp())

    def labels(self, count: int, condition: Given | None, device: torch.device) -> Tensor | None:
        """One row for each event, 1 at its class; 0 everywhere where none is said."""
        classes = self.outside.label_dim
        if not classes:
            return None
        label = condition[LABEL] if condition else torch.full((count,), classes, device=device)
        return (label[:, None] == torch.arange(classes, device=device)).float()

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """c_skip, c_out, c_in and c_noise at σ."""
        one, outside = torch.ones_like(sigma), self.outside
        match outside.preconditioning:
            case "EDMPrecond":
                total = sigma**2 + outside.sigma_data**2
                c_skip, c_out = outside.sigma_data**2 / total, sigma * outside.sigma_data / total.sqrt()
                return c_skip, c_out, 1 / total.sqrt(), sigma.log() / 4
            case "VEPrecond":
                return one, sigma, one, (sigma / 2).log()
            case "VPPrecond":
                c_noise = (outside.M - 1) * _time(sigma, outside)
            case "iDDPMPrecond":
                nearest = (sigma.reshape(-1, 1) - self.u).abs().argmin(1)
                c_noise = (outside.M - 1 - nearest).float().reshape(sigma.shape)
        return one, -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise


def span(outside: Outside) -> tuple[float, float]:
    """The least and the largest σ that a network was trained for."""
    match outside.preconditioning:
        case "VEPrecond":
            return outside.sigma_min, outside.sigma_max
        case "VPPrecond":
            return _of_time(outside.epsilon_t, outside), _of_time(1.0, outside)
        case "iDDPMPrecond":
            u = _levels(outside)
            return float(u[-2]), float(u[0])
    return SPAN


def _of_time(t: float, outside: Outside) -> float:
    """σ(t) of the variance-preserving process."""
    return math.sqrt(math.expm1(outside.beta_d * t**2 / 2 + outside.beta_min * t))


def _time(sigma: Tensor, outside: Outside) -> Tensor:
    """The time t at which σ(t) = σ."""
    root = (outside.beta_min**2 + 2 * outside.beta_d * (1 + sigma**2).log()).sqrt()
    return (root - outside.beta_min) / outside.beta_d


def _levels(outside: Outside) -> Tensor:
    """``u_j``, the σ of each of the M steps of iDDPM's schedule, falling to u_M = 0."""
    M = outside.M

    def alpha_bar(j: int) -> float:
        return math.sin(math.pi / 2 * j / M / (outside.C_2 + 1)) ** 2

    u = [0.0]
    for j in range(M, 0, -1):
        u.append(math.sqrt((u[-1] ** 2 + 1) / max(alpha_bar(j - 1) / alpha_bar(j), outside.C_1) - 1))
    with torch.device("cpu"):
        return torch.tensor(u[::-1])


def _unreadable(path: Path, why: str, *details: str) -> DataError:
    fix = "take one of EDM's own networks, or restore the file from a copy"
    return DataError(f"cannot read '{path}': {why}", details=details, fix=fix)


def _facts(network: edm_pickle.Network) -> dict[str, Any]:
    """The values of JSON by which the network is built; raises `ConfigError` where it is none that is known."""
    given = {**dict(zip(POSITIONAL, network.arguments, strict=False)), **network.named}
    given.pop("use_fp16", None)
    if network.name == "EDMPrecond":  # its bounds of σ are those of all numbers
        given.pop("sigma_min", None)
        given.pop("sigma_max", None)
    if len(network.arguments) > len(POSITIONAL):
        raise ConfigError("its network was made with more than is known")
    facts = {"preconditioning": network.name, "model_type": OWN.get(network.name, ("",))[0], **given}
    _parts(facts)
    return facts


def _parts(facts: Mapping[str, Any]) -> tuple[Outside, Inside]:
    """The preconditioning and the network; raises `ConfigError` for what they do not have."""
    name, kind = facts.get("preconditioning"), facts.get("model_type")
    for one, known in ((name, OWN), (kind, NETWORKS)):
        if not isinstance(one, str) or one not in known:
            raise ConfigError(
                f"a network '{str(one)[:80]}' is none that is known",
                details=[f"known: {', '.join(known)}"],
                subject="model.path",
            )
    own = {"preconditioning", *POSITIONAL, *OWN[str(name)][1]} - {"use_fp16"}
    inside = {key: value for key, value in facts.items() if key not in {*own, "model_type", OF}}
    outside = {key: value for key, value in facts.items() if key in own}
    made: list[Any] = []
    for cls, table in ((Outside, outside), (NETWORKS[str(kind)][0], inside)):
        try:
            made.append(cls.model_validate(table))
        except ValidationError as error:
            complaint = invalid_parameter(cls, error, section="model.architecture")
            what = f"a network that is none that is known: {complaint.what}"
            raise ConfigError(what, details=complaint.details, subject="model.path") from error
    return made[0], made[1]


def _network(facts: Mapping[str, Any], in_channels: int | None = None, meta: bool = False) -> nn.Module:
    outside, inside = _parts(facts)
    channels = outside.img_channels
    with torch.device("meta") if meta else nullcontext():
        model = NETWORKS[facts["model_type"]][1](
            img_resolution=outside.img_resolution,
            in_channels=in_channels or channels,
            out_channels=channels * (2 if outside.preconditioning == "iDDPMPrecond" else 1),
            label_dim=outside.label_dim,
            **inside.model_dump(),
        )
        return Preconditioned(model, outside)


def _wider(value: Tensor, own: Tensor | None) -> Tensor:
    """Weights of the picture, and zeros for its frequencies beside it."""
    if own is None or value.ndim != 4 or own.shape == value.shape or own.shape[1] != 2 * value.shape[1]:
        return value
    return torch.cat([value, torch.zeros_like(value)], dim=1)
