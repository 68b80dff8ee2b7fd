"""Packed sets: events of one size, 8 bits a value, in one file that is mapped into memory.

    data.npy      uint8, (n, *event), NumPy's own form: x = v/127.5 - 1. The header has 128 bytes. Of latents, float32: x itself.
    checks.npy    uint32, (n,): the CRC-32 of each event's bytes
    label.npy     of a source with conditions, one of each name: int64, (n,) of a label, float32, (n, *shape) of others
    packed.json   written last and sealed: format, count, SHA-256 of all values, where they came from, what was done

While it is being packed (`gendiff.datasets.packing`), ``packing.json`` says how far it has come, and there is no packed.json.
Every event is checked when it is read: a changed byte is never used. The SHA-256 ``content`` is that of the values alone, which
``tail -c +129 data.npy | sha256sum`` prints too.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np

from gendiff.command import command
from gendiff.condition import Condition
from gendiff.datasets.column import Column
from gendiff.datasets.images import Mark, mark, missing, reason
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.shapes import EventShape
from gendiff.storage.reading import hollow, opened
from gendiff.storage.sealed import check_seal, parsed, read

FORMATS = (1, 2)  # of pictures, and of latents, whose packed.json says what decodes them
JOURNAL_FORMAT = 1
VALUES, CHECKS, MANIFEST, JOURNAL = "data.npy", "checks.npy", "packed.json", "packing.json"
HEADER = 128  # bytes before the values
AGAIN = "pack it again: gendiff data prepare SOURCE NEW"


@dataclass(frozen=True, eq=False)
class PackedSet:
    """A packed set that is whole.

    Args:
        content: the SHA-256 of all values.
        facts: what packed.json says.
        columns: the conditions of the events, by name.
        groups: what each event is a piece of; empty where each is alone.

    """

    path: Path
    count: int
    event_shape: EventShape
    content: str
    facts: Mapping[str, Any]
    values: np.ndarray
    checks: np.ndarray
    columns: Mapping[str, Column]
    groups: Sequence[str]

    @classmethod
    def open(cls, path: Path) -> PackedSet:
        """The set at ``path``, opened once per process and again when it changes; raises `DataError` saying what is wrong."""
        try:
            marks = mark(path / MANIFEST), mark(path / VALUES)
        except FileNotFoundError as error:
            raise _absent(path) from error
        except (OSError, ValueError) as error:
            raise _damaged(path, reason(error)) from error
        return _opened(path, marks)

    @property
    def fingerprint(self) -> str:
        """Changes when the events do."""
        return f"packed/1 {self.count} {'x'.join(map(str, self.event_shape))} {self.content[:16]}"

    def __getitem__(self, index: int) -> np.ndarray:
        """A copy of the values of one event, uint8 or of latents float32; raises `DataError` where they have changed."""
        v = np.array(self.values[index])
        if zlib.crc32(v.data) != self.checks[index]:
            raise _damaged(self.path, f"event {index} does not match its check sum")
        return v


def header(descr: str, shape: tuple[int, ...]) -> bytes:
    """What `numpy.save` writes before the values, always `HEADER` bytes long; raises `ValueError` where that is too little."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    if len(text) > HEADER - 11:
        raise ValueError(f"a shape of {len(shape)} axes is too long")
    return b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little") + text.ljust(HEADER - 11).encode() + b"\n"


def column_file(name: str) -> str:
    """The file of a condition, by its name; raises `ValueError` where no file can be called so."""
    if not name.isidentifier() or (file := f"{name}.npy") in (VALUES, CHECKS):
        raise ValueError(f"no condition can be called {name!r:.80} here: a word is needed, other than data and checks")
    return file


def column_content(condition: Condition, values: Sequence[Any]) -> bytes:
    """The content of the file of a condition."""
    array = np.array(values, "<i8" if condition.type == "label" else "<f4").reshape(len(values), *condition.shape)
    return header(array.dtype.str, array.shape) + array.tobytes()


def checks_file(checks: np.ndarray) -> bytes:
    """The content of checks.npy."""
    return header("<u4", checks.shape) + checks.astype("<u4").tobytes()


