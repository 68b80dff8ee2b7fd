"""Threads: a training alone, beside another and joined by another; comparing and evaluating, one at a time and side by side.

    python tests/campaigns/threads_benchmark.py --out runs/bench

On a CPU alone. The default run on digits trains for some seconds in processes of their own: with what ``--threads auto`` chooses,
and as OpenMP, which torch computes with, has it by itself. All take turns, round by round, and ratios are of a round, so that
what else the machine does meets all; the load that was found is printed. ``compare`` and ``evaluate`` are run as commands, with
``--at-once 1`` and by themselves, and must come to the same numbers: exit code 1 where they do not.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
#: How threads are chosen: ``auto`` by gendiff, the others by torch with these variables.
WAYS: dict[str, dict[str, str]] = {
    "auto": {},
    "torch's own": {},
    "torch's own, passive": {"OMP_WAIT_POLICY": "passive"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
WANTED = {"two side by side": 0.9, "a second joins": 0.9, "compare": 1.6, "evaluate": 1.6}


def child(way: str) -> None:
    """Say when all is ready, train from the first line of stdin on, and measure in the seconds that the second one says."""
    from gendiff.machine.load import Load
    from gendiff.machine.waiting import wait_briefly

    if way == "auto":
        wait_briefly()
    load = Load()
    import torch

    from gendiff.machine.threads import chosen
    from gendiff.machine.world import World
    from gendiff.run.layers import resolve
    from gendiff.training.trainer import Trainer

    if way == "auto":
        chosen(None, load).use()
    device = torch.device("cpu")
    config = resolve([]).config.filled(say=False).fitted()
    trainer = Trainer(config, device, World(0, 1, device))
    trainer.train_step(trainer.batches[1])
    orders = os.fdopen(0, "rb", buffering=0)  # what waits in a buffer, select does not see
    print("ready", flush=True)
    orders.readline()
    begin, end, before = float("inf"), float("inf"), 0
    while (now := time.monotonic()) < end:
        if begin == float("inf") and select.select([orders], [], [], 0)[0]:
            begin, end, before = now, now + float(orders.readline()), trainer.step
        trainer.train_step(trainer.batches[trainer.step + 1])
    speed = (trainer.step - before) * config.train.batch / (time.monotonic() - begin)
    print(json.dumps({"images_per_s": speed, "threads": torch.get_num_threads()}))


class Training:
    """One in a process of its own, ready to begin."""

    def __init__(self, way: str) -> None:
        clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
        line = [sys.executable, __file__, "--child", way]
        self.process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=clean | WAYS[way]
        )

    def wait(self) -> None:
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def outcome(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        outcome: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.process.communicate()
        return outcome


def trainings(way: str, seconds: float, count: int, joined: bool = False) -> dict[str, Any]:
    """The speeds of so many trainings at the same time; ``joined``: others are started while the first trains."""
    all_of_them = [Training(way) for _ in range(1 if joined else count)]
    for one in all_of_them:
        one.wait()
    for one in all_of_them:
        one.say("train")
    others = [Training(way) for _ in range(count - len(all_of_them))]
    for one in others:
        one.wait()
        one.say("train")
    all_of_them += others
    for one in all_of_them:
        one.say(str(seconds))
    found = [one.outcome() for one in all_of_them]
    return {
        "images_per_s": sum(one["images_per_s"] for one in found),
        "each": [round(one["images_per_s"]) for one in found],
        "threads": [one["threads"] for one in found],
    }


def side_by_side(ways: Sequence[str], seconds: float, rounds: int) -> dict[str, list[dict[str, Any]]]:
    """For each way and round: one alone, two side by side, one that a second joins."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            one = {
                "alone": trainings(way, seconds, 1),
                "two side by side": trainings(way, seconds, 2),
                "a second joins": trainings(way, seconds, 2, joined=True),
                "load": os.getloadavg()[0],
            }
            found[way].append(one)
            print(f"{way}: {json.dumps(one)}", flush=True)
    return found


