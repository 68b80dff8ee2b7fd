"""examples/gendiff-sine: built, installed and used as somebody else's package would be."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from places import ROOT

EXAMPLE = ROOT / "examples" / "gendiff-sine"
GENDIFF = Path(sysconfig.get_path("scripts")) / "gendiff"
TINY = ["--model", "mlp:width=8,depth=1", "--batch", "4", "--steps", "3", "--set", "train.sample_every=0"]


def execute(*command: object, cwd: Path, installed: Path | None = None) -> subprocess.CompletedProcess[str]:
    """A command, with the folder of installed packages to import from."""
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "GENDIFF_PLUGINS")}
    variables |= {"OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(installed)} if installed else {})}
    return subprocess.run([*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True, check=False)


def succeed(*command: object, cwd: Path, installed: Path | None = None) -> str:
    done = execute(*command, cwd=cwd, installed=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The wheel, built from a copy and installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("example")
    source, wheels, target = folder / "source", folder / "wheels", folder / "installed"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("__pycache__", "dist", "build", "*.egg-info"))
    succeed(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, source, cwd=folder)
    (wheel,) = wheels.glob("gendiff_sine-0.1.0-*.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    succeed(*pip, "--no-index", "--no-deps", "--target", target, wheel, cwd=folder)
    return target


def test_what_is_installed(installed):
    found = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    assert {path for path in found if path.startswith("gendiff_sine/") and "__pycache__" not in path} == {
        "gendiff_sine/__init__.py",
        "gendiff_sine/py.typed",
        "gendiff_sine/schedule.py",
    }
    assert "gendiff_sine-0.1.0.dist-info/licenses/LICENSE" in found


def test_it_is_listed_with_its_distribution_and_version(installed, tmp_path):
    listed = json.loads(succeed(GENDIFF, "plugins", "list", "--json", cwd=tmp_path, installed=installed))
    assert {
        "kind": "schedule",
        "name": "sine",
        "summary": "f(i) = f_max sin²(π i / 2N)",
        "provider": "gendiff-sine 0.1.0",
        "status": "ok",
    } in listed["components"]
    assert listed["problems"] == []
    table = succeed(GENDIFF, "plugins", "list", "--kind", "schedule", cwd=tmp_path, installed=installed)
    assert "gendiff-sine 0.1.0" in next(line for line in table.splitlines() if line.split()[1] == "sine")


def test_without_it_or_blocked_it_is_unknown(installed, tmp_path):
    command = ["process", "show", "--rotation", "dct", "--schedule", "sine"]
    for options, path in (((), None), (("--block", "gendiff-sine"), installed), (("--no-plugins",), installed)):
        done = execute(GENDIFF, *options, *command, cwd=tmp_path, installed=path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "unknown schedule 'sine'" in done.stderr


@pytest.mark.parametrize("subject", ["sine", "sine:f_max=0.2", "gendiff-sine"])
def test_it_keeps_what_it_promises(installed, tmp_path, subject):
    card = succeed(GENDIFF, "plugins", "check", subject, cwd=tmp_path, installed=installed)
    assert "schedule 'sine' of gendiff-sine 0.1.0: 9 of 9 hold" in card


def test_train_and_sample(installed, tmp_path):
    train = [GENDIFF, "train", "--rotation", "dct", "--schedule", "sine:f_max=0.2", *TINY]
    run = succeed(*train, cwd=tmp_path, installed=installed).strip()
    assert run == "runs/00001-digits-dct-sine-s0"
    shown = json.loads(succeed(GENDIFF, "runs", "show", run, "--json", cwd=tmp_path, installed=installed))
    assert shown["providers"]["schedule sine"]["plugin"] == "gendiff-sine 0.1.0"
    sample = [GENDIFF, "sample", run, "--n", "2", "--sampler", "ddim:steps=5"]
    folder, _ = succeed(*sample, cwd=tmp_path, installed=installed).splitlines()
    pictures = [(tmp_path / folder / "events" / f"{number:06d}.png").read_bytes() for number in range(2)]
    alone, _ = succeed(*sample, "--out", "alone", cwd=tmp_path).splitlines()  # the run outlives the package
    assert [(tmp_path / alone / "events" / f"{number:06d}.png").read_bytes() for number in range(2)] == pictures


def test_its_own_tests_pass(installed, tmp_path):
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    pytest_ = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        tmp_path,
        tmp_path / "tests",
    ]
    assert " passed" in succeed(*pytest_, cwd=tmp_path, installed=installed)


def test_it_is_the_schedule_of_the_tutorial():
    import torch

    page = (EXAMPLE.parent.parent / "docs" / "plugins" / "tutorial.md").read_text(encoding="utf-8")
    code = page.partition("```python\n# my_schedule.py\n")[2].partition("```")[0]
    told: dict[str, object] = {"__name__": "page"}
    exec(compile(code, "tutorial.md", "exec"), told)
    spec = importlib.util.spec_from_file_location("sine_of_the_example", EXAMPLE / "src/gendiff_sine/schedule.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        ours, theirs = told["Sine"](f_max=0.2), module.Sine(f_max=0.2)
        assert torch.equal(ours.cumulative(100), theirs.cumulative(100))
        assert (ours.spec, ours.__doc__) == (theirs.spec, theirs.__doc__.partition("\n")[0])
    finally:
        del sys.modules[spec.name]
