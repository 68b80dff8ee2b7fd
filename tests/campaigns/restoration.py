"""Restoration: does blur diffusion restore pictures better than standard diffusion, at equal training?

    python tests/campaigns/restoration.py RUNS --out docs/results

RUNS holds pairs of runs, ``blur-0`` and ``standard-0`` ..., that differ in the process alone and hold out the same pictures:

    gendiff train --data digits --steps 1000 --hold-out 200 --seed 0 --rotation dct --schedule quartic --out RUNS/blur-0
    gendiff train --data digits --steps 1000 --hold-out 200 --seed 0 --rotation dct --schedule none --out RUNS/standard-0

Held-out pictures are measured (the same noise for all runs), restored once each, and compared with what they were. The difference
of two processes is taken picture by picture within a seed; its interval is Student's over the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from gendiff.evaluation.likeness import psnr, ssim
from scipy.stats import t as student
from torch import Tensor

import gendiff
from gendiff.operator import Operator
from gendiff.streams import stream

PICTURES = 64
SAMPLER = "trig:solver=ab2,steps=50"
TASKS = {
    "blur, sigma 1, noise 0.05": ("blur:sigma=1", 0.05),
    "blur, sigma 1, noise 0.2": ("blur:sigma=1", 0.2),
    "half the size, noise 0.05": ("downsample:factor=2", 0.05),
    "a hole of 4x4, no noise": ("mask:rectangle=[2,2,4,4]", 0.0),
    "noise 0.5 alone": ("identity", 0.5),
}
METHODS = ("ddrm", "pigdm")
PROCESSES = ("standard", "blur")


def restored(run: Path, spec: str, sigma: float, method: str) -> tuple[Tensor, Tensor]:
    """PSNR and SSIM of each held-out picture."""
    model = gendiff.load(run, device="cpu")
    data = model.run.split().held_out
    assert data is not None
    clean = torch.stack([data[k] for k in data.spread(PICTURES)])
    y = Operator(spec).apply(clean)
    y = y + sigma * torch.randn(y.shape, generator=stream(0, "restoration", spec))
    x = model.restore(y, spec, sigma, method, sampler=SAMPLER).clamp(-1, 1)
    return psnr(x, clean), ssim(x, clean)


def measured(runs: Path, seeds: list[int]) -> list[dict[str, Any]]:
    """A row for each task, method, process and seed."""
    rows = []
    for task, (spec, sigma) in TASKS.items():
        for method in METHODS:
            for seed in seeds:
                values = {process: restored(runs / f"{process}-{seed}", spec, sigma, method) for process in PROCESSES}
                row = {"task": task, "method": method, "seed": seed}
                for process, (decibels, index) in values.items():
                    row |= {process: float(decibels.mean()), f"{process} ssim": float(index.mean())}
                rows.append(row)
                print(row, flush=True)
    return rows


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean, and half the width of the 95 % interval over seeds."""
    mean, n = statistics.mean(differences), len(differences)
    return mean, float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line for each task and method."""
    lines = [
        "| task | method | standard, dB | blur, dB | blur minus standard, dB (95 %) | SSIM, standard and blur |",
        "|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        for method in METHODS:
            some = [row for row in rows if (row["task"], row["method"]) == (task, method)]
            mean, half = interval([row["blur"] - row["standard"] for row in some])
            own = {key: statistics.mean(row[key] for row in some) for key in some[0] if key not in ("task", "method")}
            lines.append(
                f"| {task} | {method} | {own['standard']:.2f} | {own['blur']:.2f} | {mean:+.2f} ({mean - half:+.2f} to "
                f"{mean + half:+.2f}) | {own['standard ssim']:.3f}, {own['blur ssim']:.3f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = measured(arguments.runs, list(range(arguments.seeds)))
    (arguments.out / "restoration-digits.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "restoration-digits.md").write_text(markdown(table), encoding="utf-8")
    print(markdown(table))
