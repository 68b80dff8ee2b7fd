"""Oldest: what is read and written with an optional library, tested with the oldest and the newest version of it.

    python tests/campaigns/oldest.py [LIBRARY ...] [--only oldest] [--into build/versions]

The oldest is the one that the extras of pyproject.toml promise, the newest what a package index has now. Each is installed into a
folder of its own, before which the environment takes no part: what that has is not touched. Tests are those in which the
library itself does something; that an error is raised without it needs no version.

Exit code 1 where a test fails with one of them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Library:
    """What is tested with a library.

    Args:
        tests: files under ``tests/``.
        beside: requirements that its oldest version has, and does not say.

    """

    tests: Sequence[str]
    beside: Sequence[str] = ()


LIBRARIES: Mapping[str, Library] = {
    "diffusers": Library(
        (
            "plugins/test_of_diffusers.py",
            "plugins/test_latents.py",
            "cli/test_networks.py",
            "run/test_export.py",
            "docs/test_networks_page.py",
            "test_samplers.py",
            "test_flows.py",
        ),
        beside=("huggingface_hub<0.26",),
    ),
}


def promised(library: str) -> str:
    """The oldest version of a library that the extras of pyproject.toml allow."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    versions = {
        match[1] for every in extras.values() for one in every if (match := re.fullmatch(rf"{library}>=([\d.]+)", one))
    }
    if len(versions) != 1:
        raise SystemExit(f"pyproject.toml promises {len(versions)} oldest versions of {library}: {sorted(versions)}")
    (version,) = versions
    return version + ".0" * (2 - version.count("."))


def install(folder: Path, requirements: Sequence[str]) -> None:
    """Put these, and nothing that they require, into a folder that is not there yet."""
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), *requirements], check=True)


def passes(folder: Path, tests: Sequence[str]) -> bool:
    """Whether these tests pass with what a folder has."""
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "pytest", "-q", *(str(ROOT / "tests" / test) for test in tests)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=False).returncode == 0


def main() -> int:
    """Install, test, and say which versions passed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help=f"of {', '.join(LIBRARIES)}; default: all")
    parser.add_argument("--only", choices=["oldest", "newest"], help="one of the two")
    parser.add_argument("--into", type=Path, default=ROOT / "build/versions", help="where versions are installed")
    arguments = parser.parse_args()
    if unknown := set(arguments.libraries) - set(LIBRARIES):
        parser.error(f"no tests are known of {', '.join(sorted(unknown))}")
    failures = 0
    for name in arguments.libraries or LIBRARIES:
        library = LIBRARIES[name]
        versions = {
            "oldest": [f"{name}=={promised(name)}", *library.beside],
            "newest": [name],
        }
        for which, requirements in versions.items():
            if arguments.only in (None, which):
                label = f"{name}-{promised(name) if which == 'oldest' else which}"
                install(arguments.into / label, requirements)
                passed = passes(arguments.into / label, library.tests)
                failures += not passed
                print(f"{label}: {'passed' if passed else 'FAILED'}", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
