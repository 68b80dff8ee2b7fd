"""Reading: nothing is read before it is looked at.

A folder of a stranger may hold pipes, devices, links to endless files, holes of many gigabytes, and archives that inflate a
thousandfold. So a file is opened without waiting, must be a regular one, and of a size that its kind can have; of an archive the
headers are read before what they head. Links are followed to regular files: what is read elsewhere is only data.
"""

from __future__ import annotations

import io
import math
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from gendiff.errors import DataError
from gendiff.storage.plain import json_object, toml_table

JSON = 4 * 2**20  # bytes of a file of each kind, at most: run.json, manifests, evaluations
TOML = 2**20
ROW = 2**20  # of metrics.jsonl
ROWS = 2**30
HEADER = 10_000  # of an array, as NumPy has it
HOLES = 1000  # of a file that are counted
AXES = 9  # of an array
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # other methods inflate without a bound
END = 2**16 + 128  # bytes of an archive in which its end is looked for
LISTED = 2**30  # of its list of files
INFLATION = 200  # times that a large member of an archive may inflate
SMALL = 64 * 2**20  # bytes of a member that may inflate as it likes


@contextmanager
def opened(path: Path, most: int | None = None) -> Iterator[BinaryIO]:
    """A regular file to read, of at most so many bytes; raises `OSError`, and `ValueError` for anything else."""
    _check(os.stat(path), most)  # noqa: PTH116  # to open a device can do something already
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _check(os.fstat(descriptor), most)
        yield file


def content(path: Path, most: int) -> bytes:
    """What is in a regular file of at most so many bytes; raises `DataError` naming the file and what is wrong."""
    try:
        with opened(path, most) as file:
            found = file.read(most + 1)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if len(found) > most:
        raise unreadable(path, ValueError(f"it grows, and at most {most:,} bytes are read"))
    return found


def json_file(path: Path, most: int = JSON) -> dict[str, Any]:
    """The object in a file of JSON; raises `DataError` naming the file and what is wrong."""
    try:
        return json_object(content(path, most))
    except ValueError as error:
        raise unreadable(path, error) from error


def toml_file(path: Path) -> dict[str, Any]:
    """The table in a file of TOML; raises `DataError` naming the file and what is wrong."""
    try:
        return toml_table(content(path, TOML))
    except ValueError as error:
        raise unreadable(path, error) from error


def rows(path: Path) -> Iterator[bytes]:
    """The lines of a file, one at a time, without their ends; raises `DataError` naming the file and what is wrong."""
    try:
        with opened(path, ROWS) as file:
            left = ROWS
            while line := file.readline(ROW + 1):
                left -= len(line)
                if len(line) > ROW or left < 0:
                    raise ValueError(f"a line has more than {ROW:,} bytes" if left >= 0 else "it grows without end")
                yield line.rstrip(b"\r\n")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def hollow(file: BinaryIO, size: int) -> bool:
    """Whether a large file is all holes but for a hundredth: it would take memory that it never took of the disk."""
    if size <= SMALL:
        return False
    held = place = 0
    for _ in range(HOLES):
        try:
            start = os.lseek(file.fileno(), place, os.SEEK_DATA)
            place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        except OSError:  # nothing but a hole is left
            break
        held += place - start
        if 100 * held >= size:
            break
    file.seek(0)
    return 100 * held < size


