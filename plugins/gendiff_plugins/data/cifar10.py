"""The pictures of CIFAR-10, from its own archives."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NoReturn

import numpy as np
from pydantic import Field
from torch import Tensor

from gendiff.condition import Condition, Conditions
from gendiff.data import Data
from gendiff.datasets.images import Mark, event_of, located, mark, missing, reason
from gendiff.errors import DataError, printable
from gendiff.shapes import EventShape
from gendiff.storage.reading import opened

BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
ALLOWED = f"{ARCHIVES[0]} or {ARCHIVES[1]}, as published, or the folder that one of them unpacks to"
FIX = "download it again from https://www.cs.toronto.edu/~kriz/cifar.html"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
VALUES = 3 * 32 * 32  # of one picture
MOST_BYTES = 2**26  # of one batch; the published ones have 31 million
MOST_UNPACKED = 2**30  # of an archive
MOST_OPCODES = 1_000_000  # of one pickle; the published ones have about 30 000

# What a pickle of texts, numbers, lists, a table and an array is made of. Nothing here looks a name up but GLOBAL and
# STACK_GLOBAL, and nothing calls but REDUCE and BUILD: all four meet the stand-ins of `_unpickled` only.
OPCODES = frozenset(
    {
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"),
        *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING"),
        *("SHORT_BINBYTES", "BINBYTES", "SHORT_BINUNICODE", "BINUNICODE"),
        *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS", "BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    }
)
CLAIMS = frozenset({"FRAME", "LONG_BINPUT"})  # instructions that allocate as much as they say


class Cifar10(Data):
    """the pictures of CIFAR-10, 3x32x32, from its own archive.

    ``x = v/127.5 - 1`` for the 8-bit values v, in the order of the files: ``data_batch_1`` to ``data_batch_5`` for
    ``split=train``, ``test_batch`` for ``split=test``. Both versions that are published for any language give the same events:
    the Python version and the binary one, each as the ``tar.gz`` or unpacked. They are read into memory at first use.

    The condition ``label`` is the class, by its name or its number: airplane is 0, truck 9.

    The Python version is pickled. It is read without running anything: only the few instructions are accepted that its
    texts, numbers and arrays need, and any other raises `DataError`. Archives are read without unpacking them; absolute paths,
    ``..`` and links are refused.

    Raises `DataError` naming the file that is missing or damaged, `IndexError` outside 0..length-1.

    Source: A. Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    name = "cifar10"

    path: Path = Field(description="the archive, or the folder that holds it or its files; ~ is your home")
    split: Literal["train", "test"] = Field("train", description="train: 50 000 pictures; test: 10 000")

    @property
    def event_shape(self) -> EventShape:
        _ = self._pixels  # a missing file is reported here, before a model of this shape is built
        return (3, 32, 32)

    @property
    def length(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < self.length:
            raise IndexError(f"picture {index} of {self.length}")
        return event_of(self._pixels[index].reshape(3, 32, 32).transpose(1, 2, 0).copy())

    @property
    def conditions(self) -> Conditions:
        return {"label": Condition.label(CLASSES)}

    def condition(self, index: int) -> Mapping[str, Any]:
        return {"label": int(_read(self._files, self.split)[index, 0])}

    @cached_property
    def fingerprint(self) -> str:
        return (
            f"cifar10/1 {self.split} {self.length} pictures {hashlib.sha256(self._pixels.tobytes()).hexdigest()[:16]}"
        )

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        names = [*ARCHIVES, *FOLDERS, *(f"{batch}{ending}" for batch in BATCHES["train"] for ending in ("", ".bin"))]
        archive = path.name in ARCHIVES or _is_archive(path)
        return {"path": path} if archive or any((path / name).exists() for name in names) else None

    @property
    def _pixels(self) -> np.ndarray:
        return _read(self._files, self.split)[:, 1:]

    @cached_property
    def _files(self) -> tuple[tuple[Path, Mark], ...]:
        """The archive, or one file per batch, and what they were at first use."""
        files = _found(located(self.path), BATCHES[self.split])
        for file in files:
            with _naming(file.name, file):
                mark(file)
        return tuple((file, mark(file)) for file in files)


@lru_cache(maxsize=4)
def _read(files: tuple[tuple[Path, Mark], ...], split: str) -> np.ndarray:
    """All records, ``(n, 3073)``, a label and its pixels.

    Every component of these files in this process shares them, and forked processes do too.
    """
    names = BATCHES[split]
    if len(files) == 1 and files[0][0].name.removesuffix(".bin") not in names:
        return np.concatenate(_from_archive(files[0][0], names))
    batches = []
    for file, _ in files:
        with _naming(file.name, file), opened(file) as content:
            batches.append(_batch(file.name, content.read(MOST_BYTES + 1)))
    return np.concatenate(batches)


def _found(path: Path, names: tuple[str, ...]) -> list[Path]:
    """The archive at or in ``path``, or the files of the batches."""
    if path.is_file():
        return [path]
    if not path.exists():
        raise missing(path, ALLOWED)
    for folder in (path, *(path / name for name in FOLDERS)):
        for ending in ("", ".bin"):
            files = [folder / f"{name}{ending}" for name in names]
            if not any(file.exists() for file in files):
                continue
            if absent := [file.name for file in files if not file.exists()]:
                raise DataError(f"CIFAR-10 is not complete: no {', '.join(absent)}", where=str(folder), fix=FIX)
            return files
    for name in ARCHIVES:
        if (path / name).is_file():
            return [path / name]
    raise DataError(
        f"no CIFAR-10 in '{path}'",
        subject="data.path",
        details=[f"looked for {names[0]}, {names[0]}.bin, {', '.join((*FOLDERS, *ARCHIVES))}", f"allowed: {ALLOWED}"],
        fix=FIX,
    )


@contextmanager
def _naming(name: str, path: Path) -> Iterator[None]:
    """Whatever is raised inside is a `DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        what = f"cannot read '{name}' of CIFAR-10"
        raise DataError(what, where=str(path), details=[reason(error)], fix=FIX) from error


# --- archives ---------------------------------------------------------------------------------------------------------


def _from_archive(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    batches: dict[str, np.ndarray] = {}
    with _naming(path.name, path), opened(path) as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if is_gzip else file
        reader: Any = _Bounded(stream)
        try:
            with tarfile.open(fileobj=reader, mode="r:") as archive:
                for member in archive:
                    inside = PurePosixPath(member.name)
                    if inside.is_absolute() or ".." in inside.parts:
                        raise ValueError(f"it holds '{printable(member.name)}', a path that leads out of the archive")
                    batch = inside.name.removesuffix(".bin")
                    if batch not in names:
                        continue
                    with _naming(printable(member.name), path):
                        if not member.isreg():
                            raise ValueError("not a file (links are not followed)")
                        if batch in batches:
                            raise ValueError("the archive holds it twice")
                        content = archive.extractfile(member)
                        assert content is not None  # it is a file
                        batches[batch] = _batch(inside.name, content.read(MOST_BYTES + 1))
        except tarfile.ReadError as error:
            raise ValueError(f"not a tar archive ({error})") from error
        except zlib.error as error:
            raise ValueError(f"damaged compression ({error})") from error
    if absent := [name for name in names if name not in batches]:
        raise DataError(f"CIFAR-10 is not complete: no {', '.join(absent)}", where=str(path), fix=FIX)
    return [batches[name] for name in names]


def _is_archive(path: Path) -> bool:
    """Whether the first thing in it, compressed or not, has the folder's name that both published archives begin with."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            head = gzip.GzipFile(fileobj=file).read(512) if is_gzip else file.read(512)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return False
    return head[:100].partition(b"\0")[0].partition(b"/")[0].decode("latin1") in FOLDERS


class _Bounded:
    """A file that gives up where an archive unpacks to more than CIFAR-10 can."""

    def __init__(self, file: BinaryIO | gzip.GzipFile) -> None:
        self.file = file

    def read(self, size: int) -> bytes:
        self._allow(self.file.tell() + size)
        return self.file.read(size)

    def seek(self, position: int) -> int:
        self._allow(position)
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()

    def _allow(self, end: int) -> None:
        if end > MOST_UNPACKED:
            raise ValueError(f"it unpacks to more than {MOST_UNPACKED:,} bytes")


# --- batches ----------------------------------------------------------------------------------------------------------


def _batch(name: str, content: bytes) -> np.ndarray:
    """The records of one batch, ``(n, 3073)``, a label and its pixels; raises `ValueError` saying what is wrong."""
    if not content:
        raise ValueError("the file is empty (0 bytes)")
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes, which no batch has")
    if not name.endswith(".bin"):
        return _pickled(content)
    if len(content) % (1 + VALUES):
        raise ValueError(f"{len(content):,} bytes are not a whole number of records of {1 + VALUES} bytes")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + VALUES)
    if records[:, 0].max() > 9:
        raise ValueError(f"it holds the label {records[:, 0].max()}, and CIFAR-10 has 0 to 9")
    return records


