"""Does the predicted error rank what is measured? Trained digits runs, sampled with several samplers and numbers of steps.

    python tests/campaigns/predicted_ranking.py --out docs/results

trains every arm once (one seed, the preset ``digits-demo`` at fewer steps), draws samples, and holds the squared Fréchet distance
of their pixels to the data against what `gendiff.prediction` says of the same process, sampler and steps. Writes a table, its
numbers and a figure. Runs and measurements that exist are kept, so an interrupted campaign goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor

PROCESSES = {
    "identity": {"rotation": "identity"},
    "quartic": {"rotation": "dct", "velocity": {"schedule": "quartic:f_max=0.14"}},
    "log": {"rotation": "dct", "velocity": {"schedule": "log:f_max=0.14"}},
    "log06": {"rotation": "dct", "velocity": {"schedule": "log:f_max=0.6"}},
}
OBJECTIVES = {"eps": "", "wiener": "-w"}
SAMPLERS = ("ddim", "dpmpp-2m", "trig", "dpmpp-2m:clip=false", "trig:clip=false")
COUNTS = (5, 10, 20)
OFF = (0, 0.03, 0.1, 0.3)  # by how much the network is assumed to be wrong


def digits() -> Tensor:
    """The pixels of all digits, ``(1797, 64)``."""
    from gendiff import Data

    data = Data.model_validate("digits")
    return torch.stack([data[k] for k in range(data.length)]).flatten(1)


def distance(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance of two sets of pixels."""
    from gendiff.distances import frechet
    from gendiff.statistics import Statistics

    return frechet(Statistics.of(x.flatten(1)), Statistics.of(y))


def real_against_real(count: int) -> float:
    """The distance of ``count`` digits from all others, mean over three choices."""
    rows, found = digits(), []
    for seed in range(3):
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        found.append(distance(rows[order[:count]], rows[order[count:]]))
    return sum(found) / len(found)


def trained(name: str, process: str, objective: str, steps: int, folder: Path):
    """The run of an arm; trained first where there is none."""
    from gendiff.config import Layer, resolve
    from gendiff.process_group import ProcessGroup
    from gendiff.registry import default_registry
    from gendiff.run import Run
    from gendiff.training import Trainer, fit

    path = folder / name
    if (path / "run.json").is_file() and Run.open(path).info["status"] == "done":
        return Run.open(path)
    settings = {"steps": steps, "sample_every": 0, "checkpoint_every": steps}
    preset = Layer.from_file(default_registry().preset("digits-demo"))
    arm = {**PROCESSES[process], "objective": objective}
    config = resolve([preset, Layer("arm", arm), Layer("campaign", {"train": settings})]).config
    device = torch.device("cpu")
    run = Run.create(config, default_registry(), path)
    fit(run, Trainer(config, device, ProcessGroup(0, 1, device)))
    return Run.open(path)


def predicted(run, spec: str, off: float) -> float:
    """The error that is predicted for a run's process with the covariance of the digits, and a network that is ``off``."""
    from gendiff import Data, Sampler, prediction
    from gendiff.recursion import NetworkError

    sampler, diffusion = Sampler.model_validate(spec), run.config.diffusion()
    target = prediction.dense(Data.model_validate("digits"), diffusion.rotation)
    limit = 1.0 if sampler.clip else math.inf
    error = NetworkError(run.config.objective.parametrization, off, limit) if off else None
    return prediction.predict(diffusion, sampler, target, error=error).total


def measured(run, spec: str, count: int) -> float:
    """Squared Fréchet distance between ``count`` samples and the digits, in pixels."""
    from gendiff import Sampler
    from gendiff.generation import TrainedModel, generate

    file = run.path / "measured.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    key = f"{spec} {count}"
    if key not in known:
        model = TrainedModel.load(run, torch.device("cpu"))
        drawn = torch.cat(
            list(generate(model.denoiser, run, Sampler.model_validate(spec), 0, range(count), 256, chunk=128))
        )
        known[key] = distance(drawn, digits())
        file.write_text(json.dumps(known, indent=1))
    return known[key]


