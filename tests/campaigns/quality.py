"""Quality: distance to the data against evaluations of the network, for arms, objectives and samplers.

    python tests/campaigns/quality.py --out docs/results --sets digits --seeds 0 --minutes 60

trains every arm with every objective and seed, draws samples with every sampler at every number of evaluations, and measures
their Fréchet distance from the data and how much of its variance they have. Runs and measurements are kept in ``--work``, so
that an interrupted campaign goes on, and slices of it (some sets, arms, objectives, seeds, samplers) add up. Whatever is known
by then is written to ``quality-SET.json`` and ``quality-SET.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

N = 1000
EVALUATIONS = (5, 10, 20, 50, 100)
CHUNK = {"cpu": 128, "cuda": 1024}  # drawn at once
BASELINES = ("reverse-diffusion", "ancestral")  # with all N steps: the paper's, and one that clamps x̂_0
FEW = ("ddim:grid=uniform", "dpmpp-2m", "unipc-2", "sde-dpmpp-2m", "heun", "trig", "trig:solver=ab2")
SAMPLERS = (*FEW, *BASELINES)
OBJECTIVES = ("eps", "wiener")
ARMS: dict[str, dict[str, Any]] = {
    "identity (DDPM)": {"rotation": "identity"},
    "dct (DDPM)": {
        "rotation": "dct",
        "velocity": "isotropic",
    },  # the same process, but the Wiener target knows frequencies
    "dct, quartic 0.14": {"rotation": "dct", "velocity": {"schedule": "quartic:f_max=0.14"}},
    "dct, log 0.14": {"rotation": "dct", "velocity": {"schedule": "log:f_max=0.14"}},
    "dct, log 0.6": {"rotation": "dct", "velocity": {"schedule": "log:f_max=0.6"}},
}


@dataclass(frozen=True)
class Set:
    """What is trained and drawn.

    Args:
        table: of the configuration.
        model: the network.
        features: in which sets are compared.
        count: samples, and events of the reference.
        steps: of the optimiser.

    """

    table: dict[str, Any]
    model: str
    features: str
    count: int
    steps: int


SETS = {
    "digits": Set({"data": "digits", "train": {"batch": 64, "lr": 2e-3}}, "unet:channels=16", "pixels", 512, 2000),
    "dead-leaves": Set(
        {"data": "dead-leaves:size=32,channels=3", "train": {"batch": 32, "lr": 2e-3}},
        "unet:channels=8,multipliers=[1,2,4],attention=[4],heads=2",
        "random-conv",
        128,
        1500,
    ),
}


@dataclass(frozen=True)
class Cell:
    """One training run."""

    set: str
    arm: str
    objective: str
    seed: int

    @property
    def folder(self) -> str:
        arm = "".join(c for c in self.arm.replace(" ", "-") if c.isalnum() or c in "-.")
        return f"{self.set}/{arm}-{self.objective}-s{self.seed}"


@dataclass(frozen=True)
class Settings:
    """What measurements have in common that may stand in one table: samples, steps of the optimiser, and the network."""

    count: int
    steps: int
    model: str


def of(name: str, options: argparse.Namespace) -> Settings:
    """The settings of a set, as far as the command line gives no others."""
    own = SETS[name]
    return Settings(options.count or own.count, options.steps or own.steps, options.model or own.model)


@dataclass(frozen=True)
class Measured:
    """A distance, and what it was measured on: ``wanted`` evaluations were asked for, ``spent`` were made.

    ``variance`` is that of the samples, a mean over pixels, as a share of the variance of the data.
    """

    set: str
    arm: str
    objective: str
    seed: int
    sampler: str
    wanted: int
    spent: int
    distance: float
    count: int
    steps: int
    model: str
    seconds: float
    variance: float | None = None  # older measurements did without

    @property
    def settings(self) -> Settings:
        return Settings(self.count, self.steps, self.model)


def wanted(samplers: Sequence[str], evaluations: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Every sampler at every number of evaluations, cheap ones first; baselines at N."""
    yield from ((spec, n) for n in sorted(evaluations) for spec in samplers if spec not in BASELINES)
    yield from ((spec, N) for spec in samplers if spec in BASELINES)


