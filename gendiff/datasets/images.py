"""Encoded pictures: what every source of image files does with one, wherever its bytes are kept."""

from __future__ import annotations

import io
import os
import re
import stat
import sys
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from gendiff.data import Data
from gendiff.errors import DataError, printable, without_advice
from gendiff.shapes import AsText
from gendiff.storage import reading

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"})
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # and no other reader is tried, whatever the file holds
LIBTIFF = 300  # bytes of its messages that are passed on
_quiet = threading.Lock()  # descriptor 2 is everybody's
SHOWN = 5  # bad files named in one message
FIRST = "it is the first that was met: only the headers of the others were looked at"
HEADERS = "only headers were looked at: more may be damaged further inside"
MOST_BYTES = (
    2**28
)  # of one encoded picture inside an archive or a database; no picture within the pixel limit needs more

ORIENTATION, LYING = 0x0112, (5, 6, 7, 8)  # the tag of EXIF, and its values of pictures that lie on their side

Side = Annotated[int, Field(ge=1, le=4096)]
Mark = tuple[int, int, int, int]


class ImageData(Data):
    """Encoded pictures that become events of one size: the parameters, and the way from a picture to an event."""

    path: Path = Field(description="where the pictures are; ~ is your home")
    size: Annotated[Side | tuple[Side, Side], AsText] = Field(64, description="pixels: n for n x n, or [height, width]")
    channels: Literal[1, 3] = Field(3, description="3: colour, 1: grey")
    crop: Literal["none", "center"] = Field("none", description="none: squeeze; center: cut off what sticks out")

    @property
    def passed_over(self) -> Mapping[str, int]:
        """How many files there are of each ending that is not one of `ENDINGS`; here none."""
        return {}

    def own_size(self, index: int) -> tuple[int, int] | None:
        """Height and width of a picture before it is brought to `size`, by its header; here None: nobody says."""
        return None

    @property
    def _root(self) -> Path:
        return located(self.path)

    @property
    def _height_width(self) -> tuple[int, int]:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def _event(self, image: Image.Image) -> Tensor:
        image = eight_bit(image).convert("RGB" if self.channels == 3 else "L")
        return event_of(np.array(resized(image, self._height_width, self.crop)))


# --- where ------------------------------------------------------------------------------------------------------------


def located(path: Path) -> Path:
    """The path with ``~`` written out; raises `DataError` where there is no such home."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise DataError(f"no home folder for '{path}'", subject="data.path", fix="write the whole path") from error


def missing(path: Path, kind: str, subject: str = "data.path") -> DataError:
    """What to raise where nothing is at ``path``."""
    fix = f"create it or correct the path (the working folder is {Path.cwd()})"
    return DataError(f"there is no '{path}'", subject=subject, details=[f"allowed: {kind}"], fix=fix)


def mark(path: Path) -> Mark:
    """What changes when a file is replaced or written to: device, inode, size and time of modification.

    Raises `OSError`, and `ValueError` for what is not a regular file (opening a pipe would wait for ever).
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


# --- one picture ------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture with its header read, and pixels not yet; raises `OSError` or `ValueError` saying what is wrong."""
    if mark(path)[2] == 0:
        raise ValueError(reading.EMPTY)
    with reading.opened(path) as file, _identified(file) as image:
        yield image


@contextmanager
def opened_bytes(content: bytes) -> Iterator[Image.Image]:
    """The same of a picture in memory."""
    if not content:
        raise ValueError("the record is empty (0 bytes)")
    with _identified(io.BytesIO(content)) as image:
        yield image


@contextmanager
def _identified(file: BinaryIO) -> Iterator[Image.Image]:
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{width}x{height} pixels, more than the limit of {Image.MAX_IMAGE_PIXELS}")
        yield image


@contextmanager
def hushed() -> Iterator[None]:
    """What Pillow warns of does not stand alone: of a picture that cannot be read, an error says why."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\b")
        yield


def upright(image: Image.Image) -> tuple[int, int]:
    """Height and width of a picture as it is looked at; nothing is decoded."""
    width, height = image.size
    return (width, height) if image.getexif().get(ORIENTATION) in LYING else (height, width)


def eight_bit(image: Image.Image) -> Image.Image:
    """Decode: upright, opaque, 8 bits per channel; raises `ValueError` for grey of unknown range."""
    if image.format == "TIFF":
        _load_quietly(image)
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in {"PNG", "PPM"})
    image = ImageOps.exif_transpose(image)
    if sixteen:
        v = np.array(image, dtype=np.int32)  # and not wider: a picture at the limit has 89 million pixels
        if "transparency" in image.info:
            v[v == image.info["transparency"]] = 65535
        return Image.fromarray(((v + 128) // 257).astype(np.uint8))
    if image.mode in {"I", "F"}:
        raise ValueError("grey of 32 bits: which value is white is unknown; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image


def _load_quietly(image: Image.Image) -> None:
    """Decode, and raise what libtiff says where it says it to descriptor 2: Pillow's own error is a number."""
    with _quiet, tempfile.TemporaryFile() as messages:
        sys.stderr.flush()
        descriptor = os.dup(2)
        os.dup2(messages.fileno(), 2)
        try:
            image.load()
        except Exception as error:
            messages.seek(0)
            if why := " ".join(messages.read(LIBTIFF).decode("utf-8", "replace").split()):
                raise ValueError(f"its pixels cannot be decoded (libtiff: {printable(why)})") from error
            raise
        finally:
            os.dup2(descriptor, 2)
            os.close(descriptor)


