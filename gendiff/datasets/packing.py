"""Packing: any source of events becomes a packed set, which is whole or says how far it has come.

The same source gives the same bytes for any number of processes, and whatever interrupts them: events are written in the
order of their indices, and each block is forced to the disk before ``packing.json`` tells of it. What is done again after a
crash is read back and compared with the SHA-256 in there.
"""

from __future__ import annotations

import hashlib
import math
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from gendiff.data import Data, told_of
from gendiff.datasets.images import reason
from gendiff.datasets.packed import (
    CHECKS,
    FORMATS,
    HEADER,
    JOURNAL,
    JOURNAL_FORMAT,
    MANIFEST,
    VALUES,
    PackedSet,
    checks_file,
    column_content,
    column_file,
    header,
)
from gendiff.datasets.preparation import Chunk, Preparation, Resize, prepared_shape, resizing, value_type
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.machine.stopping import StopRequest, stop_requests, stopped
from gendiff.machine.workers import in_order
from gendiff.plugin.discovery import version
from gendiff.shapes import EventShape
from gendiff.storage.files import Files, to_become
from gendiff.storage.lock import NAME as LOCK
from gendiff.storage.lock import locked
from gendiff.storage.reading import opened
from gendiff.storage.sealed import check_seal, parsed, read, sealed

CHUNK, CHUNK_BYTES = 64, 2**20  # events, and about how many bytes, that a process prepares at a time
BLOCK_BYTES, BLOCK_SECONDS = 2**26, 2.0  # how much, and how long, is gathered before it is forced to the disk
LISTED = 1000  # events left out that are listed by name; the others are counted
OWN = {VALUES, CHECKS, MANIFEST, JOURNAL, LOCK}
FIRST = {LOCK, JOURNAL}  # what may be there, or begun, before packing.json is, which every other file needs

Watch = Callable[[int, int], None]


@dataclass
class Progress:
    """How far a set has come, as packing.json says it.

    Args:
        read: events of the source that were read.
        written: those of them that are in data.npy; the others are in ``skipped``.
        left_out: the indices of those that are not, though the source counts them.
        rounding: the largest difference to a value that was not one of 8 bits.
        content: the SHA-256 of the values so far.

    """

    read: int = 0
    written: int = 0
    rounding: float = 0.0
    content: str = ""
    skipped_count: int = 0
    skipped: list[list[Any]] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)

    def skip(self, name: str, why: str) -> None:
        """Note an event that is left out."""
        self.skipped_count += 1
        if len(self.skipped) < LISTED:
            self.skipped.append([name, why])

    def check(self, total: int) -> None:
        """Raise `TypeError` where it cannot be: it was read from a file."""
        counts = (self.written, self.read, total)
        if not all(type(count) is int for count in counts) or not 0 <= counts[0] <= counts[1] <= counts[2]:
            raise TypeError(f"{self.written!r:.20} of {self.read!r:.20} events are written")
        if not all(isinstance(part, list) for part in (self.skipped, self.left_out)) or not isinstance(
            self.rounding, float
        ):
            raise TypeError("no list of events that were left out, or no rounding")


def pack(
    data: Data,
    folder: Path,
    *,
    resize: Resize | None = None,
    n: int | None = None,
    skip_bad: bool = False,
    workers: int = 0,
    watch: Watch = lambda count, total: None,
    files: Files | None = None,
) -> PackedSet:
    """Pack the events of ``data`` into ``folder``, or go on where that was interrupted; a set that is whole stays as it is.

    Args:
        folder: a new or empty directory, or one where the same was begun.
        resize: the size that pictures are given; None keeps that of ``data``.
        n: how many events, the first ones; None is all, and an endless source needs a number.
        skip_bad: leave out events that cannot be read, and count them.
        workers: processes that read; 0 is this one alone.
        watch: called with the numbers of events that were read and are to be read.

    Raises:
        ConfigError: where ``folder`` holds something else, and for data that 8 bits cannot hold.
        DataError: for an event that cannot be read, and where a set is damaged.
        GendiffError: where the disk refuses, and where another process packs there.
        Stopped: on a request to stop.

    """
    files = files or Files()
    total, shape = _total(data, n), prepared_shape(data, resize)
    source = {
        "spec": data.spec,
        "fingerprint": data.fingerprint,
        "events": total,
        "event_shape": list(shape),
        "resize": resizing(data, resize),
        "pillow": PIL.__version__,
        **_told(data, resize),
    }
    size = math.prod(shape) * value_type(data).itemsize
    _refuse_foreign(folder)
    if (folder / MANIFEST).exists() and not (folder / JOURNAL).exists():
        return _as_asked(folder, source)
    if (folder / JOURNAL).exists():
        _journal(folder)  # nothing, not even a lock, is written beside one that is not ours
    with ExitStack() as stack:
        with _writing(folder, total, size):
            files.make_directory(folder)
            stack.enter_context(locked(folder, "packed", "wait for it, stop it, or choose another directory"))
        if (folder / MANIFEST).exists():
            whole = _as_asked(folder, source)
        else:
            packer = _Packer(folder, source, files, total, shape, data)
            packer.begin(data.skipped)
            packer.run(Preparation(data, resize, shape), skip_bad, workers, watch)
            whole = packer.finish()
        with _writing(folder, total, size):
            for name in (LOCK, JOURNAL):
                if (folder / name).exists():
                    files.remove(folder / name)
    return whole


