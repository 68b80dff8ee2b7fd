"""The U-Net on this machine: training steps and sampling beside plain loops, and agreement with a float32 CPU.

    python tests/campaigns/unet_benchmark.py                     # the paper's network on a GPU, a small one elsewhere
    python tests/campaigns/unet_benchmark.py --out runs/bench --minutes 9

Everything that is set against each other is measured in turns in one process (ABBA), so that drift meets all; a ratio is the
median over rounds. Baselines are written out in baseline.py. The benchmark has parts; what a part measured is kept in
``OUT/benchmark.json``, and a call with the same code, hardware and torch goes on with those that are missing. It writes
``benchmark.md``, a table of every part and the targets, and ``benchmark.png``, losses and speeds.

Exit code 1 where predictions or losses disagree with the reference or a part failed; 5 where a target is missed on an H100 or
H200 (elsewhere targets are shown, not judged); 75 where the time ended before the last part.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import math
import os
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import hardware
import keeping
import torch
from baseline import Bare, Before, Plain
from hardware import ratio, turns
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gendiff.datasets.batches import Batch
from gendiff.datasets.packing import pack
from gendiff.machine import arithmetic
from gendiff.machine.determinism import FIXED, WORKSPACE, deterministic
from gendiff.machine.recording import recorder_for
from gendiff.machine.world import World, choose_device
from gendiff.plugin.hookspecs import hookimpl
from gendiff.plugin.observers import Observers
from gendiff.plugin.registry import default_registry
from gendiff.run.config import Config
from gendiff.run.directory import Run
from gendiff.run.generation import generate
from gendiff.run.layers import Layer, resolve
from gendiff.run.network import build_denoiser
from gendiff.run.replayed import Replayed
from gendiff.training.loop import fit
from gendiff.training.trainer import Trainer

CPU = torch.device("cpu")

SMALL = "unet:channels=8,multipliers=[1,2],attention=[2],heads=2"
TINY = "unet:channels=4,multipliers=[1],attention=[],heads=1"


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Args:
        size: of the pictures, 3 x size x size.
        model: a preset, or the spec of a network.
        batches: at which steps are set against the baseline.
        best: larger ones, among which the best is looked for too.
        rounds, steps: turns, and steps in one.
        agreeing: batch and steps after which predictions are compared with those of a CPU.
        curve: steps of the curves of the loss.
        count, evaluations: pictures that are drawn, and how often the network is asked for each.
        matrix: side of the matrices of which the rate is measured.
        run: steps of a run on digits for each turn.
        digits: the network of the run on digits; empty for the default.

    """

    size: int
    model: str
    batches: tuple[int, ...]
    best: tuple[int, ...]
    rounds: int
    steps: int
    agreeing: tuple[int, int]
    curve: int
    count: int
    evaluations: int
    matrix: int
    run: int
    digits: str = ""


SCALES = {
    "paper": Scale(64, "unet-paper", (16, 64), (128, 256), 5, 8, (16, 6), 200, 64, 50, 8192, 1000),
    "small": Scale(16, SMALL, (8, 32), (), 9, 10, (8, 6), 100, 16, 10, 1024, 30),
    "tiny": Scale(8, TINY, (2,), (4,), 2, 2, (2, 5), 5, 2, 5, 64, 20, TINY),
}
PROCESSES = {
    "identity": {"rotation": "identity", "velocity": "isotropic"},
    "dct + quartic": {"rotation": "dct", "velocity": {"schedule": "quartic:f_max=0.14"}},
}
#: Largest relative difference to the float32 CPU of predictions after the first steps, and between curves of the loss.
TOLERANCE = {"fp32": 2e-3, "bf16": 5e-2}
SAME_CURVE = {"fp32": 2e-2, "bf16": 5e-2}


@dataclass(frozen=True)
class Arm:
    """A way in which gendiff takes a step."""

    precision: str
    capture: bool = True
    compile: bool = False
    deterministic: bool = False

    @property
    def train(self) -> dict[str, Any]:
        """Its settings."""
        return asdict(self)


ARMS = {
    "fp32, launched": Arm("fp32", capture=False),
    "fp32, recorded": Arm("fp32"),
    "bf16, recorded": Arm("bf16"),
    "bf16, recorded, compiled": Arm("bf16", compile=True),
}