def _pickled(content: bytes) -> np.ndarray:
    table = _unpickled(content)
    if not isinstance(table, dict):
        raise ValueError("it holds no table of data and labels")
    table = {key.encode() if isinstance(key, str) else key: value for key, value in table.items()}
    data, labels = table.get(b"data"), table.get(b"labels")
    if data is None or not isinstance(labels, list):
        raise ValueError(f"no data and labels in it, but {', '.join(sorted(map(repr, table)))[:200]}")
    state = getattr(data, "arguments", None)
    if not isinstance(state, tuple) or len(state) != 5:
        raise ValueError("its data are no array")
    _, shape, dtype, fortran, raw = state
    if getattr(dtype, "arguments", ())[:1] not in {(b"u1",), ("u1",)}:
        raise ValueError("its data are no 8-bit values")
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[0] != len(labels) or shape[1] != VALUES or not labels:
        raise ValueError(
            f"its data have the shape {shape!r:.60}, not ({len(labels)}, {VALUES}), one row for each label"
        )
    if not isinstance(raw, bytes) or len(raw) != math.prod(shape) or fortran is not False:
        raise ValueError("its data are not stored row by row")
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise ValueError("its labels are not all whole numbers from 0 to 9, as those of CIFAR-10 are")
    return np.column_stack([np.array(labels, np.uint8), np.frombuffer(raw, np.uint8).reshape(shape)])


