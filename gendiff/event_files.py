"""Event files: a folder or an archive of samples as an event set, read as they are.

Samples are never resized: what a network drew is measured. A folder that `gendiff sample` wrote is known by its numbered files,
and only these are read, not the grid beside them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gendiff.errors import DataError
from gendiff.event_set import READ, EventSet, parts
from gendiff.images import ENDINGS, eight_bit, event_of, located, opened, reason
from gendiff.number import Events

_NUMBERED = re.compile(r"\d{6,}\.(png|npy)")
FIX = "make it again, or take it away"


def is_folder_of_events(path: Path) -> bool:
    """Whether it is a folder with image files or numbered ``.npy`` files, at any depth."""
    return path.is_dir() and bool(_files(path))


def of_folder(path: Path, channels: int | None = None) -> EventSet:
    """The image files below a folder, at any depth, sorted by path, or the numbered ``.npy`` files of `gendiff sample`.

    Args:
        channels: 1 or 3: pictures become grey or RGB; by default as the first picture is.

    Raises `DataError` for a folder without any, for one that cannot be read, and where two differ in shape.
    """
    root = located(path)
    files = _files(root)
    if not files:
        fix = "give a folder of pictures, or of what gendiff sample wrote"
        raise DataError(f"no events in the folder '{path}'", details=[f"allowed: {' '.join(sorted(ENDINGS))}"], fix=fix)
    first = _read(files[0], channels)
    if channels is None and files[0].suffix != ".npy":
        channels = len(first)

    def at(numbers: Sequence[int]) -> Iterator[Tensor]:
        for part in parts(numbers, READ):
            events = [_read(files[k], channels) for k in part]
            for k, event in zip(part, events, strict=True):
                if event.shape != first.shape:
                    details = [f"{files[0].name} is of {tuple(first.shape)}, {files[k].name} of {tuple(event.shape)}"]
                    fix = "give pictures of one size; to resize them: --data folder:path=FOLDER,size=SIZE"
                    raise DataError("pictures of different sizes", where=str(path), details=details, fix=fix)
            yield torch.stack(events)

    return EventSet(Events(str(path), _fingerprint(root, files, channels), len(files)), tuple(first.shape), at)


def of_array(path: Path) -> EventSet:
    """Pictures in an ``.npz`` file, such as samples are exchanged in: one array of 8 bits, ``(n, H, W)`` or ``(n, H, W, C)``.

    Raises `DataError` where it holds anything else.
    """
    try:
        with np.load(located(path), allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and NumPy raise whatever they trip over
        raise DataError("cannot read the pictures", where=str(path), details=[reason(error)], fix=FIX) from error
    pictures = [array for array in found.values() if array.dtype == np.uint8 and array.ndim in (3, 4)]
    if len(pictures) != 1:
        held = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in found.items())
        raise DataError(
            "not an array of pictures",
            where=str(path),
            details=[f"it holds {held or 'nothing'}", "allowed: one array of uint8, (n, H, W) or (n, H, W, C)"],
            fix="save it so: numpy.savez(file, pictures)",
        )
    v = pictures[0]

    def at(numbers: Sequence[int]) -> Iterator[Tensor]:
        for part in parts(numbers, READ):
            yield torch.stack([event_of(v[k].copy()) for k in part])

    shape = tuple(event_of(v[0].copy()).shape)
    return EventSet(Events(str(path), "", len(v)), shape, at)


def holds_statistics(path: Path) -> bool:
    """Whether it is an ``.npz`` file of statistics; raises `DataError` where it cannot be read."""
    try:
        with np.load(located(path), allow_pickle=False) as arrays:
            return {"mu", "sigma"} <= set(arrays.files)
    except FileNotFoundError as error:
        raise DataError(
            f"there is no '{path}'", fix=f"correct the path (the working folder is {Path.cwd()})"
        ) from error
    except Exception as error:
        raise DataError("cannot read the file", where=str(path), details=[reason(error)], fix=FIX) from error


def _files(root: Path) -> list[Path]:
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    numbered = [file for file in found if file.parent == root and _NUMBERED.fullmatch(file.name)]
    pictures = [file for file in found if file.suffix.lower() in ENDINGS]
    return sorted(numbered or pictures, key=lambda file: file.relative_to(root).as_posix())


def _read(file: Path, channels: int | None) -> Tensor:
    try:
        if file.suffix == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False)).float()
        with opened(file) as image:
            picture = eight_bit(image)
            grey = picture.mode in ("1", "L") if channels is None else channels == 1
            return event_of(np.array(picture.convert("L" if grey else "RGB")))
    except Exception as error:
        raise DataError(f"cannot read '{file.name}'", where=str(file), details=[reason(error)], fix=FIX) from error


def _fingerprint(root: Path, files: Sequence[Path], channels: int | None) -> str:
    """Of names and contents: a few seconds for what takes minutes to decode."""
    digest = hashlib.sha256(f"{channels}".encode())
    for file in files:
        digest.update(b"\0" + os.fsencode(file.relative_to(root)) + b"\0")
        with file.open("rb") as content:
            for block in iter(partial(content.read, 2**20), b""):
                digest.update(block)
    return f"files/1 {len(files)} {digest.hexdigest()[:16]}"
