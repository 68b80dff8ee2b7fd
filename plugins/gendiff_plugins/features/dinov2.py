"""What DINOv2 sees: a vision transformer trained without labels, from weights as transformers keeps them.

The architecture is written out here, in less than a hundred lines, rather than imported: transformers is a library of a hundred
megabytes, its names change between versions, and nothing else of it is needed. Its features are those of
``Dinov2Model(...).pooler_output`` to rounding, which a test compares where the library is there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # as everybody calls it

from gendiff.errors import OBJECTS, ConfigError, DataError, reason
from gendiff.features import Features, exact_network
from gendiff.storage import reading

CONFIG, WEIGHTS = "config.json", "model.safetensors"
MOST_WEIGHTS = 2**34  # bytes of a file; those of the largest, ViT-g/14, have 4.6 billion
BATCH = 16  # pictures of 224 x 224 at once
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in 0..1
#: What a config.json leaves out.
DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}
#: The names of weights since version 5 of transformers, by those that published files have.
NEWER = (
    (r"attention\.attention\.(query|key|value)\.", lambda m: f"attention.{m[1][0]}_proj."),
    (r"attention\.output\.dense\.", lambda m: "attention.o_proj."),
    (r"mlp\.weights_out\.", lambda m: "mlp.down_proj."),
)


class Dinov2(Features):
    """what DINOv2 sees, the CLS token of a vision transformer.

    As Stein et al. take it for their Fréchet distance: pictures of [-1, 1], cut off there, grey ones as RGB, are resized to
    ``size`` on both sides (bicubic, antialiased), normalised by mean and deviation of ImageNet, and seen as the CLS token
    after the last layer norm: 1024 numbers of ViT-L/14, the network of that paper (facebook/dinov2-large), 384 of ViT-S/14.
    Position embeddings are interpolated to ``size`` as transformers does.

    Raises `DataError` where the folder holds no such weights, `ConfigError` for events that are not pictures of one or three
    channels.

    References: Stein et al. 2023, arXiv 2306.04675; Oquab et al. 2023, arXiv 2304.07193.
    """

    name = "dinov2"

    path: Path = Field(description="a folder with config.json and model.safetensors of transformers; ~ is your home")
    size: int = Field(224, ge=1, le=2048, description="height and width of what it sees, a multiple of its patches")

    def extract(self, events: Tensor) -> Tensor:
        if events.ndim != 4 or events.shape[1] not in (1, 3):
            raise ConfigError(
                f"features 'dinov2' cannot take events of shape {tuple(events.shape[1:])}",
                details=["it takes pictures of one or three channels"],
                fix="choose other features, such as random-conv",
            )
        network = _network(*self._identity(), events.device)
        if self.size % network.patch:
            raise ConfigError(
                f"features 'dinov2': a size of {self.size} is no multiple of the patches of {network.patch}",
                fix=f"choose one, such as {max(self.size // network.patch, 1) * network.patch}",
                subject="features.size",
            )
        mean, std = (torch.tensor(v, device=events.device).reshape(3, 1, 1) for v in (MEAN, STD))
        rows = []
        with exact_network(events.device):
            for part in events.split(BATCH):
                x = (part.float() + 1).div(2).clamp(0, 1).expand(-1, 3, -1, -1)
                if x.shape[2:] != (self.size, self.size):
                    x = F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
                rows.append(network((x - mean) / std))
        return torch.cat(rows)

    @property
    def fingerprint(self) -> str:
        return f"dinov2/1 cls bicubic {self.size} {_sha256(*self._identity())[:16]}"

    def files(self) -> tuple[Path, ...]:
        return self._file(CONFIG), self._file(WEIGHTS)

    def _file(self, name: str) -> Path:
        return self.path.expanduser() / name

    def _identity(self) -> tuple[Path, tuple[int, ...]]:
        """The folder, and its files as they are now: what is cached for them is no longer good for others."""
        marks = list[int]()
        for file in self.files():
            try:
                with reading.opened(file, MOST_WEIGHTS):
                    status = file.stat()
            except FileNotFoundError as error:
                raise self._missing(file) from error
            except (OSError, ValueError) as error:
                raise reading.unreadable(file, error) from error
            marks += [status.st_size, status.st_mtime_ns]
        return self.path.expanduser(), tuple(marks)

    def _missing(self, file: Path) -> DataError:
        pickle = file.name == WEIGHTS and (file.parent / "pytorch_model.bin").exists()
        return DataError(
            f"the DINOv2 weights are not there: {file}",
            details=[f"pytorch_model.bin: {OBJECTS}" if pickle else f"allowed: a folder with {CONFIG} and {WEIGHTS}"],
            fix="if you trust its source, write it anew with transformers: save_pretrained(NEW)"
            if pickle
            else "download it: hf download facebook/dinov2-large --local-dir DIR; features that need no file: "
            "--features random-conv",
            subject="features.path",
        )


class _Layer(nn.Module):
    """Attention and feed-forward network, each with a learned scale on its way back into the residual stream."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__()
        width, hidden = said["hidden_size"], int(said["hidden_size"] * said["mlp_ratio"])
        self.heads = said["num_attention_heads"]
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=said["layer_norm_eps"]) for _ in range(2))
        self.attention = nn.ModuleDict(
            {f"{one}_proj": nn.Linear(width, width, bias=said["qkv_bias"] or one == "o") for one in "qkvo"}
        )
        self.layer_scale1, self.layer_scale2 = (
            nn.ParameterDict({"lambda1": nn.Parameter(torch.ones(width))}) for _ in range(2)
        )
        self.gated = said["use_swiglu_ffn"]
        if self.gated:
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
            self.mlp = nn.ModuleDict(
                {
                    "gate_proj": nn.Linear(width, hidden),
                    "up_proj": nn.Linear(width, hidden),
                    "down_proj": nn.Linear(hidden, width),
                }
            )
        else:
            self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        q, k, v = (
            self.attention[f"{one}_proj"](h).unflatten(-1, (self.heads, -1)).transpose(1, 2) for one in ("q", "k", "v")
        )
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.layer_scale1["lambda1"] * self.attention["o_proj"](h)
        h = self.norm2(x)
        if self.gated:
            h = self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h))
        else:
            h = self.mlp["fc2"](F.gelu(self.mlp["fc1"](h)))
        out: Tensor = x + self.layer_scale2["lambda1"] * h
        return out