def _unpickled(content: bytes) -> Any:
    """What a pickle holds, arrays as stand-ins that only keep what they were told; raises `ValueError` for anything else.

    No code of numpy or of anything named in the file runs. The stand-ins are made anew for every file, so that nothing in
    one can touch the next.
    """

    class StandIn:
        arguments: tuple[Any, ...] = ()

        def __init__(self, *arguments: Any) -> None:
            self.arguments = arguments

        def __setstate__(self, state: Any) -> None:
            if not self.arguments:  # an array; a dtype has its name already, and its byte order is that of single bytes
                self.arguments = state if isinstance(state, tuple) else ()

    def array(*_: Any) -> StandIn:
        return StandIn()

    def encoded(text: Any, encoding: Any = None) -> bytes:  # how Python 3 writes bytes into a pickle of protocol 2
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise ValueError("it encodes a text in an unknown way")
        return text.encode("latin1")

    stand_ins = {
        "numpy.core.multiarray._reconstruct": array,
        "numpy._core.multiarray._reconstruct": array,
        "numpy.ndarray": StandIn,
        "numpy.dtype": StandIn,
        "_codecs.encode": encoded,
    }

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return stand_ins.get(f"{module}.{name}") or _refuse(f"{module}.{name}")

        def persistent_load(self, pid: Any) -> NoReturn:
            _refuse("a persistent object")

    _inspect(content)
    return Restricted(io.BytesIO(content), encoding="bytes").load()


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"its pickle asks for {what[:80]}, which CIFAR-10 does not need and which could run code: not run")


def _inspect(content: bytes) -> None:
    """Read the instructions of a pickle without following them: refuse foreign ones, and any that claims much memory."""
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name not in OPCODES:
                _refuse(f"the instruction {opcode.name}")
            if number > MOST_OPCODES or (opcode.name in CLAIMS and int(argument or 0) > len(content)):
                raise ValueError("its pickle claims more memory than CIFAR-10 needs: not read")
    except UnicodeDecodeError as error:
        raise ValueError(f"not a pickle ({error.reason})") from error
