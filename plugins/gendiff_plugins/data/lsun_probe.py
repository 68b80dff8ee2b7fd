"""Read a whole LMDB database of pictures once, in a process of its own: a damaged one can end the process that reads it.

Run as a script: ``python -P lsun_probe.py FOLDER MOST SAMPLED``. On stdout it writes a line of JSON, with ``error`` (a text) or
with ``entries``, ``digest`` and ``bytes``; then the end of every key in the sequence of all keys, as 64-bit numbers, and
that sequence, ``bytes`` long.

It knows nothing of gendiff, so that it starts in a moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from array import array
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def probe(folder: str, most: int, count: int) -> tuple[dict[str, Any], bytes, bytes]:
    """Walk over all entries as the reader will: keys in order, each found again by its key, each value inside the file.

    Raises `ValueError` for what is wrong, and what lmdb raises.

    Args:
        folder: the database.
        most: bytes that a value may have.
        count: number of values, evenly spread, whose content is part of the digest. The keys and sizes of all are.

    """
    lmdb = import_module("lmdb")
    size = (Path(folder) / "data.mdb").stat().st_size
    with lmdb.open(folder, readonly=True, lock=False, readahead=False, create=False) as environment:
        stat = environment.stat()
        extent = (environment.info()["last_pgno"] + 1) * stat["psize"]
        if size < extent:
            raise ValueError(f"data.mdb has {size:,} bytes, and its header tells of {extent:,}")
        n = stat["entries"]
        spread = {number * (n - 1) // max(count - 1, 1) for number in range(count)} if n else set()
        digest, keys, ends = hashlib.sha256(), bytearray(), array("q")
        previous, beyond, farthest = b"", 0, None
        with environment.begin(buffers=True) as transaction:
            for key in map(bytes, transaction.cursor().iternext(keys=True, values=False)):
                value = transaction.get(key)
                if len(ends) >= n or value is None or key <= previous:
                    raise ValueError(f"its entries are not in order, at {key[:60]!r}")
                if len(value) > most:
                    claim = f"the entry {key[:60]!r} has {len(value):,} bytes"
                    raise ValueError(f"{claim}, more than the limit of {most:,}")
                if len(value) and (end := np.frombuffer(value, np.uint8).ctypes.data + len(value)) > beyond:
                    beyond, farthest = end, value
                digest.update(f"{len(value)} ".encode() + key)
                if len(ends) in spread:
                    digest.update(value)
                keys += key
                ends.append(len(keys))
                previous = key
            if farthest is not None:
                bytes(
                    farthest[-1:]
                )  # no value ends beyond this byte; where the file does not reach it, here ends the process
        if len(ends) != n:
            raise ValueError(f"its header tells of {n} entries, and {len(ends)} are there")
    answer = {"entries": n, "digest": digest.hexdigest(), "bytes": len(keys)}
    return answer, np.array(ends, "<i8").tobytes(), bytes(keys)


def main() -> None:
    """The script."""
    try:
        answer, *parts = probe(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    except Exception as error:
        answer, parts = {"error": str(error) or type(error).__name__}, []
    with os.fdopen(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(json.dumps(answer).encode() + b"\n")
        for part in parts:
            out.write(part)


if __name__ == "__main__":
    main()
