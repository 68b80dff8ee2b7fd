"""Checkpoint: a directory that is either whole or not there.

    step-000000010000/
      model.safetensors   ema.safetensors   optimizer.safetensors     tensors by name, never a pickle
      state.json                                                      step and small numbers
      MANIFEST.json                                                   written last: format, sizes, SHA-256 of every file

Saving stages everything under another name, forces it to the disk, then renames; only then older checkpoints go. Loading
accepts a directory when every byte agrees with the manifest. There is no "latest" pointer: the newest checkpoint that
verifies is the truth.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from gendiff.errors import DataError, GendiffError
from gendiff.files import Files

FORMAT = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{12})")
_MAX_JSON = 16 * 2**20  # a manifest or state larger than this is not ours


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        step: optimiser steps done.
        tensors: groups of named tensors: ``model``, ``optimizer`` and, where averaging is on, ``ema``.
        state: small JSON-able values.
        about: who wrote it (run id, versions, data fingerprint): stored in the manifest.

    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]
    about: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int, files: Files | None = None) -> Path:
    """Save under ``folder`` and then prune to the newest ``keep``; returns the checkpoint's directory.

    Raises:
        GendiffError: where the disk refuses; the staged files are removed and earlier checkpoints are untouched.

    """
    files = files or Files()
    final = folder / f"step-{checkpoint.step:012d}"
    staged = folder / f".{final.name}.staged"
    content = {
        f"{group}.safetensors": safetensors.torch.save(dict(named)) for group, named in checkpoint.tensors.items()
    }
    content[STATE] = _json({"step": checkpoint.step, **checkpoint.state})
    manifest = {
        "format": FORMAT,
        "step": checkpoint.step,
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in content.items()
        },
        "about": dict(checkpoint.about),
    }
    try:
        files.make_directory(folder)
        if staged.exists():
            files.remove_tree(staged)  # left by a crash
        files.make_directory(staged)
        for name, data in content.items():
            files.write(staged / name, data)
        files.write(staged / MANIFEST, _json(manifest))
        files.sync_directory(staged)
        if final.exists():
            files.remove_tree(final)  # saved before and found damaged: an intact one is never written again
        files.rename(staged, final)
        files.sync_directory(folder)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        needed = sum(len(data) for data in content.values())
        raise GendiffError(
            f"cannot save the checkpoint of step {checkpoint.step}: {error.strerror or error}",
            details=[
                f"in {folder}: {needed:,} bytes needed, {_free(folder):,} free",
                "earlier checkpoints are untouched",
            ],
            fix="make room or choose another --out, then go on with --resume",
        ) from error
    _prune(folder, keep, files)
    return final


def newest(folder: Path, problems: list[str] | None = None) -> Checkpoint:
    """The newest checkpoint under ``folder`` that verifies; why newer ones do not is appended to ``problems``.

    Raises:
        DataError: where there is none; never falls back to an empty one.

    """
    problems = [] if problems is None else problems
    for path in _steps(folder):
        try:
            return load(path)
        except DataError as error:
            problems.append(error.what)
    raise DataError(
        f"no usable checkpoint in '{folder}'",
        details=problems[:5],
        fix="train it first: gendiff train --out RUN",
    )


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint; raises `DataError` naming what is wrong with it."""
    manifest = _read_json(path / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise DataError(f"{path} has format {manifest.get('format')!r}; this gendiff reads format {FORMAT}")
    listed = manifest.get("files")
    if not isinstance(listed, dict) or STATE not in listed:
        raise DataError(f"{path / MANIFEST} lists no files")
    tensors = {}
    for name, facts in listed.items():
        data = _verified(path, name, facts)
        if name.endswith(".safetensors"):
            try:
                tensors[name.removesuffix(".safetensors")] = safetensors.torch.load(data)
            except safetensors.SafetensorError as error:
                raise DataError(f"{path / name} is damaged: {error}") from error
    state = _read_json(path / STATE)
    step = state.pop("step", None)
    if not isinstance(step, int) or step != manifest.get("step"):
        raise DataError(f"{path / STATE} and its manifest disagree about the step")
    about = manifest.get("about")
    return Checkpoint(step=step, tensors=tensors, state=state, about=about if isinstance(about, dict) else {})


def weights_hash(path: Path, group: str) -> str:
    """The first 12 digits of the SHA-256 of a group of weights, as the manifest has it."""
    return str(_read_json(path / MANIFEST)["files"][f"{group}.safetensors"]["sha256"])[:12]


def directory(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lives."""
    return folder / f"step-{step:012d}"


def _verified(path: Path, name: str, facts: Any) -> bytes:
    if Path(name).name != name or not isinstance(facts, dict):
        raise DataError(f"{path / MANIFEST} lists an impossible file {name!r}")
    file = path / name
    try:
        if file.stat().st_size != facts.get("size"):
            raise DataError(f"{file} has {file.stat().st_size:,} bytes, its manifest says {facts.get('size')}")
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
        raise DataError(f"{file} is damaged: its SHA-256 does not match the manifest")
    return data


def _read_json(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_JSON:
            raise DataError(f"{file} is implausibly large")
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not valid JSON") from error
    if not isinstance(value, dict):
        raise DataError(f"{file} is not a JSON object")
    return value


def _steps(folder: Path) -> list[Path]:
    """The checkpoint directories, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _prune(folder: Path, keep: int, files: Files) -> None:
    for old in _steps(folder)[keep:]:
        doomed = old.with_name(f".{old.name}.removed")  # a half-deleted checkpoint must not carry a checkpoint's name
        files.rename(old, doomed)
        files.remove_tree(doomed)
    for leftover in folder.glob(".step-*.removed"):
        files.remove_tree(leftover)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode()


def _free(folder: Path) -> int:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free
