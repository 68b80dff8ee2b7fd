"""Checkpoint: a directory that is either whole or not there.

    step-000000010000/
      model.safetensors   ema.safetensors   optimizer.safetensors     tensors by name, never a pickle; of several averages
                                                                      each is a file: ema-0.999.safetensors, and those of
                                                                      which others are made: posthoc-0.05.safetensors
      state.json                                                      step and small numbers
      MANIFEST.json                                                   written last: format, sizes, SHA-256 of every file
                                                                      and of the manifest itself

Saving stages everything under another name, forces it to the disk, then renames; only then older checkpoints go. Loading
accepts a directory when every byte agrees with the manifest. There is no "latest" pointer: the newest checkpoint that
verifies is the truth.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from gendiff.command import option
from gendiff.errors import DataError, GendiffError
from gendiff.storage.files import Files
from gendiff.storage.sealed import check_seal, parsed, plain, read, sealed

FORMAT = 1
MANIFEST = "MANIFEST.json"
STATE = "state.json"
SHOWN = 5  # tensors named in one message
_NAME = re.compile(r"step-\d{12}", re.ASCII)
_FILE = re.compile(r"\w[\w.-]{0,99}", re.ASCII)  # no path, nothing hidden


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Args:
        step: optimiser steps done.
        tensors: groups of named tensors: ``model``, ``optimizer`` and averages, such as ``ema``.
        state: small JSON-able values.
        about: who wrote it (run id, versions, data fingerprint): stored in the manifest.

    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]
    about: Mapping[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int, files: Files | None = None) -> Path:
    """Save under ``folder``, then prune to this checkpoint and the ``keep - 1`` before it; returns its directory.

    Raises:
        GendiffError: where the disk refuses; the staged files are removed and earlier checkpoints are untouched.

    """
    files = files or Files()
    final = directory(folder, checkpoint.step)
    stage = folder / f".{final.name}.staged"
    content = {
        f"{group}.safetensors": safetensors.torch.save(dict(named)) for group, named in checkpoint.tensors.items()
    }
    content[STATE] = plain({"step": checkpoint.step, **checkpoint.state})
    manifest = {
        "format": FORMAT,
        "step": checkpoint.step,
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in content.items()
        },
        "about": dict(checkpoint.about),
    }
    if final.exists() and _verifies(final):
        return final  # a step fixes its content; replacing an intact checkpoint would put it at risk
    try:
        files.make_directory(folder)
        for leftover in folder.glob(".step-*"):  # of a crash, at whatever step it was
            files.remove_tree(leftover)
        files.make_directory(stage)
        for name, data in content.items():
            files.write(stage / name, data)
        files.write(stage / MANIFEST, sealed(manifest))
        files.sync_directory(stage)
        if final.exists():
            files.remove_tree(final)  # saved before and damaged since
        files.rename(stage, final)
        files.sync_directory(folder)
    except OSError as error:
        shutil.rmtree(stage, ignore_errors=True)
        size = sum(len(data) for data in content.values())
        raise GendiffError(
            f"cannot save the checkpoint of step {checkpoint.step}: {error.strerror or error}",
            details=[
                f"in {folder}: {size:,} bytes needed, {_free(folder):,} free",
                "earlier checkpoints are untouched",
            ],
            fix=f"make room or choose another {option('--out')}, then go on with {option('--resume')}",
        ) from error
    try:
        _prune(final, keep, files)
    except OSError as error:
        raise GendiffError(
            f"cannot remove old checkpoints: {error.strerror or error}",
            details=[
                f"in {folder}: {_free(folder):,} bytes free",
                f"the checkpoint of step {checkpoint.step} is saved",
            ],
            fix=f"remove them by hand, then go on with {option('--resume')}",
        ) from error
    return final


def newest(folder: Path, problems: list[str] | None = None, preference: Sequence[str] = ()) -> Checkpoint:
    """The newest checkpoint under ``folder`` that verifies; why newer ones do not is appended to ``problems``.

    Args:
        preference: the groups of which the first that there is will be used; by default all are.

    Raises:
        DataError: where there is none; never falls back to an empty one. Where values that will be used are not finite: names the
            tensors, and the last checkpoint in which they are.

    """
    problems = [] if problems is None else problems
    for path in _steps(folder):
        try:
            checkpoint = load(path)
        except DataError as error:
            problems.append(error.what)
            continue
        groups = [group for group in preference if group in checkpoint.tensors][:1]
        _refuse_not_finite(path, checkpoint, groups or list(checkpoint.tensors))
        return checkpoint
    raise DataError(
        f"no usable checkpoint in '{folder}'",
        details=problems[:5],
        fix="restore one of them from a copy"
        if problems
        else "none was saved yet: train first, or again from its config.toml",
    )


def named(text: str | Path) -> tuple[Path, int | None]:
    """The run and the step of ``RUN@STEP``; no step where only a run is named, or a folder is called so."""
    match = re.fullmatch(r"(.+)@(\d{1,12})", str(text), re.DOTALL)
    if match is None or Path(text).exists():
        return Path(text), None
    return Path(match[1]), int(match[2])


def at(folder: Path, step: int, preference: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint of a step under ``folder``; raises `DataError` where there is none, or it is damaged or not finite.

    ``preference``: as of `newest`.
    """
    path, there = directory(folder, step), steps(folder)
    if step not in there:
        raise DataError(
            f"there is no checkpoint of step {step} in '{folder}'",
            details=[f"steps: {', '.join(map(str, there)) or 'none'}"],
            fix=f"choose one of them; train with {option('--keep', 'N')} to have more of them",
        )
    checkpoint = load(path)
    groups = [group for group in preference if group in checkpoint.tensors][:1]
    _refuse_not_finite(path, checkpoint, groups or list(checkpoint.tensors))
    return checkpoint


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint; raises `DataError` naming what is wrong with it."""
    manifest = _manifest(path)
    files, about = manifest["files"], manifest["about"]
    content = {name: _verified(path, name, facts) for name, facts in files.items()}
    tensors = {
        name.removesuffix(".safetensors"): _tensors(path / name, data)
        for name, data in content.items()
        if name.endswith(".safetensors")
    }
    state = parsed(path / STATE, content[STATE])
    step = state.pop("step", None)
    if not isinstance(step, int) or step != manifest.get("step") or path.name != directory(path.parent, step).name:
        raise DataError(f"{path / STATE}, its manifest and its directory disagree about the step")
    return Checkpoint(step=step, tensors=tensors, state=state, about=about)


def part(path: Path, group: str) -> dict[str, Tensor]:
    """One group of tensors of a checkpoint, the others unread; empty where it has none.

    Raises `DataError` where it is damaged.
    """
    name = f"{group}.safetensors"
    facts = _manifest(path)["files"].get(name)
    return {} if facts is None else _tensors(path / name, _verified(path, name, facts))


def _refuse_not_finite(path: Path, checkpoint: Checkpoint, groups: Sequence[str]) -> None:
    """Raise `DataError` where values of these groups are not finite."""
    flaws = _not_finite(checkpoint, groups)
    if not flaws:
        return
    details = [*flaws[:SHOWN], f"and {len(flaws) - SHOWN} more tensors" if len(flaws) > SHOWN else ""]
    if groups[0].startswith("ema") and not _not_finite(checkpoint, ["model"]):
        details.append(f"its raw weights, without averaging, are finite ({option('--no-ema')})")
    earlier = next(
        (step for step in map(_step_if_finite, _steps(path.parent)) if step and step < checkpoint.step), None
    )
    if earlier:
        details.append(f"the checkpoint of step {earlier} is finite")
    raise DataError(
        f"the checkpoint of step {checkpoint.step} holds values that are not finite",
        where=str(path),
        details=details,
        fix=f"move that folder to another place, and the checkpoint of step {earlier} is used"
        if earlier
        else f"train again, with a lower {option('--lr')} or with {option('--precision', 'fp32')}",
    )


def _not_finite(checkpoint: Checkpoint, groups: Sequence[str]) -> list[str]:
    """One line for each tensor of these groups that holds values which are not finite."""
    flaws = []
    for group in groups:
        for name, tensor in checkpoint.tensors[group].items():
            if count := int(spoilt(group, name, tensor).sum()):
                flaws.append(f"{group}.safetensors: {count:,} of {tensor.numel():,} values of '{name}'")
    return flaws


def spoilt(group: str, name: str, tensor: Tensor) -> Tensor:
    """Which values of a named tensor would spoil what they are used for: bool, in its shape."""
    value = tensor.float() if tensor.is_floating_point() else tensor  # some narrow types know no isfinite
    if group == "speeds" and name.startswith("scales."):
        return value.isnan()  # log s_0 = -inf
    if group == "optimizer" and name.endswith(".exp_avg_sq"):
        # Adam's second moment may overflow, which stops a weight and spoils nothing; anything else spoils every weight it meets.
        return ~(value >= 0)
    if group == "optimizer" and name.endswith(".step"):
        return ~value.isfinite() | (value < 0)
    return ~value.isfinite()


def _step_if_finite(path: Path) -> int | None:
    """The step of a checkpoint that verifies and is finite throughout; None of any other."""
    try:
        checkpoint = load(path)
    except DataError:
        return None
    return None if _not_finite(checkpoint, list(checkpoint.tensors)) else checkpoint.step


def weights_hash(path: Path, group: str) -> str:
    """The first 12 digits of the SHA-256 of a group of weights, as the manifest has it."""
    facts = _manifest(path)["files"].get(f"{group}.safetensors")
    if not isinstance(facts, dict) or not isinstance(facts.get("sha256"), str):
        raise DataError(f"{path / MANIFEST} lists no {group}.safetensors")
    return str(facts["sha256"])[:12]


def directory(folder: Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lives."""
    return folder / f"step-{step:012d}"


