"""Everything that waits for a GPU, in one call of a given length: benchmark, quality, and the paper at scale small.

    python tests/campaigns/gpu.py --out results --minutes 9

needs torch and gendiff to be importable, and no network. Parts run one after the other, the short ones first; the last goes on
where it stopped when the call is repeated with the same ``--out``. Exit code 1 if a part failed; its output says why.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent


def parts(out: Path, device: str, minutes: float, tiny: bool) -> dict[str, list[str]]:
    """The command line of each part; ``tiny`` does little, on any device."""
    quality = ["--sets", "dead-leaves", "--device", device, "--out", str(out), "--work", str(out / "quality")]
    if tiny:
        size = ["--arms", "dct, log 0.14", "--objectives", "wiener", "--seeds", "0", "--steps", "2", "--count", "8"]
        return {
            "benchmark": ["unet_benchmark.py", "--device", device, "--scale", "tiny", "--no-compile"],
            "quality": ["quality.py", *quality, *size, "--samplers", "dpmpp-2m", "--evaluations", "5", "--jobs", "1"],
        }
    size = ["--model", "unet", "--steps", "4000", "--count", "2048", "--jobs", "4", "--minutes", f"{0.6 * minutes:g}"]
    return {
        "benchmark": ["unet_benchmark.py", "--device", device, "--out", str(out / "benchmark.md")],
        "quality": ["quality.py", *quality, *size],
        "table1": [
            "-m",
            "gendiff_cli",
            "reproduce",
            "table1",
            "--scale",
            "small",
            "--device",
            device,
            "--out",
            str(out),
        ],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where tables, and runs to go on with, are kept")
    parser.add_argument("--minutes", type=float, default=9, help="how long the call may last")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", choices=["full", "tiny"], default="full")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    until, failed = time.time() + 60 * options.minutes, False
    for name, words in parts(options.out, options.device, options.minutes, options.scale == "tiny").items():
        command = words if words[0] == "-m" else [str(HERE / words[0]), *words[1:]]
        print(f"== {name}", flush=True)
        try:
            code = subprocess.run(
                [sys.executable, *command], timeout=max(until - time.time(), 1), check=False
            ).returncode
        except subprocess.TimeoutExpired:
            print(f"{name}: the time is over; it goes on in the next call", flush=True)
            break
        failed |= code != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
