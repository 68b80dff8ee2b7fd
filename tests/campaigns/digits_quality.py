"""Quality on digits: Fréchet distance in pixel space of standard and blur diffusion at an equal small budget.

    python tests/campaigns/digits_quality.py --out docs/results

trains every arm with every seed, draws as many samples as there are data, and writes ``digits.json``, ``digits.md`` and a grid
of each arm's first samples. Finished (arm, seed) pairs are kept, so an interrupted campaign goes on.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ARMS = {
    "identity (DDPM)": {"rotation": "identity"},
    "dct, quartic 0.14": {"rotation": "dct", "velocity": {"schedule": "quartic:f_max=0.14"}},
    "dct, log 0.14": {"rotation": "dct", "velocity": {"schedule": "log:f_max=0.14"}},
    "dct, log 0.6": {"rotation": "dct", "velocity": {"schedule": "log:f_max=0.6"}},
    "dct, fine-to-coarse quartic 0.14": {
        "rotation": "dct",
        "velocity": {"name": "fine-to-coarse", "schedule": "quartic:f_max=0.14"},
    },
}
SAMPLERS = ("ancestral:steps=100", "ddim:steps=50")


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """``|μ_x - μ_y|² + tr(C_x + C_y - 2 (C_x C_y)^{1/2})`` of two sets of pictures ``(n, *event)``, pixels in [-1, 1]."""
    x, y = x.flatten(1).double(), y.flatten(1).double()
    C_x, C_y = torch.cov(x.T), torch.cov(y.T)
    # (C_x C_y)^{1/2} has the trace of (C_x^{1/2} C_y C_x^{1/2})^{1/2}, whose argument is symmetric.
    values, vectors = torch.linalg.eigh(C_x)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ C_y @ root).clamp_min(0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + C_x.trace() + C_y.trace() - 2 * cross)


def real_pictures() -> Tensor:
    from gendiff import Data

    data = Data.model_validate("digits")
    return torch.stack([data[k] for k in range(data.length)])


def real_floor(seeds: int) -> list[float]:
    """Distances between two random halves of the data: what a perfect model of half as many samples would score."""
    pictures, found = real_pictures(), []
    for seed in range(seeds):
        order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed))
        half = len(pictures) // 2
        found.append(frechet_distance(pictures[order[:half]], pictures[order[half:]]))
    return found


def run_arm(arm: str, seed: int, steps: int, count: int, folder: Path) -> dict[str, float]:
    """Train and measure one arm with one seed; the result is kept in ``folder``."""
    from gendiff import pictures
    from gendiff.config import Layer, resolve
    from gendiff.generation import generate
    from gendiff.process_group import ProcessGroup
    from gendiff.registry import default_registry
    from gendiff.run import Run
    from gendiff.training import Trainer, fit

    done = folder / f"{arm.translate(str.maketrans(' ,.()', '-----'))}-s{seed}"
    if (done / "distance.json").is_file():
        return json.loads((done / "distance.json").read_text())
    torch.set_num_threads(1)
    overrides = {"steps": steps, "seed": seed, "sample_every": 0, "checkpoint_every": steps}
    preset = Layer.from_file(default_registry().preset("digits-demo"))
    config = resolve([preset, Layer("arm", ARMS[arm]), Layer("campaign", {"train": overrides})]).config
    device = torch.device("cpu")
    trainer = Trainer(config, device, ProcessGroup(0, 1, device))
    run = Run.create(config, default_registry(), done)
    fit(run, trainer)
    denoiser = trainer.averaged()
    distances = {}
    for spec in SAMPLERS:
        sampler = type(config.sampler).model_validate(spec)
        drawn = torch.cat(list(generate(denoiser, run, sampler, seed, range(count), batch=256, chunk=128)))
        pictures.grid(drawn[:64]).save(done / f"{sampler.name}.png")
        distances[spec] = frechet_distance(drawn, real_pictures())
    (done / "distance.json").write_text(json.dumps(distances))
    return distances


def table(results: dict[str, list[dict[str, float]]], floor: list[float]) -> str:
    """The results as Markdown: mean and, in brackets, smallest and largest over seeds."""
    spread = lambda values: f"{statistics.mean(values):.3f} ({min(values):.3f}..{max(values):.3f})"  # noqa: E731
    lines = ["| arm | " + " | ".join(f"`{spec}`" for spec in SAMPLERS) + " |", "|---|" + "---|" * len(SAMPLERS)]
    for arm, seeds in results.items():
        lines.append(f"| {arm} | " + " | ".join(spread([seed[spec] for seed in seeds]) for spec in SAMPLERS) + " |")
    lines.append(f"| real against real, two halves | {spread(floor)} |" + " |" * (len(SAMPLERS) - 1))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where tables and grids go")
    parser.add_argument("--work", type=Path, default=Path("runs/digits-quality"), help="where runs are kept")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--count", type=int, default=1797)
    parser.add_argument("--jobs", type=int, default=2, help="arms at a time, one thread each")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.jobs) as pool:
        pending = {
            (arm, seed): pool.submit(run_arm, arm, seed, options.steps, options.count, options.work)
            for seed in range(options.seeds)
            for arm in ARMS
        }
        results = {arm: [pending[arm, seed].result() for seed in range(options.seeds)] for arm in ARMS}
    floor = real_floor(options.seeds)
    facts = {
        "results": results,
        "floor": floor,
        "steps": options.steps,
        "count": options.count,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    (options.out / "digits.json").write_text(json.dumps(facts, indent=1))
    (options.out / "digits.md").write_text(table(results, floor))
    print(table(results, floor))


if __name__ == "__main__":
    main()
