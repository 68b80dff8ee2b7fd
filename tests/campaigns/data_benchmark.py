"""Speed of a packed set beside the source it was packed from, in one run.

    python tests/campaigns/data_benchmark.py                        # pictures as large as those of LSUN
    python tests/campaigns/data_benchmark.py --out docs/benchmarks.md

Dead leaves are written as a folder of JPEG files and, where lmdb is installed, as an LSUN database; both are packed. Then all
are read in turn, several times over, and medians are taken: events one after another in random order, and the batches that
training sees, noise and all. Everything is in the page cache, so what is measured is decoding and reading, and no disk. Exits
with 1 where a packed event differs from its source's in any bit.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from gendiff.data import Data
from gendiff.datasets import pictures
from gendiff.datasets.batches import Batches
from gendiff.datasets.packing import pack
from gendiff.streams import stream

FULL = {"pictures": 256, "picture": [256, 340], "size": 64, "reads": 512, "batch": 32, "rounds": 5}
TINY = {"pictures": 12, "picture": [40, 56], "size": 16, "reads": 24, "batch": 4, "rounds": 2}


@dataclass
class Row:
    """One line of the table: images/s, read alone and in batches."""

    name: str
    bytes_each: float
    read: float
    batches: float


def encoded(scale: dict) -> Iterator[bytes]:
    """JPEG files of dead leaves."""
    leaves = Data.model_validate({"name": "dead-leaves", "size": scale["picture"]})
    for index in range(scale["pictures"]):
        file = io.BytesIO()
        pictures.image(leaves[index]).save(file, "JPEG", quality=90)
        yield file.getvalue()


def written(folder: Path, scale: dict) -> dict[str, tuple[Data, float]]:
    """The unpacked sources by name, with the mean size of a picture's file."""
    contents = list(encoded(scale))
    each = sum(map(len, contents)) / len(contents)
    (folder / "files").mkdir()
    for number, content in enumerate(contents):
        (folder / "files" / f"{number:06}.jpg").write_bytes(content)
    specs = {"folder": {"name": "folder", "path": str(folder / "files"), "size": scale["size"]}}
    if find_spec("lmdb"):
        import lmdb

        with (
            lmdb.open(str(folder / "lmdb"), map_size=2**32) as environment,
            environment.begin(write=True) as transaction,
        ):
            for content in contents:
                transaction.put(hashlib.sha1(content).hexdigest().encode(), content)
        specs["lsun"] = {"name": "lsun", "path": str(folder / "lmdb"), "size": scale["size"]}
    return {name: (Data.model_validate(spec), each) for name, spec in specs.items()}


def reading(data: Data, scale: dict) -> float:
    """Events per second, one after another in random order, in this process."""
    length = data.length or 0
    order = torch.randint(length, (scale["reads"],), generator=stream(0, "benchmark")).tolist()
    started = time.perf_counter()
    for index in order:
        data[index]
    return len(order) / (time.perf_counter() - started)


def batching(data: Data, scale: dict, workers: int) -> float:
    """Events per second in the batches of training; the start of the processes stays out of the clock."""
    steps = max(2, scale["reads"] // scale["batch"])
    loader = Batches(data, 1000, 0, scale["batch"]).loader(1, steps + 1, workers, torch.device("cpu"))
    next(loader)
    started = time.perf_counter()
    count = sum(len(batch.x_0) for batch in loader)
    return count / (time.perf_counter() - started)


def measured(every: dict[str, tuple[Data, float]], scale: dict, workers: int) -> list[Row]:
    """All sources in turn, round after round: whatever else the machine does meets all of them."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in every}
    for data, _ in every.values():
        reading(data, {**scale, "reads": 2 * scale["pictures"]})  # into the page cache
    for _ in range(scale["rounds"]):
        for name, (data, _) in every.items():
            found[name].append((reading(data, scale), batching(data, scale, workers)))

    def median(name: str, of: Callable[[tuple[float, float]], float]) -> float:
        return statistics.median(map(of, found[name]))

    return [
        Row(name, each, median(name, lambda pair: pair[0]), median(name, lambda pair: pair[1]))
        for name, (_, each) in every.items()
    ]


def table(rows: list[Row], scale: dict, workers: int) -> str:
    height, width = scale["picture"]
    processes = f"{workers} processes" if workers else "one process"
    columns = ("data", "bytes a picture", "read images/s", "ratio", f"images/s in batches, {processes}", "ratio")
    lines = [
        f"CPU ({platform.machine()}), torch {torch.__version__}. {scale['pictures']} dead leaves as JPEG of {height}x{width}, "
        f"as events of 3x{scale['size']}x{scale['size']}; medians of {scale['rounds']} rounds.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for row in rows:
        source = next(other for other in rows if other.name == row.name.removeprefix("packed from "))
        lines.append(
            f"| {row.name} | {row.bytes_each:,.0f} | {row.read:,.0f} | {row.read / source.read:.1f} | {row.batches:,.0f} | "
            f"{row.batches / source.batches:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=["full", "tiny"], default="full")
    parser.add_argument("--workers", type=int, default=2, help="processes that prepare batches")
    parser.add_argument("--out", type=Path, default=None, help="append the table to this file")
    options = parser.parse_args(arguments)
    scale = FULL if options.scale == "full" else TINY
    torch.set_num_threads(1)
    differing = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        every: dict[str, tuple[Data, float]] = {}
        for name, (data, each) in written(folder, scale).items():
            pack(data, folder / f"packed-{name}")
            packed = Data.model_validate({"name": "packed", "path": str(folder / f"packed-{name}")})
            every |= {name: (data, each), f"packed from {name}": (packed, float(data[0].numel()))}
            differing += [name for index in range(scale["pictures"]) if not torch.equal(data[index], packed[index])]
        report = table(measured(every, scale, options.workers), scale, options.workers)
    print(report)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write("\n" + report)
    for name in sorted(set(differing)):
        print(f"{differing.count(name)} packed events differ from those of {name}")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
