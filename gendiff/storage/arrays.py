"""Arrays: files of NumPy, whose headers are looked at before what they head.

Only numbers and texts are read, and of an archive only the arrays that are asked for; the rest is neither inflated nor looked at.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from gendiff.errors import OBJECTS
from gendiff.storage import reading

HEADER = 10_000  # bytes of a header at most, as NumPy has it
AXES = 9


@dataclass(frozen=True)
class Header:
    """What an array says of itself, checked against the bytes that follow."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def header(file: IO[bytes], size: int) -> Header:
    """The header of an array in npy form that has ``size`` bytes; raises `ValueError` for objects, and where fewer follow."""
    start = file.read(10)
    if not size:
        raise ValueError(reading.EMPTY)
    if not start.startswith(b"\x93NUMPY"):
        raise ValueError("not an array in npy form")
    version = (start[6], start[7])
    if version not in {(1, 0), (2, 0)}:
        raise ValueError(f"the version {version[0]}.{version[1]} of the npy form is not known")
    length = start[8:10] if version == (1, 0) else start[8:10] + file.read(2)
    count = int.from_bytes(length, "little")
    if count > size:
        raise ValueError("its header is longer than the file")
    if count > HEADER:
        raise ValueError(f"its header of {count:,} bytes is too long")
    text = file.read(count)
    parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = parse(io.BytesIO(length + text))
    except Exception as error:  # numpy evaluates the header as Python literals, which can fail in many ways
        raise ValueError("its header cannot be read") from error
    if dtype.hasobject:
        raise ValueError(OBJECTS)
    if dtype.names or dtype.subdtype:
        raise ValueError(f"it holds {dtype}, and allowed are numbers and text")
    whole = all(type(side) is int and side >= 0 for side in shape)  # numpy takes True for 1 here, and nowhere else
    if len(shape) > AXES or not whole or (shape and not dtype.itemsize):
        raise ValueError(f"its header tells of an impossible shape {shape!s:.100}")
    about = Header(dtype, shape, fortran, 8 + len(length) + count)
    if size < about.offset + about.size:
        raise ValueError(f"its header tells of {about.size:,} bytes, and {max(size - about.offset, 0):,} follow")
    return about


def values(file: IO[bytes], about: Header) -> np.ndarray:
    """The values that follow a header; raises `ValueError` where they end too early."""
    raw = np.empty(about.size, np.uint8)
    view, place = raw.data, 0
    while place < len(view) and (part := file.read(min(len(view) - place, 2**20))):
        view[place : place + len(part)] = part
        place += len(part)
    if place < len(view):
        raise ValueError(f"{len(view):,} bytes of values are expected, and {place:,} follow")
    array = raw.view(about.dtype) if about.dtype.itemsize else np.zeros((), about.dtype)
    return array.reshape(about.shape, order="F" if about.fortran else "C")


def npy(path: Path, most: int | None = None) -> np.ndarray:
    """The array in a ``.npy`` file of at most so many bytes; raises `OSError` and `ValueError`."""
    with reading.opened(path, most) as file:
        return npy_in(file, os.fstat(file.fileno()).st_size)


def npy_in(file: IO[bytes], size: int) -> np.ndarray:
    """The array in a file of that size, in npy form; raises `ValueError`."""
    return values(file, header(file, size))


class Arrays:
    """The arrays of an ``.npz`` file, by name: none is read before its header, and only those that are asked for."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def header(self, name: str) -> Header:
        """What the array says of itself; raises `KeyError`, and `ValueError` where that cannot be."""
        info = self._archive.getinfo(f"{name}.npy")
        try:
            with self._archive.open(reading.sound(info)) as file:
                return header(file, info.file_size)
        except ValueError as error:
            raise ValueError(f"'{name:.80}': {error}") from error

    def __getitem__(self, name: str) -> np.ndarray:
        """The array; raises `KeyError`, `ValueError`, and what zipfile and zlib raise."""
        about = self.header(name)
        with self._archive.open(f"{name}.npy") as file:
            file.read(about.offset)
            return values(file, about)

    def text(self, name: str) -> str:
        """The text under a name; raises `ValueError` where it is anything else, or longer than a file of JSON."""
        about = self.header(name)
        if about.dtype.kind != "U" or about.shape or about.size > 4 * reading.JSON:  # four bytes a character
            raise ValueError(f"'{name:.80}' is no text")
        return str(self[name])


@contextmanager
def npz(path: Path) -> Iterator[Arrays]:
    """An ``.npz`` file; raises `OSError`, `ValueError`, and what zipfile and zlib raise."""
    with reading.archive(path) as members:
        yield Arrays(members)
