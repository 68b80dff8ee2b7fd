"""The network of the Fréchet Inception distance."""

from __future__ import annotations

import hashlib
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor

from gendiff.errors import OBJECTS, ConfigError, DataError, reason
from gendiff.features import Features, exact_network

if TYPE_CHECKING:
    from torch import nn

FILE = "pt_inception-2015-12-05-6726825d.pth"
PUBLISHED = "6726825d0af5f729"  # the SHA-256 of the published file begins so
VARIABLE = "GENDIFF_FID_WEIGHTS"
MOST_BYTES = 2**30  # of the file; the published one has 95 million
BATCH = 32  # pictures of 299 x 299 at once
_building = threading.Lock()


class Inception(Features):
    """what the Inception network of FID sees, 2048 numbers.

    The last average pool of the Inception network of Heusel et al., as pytorch-fid holds it: pictures (grey becomes RGB) of
    [-1, 1], cut off there, are resized to 299 x 299 without antialiasing, as in the original. Only with the published weights is
    the distance called FID; with others it is ``fd-inception``.

    The weights are looked for at ``weights``, then where the environment variable GENDIFF_FID_WEIGHTS says, then as
    ``$TORCH_HOME/hub/checkpoints/pt_inception-2015-12-05-6726825d.pth``, where they are downloaded to if need be. Raises
    `DataError` where they cannot be had or read, `ConfigError` for events that are not pictures of one or three channels.

    References: Heusel et al. 2017, arXiv 1706.08500; Seitzer 2020, pytorch-fid.
    """

    name = "inception"

    weights: Path | None = Field(None, description="file of the weights; ~ is your home")

    def extract(self, events: Tensor) -> Tensor:
        if events.ndim != 4 or events.shape[1] not in (1, 3):
            raise ConfigError(
                f"features 'inception' cannot take events of shape {tuple(events.shape[1:])}",
                details=["it takes pictures of one or three channels"],
                fix="choose other features, such as random-conv",
            )
        network = _network(*_identity(self._file()), events.device)
        x = ((events.float() + 1) / 2).clamp(0, 1)
        x = x.expand(-1, 3, -1, -1)
        with exact_network(x.device):
            return torch.cat([network(part)[0].flatten(1) for part in x.split(BATCH)])

    @property
    def fingerprint(self) -> str:
        return f"inception/1 {_sha256(*_identity(self._file()))[:16]}"

    @property
    def distance_name(self) -> str:
        return "fid" if self.fingerprint.endswith(PUBLISHED) else super().distance_name

    def files(self) -> tuple[Path, ...]:
        return (self._place()[0],)

    def _file(self) -> Path:
        """The file of the weights, downloaded if need be."""
        path, where = self._place()
        if not path.is_file():
            if where:
                raise _missing(path, [f"{where} says that they are there"])
            _download(path)
        return path

    def _place(self) -> tuple[Path, str]:
        """Where the weights are looked for, and who says so; nobody where it is the common folder of torch."""
        for given, where in ((self.weights, "the parameter weights"), (os.environ.get(VARIABLE), VARIABLE)):
            if given:
                return Path(given).expanduser(), where
        return Path(torch.hub.get_dir()) / "checkpoints" / FILE, ""


def _download(path: Path) -> None:
    from pytorch_fid.inception import FID_WEIGHTS_URL

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(FID_WEIGHTS_URL, str(path), hash_prefix=PUBLISHED)
    except Exception as error:  # no network, a proxy, a full disk, another file than was published
        raise _missing(path, ["the download failed", reason(error)]) from error


def _missing(path: Path, details: list[str]) -> DataError:
    return DataError(
        f"the Inception weights are not there: {path}",
        details=details,
        fix=f"put {FILE} of pytorch-fid there, or say where it is: --fid-weights PATH, inception:weights=PATH or "
        f"{VARIABLE}=PATH; features that need no file: --features random-conv",
    )


def _identity(path: Path) -> tuple[Path, int, int]:
    """The file as it is now: what is cached for it is no longer good for another."""
    status = path.stat()
    if status.st_size > MOST_BYTES:
        raise DataError(
            f"'{path}' holds no Inception weights: it has {status.st_size:,} bytes", fix=f"put {FILE} there"
        )
    return path, status.st_size, status.st_mtime_ns


@lru_cache(maxsize=8)
def _sha256(path: Path, size: int, mtime: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=2)
def _network(path: Path, size: int, mtime: int, device: torch.device) -> nn.Module:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = _built(state)
    except Exception as error:  # torch.load and load_state_dict raise whatever they trip over
        raise DataError(
            "cannot read the Inception weights",
            where=str(path),
            details=[_flaw(error)],
            fix=f"replace the file by {FILE} of pytorch-fid",
        ) from error
    return network.to(device)


def _flaw(error: Exception) -> str:
    """What is wrong with the file; what torch says of one that is no file of its own is of no use to anybody."""
    message = reason(error)
    if message.startswith(OBJECTS) or not isinstance(error, RuntimeError):
        return OBJECTS if message.startswith(OBJECTS) else "it is no file of tensors"
    return f"it holds other tensors: {message[:200]}"


def _built(state: dict[str, Any]) -> nn.Module:
    """pytorch-fid's own network, with these weights where it would download its own."""
    from pytorch_fid import inception

    with _building, torch.random.fork_rng(devices=[]), torch.inference_mode(False):  # layers draw their first weights
        loader = inception.load_state_dict_from_url
        inception.load_state_dict_from_url = lambda *_, **__: state
        try:
            network: nn.Module = inception.InceptionV3().eval()
        finally:
            inception.load_state_dict_from_url = loader
    return network
