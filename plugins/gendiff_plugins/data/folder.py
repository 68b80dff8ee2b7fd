"""Your own pictures."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from gendiff.errors import DataError, printable
from gendiff.images import ENDINGS, Pictures, eight_bit, none_found, opened, reason, survey
from gendiff.images import SHOWN as SHOWN
from gendiff.shapes import EventShape

ENDS = 4096  # bytes at each end of a file that are part of the fingerprint
FIX = "replace or remove the file, or set on_bad_image=skip to leave bad files out"


@dataclass(frozen=True)
class Scan:
    """What was found below the folder.

    Args:
        files: the trace of each picture's file by name, in order.
        others: how many files there are of each other ending.
        skipped: ``(path, reason)`` of what was left out.

    """

    files: dict[str, int]
    others: Mapping[str, int]
    skipped: tuple[tuple[Path, str], ...]


class Folder(Pictures):
    """the image files below a folder, resized to one size.

    ``x = v/127.5 - 1`` for the 8-bit values v. How a file becomes v:

    * Files that end in png, jpg, jpeg, webp, bmp, gif, tif, tiff, pgm or ppm (any case), at any depth, sorted by their
      path relative to the folder. Names that start with a dot are ignored; links to folders are not followed.
    * The first frame of an animation. EXIF orientation is applied. Transparency is laid over white.
    * 16-bit grey is scaled by 1/257, not cut off at 255; 16-bit colour keeps its high byte. Palette, grey, CMYK and so
      on become RGB, or luma for one channel. Grey of 32 bits has no known white: it counts as a bad image.
    * ``crop="center"`` keeps the largest centred part of the wanted proportions; ``"none"`` squeezes, as Lee et al. do.
    * Pillow's bicubic resize, which is antialiased when it shrinks.

    A bad image is one that cannot be opened or decoded, or has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``. The
    header of every file is read once, at first use. With ``on_bad_image="error"`` a bad header raises `DataError` then,
    and damage further inside when the picture is wanted. With ``"skip"`` every file is decoded once at first use; bad
    ones are left out, counted in one warning, and listed in `skipped`.

    The fingerprint covers the names and sizes of all files, and the first and last 4096 bytes of each.

    Raises `DataError` for a missing or unreadable folder and one without pictures, `IndexError` outside 0..length-1.
    """

    name = "folder"

    path: Path = Field(description="the folder; ~ is your home")
    on_bad_image: Literal["error", "skip"] = Field("error", description="error: stop and name it; skip: leave it out")

    @property
    def event_shape(self) -> EventShape:
        _ = self._scan  # a missing folder is reported here, before a model of this shape is built
        return (self.channels, *self._height_width)

    @property
    def length(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"picture {index} of {self.length}")
        file = self._root / self._names[index]
        try:
            with opened(file) as image:
                return self._event(image)
        except Exception as error:
            raise DataError(
                f"cannot read the picture '{self.origin(index)}'", where=str(file), details=[reason(error)], fix=FIX
            ) from error

    def origin(self, index: int) -> str:
        return printable(self._names[index])

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        below = (name for folder in _walked(path) for name in folder[1])
        return {"path": path} if any(Path(name).suffix.lower() in ENDINGS for name in below) else None

    @property
    def skipped(self) -> tuple[tuple[Path, str], ...]:
        """``(path, reason)`` of every file left out with ``on_bad_image="skip"``."""
        return self._scan.skipped

    @property
    def passed_over(self) -> Mapping[str, int]:
        return self._scan.others

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.channels} {self._height_width} {self.crop}".encode())
        for name, trace in self._scan.files.items():
            digest.update(b"\0" + os.fsencode(name) + f"\0{trace}".encode())
        return f"folder/2 {self.length} files {digest.hexdigest()[:16]}"

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self._scan.files)

    @cached_property
    def _scan(self) -> Scan:
        names, others = find_images(self._root)
        probe = _decode if self.on_bad_image == "skip" else _read_header
        files, bad = survey(
            names, lambda name: probe(self._root / name), self.on_bad_image, str(self._root), "folder", FIX
        )
        return Scan(files, others, tuple((self._root / name, why) for name, why in bad))


def find_images(root: Path) -> tuple[list[str], Mapping[str, int]]:
    """Paths of the image files below ``root``, relative, with ``/``, sorted, and the number of files of each other ending.

    Raises `DataError` if there are none.
    """
    allowed = ["allowed: a folder with image files"]
    if root.is_file():
        fix = f"give the folder that holds it, {root.parent}"
        raise DataError(f"'{root}' is a file, not a folder", subject="data.path", details=allowed, fix=fix)
    if not root.is_dir():
        fix = f"create it or correct the path (the working folder is {Path.cwd()})"
        raise DataError(f"there is no folder '{root}'", subject="data.path", details=allowed, fix=fix)

    def refuse(error: OSError) -> None:  # os.walk would pass over a folder that it may not list
        what, fix = f"cannot list the folder '{error.filename}'", "check its permissions"
        raise DataError(what, where=str(root), details=[reason(error)], fix=fix) from error

    names, others = [], Counter[str]()
    for folder, files in _walked(root, refuse):
        for name in files:
            if (ending := Path(name).suffix.lower()) in ENDINGS:
                names.append(Path(folder, name).relative_to(root).as_posix())
            else:
                others[printable(ending) or "no ending"] += 1
    if not names:
        raise none_found(others, str(root), "folder")
    return sorted(names), others


def _walked(root: Path, refuse: Callable[[OSError], None] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Each folder below ``root`` and the files in it; what begins with a dot is passed over."""
    for folder, subfolders, files in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield folder, [name for name in files if not name.startswith(".")]


def _trace(path: Path) -> int:
    """The size of a file, and a check sum of both its ends: another picture may have the same size."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(ENDS)
        file.seek(max(size - ENDS, 0))
        return size << 32 | zlib.crc32(head + file.read(ENDS))


def _read_header(path: Path) -> int | str:
    """The trace of the file, or why it cannot be read."""
    try:
        with opened(path):
            return _trace(path)
    except Exception as error:
        return reason(error)


def _decode(path: Path) -> int | str:
    """The same after decoding every pixel."""
    try:
        with opened(path) as image:
            eight_bit(image).convert("RGB")
            return _trace(path)
    except Exception as error:
        return reason(error)
