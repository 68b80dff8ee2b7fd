"""Pictures in shards: tar archives as the library webdataset writes them."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from pydantic import Field

from gendiff.condition import Condition
from gendiff.datasets.column import Column
from gendiff.datasets.images import ENDINGS, MOST_BYTES, Mark, mark, missing, none_found, opened_bytes, reason
from gendiff.errors import DataError, printable
from gendiff.plain import json_object
from gendiff.storage import reading
from gendiff_plugins.data.picture_files import PictureFiles

ENDS = 4096  # bytes at each end of a picture that are part of the fingerprint
MOST_LABEL = 2**20  # bytes of what is said of one picture
ALLOWED = "a tar archive of KEY.jpg, KEY.cls and so on, or a folder of such shards (*.tar)"
FIX = "write it again, or take it away"


@dataclass(frozen=True)
class Member:
    """A file in a shard: where its bytes begin, and how many they are."""

    shard: Path
    offset: int
    size: int

    def read(self, most: int) -> bytes:
        """Its bytes; raises `OSError`, and `ValueError` where they are too many or not all there."""
        if self.size > most:
            raise ValueError(f"{self.size:,} bytes, more than the limit of {most:,}")
        with reading.opened(self.shard) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError("the shard ends before it does")
        return content


class WebDataset(PictureFiles):
    """the pictures in webdataset shards, tar archives, resized to one size.

    ``path`` is a tar archive, or a folder of them: those that end in tar, in the order of their names. Files of one key belong
    together, as webdataset has it: the key is what a name has before the first dot of its last part, ``0001`` of ``0001.jpg``,
    ``0001.cls`` and ``0001.json``, and its files lie one after another. The picture is the first of its files with the ending
    of an image, or that with the ending ``picture``. It becomes an event by the rules of the data ``folder``, bad ones included.

    ``label`` names what is said of each picture: by default ``cls``, where every picture has a file of that ending;
    ``json.NAME`` is an entry of the object in its json file. Whole numbers, and words, are the condition ``label``; floating
    point, a number or a list, is the condition ``vector``.

    Shards are read where they lie, by an index of where each file begins that is made once, so that an event is a function of its
    index; the library webdataset, which streams, is not needed. Compressed shards cannot be read from the middle, and are
    refused.

    Raises `DataError` for a missing or damaged shard and where there are no pictures, `IndexError` outside 0..length-1.
    """

    name = "webdataset"

    place: ClassVar[str] = "shards"
    edition: ClassVar[int] = 1

    path: Path = Field(description="a tar archive, or the folder with the shards; ~ is your home")
    picture: str = Field("", description="the ending of the picture, where there are several: jpg, or left.jpg")
    label: str = Field("cls", description="the ending of the label's file, or json.NAME for an entry of the json file")

    @classmethod
    def recognises(cls, path: Path) -> Mapping[str, Any] | None:
        if path.is_dir():
            return {"path": path} if _shards(path) else None
        if not path.is_file() or path.suffix.lower() != ".tar":
            return None
        with reading.opened(path) as file:
            return {"path": path} if file.read(262)[257:] == b"ustar" else None

    def _listed(self) -> tuple[list[str], Mapping[str, int]]:
        others: Counter[str] = Counter()
        names = []
        for key, files in self._samples.items():
            endings = [self.picture] if self.picture else [e for e in files if f".{e.rpartition('.')[2]}" in ENDINGS]
            if endings and endings[0] in files:
                names.append(f"{key}.{endings[0]}")
            others.update(f".{printable(ending)}" for ending in files if ending not in endings[:1])
        if not names:
            raise none_found(others, str(self._root), "shards")
        return names, others

    def _opened(self, name: str) -> AbstractContextManager[Image.Image]:
        return opened_bytes(self._member(name).read(MOST_BYTES))

    def _trace(self, name: str) -> int:
        """The size of a picture, and a check sum of both its ends."""
        member = self._member(name)
        head = Member(member.shard, member.offset, min(ENDS, member.size))
        tail = Member(member.shard, member.offset + member.size - head.size, head.size)
        return member.size << 32 | zlib.crc32(head.read(ENDS) + tail.read(ENDS))

    def _table(self) -> bytes | None:
        return None

    def _where(self, name: str) -> str:
        return str(self._member(name).shard)

    @cached_property
    def _told(self) -> Mapping[str, Column]:
        kind, _, entry = self.label.partition(".") if self.label.startswith("json.") else (self.label, "", "")
        is_default = self.label == type(self).model_fields["label"].default
        values: list[Any] = []
        for name in self._names:
            member = self._samples[_key(name)].get(kind)
            try:
                if member is None:
                    if is_default and not values:
                        return {}
                    raise ValueError(f"there is no file {_key(name).rpartition('/')[2]}.{kind}")
                content = member.read(MOST_LABEL)
                values.append(json_object(content)[entry] if entry else _value(content))
            except Exception as error:
                why = f"it has no '{entry}'" if isinstance(error, KeyError) else reason(error)
                raise self._no_label(f"{printable(name)}: {why}") from error
        try:
            column = _column(values)
        except ValueError as error:
            raise self._no_label(reason(error)) from error
        return {"label" if column.condition.type == "label" else "vector": column}

    def _no_label(self, why: str) -> DataError:
        return DataError(
            f"cannot use '{self.label}' as the labels of '{self._root.name}'",
            subject="data.label",
            details=[why],
            fix="name an ending that every picture has, or json.NAME; label= leaves labels out",
        )

    def _member(self, name: str) -> Member:
        key = _key(name)
        return self._samples[key][name[len(key) + 1 :]]

    @property
    def _samples(self) -> Mapping[str, Mapping[str, Member]]:
        """The files of each key by their ending; the keys begin with the name of the shard where there are several."""
        return _samples(*self._source)

    @cached_property
    def _source(self) -> tuple[tuple[Path, Mark], ...]:
        root = self._root
        if not root.exists():
            raise missing(root, ALLOWED)
        shards = _shards(root) if root.is_dir() else [root]
        if not shards:
            raise DataError(
                f"no shards in '{root}'",
                subject="data.path",
                details=[f"allowed: {ALLOWED}"],
                fix="give another folder",
            )
        try:
            return tuple((shard, mark(shard)) for shard in shards)
        except (OSError, ValueError) as error:
            raise DataError("cannot read a shard", where=str(root), details=[reason(error)], fix=FIX) from error


def _shards(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ".tar" and not file.name.startswith("."))


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


@lru_cache(maxsize=4)
def _samples(*shards: tuple[Path, Mark]) -> Mapping[str, Mapping[str, Member]]:
    samples: dict[str, dict[str, Member]] = {}
    for shard, _ in shards:
        try:
            prefix = f"{shard.stem}/" if len(shards) > 1 else ""
            last = ""
            for name, member in _members(shard):
                key = _key(name)
                ending = name[len(key) + 1 :].lower()
                if key != last and prefix + key in samples:
                    raise ValueError(f"the files of '{printable(key)}' do not lie one after another")
                files = samples.setdefault(prefix + key, {})
                if ending in files:
                    raise ValueError(f"it holds '{printable(name)}' twice")
                files[ending], last = member, key
        except DataError:
            raise
        except Exception as error:
            what = f"cannot read the shard '{shard.name}'"
            raise DataError(what, where=str(shard), details=[reason(error)], fix=FIX) from error
    return samples


def _members(shard: Path) -> Iterator[tuple[str, Member]]:
    """The files of a shard with a key and an ending, by their names; what is no file, and what is hidden, is passed over."""
    with reading.opened(shard) as file:
        start, size = file.read(6), file.seek(0, io.SEEK_END)
        file.seek(0)
        if not start:
            raise ValueError(reading.EMPTY)
        if start[:2] == b"\x1f\x8b" or start[:3] == b"BZh" or start == b"\xfd7zXZ\0":
            raise ValueError("it is compressed, and only a plain tar can be read from the middle: uncompress it")
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                inside = PurePosixPath(info.name)
                if inside.is_absolute() or ".." in inside.parts:
                    raise ValueError(f"it holds '{printable(info.name)}', a path that leads out of the archive")
                hidden = any(part.startswith(".") for part in inside.parts)
                if info.isreg() and not info.sparse and not hidden and "." in inside.name:
                    if info.offset_data + info.size > size:
                        raise ValueError(f"it ends inside of '{printable(info.name)}'")
                    yield inside.as_posix(), Member(shard, info.offset_data, info.size)


def _value(content: bytes) -> Any:
    """What is in a file of a label: a number, numbers, or a word."""
    text = content.decode().strip()
    for number in (int, float):
        try:
            parts = [number(part) for part in text.split()]
        except ValueError:
            continue
        if parts:
            return parts if len(parts) > 1 else parts[0]
    return text


def _column(values: list[Any]) -> Column:
    if all(isinstance(value, str) for value in values):
        classes = sorted(set(values))
        if len(classes) == len(values) > 1:
            raise ValueError(f"it is another word for each picture, such as '{printable(values[0])[:40]}'")
        numbers = {name: number for number, name in enumerate(classes)}
        labels = np.array([numbers[value] for value in values])
        return Column(Condition.label([printable(name) for name in classes]), labels)
    array = np.array(values)
    return Column.of(array, len(array))