def correlations(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation between each predicted and the measured error, of all rows and of parts of them."""
    from scipy.stats import spearmanr

    parts = {"all": rows}
    for key in ("objective", "process", "sampler", "steps"):
        for value in dict.fromkeys(row[key] for row in rows):
            parts[f"{key} {value}"] = [row for row in rows if row[key] == value]
    return {
        name: {
            off: float(spearmanr([row["predicted"][off] for row in part], [row["measured"] for row in part]).statistic)
            for off in map(str, OFF)
        }
        for name, part in parts.items()
    }


def table(rows: list[dict], found: dict[str, dict[str, float]], floor: float) -> str:
    """Markdown: predicted and measured error of every arm, and how well the one ranks the other."""
    heads = [f"{sampler}, {steps}" for sampler in SAMPLERS for steps in COUNTS]
    lines = ["| process, objective | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for process, objective in dict.fromkeys((row["process"], row["objective"]) for row in rows):
        cells = [
            " / ".join(map(short, (row["predicted"]["0"], row["predicted"]["0.1"], row["measured"])))
            for row in rows
            if (row["process"], row["objective"]) == (process, objective)
        ]
        lines.append(f"| {process}, {objective} | " + " | ".join(cells) + " |")
    lines += ["", f"Real against real: {floor:.2f}.", ""]
    lines += ["| rank correlation with what is measured | " + " | ".join(f"off by {off:g}" for off in OFF) + " |"]
    lines += ["|---|" + "---|" * len(OFF)]
    for name, values in found.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:+.2f}" for value in values.values()) + " |")
    return "\n".join(lines) + "\n"


def short(value: float) -> str:
    """Two digits after the point, or a power of ten."""
    return f"{value:.2f}" if value < 1000 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def figure(rows: list[dict], path: Path) -> None:
    """Predicted against measured error."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8.5, 4), dpi=150, layout="constrained")
    panels = drawing.subplots(1, len(OBJECTIVES), sharex=True, sharey=True)
    colours = dict(zip(PROCESSES, ("tab:blue", "tab:green", "tab:orange", "tab:red"), strict=True))
    for panel, objective in zip(panels, OBJECTIVES, strict=True):
        for process in PROCESSES:
            for sampler, mark in zip(SAMPLERS, "os^xv", strict=True):
                part = [
                    r for r in rows if (r["objective"], r["process"], r["sampler"]) == (objective, process, sampler)
                ]
                label = f"{process}, {sampler}" if objective == "eps" else None
                x, y = [row["predicted"]["0.1"] for row in part], [row["measured"] for row in part]
                panel.plot(x, y, mark + "-", color=colours[process], label=label, markersize=4, linewidth=0.8)
        panel.set(xscale="log", yscale="log", xlabel="predicted error, off by 0.1", title=f"objective {objective}")
    panels[0].set_ylabel("measured squared Fréchet distance")
    drawing.legend(loc="outside right", fontsize=7, frameon=False)
    drawing.savefig(path)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the table goes")
    parser.add_argument("--figure", type=Path, help="where the figure goes")
    parser.add_argument("--work", type=Path, default=Path("runs/predicted-ranking"), help="where runs are kept")
    parser.add_argument("--steps", type=int, default=600, help="of training")
    parser.add_argument("--count", type=int, default=900, help="samples")
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    rows = []
    for objective, ending in OBJECTIVES.items():
        for process in PROCESSES:
            run = trained(process + ending, process, objective, options.steps, options.work)
            for sampler in SAMPLERS:
                for steps in COUNTS:
                    spec = f"{sampler}{',' if ':' in sampler else ':'}steps={steps}"
                    guesses = {str(off): predicted(run, spec, off) for off in OFF}
                    numbers = {"predicted": guesses, "measured": measured(run, spec, options.count)}
                    rows.append(
                        {"process": process, "objective": objective, "sampler": sampler, "steps": steps, **numbers}
                    )
                    print(rows[-1], flush=True)
    floor, found = real_against_real(options.count), correlations(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"rows": rows, "correlations": found, "floor": floor, "steps": options.steps, "count": options.count}
    (options.out / "prediction.json").write_text(json.dumps(facts, indent=1))
    (options.out / "prediction.md").write_text(table(rows, found, floor))
    if options.figure:
        figure(rows, options.figure)
    print(table(rows, found, floor))


if __name__ == "__main__":
    main()