def resized(image: Image.Image, height_width: tuple[int, int], crop: str) -> Image.Image:
    """An 8-bit picture at another size, by Pillow's bicubic filter, which is antialiased where it shrinks.

    ``crop="none"`` squeezes; ``"center"`` first cuts off what sticks out of the largest centred part of the proportions.
    """
    (H, W), (w, h) = height_width, image.size
    box = (0.0, 0.0, float(w), float(h))
    if crop == "center":
        scale = min(w / W, h / H)
        left, top = (w - W * scale) / 2, (h - H * scale) / 2
        box = (max(left, 0), max(top, 0), min(left + W * scale, w), min(top + H * scale, h))
    return image.resize((W, H), Image.Resampling.BICUBIC, box=box)


def event_of(v: np.ndarray) -> Tensor:
    """``x = v/127.5 - 1``, ``(C, H, W)``, of 8-bit values ``(H, W)`` or ``(H, W, C)`` that may be written to."""
    return torch.from_numpy(v).reshape(*v.shape[:2], -1).permute(2, 0, 1).contiguous() / 127.5 - 1


def reason(error: BaseException) -> str:
    """Why a file could not be read, in one line, without the reader's own object names and advice."""
    if isinstance(error, UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)}), or damaged where it begins"
    text = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    if re.fullmatch(r"(decoder error )?-?\d+", text):  # libtiff and others say a number
        return f"its pixels cannot be decoded (code {text.rpartition(' ')[2]})"
    return without_advice(text) or type(error).__name__


def as_bytes(dtype: np.dtype) -> str:
    """How an array of this type becomes one of 8 bits, for the user: ``array`` is theirs."""
    if dtype.kind == "b":
        return "array.astype(numpy.uint8) * 255"
    if dtype == np.uint16:
        return "(array / 257).round().astype(numpy.uint8) where 65535 is white, array.astype(numpy.uint8) where 255 is"
    if dtype.kind in "iu":
        return "array.astype(numpy.uint8), of values from 0, black, to 255, white"
    return "((array + 1) * 127.5).round().clip(0, 255).astype(numpy.uint8), of values from -1 to 1"


# --- many pictures ----------------------------------------------------------------------------------------------------


def survey(
    names: Sequence[str], probe: Callable[[str], int | str], on_bad_image: str, where: str, place: str, fix: str
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Probe every picture: what the probe returned for each good name, and ``(name, reason)`` of the bad ones.

    ``probe`` returns a number, or the reason why the picture is bad; ``place`` is the word for ``where``. With
    ``on_bad_image="error"``, and where none is good, bad ones raise `DataError`; otherwise one warning counts them.
    """
    with hushed(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(probe, names))
    good = {name: result for name, result in zip(names, results, strict=True) if isinstance(result, int)}
    bad = [(name, result) for name, result in zip(names, results, strict=True) if isinstance(result, str)]
    summary = f"{len(bad)} of {len(names)} image files cannot be read"
    details = [f"{printable(name)}: {why}" for name, why in bad[:SHOWN]]
    if len(bad) > SHOWN:
        details.append(f"and {len(bad) - SHOWN} more")
    if on_bad_image == "error" and good:
        details.append(HEADERS)
    if bad and (on_bad_image == "error" or not good):
        raise DataError(summary, where=where, details=details, fix=fix if good else f"check the {place}")
    if bad:
        warnings.warn(f"{summary} and are left out (below {where}): {'; '.join(details)}", stacklevel=3)
    return good, bad


def none_found(others: Mapping[str, int], where: str, place: str) -> DataError:
    """What to raise where there are no image files: ``others`` counts the endings of what is there instead."""
    if place == "archive" and ".mdb" in others:
        return DataError(
            "the archive holds an LMDB database, which is read from a folder",
            where=where,
            details=[f"found: data.mdb among the {sum(others.values())} files"],
            fix="unpack it (unzip), and give the folder that holds data.mdb: lsun:path=FOLDER",
        )
    endings = ", ".join(f"{ending} ({count})" for ending, count in Counter(others).most_common(SHOWN))
    return DataError(
        f"no image files among the {sum(others.values())} files" if others else f"the {place} is empty",
        where=where,
        details=[f"found: {endings}"] * bool(others) + [f"allowed: {' '.join(sorted(ENDINGS))}"],
        fix=f"give another {place}, or convert the files to one of these formats",
    )
