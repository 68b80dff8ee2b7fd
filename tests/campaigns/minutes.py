"""Minutes: distance to the data against processor time of training, for the settings of the run on digits.

    python tests/campaigns/minutes.py --out docs/results

trains the default run on digits, and others that differ from it in one setting, on one thread, and measures how far the averaged
weights are from the data at several shares of the processor time that the default run takes. What a step costs is measured
first, all networks and batches in turn, so that the axis does not depend on what else the machine does. Then

* `screening`: one seed, one arm. At each of three shares the better half goes on, and the default.
* `final`: the default and the variants of ``--chosen``, all arms, objectives and seeds, to the whole time.

Runs and measurements are kept in ``--work``, so that an interrupted campaign goes on from the last mark, and slices of it add up.
Whatever is known by then is written to ``minutes.json``, ``minutes.md`` and ``minutes.png``.

Exit code 75 where the time ended before all was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import hardware
import quality
import torch

CPU = torch.device("cpu")
STEPS = 2000  # of the default run
SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # of its processor time, at which is measured
RUNGS = (0.2, 0.4, 1.0)  # at which half of what is screened is given up
SAMPLER = "trig:solver=ab2,steps=20"
ARMS = ("identity (DDPM)", "dct, quartic 0.14")
COUNT = quality.SETS["digits"].count
DEFAULT = "default"


@dataclass(frozen=True)
class Variant:
    """Another way to train than the default's.

    Args:
        train: settings of the section ``train``.
        channels: of the U-Net.

    """

    train: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 32

    @property
    def shape(self) -> str:
        """What the cost of a step depends on."""
        averages = len(self.train.get("ema", [0])) + len(self.train.get("posthoc", []))
        return f"{self.channels} channels, batch {self.train.get('batch', 64)}, averages {averages}"


#: One setting at a time, by what it is and its value.
FACTORS: dict[str, dict[str, Variant]] = {
    "rate": {f"{lr:g}": Variant({"lr": lr}) for lr in (5e-4, 2e-3, 4e-3, 8e-3)},
    "warm-up": {f"{warmup}": Variant({"warmup": warmup}) for warmup in (0, 30, 400)},
    "averaging": {
        "several": Variant({"ema": [0.999, 0.99, 0.97, 0.9], "posthoc": [0.05, 0.15, 0.25]}),
    },
    "batch": {f"{batch}": Variant({"batch": batch}) for batch in (16, 32, 128)},
    "width": {f"{channels}": Variant(channels=channels) for channels in (8, 16, 24, 48)},
}
#: What was best, together with what might be better with it than alone.
COMBINED = {
    "width 16, batch 128": Variant({"batch": 128}, 16),
    "width 16, rate 0.002": Variant({"lr": 2e-3}, 16),
    "width 16, rate 0.002, batch 128": Variant({"lr": 2e-3, "batch": 128}, 16),
}
SCREENED = {f"{factor} {value}": one for factor, values in FACTORS.items() for value, one in values.items()}
VARIANTS = {DEFAULT: Variant(), **SCREENED, **COMBINED}
CHOSEN = ("width 16", "width 16, batch 128")  # of the screening


@dataclass(frozen=True)
class Cell:
    """One training run."""

    variant: str
    arm: str
    objective: str
    seed: int

    @property
    def folder(self) -> str:
        words = f"{self.variant}-{self.arm}-{self.objective}-s{self.seed}".replace(" ", "-")
        return "".join(c for c in words if c.isalnum() or c in "-.")


@dataclass(frozen=True)
class Measured:
    """A distance at a share of the default's time.

    Args:
        average: which weights.
        minutes: of the processor, by the cost of a step.
        cpu: minutes of the processor by the clock of this run, with what others did to its caches.
        distance: infinite where the run failed.
        variance: of the samples, as a share of that of the data.

    """

    variant: str
    arm: str
    objective: str
    seed: int
    average: str
    share: float
    step: int
    minutes: float
    cpu: float
    distance: float
    variance: float

    @property
    def cell(self) -> Cell:
        return Cell(self.variant, self.arm, self.objective, self.seed)


@dataclass(frozen=True)
class Clock:
    """Processor seconds of a step, by the shape of a variant."""

    seconds: Mapping[str, float]

    def of(self, variant: Variant) -> float:
        return self.seconds[variant.shape]

    def step(self, variant: Variant, share: float) -> int:
        """The step that a variant has reached when the default run has had this share of its time."""
        return max(1, round(share * STEPS * self.of(Variant()) / self.of(variant)))


def layers(cell: Cell, steps: int) -> list[Any]:
    """The configuration of a cell: that of ``gendiff train``, and what the cell has otherwise."""
    from gendiff.run.layers import Layer

    variant = VARIANTS[cell.variant]
    train = {"seed": cell.seed, "steps": steps, "sample_every": 0, **variant.train}
    own = {"objective": cell.objective, "model": f"unet:channels={variant.channels}", **quality.ARMS[cell.arm]}
    return [Layer("set", {"data": "digits"}), Layer("cell", own), Layer("variant", {"train": train})]


def cost(shapes: Mapping[str, str], rounds: int = 9, times: int = 4) -> dict[str, float]:
    """Processor seconds of a step of each shape, the median over rounds in which they take turns.

    Args:
        shapes: to each a variant that has it.

    """
    from gendiff.machine.world import World
    from gendiff.run.layers import resolve
    from gendiff.training.trainer import Trainer

    def steps(variant: str) -> Any:
        most = hardware.WARM + rounds * times
        config = resolve(layers(Cell(variant, ARMS[0], "wiener", 0), most)).config.fitted()
        trainer = Trainer(config, CPU, World(0, 1, CPU))
        batches = trainer.batches.loader(1, most, 0, CPU)
        return lambda: trainer.train_step(next(batches))

    works = {shape: steps(variant) for shape, variant in shapes.items()}
    seconds = hardware.turns(works, rounds, times, CPU, clock=lambda device: time.process_time())
    return {shape: statistics.median(own) for shape, own in seconds.items()}


def clock(work: Path, variants: Iterable[str]) -> Clock:
    """What steps cost, kept; the default is measured anew beside shapes that are new, which are held against it."""
    file = work / "cost.json"
    seconds = json.loads(file.read_text()) if file.is_file() else {}
    new = {VARIANTS[name].shape: name for name in variants if VARIANTS[name].shape not in seconds}
    if new:
        own = Variant().shape
        now = cost({own: DEFAULT, **new})
        scale = seconds.get(own, now[own]) / now[own]
        seconds |= {shape: own * scale for shape, own in now.items()}
        work.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(seconds, indent=1))
    return Clock(seconds)


def run_cell(cell: Cell, upto: float, timing: Clock, options: argparse.Namespace) -> list[Measured]:
    """Train to a share of the default's time, on from the last mark, and measure at every mark that is not measured yet."""
    folder, variant = options.work / cell.folder, VARIANTS[cell.variant]
    file = folder / "measured.jsonl"
    rows = [Measured(**json.loads(line)) for line in file.read_text().splitlines()] if file.is_file() else []
    marks = [share for share in marks_to(upto) if share not in {one.share for one in rows}]
    if not marks or time.time() > options.until or failed(rows):
        return rows
    trainer, run, cpu = opened(folder, cell, timing.step(variant, SHARES[-1]))
    for share in marks:
        if time.time() > options.until or failed(rows):
            break
        step = timing.step(variant, share)
        cpu, results = measured_at(step, cell, trainer, run, cpu)
        minutes = {"minutes": step * timing.of(variant) / 60, "cpu": cpu / 60}
        new = [
            Measured(**asdict(cell), average=average, share=share, step=step, **minutes, distance=distance, variance=variance)
            for average, (distance, variance) in results.items()
        ]  # fmt: skip
        with file.open("a") as lines:
            lines.writelines(f"{json.dumps(asdict(row))}\n" for row in new)
        rows += new
        print(f"   {share:.2f}  step {step}  {', '.join(f'{row.distance:.3f}' for row in new)}", flush=True)
    return rows