class _Transformer(nn.Module):
    """``(n, 3, H, W)`` to the CLS token, ``(n, width)``."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__()
        width = said["hidden_size"]
        self.patch, self.side = said["patch_size"], said["image_size"] // said["patch_size"]
        self.embeddings = nn.ParameterDict(
            {
                "cls_token": nn.Parameter(torch.zeros(1, 1, width)),
                "position_embeddings": nn.Parameter(torch.zeros(1, self.side**2 + 1, width)),
            }
        )
        self.projection = nn.Conv2d(3, width, self.patch, self.patch)
        self.layer = nn.ModuleList(_Layer(said) for _ in range(said["num_hidden_layers"]))
        self.layernorm = nn.LayerNorm(width, eps=said["layer_norm_eps"])

    def forward(self, x: Tensor) -> Tensor:
        h = self.projection(x)
        positions = self.embeddings["position_embeddings"]
        if h.shape[2:] != (self.side, self.side):
            grid = positions[:, 1:].unflatten(1, (self.side, self.side)).permute(0, 3, 1, 2)
            grid = F.interpolate(grid, tuple(h.shape[2:]), mode="bicubic", align_corners=False)
            positions = torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], 1)
        cls = self.embeddings["cls_token"].expand(len(h), -1, -1)
        h = torch.cat([cls, h.flatten(2).transpose(1, 2)], 1) + positions
        for layer in self.layer:
            h = layer(h)
        token: Tensor = self.layernorm(h)[:, 0]
        return token


@lru_cache(maxsize=8)
def _sha256(folder: Path, marks: tuple[int, ...]) -> str:
    digest = hashlib.sha256(repr(sorted(_said(folder).items())).encode())
    with (folder / WEIGHTS).open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@lru_cache(maxsize=2)
def _network(folder: Path, marks: tuple[int, ...], device: torch.device) -> _Transformer:
    said = _said(folder)
    try:
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False):  # layers draw their first weights
            network = _Transformer(said).eval().requires_grad_(False)
            weights = _renamed(safetensors.torch.load_file(folder / WEIGHTS))
            network.load_state_dict({name: value.float() for name, value in weights.items()})
    except Exception as error:  # whatever a file trips over
        raise DataError(
            "cannot read the DINOv2 weights",
            where=str(folder / WEIGHTS),
            details=[f"they are not those of {CONFIG}: {reason(error)}"[:300]],
            fix="restore both from a copy",
            subject="features.path",
        ) from error
    return network.to(device)


def _said(folder: Path) -> dict[str, Any]:
    """What config.json says, of a network that is known exactly; raises `ConfigError` for others."""
    table = reading.json_file(folder / CONFIG)
    said = {key: table.get(key, value) for key, value in DEFAULTS.items()}
    flaw = "" if table.get("model_type") == "dinov2" else f"it is of type {table.get('model_type')!r:.40}, not 'dinov2'"
    for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size", "mlp_ratio"):
        if type(said[key]) is not int or not 0 < said[key] <= 2**14:
            flaw = flaw or f"its {key} is {said[key]!r:.40}"
    if not flaw and said["hidden_size"] % said["num_attention_heads"]:
        flaw = f"{said['num_attention_heads']} heads do not share a width of {said['hidden_size']}"
    for key, known in (("hidden_act", "gelu"), ("num_channels", 3)):
        flaw = flaw or ("" if said[key] == known else f"its {key} is {said[key]!r:.40}, and known is {known!r}")
    if flaw:
        raise ConfigError(f"the network in '{folder}' cannot be taken: {flaw}", subject="features.path")
    return said


def _renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights by their names here; what a classifier adds, and the token of pretraining, are left out."""
    result = dict[str, Tensor]()
    for name, value in weights.items():
        name = name.removeprefix("dinov2.").removeprefix("encoder.")
        if name == "embeddings.mask_token" or name.startswith("classifier."):
            continue
        name = name.replace("embeddings.patch_embeddings.projection.", "projection.")
        for pattern, newer in NEWER:
            name = re.sub(pattern, newer, name)
        if ".mlp.weights_in." in name:
            for part, half in zip(("gate_proj", "up_proj"), value.chunk(2), strict=True):
                result[name.replace("weights_in", part)] = half
        else:
            result[name] = value
    return result
