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
        until: the share of the default's time at which the run ends: it matters where the rate decays.

    """

    train: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 32
    until: float = 1.0

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
        spent: minutes of the processor by the clock of this run, with what others did to the caches.
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
    spent: float
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
    return {shape: statistics.median(found) for shape, found in seconds.items()}


def clock(work: Path, variants: Iterable[str]) -> Clock:
    """What steps cost, kept; the default is measured anew beside shapes that are new, which are held against it."""
    kept = work / "cost.json"
    seconds = json.loads(kept.read_text()) if kept.is_file() else {}
    new = {VARIANTS[name].shape: name for name in variants if VARIANTS[name].shape not in seconds}
    if new:
        own = Variant().shape
        now = cost({own: DEFAULT, **new})
        scale = seconds.get(own, now[own]) / now[own]
        seconds |= {shape: found * scale for shape, found in now.items()}
        work.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(seconds, indent=1))
    return Clock(seconds)


def run_cell(cell: Cell, upto: float, timing: Clock, options: argparse.Namespace) -> list[Measured]:
    """Train to a share of the default's time, on from the last mark, and measure at every mark that is not measured yet."""
    from gendiff.errors import GendiffError

    folder, variant = options.work / cell.folder, VARIANTS[cell.variant]
    kept = folder / "measured.jsonl"
    known = [Measured(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.is_file() else []
    marks = [
        share for share in SHARES if share <= min(upto, variant.until) and share not in {one.share for one in known}
    ]
    if not marks or time.time() > options.until or any(math.isinf(one.distance) for one in known):
        return known
    trainer, run, spent = opened(folder, cell, timing.step(variant, variant.until))
    for share in marks:
        if time.time() > options.until:
            break
        step = timing.step(variant, share)
        try:
            spent += trained(trainer, step)
            keep(run, trainer, spent)
            found = {average: measure(cell, trainer, run, average) for average in trainer.averages}
        except GendiffError as error:
            print(f"   {error}", flush=True)
            found = dict.fromkeys(trainer.averages, (math.inf, math.nan))
        rows = [
            Measured(**asdict(cell), average=average, share=share, step=step, minutes=step * timing.of(variant) / 60,
                     spent=spent / 60, distance=distance, variance=variance)
            for average, (distance, variance) in found.items()
        ]  # fmt: skip
        with kept.open("a") as file:
            file.writelines(f"{json.dumps(asdict(row))}\n" for row in rows)
        known += rows
        print(f"   {share:.2f}  step {step}  {', '.join(f'{row.distance:.3f}' for row in rows)}", flush=True)
        if math.isinf(rows[0].distance):
            break
    return known


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
    trainer, spent = Trainer(run.config, CPU, World(0, 1, CPU)), 0.0
    if any(run.checkpoints.glob("step-*")):
        newest = checkpoint.newest(run.checkpoints)
        trainer.restore(newest)
        spent = newest.about["spent"]
    return trainer, run, spent


def trained(trainer: Any, step: int) -> float:
    """Train up to a step; returns the processor seconds that it took."""
    begun = time.process_time()
    with closing(trainer.batches.loader(trainer.step + 1, step, 0, CPU)) as batches:
        for batch in batches:
            trainer.train_step(batch)
    return time.process_time() - begun


def keep(run: Any, trainer: Any, spent: float) -> None:
    """Save where a run is, and how long it took to get there."""
    from gendiff.run import checkpoint

    about = {"run": run.info["id"], "versions": run.info["versions"], "spent": spent}
    checkpoint.save(run.checkpoints, trainer.checkpoint(about), keep=1)


def measure(cell: Cell, trainer: Any, run: Any, average: str) -> tuple[float, float]:
    """Distance and variance of samples of one of the averages."""
    from gendiff import Sampler
    from gendiff.denoiser import Denoiser
    from gendiff.evaluation.distances import frechet
    from gendiff.run.generation import generate
    from gendiff.run.network import build_network, load_weights

    network = build_network(run.config)
    load_weights(network, trainer.averages[average])
    denoiser = Denoiser(network, trainer.diffusion, trainer.denoiser.frequency_features).eval()
    size = min(COUNT, quality.CHUNK["cpu"])
    sampler, images = Sampler.model_validate(SAMPLER), range(COUNT)
    drawn = torch.cat(list(generate(denoiser, run, sampler, cell.seed, images, batch=size, chunk=size)))
    distance = frechet(quality.rows("digits", drawn), quality.reference("digits"))
    return distance, float(drawn.var(0).mean() / quality.real_events("digits").var(0).mean())


# --- what is run --------------------------------------------------------------------------------------------------------


def screening(timing: Clock, options: argparse.Namespace) -> Iterator[tuple[Cell, float, list[Measured]]]:
    """Successive halving: every variant to the first rung, the better half to the next, and so on; the default always."""
    names = [name for name in options.variants if name != DEFAULT]
    for rung in (rung for rung in RUNGS if rung <= options.upto):
        distances = {}
        for name in (DEFAULT, *names):
            cell = Cell(name, ARMS[0], "wiener", options.seeds[0])
            upto = min(rung, VARIANTS[name].until)
            print(f"-- {cell.variant}, to {upto:g}", flush=True)
            known = run_cell(cell, upto, timing, options)
            yield cell, upto, known
            distances[name] = min((one.distance for one in known if one.share == upto), default=math.inf)
        names = sorted(names, key=distances.__getitem__)[: -(-len(names) // 2)]


def final(timing: Clock, options: argparse.Namespace) -> Iterator[tuple[Cell, float, list[Measured]]]:
    """The default and what was chosen; seeds are the outermost loop, so that an early end leaves every arm measured once."""
    for seed in options.seeds:
        for objective in options.objectives:
            for arm in options.arms:
                for name in (DEFAULT, *options.chosen):
                    cell = Cell(name, arm, objective, seed)
                    print(f"-- {cell}", flush=True)
                    upto = min(options.upto, VARIANTS[name].until)
                    yield cell, upto, run_cell(cell, upto, timing, options)


PARTS = {"screening": screening, "final": final}


# --- the page -----------------------------------------------------------------------------------------------------------


def curve(rows: Sequence[Measured], average: str = "") -> dict[float, list[float]]:
    """Distances of all seeds by share of the time, of one average, or of the first."""
    average = average or rows[0].average
    shares = sorted({one.share for one in rows})
    return {share: [one.distance for one in rows if (one.share, one.average) == (share, average)] for share in shares}


def of_final(known: Sequence[Measured]) -> dict[tuple[str, str, str], list[Measured]]:
    """What more than one variant was trained on to the end, by arm, objective and variant."""
    found: dict[tuple[str, str, str], list[Measured]] = {}
    seeds = {(one.variant, one.seed) for one in known}
    several = {name for name, _ in seeds if len({seed for other, seed in seeds if other == name}) > 1}
    for one in known:
        if one.variant in several:
            found.setdefault((one.arm, one.objective, one.variant), []).append(one)
    return found


def reached(rows: Sequence[Measured], goals: Mapping[int, float]) -> dict[int, float]:
    """By seed, the minutes after which a variant is no farther from the data than its goal; infinite where it never is."""
    first = rows[0].average
    return {
        seed: min(
            (one.minutes for one in rows if (one.seed, one.average) == (seed, first) and one.distance <= goal),
            default=math.inf,
        )
        for seed, goal in goals.items()
        if any(one.seed == seed for one in rows)
    }


def page(known: Sequence[Measured], timing: Clock, real: Sequence[float]) -> str:
    """What is known by now, as Markdown."""
    whole = STEPS * timing.of(Variant()) / 60
    told = (
        f"Squared Fréchet distance in `pixels`, {COUNT} samples of `{SAMPLER}`, against the share of the processor time of the "
        f"default run on digits ({STEPS} steps of 64, {whole:.2f} minutes of one core, {64 / timing.of(Variant()):.0f} "
        f"images/s); real against real {quality.spread(real)}."
    )
    lines = ["| step of | ms of the processor | images/s |", "|---|---|---|"]
    for shape, seconds in timing.seconds.items():
        batch = int(shape.split("batch ")[1].split(",")[0])
        lines.append(f"| {shape} | {1e3 * seconds:.1f} | {batch / seconds:.0f} |")
    return "\n\n".join([told, "\n".join(lines), *finals(known), screened(known)]) + "\n"


def finals(known: Sequence[Measured]) -> Iterator[str]:
    """Mean and range over seeds at each share, and when what the default ends with is reached."""
    groups = of_final(known)
    for arm, objective in dict.fromkeys((arm, objective) for arm, objective, _ in groups):
        rows = {name: rows for (*other, name), rows in groups.items() if other == [arm, objective]}
        goals = {one.seed: one.distance for one in rows.get(DEFAULT, []) if one.share == SHARES[-1]}
        heads = [
            "variant",
            *(f"{share:g}" for share in SHARES),
            "as far as the default's end, minutes by seed",
            "variance",
        ]
        lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for name, found in rows.items():
            shown = [quality.spread(curve(found).get(share, [])) for share in SHARES]
            times = reached(found, goals)
            when = ", ".join("no" if math.isinf(times[seed]) else f"{times[seed]:.2f}" for seed in sorted(times))
            ends = [one.variance for one in found if one.share == max(row.share for row in found)]
            lines.append(f"| {' | '.join([name, *shown, when, f'{statistics.mean(ends):.2f}'])} |")
        yield f"**{arm}, {objective}**\n\n" + "\n".join(lines)


def screened(known: Sequence[Measured]) -> str:
    """A row for each variant and average that was screened; what was given up has no later numbers."""
    first = min(one.seed for one in known)
    heads = ["variant", "average", *(f"{share:g}" for share in SHARES)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in VARIANTS:
        rows = [one for one in known if one.cell == Cell(name, ARMS[0], "wiener", first)]
        for average in dict.fromkeys(one.average for one in rows):
            shown = [quality.spread(curve(rows, average).get(share, [])) for share in SHARES]
            lines.append(f"| {' | '.join([name, average, *shown])} |")
    return f"**Screening: {ARMS[0]}, wiener, seed {first}**\n\n" + "\n".join(lines)


def draw(known: Sequence[Measured], real: Sequence[float], path: Path) -> None:
    """Above, what was screened, a panel for each setting; below, the final, mean and range over seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    above, below = figure.subfigures(2, 1)
    first = min(one.seed for one in known)

    def panel(axes: Any, title: str, lines: Mapping[str, Sequence[Measured]], average: str = "") -> None:
        axes.axhline(statistics.mean(real), color="0.6", linestyle=":", linewidth=1)
        for label, rows in lines.items():
            if rows:
                at = curve(rows, average or (label if label in {one.average for one in rows} else ""))
                minutes = [next(one.minutes for one in rows if one.share == share) for share in at]
                own = {"color": "black", "zorder": 3} if label == DEFAULT else {}
                axes.plot(minutes, [statistics.mean(found) for found in at.values()], ".-", label=label, **own)
                low, high = [min(found) for found in at.values()], [max(found) for found in at.values()]
                axes.fill_between(minutes, low, high, alpha=0.2, **own)
        axes.set(xscale="log", yscale="log", title=title)
        axes.title.set_fontsize(9)
        axes.tick_params(labelsize=7, which="both")
        axes.legend(fontsize=7)

    def one_seed(name: str) -> list[Measured]:
        return [one for one in known if one.cell == Cell(name, ARMS[0], "wiener", first)]

    for axes, (factor, values) in zip(above.subplots(1, len(FACTORS), sharey=True), FACTORS.items(), strict=True):
        lines = {DEFAULT: one_seed(DEFAULT), **{value: one_seed(f"{factor} {value}") for value in values}}
        if factor == "averaging":
            rows = one_seed("averaging several")
            lines = dict.fromkeys(dict.fromkeys(one.average for one in rows), rows)
        panel(axes, factor, lines)
    groups = of_final(known)
    shown = list(dict.fromkeys((arm, objective) for arm, objective, _ in groups))
    if shown:
        panels = below.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, (arm, objective) in zip(panels, shown, strict=True):
            panel(
                axes,
                f"{arm}, {objective}",
                {name: rows for (*other, name), rows in groups.items() if other == [arm, objective]},
            )
    for part in (above, below):
        part.supxlabel("minutes of one core", fontsize=8)
        part.supylabel("squared Fréchet distance", fontsize=8)
    figure.savefig(path, dpi=100)


def write(timing: Clock, options: argparse.Namespace) -> None:
    """Write everything that is known, whichever slices it was measured in."""
    files = sorted(options.work.glob("*/measured.jsonl"))
    known = [Measured(**json.loads(line)) for file in files for line in file.read_text().splitlines()]
    if not known:
        return
    real = quality.floor("digits", COUNT)
    facts = {
        "measured": [asdict(one) for one in known],
        "seconds of a step": dict(timing.seconds),
        "floor": real,
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "minutes.json").write_text(json.dumps(facts, indent=1))
    (options.out / "minutes.md").write_text(page(known, timing, real))
    draw(known, real, options.figure or options.out / "minutes.png")
    print(page(known, timing, real))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where tables go")
    parser.add_argument("--figure", type=Path, help="where the plot goes, instead of there")
    parser.add_argument("--work", type=Path, default=Path("runs/minutes"), help="where runs and measurements are kept")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(SCREENED), help="to screen")
    parser.add_argument("--chosen", nargs="+", choices=list(VARIANTS), default=list(COMBINED), help="for the final")
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
        for _, upto, known in PARTS[part](timing, options):
            ended = any(one.share == upto or math.isinf(one.distance) for one in known)
            complete = complete and ended
    write(timing, options)
    return 0 if complete else 75


if __name__ == "__main__":
    sys.exit(main())
