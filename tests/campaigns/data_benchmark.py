"""Speed of a packed set beside the source it was packed from, and of dead leaves beside a plain way to draw them, in one run.

    python tests/campaigns/data_benchmark.py                        # pictures as large as those of LSUN
    python tests/campaigns/data_benchmark.py --out docs/benchmarks.md

Dead leaves are written as a folder of JPEG files and, where lmdb is installed, as an LSUN database; both are packed. Then all
are read in turn, several times over, and medians are taken: events one after another in random order, and the batches that
training sees, noise and all. Everything is in the page cache, so what is measured is decoding and reading, and no disk. Dead
leaves are drawn as they were at first, every disk that falls and subpixel by subpixel, and as they are today, in turns;
their time is the processor's. Exits with 1 where a packed event differs from its source's in any bit, or where the plain way
gives other pictures than version 1 of the component.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gendiff.data import Data
from gendiff.datasets import pictures
from gendiff.datasets.batches import Batches
from gendiff.datasets.packing import pack
from gendiff.streams import stream

FULL: dict[str, Any] = {"pictures": 256, "picture": [256, 340], "size": 64, "reads": 512, "batch": 32, "rounds": 5}
FULL |= {"leaves": [32, 64, 128], "scenes": 64}
TINY: dict[str, Any] = {"pictures": 12, "picture": [40, 56], "size": 16, "reads": 24, "batch": 4, "rounds": 2}
TINY |= {"leaves": [8], "scenes": 4}


@dataclass
class Row:
    """One line of the table: images/s, read alone and in batches."""

    name: str
    bytes_each: float
    read: float
    batches: float


def encoded(scale: dict[str, Any]) -> Iterator[bytes]:
    """JPEG files of dead leaves."""
    leaves = Data.model_validate({"name": "dead-leaves", "size": scale["picture"]})
    for index in range(scale["pictures"]):
        file = io.BytesIO()
        pictures.image(leaves[index]).save(file, "JPEG", quality=90)
        yield file.getvalue()


def written(folder: Path, scale: dict[str, Any]) -> dict[str, tuple[Data, float]]:
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


def reading(data: Data, scale: dict[str, Any]) -> float:
    """Events per second, one after another in random order, in this process."""
    length = data.length or 0
    order = torch.randint(length, (scale["reads"],), generator=stream(0, "benchmark")).tolist()
    started = time.perf_counter()
    for index in order:
        data[index]
    return len(order) / (time.perf_counter() - started)


def batching(data: Data, scale: dict[str, Any], workers: int) -> float:
    """Events per second in the batches of training; the start of the processes stays out of the clock."""
    steps = max(2, scale["reads"] // scale["batch"])
    loader = Batches(data, 1000, 0, scale["batch"]).loader(1, steps + 1, workers, torch.device("cpu"))
    next(loader)
    started = time.perf_counter()
    count = sum(len(batch.x_0) for batch in loader)
    return count / (time.perf_counter() - started)


def plain(data: Data, index: int) -> Tensor:
    """Event ``index`` of version 1 of dead leaves, as the first code drew it: every disk, written subpixel by subpixel."""
    (C, H, W), table = data.event_shape, data.table()
    height, width = 2 * H, 2 * W
    r_min, r_max = 2 * table["r_min"], table["r_max"] * max(height, width)
    area = 2 * math.pi * math.log(r_max / r_min) / (r_min**-2 - r_max**-2)
    n = math.ceil(4 * (height + 2 * r_max) * (width + 2 * r_max) / area)
    generator, scene = (
        stream(table["seed"], "dead-leaves", index),
        np.full((height * width, C), np.nan, dtype=np.float32),
    )
    while len(bare := np.flatnonzero(np.isnan(scene[:, 0]))):
        u = torch.rand((3, n), generator=generator, dtype=torch.float64).numpy()
        r = (r_min**-2 - u[0] * (r_min**-2 - r_max**-2)) ** -0.5
        y, x = u[1] * (height + 2 * r_max) - r_max, u[2] * (width + 2 * r_max) - r_max
        lightness = torch.rand((n, 1), generator=generator) * 2 - 1
        colour = (lightness + 0.25 * torch.randn((n, C), generator=generator)).clamp(-1, 1).numpy()
        top, count = _within(y - r, y + r, height)
        count[(x + r < 0) | (x - r > width)] = 0
        leaf, row = _written_out(top, count)
        half = np.sqrt(np.maximum(r[leaf] ** 2 - (row + 0.5 - y[leaf]) ** 2, 0))
        chord, column = _written_out(*_within(x[leaf] - half, x[leaf] + half, width))
        front = np.full(height * width, -1, dtype=np.int64)
        front[row[chord] * width + column] = leaf[chord]
        shown = front[bare]
        scene[bare[shown >= 0]] = colour[shown[shown >= 0]]
    return torch.from_numpy(scene).reshape(H, 2, W, 2, C).mean(dim=(1, 3)).permute(2, 0, 1).contiguous()


def _within(start: np.ndarray, stop: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.ceil(np.maximum(start, 0) - 0.5).astype(np.int64)
    last = np.floor(np.minimum(stop, n) - 0.5).astype(np.int64)
    return np.minimum(first, n), np.maximum(np.minimum(last, n - 1) - first + 1, 0)


def _written_out(first: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) + np.repeat(first - (np.cumsum(count) - count), count)


def leaves_table(scale: dict[str, Any]) -> str:
    """Milliseconds of the processor for a scene of dead leaves, by side, alone and in a batch with its steps and noise."""
    lines = ["| dead leaves | plain, ms | version 1, ms | today, ms | plain / today |", "|---|---|---|---|---|"]
    for side in scale["leaves"]:
        table = {"name": "dead-leaves", "size": side}
        today, first = Data.model_validate(table), Data.model_validate({**table, "version": 1})
        batches, count = Batches(today, 1000, 0, scale["scenes"]), scale["scenes"]
        times: dict[str, list[float]] = {"plain": [], "first": [], "today": [], "batch": []}
        works: dict[str, Callable[[int], object]] = {
            "plain": partial(plain, first),
            "first": first.__getitem__,
            "today": today.__getitem__,
        }
        for number in range(scale["rounds"]):
            for name, work in works.items():
                work(number)
                started = time.process_time()
                for index in range(number * count, (number + 1) * count):
                    work(index)
                times[name].append(1e3 * (time.process_time() - started) / count)
            started = time.process_time()
            batches[1 + number]
            times["batch"].append(1e3 * (time.process_time() - started) / count)
        of = {name: statistics.median(values) for name, values in times.items()}
        alone = statistics.median(a / b for a, b in zip(times["plain"], times["today"], strict=True))
        batch = of["plain"] + of["batch"] - of["today"]  # the rest of a batch is the same
        lines.append(
            f"| 3x{side}x{side} alone | {of['plain']:.2f} | {of['first']:.2f} | {of['today']:.2f} | {alone:.1f} |"
        )
        lines.append(
            f"| 3x{side}x{side} in a batch of {count} | {batch:.2f} | | {of['batch']:.2f} | {batch / of['batch']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def measured(every: dict[str, tuple[Data, float]], scale: dict[str, Any], workers: int) -> list[Row]:
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


def table(rows: list[Row], scale: dict[str, Any], workers: int) -> str:
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
    first = Data.model_validate({"name": "dead-leaves", "size": 24, "version": 1})
    if not all(torch.equal(plain(first, index), first[index]) for index in range(4)):
        print("version 1 of dead leaves differs from the plain way to draw it")
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        every: dict[str, tuple[Data, float]] = {}
        for name, (data, each) in written(folder, scale).items():
            pack(data, folder / f"packed-{name}")
            packed = Data.model_validate({"name": "packed", "path": str(folder / f"packed-{name}")})
            every |= {name: (data, each), f"packed from {name}": (packed, float(data[0].numel()))}
            differing += [name for index in range(scale["pictures"]) if not torch.equal(data[index], packed[index])]
        report = table(measured(every, scale, options.workers), scale, options.workers)
    report += "\n" + leaves_table(scale)
    print(report)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write("\n" + report)
    for name in sorted(set(differing)):
        print(f"{differing.count(name)} packed events differ from those of {name}")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