class Bench:
    """What all parts share.

    Args:
        compiles: whether compiled arms are measured, on a GPU.

    """

    def __init__(self, device: torch.device, scale: str, compiles: bool = True) -> None:
        self.device = device
        self.scale = SCALES[scale]
        self.kind = scale
        self.compiles = compiles and device.type == "cuda"

    @property
    def arms(self) -> dict[str, Arm]:
        """Those that this device computes well."""
        arms = {}
        for name, arm in ARMS.items():
            if (self.compiles or not arm.compile) and not arithmetic.is_slow(arm.precision, self.device):
                if recorder_for(self.device):
                    arms[name] = arm
                elif arm.capture:  # which a processor takes for nothing
                    arms[name.removesuffix(", recorded")] = arm
        return arms

    @property
    def best_arm(self) -> str:
        """What `auto` chooses here for a long run."""
        own = arithmetic.chosen("auto", self.device)
        return [name for name, arm in self.arms.items() if arm.precision == own and arm.capture][-1]

    def config(self, process: str = "identity", batch: int = 0, **train: Any) -> Config:
        """A run of this scale that predicts ε."""
        scale = self.scale
        is_spec = ":" in scale.model
        layers = [] if is_spec else [Layer.from_file(default_registry().preset(scale.model))]
        train = {"steps": 10**6, "lr": 1e-4, "sample_every": 0, "checkpoint_every": 10**6, **train}
        table = {
            **PROCESSES[process],
            **({"model": scale.model} if is_spec else {}),
            "objective": "eps",
            "data": {"name": "dead-leaves", "size": scale.size},
            "sampler": f"ddim:steps={scale.evaluations}",
            "train": {"batch": batch or scale.batches[-1], **train},
        }
        return resolve([*layers, Layer("benchmark", table)]).config

    def batches(self, config: Config, batch: int, count: int, device: torch.device | None = None) -> list[Batch]:
        """Batches that are there before the clock starts, of events of the data."""
        pool, generator = events(config.data.spec, 64), torch.Generator().manual_seed(batch)
        made = []
        for _ in range(count):
            index = torch.randint(len(pool), (batch,), generator=generator)
            i = torch.randint(1, config.N + 1, (batch,), generator=generator)
            noise = torch.randn((batch, *config.data.event_shape), generator=generator)
            made.append(Batch(index, pool[index], i, noise).to(device or self.device))
        return made

    def trainer(self, config: Config, device: torch.device | None = None) -> Trainer:
        """Compiled anew where it is compiled at all: of the shapes of another batch nothing is to be left."""
        torch.compiler.reset()
        place = device or self.device
        return Trainer(config, place, World(0, 1, place))

    def step(self, arm: Arm, batch: int, process: str = "identity") -> Callable[[], None]:
        """A step of an arm on preloaded batches."""
        config = self.config(process, batch, **arm.train)
        take = fed(self.trainer(config).train_step, self.batches(config, batch, 8))

        def step() -> None:
            with deterministic(arm.deterministic, self.device):
                take()

        return step


@cache
def events(data: str, count: int) -> Tensor:
    """The first events of the data, ``(count, *event)``."""
    source = resolve([Layer("benchmark", {"data": data})]).config.data
    return torch.stack([source[index] for index in range(count)])


def fed(step: Callable[[Batch], None], batches: list[Batch]) -> Callable[[], None]:
    """``step`` on one batch after the other, round and round."""
    supply = itertools.cycle(batches)
    return lambda: step(next(supply))