def commands(steps: int, n: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Seconds of ``compare`` and ``evaluate``, one at a time and by themselves, by round; raises where numbers differ."""
    clean = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    found: dict[str, list[dict[str, float]]] = {"compare": [], "evaluate": []}
    with tempfile.TemporaryDirectory() as folder:
        arms = [
            "--arm",
            "identity",
            "--arm",
            "dct",
            "--seeds",
            "1",
            "--steps",
            steps,
            "--n",
            64,
            "--features",
            "pixels",
        ]
        compare = ["compare", *arms, "--set", "train.sample_every=0", "--device", "cpu"]
        run = f"{folder}/run"
        train = ["train", "--steps", 2, "--set", "train.sample_every=0", "--device", "cpu", "--out", run]
        subprocess.run(_line(train), check=True, env=clean, stdout=subprocess.DEVNULL)
        evaluate = ["evaluate", run, "--n", n, "--features", "pixels", "--no-cache", "--device", "cpu"]
        for number in range(rounds):
            for name, words in (("compare", compare), ("evaluate", evaluate)):
                seconds, numbers = {}, {}
                for how in ("1", "auto")[:: 1 if number % 2 == 0 else -1]:
                    out = ["--out", f"{folder}/{number}-{how}"] if name == "compare" else []
                    begin = time.perf_counter()
                    line = _line([*words, "--at-once", how, "--json", *out])
                    done = subprocess.run(line, check=True, env=clean, capture_output=True, text=True)
                    seconds[how] = time.perf_counter() - begin
                    facts = json.loads(done.stdout)
                    numbers[how] = facts.get("numbers") or [arm["numbers"] for arm in facts["arms"]]
                if numbers["1"] != numbers["auto"]:
                    raise SystemExit(f"{name} comes to other numbers with --at-once 1")
                found[name].append({**seconds, "load": os.getloadavg()[0]})
                print(f"{name}: {json.dumps(found[name][-1])}", flush=True)
    return found


def _line(words: Sequence[Any]) -> list[str]:
    return [sys.executable, "-m", "gendiff_cli", "-q", *map(str, words)]


def page(known: Mapping[str, Any]) -> str:
    """All that was found, as Markdown."""
    lines = [f"CPU, {os.cpu_count()} cores; medians over rounds, and of the ratios of each round.", ""]
    lines += [
        "| threads | one alone, images/s | two side by side | a second joins | over one alone | load |",
        "|---|" + "---|" * 5,
    ]
    for way, rounds in known["trainings"].items():
        cells = [
            f"{statistics.median(one[key]['images_per_s'] for one in rounds):.0f}"
            for key in ("alone", *list(WANTED)[:2])
        ]
        ratios = [f"{ratio(rounds, key):.2f}" for key in list(WANTED)[:2]]
        load = statistics.median(one["load"] for one in rounds)
        lines.append(f"| {way} | {' | '.join(cells)} | {' and '.join(ratios)} | {load:.1f} |")
    lines += ["", "| command | one at a time, s | by itself, s | times as fast | load |", "|---|---|---|---|---|"]
    for name, rounds in known["commands"].items():
        alone, together, load = (statistics.median(one[key] for one in rounds) for key in ("1", "auto", "load"))
        faster = statistics.median(one["1"] / one["auto"] for one in rounds)
        lines.append(f"| {name} | {alone:.1f} | {together:.1f} | {faster:.2f} | {load:.1f} |")
    wanted = ", ".join(f"{name} {value}" for name, value in WANTED.items())
    return "\n".join([*lines, "", f"Wanted of auto, on a machine that does nothing else: {wanted}.", ""])


def ratio(rounds: Sequence[Mapping[str, Any]], key: str) -> float:
    """What all train together over what one trains alone: the median over rounds."""
    return statistics.median(one[key]["images_per_s"] / max(one["alone"]["images_per_s"], 1e-9) for one in rounds)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="that a training is measured for")
    parser.add_argument("--steps", type=int, default=300, help="of each run of the comparison")
    parser.add_argument("--n", type=int, default=2048, help="samples that are evaluated")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS)[:2])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--child", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child)
        return 0
    known = {
        "trainings": side_by_side(options.ways, options.seconds, options.rounds),
        "commands": commands(options.steps, options.n, options.rounds),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "threads.json").write_text(json.dumps(known, indent=1), encoding="utf-8")
    (options.out / "threads.md").write_text(page(known), encoding="utf-8")
    print(page(known))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
