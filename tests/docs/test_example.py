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
from command import Result
from places import ROOT

EXAMPLE = ROOT / "examples" / "gendiff-sine"
HELPERS = ROOT / "tests" / "helpers"
RUN = "runs/00001-digits-dct-sine-s0"
GENDIFF = Path(sysconfig.get_path("scripts")) / "gendiff"
TINY = ["--model", "mlp:width=8,depth=1", "--batch", "4", "--steps", "3", "--set", "train.sample_every=0"]


def execute(*command: object, cwd: Path, path: object = None) -> subprocess.CompletedProcess[str]:
    """A command, with folders to import from."""
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "GENDIFF_PLUGINS")}
    variables |= {"OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(path)} if path else {})}
    return subprocess.run([*map(str, command)], cwd=cwd, env=variables, capture_output=True, text=True, check=False)


def succeed(*command: object, cwd: Path, path: object = None) -> str:
    done = execute(*command, cwd=cwd, path=path)
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


#: Commands in one process: each with its exit code, what it printed and what it said.
SEVERAL = """
import json, sys
from command import run
print(json.dumps([(done.code, done.out, done.err) for done in (run(*line) for line in json.loads(sys.argv[1]))]))
"""


def several(*lines: list[str], cwd: Path, installed: Path | None = None) -> list[Result]:
    """``gendiff *line`` for each line, in one new process."""
    path = os.pathsep.join(filter(None, [str(HELPERS), installed and str(installed)]))
    answer = succeed(sys.executable, "-c", SEVERAL, json.dumps(lines), cwd=cwd, path=path)
    return [Result(*one) for one in json.loads(answer)]


SHOW = ["process", "show", "--rotation", "dct", "--schedule", "sine"]
SUBJECTS = ["sine", "sine:f_max=0.2", "gendiff-sine"]
SAMPLE = ["sample", RUN, "--n", "2", "--sampler", "ddim:steps=5"]
LINES = {
    "list": ["plugins", "list", "--json"],
    "table": ["plugins", "list", "--kind", "schedule"],
    "blocked": ["--block", "gendiff-sine", *SHOW],
    "no plugins": ["--no-plugins", *SHOW],
    **{subject: ["plugins", "check", subject] for subject in SUBJECTS},
    "run": ["runs", "show", RUN, "--json"],
    "sample": SAMPLE,
}


@pytest.fixture(scope="module")
def trained(installed, tmp_path_factory) -> Path:
    """A folder with a run that the command itself has trained, with the package."""
    folder = tmp_path_factory.mktemp("trained")
    train = [GENDIFF, "train", "--rotation", "dct", "--schedule", "sine:f_max=0.2", *TINY]
    assert succeed(*train, cwd=folder, path=installed).strip() == RUN
    return folder


@pytest.fixture(scope="module")
def answers(installed, trained) -> dict[str, Result]:
    """What the commands above say where the package is installed."""
    return dict(zip(LINES, several(*LINES.values(), cwd=trained, installed=installed), strict=True))


@pytest.fixture(scope="module")
def without(trained) -> list[Result]:
    """What is said where it is not: of the process, and of the run."""
    return several(SHOW, [*SAMPLE, "--out", "alone"], cwd=trained)


def test_it_is_listed_with_its_distribution_and_version(answers):
    listed = answers["list"].json
    assert {
        "kind": "schedule",
        "name": "sine",
        "summary": "f(i) = f_max sin²(π i / 2N)",
        "provider": "gendiff-sine 0.1.0",
        "status": "ok",
    } in listed["components"]
    assert listed["problems"] == []
    table = answers["table"].out.splitlines()
    assert "gendiff-sine 0.1.0" in next(line for line in table if line.split()[1] == "sine")


def test_without_it_or_blocked_it_is_unknown(answers, without):
    for done in (answers["blocked"], answers["no plugins"], without[0]):
        assert done.code == 2, done
        assert "unknown schedule 'sine'" in done.err


@pytest.mark.parametrize("subject", SUBJECTS)
def test_it_keeps_what_it_promises(answers, subject):
    assert "schedule 'sine' of gendiff-sine 0.1.0: 10 of 10 hold" in answers[subject].out


def test_a_run_outlives_the_package(trained, answers, without):
    assert answers["run"].json["providers"]["schedule sine"]["plugin"] == "gendiff-sine 0.1.0"
    folders = [done.out.splitlines()[0] for done in (answers["sample"], without[1])]
    assert folders[1] == "alone"
    ours, theirs = (
        [(trained / folder / "events" / f"{k:06d}.png").read_bytes() for k in range(2)] for folder in folders
    )
    assert ours == theirs


@pytest.mark.slow
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
    assert " passed" in succeed(*pytest_, cwd=tmp_path, path=installed)


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
