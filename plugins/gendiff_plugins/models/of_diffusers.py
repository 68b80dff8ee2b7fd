"""Networks of diffusers, with their weights: UNet2DModel and DiTTransformer2DModel.

Of a folder that ``save_pretrained`` wrote: a pipeline (model_index.json, unet/ or transformer/, scheduler/), or a model alone.
The folder is data: JSON and safetensors are read, nothing of it is executed. diffusers itself is imported where a network is
made.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gendiff.condition import Condition, Conditions, Given
from gendiff.errors import OBJECTS, ConfigError, DataError, reason
from gendiff.extra import extra, silent
from gendiff.pretrained import Pretrained
from gendiff.shapes import EventShape
from gendiff.storage import reading
from gendiff_plugins.models import hub

WEIGHTS = re.compile(r"diffusion_pytorch_model(?:\.(?P<variant>(?!safetensors)\w+))?(?:-\d+-of-\d+)?\.safetensors")
CONFIG, INDEX, SCHEDULER = "config.json", "model_index.json", "scheduler_config.json"
LISTING = ".safetensors.index.json"  # which weights are in which of several files
MOST_WEIGHTS = 2**40  # bytes of a file
#: The networks, and how a pipeline calls the folder of each.
NETWORKS: Mapping[str, str] = {"UNet2DModel": "unet", "DiTTransformer2DModel": "transformer"}
#: Where they lie in a repository.
PARTS = ("", *(f"{part}/" for part in dict.fromkeys(NETWORKS.values())))
#: Schedulers of a chain of β_i, in which the network is told ``t = i - 1``; they differ in how they sample.
SCHEDULERS = frozenset(
    {
        "DDPMScheduler",
        "DDIMScheduler",
        "DDPMParallelScheduler",
        "DDIMParallelScheduler",
        "PNDMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "UniPCMultistepScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
    }
)
#: What a scheduler says by default.
DEFAULTS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}
OBJECTIVES: Mapping[str, str] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
NOISES = ("linear", "scaled_linear", "squaredcos_cap_v2")


class Diffusers(Pretrained):
    """a network of diffusers with its weights: UNet2DModel, DiTTransformer2DModel.

    The step i is told as its ``t = i - 1``; where the process has another N, evenly from its first step to its last. Of a network
    that predicts a variance too, that part is left out. A label that is absent is a class of its own: the last of K + 1, or,
    where the weights know the K classes alone, the mean of their embeddings. Labels that the weights know nothing of begin
    without effect.

    Raises `DataError` where the folder is not there or holds no safetensors, `ConfigError` where its scheduler is of another kind
    of process, `PluginError` without the library.
    """

    name = "diffusers"
    files = "a folder that save_pretrained wrote, or a repository of the Hub, ORG/NAME"

    path: Path = Field(
        description="a folder that save_pretrained wrote, of a pipeline or of a model (~ is your home), or ORG/NAME on the Hub"
    )
    revision: str = Field("", description="on the Hub: a branch, a tag or a commit; the commit is kept")
    frequency_features: bool = Field(False, description="read U^T x beside x")

    @classmethod
    def fetched(cls, path: str, revision: str = "") -> tuple[Path, str] | None:
        return hub.fetched(path, revision, needed) if hub.names(path) else None

    @property
    def remarks(self) -> list[str]:
        if not _doubled(self.architecture_of):
            return []
        return [
            f"of what the network says, {self.architecture_of['out_channels']} channels, the half that is a variance is left out"
        ]

    @classmethod
    def read(cls, path: Path, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        part = _part(path)
        network = reading.json_file(path / part / CONFIG)
        _check_network(network, path / part)
        weights_files(path / part)
        index = reading.json_file(path / INDEX) if (path / INDEX).is_file() else {}
        places = (path / "scheduler" / SCHEDULER, path / SCHEDULER) if part or index else ()  # a model alone has none
        file = next((place for place in places if place.is_file()), path)
        scheduler = reading.json_file(file) if file != path else None
        if scheduler is not None:
            _check_scheduler(scheduler, file)
        return {"folder": part, "network": network, "scheduler": scheduler, "latent": "vae" in index}

    @property
    def architecture_of(self) -> dict[str, Any]:
        """The network as config.json describes it."""
        return dict(self.facts["network"])

    @property
    def event_shape(self) -> EventShape | None:
        network = self.architecture_of
        size = network.get("sample_size")
        if not size:
            return None
        height, width = size if isinstance(size, Sequence) else (size, size)
        return (int(network.get("in_channels", 3)), int(height), int(width))

    @property
    def value_range(self) -> tuple[float, float] | None:
        return None if self.facts["latent"] else (-1.0, 1.0)

    @property
    def conditions(self) -> Conditions:
        network = self.architecture_of
        classes = _classes(network)
        return {"label": Condition.label(classes)} if classes else {}

    def configuration(self) -> Mapping[str, Any]:
        given = self.facts["scheduler"]
        if given is None:
            warnings.warn(
                f"no scheduler lies beside '{self.path}': the process of DDPM is assumed, N = 1000, β_i from 0.0001 to 0.02, "
                "and a network that predicts ε; say another with --set",
                stacklevel=2,
            )
        scheduler = {**DEFAULTS, **(given or {})}
        ends = {"beta_min": scheduler["beta_start"], "beta_max": scheduler["beta_end"]}
        noise: dict[str, Any] = {
            "linear": {"name": "linear", **ends},
            "scaled_linear": {"name": "scaled-linear", **ends},
            "squaredcos_cap_v2": {"name": "cosine"},
        }[scheduler["beta_schedule"]]
        return {
            "N": scheduler["num_train_timesteps"],
            "rotation": {"name": "identity"},
            "velocity": {
                "name": "blur",
                "noise": noise,
            },  # without a rotation that is DDPM; with one, a schedule is all it needs
            "objective": {"name": OBJECTIVES[scheduler["prediction_type"]]},
        }

    def build(self, event_shape: EventShape) -> nn.Module:
        return self.build_conditional(event_shape, {})

    def build_conditional(self, event_shape: EventShape, conditions: Conditions) -> nn.Module:
        network = self.architecture_of
        kind = str(network["_class_name"])
        self._check_events(event_shape, network)
        label = _label(self, conditions)
        own = _classes(network)
        network |= {"out_channels": event_shape[0] * (2 if _doubled(network) else 1)}
        network |= {"in_channels": self.in_channels(event_shape)}
        if kind == "UNet2DModel":
            network |= {"num_class_embeds": label.size + 1 if label else None, "class_embed_type": None}
        elif label:
            network |= {"num_embeds_ada_norm": label.size}
        cls = getattr(extra("diffusers", "model 'diffusers'", "model.name"), kind)
        settings = {key: value for key, value in network.items() if not key.startswith("_")}
        try:
            inner = cls.from_config(settings)
        except Exception as error:  # diffusers raises whatever a setting trips over
            raise ConfigError(
                f"diffusers makes no {kind} of '{self.path}': {reason(error)}", subject="model.path"
            ) from error
        if label and not own:
            with torch.no_grad():  # what the weights know nothing of begins without effect
                inner.class_embedding.weight.zero_()
        steps = {**DEFAULTS, **(self.facts["scheduler"] or {})}["num_train_timesteps"]
        return Wrapped(inner, event_shape[0], steps, next(iter(conditions), None))

    def attach(self, network: nn.Module, diffusion: Any) -> None:
        assert isinstance(network, Wrapped)
        network.stride.fill_((network.steps - 1) / (diffusion.N - 1))

    def weights(self, network: nn.Module) -> Mapping[str, Tensor]:
        assert isinstance(network, Wrapped)
        place = self.located
        if self.revision and not place.exists():
            place, _ = hub.fetched(str(self.path), self.revision, needed)
        folder, kind = place / self.facts["folder"], self.architecture_of["_class_name"]
        variant = weights_files(folder)
        cls = getattr(extra("diffusers", "model 'diffusers'", "model.name"), kind)
        try:
            with silent("diffusers"):
                inner, loading = cls.from_pretrained(
                    str(folder),
                    use_safetensors=True,
                    local_files_only=True,
                    low_cpu_mem_usage=False,
                    torch_dtype=torch.float32,
                    output_loading_info=True,
                    **({"variant": variant} if variant else {}),
                )
        except Exception as error:  # as above
            raise DataError(
                f"cannot read the weights in '{folder}': {reason(error)}",
                fix="restore them from a copy",
                subject="model.path",
            ) from error
        if missing := [*loading["missing_keys"], *loading["mismatched_keys"], *loading["unexpected_keys"]]:
            raise DataError(
                f"the weights in '{folder}' are not those of its {CONFIG}",
                details=[f"{len(missing)} tensors, such as {', '.join(map(str, missing[:3]))}"],
                fix="restore both from a copy",
                subject="model.path",
            )
        weights = {f"inner.{name}": tensor for name, tensor in inner.state_dict().items()}
        table = "inner.class_embedding.weight"
        own = network.state_dict().get(table)
        if own is not None and table in weights and len(own) == len(weights[table]) + 1:
            weights[table] = torch.cat([weights[table], weights[table].mean(0, keepdim=True)])
        return weights

    def stages_of(self, network: nn.Module) -> Sequence[nn.Module]:
        kinds = ("ResnetBlock2D", "Attention", "BasicTransformerBlock")
        stages: list[nn.Module] = []
        names: list[str] = []
        for name, module in network.named_modules():
            if type(module).__name__ in kinds and not any(name.startswith(f"{outer}.") for outer in names):
                stages.append(module)
                names.append(name)
        return stages

    def _check_events(self, event_shape: EventShape, network: Mapping[str, Any]) -> None:
        """Raise `ConfigError` where the network cannot read events of this shape, whatever its weights."""
        own = f"it was trained on {self.event_shape}" if self.event_shape else ""
        if len(event_shape) != 3:
            raise ConfigError(
                f"model 'diffusers' reads pictures (C, H, W), not events {event_shape}",
                details=[own],
                subject="model.name",
            )
        if network["_class_name"] == "UNet2DModel":
            factor = 2 ** (len(network.get("block_out_channels", (0,) * 4)) - 1)
            what = f"halves pictures to 1/{factor}"
        else:
            factor, what = int(network.get("patch_size", 2)), "cuts pictures into patches"
            if event_shape[1] != event_shape[2]:
                raise ConfigError(
                    f"the network of '{self.path}' reads square pictures, not of {event_shape[1]}x{event_shape[2]}",
                    details=[own],
                    fix="change the size of the data",
                    subject="data.size",
                )
        if any(side % factor for side in event_shape[1:]):
            raise ConfigError(
                f"the network of '{self.path}' {what}, and {event_shape[1]}x{event_shape[2]} are no multiples of {factor}",
                details=[own],
                fix="change the size of the data",
                subject="data.size",
            )
        if self.event_shape and self.event_shape[1:] != event_shape[1:]:
            sizes = ["x".join(map(str, shape[1:])) for shape in (self.event_shape, event_shape)]
            warnings.warn(
                f"the network of '{self.path}' was trained on pictures of {sizes[0]}, not of {sizes[1]}", stacklevel=3
            )


class Wrapped(nn.Module):
    """A network of diffusers that maps ``(x, i)``, and the condition where it takes one.

    Args:
        inner: the network.
        channels: of an event; what it says besides, a variance, is left out.
        steps: of the process that its t = 0..steps-1 are of.
        label: the name of the condition that it is told.

    """

    stride: Tensor

    def __init__(self, inner: nn.Module, channels: int, steps: int, label: str | None) -> None:
        super().__init__()
        self.inner = inner
        self.channels = channels
        self.steps = steps
        self.label = label
        self.register_buffer("stride", torch.ones(()), persistent=False)

    def forward(self, x: Tensor, i: Tensor, condition: Given | None = None) -> Tensor:
        """The output ``(B, C, H, W)`` for ``x`` and steps ``i``."""
        t = (i - 1) * self.stride
        labels = condition[self.label] if condition and self.label else self._absent(x)
        output: Tensor = self.inner(x, t, class_labels=labels, return_dict=False)[0]
        return output[:, : self.channels]

    def _absent(self, x: Tensor) -> Tensor | None:
        """The class that stands for none, where the network is asked without; None where it knows no classes."""
        config: Any = self.inner.config
        if "num_embeds_ada_norm" in config:
            count = int(config["num_embeds_ada_norm"])
        elif config.get("num_class_embeds"):
            count = int(config["num_class_embeds"]) - 1
        else:
            return None
        return torch.full((x.shape[0],), count, device=x.device)


def weights_files(folder: Path) -> str:
    """The variant of the weights in a folder, such as ``fp16``; empty for those without one.

    Raises `DataError` where it holds no safetensors that are regular files.
    """
    files = {file: match for file in _children(folder) if (match := WEIGHTS.fullmatch(file.name))}
    for file in files:
        try:
            with reading.opened(file, MOST_WEIGHTS):
                pass
        except (OSError, ValueError) as error:
            raise reading.unreadable(file, error) from error
    if not files:
        pickles = sorted(file.name for file in _children(folder) if file.suffix in (".bin", ".pt", ".ckpt", ".pkl"))
        raise DataError(
            f"there are no safetensors in '{folder}'",
            details=[f"{pickles[0]}: {OBJECTS}" if pickles else "weights are diffusion_pytorch_model.safetensors"],
            fix="if you trust its source, write it anew with diffusers: "
            "UNet2DModel.from_pretrained(DIR).save_pretrained(NEW)"
            if pickles
            else "download the folder whole",
            subject="model.path",
        )
    variants = {match["variant"] or "" for match in files.values()}
    return "" if "" in variants else min(variants)


def needed(names: Sequence[str]) -> list[str]:
    """Of the files of a repository those that `Diffusers` reads: JSON, and the safetensors of one network, of one variant.

    Raises `DataError` where it has no such network, or none in safetensors.
    """
    part = next((part for part in PARTS if f"{part}{CONFIG}" in names), None)
    if part is None:
        raise DataError(
            "the repository holds no network of diffusers",
            details=[f"it has no {', '.join(f'{part}{CONFIG}' for part in PARTS)}; it has: {', '.join(names[:5])}"],
            subject="model.path",
        )
    own = [name.removeprefix(part) for name in names if name.startswith(part)]
    variants = {name: match["variant"] or "" for name in own if (match := WEIGHTS.fullmatch(name))}
    if not variants:
        raise DataError(
            "the repository has no weights in safetensors",
            details=[f"it has: {', '.join(own[:5])}", "a pickle is never read"],
            fix="where you trust its source, write it anew with diffusers, and give that folder",
            subject="model.path",
        )
    one = "" if "" in variants.values() else min(variants.values())
    weights = [name for name, variant in variants.items() if variant == one]
    listed = [f"{part}{name}" for name in [CONFIG, *weights, *(name for name in own if name.endswith(LISTING))]]
    return [*listed, *(name for name in (INDEX, SCHEDULER, f"scheduler/{SCHEDULER}") if name in names)]


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise reading.unreadable(folder, error) from error


def _part(path: Path) -> str:
    """The folder of the network in a pipeline; empty where it is a model alone."""
    for part in ("", *dict.fromkeys(NETWORKS.values())):
        if (path / part / CONFIG).is_file():
            return part
    also = ""
    if (path / INDEX).is_file():
        also = f"its {INDEX} is of a {reading.json_file(path / INDEX).get('_class_name')}"
    elif path.is_file():
        also = "it is a file"
    raise DataError(
        f"no network of diffusers lies in '{path}'",
        details=[also, f"allowed: a folder with {CONFIG}, or with {' or '.join(NETWORKS.values())}/{CONFIG}"],
        fix="give the folder that save_pretrained wrote",
        subject="model.path",
    )


def _check_network(network: Mapping[str, Any], folder: Path) -> None:
    kind = network.get("_class_name")
    flaw = ""
    if kind not in NETWORKS:
        flaw = f"it is a {kind}, and known are {', '.join(NETWORKS)}"
    elif "quantization_config" in network:
        flaw = "its weights are quantised"
    elif network.get("time_embedding_type", "positional") != "positional":
        flaw = f"its step is told as '{network['time_embedding_type']}', and only 'positional' is known"
    elif network.get("class_embed_type") is not None:
        flaw = f"its class is told as '{network['class_embed_type']}', and only a table of classes is known"
    elif kind == "UNet2DModel" and network.get("out_channels", 3) % max(int(network.get("in_channels", 3)), 1):
        flaw = f"it maps {network.get('in_channels', 3)} channels to {network['out_channels']}"
    if flaw:
        raise ConfigError(
            f"the network in '{folder}' cannot be taken: {flaw}",
            details=["it must map events and t, and a class at most, to events: no text, no tokens"],
            fix="wrap it in a module of your own: --model module:path=FILE:NAME",
            subject="model.path",
        )


def _check_scheduler(scheduler: Mapping[str, Any], file: Path) -> None:
    """Raise `ConfigError` for a process that cannot be expressed exactly."""
    kind, said = scheduler.get("_class_name"), {**DEFAULTS, **scheduler}
    flaw = ""
    if kind not in SCHEDULERS:
        flaw = f"{kind} is no chain of β_i; known are {', '.join(sorted(SCHEDULERS)[:6])}, ..."
    elif said.get("trained_betas") is not None:
        flaw = "its β_i are a list of their own (trained_betas)"
    elif said.get("rescale_betas_zero_snr"):
        flaw = "its β_i are rescaled to end without signal (rescale_betas_zero_snr), where β_N would be 1"
    elif said["beta_schedule"] not in NOISES:
        flaw = f"its β_i are '{said['beta_schedule']}', and known are {', '.join(NOISES)}"
    elif said["prediction_type"] not in OBJECTIVES:
        flaw = f"its network predicts '{said['prediction_type']}', and known are {', '.join(OBJECTIVES)}"
    if flaw:
        raise ConfigError(
            f"the process of '{file}' cannot be expressed exactly: {flaw}",
            fix="where it was trained otherwise, give the folder of the network alone, and say its process with --set",
            subject="model.path",
        )


def _doubled(network: Mapping[str, Any]) -> bool:
    """Whether the network predicts a variance too, in as many channels."""
    before, after = network.get("in_channels", 3), network.get("out_channels")
    return bool(after and before and after == 2 * int(before))


def _classes(network: Mapping[str, Any]) -> int:
    """How many classes it was told of; 0 where of none."""
    key = "num_class_embeds" if network["_class_name"] == "UNet2DModel" else "num_embeds_ada_norm"
    default = None if network["_class_name"] == "UNet2DModel" else 1000
    return int(network.get(key, default) or 0)


def _label(model: Diffusers, conditions: Conditions) -> Condition | None:
    if not conditions:
        return None
    label = next(iter(conditions.values()))
    if len(conditions) > 1 or label.type != "label":
        raise ConfigError(
            "a network of diffusers is told of one label",
            details=[f"it is to be told of {', '.join(f'{name} ({one.type})' for name, one in conditions.items())}"],
            fix="leave out the others, or choose a model that takes them, such as --model unet",
            subject="model.name",
        )
    return label