def marks_to(upto: float) -> list[float]:
    """The shares up to this one."""
    return [share for share in SHARES if share <= upto]


def failed(rows: Sequence[Measured]) -> bool:
    """Whether a run has come to nothing: no steps could be applied, or what it draws is not finite."""
    return any(math.isinf(one.distance) for one in rows)


def measured_at(
    step: int, cell: Cell, trainer: Any, run: Any, cpu: float
) -> tuple[float, dict[str, tuple[float, float]]]:
    """Train up to a step and save it; returns the processor seconds up to there, and distance and variance by average."""
    from gendiff.errors import GendiffError

    try:
        cpu += train(trainer, step)
        keep(run, trainer, cpu)
        return cpu, {average: measure(cell, trainer, run, average) for average in trainer.weights.averages}
    except GendiffError as error:
        print(f"   {error}", flush=True)
        return cpu, dict.fromkeys(trainer.weights.averages, (math.inf, math.nan))


def opened(folder: Path, cell: Cell, steps: int) -> tuple[Any, Any, float]:
    """The trainer of a cell where it was left, its run, and the processor seconds that it has had."""
    from gendiff.machine.world import World
    from gendiff.plugin.registry import default_registry
    from gendiff.run import checkpoint
    from gendiff.run.directory import Run
    from gendiff.run.layers import resolve
    from gendiff.training.trainer import Trainer

    path = folder / "run"
    if (path / "run.json").is_file():
        run = Run.open(path, training=True)
    else:
        run = Run.create(resolve(layers(cell, steps)).config, default_registry(), path)
    trainer, cpu = Trainer(run.config, CPU, World(0, 1, CPU)), 0.0
    if any(run.checkpoints.glob("step-*")):
        newest = checkpoint.newest(run.checkpoints)
        trainer.restore(newest)
        cpu = newest.about["cpu"]
    return trainer, run, cpu


