"""Your own pictures, in a zip archive."""

from __future__ import annotations

import hashlib
import os
import stat
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from gendiff.errors import DataError, printable
from gendiff.images import (
    ENDINGS,
    MOST_BYTES,
    Mark,
    Pictures,
    eight_bit,
    located,
    mark,
    missing,
    none_found,
    opened_bytes,
    reason,
    survey,
)
from gendiff.shapes import EventShape

HEAD = 2**16  # bytes that hold the header of nearly every picture
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
FIX = "replace or remove the file, or set on_bad_image=skip to leave bad files out"


@dataclass(frozen=True)
class Scan:
    """What was found in the archive.

    Args:
        files: the check sum of each picture's file by name, in order.
        others: how many files there are of each other ending.
        skipped: ``(name, reason)`` of what was left out.

    """

    files: dict[str, int]
    others: Mapping[str, int]
    skipped: tuple[tuple[str, str], ...]


class Zip(Pictures):
    """the image files in a zip archive, resized to one size.

    Every rule is that of the data ``folder``: which files count, their order, how a picture becomes an event of ``size``, and
    what is bad. Nothing is unpacked to the disk, and each process opens the archive once.

    Also bad are files that are encrypted, packed by anything but DEFLATE, links, larger than 256 MiB, or larger than the archive
    says. An archive with absolute paths or ``..`` is refused.

    Raises `DataError` for a missing or damaged archive and one without pictures, `IndexError` outside 0..length-1.
    """

    name = "zip"

    path: Path = Field(description="the archive; ~ is your home")
    on_bad_image: Literal["error", "skip"] = Field("error", description="error: stop and name it; skip: leave it out")

    @property
    def event_shape(self) -> EventShape:
        _ = self._scan  # a missing archive is reported here, before a model of this shape is built
        return (self.channels, *self._height_width)

    @property
    def length(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"picture {index} of {self.length}")
        name = self._names[index]
        try:
            with opened_bytes(_content(self._archive, name)) as image:
                return self._event(image)
        except DataError:
            raise
        except Exception as error:
            what = f"cannot read the picture '{self.origin(index)}'"
            raise DataError(what, where=str(self._root), details=[reason(error)], fix=FIX) from error

    def origin(self, index: int) -> str:
        return printable(self._names[index])

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        if not path.is_file() or path.suffix.lower() == ".npz":
            return None
        with path.open("rb") as file:
            return {"path": path} if file.read(4) == b"PK\x03\x04" else None

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """``(name, reason)`` of every file left out with ``on_bad_image="skip"``."""
        return self._scan.skipped

    @property
    def passed_over(self) -> Mapping[str, int]:
        return self._scan.others

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.channels} {self._height_width} {self.crop}".encode())
        for name, sum_ in self._scan.files.items():
            digest.update(b"\0" + name.encode("utf-8", "surrogateescape") + f"\0{sum_}".encode())
        return f"zip/1 {self.length} files {digest.hexdigest()[:16]}"

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self._scan.files)

    @cached_property
    def _scan(self) -> Scan:
        archive, where = self._archive, str(self._root)
        names, others = _pictures_in(archive, where)
        probe = _decode if self.on_bad_image == "skip" else _read_header
        files, bad = survey(names, lambda name: probe(archive, name), self.on_bad_image, where, "archive", FIX)
        return Scan(files, others, tuple(bad))

    @property
    def _archive(self) -> zipfile.ZipFile:
        root = located(self.path)
        allowed = "a zip archive with image files"
        if root.is_dir():
            fix = f"give the archive, or use the data folder:path={root}"
            raise DataError(f"'{root}' is a folder", subject="data.path", details=[f"allowed: {allowed}"], fix=fix)
        try:
            return _opened(root, mark(root), os.getpid())
        except FileNotFoundError as error:
            raise missing(root, allowed) from error
        except Exception as error:
            what, fix = f"cannot read the archive '{root.name}'", "make it again, or unpack it and use the data folder"
            raise DataError(what, where=str(root), details=[reason(error)], fix=fix) from error


@lru_cache(maxsize=8)
def _opened(path: Path, mark: Mark, process: int) -> zipfile.ZipFile:
    """The archive, once per process: forked ones would move each other's position in the file."""
    if mark[2] == 0:
        raise ValueError("the file is empty (0 bytes)")
    return zipfile.ZipFile(path)


def _pictures_in(archive: zipfile.ZipFile, where: str) -> tuple[list[str], Mapping[str, int]]:
    """The names of the image files, sorted, and the number of files of each other ending.

    Raises `DataError` if there are none, or any name leads out of the archive.
    """
    names, others = [], Counter[str]()
    for info in archive.infolist():
        inside = PurePosixPath(info.filename.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts or "".join(inside.parts[:1]).endswith(":"):
            raise DataError(
                f"the archive holds '{printable(info.filename)}', a path that leads out of it",
                where=where,
                details=["allowed: paths below the folder that an archive is unpacked to"],
                fix="make the archive again from inside the folder; be careful if it is from a stranger",
            )
        if info.is_dir() or any(part.startswith(".") for part in inside.parts):
            continue
        if (ending := inside.suffix.lower()) in ENDINGS:
            names.append(info.filename)
        else:
            others[printable(ending) or "no ending"] += 1
    if not names:
        raise none_found(others, where, "archive")
    return sorted(set(names)), others


def _content(archive: zipfile.ZipFile, name: str, most: int | None = None) -> bytes:
    """A file of the archive, or its first ``most`` bytes; raises `ValueError` and what zipfile raises."""
    info = archive.getinfo(name)
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError("a link, which is not followed")
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    if info.compress_type not in METHODS:
        raise ValueError(f"it is packed by method {info.compress_type}, and allowed is DEFLATE")
    if info.file_size > MOST_BYTES:
        raise ValueError(f"{info.file_size:,} bytes, more than the limit of {MOST_BYTES:,}")
    wanted = info.file_size if most is None else min(most, info.file_size)
    parts, count = [], 0
    with archive.open(info) as file:
        while count < wanted and (part := file.read(min(wanted - count, 2**20))):  # never unpacked without a bound
            parts.append(part)
            count += len(part)
        if count < wanted or (most is None and file.read(1)):  # at the end of the file, zipfile compares the check sum
            raise ValueError("it has another size than the archive says")
    return b"".join(parts)


def _read_header(archive: zipfile.ZipFile, name: str) -> int | str:
    """The check sum of a file, or why it cannot be read."""
    try:
        head = _content(archive, name, HEAD)
        try:
            with opened_bytes(head):
                pass
        except Exception:
            if len(head) < HEAD:
                raise
            with opened_bytes(_content(archive, name)):  # its header is further inside
                pass
        return archive.getinfo(name).CRC
    except Exception as error:
        return reason(error)


def _decode(archive: zipfile.ZipFile, name: str) -> int | str:
    """The same after decoding every pixel."""
    try:
        with opened_bytes(_content(archive, name)) as image:
            eight_bit(image).convert("RGB")
        return archive.getinfo(name).CRC
    except Exception as error:
        return reason(error)
