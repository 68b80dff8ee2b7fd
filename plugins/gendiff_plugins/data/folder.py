"""Your own pictures."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from gendiff.data import Data
from gendiff.errors import DataError
from gendiff.shapes import EventShape

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # and no other reader is tried, whatever the file holds
SHOWN = 5  # bad files named in one message
FIX = "replace or remove the file, or set on_bad_image=skip to leave bad files out"

Side = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True)
class Scan:
    """What was found below the folder: size in bytes by name, in order, and ``(path, reason)`` of what was left out."""

    files: dict[str, int]
    skipped: tuple[tuple[Path, str], ...]


class Folder(Data):
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

    Raises `DataError` for a missing or unreadable folder and one without pictures, `IndexError` outside 0..length-1.
    """

    name = "folder"

    path: Path = Field(description="the folder; ~ is your home")
    size: Side | tuple[Side, Side] = Field(64, description="pixels: n for n x n, or [height, width]")
    channels: Literal[1, 3] = Field(3, description="3: colour, 1: grey")
    crop: Literal["none", "center"] = Field("none", description="none: squeeze; center: cut off what sticks out")
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
                v = np.array(self._fitted(eight_bit(image)))
        except Exception as error:
            raise DataError(
                f"cannot read the picture '{self._names[index]}'", where=str(file), details=[reason(error)], fix=FIX
            ) from error
        return torch.from_numpy(v).reshape(*self._height_width, self.channels).permute(2, 0, 1).contiguous() / 127.5 - 1

    @property
    def skipped(self) -> tuple[tuple[Path, str], ...]:
        """``(path, reason)`` of every file left out with ``on_bad_image="skip"``."""
        return self._scan.skipped

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{self.channels} {self._height_width} {self.crop}".encode())
        for name, size in self._scan.files.items():
            digest.update(b"\0" + os.fsencode(name) + f"\0{size}".encode())
        return f"folder/1 {self.length} files {digest.hexdigest()[:16]}"

    @property
    def _root(self) -> Path:
        try:
            return self.path.expanduser()
        except RuntimeError as error:
            raise DataError(
                f"no home folder for '{self.path}'", subject="data.path", fix="write the whole path"
            ) from error

    @property
    def _height_width(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(self._scan.files)

    @cached_property
    def _scan(self) -> Scan:
        names = find_images(self._root)
        probe = _decode if self.on_bad_image == "skip" else _read_header
        # Too many pixels are an error here, so Pillow's warning about them would only repeat it.
        with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            probed = list(pool.map(probe, [self._root / name for name in names]))
        files = {name: result for name, result in zip(names, probed, strict=True) if isinstance(result, int)}
        bad = [(name, result) for name, result in zip(names, probed, strict=True) if isinstance(result, str)]
        told = f"{len(bad)} of {len(names)} image files cannot be read"
        details = [f"{name}: {why}" for name, why in bad[:SHOWN]]
        if len(bad) > SHOWN:
            details.append(f"and {len(bad) - SHOWN} more")
        if bad and (self.on_bad_image == "error" or not files):
            raise DataError(told, where=str(self._root), details=details, fix=FIX if files else "check the folder")
        if bad:
            warnings.warn(f"{told} and are left out (below {self._root}): {'; '.join(details)}", stacklevel=2)
        return Scan(files, tuple((self._root / name, why) for name, why in bad))

    def _fitted(self, image: Image.Image) -> Image.Image:
        image = image.convert("RGB" if self.channels == 3 else "L")
        (H, W), (w, h) = self._height_width, image.size
        box = (0.0, 0.0, float(w), float(h))
        if self.crop == "center":
            scale = min(w / W, h / H)
            left, top = (w - W * scale) / 2, (h - H * scale) / 2
            box = (max(left, 0), max(top, 0), min(left + W * scale, w), min(top + H * scale, h))
        return image.resize((W, H), Image.Resampling.BICUBIC, box=box)


def find_images(root: Path) -> list[str]:
    """Paths of the image files below ``root``, relative, with ``/``, sorted; raises `DataError` if there are none."""
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
    for folder, subfolders, files in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in files:
            if name.startswith("."):
                continue
            if (ending := Path(name).suffix.lower()) in ENDINGS:
                names.append(Path(folder, name).relative_to(root).as_posix())
            else:
                others[ending or "no ending"] += 1
    if not names:
        found = ", ".join(f"{ending} ({count})" for ending, count in others.most_common(SHOWN))
        raise DataError(
            f"no image files among the {others.total()} files" if others else "the folder is empty",
            where=str(root),
            details=[f"found: {found}"] * bool(others) + [f"allowed: {' '.join(sorted(ENDINGS))}"],
            fix="give another folder, or convert the files to one of these formats",
        )
    return sorted(names)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture with its header read, and pixels not yet; raises `OSError` or `ValueError` saying what is wrong."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")  # opening a pipe would wait for ever
    if status.st_size == 0:
        raise ValueError("the file is empty (0 bytes)")
    with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{width}x{height} pixels, more than the limit of {Image.MAX_IMAGE_PIXELS}")
        yield image


def eight_bit(image: Image.Image) -> Image.Image:
    """Decode: upright, opaque, 8 bits per channel; raises `ValueError` for grey of unknown range."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"})
    image = ImageOps.exif_transpose(image)
    if sixteen:
        v = np.array(image, dtype=np.int64)
        if "transparency" in image.info:
            v[v == image.info["transparency"]] = 65535
        return Image.fromarray(((v + 128) // 257).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise ValueError("grey of 32 bits: which value is white is unknown; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def reason(error: BaseException) -> str:
    """Why a file could not be read, without the reader's own object names."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def _read_header(path: Path) -> int | str:
    """The size of the file in bytes, or why it cannot be read."""
    try:
        with opened(path):
            return path.stat().st_size
    except Exception as error:
        return reason(error)


def _decode(path: Path) -> int | str:
    """The same after decoding every pixel."""
    try:
        with opened(path) as image:
            eight_bit(image).convert("RGB")
            return path.stat().st_size
    except Exception as error:
        return reason(error)
