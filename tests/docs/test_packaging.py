"""The wheel works in an environment that knows nothing of the repository."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path

import pytest
from places import ROOT


def test_what_the_ordinary_run_leaves_out_has_a_target_of_make_that_is_told_of():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    left_out = set(re.findall(r"not (\w+)", options["addopts"]))
    assert left_out == {marker.partition(":")[0] for marker in options["markers"]}
    made = set(re.findall(r"pytest -m (\w+)", (ROOT / "Makefile").read_text()))
    assert made == left_out
    assert all(f"`make {name}`" in (ROOT / "CONTRIBUTING.md").read_text() for name in made)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = folder.glob("gendiff-*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A fresh virtual environment with the wheel; dependencies are linked in, everything of this checkout is left out."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    (site,) = (folder / "lib").glob("python*/site-packages")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        own = "gendiff" in package.name or package.suffix == ".pth"
        if not own and not (site / package.name).exists():
            (site / package.name).symlink_to(package)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "bin" / "python"]
    subprocess.run([*pip, "install", "--no-deps", "--no-compile", "--quiet", wheel], check=True, capture_output=True)
    return folder


def run(environment: Path, *arguments: str, cwd: Path, program: str = "gendiff") -> subprocess.CompletedProcess[str]:
    command = [str(environment / "bin" / program), *arguments]
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)


def test_the_wheel_holds_three_packages_and_their_data(wheel):
    from zipfile import ZipFile

    names = ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"gendiff", "gendiff_plugins", "gendiff_cli"}
    assert any(name.endswith("digits.npz") for name in names)
    licences = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "emoji-licence.txt"}
    assert sum(name.endswith(".toml") for name in names) == len(list((ROOT / "plugins").rglob("*.toml")))


def test_help_list_and_train_without_the_repository(environment, tmp_path):
    help_ = run(environment, "--help", cwd=tmp_path)
    assert help_.returncode == 0, help_.stderr
    assert "train" in help_.stdout
    listed = run(environment, "plugins", "list", "--json", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    report = json.loads(listed.stdout)
    assert report["problems"] == []
    assert {"dct", "quartic", "unet", "digits"} <= {component["name"] for component in report["components"]}
    small = ["--model", "mlp:width=8,depth=1", "--steps", "3", "--set", "train.sample_every=0"]
    trained = run(environment, "train", "--rotation", "dct", "--schedule", "log", *small, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.strip() == "runs/00001-digits-dct-log-s0"
    code = "import gendiff, gendiff_cli; print(gendiff.__file__, gendiff_cli.__file__)"
    found = run(environment, "-c", code, cwd=tmp_path, program="python").stdout
    assert str(ROOT) not in found
    assert found.count(str(environment)) == 2
