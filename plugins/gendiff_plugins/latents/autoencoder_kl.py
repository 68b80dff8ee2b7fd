"""The autoencoder of latent diffusion, as diffusers keeps it.

The folder is data: JSON and safetensors are read, nothing of it is executed. diffusers itself is imported where something is
encoded or decoded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from gendiff.component import Component
from gendiff.errors import OBJECTS, ConfigError, DataError, reason
from gendiff.extra import extra, silent
from gendiff.features import exact_network
from gendiff.latent import Latent
from gendiff.plain import json_object, json_text
from gendiff.shapes import EventShape
from gendiff.storage import reading
from gendiff.streams import stream

CONFIG, PART = "config.json", "vae"
WEIGHTS = re.compile(r"diffusion_pytorch_model(?:-\d+-of-\d+)?\.safetensors")
MOST_WEIGHTS = 2**36  # bytes of a file
OF = "of"  # in what is kept of the folder: the path that it was read from
#: What a config.json leaves out.
DEFAULTS: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [64],
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}

Files = tuple[tuple[Path, int, int], ...]


class AutoencoderKL(Latent):
    """an AutoencoderKL of diffusers, from its folder.

    Of Rombach et al.: the posterior of a picture is normal, ``z ~ N(μ, σ²)``, and an event is ``(z - shift)/scale``, with what
    config.json says: ``scale = 1/scaling_factor``, times ``latents_std`` where there are any, and ``shift`` the shift_factor or
    latents_mean. An event is the mean of the posterior, or where ``sample`` is set a draw that its index decides: the same in
    each epoch.

    What the folder says is kept with a run, its weights are not: their SHA-256 is, and weights of another are refused.

    Raises `DataError` where the folder is not there, holds no safetensors, or has changed; `ConfigError` for pictures that it
    does not take; `PluginError` without the library.

    Reference: Rombach et al. 2022, arXiv 2112.10752.
    """

    name = "diffusers"

    path: Path = Field(description="a folder that save_pretrained wrote, of a pipeline or of its vae (~ is your home)")
    sample: bool = Field(
        False, description="draw from the posterior, by the index of the event, and do not take its mean"
    )
    architecture: str = Field("", description="what it is, as JSON: read at the path, and kept with a run")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        # What was kept is that of its path alone: a layer may have given another path since.
        if not isinstance(value, Mapping) or not isinstance(path := value.get("path"), str | Path) or path == "":
            return value
        try:
            kept = json_object(value.get("architecture") or "{}").get(OF)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"latent '{cls.name}': its architecture is no JSON", fix="leave it out", subject="latent.architecture"
            ) from error
        if kept == str(path):
            return value
        if not str(path).startswith("~"):  # a run is sampled from any folder
            path = Path(path).absolute()
        return {**value, "path": str(path), "architecture": json_text({OF: str(path), **_described(path)})}

    @property
    def spec(self) -> str:
        return Component.spec.fget(self.model_copy(update={"architecture": ""}))  # type: ignore[attr-defined,no-any-return]  # a property

    @property
    def facts(self) -> dict[str, Any]:
        """What the folder said, and the SHA-256 of its weights."""
        return {**DEFAULTS, **json_object(self.architecture)}

    @property
    def factor(self) -> int:
        """How many times smaller latents are than pictures, on each side."""
        return int(2 ** (len(self.facts["block_out_channels"]) - 1))

    def latent_shape(self, picture: EventShape) -> EventShape:
        channels, factor = self.facts["in_channels"], self.factor
        if len(picture) != 3 or picture[0] != channels:
            raise ConfigError(
                f"latent 'diffusers' cannot encode events {tuple(picture)}",
                details=[f"the autoencoder of '{self.path}' reads pictures ({channels}, H, W)"],
                fix="choose such data; of files of pictures, --set data.channels says how many",
                subject="data.channels",
            )
        if any(side % factor for side in picture[1:]):
            raise ConfigError(
                f"latent 'diffusers' cannot encode pictures of {picture[1]}x{picture[2]}",
                details=[f"the autoencoder of '{self.path}' makes them {factor} times smaller"],
                fix=f"choose multiples of {factor}",
                subject="data.size",
            )
        return (self.facts["latent_channels"], picture[1] // factor, picture[2] // factor)

    def picture_shape(self, event: EventShape) -> EventShape:
        channels = self.facts["latent_channels"]
        if len(event) != 3 or event[0] != channels:
            raise ConfigError(
                f"latent 'diffusers' cannot decode events {tuple(event)}",
                details=[f"the latents of '{self.path}' are ({channels}, H, W)"],
                subject="latent.path",
            )
        return (self.facts["out_channels"], event[1] * self.factor, event[2] * self.factor)

    def encode(self, pictures: Tensor, indices: Sequence[int] | None = None) -> Tensor:
        shape = self.latent_shape(tuple(pictures.shape[1:]))
        network, rows = self._network(pictures.device), []
        shift, scale = self._affine(pictures.device)
        with exact_network(pictures.device):
            for k, picture in enumerate(pictures.float().split(1)):  # the last bits depend on the size of a batch
                posterior = network.encode(picture).latent_dist  # type: ignore[operator]  # of an AutoencoderKL
                z = posterior.mean
                if self.sample and indices is not None:
                    noise = torch.randn(1, *shape, generator=stream(0, "posterior", indices[k]))
                    z = z + posterior.std * noise.to(z.device)
                rows.append((z - shift) * scale)
        return torch.cat(rows) if rows else pictures.new_empty(0, *shape)

    def decode(self, events: Tensor) -> Tensor:
        shape = self.picture_shape(tuple(events.shape[1:]))
        network = self._network(events.device)
        shift, scale = self._affine(events.device)
        with exact_network(events.device):
            parts = events.float().split(1)
            rows = [network.decode(event / scale + shift).sample for event in parts]  # type: ignore[operator]  # as above
        return torch.cat(rows) if rows else events.new_empty(0, *shape)

    @property
    def fingerprint(self) -> str:
        facts = {key: value for key, value in sorted(self.facts.items()) if key != OF}
        digest = hashlib.sha256(json_text(facts).encode()).hexdigest()[:16]
        return f"autoencoder-kl/1 {digest}{' sampled' if self.sample else ''}"

    def _affine(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Shift and factor of an event, ``(1, C or 1, 1, 1)``: event = (z - shift) factor."""
        said = self.facts
        whole = said["latents_mean"] is not None and said["latents_std"] is not None
        shift = said["latents_mean"] if whole else [said["shift_factor"] or 0.0]
        std = said["latents_std"] if whole else [1.0]
        column = (1, -1, 1, 1)
        return (
            torch.tensor(shift, dtype=torch.float32, device=device).reshape(column),
            said["scaling_factor"] / torch.tensor(std, dtype=torch.float32, device=device).reshape(column),
        )

    def _network(self, device: torch.device) -> nn.Module:
        try:
            folder = _folder(self.path)
            files = _weights(folder)
            same = _sha256(files) == self.facts["sha256"] and _config(folder) == self._config
        except DataError as error:
            raise DataError(
                error.what,
                where=error.where,
                details=[*error.details, "without it latents are neither made nor seen as pictures"],
                fix=f"bring it back to {self.path}; a link is enough",
            ) from error
        if not same:
            raise DataError(
                f"the autoencoder in '{folder}' is another than it was",
                details=[
                    f"its weights, of the SHA-256 {self.facts['sha256'][:16]}..., or its {CONFIG} are no longer the same"
                ],
                fix="restore it from a copy",
                subject="latent.path",
            )
        return _loaded(folder, files, device)

    @property
    def _config(self) -> dict[str, Any]:
        return {key: value for key, value in json_object(self.architecture).items() if key not in (OF, "sha256")}