class _Packer:
    """One set on its way, under its lock."""

    def __init__(
        self, folder: Path, source: dict[str, Any], files: Files, total: int, shape: EventShape, data: Data
    ) -> None:
        self.data = data
        self.folder = folder
        self.source = source
        self.files = files
        self.total = total
        self.shape = shape
        self.type = value_type(data)
        self.event_bytes = math.prod(shape) * self.type.itemsize
        self.progress = Progress()
        self.sha256 = hashlib.sha256()
        self.checks = np.zeros(0, np.uint32)
        self.block: list[bytes] = []
        self.block_bytes = 0

    def begin(self, bad: Any) -> None:
        """Take up what is there, or write an empty set."""
        journal, values = self.folder / JOURNAL, self.folder / VALUES
        have = values.stat().st_size if values.exists() else 0
        size = 2 * HEADER + self.total * (self.event_bytes + 4)
        if (free := shutil.disk_usage(self.folder).free) + have < size:
            raise GendiffError(
                f"not enough room in '{self.folder}'",
                details=[f"{size - have:,} bytes needed for {self.total:,} events, {free:,} free"],
                fix="make room, or choose a directory on another disk",
            )
        self.checks = np.zeros(self.total, np.uint32)
        if journal.exists():
            self._take_up()
        with self._writing():
            if not journal.exists():
                for name, why in bad:
                    self.progress.skip(str(name), why)
                self._tell()
            if have < HEADER:  # there is none, or not even its header was written
                if values.exists():
                    self.files.remove(values)
                self.files.write(values, bytes(HEADER))
                self.files.sync_directory(self.folder)

    def run(self, work: Preparation, skip_bad: bool, workers: int, watch: Watch) -> None:
        """Read what is left, in order, and write it."""
        size = max(1, min(CHUNK, CHUNK_BYTES // self.event_bytes))
        spans = [(start, min(start + size, self.total)) for start in range(self.progress.read, self.total, size)]
        watch(self.progress.read, self.total)
        last_flush = time.monotonic()
        with stop_requests(), closing(in_order(work, spans, workers)) as chunks:
            try:
                for chunk in chunks:
                    if chunk.bad and not skip_bad:
                        self._fail(chunk)
                    self._gather(chunk)
                    watch(chunk.stop, self.total)
                    if self.block_bytes >= BLOCK_BYTES or time.monotonic() - last_flush >= BLOCK_SECONDS:
                        self._flush()
                        last_flush = time.monotonic()
            except StopRequest as request:
                self._flush()
                if self.progress.read < self.total:
                    where = f"at event {self.progress.read:,} of {self.total:,}"
                    remark = "what was packed is kept"
                    raise stopped(where, request.number, remark, "run the same command again") from request
        self._flush()

    def finish(self) -> PackedSet:
        """Write the header, the check sums and, last, the manifest."""
        count = self.progress.written
        if not count:
            raise DataError(
                f"none of the {self.total:,} events can be read",
                details=[f"{name}: {why}" for name, why in self.progress.skipped[:5]],
                fix="check the source",
            )
        checks = checks_file(self.checks[:count])
        told, latent = self._conditions(), self.data.latent
        manifest = {
            "format": FORMATS[latent is not None],
            "count": count,
            "event_shape": list(self.shape),
            **({"values": "x = v/127.5 - 1"} if latent is None else {"values": "latents", "latent": latent.table()}),
            "largest_rounding": self.progress.rounding,
            "content": self.progress.content,
            "checks": hashlib.sha256(checks).hexdigest(),
            **({"conditions": {name: about for name, (about, _) in told.items()}} if told else {}),
            **self._groups(),
            "source": self.source,
            "skipped": {"count": self.progress.skipped_count, "first": self.progress.skipped},
            "gendiff": version("gendiff"),
        }
        with self._writing():
            self.files.overwrite(self.folder / VALUES, header(self.type.str, (count, *self.shape)))
            self.files.replace(self.folder / CHECKS, checks)
            for name, (_, content) in told.items():
                self.files.replace(self.folder / column_file(name), content)
            self.files.replace(self.folder / MANIFEST, sealed(manifest))
        return PackedSet.open(self.folder)

    def _groups(self) -> dict[str, list[tuple[str, int]]]:
        """How many events that follow each other are pieces of one thing, known by a hash; empty where each is alone."""
        if not self.data.group(0):
            return {}
        left_out = set(self.progress.left_out)
        names = (self.data.group(index) for index in range(self.total) if index not in left_out)
        runs = [(name.encode("utf-8", "surrogateescape"), len(list(pieces))) for name, pieces in groupby(names)]
        return {"groups": [(hashlib.blake2b(name, digest_size=6).hexdigest(), count) for name, count in runs]}

    def _conditions(self) -> dict[str, tuple[dict[str, Any], bytes]]:
        """What the manifest says of each condition of the source, and the content of its file."""
        conditions, left_out = self.data.conditions, set(self.progress.left_out)
        values: dict[str, list[Any]] = {name: [] for name in conditions}
        if conditions:
            for index in range(self.total):
                if index not in left_out:
                    told = told_of(self.data, conditions, index)
                    for name, condition in conditions.items():
                        values[name].append(condition.value(name, told[name]).numpy())
        result = {}
        for name, condition in conditions.items():
            content = column_content(condition, values[name])
            result[name] = ({**condition.table(), "sha256": hashlib.sha256(content).hexdigest()}, content)
        return result

    def _take_up(self) -> None:
        """Where a set was left, and what of it is on the disk."""
        facts = _journal(self.folder)
        source = facts.pop("source")
        try:
            self.progress = Progress(**facts)
            self.progress.check(self.total)
        except TypeError as error:
            raise _unusable(self.folder, str(error)) from error
        _refuse_another(self.folder, source, self.source)
        try:
            with opened(self.folder / VALUES) as file:
                file.seek(HEADER)
                for index in range(self.progress.written):
                    self._check(index, file.read(self.event_bytes))
        except FileNotFoundError:
            pass  # it was interrupted before there was one
        except (OSError, ValueError) as error:
            raise _unusable(self.folder, f"{VALUES}: {reason(error)}") from error
        if self.progress.content != self.sha256.hexdigest():
            raise _unusable(
                self.folder, f"the first {self.progress.written:,} events in {VALUES} are not what was written"
            )

    def _check(self, index: int, content: bytes) -> None:
        self.checks[index] = zlib.crc32(content)
        self.sha256.update(content)

    def _gather(self, chunk: Chunk) -> None:
        for value in chunk.values:
            content = value.tobytes()
            self._check(self.progress.written, content)
            self.block.append(content)
            self.block_bytes += len(content)
            self.progress.written += 1
        for index, name, error in chunk.bad:
            self.progress.skip(name, (*error.details, error.what)[0])
            self.progress.left_out.append(index)
        self.progress.rounding = max(self.progress.rounding, chunk.rounding)
        self.progress.read = chunk.stop

    def _fail(self, chunk: Chunk) -> None:
        """Keep what came before the first bad event, and say what is wrong with it."""
        index, _, error = chunk.bad[0]
        good = index - self.progress.read
        self._gather(Chunk(index, chunk.values[:good], chunk.rounding, []))
        self._flush()
        remark = f"{self.progress.written:,} of {self.total:,} events are packed and are kept"
        fix = "leave such events out: --on-bad-image skip, which goes on from here"
        raise DataError(error.what, where=error.where, details=[*error.details, remark], fix=fix) from error

    def _flush(self) -> None:
        with self._writing():
            if self.block:
                at = HEADER + (self.progress.written - len(self.block)) * self.event_bytes
                self.files.append(self.folder / VALUES, b"".join(self.block), at)
            self._tell()
        self.block, self.block_bytes = [], 0

    def _tell(self) -> None:
        """Write packing.json: only what is on the disk already."""
        self.progress.content = self.sha256.hexdigest()
        table = {"format": JOURNAL_FORMAT, "source": self.source, **asdict(self.progress)}
        self.files.replace(self.folder / JOURNAL, sealed(table))

    def _writing(self) -> Any:
        return _writing(self.folder, self.total, self.event_bytes)


# --- what fits --------------------------------------------------------------------------------------------------------


def _told(data: Data, resize: Resize | None) -> dict[str, Any]:
    """Which conditions the source has, where it has any; raises `ConfigError` for one that cannot be packed."""
    conditions = data.conditions
    for name, condition in conditions.items():
        try:
            column_file(name)
        except ValueError as error:
            raise ConfigError(
                f"data '{data.name}' cannot be packed", details=[str(error)], subject="data.name"
            ) from error
        if resize is not None and condition.type == "image":
            what = f"the condition '{name}' of data '{data.name}' is an image, and images beside the events are not resized"
            raise ConfigError(what, where="--size", fix="leave --size out")
    return {"conditions": {name: one.table() for name, one in conditions.items()}} if conditions else {}


def _total(data: Data, n: int | None) -> int:
    length = data.length
    if length is None and n is None:
        what = f"data '{data.name}' is endless"
        raise ConfigError(what, subject="data.name", fix="say how many events to pack: --n 10000")
    if length is not None and n is not None and n > length:
        what = f"data '{data.name}' has {length:,} events, and not {n:,}"
        raise ConfigError(what, where="--n", fix="leave --n out to pack all")
    return n if n is not None else length or 0


# --- where it goes ----------------------------------------------------------------------------------------------------


def _refuse_foreign(folder: Path) -> None:
    """A set goes into a new or empty directory, or where one was begun."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"'{folder}' is a file", where="DEST", fix="choose a new directory")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    ours = OWN | _column_files(folder) if {MANIFEST, JOURNAL} & names else FIRST
    if others := sorted(name for name in names if (to_become(name) or name) not in ours):
        raise ConfigError(
            f"'{folder}' exists and holds something else",
            where="DEST",
            details=[
                f"such as {', '.join(others[:3])}",
                "gendiff never writes into a directory that holds something else",
            ],
            fix="choose a new directory",
        )


def _column_files(folder: Path) -> set[str]:
    """The files of conditions that the manifest or the journal of a folder tells of; none where neither can be read."""
    for name in (MANIFEST, JOURNAL):
        try:
            told = parsed(folder / name, read(folder / name)).get("source", {}).get("conditions", {})
            return {column_file(str(condition)) for condition in told}
        except (OSError, ValueError, AttributeError, TypeError, DataError):
            continue
    return set()


def _journal(folder: Path) -> dict[str, Any]:
    """What packing.json says; raises `DataError` where it is damaged, or none of ours."""
    file = folder / JOURNAL
    try:
        content = read(file)
        facts = check_seal(file, content, parsed(file, content))
    except DataError as error:
        raise _unusable(folder, error.what) from error
    if facts.pop("format", None) != JOURNAL_FORMAT or "source" not in facts:
        raise _unusable(folder, f"{file} was written by another version of gendiff")
    return facts


def _unusable(folder: Path, why: str) -> DataError:
    what = "what was packed before cannot be used"
    fix = f"choose a new directory, or remove '{folder}' if nothing in it is needed"
    return DataError(what, where=str(folder), details=[why], fix=fix)


def _as_asked(folder: Path, source: dict[str, Any]) -> PackedSet:
    """The set that is there and whole, where it is of that source."""
    whole = PackedSet.open(folder)
    _refuse_another(folder, whole.facts.get("source"), source)
    return whole


def _refuse_another(folder: Path, before: Any, now: dict[str, Any]) -> None:
    """What is there must have been made of the same source in the same way; where it was found does not matter."""
    before = before if isinstance(before, dict) else {}
    keys = [key for key in now if key != "spec" and before.get(key) != now[key]]
    if keys:
        raise ConfigError(
            f"'{folder}' holds a set that was packed from something else, or in another way",
            where="DEST",
            details=[f"{key} then: {before.get(key)!s:.200}; now: {now[key]!s:.200}" for key in keys],
            fix=f"choose a new directory, or remove '{folder}' first",
        )


@contextmanager
def _writing(folder: Path, total: int, event_bytes: int) -> Iterator[None]:
    """The disk refuses inside: say what is needed and what there is."""
    try:
        yield
    except OSError as error:
        place = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(place).free
        raise GendiffError(
            f"cannot write the packed set '{folder}': {error.strerror or error}",
            details=[f"{2 * HEADER + total * (event_bytes + 4):,} bytes needed for all, {free:,} free"],
            fix="make room or correct the path, then run the same command again: it goes on where it stopped",
        ) from error