def unreadable(path: Path, error: Exception) -> DataError:
    """What to raise where a file is not what it should be: one line that names it."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return DataError(f"cannot read '{path}': {why}", fix="restore it from a copy, or do without it")


def _check(status: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if most is not None and status.st_size > most:
        raise ValueError(f"it has {status.st_size:,} bytes, and at most {most:,} are read")


# --- archives ---------------------------------------------------------------------------------------------------------


def archive(path: Path) -> zipfile.ZipFile:
    """A zip archive whose list of files has a size that can be; raises `OSError`, `ValueError` and `zipfile.BadZipFile`."""
    with opened(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - END, 0))
        end = file.read()
        place = end.rfind(b"PK\x05\x06")
        listed = int.from_bytes(end[place + 12 : place + 16], "little") if place >= 0 else 0
        if listed == 2**32 - 1 and place >= 20:  # too large for that field: another record, further up, has it
            file.seek(min(int.from_bytes(end[place - 12 : place - 4], "little"), size))
            listed = int.from_bytes(file.read(56)[40:48], "little")
        if listed > min(LISTED, size) or hollow(file, size):
            raise ValueError(f"its list of files has {listed:,} bytes of {size:,}, with next to nothing in them")
    return zipfile.ZipFile(path)


def member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A file in an archive, of at most so many bytes; raises `ValueError`, and what zipfile raises.

    Links, encrypted files and what inflates beyond measure are refused.
    """
    info = sound(archive.getinfo(name))
    if info.file_size > most:
        raise ValueError(f"{info.file_size:,} bytes, more than the limit of {most:,}")
    with archive.open(info) as file:
        return file.read(info.file_size)


def sound(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """The same; raises `ValueError` for a link, an encrypted file, and what could inflate without measure."""
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError("a link, which is not followed")
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    if info.compress_type not in PACKED:
        raise ValueError(f"it is packed by method {info.compress_type}, and allowed is DEFLATE")
    if info.file_size > max(SMALL, INFLATION * info.compress_size):
        raise ValueError(f"{info.compress_size:,} bytes inflate to {info.file_size:,}: not read")
    return info


# --- arrays -----------------------------------------------------------------------------------------------------------


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
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran, dtype = read(io.BytesIO(length + text))
    except Exception as error:  # numpy evaluates the header as Python literals, which can fail in many ways
        raise ValueError("its header cannot be read") from error
    if dtype.hasobject or dtype.names or dtype.subdtype:
        raise ValueError(f"it holds {'objects' if dtype.hasobject else 'records'}, and allowed are numbers and text")
    if len(shape) > AXES or not all(0 <= side < 2**48 for side in shape) or (shape and not dtype.itemsize):
        raise ValueError(f"its header tells of an impossible shape {shape!s:.100}")
    found = Header(dtype, shape, fortran, 8 + len(length) + count)
    if size < found.offset + found.size:
        raise ValueError(f"its header tells of {found.size:,} bytes, and {max(size - found.offset, 0):,} follow")
    return found


def values(file: IO[bytes], about: Header) -> np.ndarray:
    """The values that follow a header; raises `ValueError` where they end too early."""
    raw = np.empty(about.size, np.uint8)
    view, place = raw.data, 0
    while place < len(view) and (part := file.read(min(len(view) - place, 2**20))):
        view[place : place + len(part)] = part
        place += len(part)
    if place < len(view):
        raise ValueError(f"{len(view):,} bytes of values are expected, and {place:,} follow")
    found = raw.view(about.dtype) if about.dtype.itemsize else np.zeros((), about.dtype)
    return found.reshape(about.shape, order="F" if about.fortran else "C")


def array(path: Path, most: int | None = None) -> np.ndarray:
    """The array in a ``.npy`` file of at most so many bytes; raises `OSError` and `ValueError`."""
    with opened(path, most) as file:
        return array_in(file, os.fstat(file.fileno()).st_size)


def array_in(file: IO[bytes], size: int) -> np.ndarray:
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
            with self._archive.open(sound(info)) as file:
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
        if about.dtype.kind != "U" or about.shape or about.size > 4 * JSON:  # four bytes a character
            raise ValueError(f"'{name:.80}' is no text")
        return str(self[name])


@contextmanager
def arrays(path: Path) -> Iterator[Arrays]:
    """An ``.npz`` file; raises `OSError`, `ValueError`, and what zipfile and zlib raise."""
    with archive(path) as members:
        yield Arrays(members)
