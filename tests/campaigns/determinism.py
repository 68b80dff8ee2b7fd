"""Determinism on this machine, by the command: two equal runs, and one that is killed and goes on, to the bit.

    python tests/campaigns/determinism.py --out runs/determinism

With ``--deterministic`` weights, averages and moments of all three must be the same in every bit. Without it two runs are shown
beside that: on a GPU they repeat only to rounding, on a processor to the bit. Runs that came to their end, and networks that are
proved, are kept with the code, hardware and torch that they belong to; a run that was ended otherwise than meant begins anew.
Exit code 1 where bits differ that must not; 75 where a training was asked to stop.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hardware
import keeping
import torch

from gendiff.run import checkpoint

#: What is trained: dropout, attention and frequency features are what randomness and order of sums may come in by.
NETWORKS = {
    "full": {
        "digits": ["--model", "unet:channels=32,dropout=0.1", "--batch", "64"],
        "dead leaves": [
            *(
                "--data",
                "dead-leaves:size=32",
                "--rotation",
                "dct",
                "--schedule",
                "quartic:f_max=0.14",
                "--batch",
                "16",
            ),
            *("--model", "unet:channels=64,multipliers=[1,2,4],attention=[4],dropout=0.1,frequency_features=true"),
        ],
    },
    "tiny": {"digits": ["--model", "unet:channels=4,multipliers=[1],attention=[],heads=1,dropout=0.1", "--batch", "4"]},
}
STEPS = {"full": (200, 50), "tiny": (30, 5)}  # in all, and between checkpoints
PATIENCE = 300  # seconds for the first checkpoint


def command(folder: Path, words: Sequence[str], scale: str, device: str) -> list[str]:
    """The training of one run."""
    steps, every = STEPS[scale]
    settings = [f"train.checkpoint_every={every}", "train.sample_every=0", "train.log_every=10"]
    sets = [word for setting in settings for word in ("--set", setting)]
    line = [sys.executable, "-m", "gendiff_cli", "-q", "train", *words, *sets]
    return [*line, "--steps", str(steps), "--device", device, "--out", str(folder)]


def killed(line: Sequence[str], folder: Path) -> int:
    """Start it, end it as a crash does once there is a checkpoint; returns the step from which it goes on."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    until = time.monotonic() + PATIENCE
    while process.poll() is None and not checkpoint.steps(folder / "checkpoints"):
        if time.monotonic() > until:
            process.kill()
            raise SystemExit(f"'{folder}' came to no checkpoint")
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return checkpoint.steps(folder / "checkpoints")[0]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Everything in the last checkpoint."""
    last = checkpoint.newest(folder / "checkpoints")
    return {f"{group}/{name}": value for group, named in last.tensors.items() for name, value in named.items()}


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> tuple[int, float]:
    """In how many tensors they differ in a bit, and by how much weights do, relative to their norm."""
    assert one.keys() == other.keys()
    names = [name for name in one if one[name].numpy().tobytes() != other[name].numpy().tobytes()]
    model = [name for name in one if name.startswith("model/") and one[name].is_floating_point()]
    difference = sum(float((one[name] - other[name]).double().square().sum()) for name in model) ** 0.5
    return len(names), difference / sum(float(one[name].double().square().sum()) for name in model) ** 0.5


def train(line: Sequence[str]) -> None:
    """Let a training come to its end."""
    code = subprocess.call(line, stdout=subprocess.DEVNULL)
    if code == keeping.STOPPED:
        raise SystemExit(code)
    if code:
        raise SystemExit(f"exit code {code} of: {' '.join(line)}")


def prove(words: Sequence[str], out: Path, scale: str, device: str) -> list[dict]:
    """Rows of one network."""
    out.mkdir(parents=True, exist_ok=True)
    fixed = {name: out / name for name in ("one", "again", "killed")}
    free = {name: out / name for name in ("free", "free-again")}
    for folder in (fixed["one"], fixed["again"], *free.values()):
        if keeping.status(folder) != "done":  # one that goes on is not yet known to be the same
            shutil.rmtree(folder, ignore_errors=True)
            more = [] if folder in free.values() else ["--deterministic"]
            train(command(folder, [*words, *more], scale, device))
    shutil.rmtree(fixed["killed"], ignore_errors=True)
    step = killed(command(fixed["killed"], [*words, "--deterministic"], scale, device), fixed["killed"])
    resume = [sys.executable, "-m", "gendiff_cli", "-q", "train", "--resume", str(fixed["killed"]), "--device", device]
    if step < STEPS[scale][0]:
        train(resume)
    state = {name: weights(folder) for name, folder in (fixed | free).items()}
    pairs = {
        "two runs with --deterministic": ("one", "again", True),
        f"killed after step {step} and gone on, with --deterministic": ("one", "killed", True),
        "two runs without": ("free", "free-again", device == "cpu"),
    }
    rows = []
    for name, (one, other, must) in pairs.items():
        count, difference = apart(state[one], state[other])
        rows.append({"what": name, "tensors": len(state[one]), "differ": count, "relative": difference, "must": must})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/determinism"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", choices=list(NETWORKS), default="full")
    options = parser.parse_args(arguments)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)  # the command says it itself
    of = hardware.identity(torch.device(options.device), "tests/campaigns/determinism.py") | {"scale": options.scale}
    file, runs = options.out / "determinism.json", keeping.own(options.out / "runs", of)
    known = keeping.known(file, of)
    for name, words in NETWORKS[options.scale].items():
        if name not in known:
            known[name] = prove(words, runs / name.replace(" ", "-"), options.scale, options.device)
            keeping.keep(file, of, known)
    place = hardware.name(torch.device(options.device))
    lines = [
        f"{place}, torch {torch.__version__}.",
        "",
        "| network | runs | tensors that differ | weights differ by |",
        "|---|---|---|---|",
    ]
    for name, row in itertools.chain(*(((name, row) for row in rows) for name, rows in known.items())):
        lines.append(f"| {name} | {row['what']} | {row['differ']} of {row['tensors']} | {row['relative']:.1e} |")
    report = "\n".join(lines) + "\n"
    print(report)
    (options.out / "determinism.md").write_text(report, encoding="utf-8")
    return int(any(row["must"] and row["differ"] for rows in known.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
