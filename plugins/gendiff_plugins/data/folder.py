"""Your own pictures."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from pydantic import Field

from gendiff.datasets.images import ENDINGS, none_found, opened, reason
from gendiff.errors import DataError, printable
from gendiff.storage import reading
from gendiff_plugins.data.picture_files import MOST_TABLE, TABLE, PictureFiles

ENDS = 4096  # bytes at each end of a file that are part of the fingerprint


class Folder(PictureFiles):
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

    Where every picture lies in one of at least two sub-folders, the sub-folder is the condition ``label``, by the first level
    below the folder: ``cats/1.png``, ``dogs/old/7.png``. A ``dataset.json``, as EDM has it, says the labels in place of them.

    The fingerprint covers the names and sizes of all files, and the first and last 4096 bytes of each.

    Raises `DataError` for a missing or unreadable folder and one without pictures, `IndexError` outside 0..length-1.
    """

    name = "folder"

    place: ClassVar[str] = "folder"
    edition: ClassVar[int] = 2

    path: Path = Field(description="the folder; ~ is your home")

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        below = (name for folder in _walked(path) for name in folder[1])
        return {"path": path} if any(Path(name).suffix.lower() in ENDINGS for name in below) else None

    def _listed(self) -> tuple[list[str], Mapping[str, int]]:
        return find_images(self._root)

    def _opened(self, name: str) -> AbstractContextManager[Image.Image]:
        return opened(self._root / name)

    def _table(self) -> bytes | None:
        file = self._root / TABLE
        return reading.content(file, MOST_TABLE) if file.exists() else None

    def _trace(self, name: str) -> int:
        """The size of a file, and a check sum of both its ends: another picture may have the same size."""
        with reading.opened(self._root / name) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(ENDS)
            file.seek(max(size - ENDS, 0))
            return size << 32 | zlib.crc32(head + file.read(ENDS))

    def _where(self, name: str) -> str:
        return str(self._root / name)


def find_images(root: Path) -> tuple[list[str], Mapping[str, int]]:
    """Paths of the image files below ``root``, relative, with ``/``, sorted, and the number of files of each other ending.

    Raises `DataError` if there are none.
    """
    details = ["allowed: a folder with image files"]
    if root.is_file():
        fix = f"give the folder that holds it, {root.parent}"
        raise DataError(f"'{root}' is a file, not a folder", subject="data.path", details=details, fix=fix)
    if not root.is_dir():
        fix = f"create it or correct the path (the working folder is {Path.cwd()})"
        raise DataError(f"there is no folder '{root}'", subject="data.path", details=details, fix=fix)

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
