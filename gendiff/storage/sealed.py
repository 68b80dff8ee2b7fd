"""Sealed files: JSON in which any changed byte shows, for the manifests of what gendiff keeps.

A seal is the SHA-256 of the object without it, written in the one way there is to write it. It tells damage, not malice:
whoever changes a file on purpose can seal it again, so what is read is checked like any other input.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gendiff.errors import DataError

MAX_JSON = 16 * 2**20  # bytes: a manifest larger than this is not ours


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
    try:
        if not file.is_file():  # a missing file, or a pipe or device that a stranger put there
            raise DataError(f"{file} is missing or not a regular file")
        found = file.stat().st_size
        if file.suffix == ".json" and found > MAX_JSON:
            raise DataError(f"{file} is implausibly large")
        if size is not None and found != size:
            raise DataError(f"{file} has {found:,} bytes, its manifest says {size!r:.20}")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error


def parsed(file: Path, content: bytes) -> dict[str, Any]:
    """The object in ``content``, which was read from ``file``; raises `DataError`."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON") from error
    if not isinstance(value, dict):
        raise DataError(f"{file} is not a JSON object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
