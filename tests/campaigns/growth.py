"""Growth: time and memory of noising, a training step and sampling against resolution, N, channels and batch.

    python tests/campaigns/growth.py --out runs/growth

One quantity grows at a time, the others stay at those of the middle. Each point is measured in a process of its own, so that its
memory is its own too: on a GPU what is allocated at most, on a processor the largest resident set up to then beyond that of
a process that has only begun. The time of a processor is its own, of one thread: other work on it does not lengthen it. Two
processes are set against one by the clock, where there are two GPUs or on a processor, with one thread each. What is measured
is kept in ``growth.json``, tables in ``growth.md``, a plot in ``growth.png``; a call with the same code, hardware and torch goes
on.

Exit code 75 where the time ended before the last point.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import hardware
import keeping
import torch


@dataclass(frozen=True)
class Point:
    """What is measured: pictures 3 x size x size, N steps of the process, channels of the U-Net, events at once."""

    size: int
    N: int
    channels: int
    batch: int


#: For each scale: the middle, and the values of each quantity.
SCALES: dict[str, tuple[Point, dict[str, tuple[int, ...]]]] = {
    "gpu": (
        Point(64, 1000, 64, 16),
        {
            "size": (32, 64, 128, 256, 512),
            "N": (100, 1000, 10_000),
            "channels": (32, 64, 128, 256),
            "batch": (1, 4, 16, 64, 256),
        },
    ),
    "cpu": (
        Point(32, 1000, 16, 4),
        {
            "size": (32, 64, 128, 256, 512),
            "N": (100, 1000, 10_000),
            "channels": (8, 16, 32, 64),
            "batch": (1, 4, 16, 64),
        },
    ),
    "tiny": (Point(8, 20, 4, 2), {"size": (8, 16), "N": (20, 50), "channels": (4,), "batch": (2,)}),
}
WHAT = {"noising": "noising, ms", "step": "training step, ms", "sampling": "one evaluation of sampling, ms"}
NETWORK = "unet:channels={},multipliers=[1,2],attention=[],heads=1"
EVALUATIONS = 4


def measured(point: Point, device: torch.device, rounds: int) -> dict[str, float]:
    """Milliseconds and MiB of a point, in this process."""
    from gendiff.datasets.tensors import as_data
    from gendiff.machine.world import World
    from gendiff.plugin.registry import default_registry
    from gendiff.run.directory import Run
    from gendiff.run.generation import generate
    from gendiff.run.layers import Layer, resolve
    from gendiff.training.trainer import Trainer

    begun, generator = resident(), torch.Generator().manual_seed(0)
    events = torch.rand(max(point.batch, 8), 3, point.size, point.size, generator=generator) * 2 - 1
    table = {
        "N": point.N,
        "rotation": "dct",
        "velocity": {"schedule": "quartic:f_max=0.14"},
        "data": as_data(events),
        "model": NETWORK.format(point.channels),
        "sampler": f"ddim:steps={EVALUATIONS}",
        "train": {"batch": point.batch, "steps": 10**6, "sample_every": 0, "checkpoint_every": 10**6},
    }
    config = resolve([Layer("growth", table)]).config.fitted()
    found: dict[str, float] = {}

    def note(name: str, work: Any, per: int = 1) -> None:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = hardware.turns({name: work}, rounds, 1, device, clock=hardware.worked)[name]
        found[f"{name} ms"] = 1e3 * statistics.median(seconds) / per
        peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else resident() - begun
        found[f"{name} MiB"] = peak

    diffusion = config.diffusion().to(device)
    x_0, i = events[: point.batch].to(device), torch.randint(1, point.N + 1, (point.batch,)).to(device)
    eps = torch.randn_like(x_0)
    note("noising", lambda: diffusion.q_sample(x_0, i, eps))
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(config, default_registry(), Path(folder) / "run")
        trainer = Trainer(config, device, World(0, 1, device))
        denoiser, count = trainer.averaged(), point.batch
        draw = [denoiser, run, config.sampler, 0, range(count), count]
        note("sampling", lambda: list(generate(*draw, chunk=count)), EVALUATIONS)
        del denoiser
    batch = trainer.batches[1].to(device)
    note("step", lambda: trainer.train_step(batch))
    return found


def resident() -> float:
    """The largest resident set of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def together(point: Point, device: torch.device, steps: int) -> dict[str, float]:
    """Images per second of one process, and of two, which train the same together, with one thread each."""
    speeds = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in (1, 2):
            path = Path(folder) / str(count)
            launch = [sys.executable, "-m"]
            launch += ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"] if count == 2 else []
            words = [
                "--model",
                NETWORK.format(point.channels),
                "--data",
                f"gaussian-field:size={point.size},channels=3",
            ]
            words += [
                "--batch",
                str(max(point.batch, 2)),
                "--steps",
                str(steps),
                "--device",
                device.type,
                "--out",
                str(path),
            ]
            sets = [f"train.{key}" for key in ("sample_every=0", f"log_every={max(steps // 4, 1)}", "compile=false")]
            words += [word for setting in sets for word in ("--set", setting)]
            line = [*launch, "gendiff_cli", "-q", "train", *words]
            subprocess.run(line, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
            rows = [json.loads(row) for row in (path / "metrics.jsonl").read_text().splitlines()]
            speeds[f"processes {count}"] = rows[-1]["images_per_s"]
    return speeds


def points(scale: str) -> dict[str, Point]:
    """All of them by name, ``size 64``; the middle is one point of every quantity."""
    middle, ranges = SCALES[scale]
    return {f"{key} {value}": replace(middle, **{key: value}) for key, values in ranges.items() for value in values}


def apart(point: Point, device: str, rounds: int) -> dict[str, float]:
    """Measure a point in a process of its own; one that it has no memory for says so."""
    line = [sys.executable, __file__, "--device", device, "--rounds", str(rounds), "--point", json.dumps(asdict(point))]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"failed": why[0][:300]}  # type: ignore[dict-item]
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return numbers