def _described(path: str | Path) -> dict[str, Any]:
    """What is kept of the folder at ``path``."""
    folder = _folder(Path(path))
    return {**_config(folder), "sha256": _sha256(_weights(folder))}


def _folder(path: Path) -> Path:
    """Where the autoencoder lies: a folder itself, or its part of a pipeline."""
    try:
        place = path.expanduser()
    except RuntimeError as error:
        raise DataError(f"no home folder for '{path}'", subject="latent.path", fix="write the whole path") from error
    for folder in (place / PART, place):
        if (folder / CONFIG).is_file():
            return folder
    raise DataError(
        f"no autoencoder lies in '{path}'" if place.exists() else f"there is no '{path}'",
        details=[f"allowed: a folder with {CONFIG}, or with {PART}/{CONFIG}"],
        fix="give the folder that save_pretrained wrote; one of the Hub is downloaded first: hf download NAME --local-dir DIR",
        subject="latent.path",
    )


def _config(folder: Path) -> dict[str, Any]:
    """What config.json says of an AutoencoderKL, not the version of the library; raises `ConfigError` for others."""
    table = reading.json_file(folder / CONFIG)
    kind = table.get("_class_name")
    config = {key: value for key, value in table.items() if not key.startswith("_")}
    said = {**DEFAULTS, **config}
    flaw = "" if kind == "AutoencoderKL" else f"it is a {kind!s:.40}, and known is AutoencoderKL"
    for key in ("in_channels", "out_channels", "latent_channels"):
        if type(said[key]) is not int or not 0 < said[key] < 2**16:
            flaw = flaw or f"its {key} is {said[key]!r:.40}"
    blocks, scale = said["block_out_channels"], said["scaling_factor"]
    if not isinstance(blocks, list) or not 0 < len(blocks) < 16:
        flaw = flaw or f"its block_out_channels are {blocks!r:.40}"
    if type(scale) not in (int, float) or not 0 < scale < 1e6:
        flaw = flaw or f"its scaling_factor is {scale!r:.40}"
    if said["in_channels"] != said["out_channels"]:
        flaw = flaw or f"it makes pictures of {said['out_channels']} channels of those of {said['in_channels']}"
    if flaw:
        raise ConfigError(f"the autoencoder in '{folder}' cannot be taken: {flaw}", subject="latent.path")
    return config


