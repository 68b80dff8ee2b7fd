"""Keeping: what a campaign knows by now, so that a call goes on where the last one was ended, however it was.

What is known belongs to something (`hardware.identity`): to code, hardware and torch. Of anything else nothing is taken over.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STOPPED = 75  # exit code of what was stopped, and goes on by the same call


def known(file: Path, of: Mapping[str, str]) -> dict[str, Any]:
    """The parts that a file keeps; none where it is not there, was damaged, or belongs to something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content["parts"]) if content["of"] == of else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def keep(file: Path, of: Mapping[str, str], parts: Mapping[str, Any], **more: Any) -> None:
    """Write them, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".part")
    temporary.write_text(json.dumps({"of": of, **more, "parts": parts}, indent=1, default=float), encoding="utf-8")
    temporary.replace(file)


def own(folder: Path, of: Mapping[str, str]) -> Path:
    """The folder of what belongs to ``of``, made anew where it holds what belongs to something else."""
    mark = folder / "of.json"
    if folder.is_dir() and known(mark, of) != {"mine": True}:
        shutil.rmtree(folder)
    if not folder.is_dir():
        keep(mark, of, {"mine": True})
    return folder


def status(run: Path) -> str:
    """How far a run has come, as its record says; empty where it has none that can be read."""
    try:
        return str(json.loads((run / "run.json").read_text(encoding="utf-8"))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def train(run: Path, begin: Sequence[str], go_on: Sequence[str]) -> None:
    """Take a run to its end: one that is done stays, one that was ended goes on, and what is no run yet begins.

    Raises:
        SystemExit: with 75, where it was asked to stop.
        CalledProcessError: where it failed.

    """
    if not (state := status(run)):
        shutil.rmtree(run, ignore_errors=True)  # ended before it was one
    if state == "done":
        return
    done = subprocess.run(go_on if state else begin)
    if done.returncode == STOPPED:
        raise SystemExit(STOPPED)
    done.check_returncode()
