"""Caption: the text that a picture of ours carries, wherever its file goes.

A PNG has it as a text chunk, a GIF as a comment. It is read without decoding anything: a stranger's picture is data, and what
stands before the text is passed over, not looked into.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import BinaryIO

from gendiff.storage.reading import opened, unreadable

KEY = "gendiff"  # of the text chunk, and what a comment begins with
MOST = 2**16  # bytes of a caption
PARTS = 10_000  # chunks or blocks of a file that are passed over
_PNG, _GIF = b"\x89PNG\r\n\x1a\n", b"GIF8"


def caption(path: Path) -> str:
    """The text in a PNG or GIF file, empty where it carries none; raises `DataError` for what is damaged or no such file."""
    try:
        with opened(path) as file:
            start = file.read(8)
            if start == _PNG:
                return _of_png(file)
            if start.startswith(_GIF):
                return _of_gif(file)
            raise ValueError("it is neither a PNG nor a GIF file")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def as_comment(text: str) -> bytes:
    """A caption as the comment of a GIF file."""
    return f"{KEY} {text}".encode("ascii") if text else b""


def _of_png(file: BinaryIO) -> str:
    for _ in range(PARTS):
        size, kind = int.from_bytes(_exactly(file, 4)), _exactly(file, 4)
        if kind == b"IEND":
            return ""
        if kind != b"tEXt" or size > MOST:
            file.seek(size + 4, os.SEEK_CUR)
            continue
        body, check = _exactly(file, size), _exactly(file, 4)
        key, _, text = body.partition(b"\0")
        if key == KEY.encode():
            if zlib.crc32(kind + body) != int.from_bytes(check):
                raise ValueError("its text is damaged")
            return text.decode("ascii")
    return ""


def _of_gif(file: BinaryIO) -> str:
    file.seek(6)
    screen = _exactly(file, 7)
    file.seek(_colours(screen[4]), os.SEEK_CUR)
    for _ in range(PARTS):
        kind = _exactly(file, 1)
        if kind == b";":
            return ""
        if kind == b",":
            file.seek(_colours(_exactly(file, 9)[8]) + 1, os.SEEK_CUR)
            _blocks(file, 0)
        elif kind == b"!":
            is_comment = _exactly(file, 1) == b"\xfe"
            text = _blocks(file, MOST if is_comment else 0)
            key, _, rest = text.partition(b" ")
            if key == KEY.encode():
                return rest.decode("ascii")
        else:
            raise ValueError("it is damaged: no block begins so")
    return ""


def _colours(flags: int) -> int:
    """Bytes of the table of colours that follows."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0


def _blocks(file: BinaryIO, most: int) -> bytes:
    """What is in the blocks up to an empty one, at most so many bytes of it."""
    content = b""
    while size := _exactly(file, 1)[0]:
        if len(content) + size <= most:
            content += _exactly(file, size)
        else:
            file.seek(size, os.SEEK_CUR)
    return content


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise ValueError("it is cut off")
    return content
