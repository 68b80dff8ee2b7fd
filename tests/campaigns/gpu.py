"""Everything that waits for a GPU, in calls of nine minutes: tests, benchmark, determinism, curves, growth, quality, experiments.

    python tests/campaigns/gpu.py --out runs/gpu            # again and again, until it exits with something else than 75

Parts run one after the other, the short ones first. What they do is kept in a folder of ``--out`` that belongs to one code,
hardware, torch and scale: a call goes on where the last one stopped or was stopped, and nothing of another code is taken over.
Each call ends with a list of all parts.

On a machine without a network it needs the checkout and torch. Where gendiff is not installed, it runs from the checkout, and
what else such a machine lacks is taken from wheels in the checkout or beside it (`away`). Where one is missing it says which.

    python tests/campaigns/gpu.py --pack wheels             # at home: for Python 3.12 on Linux, versions of constraints.txt
    git archive HEAD | tar -x -C AWAY; cp -r wheels AWAY/   # the checkout, with wheels/ in it, to the other machine
    make gpu PYTHON=python3                                 # there, with the Python that has torch

Exit code 0 where all is done and met; 1 where a part failed; 5 where the benchmark missed a target; 75 where the time is over, or
it was asked to stop; 130 after Ctrl-C. ``make`` exits with 2 for each of these, and names it: ``Error 75``.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import away
import keeping

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LEAST = 15  # seconds in which a part is worth beginning
GRACE = 20  # seconds in which one that is asked to stop may save what it has
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass
class Part:
    """What is known of a part: its exit code, None where it goes on, and the seconds that it took so far."""

    code: int | None = None
    seconds: float = 0.0

    @property
    def state(self) -> str:
        """In a word."""
        if self.code is None:
            return "goes on" if self.seconds else "not begun"
        return {0: "done", 5: "done, a target is missed"}.get(self.code, f"FAILED with {self.code}")


class Ended(BaseException):
    """This call was asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 130 if number == signal.SIGINT else keeping.STOPPED


def parts(out: Path, device: str, minutes: float, tiny: bool) -> dict[str, list[str]]:
    """The arguments of Python for each part; ``tiny`` does little, on any device. ``minutes`` are those that are left."""
    left = f"{0.75 * minutes:.2f}"  # what begins later would be ended before it is done

    def place(name: str) -> list[str]:
        return ["--device", device, "--out", str(out / name)]

    quality = ["quality.py", "--sets", "dead-leaves", "--work", str(out / "quality" / "runs"), *place("quality")]
    quality += ["--minutes", left]
    until = ["--minutes", f"{max(minutes - 0.5, 0.1):.2f}"]
    reproduce = {
        target: ["-m", "gendiff_cli", "reproduce", target, *place(target), *until] for target in ("table1", "twin")
    }
    of = {
        "tests": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--known", str(out / "tests"), "tests/gpu"],
        "benchmark": ["unet_benchmark.py", *place("benchmark"), "--minutes", left],
        "determinism": ["determinism.py", *place("determinism")],
        "curves": ["curves.py", *place("curves")],
        "growth": ["growth.py", *place("growth"), "--minutes", left],
    }
    if not tiny:
        of["quality"] = [*quality, "--model", "unet", "--steps", "4000", "--count", "2048", "--jobs", "4"]
        return of | {target: [*words, "--scale", "small"] for target, words in reproduce.items()}
    cell = ["--arms", "dct, log 0.14", "--objectives", "wiener", "--seeds", "0", "--steps", "2", "--count", "8"]
    of["tests"] += ["--rehearse"] if device == "cpu" else []
    for name in ("benchmark", "determinism", "curves", "growth"):
        of[name] += ["--scale", "tiny"]
    of["quality"] = [*quality, *cell, "--samplers", "dpmpp-2m", "--evaluations", "5", "--jobs", "1"]
    least = ["--scale", "tiny", "--steps", "2", "--n", "16", "--at-once", "1"]
    return of | {target: [*words, *least] for target, words in reproduce.items()}


def run(words: Sequence[str], environment: dict[str, str], seconds: float, held: Sequence[int] = ()) -> int | None:
    """A part in a process group of its own, for so long; its exit code, or None where it has not come to its end.

    Nothing that it started is left when this returns. ``held`` are files that it holds for as long as it lives.
    """
    command = words if words[0] == "-m" else [str(HERE / words[0]), *words[1:]]
    # No session of its own: whoever ends this session means the part too.
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        process_group=0,
        pass_fds=held,
    )
    code: int | None = None
    try:
        code = process.wait(max(seconds - GRACE, 1))
    except subprocess.TimeoutExpired:
        pass
    finally:
        end(process)
    return None if code == keeping.STOPPED else code


