"""The U-Net on this machine: speed, and agreement of fp32, bf16 and compiled runs with a float32 CPU.

    python tests/campaigns/unet_benchmark.py                     # the paper's network on a GPU, a tiny one elsewhere
    python tests/campaigns/unet_benchmark.py --out docs/benchmarks.md

For identity and dct + quartic, for fp32 and bf16, compiled and not: a few hundred steps on dead leaves, then samples. One
table, all rows from one run on one machine, speeds also as ratios to the first row. Before the clock starts, every row takes
the first steps of the same run in float32 on the CPU; exits with 1 where predictions after them disagree beyond precision.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gendiff.machine.world import World, choose_device
from gendiff.plugin.registry import default_registry
from gendiff.run.config import Config, Layer, resolve
from gendiff.run.directory import Run
from gendiff.run.generation import generate
from gendiff.training.trainer import Trainer

PAPER = {"size": 64, "model": "unet-paper", "batch": 64, "steps": 300, "count": 64, "evaluations": 50}
TINY = {"size": 16, "model": None, "batch": 8, "steps": 6, "count": 4, "evaluations": 5}
ARMS = {"identity": "identity", "dct + quartic": "dct"}
#: Largest relative difference to the float32 CPU reference after the first steps, and of a sampled picture's first step.
TOLERANCE = {"fp32": 2e-3, "bf16": 5e-2}


@dataclass
class Row:
    """One line of the table."""

    arm: str
    precision: str
    compiled: bool
    train_images_per_s: float
    sample_images_per_s: float
    first_loss: float
    last_loss: float
    agreement: float
    memory_gib: float


def configuration(scale: dict, rotation: str, precision: str, compiled: bool) -> Config:
    layers = [] if scale["model"] is None else [Layer.from_file(default_registry().preset(scale["model"]))]
    if scale["model"] is None:
        layers.append(Layer.at("benchmark", "model", "unet:channels=8,multipliers=[1,2],attention=[2],heads=2"))
    train = {"batch": scale["batch"], "steps": scale["steps"], "lr": 1e-4, "precision": precision, "compile": compiled}
    table = {
        "rotation": rotation,
        "velocity": {"schedule": "quartic:f_max=0.14"},
        "data": {"name": "dead-leaves", "size": scale["size"]},
        "sampler": f"ddim:steps={scale['evaluations']}",
        "train": train,
    }
    return resolve([*layers, Layer("benchmark", table)]).config


def synchronised_time(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def first_predictions(trainer: Trainer, batches: list) -> Tensor:
    """The network's outputs on fixed inputs after the first steps: what must agree between machines."""
    trainer.denoiser.eval()
    with torch.no_grad():
        batch = batches[0].to(trainer.device)
        x_i = trainer.diffusion.q_sample(batch.x_0, batch.i, batch.eps)
        return trainer.parallel(x_i, batch.i).float().cpu()


def reference(scale: dict, rotation: str, warm: int) -> tuple[list, Tensor]:
    """A float32 CPU run of the first steps on the same batches."""
    config = configuration(scale, rotation, "fp32", compiled=False)
    cpu = torch.device("cpu")
    trainer = Trainer(config, cpu, World(0, 1, cpu))
    batches = [trainer.batches[step] for step in range(1, warm + 1)]
    for batch in batches:
        trainer.train_step(batch)
    return batches, first_predictions(trainer, batches)


def measure(
    scale: dict, arm: str, precision: str, compiled: bool, device: torch.device, expected: tuple[list, Tensor]
) -> Row:
    """Train and sample once; ``expected`` are the reference's batches and predictions after them."""
    config = configuration(scale, ARMS[arm], precision, compiled)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = Trainer(config, device, World(0, 1, device))
    batches, wanted = expected
    for batch in batches:
        trainer.train_step(batch)
    first_loss = trainer.window.means()["loss"]
    found = first_predictions(trainer, batches)
    agreement = float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))
    steps = scale["steps"] - len(batches)
    workers = 0 if device.type == "cpu" else 12
    loader = trainer.batches.loader(len(batches) + 1, scale["steps"], workers, device)
    trainer.train_step(next(loader))  # compilation and the loader's start stay out of the clock
    started = synchronised_time(device)
    for batch in loader:
        trainer.train_step(batch)
    train_speed = (steps - 1) * scale["batch"] / (synchronised_time(device) - started)
    with tempfile.TemporaryDirectory() as folder:
        run = Run.create(config, default_registry(), Path(folder) / "run")
        denoiser = trainer.averaged()
        started = synchronised_time(device)
        samples = torch.cat(list(generate(denoiser, run, config.sampler, 0, range(scale["count"]), scale["count"])))
        sample_speed = scale["count"] / (synchronised_time(device) - started)
    if not torch.isfinite(samples).all():
        raise SystemExit(f"{arm}, {precision}: samples are not finite")
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
    last_loss = trainer.window.means()["loss"]
    return Row(arm, precision, compiled, train_speed, sample_speed, first_loss, last_loss, agreement, memory)


def table(rows: list[Row], scale: dict, device: torch.device) -> str:
    hardware = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    )
    columns = ("process", "precision", "compiled", "train images/s", "ratio", "sample images/s", "mean loss")
    columns = (*columns, "difference to fp32 CPU", "GiB")
    lines = [
        f"{hardware}, torch {torch.__version__}. Dead leaves 3x{scale['size']}x{scale['size']}, batch {scale['batch']}, "
        f"{scale['steps']} steps, network `{scale['model'] or 'tiny'}`; {scale['count']} samples of "
        f"{scale['evaluations']} evaluations.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for row in rows:
        ratio = row.train_images_per_s / rows[0].train_images_per_s
        lines.append(
            f"| {row.arm} | {row.precision} | {'yes' if row.compiled else 'no'} | {row.train_images_per_s:.1f} | {ratio:.2f} | "
            f"{row.sample_images_per_s:.2f} | {row.last_loss:.4f} | {row.agreement:.1e} | {row.memory_gib:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=None)
    parser.add_argument(
        "--scale", choices=["paper", "tiny"], default=None, help="default: paper on a GPU, tiny elsewhere"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled rows out")
    parser.add_argument("--out", type=Path, default=None, help="append the table to this file")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    scale = PAPER if (options.scale or ("paper" if device.type == "cuda" else "tiny")) == "paper" else TINY
    rows = []
    for arm in ARMS:
        expected = reference(scale, ARMS[arm], warm=3)
        for precision, compiled in itertools.product(
            ("fp32", "bf16"), (False,) if options.no_compile else (False, True)
        ):
            rows.append(measure(scale, arm, precision, compiled, device, expected))
            print(f"{rows[-1]}", flush=True)
    report = table(rows, scale, device)
    print(report)
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write("\n" + report)
    wrong = [row for row in rows if not row.agreement < TOLERANCE[row.precision]]
    for row in wrong:
        print(f"disagrees with the reference: {row}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
