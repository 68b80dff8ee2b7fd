"""Everything that waits for a GPU, in calls of nine minutes: tests, benchmark, determinism, curves, growth, quality, table 1.

    python tests/campaigns/gpu.py --out runs/gpu            # again and again, until it exits with something else than 75

Parts run one after the other, the short ones first. What a part has done is kept under ``--out``, with the code, hardware and
torch that it belongs to; a call goes on where the last one stopped, and begins anew where one of these is another. Each call
ends with a list of all parts.

On a machine without a network it needs the checkout and torch. Where gendiff is not installed, it runs from the checkout:
its entry points are written to ``OUT/site`` as an installation would. What else such a machine lacks is carried as wheels in the
checkout and unpacked there, each only where the machine has none of that name:

    python tests/campaigns/gpu.py --pack wheels             # at home: for Python 3.12 on Linux, versions of constraints.txt
    git archive HEAD | tar -x -C AWAY; cp -r wheels AWAY/   # the checkout, with wheels/ in it, to the other machine

Exit code 0 where all is done and met; 1 where a part failed; 5 where the benchmark missed a target; 75 where the time is over.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LEAST = 15  # seconds in which a part is worth beginning
GRACE = 20  # seconds in which one that is asked to stop may save what it has
#: What a machine that has torch and the usual scientific packages may lack.
CARRIED = (
    *("pydantic", "pydantic_core", "annotated-types", "typing-inspection", "typing_extensions", "pluggy", "einops"),
    *("tomli_w", "typer", "rich", "click", "shellingham", "markdown-it-py", "mdurl", "Pygments", "safetensors"),
    *("pytorch-fid", "pytest", "iniconfig", "annotated-doc"),
)


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


def parts(out: Path, device: str, minutes: float, tiny: bool) -> dict[str, list[str]]:
    """The arguments of Python for each part; ``tiny`` does little, on any device. ``minutes`` are those that are left."""
    left = f"{0.75 * minutes:.2f}"  # what begins later would be ended before it is done
    quality = ["quality.py", "--sets", "dead-leaves", "--device", device, "--work", str(out / "quality")]
    quality += ["--out", str(out), "--minutes", left]
    of = {
        "tests": ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "gpu")],
        "benchmark": ["unet_benchmark.py", "--device", device, "--out", str(out / "benchmark"), "--minutes", left],
        "determinism": ["determinism.py", "--device", device, "--out", str(out / "determinism")],
        "curves": ["curves.py", "--device", device, "--out", str(out / "curves")],
        "growth": ["growth.py", "--device", device, "--out", str(out / "growth"), "--minutes", left],
        "quality": [*quality, "--model", "unet", "--steps", "4000", "--count", "2048", "--jobs", "4"],
        "table1": [
            *["-m", "gendiff_cli", "reproduce", "table1", "--scale", "small", "--device"],
            device,
            "--out",
            str(out / "table1"),
        ],
    }
    if tiny:
        cell = ["--arms", "dct, log 0.14", "--objectives", "wiener", "--seeds", "0", "--steps", "2", "--count", "8"]
        of["benchmark"] += ["--scale", "tiny"]
        of["determinism"] += ["--scale", "tiny"]
        of["curves"] += ["--scale", "tiny"]
        of["growth"] += ["--scale", "tiny"]
        of["quality"] = [*quality, *cell, "--samplers", "dpmpp-2m", "--evaluations", "5", "--jobs", "1"]
        del of["tests"], of["table1"]
    return of


def run(words: Sequence[str], environment: dict[str, str], seconds: float) -> int | None:
    """A part in a process group of its own, for so long; its exit code, or None where it has not come to its end."""
    command = words if words[0] == "-m" else [str(HERE / words[0]), *words[1:]]
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, start_new_session=True)
    code: int | None = None
    try:
        code = process.wait(max(seconds - GRACE, 1))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return None if code == 75 else code


def away(out: Path, wheels: Path) -> dict[str, str]:
    """The environment in which gendiff can be imported, its plugins are there, and what is carried is where it lacks."""
    environment = dict(os.environ)
    site = out / "site"
    for wheel in sorted(wheels.glob("*.whl")):
        if not is_installed(wheel.name.partition("-")[0]):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
    places = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "cli")]
    if not is_installed("gendiff"):
        write_entry_points(site)
    return environment | {"PYTHONPATH": os.pathsep.join([*places, str(site), environment.get("PYTHONPATH", "")])}


def is_installed(name: str) -> bool:
    """Whether there is a distribution of that name."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def write_entry_points(site: Path) -> None:
    """What an installation says of gendiff: that it is there, and which plugins it has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = site / "gendiff-0.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: gendiff\nVersion: 0\n", encoding="utf-8")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {module}" for name, module in points.items())]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def pack(folder: Path) -> int:
    """Fetch the wheels that another machine may lack."""
    versions = dict(
        line.strip().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    known = {key.lower().replace("_", "-"): version for key, version in versions.items()}
    names = [f"{name}=={known[key]}" for name in CARRIED if (key := name.lower().replace("_", "-")) in known]
    target = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp", "--no-deps"]
    for tag in ("_2_28", "_2_27", "_2_17", "2014"):
        target += ["--platform", f"manylinux{tag}_x86_64"]
    return subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", *target, "-d", str(folder), *names]
    ).returncode


def kept(out: Path, identity: dict[str, str]) -> dict[str, Part]:
    """What earlier calls did, where it belongs to the same."""
    try:
        state = json.loads((out / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: Part(**part) for name, part in state["parts"].items()} if state.get("of") == identity else {}


def keep(out: Path, identity: dict[str, str], done: dict[str, Part]) -> None:
    """Write it down."""
    state = {"of": identity, "parts": {name: asdict(part) for name, part in done.items()}}
    (out / "state.json.part").write_text(json.dumps(state, indent=1), encoding="utf-8")
    (out / "state.json.part").replace(out / "state.json")


def identity(device: str, environment: dict[str, str]) -> dict[str, str]:
    """What results belong to; asked in another process, for this one leaves the GPU to the parts."""
    code = "import json, hardware, torch, sys; print(json.dumps(hardware.identity(torch.device(sys.argv[1]), *sys.argv[2:])))"
    told = {**environment, "PYTHONPATH": os.pathsep.join([str(HERE), environment.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code, device, "tests/campaigns", "tests/gpu"], env=told, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{device} cannot be used: {done.stderr.strip().splitlines()[-1][:500]}")
    of: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return of


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="where tables, and what goes on, are kept")
    parser.add_argument("--minutes", type=float, default=9, help="how long the call may last")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=["full", "tiny"], default="full")
    parser.add_argument("--parts", nargs="+", help="these alone, also where they are done")
    parser.add_argument("--wheels", type=Path, default=ROOT / "wheels", help="what this machine lacks")
    parser.add_argument("--pack", type=Path, metavar="DIR", help="only fetch these wheels, on a machine with a network")
    options = parser.parse_args(arguments)
    if options.pack:
        return pack(options.pack)
    until, out = time.monotonic() + 60 * options.minutes, options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    environment = away(out, options.wheels)
    own = identity(options.device, environment)
    done = kept(out, own)
    names = list(parts(out, options.device, 0, options.scale == "tiny"))
    if unknown := set(options.parts or ()) - set(names):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    for name in options.parts or ():
        done.pop(name, None)
    for name in options.parts or names:
        part, left = done.setdefault(name, Part()), until - time.monotonic()
        if part.code is not None or left < LEAST:
            continue
        print(f"== {name}", flush=True)
        started = time.monotonic()
        words = parts(out, options.device, left / 60, options.scale == "tiny")[name]
        part.code = run(words, environment, left)
        part.seconds += time.monotonic() - started
        keep(out, own, done)
        if part.code is None:
            break
    print(f"== {own['hardware']}, torch {own['torch']}")
    for name in names:
        part = done.get(name, Part())
        print(f"{name:12} {part.state:26} {part.seconds:6.0f} s", flush=True)
    codes = [done.get(name, Part()).code for name in options.parts or names]
    if any(code not in (None, 0, 5) for code in codes):
        return 1
    return 75 if None in codes else 5 if 5 in codes else 0


if __name__ == "__main__":
    sys.exit(main())