def end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process group: ask it to stop, and kill it where it does not."""
    until = time.monotonic() + GRACE
    asks = [signal.SIGTERM, signal.SIGKILL]
    while asks and is_alive(process):
        os.killpg(process.pid, asks.pop(0))
        while is_alive(process) and time.monotonic() < until:
            time.sleep(0.05)
    process.wait()


def is_alive(process: subprocess.Popen[bytes]) -> bool:
    """Whether any process of its group is."""
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def stops() -> Iterator[None]:
    """Raise `Ended` in the block on the first request to stop; those that follow are the same one."""

    def stop(number: int, frame: FrameType | None) -> None:
        for one in STOPS:
            signal.signal(one, signal.SIG_IGN)
        raise Ended(number)

    before = {number: signal.getsignal(number) for number in STOPS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alone(out: Path) -> Iterator[int]:
    """Hold ``out``, and give the file that holds it; raises `SystemExit` where another call does, or what one left behind."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(
                f"another call is at work in {out}, or a part that outlived one: wait for it, or end it",
                file=sys.stderr,
            )
            raise SystemExit(keeping.STOPPED) from None
        yield file.fileno()


def identity(device: str, scale: str, environment: dict[str, str]) -> dict[str, str]:
    """What results belong to; asked in another process, for this one leaves the GPU to the parts.

    Raises:
        SystemExit: where the device cannot be used, or something that is needed cannot be imported.

    """
    code = (
        "import importlib, json, sys\n"
        "for name in sys.argv[3].split(): importlib.import_module(name)\n"
        "import hardware, torch\n"
        "print(json.dumps(hardware.identity(torch.device(sys.argv[1]), *sys.argv[4:]) | {'scale': sys.argv[2]}))"
    )
    own = {**environment, "PYTHONPATH": os.pathsep.join([str(HERE), environment.get("PYTHONPATH", "")])}
    modules = " ".join(away.modules())
    line = [sys.executable, "-c", code, device, scale, modules, "tests/campaigns", "tests/gpu", "tests/helpers"]
    done = subprocess.run(line, env=own, capture_output=True, text=True)
    if done.returncode:
        why = done.stderr.strip().splitlines()[-1][:500]
        raise SystemExit(f"gendiff cannot be run on {device} by {sys.executable}: {why}")
    of: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return of


def folder_of(out: Path, of: dict[str, str]) -> Path:
    """Where all that belongs to this is kept."""
    words = re.sub(r"[^a-z0-9.]+", "-", f"{of['hardware']} torch {of['torch']} {of['scale']}".lower()).strip("-")
    return out / f"{words}-{of['code']}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where tables, and what goes on, are kept")
    parser.add_argument("--minutes", type=float, default=9, help="how long the call may last")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=["full", "tiny"], default="full")
    parser.add_argument("--parts", nargs="+", help="these alone, anew also where they are done")
    parser.add_argument(
        "--wheels", type=Path, nargs="+", help="what this machine lacks (default: wheels/, here or beside)"
    )
    parser.add_argument("--pack", type=Path, metavar="DIR", help="only fetch these wheels, on a machine with a network")
    parser.add_argument("--python", default="3.12", metavar="VERSION", help="that wheels are packed for")
    parser.add_argument("names", nargs="*", metavar="NAME", help="that alone is packed, with what it needs in turn")
    options = parser.parse_args(arguments)
    if options.pack:
        return away.pack(options.pack, options.python, options.names)
    if options.names:
        parser.error("names are those of --pack")
    with stops():
        try:
            return work(options, parser)
        except Ended as ended:
            print("stopped before a part began: the next call goes on", file=sys.stderr)
            return ended.code


def work(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    """One call."""
    until, out = time.monotonic() + 60 * options.minutes, options.out.resolve()
    with alone(out) as lock:
        environment = away.environment(out / "site", away.Wheels(options.wheels or away.wheelhouses()))
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # whatever the machine has for others
        own = identity(options.device, options.scale, environment)
        folder = folder_of(out, own)
        state, tiny = folder / "state.json", options.scale == "tiny"
        done = {name: Part(**part) for name, part in keeping.known(state, own).items()}
        names = list(parts(folder, options.device, 0, tiny))
        if unknown := set(options.parts or ()) - set(names):
            parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
        for name in options.parts or ():
            if done.pop(name, Part()).code is not None:
                shutil.rmtree(folder / name, ignore_errors=True)
        asked: Ended | None = None
        for name in options.parts or names:
            part, left = done.setdefault(name, Part()), until - time.monotonic()
            if part.code is not None or left < LEAST:
                continue
            print(f"== {name}", flush=True)
            started = time.monotonic()
            try:
                part.code = run(parts(folder, options.device, left / 60, tiny)[name], environment, left, [lock])
            except Ended as ended:
                asked = ended
            part.seconds += time.monotonic() - started
            keeping.keep(state, own, {key: asdict(value) for key, value in done.items()})
            if part.code is None:
                break
        print(f"== {own['hardware']}, torch {own['torch']}; all of it is in {folder}")
        for name in names:
            part = done.get(name, Part())
            print(f"{name:12} {part.state:26} {part.seconds:6.0f} s", flush=True)
        codes = [done.get(name, Part()).code for name in options.parts or names]
    if asked:
        return asked.code
    if any(code not in (None, 0, 5) for code in codes):
        return 1
    return keeping.STOPPED if None in codes else 5 if 5 in codes else 0


if __name__ == "__main__":
    sys.exit(main())
