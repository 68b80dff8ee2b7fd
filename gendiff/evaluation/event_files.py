"""Event files: a folder or an archive of samples as an event set, read as they are.

Samples are never resized: what a network drew is measured. What `gendiff sample` wrote is known by its numbered files, and only
these are read, not the grid beside them.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags
from torch import Tensor

from gendiff.datasets.images import (
    ENDINGS,
    FIRST,
    HEADERS,
    MOST_BYTES,
    SHOWN,
    as_bytes,
    eight_bit,
    event_of,
    hushed,
    located,
    opened_bytes,
    reason,
)
from gendiff.errors import DataError, printable
from gendiff.evaluation.event_set import READ, EventSet, parts
from gendiff.evaluation.number import Events
from gendiff.storage import reading
from gendiff.storage.arrays import Header, header, npy_in, npz

ARRAYS = 20  # arrays of a file that are looked at
_NUMBERED = re.compile(r"\d{6,}\.(png|npy)")

FIX = "make it again, or take it away"


def holds_events(path: Path) -> bool:
    """Whether it is a folder or a zip archive with image files or numbered ``.npy`` files, at any depth."""
    if path.is_dir():
        return bool(_in_folder(path).names)
    return (
        path.suffix.lower() == ".zip" and path.is_file() and zipfile.is_zipfile(path) and bool(_in_archive(path).names)
    )


def of_files(path: Path, channels: int | None = None) -> EventSet:
    """The image files in a folder or zip archive, at any depth, sorted by path, or the numbered files of `gendiff sample`.

    Args:
        channels: 1 or 3: pictures become grey or RGB; by default as the first picture is.

    Raises `DataError` where there are none, for those that cannot be read, and where they are of several sizes.
    """
    root = located(path)
    files = _in_folder(root) if root.is_dir() else _in_archive(root)
    if not files.names:
        fix = "give a folder of pictures, or of what gendiff sample wrote"
        raise DataError(f"no events in '{path}'", details=[f"allowed: {' '.join(sorted(ENDINGS))}"], fix=fix)
    files.refuse_several_sizes()
    first = files.event(files.names[0], channels)
    if channels is None and not files.names[0].endswith(".npy"):
        channels = len(first)

    def at(numbers: Sequence[int]) -> Iterator[Tensor]:
        for part in parts(numbers, READ):
            events = [files.event(files.names[k], channels) for k in part]
            for k, event in zip(part, events, strict=True):
                if event.shape != first.shape:
                    shapes = f"{files.names[0]} is of {tuple(first.shape)}, {files.names[k]} of {tuple(event.shape)}"
                    raise DataError(
                        "events of different shapes", where=str(path), details=[shapes], fix="give one shape"
                    )
            yield torch.stack(events)

    return EventSet(Events(str(path), files.fingerprint(channels), len(files.names)), tuple(first.shape), at)


@dataclass(frozen=True)
class _Files:
    """The files that hold events, sorted, and what reads one."""

    where: Path
    names: list[str]
    read: Callable[[str], bytes]

    def event(self, name: str, channels: int | None) -> Tensor:
        try:
            with hushed():
                return self._event(name, channels)
        except Exception as error:  # Pillow, zipfile and NumPy raise whatever they trip over
            raise DataError(
                f"cannot read '{name}'", where=str(self.where), details=[reason(error), FIRST], fix=FIX
            ) from error

    def _event(self, name: str, channels: int | None) -> Tensor:
        content = self.read(name)
        if name.endswith(".npy"):
            return torch.from_numpy(npy_in(io.BytesIO(content), len(content))).float()
        with opened_bytes(content) as image:
            picture = eight_bit(image)
            grey = picture.mode in ("1", "L") if channels is None else channels == 1
            return event_of(np.array(picture.convert("L" if grey else "RGB")))

    def refuse_several_sizes(self) -> None:
        """Look at all headers; raises `DataError` for files that cannot be read, and where they are of several sizes."""
        sizes, bad = Counter[tuple[int, ...]](), list[str]()
        for name in self.names:
            try:
                with hushed():
                    sizes[_size(name, self.read(name))] += 1
            except Exception as error:  # Pillow, zipfile and NumPy raise whatever they trip over
                bad.append(f"{printable(name)}: {reason(error)}")
        if bad:
            more = [f"and {len(bad) - SHOWN} more"] if len(bad) > SHOWN else []
            raise DataError(
                f"{len(bad)} of {len(self.names)} files cannot be read",
                where=str(self.where),
                details=[*bad[:SHOWN], *more, *([HEADERS] if sizes else [])],
                fix="make them again, or take them away",
            )
        if len(sizes) > 1:
            counts = [f"{count} of {'x'.join(map(str, size))}" for size, count in sizes.most_common()]
            more = [f"{len(counts) - SHOWN} more sizes"] if len(counts) > SHOWN else []
            size = ",".join(map(str, sizes.most_common(1)[0][0]))
            kind = "folder" if self.where.is_dir() else "zip"
            raise DataError(
                f"{len(self.names)} pictures of {len(counts)} sizes, which are compared as they are",
                where=str(self.where),
                details=[f"height x width: {', '.join([*counts[:SHOWN], *more])}"],
                fix=f"give pictures of one size, or let them be resized: {kind}:path={self.where},size=[{size}]",
            )

    def fingerprint(self, channels: int | None) -> str:
        """Of names and contents: a few seconds for what takes minutes to decode."""
        digest = hashlib.sha256(f"{channels}".encode())
        for name in self.names:
            digest.update(b"\0" + os.fsencode(name) + b"\0" + hashlib.sha256(self.read(name)).digest())
        return f"files/1 {len(self.names)} {digest.hexdigest()[:16]}"


def _size(name: str, content: bytes) -> tuple[int, ...]:
    """Height and width of a picture, as it is shown; the shape of an array. Its header alone is read."""
    if name.endswith(".npy"):
        return header(io.BytesIO(content), len(content)).shape
    with opened_bytes(content) as image:
        sideways = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size if sideways else image.size[::-1]


def _in_folder(root: Path) -> _Files:
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths += [Path(folder, name).relative_to(root).as_posix() for name in names]
    return _Files(root, _chosen(paths), lambda name: reading.content(root / name, MOST_BYTES))


def _in_archive(path: Path) -> _Files:
    try:
        archive = reading.archive(path)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError("cannot read the archive", where=str(path), details=[reason(error)], fix=FIX) from error
    return _Files(path, _chosen(archive.namelist()), lambda name: reading.member(archive, name, MOST_BYTES))


def _chosen(names: Sequence[str]) -> list[str]:
    """The names that hold events: numbered ones where there are any."""
    visible = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
    samples = [name for name in visible if _NUMBERED.fullmatch(name.rpartition("/")[2])]
    return sorted(samples or [name for name in visible if name.lower().endswith(tuple(ENDINGS))])


def of_array(path: Path) -> EventSet:
    """Pictures in an ``.npz`` file, such as samples are exchanged in: one array of 8 bits, ``(n, H, W)`` or ``(n, H, W, C)``.

    Raises `DataError` where it holds anything else.
    """
    try:
        with npz(located(path)) as arrays:
            headers = {name: arrays.header(name) for name in arrays.names[:ARRAYS]}
            candidates = [name for name, one in headers.items() if one.dtype == np.uint8 and len(one.shape) in (3, 4)]
            pictures = [arrays[name] for name in candidates] if len(candidates) == 1 else []
    except Exception as error:  # zipfile, zlib and NumPy raise whatever they trip over
        raise DataError("cannot read the pictures", where=str(path), details=[reason(error)], fix=FIX) from error
    if len(pictures) != 1:
        contents = ", ".join(f"{name:.40}: {one.dtype} {one.shape}" for name, one in headers.items())
        raise DataError(
            "not an array of pictures",
            where=str(path),
            details=[f"it holds {contents or 'nothing'}", "allowed: one array of uint8, (n, H, W) or (n, H, W, C)"],
            fix=f"convert it, and save it so: numpy.savez(file, pictures), with pictures = {_conversion(headers)}",
        )
    v = pictures[0]

    def at(numbers: Sequence[int]) -> Iterator[Tensor]:
        for part in parts(numbers, READ):
            yield torch.stack([event_of(v[k].copy()) for k in part])

    shape = tuple(event_of(v[0].copy()).shape)
    return EventSet(Events(str(path), "", len(v)), shape, at)


def _conversion(headers: Mapping[str, Header]) -> str:
    """How the first of some arrays becomes one of pictures."""
    numbers = [one.dtype for one in headers.values() if one.dtype != np.uint8 and one.dtype.kind in "biuf"]
    return as_bytes(numbers[0]) if numbers else "an array of uint8"


def holds_statistics(path: Path) -> bool:
    """Whether it is an ``.npz`` file of statistics; raises `DataError` where it cannot be read."""
    try:
        with npz(located(path)) as arrays:
            return "mu" in arrays and "sigma" in arrays
    except FileNotFoundError as error:
        raise DataError(
            f"there is no '{path}'", fix=f"correct the path (the working folder is {Path.cwd()})"
        ) from error
    except Exception as error:
        raise DataError("cannot read the file", where=str(path), details=[reason(error)], fix=FIX) from error
