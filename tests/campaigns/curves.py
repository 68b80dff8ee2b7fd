"""Loss curves of one training, its steps recorded in a CUDA graph and launched kernel by kernel, on a plot.

    python tests/campaigns/curves.py --out runs/curves

Both have the same seed, so that they see the same events, steps and noise. They differ in rounding alone, which a GPU's sums have
between two equal runs too: that is the third curve. Exit code 1 where the mean loss of the last quarter differs by more than
`CLOSE`; 75 where a training was asked to stop. Runs are kept in ``OUT/runs`` with the code, hardware and torch that they belong
to: a call goes on with those that were ended. Where a device records nothing, as a CPU, all are equal to the bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import hardware
import keeping
import torch
from matplotlib.figure import Figure

from gendiff.lab import figures

CLOSE = 0.02  # relative
RUNS = {"captured": "true", "eager": "false", "eager again": "false"}
SCALES = {
    "full": [
        "--model",
        "unet:channels=64,multipliers=[1,2,2]",
        "--data",
        "dead-leaves:size=32",
        "--batch",
        "32",
        "--steps",
        "2000",
    ],
    "tiny": ["--model", "unet:channels=4,multipliers=[1],attention=[],heads=1", "--batch", "4", "--steps", "40"],
}


def trained(run: Path, name: str, scale: str, device: str) -> list[tuple[int, float]]:
    """Step and loss of each row of a run, once it is trained to its end."""
    settings = [f"train.capture={RUNS[name]}", "train.compile=false", "train.sample_every=0"]
    settings += ["train.log_every=10", "train.checkpoint_every=500"]
    sets = [word for one in settings for word in ("--set", one)]
    line = [sys.executable, "-m", "gendiff_cli", "-q", "train", "--device", device]
    keeping.train(run, [*line, *SCALES[scale], *sets, "--out", str(run)], [*line, "--resume", str(run)])
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]


def apart(one: Sequence[tuple[int, float]], other: Sequence[tuple[int, float]]) -> float:
    """How far the mean losses of the last quarter are apart, in parts of them."""
    means = [statistics.mean(loss for _, loss in curve[-max(len(curve) // 4, 1) :]) for curve in (one, other)]
    return abs(means[0] - means[1]) / means[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, draw, and say how far they are apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=SCALES, default="full")
    given = parser.parse_args(arguments)
    of = hardware.identity(torch.device(given.device), "tests/campaigns/curves.py") | {"scale": given.scale}
    runs = keeping.own(given.out / "runs", of)
    curves = {name: trained(runs / name.replace(" ", "-"), name, given.scale, given.device) for name in RUNS}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for (name, curve), style in zip(curves.items(), ("-", "--", ":"), strict=True):
        axes.plot(*zip(*curve, strict=True), style, label=name)
    axes.set(xlabel="step", ylabel="loss", title=hardware.name(torch.device(given.device)))
    axes.legend()
    figures.save(figure, given.out / "curves.png")
    gap, own = (apart(curves[name], curves["eager"]) for name in ("captured", "eager again"))
    print(
        f"captured and eager: {gap:.2%} apart in the last quarter; eager twice: {own:.2%}; {given.out / 'curves.png'}"
    )
    return 0 if gap <= CLOSE else 1


if __name__ == "__main__":
    sys.exit(main())