def _verified(path: Path, name: str, facts: Any) -> bytes:
    if not _FILE.fullmatch(name) or not isinstance(facts, dict):
        raise DataError(f"{path / MANIFEST} lists an impossible file {name!r:.80}")
    file = path / name
    data = read(file, facts.get("size"))
    if hashlib.sha256(data).hexdigest() != facts.get("sha256"):
        raise DataError(f"{file} is damaged: its SHA-256 does not match the manifest")
    return data


def _tensors(file: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # the hash is right, the content is not: what safetensors raises then is not specified
        raise DataError(f"{file} holds no tensors: {error!s:.200}") from error


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest, with the files that it lists and who wrote them; format and seal checked."""
    file = path / MANIFEST
    data = read(file)
    manifest = parsed(file, data)
    if manifest.get("format") != FORMAT:
        try:
            writer = f" of gendiff {manifest['about']['versions']['gendiff']:.20}"
        except (KeyError, TypeError, ValueError):
            writer = ""
        raise DataError(f"{path} has format {manifest.get('format')!r:.20}{writer}; this gendiff reads format {FORMAT}")
    whole = check_seal(file, data, manifest)
    files, about = whole.get("files"), whole.get("about")
    if not isinstance(files, dict) or STATE not in files or not isinstance(about, dict):
        raise DataError(f"{file} lists no files")
    return whole


def _verifies(path: Path) -> bool:
    try:
        load(path)
    except DataError:
        return False
    return True


def steps(folder: Path) -> list[int]:
    """The steps of the checkpoints under ``folder`` by their names, the newest first; none is read."""
    return [int(path.name.removeprefix("step-")) for path in _steps(folder)]


def _steps(folder: Path) -> list[Path]:
    """The checkpoint directories, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _prune(latest: Path, keep: int, files: Files) -> None:
    # Only what is older than the checkpoint just saved: newer ones exist only where they were found damaged, and counting
    # them could leave nothing that verifies.
    older = [path for path in _steps(latest.parent) if path.name < latest.name]
    for old in older[keep - 1 :]:
        rubbish = old.with_name(f".{old.name}.removed")  # a half-deleted checkpoint must not carry a checkpoint's name
        files.rename(old, rubbish)
        files.remove_tree(rubbish)


def _free(folder: Path) -> int:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return shutil.disk_usage(existing).free