def train(trainer: Any, step: int) -> float:
    """Train up to a step; returns the processor seconds that it took."""
    begun = time.process_time()
    with closing(trainer.batches.loader(trainer.step + 1, step, 0, CPU)) as batches:
        for batch in batches:
            trainer.train_step(batch)
    return time.process_time() - begun


def keep(run: Any, trainer: Any, cpu: float) -> None:
    """Save where a run is, and how long it took to get there."""
    from gendiff.run import checkpoint

    about = {"run": run.info["id"], "versions": run.info["versions"], "cpu": cpu}
    checkpoint.save(run.checkpoints, trainer.checkpoint(about), keep=1)


def measure(cell: Cell, trainer: Any, run: Any, average: str) -> tuple[float, float]:
    """Distance and variance of samples of one of the averages."""
    from gendiff import Sampler
    from gendiff.denoiser import Denoiser
    from gendiff.evaluation.distances import frechet
    from gendiff.run.generation import generate
    from gendiff.run.network import build_network, load_weights

    network = build_network(run.config)
    load_weights(network, trainer.weights.averages[average])
    denoiser = Denoiser(network, trainer.diffusion, trainer.denoiser.frequency_features).eval()
    size = min(COUNT, quality.CHUNK["cpu"])
    sampler, images = Sampler.model_validate(SAMPLER), range(COUNT)
    drawn = torch.cat(list(generate(denoiser, run, sampler, cell.seed, images, batch=size, chunk=size)))
    distance = frechet(quality.rows("digits", drawn), quality.reference("digits"))
    return distance, float(drawn.var(0).mean() / quality.real_events("digits").var(0).mean())


# --- what is run --------------------------------------------------------------------------------------------------------


