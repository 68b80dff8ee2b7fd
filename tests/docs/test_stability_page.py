"""The page on what is stable says what the code does, and a run of the version that it speaks of is still a run."""

from __future__ import annotations

import importlib
import json
import re
import shutil

import pytest
from command import run
from gendiff_cli.app import app
from places import ROOT
from typer.main import get_command

import gendiff
from gendiff import errors
from gendiff.comparison import plan, study
from gendiff.datasets import packed
from gendiff.evaluation import number
from gendiff.plugin import hookspecs
from gendiff.run import checkpoint, stored

PAGE = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
OLD = ROOT / "tests" / "data" / "run-0.2"


def test_it_speaks_of_this_version():
    assert f"This is version {gendiff.__version__.rpartition('.')[0]}." in PAGE


def test_the_formats_are_those_of_the_code():
    rows = dict(re.findall(r"^\| ([a-z ]+) \| `.*?` \| (.+) \|$", PAGE, re.MULTILINE))
    read = {what: re.findall(r"\d+", text) for what, text in rows.items()}
    assert read == {
        "checkpoint": [str(checkpoint.FORMAT)],
        "process in numbers": list(stored.FORMATS),
        "evaluation": [str(number.FORMAT)],
        "comparison": [str(plan.FORMAT)],
        "study": [str(study.FORMAT)],
        "packed set": list(map(str, packed.FORMATS)),
    }


def test_the_version_of_the_plugin_interface_is_that_of_the_code():
    assert f"Its version is {hookspecs.API_VERSION} (`gendiff_api_version = {hookspecs.API_VERSION}`)" in PAGE


def test_the_exit_codes_are_those_of_the_errors():
    listed = {
        int(code)
        for code in re.findall(r"(?:[:;]|^)\s?(\d+)\s[a-zC]", PAGE.partition("exit codes")[2].partition(".")[0])
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GendiffError)]
    assert {0, 130, *(kind.exit_code for kind in kinds)} == listed


def test_what_authors_may_import_is_there():
    modules = set(re.findall(r"`(gendiff\.\w+)`", PAGE.partition("## Not kept")[2]))
    assert {"gendiff.shapes", "gendiff.errors", "gendiff.testing"} <= modules
    assert all(importlib.import_module(name) for name in modules)


#: The commands of 0.2: one that goes, or takes another name, breaks somebody's script.
COMMANDS = {
    "train",
    "sample",
    "evaluate",
    "compare",
    "reproduce",
    "process",
    "plugins",
    "data",
    "runs",
    "config",
    "doctor",
}


def test_no_command_is_gone():
    assert set(get_command(app).commands) >= COMMANDS


#: The names of 0.2 in Python.
NAMES = """
Belief BlurScales BlurSchedule Component Config Data Denoiser Diffusion Features GaussianScore GendiffError Grid
GridSampler Kernel Lazy Level Logger Loss Metric Model Moments NetworkScore NoiseSchedule Objective Parametrization
Past Pivot Posterior Process Rotation Run Sampler Scales ScoreModel SeparableRotation Snapshot TrainedModel Update
VariancePreserving Velocity as_data as_model decode default_registry encode formula full_precision hookimpl invert
load pictures resume sample train
"""


def test_no_name_is_gone():
    assert set(gendiff.__all__) >= set(NAMES.split())


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of a run that 0.2 wrote."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(OLD, "old")
    return tmp_path / "old"


def test_a_run_of_this_format_is_shown_sampled_and_trained_on(old):
    written = json.loads((old / "run.json").read_text())
    assert written["versions"]["gendiff"].startswith("0.2.")
    shown = run("runs", "show", "old", "--json")
    assert shown.code == 0, shown.err
    drawn = run("sample", "old", "-n", 2, "--sampler", "ddim:steps=2")
    assert drawn.code == 0, drawn.err
    assert "note" not in drawn.err
    resumed = run("train", "--resume", "old", "--steps", 6)
    assert resumed.code == 0, resumed.err
    assert json.loads((old / "run.json").read_text()).keys() >= written.keys()
    again = run("train", "--config", OLD / "config.toml", "--steps", 2, "--out", "again")
    assert again.code == 0, again.err
