"""Cache: tensors that can be computed again, kept in a folder of the user.

Each file is named after the SHA-256 of its key, and holds the SHA-256 of all that follows, so that a damaged or half-written one
is found out and is as good as absent. Files are written aside and renamed: any number of processes may share a folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from gendiff.storage.files import put
from gendiff.storage.reading import hollow, opened

VARIABLE = "GENDIFF_CACHE"
MOST_BYTES = 2**34  # of one file: rows of a million events
LENGTH = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Cache:
    """A folder; it need not exist."""

    folder: Path

    @classmethod
    def of_user(cls) -> Cache:
        """``$GENDIFF_CACHE``, or ``gendiff`` in ``$XDG_CACHE_HOME``, or ``~/.cache/gendiff``."""
        if own := os.environ.get(VARIABLE):
            return cls(Path(own).expanduser())
        root = os.environ.get("XDG_CACHE_HOME")
        return cls((Path(root) if root else Path.home() / ".cache") / "gendiff")

    def read(self, key: str) -> dict[str, Tensor] | None:
        """What was written under the key; None where nothing was, or where it is damaged."""
        try:
            with opened(self._file(key), MOST_BYTES) as file:
                if hollow(file, os.fstat(file.fileno()).st_size):
                    return None
                content = file.read()
            if hashlib.sha256(content[LENGTH:]).digest() != content[:LENGTH]:
                return None
            return safetensors.torch.load(content[LENGTH:])
        except (OSError, SafetensorError, ValueError):
            return None

    def write(self, key: str, tensors: Mapping[str, Tensor]) -> bool:
        """Keep tensors under the key; returns whether that worked: a full disk is no reason to stop."""
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
        file = self._file(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            put(file, hashlib.sha256(content).digest() + content)
        except OSError:
            return False
        return True

    def _file(self, key: str) -> Path:
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.cached"
