"""``gendiff doctor`` says what a bug report needs, whatever is wrong, and nothing that is the user's own business."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from email.message import Message
from pathlib import Path
from types import SimpleNamespace

import gendiff_cli.app
import pytest
import torch
from command import run
from gendiff_cli import doctor
from places import ROOT

import gendiff
from gendiff import version
from gendiff.machine import hardware, installation

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ADDRESS = "https://example.org/reports"


@pytest.fixture
def address(monkeypatch):
    """Installed metadata that say where reports go."""
    about = Message()
    about["Project-URL"] = "Homepage, https://example.org"
    about["Project-URL"] = f"Issues, {ADDRESS}"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: about)


def test_it_says_versions_machine_and_plugins(address):
    done = run("doctor")
    assert done.code == 0, done.err
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert lines["gendiff"].startswith(f"gendiff      {gendiff.__version__}")
    assert lines["Python"].split()[1] == ".".join(map(str, sys.version_info[:3]))
    assert torch.__version__ in lines["torch"]
    assert "1 thread" in lines["torch"]
    assert re.search(r"\d+ cores, \d+ to use$", lines["processor"])
    assert re.search(r"[\d.]+ GiB, [\d.]+ GiB free$", lines["memory"])
    assert re.search(r"gendiff \S+: ok, \d\d+ components", lines["plugin"])
    assert re.search(r"of features inception: \S+, (not )?there$", lines["file"])
    assert lines["report"] == f"report to    {ADDRESS}"


def test_json_has_the_same_facts(address):
    facts = run("doctor", "--json").json
    assert facts["gendiff"]["version"] == gendiff.__version__
    assert facts["report_to"] == ADDRESS
    assert facts["torch"]["threads"] == 1
    assert facts["machine"]["memory_bytes"] >= facts["machine"]["free_bytes"] > 0
    assert {row["status"] for row in facts["plugins"] if row["provider"].startswith("gendiff ")} == {"ok"}
    assert set(facts["extras"]) == set(PROJECT["optional-dependencies"]) - {"dev"}
    assert {"torch", "pydantic", "pytorch-fid"} <= set(facts["packages"])
    assert all(facts["packages"].values())


def test_no_secret_and_no_name_is_shown(tmp_path, monkeypatch):
    home = tmp_path / "ada"
    for name, value in {
        "HOME": home,
        "GENDIFF_CACHE": home / "cache",
        "TORCH_HOME": f"{home}-shared",
        "PYTHONPATH": f"https://ada:s3cret@example.org/x:{sys.path[0]}",
        "WANDB_API_KEY": "s3cret",
        "HF_TOKEN": "s3cret",
    }.items():
        monkeypatch.setenv(name, str(value))
    for done in (run("doctor"), run("doctor", "--json")):
        assert done.code == 0
        assert "s3cret" not in done.out
        assert "WANDB_API_KEY" not in done.out
        assert f"{home}/" not in done.out
        assert f"{home}-shared" in done.out, "another folder whose name begins like the home's"
        assert "https://example.org/x" in done.out
    facts = run("doctor", "--json").json
    assert set(facts["environment"]) <= set(doctor.VARIABLES)
    assert facts["environment"]["GENDIFF_CACHE"] == "~/cache"
    assert facts["cache"] == {"path": "~/cache", "files": 0, "bytes": 0}


def test_the_weights_are_looked_for_and_never_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("GENDIFF_FID_WEIGHTS", str(tmp_path / "weights.pth"))
    assert not run("doctor", "--json").json["files"]["features inception"]["present"]
    (tmp_path / "weights.pth").touch()
    assert run("doctor", "--json").json["files"]["features inception"]["present"]


def test_a_broken_plugin_is_said_and_is_exit_3(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("half.py").write_text(
        "from gendiff import hookimpl\n\n@hookimpl\ndef gendiff_components():\n    return [object()]\n"
    )
    done = run("--plugin", "half.py", "doctor")
    assert done.code == 3
    assert "plugin       half.py: broken, 0 components" in done.out
    assert "broken: <object object at" in done.out
    assert "is not a component class" in done.out
    assert "error: 1 plugin is broken" in done.err
    assert "--block half.py" in done.err
    blocked = run("--plugin", "half.py", "--block", "half.py", "doctor")
    assert (blocked.code, "half.py: blocked" in blocked.out) == (0, True)


def test_a_torch_that_cannot_be_imported_is_what_it_is_there_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    facts = doctor._torch()
    assert "torch" in facts["error"]
    done = run("doctor")
    assert done.code == 0
    assert "torch        cannot be used: " in done.out


def test_gpus_are_named_with_their_memory(monkeypatch):
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)

    def held(number):
        if number == 1:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
        return 70 * 2**30, 80 * 2**30

    monkeypatch.setattr(torch.cuda, "mem_get_info", held)
    monkeypatch.setattr(hardware, "_text", lambda path: "NVRM version: NVIDIA UNIX Kernel Module  550.54.15  Tue\n")
    out = run("doctor").out
    assert "GPU 0        NVIDIA H100, 80.0 GiB, 70.0 GiB free, capability 9.0" in out
    assert "GPU 1        NVIDIA H100, 80.0 GiB, unknown free, capability 9.0" in out
    assert "driver       NVIDIA 550.54.15" in out


def test_the_commit_is_that_of_a_checkout(tmp_path, monkeypatch):
    if (ROOT / ".git").exists():
        assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", installation.commit())
    monkeypatch.setattr(version, "__file__", str(tmp_path / "gendiff" / "version.py"))
    assert installation.commit() == ""


def test_metadata_that_cannot_be_read_say_nothing(monkeypatch):
    def damaged(name):
        raise ValueError("damaged")

    for function in ("metadata", "requires", "version"):
        monkeypatch.setattr(importlib.metadata, function, damaged)
    assert (installation.issues(), installation.extras(), installation.packages()) == ("", {}, {})


def test_the_project_says_where_reports_go():
    assert PROJECT["urls"][installation.ADDRESS].startswith("https://")


@pytest.mark.usefixtures("address")
def test_a_fault_of_gendiff_says_where_to_report_it(monkeypatch):
    error = gendiff_cli.app._unexpected(ZeroDivisionError("division by zero"))
    assert error.details == (
        "this is a fault of gendiff's own",
        f"report it, with what `gendiff doctor` prints: {ADDRESS}",
    )


def test_a_terminal_shows_whole_words(monkeypatch):
    import io

    import gendiff_cli.console
    from rich.console import Console

    screen = Console(file=io.StringIO(), force_terminal=True, width=60, soft_wrap=True)
    monkeypatch.setattr(gendiff_cli.console, "out", lambda: screen)
    assert run("doctor").code == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", screen.file.getvalue()).splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith(" " * doctor.LABEL) for line in lines)