def free() -> None:
    """Let go of what nobody holds any more, graphs and their memory too."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- parts ------------------------------------------------------------------------------------------------------------


def rate(bench: Bench) -> dict[str, Any]:
    """What the device can do, and what a step asks of it."""
    config = bench.config(batch=1)
    plain, batches = Plain(config, CPU), bench.batches(config, 1, 1, CPU)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        plain(batches[0])
    return {
        "parameters": sum(parameter.numel() for parameter in plain.parameters),
        "flops": counter.get_total_flops(),
        "matrix": hardware.matrix_rates(bench.device, bench.scale.matrix),
    }


def steps(bench: Bench, batch: int) -> dict[str, Any]:
    """Each arm, and the step as it was, beside the plain one; of large batches the arm that `auto` chooses alone.

    That arm takes turns with matrix products too. What does not fit into memory is left out.
    """
    names = ("before", *bench.arms) if batch in bench.scale.batches else (bench.best_arm,)
    rows: dict[str, Any] = {}
    for name in names:
        for beside in (True, False):
            free()
            try:
                seconds = beside_plain(bench, name, batch, beside)
            except Exception as error:
                if not re.search("out ?of ?memory", f"{type(error).__name__} {error}", re.IGNORECASE):
                    raise
                continue
            rows[name] = row(seconds, name, batch)
            if beside:
                rows[name]["ratio"] = ratio(seconds, name, "plain")
                rows.setdefault("plain", row(seconds, "plain", batch) | {"ratio": 1.0})
            if "product" in seconds:
                rows[name]["matrix"] = 2 * bench.scale.matrix**3 / statistics.median(seconds["product"])
            break
    return rows


def beside_plain(bench: Bench, name: str, batch: int, beside: bool) -> dict[str, list[float]]:
    """Seconds of a step of an arm, or of the step as it was, and where they are wanted of those that it is measured by."""
    config, works = bench.config(batch=batch), dict[str, Callable[[], object]]()
    if beside:
        works["plain"] = fed(Plain(config, bench.device), bench.batches(config, batch, 8))
    if name == "before":
        works[name] = fed(Before(config, bench.device), bench.batches(config, batch, 8))
    else:
        works[name] = bench.step(bench.arms[name], batch)
    if name == bench.best_arm:
        dtype = arithmetic.DTYPES[bench.arms[name].precision] or torch.float32
        works["product"] = hardware.product(bench.device, dtype, bench.scale.matrix)
    return turns(works, bench.scale.rounds, bench.scale.steps, bench.device)


def row(seconds: dict[str, list[float]], name: str, batch: int) -> dict[str, float]:
    each = statistics.median(seconds[name])
    return {"ms": 1e3 * each, "images_per_s": batch / each}


def process(bench: Bench) -> dict[str, float]:
    """What a rotation and speeds of its own cost a step."""
    batch = bench.scale.batches[-1]
    works = {name: bench.step(bench.arms[bench.best_arm], batch, name) for name in PROCESSES}
    seconds = turns(works, 2 * bench.scale.rounds, bench.scale.steps, bench.device)
    return {"cost": ratio(seconds, "identity", "dct + quartic") - 1, "batch": batch}


def determinism(bench: Bench) -> dict[str, Any]:
    """How many times as long a step takes that repeats itself: which is recorded, and compiled only where that is asked for."""
    batch, own = bench.scale.batches[-1], bench.arms[bench.best_arm]
    cost = {}
    for name, arm in {"auto": own, "recorded": Arm(own.precision)}.items():
        free()
        pair = {name: arm, "deterministic": Arm(own.precision, deterministic=True)}
        works = {key: bench.step(one, batch) for key, one in pair.items()}
        cost[name] = ratio(turns(works, bench.scale.rounds, bench.scale.steps, bench.device), name, "deterministic")
        del works
    return {**cost, "batch": batch, "arm": bench.best_arm}


def digits_config(bench: Bench, **more: Any) -> Config:
    """The default run, with the network of the scale; it ends after `Scale.rounds` turns of `Scale.run` steps."""
    own = {"steps": bench.scale.rounds * bench.scale.run, "sample_every": 0, "checkpoint_every": 10**6}
    model = {"model": bench.scale.digits} if bench.scale.digits else {}
    return resolve([Layer("benchmark", {"train": own, **model, **more})]).config


def digits(bench: Bench) -> dict[str, Any]:
    """The default run beside the step as it was, a plain one and the least that a loop can do."""
    config = digits_config(bench)
    batch = config.train.batch
    batches = bench.batches(config, batch, 8)
    works = {"gendiff": fed(bench.trainer(config).train_step, batches)}
    works |= {
        name: fed(make(config, bench.device), batches)
        for name, make in {"before": Before, "plain": Plain, "bare": Bare}.items()
    }
    clock = hardware.fair(bench.device)
    seconds = turns(works, 2 * bench.scale.rounds, bench.scale.steps, bench.device, clock=clock)
    return {name: row(seconds, name, batch) | {"ratio": ratio(seconds, "gendiff", name)} for name in works}


class Watch:
    """When each step of a run was done, as an observer of it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    @hookimpl
    def gendiff_step(self, step: int) -> None:
        self.times.append(time.perf_counter())

    def seconds(self) -> float:
        """Seconds of a step since this was asked last: without the first tenth, in which processes begin, and the last."""
        times, self.times = self.times, []
        times = times[len(times) // 10 : -1]
        return (times[-1] - times[0]) / (len(times) - 1)


def loader(bench: Bench) -> dict[str, float]:
    """The default run from a packed set as `fit` trains it, with all that a run does, beside its step on batches that are there.

    A run is at most a few steps ahead of the device: its own clock is that of the device.
    """
    with tempfile.TemporaryDirectory() as folder:
        pack(digits_config(bench).data, Path(folder) / "packed")
        config = digits_config(bench, data={"name": "packed", "path": str(Path(folder) / "packed")})
        batch, watch = config.train.batch, Watch()
        run = Run.create(config, default_registry(), Path(folder) / "run")
        trainer, ready = bench.trainer(config), bench.trainer(config)
        take, seconds = fed(ready.train_step, bench.batches(config, batch, 8)), dict[str, list[float]]()
        for _ in range(bench.scale.rounds):
            alone = turns({"there": take}, 1, bench.scale.run, bench.device)
            fit(run, trainer, Observers([("watch", watch)]), until=trainer.step + bench.scale.run)
            for name, one in {"there": alone["there"][0], "loaded": watch.seconds()}.items():
                seconds.setdefault(name, []).append(one)
    rows = {name: batch / statistics.median(values) for name, values in seconds.items()}
    return {**rows, "ratio": ratio(seconds, "loaded", "there"), "batch": batch}


def memory(bench: Bench) -> dict[str, Any]:
    """The most that is held, from the first step on, each arm alone."""
    batch = bench.scale.batches[-1]
    rows = {}
    for name in ("before", *bench.arms):
        free()
        config = bench.config(batch=batch)
        step = (
            fed(Before(config, bench.device), bench.batches(config, batch, 2))
            if name == "before"
            else bench.step(bench.arms[name], batch)
        )
        rows[name] = hardware.peak(step, hardware.WARM, bench.device)
        del step
    return rows


def agreement(bench: Bench) -> dict[str, Any]:
    """Predictions after the first steps, and how far they are from those of a float32 CPU."""
    batch, count = bench.scale.agreeing
    rows: dict[str, Any] = {}
    for process in PROCESSES:
        config = bench.config(process, batch, precision="fp32")
        wanted = predictions(bench.trainer(config, CPU), bench.batches(config, batch, count, CPU))
        for name, arm in bench.arms.items():
            free()
            trainer = bench.trainer(bench.config(process, batch, **arm.train))
            own = predictions(trainer, bench.batches(config, batch, count))
            difference = float((own - wanted).norm() / wanted.norm().clamp_min(1e-12))
            rows[f"{process}, {name}"] = {"difference": difference, "tolerance": TOLERANCE[arm.precision]}
            del trainer
    return rows


def predictions(trainer: Trainer, batches: list[Batch]) -> Tensor:
    """The network's outputs on the first batch after steps on all: what must agree between machines."""
    for batch in batches:
        trainer.train_step(batch)
    trainer.denoiser.eval()
    with torch.no_grad():
        first = batches[0]
        x_i = trainer.diffusion.q_sample(first.x_0, first.i, first.eps)
        return trainer.denoiser(x_i, first.i).float().cpu()


def curves(bench: Bench) -> dict[str, Any]:
    """Losses step by step on the same batches: of the step as it was, and of each arm."""
    batch = bench.scale.batches[0]
    config = bench.config(batch=batch, warmup=0)
    batches = bench.batches(config, batch, bench.scale.curve)
    before, losses = Before(config, bench.device), dict[str, list[float]]()
    losses["before"] = [(before(one), before.loss)[1] for one in batches]
    del before
    for name, arm in bench.arms.items():
        free()
        trainer = bench.trainer(bench.config(batch=batch, warmup=0, log_every=10**6, **arm.train))
        losses[name] = list(losses_of(trainer, batches))
        del trainer
    return losses


def losses_of(trainer: Trainer, batches: list[Batch]) -> Iterator[float]:
    """The loss of each step, from the sums on the device."""
    total = 0.0
    for batch in batches:
        trainer.train_step(batch)
        trainer.look()
        yield trainer.window.loss - total
        total = trainer.window.loss


def apart(losses: dict[str, list[float]], name: str) -> float:
    """The largest difference of two curves of the loss, in means over tenths of them, relative to the first."""
    reference, own = losses["before"], losses[name]
    size = max(len(reference) // 10, 1)
    tenths = [(reference[k : k + size], own[k : k + size]) for k in range(0, len(reference), size)]
    return max(abs(statistics.mean(theirs) / statistics.mean(ours) - 1) for ours, theirs in tenths)


def sampling(bench: Bench) -> dict[str, Any]:
    """Milliseconds per evaluation: of gendiff, of the network asked in the same way alone, and launched in float32."""
    scale, device = bench.scale, bench.device
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = bench.config()
        run = Run.create(config, default_registry(), Path(folder) / "run")
        x = torch.randn(scale.count, *config.data.event_shape, device=device)
        i = torch.full((scale.count,), config.N // 2, device=device)
        launched = asking(build_denoiser(config, device).eval(), x, i, scale.evaluations)
        for name, arm in bench.arms.items():
            if not arm.capture:
                continue
            free()
            denoiser = build_denoiser(config, device).eval()
            denoiser.autocast = arithmetic.DTYPES[arm.precision]
            if arm.compile:
                denoiser.network = torch.compile(denoiser.network)  # type: ignore[assignment]
                denoiser.channels_last = True
                denoiser.network.to(memory_format=torch.channels_last)
            recorder = recorder_for(device)
            alone = denoiser if recorder is None else Replayed(denoiser, recorder)
            works = {
                "gendiff": lambda model=denoiser: drawn(model, run, scale.count),
                "network": asking(alone, x, i, scale.evaluations),
                "launched": launched,
            }
            seconds = turns(works, scale.rounds, 1, device, warm=2)
            ms = {key: 1e3 * statistics.median(values) / scale.evaluations for key, values in seconds.items()}
            rows[name] = {**ms, "over_network": ratio(seconds, "network", "gendiff") - 1}
    return rows


def drawn(denoiser: torch.nn.Module, run: Run, count: int) -> Tensor:
    """So many pictures of the run's sampler; raises `SystemExit` where they are not finite."""
    pictures = torch.cat(list(generate(denoiser, run, run.config.sampler, 0, range(count), count, chunk=count)))
    if not pictures.isfinite().all():
        raise SystemExit("samples are not finite")
    return pictures


def asking(network: torch.nn.Module, x: Tensor, i: Tensor, times: int) -> Callable[[], None]:
    """Ask a network so many times, one answer after the other."""

    def ask() -> None:
        with torch.no_grad():
            for _ in range(times):
                network(x, i)

    return ask


def profile(bench: Bench) -> dict[str, Any]:
    """Where the time of a step goes, as it was and as `auto` has it."""
    rows = {}
    for batch in bench.scale.batches:
        config = bench.config(batch=batch)
        before = fed(Before(config, bench.device), bench.batches(config, batch, 2))
        rows[f"batch {batch}, before"] = hardware.where_time_goes(before, bench.scale.steps, bench.device)
        del before
        free()
        own = bench.step(bench.arms[bench.best_arm], batch)
        rows[f"batch {batch}, {bench.best_arm}"] = hardware.where_time_goes(own, bench.scale.steps, bench.device)
        del own
        free()
    return rows


def parts(bench: Bench) -> dict[str, Callable[[], Any]]:
    """All of them by name, the short and the telling ones first."""
    every: dict[str, Callable[[], Any]] = {}
    for function in (rate, digits, loader, process, sampling, agreement, memory, curves, determinism, profile):
        every[function.__name__] = partial(function, bench)
        if function is loader:
            every |= {f"steps, batch {batch}": partial(steps, bench, batch) for batch in reversed(bench.scale.batches)}
    return every | {f"steps, batch {batch}": partial(steps, bench, batch) for batch in bench.scale.best}


# --- what must be true ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What a step or a sample is to reach; ``value`` is None where its part is not measured yet."""

    what: str
    wanted: float
    value: float | None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is; None where nobody knows."""
        if self.value is None:
            return None
        return self.value <= self.wanted if self.at_most else self.value >= self.wanted

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        value = "-" if self.value is None else f"{self.value:.3g}"
        return f"| {self.what} | {'at most' if self.at_most else 'at least'} {self.wanted:g} | {value} | {verdict} |"


def targets(bench: Bench, known: dict[str, Any]) -> list[Target]:
    """Those of a GPU or of a processor, with what was measured."""

    def value(part: str, of: Callable[[Any], float]) -> float | None:
        return of(known[part]) if part in known else None

    if bench.device.type != "cuda":
        return [
            Target("digits default, images/s over a bare loop", 0.97, value("digits", lambda p: p["bare"]["ratio"]))
        ]
    arm = bench.best_arm
    share = shares(known)
    best = max(share, key=lambda batch: share[batch], default=0)
    return [
        *(
            Target(
                f"batch {batch}: {arm}, images/s over the plain step",
                goal,
                value(f"steps, batch {batch}", lambda p: p[arm].get("ratio", math.nan)),
            )
            for batch, goal in ((16, 5.0), (64, 2.8))
        ),
        Target(f"share of the measured matrix rate, best batch{f' {best}' * bool(best)}", 0.35, share.get(best)),
        Target("cost of dct + quartic over identity", 0.01, value("process", lambda p: p["cost"]), at_most=True),
        Target("digits default, images/s over the step as it was", 8, value("digits", lambda p: p["before"]["ratio"])),
        Target(
            "digits default from a packed set, images/s over batches that are there",
            0.95,
            value("loader", lambda p: p["ratio"]),
        ),
        Target(
            "peak memory over that of the step as it was",
            1.0,
            value("memory", lambda p: p[arm]["reserved"] / p["before"]["reserved"]),
            at_most=True,
        ),
        Target(
            "ms per evaluation of 64 pictures",
            15,
            value("sampling", lambda p: min(row["gendiff"] for row in p.values())),
            at_most=True,
        ),
        Target(
            "sampling over the network alone",
            0.05,
            value("sampling", lambda p: min(p.values(), key=lambda row: row["gendiff"])["over_network"]),
            at_most=True,
        ),
    ]


def shares(known: dict[str, Any]) -> dict[int, float]:
    """By batch, which part of the rate of large matrix products a step has; empty where it is not known."""
    found = {}
    for part, rows in known.items():
        for one in rows.values() if part.startswith("steps, batch ") and "rate" in known else ():
            if "matrix" in one:
                share = known["rate"]["flops"] * one["images_per_s"] / one["matrix"]
                found[int(part.rpartition(" ")[2])] = share
    return found


def disagreements(known: dict[str, Any]) -> list[str]:
    """Predictions beyond their tolerance, and curves that are apart."""
    wrong = [
        f"predictions of {name} differ by {row['difference']:.1e} from a float32 CPU, more than {row['tolerance']:g}"
        for name, row in known.get("agreement", {}).items()
        if not row["difference"] < row["tolerance"]
    ]
    losses = known.get("curves", {})
    for name in losses.keys() - {"before"}:
        if not (far := apart(losses, name)) < SAME_CURVE[name.partition(",")[0]]:
            wrong.append(f"the losses of {name} differ by {far:.1e} from those of the step as it was")
    return wrong


# --- the page ---------------------------------------------------------------------------------------------------------


def page(bench: Bench, known: dict[str, Any]) -> str:
    """All that is known by now, as Markdown."""
    scale = bench.scale
    told = (
        f"{hardware.name(bench.device)}, torch {torch.__version__}. Network `{scale.model}` at 3x{scale.size}x{scale.size}, "
        "predicting ε; batches are there before the clock starts; medians of turns, and of their ratios."
    )
    sections = [told, targets_of(bench, known)]
    if "rate" in known:
        rates = ", ".join(f"{value / 1e12:.3g} TFLOP/s in {key}" for key, value in known["rate"]["matrix"].items())
        sections[0] += (
            f" {known['rate']['parameters'] / 1e6:.2f} M parameters, {known['rate']['flops'] / 1e9:.4g} GFLOP per image and "
            f"training step; large matrix products: {rates}."
        )
    sections += [view(known) for view in VIEWS]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(head: list[str], rows: list[list[str]], title: str) -> str:
    """A titled table; empty where it has no rows."""
    if not rows:
        return ""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([f"**{title}**", "", lines[0], "|---" * len(head) + "|", *lines[1:]])


def targets_of(bench: Bench, known: dict[str, Any]) -> str:
    judged = "" if hardware.is_hopper(bench.device) or bench.device.type != "cuda" else " (judged on an H100 or H200)"
    head = f"**Targets**{judged}\n\n| target | wanted | measured | |\n|---|---|---|---|"
    return "\n".join([head, *map(str, targets(bench, known))])


def steps_of(known: dict[str, Any]) -> str:
    names = {"plain": "plain loop, fp32", "before": "gendiff as it was: fp32, read after each step"}
    share, rows = shares(known), []
    for part in sorted(known, key=lambda part: (len(part), part)):
        batch = part.removeprefix("steps, batch ")
        for name in dict.fromkeys(["plain", *known[part]]) if batch != part else ():
            if one := known[part].get(name):
                over = f"{one['ratio']:.2f}" if "ratio" in one else "-"
                part_of = f"{share[int(batch)]:.3f}" if "matrix" in one and int(batch) in share else ""
                called = names.get(name, f"gendiff {name}")
                rows.append([batch, called, f"{one['ms']:.1f}", f"{one['images_per_s']:.0f}", over, part_of])
    head = ["batch", "step", "ms", "images/s", "over plain", "share of the matrix rate"]
    return table(head, rows, "Training step")


def others_of(known: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['ms']:.2f}", f"{row['images_per_s']:.0f}", f"{row['ratio']:.2f}"]
        for name, row in known.get("digits", {}).items()
    ]
    text = table(["step", "ms", "images/s", "gendiff in its units"], rows, "Default run on digits")
    if "loader" in known:
        own = known["loader"]
        text += (
            f"\n\nAs a run, from a packed set: {own['loaded']:.0f} images/s, beside {own['there']:.0f} of its step on batches "
            f"that are there: {own['ratio']:.2f}."
        )
    if "process" in known:
        cost = known["process"]
        text += f"\n\ndct + quartic costs {100 * cost['cost']:+.2f} % over identity at batch {cost['batch']}."
    return text.strip()


def sampling_of(known: dict[str, Any]) -> str:
    rows = [
        [
            name,
            *(f"{row[key]:.2f}" for key in ("gendiff", "network", "launched")),
            f"{100 * row['over_network']:+.1f} %",
        ]
        for name, row in known.get("sampling", {}).items()
    ]
    head = ["network", "gendiff", "network alone", "fp32, launched", "over the network alone"]
    return table(head, rows, "Sampling, ms per evaluation of a batch")


def memory_of(known: dict[str, Any]) -> str:
    rows = [
        [name, f"{row['allocated']:.2f}", f"{row['reserved']:.2f}"]
        for name, row in known.get("memory", {}).items()
        if row["reserved"]
    ]
    return table(["step", "GiB allocated", "GiB reserved"], rows, "Peak memory, from the first step on")


def profile_of(known: dict[str, Any]) -> str:
    rows = known.get("profile", {})
    kinds = list(next(iter(rows.values()), {}))
    lines = [
        [name, *(f"{row[kind]:.0f}" if kind.startswith("kernels") else f"{100 * row[kind]:.1f} %" for kind in kinds)]
        for name, row in rows.items()
    ]
    return table(["step", *kinds], lines, "Where the time of a step goes")


def agreement_of(known: dict[str, Any]) -> str:
    losses = known.get("curves", {})
    rows = [
        [name, f"{row['difference']:.1e}", f"{row['tolerance']:g}"] for name, row in known.get("agreement", {}).items()
    ]
    rows += [
        [f"losses, {name}", f"{apart(losses, name):.1e}", f"{SAME_CURVE[name.partition(',')[0]]:g}"]
        for name in losses
        if name != "before"
    ]
    title = "Largest relative differences: predictions to a float32 CPU, losses to the step as it was"
    return table(["what", "difference", "allowed"], rows, title)


def determinism_of(known: dict[str, Any]) -> str:
    if "determinism" not in known:
        return ""
    cost = known["determinism"]
    return (
        f"A step with `--deterministic` takes {cost['auto']:.2f} times as long as with {cost['arm']}, and {cost['recorded']:.2f} "
        f"times as long as one that is recorded and not compiled (batch {cost['batch']})."
    )


VIEWS = (steps_of, others_of, sampling_of, memory_of, profile_of, agreement_of, determinism_of)


def draw(bench: Bench, known: dict[str, Any], path: Path) -> None:
    """Losses, and speeds over the plain step."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, losses in known.get("curves", {}).items():
        left.plot(losses, label=name, linewidth=2.5 if name == "before" else 1, alpha=0.5 if name == "before" else 1)
    left.set(xlabel="step", ylabel="loss", title="the same batches, launched and recorded")
    rows = {int(part.rpartition(" ")[2]): known[part] for part in known if part.startswith("steps, batch ")}
    rows = dict(sorted(rows.items()))
    names = list(dict.fromkeys(["plain", *itertools.chain(*rows.values())]))
    for place, name in enumerate(names):
        shown = [(k, row[name]["ratio"]) for k, row in enumerate(rows.values()) if "ratio" in row.get(name, {})]
        width = 0.8 / len(names)
        right.bar([k + width * place for k, _ in shown], [value for _, value in shown], width, label=name)
    right.set_xticks([k + 0.4 for k in range(len(rows))], [f"batch {batch}" for batch in rows])
    right.set(ylabel="images/s over the plain step", title=f"{hardware.name(bench.device)}")
    for axes in (left, right):
        if axes.has_data():
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


# --- keeping what is known --------------------------------------------------------------------------------------------


def identity(bench: Bench) -> dict[str, str]:
    """What numbers belong to: with other code, hardware or torch all are measured anew."""
    own = hardware.identity(bench.device, "tests/campaigns/unet_benchmark.py", "tests/campaigns/baseline.py")
    return {**own, "scale": bench.kind, "compiled": str(bench.compiles)}


def keep(bench: Bench, known: dict[str, Any], file: Path) -> None:
    """Write the numbers of what is known."""
    verdicts = [{**asdict(target), "met": target.met} for target in targets(bench, known)]
    keeping.keep(file, identity(bench), known, targets=verdicts)


def show(bench: Bench, known: dict[str, Any], out: Path) -> None:
    """Write table and picture, and print the table."""
    (out / "benchmark.md").write_text(page(bench, known), encoding="utf-8")
    draw(bench, known, out / "benchmark.png")
    print(page(bench, known))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=None)
    parser.add_argument("--scale", choices=list(SCALES), default=None, help="default: paper on a GPU, small elsewhere")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled arms out")
    parser.add_argument("--parts", nargs="+", default=None, help="these alone, measured anew")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no part after that")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="where numbers, table and picture go")
    options = parser.parse_args(arguments)
    until = time.monotonic() + 60 * options.minutes
    os.environ.setdefault(WORKSPACE, FIXED[0])  # what Hopper has anyway: one part wants it said before CUDA begins
    device = choose_device(options.device)
    bench = Bench(device, options.scale or ("paper" if device.type == "cuda" else "small"), not options.no_compile)
    every, file = parts(bench), options.out / "benchmark.json"
    if unknown := set(options.parts or ()) - set(every):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(every)}")
    known = keeping.known(file, identity(bench))
    for name in options.parts or ():
        known.pop(name, None)
    failed, over = list[str](), False
    for name, measure in every.items():
        if name in known or (options.parts and name not in options.parts):
            continue
        if time.monotonic() > until:
            over = True
            break
        print(f"-- {name}", flush=True)
        free()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                for silent in ("steps are launched kernel by kernel", "the network could not be compiled"):
                    warnings.filterwarnings("error", silent)  # it would be measured under another name
                known[name] = measure()
        except Exception as error:  # the other parts are worth their time
            failed.append(f"{name} failed: {type(error).__name__}: {error}")
            print(failed[-1], flush=True)
            continue
        keep(bench, known, file)
    keep(bench, known, file)
    show(bench, known, options.out)
    wrong = [*failed, *disagreements(known)]
    for one in wrong:
        print(one)
    if wrong:
        return 1
    missed = [target for target in targets(bench, known) if target.met is False]
    if missed and hardware.is_hopper(device):
        return 5
    return 75 if over else 0


if __name__ == "__main__":
    raise SystemExit(main())
