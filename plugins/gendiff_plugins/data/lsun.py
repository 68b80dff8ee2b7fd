"""The pictures of LSUN."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from gendiff.datasets.images import ImageData, Mark, located, mark, missing, opened_bytes, reason
from gendiff.errors import ConfigError, DataError, printable
from gendiff.extra import extra
from gendiff.shapes import EventShape

ALLOWED = "the folder with data.mdb that an archive of LSUN unpacks to, such as church_outdoor_train_lmdb"
FIX = "unpack the archive again, or download it from https://www.yf.io/p/lsun"
PROBE = Path(__file__).with_name("lsun_probe.py")
MOST_BYTES = 2**26  # of one picture; those of LSUN have about 2^14
SAMPLED = 256  # pictures whose content is part of the fingerprint


@dataclass(frozen=True)
class Keys:
    """All keys in order, one after another, with the end of each; and a digest of the database."""

    content: bytes
    ends: np.ndarray
    digest: str

    def __getitem__(self, index: int) -> bytes:
        return self.content[self.ends[index - 1] if index else 0 : self.ends[index]]


class Lsun(ImageData):
    """the pictures of an LSUN category, from its LMDB database, resized to one size.

    The database maps a key to the bytes of a JPEG or WebP file, and the order is that of the keys. A picture becomes an event by
    the rules of the data ``folder``: by default the whole picture is squeezed to ``size``, and ``crop=center`` keeps its
    proportions.

    At first use another process walks over the database once, because a damaged one can end the process that reads it; that
    takes some seconds per million pictures. After that each process opens the database for itself. Nothing is written. The
    fingerprint covers all keys, the sizes of all pictures, and the content of 256 of them.

    Raises `DataError` naming the damaged database or picture, `ConfigError` without the library lmdb, `IndexError` outside
    0..length-1.

    Source: F. Yu et al. 2015, LSUN, arXiv:1506.03365.
    """

    name = "lsun"

    path: Path = Field(description="the folder with data.mdb; ~ is your home")

    @property
    def event_shape(self) -> EventShape:
        _ = self._keys  # a missing database is reported here, before a model of this shape is built
        return (self.channels, *self._height_width)

    @property
    def length(self) -> int:
        return len(self._keys.ends)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"picture {index} of {self.length}")
        key = self._keys[index]
        try:
            with _environment(self._root).begin() as transaction:
                content = transaction.get(key)
            if content is None:
                raise ValueError("it is no longer in the database")
            with opened_bytes(content) as image:
                return self._event(image)
        except ConfigError:
            raise
        except Exception as error:
            what = f"cannot read the picture '{self.origin(index)}', number {index}"
            raise DataError(what, where=str(self._root), details=[reason(error)], fix=FIX) from error

    @property
    def fingerprint(self) -> str:
        text = f"{self.channels} {self._height_width} {self.crop} {self._keys.digest}"
        return f"lsun/1 {self.length} pictures {hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def origin(self, index: int) -> str:
        return printable(self._keys[index].decode("utf-8", "backslashreplace"))

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        folder = path.parent if path.name == "data.mdb" else path
        return {"path": folder} if (folder / "data.mdb").is_file() else None

    @cached_property
    def _keys(self) -> Keys:
        root = located(self.path)
        _library()
        if root.is_file():
            fix = f"give the folder that holds it, {root.parent}"
            raise DataError(f"'{root}' is a file", subject="data.path", details=[f"allowed: {ALLOWED}"], fix=fix)
        if not (root / "data.mdb").exists():
            raise missing(root / "data.mdb" if root.is_dir() else root, ALLOWED)
        try:
            if mark(root / "data.mdb")[2] == 0:
                raise ValueError("data.mdb is empty (0 bytes)")
            keys = _probed(root)
            if not len(keys.ends):
                raise ValueError("it holds no pictures")
            return keys
        except (OSError, ValueError) as error:
            what = f"cannot read the LMDB database '{root.name}'"
            raise DataError(what, where=str(root), details=[reason(error)], fix=FIX) from error


def _library() -> Any:
    otherwise = "unpack the pictures and use the data folder"
    return extra("lmdb", "data 'lsun'", "data.name", "lsun", otherwise, ConfigError)


def _probed(root: Path) -> Keys:
    """What another process found in the database; raises `ValueError` where it is damaged, even if that process was ended."""
    process = subprocess.run(
        [sys.executable, "-P", str(PROBE), str(root.absolute()), str(MOST_BYTES), str(SAMPLED)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
    )
    if process.returncode < 0:
        raise ValueError(f"it is damaged: to read it ended the process with {signal.Signals(-process.returncode).name}")
    if process.returncode > 0:
        raise ValueError(f"no answer: {process.stderr.decode(errors='replace').strip().rpartition(chr(10))[2]}")
    head, _, rest = process.stdout.partition(b"\n")
    answer = json.loads(head)
    if "error" in answer:
        raise ValueError(answer["error"])
    n = answer["entries"]
    return Keys(rest[8 * n : 8 * n + answer["bytes"]], np.frombuffer(rest[: 8 * n], "<i8"), answer["digest"])


_open: dict[
    Path, tuple[int, Mark, Any]
] = {}  # by folder: the process that opened it, what the file was, and the database


def _environment(root: Path) -> Any:
    """The database, opened once per process: lmdb allows neither to open it twice nor to go on after a fork."""
    folder = root.resolve()
    now = os.getpid(), mark(folder / "data.mdb")
    if folder in _open:
        *then, environment = _open[folder]
        if tuple(then) == now:
            return environment
        del _open[folder]
        environment.close()  # in a forked process this closes its own copy only: nothing is shared without a lock file
    options = {"readonly": True, "lock": False, "readahead": False, "create": False}
    environment = _library().open(str(folder), **options)
    _open[folder] = (*now, environment)
    return environment