def page(known: dict[str, Any], scale: str, place: str) -> str:
    """A table for each quantity."""
    middle, ranges = SCALES[scale]
    sections = [
        f"{place}, torch {torch.__version__}. U-Net `{NETWORK.format(middle.channels)}` on 3x{middle.size}x{middle.size}, "
        f"dct + quartic, N = {middle.N}, batch {middle.batch}, but for what grows; memory at most."
        + ("" if scale == "gpu" else " Time is the processor's, one thread.")
    ]
    for key, values in ranges.items():
        names = [f"{kind} {unit}" for kind in WHAT for unit in ("ms", "MiB")]
        head = [key, *names]
        lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for value in values:
            row = known.get(f"{key} {value}", {})
            cells = [f"{row[name]:,.2f}" if name in row else row.get("failed", "-")[:60] for name in names]
            lines.append(f"| {value} | {' | '.join(cells)} |")
        sections.append("\n".join(lines))
    if speeds := known.get("together"):
        one, two = speeds.get("processes 1"), speeds.get("processes 2")
        sections.append(
            f"Two processes train {two:.1f} images/s together, one {one:.1f}: {two / one:.2f} times as many."
            if one and two
            else f"Two processes beside one: {speeds['failed']}."
        )
    return "\n\n".join(sections) + "\n"


def draw(known: dict[str, Any], scale: str, place: str, path: Path) -> None:
    """Time above and memory below, a column for each quantity."""
    from matplotlib.figure import Figure

    _, ranges = SCALES[scale]
    figure = Figure(figsize=(3 * len(ranges), 5.5), layout="constrained")
    panels = figure.subplots(2, len(ranges), sharex="col", squeeze=False)
    for column, (key, values) in enumerate(ranges.items()):
        for row, unit in enumerate(("ms", "MiB")):
            axes = panels[row, column]
            for kind in WHAT:
                rows = {value: known.get(f"{key} {value}", {}) for value in values}
                shown = [(value, row[f"{kind} {unit}"]) for value, row in rows.items() if f"{kind} {unit}" in row]
                if shown := [(value, number) for value, number in shown if number > 0]:
                    axes.plot(*zip(*shown, strict=True), "o-", label=kind, markersize=3)
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(values, [f"{value:,}" for value in values], fontsize=8)
            axes.set_xticks([], minor=True)
            if row:
                axes.set_xlabel(key)
            if not column:
                axes.set_ylabel(unit)
                if axes.has_data():
                    axes.legend(fontsize=8)
    figure.suptitle(place, fontsize=9)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/growth"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", choices=list(SCALES), help="default: that of the device")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no point after that")
    parser.add_argument("--rounds", type=int, default=5, help="calls of which the median is taken")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if options.point:
        torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
        print(json.dumps(measured(Point(**json.loads(options.point)), device, options.rounds)))
        return 0
    until, scale = time.monotonic() + 60 * options.minutes, options.scale or ("gpu" if device.type == "cuda" else "cpu")
    file, of = options.out / "growth.json", {**hardware.identity(device, "tests/campaigns/growth.py"), "scale": scale}
    known = keeping.known(file, of)
    over = False
    for name, point in [*points(scale).items(), ("together", SCALES[scale][0])]:
        if name in known:
            continue
        if over := time.monotonic() > until:
            break
        print(f"-- {name}", flush=True)
        if name != "together":
            same = next((known[other] for other, one in points(scale).items() if one == point and other in known), None)
            known[name] = same or apart(point, options.device, options.rounds)
        elif device.type == "cuda" and torch.cuda.device_count() < 2:
            known[name] = {"failed": "there is one GPU"}
        else:
            known[name] = together(point, device, 8 if scale == "tiny" else 200)
        keeping.keep(file, of, known)
    options.out.mkdir(parents=True, exist_ok=True)
    report = page(known, scale, of["hardware"])
    print(report)
    (options.out / "growth.md").write_text(report, encoding="utf-8")
    draw(known, scale, of["hardware"], options.out / "growth.png")
    return 75 if over else 0


if __name__ == "__main__":
    sys.exit(main())