@lru_cache(maxsize=8)
def _opened(path: Path, marks: tuple[Mark, Mark]) -> PackedSet:
    """Read and check everything but the values; a process that is forked may go on using the map."""
    file = path / MANIFEST
    try:
        content = read(file)
        facts = parsed(file, content)
        if facts.get("format") not in FORMATS:
            known = " and ".join(map(str, FORMATS))
            raise ValueError(f"it has format {facts.get('format')!r:.20}, and this gendiff reads format {known}")
        facts = check_seal(file, content, facts)
        count, shape = _size(facts)
        kind = np.dtype("|u1" if facts["format"] == FORMATS[0] else "<f4")
        if isinstance(facts.get("latent"), dict) != (kind.kind == "f"):
            raise ValueError("its manifest does not say what its values are")
        size = HEADER + count * math.prod(shape) * kind.itemsize
        if marks[1][2] != size:
            raise ValueError(f"{VALUES} has {marks[1][2]:,} bytes, and its manifest tells of {size:,}")
        with opened(path / VALUES) as values:
            if values.read(HEADER) != header(kind.str, (count, *shape)):
                raise ValueError(f"{VALUES} does not begin as its manifest says")
            if hollow(values, size):
                raise ValueError(f"there is next to nothing in {VALUES} but a hole")
        checks = read(path / CHECKS, HEADER + 4 * count)
        if hashlib.sha256(checks).hexdigest() != facts.get("checks"):
            raise ValueError(f"{CHECKS} does not match its SHA-256")
        return PackedSet(
            path,
            count,
            shape,
            str(facts.get("content")),
            facts,
            np.memmap(path / VALUES, kind, "r", HEADER, (count, *shape)),
            np.frombuffer(checks, "<u4", offset=HEADER),
            _columns(path, facts.get("conditions", {}), count),
            _groups(facts.get("groups", []), count),
        )
    except (OSError, TypeError, ValueError, ConfigError, DataError) as error:
        raise _damaged(path, error.what if isinstance(error, GendiffError) else reason(error)) from error


def _columns(path: Path, told: Any, count: int) -> dict[str, Column]:
    """The conditions that a manifest tells of; raises `ValueError` where a file is not what it says, and what reading raises."""
    columns = {}
    for name, about in dict(told).items():
        about = dict(about)
        digest, file = about.pop("sha256", None), column_file(str(name))
        condition = Condition.model_validate(about)
        kind = np.dtype("<i8" if condition.type == "label" else "<f4")
        shape = (count, *condition.shape)
        content = read(path / file, HEADER + math.prod(shape) * kind.itemsize)
        if hashlib.sha256(content).hexdigest() != digest or not content.startswith(header(kind.str, shape)):
            raise ValueError(f"{file} does not match its SHA-256")
        columns[str(name)] = Column(condition, np.frombuffer(content, kind, offset=HEADER).reshape(shape))
    return columns


def _groups(told: Any, count: int) -> Sequence[str]:
    """What each event is a piece of, as the manifest tells it; raises `ValueError` where it does not tell it of every event."""
    runs = [(str(name), int(pieces)) for name, pieces in told]
    if runs and (sum(pieces for _, pieces in runs) != count or min(pieces for _, pieces in runs) < 1):
        raise ValueError("its manifest does not tell of which group every event is")
    return list(chain.from_iterable(repeat(name, pieces) for name, pieces in runs))


def _size(facts: Mapping[str, Any]) -> tuple[int, EventShape]:
    """How many events of which shape; raises `ValueError` for what no set has."""
    count, shape = facts.get("count"), facts.get("event_shape")
    numbers = [count, *shape] if isinstance(shape, list) else []
    if not 3 <= len(numbers) <= 9 or not all(type(number) is int and 0 < number < 2**48 for number in numbers):
        raise ValueError(f"its manifest tells of {count!r:.40} events of shape {shape!r:.40}")
    return numbers[0], tuple(numbers[1:])


def _absent(path: Path) -> DataError:
    """What to raise where there is no packed.json or no data.npy."""
    if (path / MANIFEST).exists():
        return _damaged(path, f"{VALUES} is missing")
    if (path / JOURNAL).exists():
        what, fix = f"'{path}' is not packed to its end", "go on: run the same gendiff data prepare again"
        return DataError(what, subject="data.path", fix=fix)
    kind = "a folder that gendiff data prepare made"
    if path.is_dir():
        fix = f"pack it: {command('data', 'prepare', path, 'NEW')}"
        return DataError(
            f"'{path}' is no packed set: there is no {MANIFEST} in it",
            subject="data.path",
            details=[f"allowed: {kind}"],
            fix=fix,
        )
    return missing(path, kind)


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"the packed set '{path.name}' is damaged", where=str(path), details=[why], fix=AGAIN)