def _weights(folder: Path) -> Files:
    """The files of weights as they are now; raises `DataError` where there are no safetensors that are regular files."""
    try:
        files = sorted(file for file in folder.iterdir() if WEIGHTS.fullmatch(file.name))
        pickles = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".ckpt", ".pkl"))
        for file in files:
            with reading.opened(file, MOST_WEIGHTS):
                pass
    except (OSError, ValueError) as error:
        raise reading.unreadable(folder, error) from error
    if not files:
        raise DataError(
            f"there are no safetensors in '{folder}'",
            details=[f"{pickles[0]}: {OBJECTS}" if pickles else "weights are diffusion_pytorch_model.safetensors"],
            fix="if you trust its source, write it anew with diffusers: "
            "AutoencoderKL.from_pretrained(DIR).save_pretrained(NEW)"
            if pickles
            else "download the folder whole",
            subject="latent.path",
        )
    return tuple((file, (status := file.stat()).st_size, status.st_mtime_ns) for file in files)


@lru_cache(maxsize=8)
def _sha256(files: Files) -> str:
    digest = hashlib.sha256()
    for file, size, _ in files:
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


@lru_cache(maxsize=2)
def _loaded(folder: Path, files: Files, device: torch.device) -> nn.Module:
    """The network with its weights; of other files, or other times of theirs, another."""
    cls = extra("diffusers", "latent 'diffusers'", "latent.name").AutoencoderKL
    try:
        # Layers draw their first weights, and what is first used while sampling may later meet autograd.
        with silent("diffusers"), torch.random.fork_rng(devices=[]), torch.inference_mode(False):
            network, loading = cls.from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # diffusers raises whatever it trips over
        raise DataError(
            f"cannot read the autoencoder in '{folder}': {reason(error)}",
            fix="restore it from a copy",
            subject="latent.path",
        ) from error
    if missing := [*loading["missing_keys"], *loading["mismatched_keys"], *loading["unexpected_keys"]]:
        raise DataError(
            f"the weights in '{folder}' are not those of its {CONFIG}",
            details=[f"{len(missing)} tensors, such as {', '.join(map(str, missing[:3]))}"],
            fix="restore both from a copy",
            subject="latent.path",
        )
    network.eval().requires_grad_(False)
    return network.to(device)  # type: ignore[no-any-return]  # a module
