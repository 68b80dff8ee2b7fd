"""Distributions made here: a wheel each, installed by pip, and the real command that sees them."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

PREFIX = "acme_"  # of every module below: what the tests import is told from the rest by it


@dataclass(frozen=True)
class Project:
    """A distribution with one package, named like it.

    Args:
        source: of ``__init__.py``.
        others: further files of the package, by path in it.
        points: entry points of the group gendiff; one with the name of the package when left out.

    """

    name: str
    source: str
    version: str = "1.0"
    others: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, str] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")

    def write(self, folder: Path) -> None:
        package = folder / "src" / self.module
        package.mkdir(parents=True)
        for path, content in {"__init__.py": self.source, **self.others}.items():
            (package / path).write_text(content, encoding="utf-8")
        points = "\n".join(f'{name} = "{value}"' for name, value in (self.points or {self.name: self.module}).items())
        (folder / "pyproject.toml").write_text(
            f"""
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{self.name}"
version = "{self.version}"
dependencies = ["gendiff"]

[project.entry-points.gendiff]
{points}

[tool.hatch.build.targets.wheel]
packages = ["src/{self.module}"]
"""
        )


def wheels(projects: Iterable[Project], into: Path) -> list[Path]:
    """The wheel of each."""
    found = []
    for project in projects:
        folder = into / f"{project.name}-{project.version}"
        project.write(folder)
        (built,) = WheelBuilder(str(folder)).build(directory=str(into), versions=["standard"])
        found.append(Path(built))
    return found


def install(target: Path, files: Iterable[Path]) -> None:
    """``pip install`` into a folder: what pip leaves there, RECORD included."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
    command += ["--no-compile", "--quiet", "--target", str(target), *map(str, files)]
    subprocess.run(command, check=True, capture_output=True)
    importlib.invalidate_caches()


def uninstall(target: Path, name: str) -> None:
    """Remove the files that RECORD lists, as pip does; pip itself leaves alone what is outside of its environment."""
    (distribution,) = importlib.metadata.distributions(name=name, path=[str(target)])
    files = [Path(distribution.locate_file(file)) for file in distribution.files or ()]
    assert files
    for file in files:
        file.unlink(missing_ok=True)
    for folder in sorted({file.parent for file in files}, reverse=True):
        shutil.rmtree(folder)
    assert not list(importlib.metadata.distributions(name=name, path=[str(target)]))
    forget()


def forget() -> None:
    """Import plugins afresh, as the next process would."""
    for module in [name for name in sys.modules if name.startswith((PREFIX, "gendiff_plugin_"))]:
        del sys.modules[module]
    importlib.invalidate_caches()


def gendiff(*argv: object, site: Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, with what is installed in ``site``."""
    known = {key: value for key, value in os.environ.items() if key != "GENDIFF_PLUGINS"}
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    known |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", **variables}
    command = [sys.executable, "-m", "gendiff_cli", *map(str, argv)]
    return subprocess.run(command, cwd=cwd, env=known, capture_output=True, text=True, check=False)