def screening(timing: Clock, options: argparse.Namespace) -> Iterator[tuple[float, list[Measured]]]:
    """Successive halving: every variant to the first rung, the better half to the next, and so on; the default always."""
    names = [name for name in options.variants if name != DEFAULT]
    for rung in (rung for rung in RUNGS if rung <= options.upto):
        distances = {}
        for name in (DEFAULT, *names):
            cell = Cell(name, ARMS[0], "wiener", options.seeds[0])
            print(f"-- {cell.variant}, to {rung:g}", flush=True)
            rows = run_cell(cell, rung, timing, options)
            yield rung, rows
            distances[name] = min((one.distance for one in rows if one.share == rung), default=math.inf)
        names = sorted(names, key=distances.__getitem__)[: -(-len(names) // 2)]


def final(timing: Clock, options: argparse.Namespace) -> Iterator[tuple[float, list[Measured]]]:
    """The default and what was chosen; seeds are the outermost loop, so that an early end leaves every arm measured once."""
    for seed in options.seeds:
        for objective in options.objectives:
            for arm in options.arms:
                for name in (DEFAULT, *options.chosen):
                    cell = Cell(name, arm, objective, seed)
                    print(f"-- {cell}", flush=True)
                    yield options.upto, run_cell(cell, options.upto, timing, options)


PARTS = {"screening": screening, "final": final}


# --- the page -----------------------------------------------------------------------------------------------------------


def curve(rows: Sequence[Measured], average: str = "") -> dict[float, list[float]]:
    """Distances of all seeds by share of the time, of one average, or of the first."""
    average = average or rows[0].average
    shares = sorted({one.share for one in rows})
    return {share: [one.distance for one in rows if (one.share, one.average) == (share, average)] for share in shares}


def of_final(rows: Sequence[Measured]) -> dict[tuple[str, str], dict[str, list[Measured]]]:
    """What was trained with more than one seed: by arm and objective, the rows of each variant."""
    groups: dict[tuple[str, str], dict[str, list[Measured]]] = {}
    several = {one.variant for one in rows if one.seed != first_seed(rows)}
    for one in sorted(rows, key=lambda one: (list(quality.ARMS).index(one.arm), one.objective != "wiener")):
        if one.variant in several:
            groups.setdefault((one.arm, one.objective), {}).setdefault(one.variant, []).append(one)
    return groups


def first_seed(rows: Sequence[Measured]) -> int:
    """That of the screening."""
    return min(one.seed for one in rows)


def goals(rows: Sequence[Measured]) -> dict[float, dict[int, float]]:
    """Where the default stands at the rungs that all of its seeds have come to, the first left out: by share, by seed."""
    seeds = {one.seed for one in rows}
    ends = {share: {one.seed: one.distance for one in rows if one.share == share} for share in RUNGS[1:]}
    return {share: distances for share, distances in ends.items() if seeds and distances.keys() == seeds}


def reached(rows: Sequence[Measured], goal: Mapping[int, float]) -> dict[int, float]:
    """By seed, the minutes after which a variant is no farther from the data than its goal; infinite where it never is."""
    first = rows[0].average
    curves = {
        seed: sorted((one.minutes, one.distance) for one in rows if (one.seed, one.average) == (seed, first))
        for seed in goal
    }
    return {seed: crossing(points, goal[seed]) for seed, points in curves.items() if points}


def crossing(points: Sequence[tuple[float, float]], goal: float) -> float:
    """The minutes at which a distance first comes down to a goal: between marks, on a line in both logarithms."""
    if points[0][1] <= goal:
        return points[0][0]
    for (begin, high), (end, low) in pairwise(points):
        if low <= goal:
            return math.exp(math.log(begin) + math.log(end / begin) * math.log(high / goal) / math.log(high / low))
    return math.inf


def page(rows: Sequence[Measured], timing: Clock, real: Sequence[float]) -> str:
    """What is known by now, as Markdown."""
    seconds = timing.of(Variant())
    whole, speed = STEPS * seconds / 60, 64 / seconds
    head = (
        f"Squared Fréchet distance in `pixels`, {COUNT} samples of `{SAMPLER}`, at shares of the processor time of the default "
        f"run on digits ({STEPS} steps of 64, {whole:.2f} minutes of one core, {speed:.0f} images/s); real against real "
        f"{quality.spread(real)}. When a goal is reached is read between marks, on a line in both logarithms."
    )
    lines = ["| network and batch | ms of a step | images/s |", "|---|---|---|"]
    for shape, seconds in timing.seconds.items():
        batch = int(shape.split("batch ")[1].split(",")[0])
        lines.append(f"| {shape} | {1e3 * seconds:.1f} | {batch / seconds:.0f} |")
    return "\n\n".join([head, "\n".join(lines), *finals(rows), screened(rows)]) + "\n"


def finals(rows: Sequence[Measured]) -> Iterator[str]:
    """Mean and range over seeds at each share, and when a variant is where the default is at a rung."""
    for (arm, objective), variants in of_final(rows).items():
        goal = goals(variants.get(DEFAULT, []))
        ends = [f"minutes to the default's at {share:g}, by seed" for share in goal]
        heads = ["variant", *(f"{share:g}" for share in SHARES), *ends, "variance"]
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for name, own in variants.items():
            cells = [quality.spread(curve(own).get(share, [])) for share in SHARES]
            cells += [", ".join(map(when, reached(own, distances).values())) for distances in goal.values()]
            last = max(one.share for one in own)
            variance = statistics.mean(one.variance for one in own if one.share == last)
            lines.append(f"| {' | '.join([name, *cells, f'{variance:.2f}'])} |")
        yield f"**{arm}, {objective}**\n\n" + "\n".join(lines)


def when(minutes: float) -> str:
    """Minutes, or that it was never."""
    return "no" if math.isinf(minutes) else f"{minutes:.2f}"


def screened(rows: Sequence[Measured]) -> str:
    """A row for each variant and average that was screened; what was given up has no later numbers."""
    heads = ["variant", "average", *(f"{share:g}" for share in SHARES)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in VARIANTS:
        own = of_screening(rows, name)
        for average in dict.fromkeys(one.average for one in own):
            cells = [quality.spread(curve(own, average).get(share, [])) for share in SHARES]
            lines.append(f"| {' | '.join([name, average, *cells])} |")
    return f"**Screening: {ARMS[0]}, wiener, seed {first_seed(rows)}**\n\n" + "\n".join(lines)


def of_screening(rows: Sequence[Measured], name: str) -> list[Measured]:
    """The rows of one variant, of the arm and seed that are screened."""
    return [one for one in rows if one.cell == Cell(name, ARMS[0], "wiener", first_seed(rows))]


def draw(rows: Sequence[Measured], real: Sequence[float], path: Path) -> None:
    """Above, what was screened, a panel for each setting; below, the final, mean and range over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    above, below = figure.subfigures(2, 1)

    def panel(axes: Any, title: str, lines: Mapping[str, tuple[Sequence[Measured], str]]) -> None:
        axes.axhline(statistics.mean(real), color="0.6", linestyle=":", linewidth=1)
        for label, (own, average) in lines.items():
            if own:
                at = curve(own, average)
                minutes = [next(one.minutes for one in own if one.share == share) for share in at]
                black = {"color": "black", "zorder": 3} if label == DEFAULT else {}
                axes.plot(minutes, [statistics.mean(seeds) for seeds in at.values()], ".-", label=label, **black)
                low, high = [min(seeds) for seeds in at.values()], [max(seeds) for seeds in at.values()]
                axes.fill_between(minutes, low, high, alpha=0.2, **black)
        axes.set(xscale="log", yscale="log", title=title)
        axes.title.set_fontsize(9)
        for axis, values in ((axes.xaxis, (0.25, 0.5, 1, 2)), (axes.yaxis, (0.4, 0.6, 1, 2))):
            axis.set_ticks(values, [f"{value:g}" for value in values], fontsize=8)
            axis.set_ticks([], minor=True)
        axes.legend(fontsize=7)

    for axes, (factor, values) in zip(above.subplots(1, len(FACTORS), sharey=True), FACTORS.items(), strict=True):
        several = of_screening(rows, f"{factor} several")
        lines = {average: (several, average) for average in dict.fromkeys(one.average for one in several)}
        others = {DEFAULT: DEFAULT, **{value: f"{factor} {value}" for value in values}}
        panel(axes, factor, lines or {label: (of_screening(rows, name), "") for label, name in others.items()})
    groups = of_final(rows)
    if groups:
        panels = below.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for axes, (cell, variants) in zip(panels, groups.items(), strict=True):
            panel(axes, ", ".join(cell), {name: (own, "") for name, own in variants.items()})
    for part in (above, below):
        part.supxlabel("minutes of one core", fontsize=8)
        part.supylabel("squared Fréchet distance", fontsize=8)
    figure.savefig(path, dpi=100)


def write(timing: Clock, options: argparse.Namespace) -> None:
    """Write everything that is known, whichever slices it was measured in."""
    files = sorted(options.work.glob("*/measured.jsonl"))
    rows = [Measured(**json.loads(line)) for file in files for line in file.read_text().splitlines()]
    if not rows:
        return
    real = quality.floor("digits", COUNT)
    facts = {
        "measured": [asdict(one) for one in rows],
        "seconds of a step": dict(timing.seconds),
        "floor": real,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "minutes.json").write_text(json.dumps(facts, indent=1))
    (options.out / "minutes.md").write_text(page(rows, timing, real))
    draw(rows, real, options.figure or options.out / "minutes.png")
    print(page(rows, timing, real))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where tables go")
    parser.add_argument("--figure", type=Path, help="where the plot goes, instead of there")
    parser.add_argument("--work", type=Path, default=Path("runs/minutes"), help="where runs and measurements are kept")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS)[1:], help="to screen")
    parser.add_argument("--chosen", nargs="+", choices=list(VARIANTS), default=list(CHOSEN), help="for the final")
    parser.add_argument("--arms", nargs="+", choices=list(quality.ARMS), default=list(ARMS))
    parser.add_argument("--objectives", nargs="+", default=list(quality.OBJECTIVES)[::-1])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="the first is screened with")
    parser.add_argument("--upto", type=float, default=1.0, help="train no longer than this share of the default's time")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no training or measurement after that")
    options = parser.parse_args(arguments)
    options.until = time.time() + 60 * options.minutes
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(1)
    names = {"screening": options.variants, "final": options.chosen}
    timing = clock(options.work, [DEFAULT, *(name for part in options.parts for name in names[part])])
    complete = True
    for part in options.parts:
        for upto, rows in PARTS[part](timing, options):
            complete = complete and (failed(rows) or set(marks_to(upto)) <= {one.share for one in rows})
    write(timing, options)
    return 0 if complete else 75


if __name__ == "__main__":
    sys.exit(main())