def run_cell(cell: Cell, options: argparse.Namespace) -> list[Measured]:
    """Train one run, or take up one that was begun, and measure what is not measured yet."""
    torch.set_num_threads(1)
    folder = options.work / cell.folder
    settings = of(cell.set, options)
    kept = folder / "measured.jsonl"
    known = [Measured(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.is_file() else []
    known = [one for one in known if one.settings == settings]
    done = {(one.sampler, one.wanted) for one in known}
    missing = [pair for pair in wanted(options.samplers, options.evaluations) if pair not in done]
    if not missing or time.time() > options.until:
        return known
    model = trained(cell, folder, settings, torch.device(options.device))
    for spec, n in missing:
        if time.time() > options.until:
            break
        known.append(measure(cell, model, spec, n, settings))
        with kept.open("a") as file:
            file.write(json.dumps(asdict(known[-1])) + "\n")
    return known


def trained(cell: Cell, folder: Path, settings: Settings, device: torch.device) -> Any:
    """The run of a cell, trained to its end; one that was interrupted goes on from its last checkpoint."""
    from gendiff.machine.world import World
    from gendiff.plugin.registry import default_registry
    from gendiff.run import checkpoint
    from gendiff.run.directory import Run
    from gendiff.run.layers import Layer, resolve
    from gendiff.run.trained import TrainedModel
    from gendiff.training.loop import fit
    from gendiff.training.trainer import Trainer

    path, steps = folder / "run", settings.steps
    if (path / "run.json").is_file():
        run = Run.open(path, training=True, steps=steps)
    else:
        shutil.rmtree(path, ignore_errors=True)  # ended before it was a run
        own = {"N": N, "objective": cell.objective, "model": settings.model, **ARMS[cell.arm]}
        train = {"steps": steps, "seed": cell.seed, "sample_every": 0, "checkpoint_every": max(steps // 5, 1)}
        layers = [Layer("set", SETS[cell.set].table), Layer("arm", own), Layer("campaign", {"train": train})]
        run = Run.create(resolve(layers).config, default_registry(), path)
    trainer = Trainer(run.config, device, World(0, 1, device))
    if any(run.checkpoints.glob("step-*")):
        trainer.restore(checkpoint.newest(run.checkpoints))
    if trainer.step < steps:
        run.forget_after(trainer.step)
        fit(run, trainer)
    return TrainedModel.load(Run.open(path), device)


def measure(cell: Cell, model: Any, spec: str, n: int, settings: Settings) -> Measured:
    """Draw and compare."""
    from gendiff import Sampler
    from gendiff.datasets import pictures
    from gendiff.evaluation.distances import frechet
    from gendiff.run.generation import generate

    begun, sampler = time.time(), Sampler.model_validate(spec)
    if spec not in BASELINES:
        sampler = sampler.model_copy(update={"steps": n})
    count = settings.count
    size = min(count, CHUNK[model.denoiser.diffusion.scales.device.type])
    drawn = torch.cat(
        list(generate(model.denoiser, model.run, sampler, cell.seed, range(count), batch=size, chunk=size))
    )
    pictures.sheet(drawn[:64]).save(model.run.path.parent / picture_of(spec, n))
    distance = frechet(rows(cell.set, drawn), reference(cell.set))
    spent = len(sampler.plan(model.denoiser.diffusion))
    seconds = round(time.time() - begun, 1)
    return Measured(
        **asdict(cell),
        sampler=spec,
        wanted=n,
        spent=spent,
        distance=distance,
        **asdict(settings),
        seconds=seconds,
        variance=float(drawn.var(0).mean() / real_events(cell.set).var(0).mean()),
    )


def picture_of(spec: str, n: int) -> str:
    """The file with the first samples of a measurement."""
    return f"{''.join(c if c.isalnum() else '-' for c in spec)}-{n}.png"


def rows(name: str, events: Tensor) -> Any:
    """Mean and covariance of the features of events."""
    from gendiff.evaluation.statistics import Statistics
    from gendiff.features import Features

    features = Features.model_validate(SETS[name].features)
    return Statistics.of(torch.cat([features.extract(part) for part in events.split(256)]))


def events(name: str, first: int, count: int) -> Tensor:
    from gendiff import Data

    data = Data.model_validate(SETS[name].table["data"])
    return torch.stack([data[index % (data.length or 2**40)] for index in range(first, first + count)])


@cache
def real_events(name: str) -> Tensor:
    """All digits, or dead leaves that no run has trained on."""
    return events(name, 0, 1797) if name == "digits" else events(name, 2**30, 2048)


@cache
def reference(name: str) -> Any:
    """Their mean and covariance."""
    return rows(name, real_events(name))


def floor(name: str, count: int, seeds: int = 3) -> list[float]:
    """Distances between as many real events and other ones: what perfect samples would score."""
    from gendiff.evaluation.distances import frechet

    if name == "digits":
        pictures, found = real_events(name), []
        for seed in range(seeds):
            order = torch.randperm(1797, generator=torch.Generator().manual_seed(seed))
            found.append(frechet(rows(name, pictures[order[:count]]), rows(name, pictures[order[count:]])))
        return found
    return [frechet(rows(name, events(name, 2**31 + seed * 2**20, count)), reference(name)) for seed in range(seeds)]


# --- the page -----------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float]) -> str:
    """Mean and, in brackets, smallest and largest over seeds."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}..{max(values):.3f})"


def fewest(means: dict[int, float], goal: float) -> str:
    """The smallest number of evaluations at which the goal is met, also as a share of N."""
    met = [n for n, mean in means.items() if mean <= goal]
    return f"{met[0]} = N/{N // met[0]}" if met else "no"


def page(name: str, measured: Sequence[Measured], real: Sequence[float]) -> str:
    """What is known by now, as Markdown: the best sampler at each number of evaluations, the verdict, and every sampler."""
    settings = measured[0].settings
    told = (
        f"Squared Fréchet distance in `{SETS[name].features}`, {settings.count} samples, {settings.steps} training steps of "
        f"`{settings.model}`, mean (smallest..largest) over seeds; real against real {spread(real)}. Reached with: so "
        f"many evaluations of the best sampler are no worse than the better of those with all {N}. Level with: or worse by no "
        "more than sets of real events differ."
    )
    parts = [told, verdicts(measured, real), every_sampler(measured, "distance")]
    known = [one for one in measured if one.variance is not None]
    if known:
        parts += ["Variance of the samples, as a share of the variance of the data:", every_sampler(known, "variance")]
    return "\n\n".join(parts) + "\n"


def values(measured: Sequence[Measured], cell: tuple[str, str], sampler: str, n: int, what: str) -> list[float]:
    """One number of each seed."""
    return [
        getattr(one, what)
        for one in measured
        if (one.arm, one.objective, one.sampler, one.wanted) == (*cell, sampler, n)
    ]


def cells_of(measured: Sequence[Measured]) -> list[tuple[str, str]]:
    """Arm and objective of every row."""
    return sorted({(one.arm, one.objective) for one in measured}, key=lambda cell: (list(ARMS).index(cell[0]), cell[1]))


def verdicts(measured: Sequence[Measured], real: Sequence[float]) -> str:
    """The best sampler at each number of evaluations, and how few do what N do."""
    numbers = sorted({one.wanted for one in measured if one.sampler in FEW})
    baselines = [spec for spec in BASELINES if any(one.sampler == spec for one in measured)]
    heads = [
        "arm",
        "objective",
        *map(str, numbers),
        *(f"`{spec}`, {N}" for spec in baselines),
        "reached with",
        "level with",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for cell in cells_of(measured):
        best = {}
        for n in numbers:
            tried = {spec: found for spec in FEW if (found := values(measured, cell, spec, n, "distance"))}
            best[n] = min(tried.items(), key=lambda item: statistics.mean(item[1])) if tried else ("", [])
        slow = [values(measured, cell, spec, N, "distance") for spec in baselines]
        goal = min(statistics.mean(found) for found in slow if found) if any(slow) else float("-inf")
        shown = [f"{spread(found)} `{spec}`" if found else "-" for spec, found in best.values()]
        means = {n: statistics.mean(found) for n, (_, found) in best.items() if found}
        ends = [fewest(means, goal), fewest(means, goal + max(real) - min(real))] if any(slow) else ["-", "-"]
        lines.append(f"| {' | '.join([*cell, *shown, *map(spread, slow), *ends])} |")
    return "\n".join(lines)


def every_sampler(measured: Sequence[Measured], what: str) -> str:
    """A row for each arm, objective and sampler."""
    numbers = sorted({one.wanted for one in measured})
    lines = [
        f"| arm | objective | sampler | {' | '.join(map(str, numbers))} |",
        "|---|---|---|" + "---|" * len(numbers),
    ]
    for cell in cells_of(measured):
        for spec in SAMPLERS:
            shown = [spread(values(measured, cell, spec, n, what)) for n in numbers]
            if set(shown) != {"-"}:
                lines.append(f"| {' | '.join([*cell, f'`{spec}`', *shown])} |")
    return "\n".join(lines)


def write(name: str, options: argparse.Namespace) -> None:
    """Write everything of a set that is known, whichever slices it was measured in."""
    settings = of(name, options)
    files = sorted(options.work.glob(f"{name}/*/measured.jsonl"))
    known = [Measured(**json.loads(line)) for file in files for line in file.read_text().splitlines()]
    known = [one for one in known if one.settings == settings]
    if not known:
        return
    real = floor(name, settings.count)
    facts = {
        "measured": [asdict(one) for one in known],
        "floor": real,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"quality-{name}.json").write_text(json.dumps(facts, indent=1))
    (options.out / f"quality-{name}.md").write_text(page(name, known, real))
    print(page(name, known, real))


def draw(name: str, options: argparse.Namespace) -> None:
    """First samples of every arm and objective, of the first seed, with one sampler and number of evaluations."""
    from matplotlib.figure import Figure
    from PIL import Image

    spec, n = options.samplers[0], options.evaluations[0]
    cells = [Cell(name, arm, objective, options.seeds[0]) for arm in options.arms for objective in options.objectives]
    files = {cell: options.work / cell.folder / picture_of(spec, n) for cell in cells}
    files = {cell: file for cell, file in files.items() if file.is_file()}
    if not files:
        raise SystemExit(f"no samples of {spec} with {n} evaluations are in {options.work}")
    figure = Figure(figsize=(6, len(files)), layout="constrained")
    panels = figure.subplots(len(files), 1, squeeze=False)
    for panel, (cell, file) in zip(panels.flat, files.items(), strict=True):
        with Image.open(file) as picture:
            panel.imshow(picture.crop((0, 0, picture.width, picture.width // 8)))
        panel.set_title(f"{cell.arm}, {cell.objective}", loc="left", fontsize=8, pad=3)
        panel.set_axis_off()
    figure.savefig(options.figure, dpi=80)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where tables go")
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="where runs and measurements are kept")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--evaluations", nargs="+", type=int, default=list(EVALUATIONS))
    parser.add_argument("--steps", type=int, help="optimiser steps, instead of those of the set")
    parser.add_argument("--count", type=int, help="samples, instead of those of the set")
    parser.add_argument("--model", help="the network, instead of that of the set")
    parser.add_argument("--figure", type=Path, help="only draw samples there, of the first sampler, number and seed")
    parser.add_argument("--device", default="cpu", help="where networks are trained and asked: cpu, cuda")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no training or measurement after that"
    )
    options = parser.parse_args(arguments)
    options.until = time.time() + 60 * options.minutes
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Seeds are the outermost loop: an early end leaves every arm measured once.

    Returns 0, or 75 where the time ended before all was measured.
    """
    options = parse(arguments)
    if options.figure is not None:
        draw(options.sets[0], options)
        return 0
    cells = [
        Cell(name, arm, objective, seed)
        for seed in options.seeds
        for name in options.sets
        for objective in options.objectives
        for arm in options.arms
    ]
    with ProcessPoolExecutor(options.jobs) as pool:
        measured = [future.result() for future in [pool.submit(run_cell, cell, options) for cell in cells]]
    for name in options.sets:
        write(name, options)
    every = set(wanted(options.samplers, options.evaluations))
    return 0 if all(every <= {(one.sampler, one.wanted) for one in known} for known in measured) else 75


if __name__ == "__main__":
    raise SystemExit(main())
