"""Sealed files: JSON in which any changed byte shows, for the manifests of what gendiff keeps.

A seal is the SHA-256 of the object without it, written in the one way there is to write it. It tells damage, not malice:
whoever changes a file on purpose can seal it again, so what is read is checked like any other input.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gendiff.errors import DataError
from gendiff.plain import json_object
from gendiff.storage.reading import JSON, content, hollow, opened, unreadable


def plain(table: Mapping[str, Any]) -> bytes:
    """The one way to write an object; raises `ValueError` for numbers that JSON cannot hold."""
    return json.dumps(table, indent=1, sort_keys=True, allow_nan=False).encode()


def sealed(table: Mapping[str, Any]) -> bytes:
    """An object with a hash of itself."""
    return plain({**table, "sha256": hashlib.sha256(plain(table)).hexdigest()})


def check_seal(file: Path, content: bytes, table: Mapping[str, Any]) -> dict[str, Any]:
    """``table``, which `parsed` found in ``content``, without its seal; raises `DataError` where a byte has changed."""
    rest = {key: value for key, value in table.items() if key != "sha256"}
    if sealed(rest) != content:
        raise DataError(f"{file} is damaged: it does not match its own SHA-256")
    return rest


def read(file: Path, size: Any = None) -> bytes:
    """A regular file, of exactly ``size`` bytes where that is known; raises `DataError`."""
    if size is None:
        return content(file, JSON)
    try:
        with opened(file, JSON if file.suffix == ".json" else None) as open_file:
            actual = os.fstat(open_file.fileno()).st_size
            if actual != size:
                raise DataError(f"{file} has {actual:,} bytes, its manifest says {size!r:.20}")
            if hollow(open_file, actual):
                raise DataError(f"{file} is a hole of {actual:,} bytes, with next to nothing in it")
            return open_file.read(actual)
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from error


def parsed(file: Path, content: bytes) -> dict[str, Any]:
    """The object in ``content``, which was read from ``file``; raises `DataError`."""
    try:
        return json_object(content)
    except ValueError as error:
        raise DataError(f"{file} is {error}") from error
