"""Your own pictures, in a zip archive."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from PIL import Image
from pydantic import Field

from gendiff.datasets.images import ENDINGS, MOST_BYTES, Mark, located, mark, missing, none_found, opened_bytes, reason
from gendiff.errors import DataError, printable
from gendiff.storage import reading
from gendiff_plugins.data.picture_files import MOST_TABLE, TABLE, PictureFiles

HEAD = 2**16  # bytes that hold the header of nearly every picture


class Zip(PictureFiles):
    """the image files in a zip archive, resized to one size.

    Every rule is that of the data ``folder``: which files count, their order, how a picture becomes an event of ``size``, and
    what is bad, and what the condition ``label`` is: the folder in the archive, or what its ``dataset.json`` says.

    Nothing is unpacked to the disk, and each process opens the archive once.

    Also bad are files that are encrypted, packed by anything but DEFLATE, links, larger than 256 MiB, or larger than the archive
    says. An archive with absolute paths or ``..`` is refused.

    Raises `DataError` for a missing or damaged archive and one without pictures, `IndexError` outside 0..length-1.
    """

    name = "zip"

    place: ClassVar[str] = "archive"
    edition: ClassVar[int] = 1

    path: Path = Field(description="the archive; ~ is your home")

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        if not path.is_file() or path.suffix.lower() == ".npz":
            return None
        with path.open("rb") as file:
            return {"path": path} if file.read(4) == b"PK\x03\x04" else None

    def _listed(self) -> tuple[list[str], Mapping[str, int]]:
        return _pictures_in(self._archive, str(self._root))

    def _opened(self, name: str) -> AbstractContextManager[Image.Image]:
        return opened_bytes(_content(self._archive, name))

    def _table(self) -> bytes | None:
        archive = self._archive
        return reading.member(archive, TABLE, MOST_TABLE) if TABLE in archive.NameToInfo else None

    def _trace(self, name: str) -> int:
        """The check sum that the archive keeps."""
        return self._archive.getinfo(name).CRC

    def _look(self, name: str) -> None:
        head = _content(self._archive, name, HEAD)
        try:
            with opened_bytes(head):
                pass
        except Exception:
            if len(head) < HEAD:
                raise
            super()._look(name)  # its header is further inside

    @property
    def _archive(self) -> zipfile.ZipFile:
        root = located(self.path)
        kind = "a zip archive with image files"
        if root.is_dir():
            fix = f"give the archive, or use the data folder:path={root}"
            raise DataError(f"'{root}' is a folder", subject="data.path", details=[f"allowed: {kind}"], fix=fix)
        try:
            return _archive_at(root, mark(root), os.getpid())
        except FileNotFoundError as error:
            raise missing(root, kind) from error
        except Exception as error:
            what, fix = f"cannot read the archive '{root.name}'", "make it again, or unpack it and use the data folder"
            raise DataError(what, where=str(root), details=[reason(error)], fix=fix) from error


@lru_cache(maxsize=8)
def _archive_at(path: Path, mark: Mark, process: int) -> zipfile.ZipFile:
    """The archive, once per process: forked ones would move each other's position in the file."""
    return reading.archive(path)


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
    info = reading.sound(archive.getinfo(name))
    if info.file_size > MOST_BYTES:
        raise ValueError(f"{info.file_size:,} bytes, more than the limit of {MOST_BYTES:,}")
    size = info.file_size if most is None else min(most, info.file_size)
    parts, count = [], 0
    with archive.open(info) as file:
        while count < size and (part := file.read(min(size - count, 2**20))):  # never unpacked without a bound
            parts.append(part)
            count += len(part)
        if count < size or (most is None and file.read(1)):  # at the end of the file, zipfile compares the check sum
            raise ValueError("it has another size than the archive says")
    return b"".join(parts)
