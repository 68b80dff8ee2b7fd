"""Reading: nothing is read before it is looked at.

A folder of a stranger may hold pipes, devices, links to endless files, holes of many gigabytes, and archives that inflate a
thousandfold. So a file is opened without waiting, must be a regular one, and of a size that its kind can have; of an archive the
headers are read before what they head. Links are followed to regular files: what is read elsewhere is only data.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from gendiff.errors import DataError
from gendiff.plain import json_object, toml_table

EMPTY = "the file is empty (0 bytes)"
JSON = 4 * 2**20  # bytes of a file of each kind, at most: run.json, manifests, evaluations
TOML = 2**20
ROW = 2**20  # of metrics.jsonl
ROWS = 2**30
BLOCK = 2**16  # bytes of a file that are read at once from its end
HOLES = 1000  # of a file that are counted
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
            size = os.fstat(file.fileno()).st_size
            data = file.read(size + 1)  # a file of the kernel's says that it is empty, and one may grow
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if len(data) != size:
        raise unreadable(path, ValueError(f"it said that it has {size:,} bytes, and it has others"))
    return data


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
            budget = ROWS
            while line := file.readline(ROW + 1):
                budget -= len(line)
                if len(line) > ROW or budget < 0:
                    raise ValueError(f"a line has more than {ROW:,} bytes" if budget >= 0 else "it grows without end")
                yield line.rstrip(b"\r\n")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def last_rows(path: Path) -> Iterator[bytes]:
    """The same lines from the last to the first: who wants the newest reads the end of a file alone."""
    try:
        with opened(path, ROWS) as file:
            place, rest = file.seek(0, os.SEEK_END), b""
            while place:
                size = min(BLOCK, place)
                place -= size
                file.seek(place)
                first, *lines = (file.read(size) + rest).split(b"\n")
                yield from (line.rstrip(b"\r") for line in reversed(lines))
                rest = first
                if len(rest) > ROW:
                    raise ValueError(f"a line has more than {ROW:,} bytes")
            yield rest.rstrip(b"\r")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def hollow(file: BinaryIO, size: int) -> bool:
    """Whether a large file is all holes but for a hundredth: it would take memory that it never took of the disk."""
    if size <= SMALL:
        return False
    data = place = 0
    for _ in range(HOLES):
        try:
            start = os.lseek(file.fileno(), place, os.SEEK_DATA)
            place = os.lseek(file.fileno(), start, os.SEEK_HOLE)
        except OSError:  # nothing but a hole is left
            break
        data += place - start
        if 100 * data >= size:
            break
    file.seek(0)
    return 100 * data < size


def unreadable(path: Path, error: Exception) -> DataError:
    """What to raise where a file is not what it should be: one line that names it."""
    return DataError(f"cannot read '{path}': {why(error)}", fix="restore it from a copy, or do without it")


def why(error: BaseException) -> str:
    """What was wrong with a file, in one line: what the system says of an `OSError`."""
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _check(status: os.stat_result, most: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if most is not None and status.st_size > most:
        raise ValueError(f"it has {status.st_size:,} bytes, and at most {most:,} are read")


def empty(path: Path) -> bool:
    """Whether there is nothing in what is at ``path``: a file of 0 bytes, a folder or a zip archive without files."""
    try:
        if path.is_dir():
            return all(part.name.startswith(".") for part in path.iterdir())
        with opened(path) as file:
            start = file.read(4)
        return not start or (start == b"PK\x05\x06" and not archive(path).namelist())
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


# --- archives ---------------------------------------------------------------------------------------------------------


def archive(path: Path) -> zipfile.ZipFile:
    """A zip archive whose list of files has a size that can be; raises `OSError`, `ValueError` and `zipfile.BadZipFile`."""
    with opened(path) as file:
        if not (size := file.seek(0, os.SEEK_END)):
            raise ValueError(EMPTY)
        file.seek(max(size - END, 0))
        end = file.read()
        place = end.rfind(b"PK\x05\x06")
        length = int.from_bytes(end[place + 12 : place + 16], "little") if place >= 0 else 0
        if length == 2**32 - 1 and place >= 20:  # too large for that field: another record, further up, has it
            file.seek(min(int.from_bytes(end[place - 12 : place - 4], "little"), size))
            length = int.from_bytes(file.read(56)[40:48], "little")
        if length > min(LISTED, size) or hollow(file, size):
            raise ValueError(f"its list of files has {length:,} bytes of {size:,}, with next to nothing in them")
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


def inflated(size: int) -> int:
    """How many bytes so many may inflate to: DEFLATE makes a thousand of one where there is nothing in them."""
    return max(SMALL, INFLATION * size)


def sound(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """The same; raises `ValueError` for a link, an encrypted file, and what could inflate without measure."""
    if stat.S_ISLNK(info.external_attr >> 16):
        raise ValueError("a link, which is not followed")
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    if info.compress_type not in PACKED:
        raise ValueError(f"it is packed by method {info.compress_type}, and allowed is DEFLATE")
    if info.file_size > inflated(info.compress_size):
        raise ValueError(f"{info.compress_size:,} bytes inflate to {info.file_size:,}: not read")
    return info
