"""Faults made to order: crashes, power loss, failing disks and damaged bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import digest

from gendiff.errors import DataError
from gendiff.run import checkpoint
from gendiff.run.checkpoint import Checkpoint
from gendiff.storage.files import Files
from gendiff.storage.sealed import sealed


class Crash(BaseException):
    """The process ends here."""


@cache
def made_up(step: int) -> Checkpoint:
    """A small checkpoint whose every number depends on the step."""
    generator = torch.Generator().manual_seed(step)
    tensors = {
        group: {f"{name}.weight": torch.randn(2, 3, generator=generator) for name in ("a", "b")}
        for group in ("model", "ema", "optimizer")
    }
    about = {"run": "made-up-é", "versions": {"gendiff": "0.1.0"}, "data": "digits/1"}
    return Checkpoint(
        step=step, tensors=tensors, state={"images": 4 * step, "window": {"loss": 0.1 * step}}, about=about
    )


def same(one: Checkpoint, other: Checkpoint) -> bool:
    return (one.step, digest(one), one.about) == (other.step, digest(other), other.about)


# --- operations, watched ---------------------------------------------------------------------------------------------


class Watched(Files):
    """Real files; ``before`` hears of every operation, and may raise."""

    def __init__(self, before: Callable[[str, Path, bytes], None]) -> None:
        self.before = before

    def make_directory(self, path):
        self.before("make_directory", path, b"")
        super().make_directory(path)

    def write(self, path, content):
        self.before("write", path, content)
        super().write(path, content)

    def append(self, path, content, at):
        self.before("append", path, content)
        super().append(path, content, at)

    def overwrite(self, path, content):
        self.before("overwrite", path, content)
        super().overwrite(path, content)

    def remove(self, path):
        self.before("remove", path, b"")
        super().remove(path)

    def sync_directory(self, path):
        self.before("sync_directory", path, b"")
        super().sync_directory(path)

    def rename(self, source, target):
        self.before("rename", source, b"")
        super().rename(source, target)

    def remove_tree(self, path):
        self.before("remove_tree", path, b"")
        super().remove_tree(path)


def at(number: int, act: Callable[[str, Path, bytes], None]) -> Callable[[str, Path, bytes], None]:
    """Call ``act`` before operation ``number``, counted from 0."""
    left = [number]

    def before(operation: str, path: Path, content: bytes) -> None:
        left[0] -= 1
        if left[0] == -1:
            act(operation, path, content)

    return before


def half_done(operation: str, path: Path, content: bytes) -> None:
    """Leave an operation as a crash in its middle does."""
    if operation == "write":
        path.write_bytes(content[: len(content) // 2])
    if operation == "append":
        path.write_bytes(path.read_bytes() + content[: len(content) // 2])
    if operation == "overwrite":
        path.write_bytes(content[: len(content) // 2] + path.read_bytes()[len(content) // 2 :])
    if operation == "remove_tree":
        for file in sorted(path.iterdir())[:2]:
            file.unlink()


def crash(operation: str, path: Path, content: bytes) -> None:
    half_done(operation, path, content)
    raise Crash


def failure(number: int, short: bool = False) -> Callable[[str, Path, bytes], None]:
    """An operation that fails with an error number; ``short``: after half of it was done, as on a full disk."""

    def act(operation: str, path: Path, content: bytes) -> None:
        if short:
            half_done(operation, path, content)
        raise OSError(number, os.strerror(number), str(path))

    return act


DISK_ERRORS = [
    (errno.ENOSPC, False),
    (errno.ENOSPC, True),
    (errno.EIO, False),
    (errno.EIO, True),
    (errno.EDQUOT, False),
]


# --- a disk that forgets ---------------------------------------------------------------------------------------------


@dataclass
class File:
    content: bytes
    durable: bytes = b""


@dataclass
class Directory:
    entries: dict[str, Any] = field(default_factory=dict)
    durable: dict[str, Any] = field(default_factory=dict)


class Disk:
    """What a file system holds, and what of it would survive power loss: only what was forced to the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = Directory()

    def find(self, path: Path) -> Any:
        node = self.top
        for part in path.relative_to(self.root).parts:
            node = node.entries[part]
        return node

    def do(self, operation: str, path: Path, argument: Any) -> None:
        match operation:
            case "make":
                self.find(path.parent).entries[path.name] = Directory()
            case "write":
                self.find(path.parent).entries[path.name] = File(argument)
            case "change":
                self.find(path).content = argument
            case "sync":
                node = self.find(path)
                node.durable = argument if isinstance(node, File) else dict(node.entries)
            case "rename":
                self.find(argument.parent).entries[argument.name] = self.find(path.parent).entries.pop(path.name)
            case "remove":
                del self.find(path.parent).entries[path.name]

    def build(self, target: Path, mode: str, rng: random.Random, node: Any = None) -> None:
        """Write what is left after ``mode`` to ``target``.

        killed: all of it. lost: what was forced. metadata: all names, but only the content that was forced.
        any: each directory and file the one or the other.
        """
        node = node or self.top
        if isinstance(node, File):
            full = mode == "killed" or (mode == "any" and rng.random() < 0.5)
            target.write_bytes(node.content if full else node.durable)
            return
        target.mkdir(parents=True)
        full = mode in ("killed", "metadata") or (mode == "any" and rng.random() < 0.5)
        for name, child in (node.entries if full else node.durable).items():
            self.build(target / name, mode, rng, child)


class Recorder(Files):
    """Real files that also write down, in order, what happened: calls of ours, and every real fsync."""

    def __init__(self, log: list[tuple[str, Path, Any]]) -> None:
        self.log = log

    def make_directory(self, path):
        self.log += [("make", part, None) for part in reversed([path, *path.parents]) if not part.exists()]
        super().make_directory(path)

    def write(self, path, content):
        self.log += [("write", path, content[: len(content) // 2]), ("write", path, content)]
        super().write(path, content)

    def append(self, path, content, at):
        before = path.read_bytes()[:at]
        self.log += [("change", path, before + content[: len(content) // 2]), ("change", path, before + content)]
        super().append(path, content, at)

    def overwrite(self, path, content):
        before = path.read_bytes()
        for size in (len(content) // 2, len(content)):
            self.log.append(("change", path, content[:size] + before[size:]))
        super().overwrite(path, content)

    def remove(self, path):
        self.log.append(("remove", path, None))
        super().remove(path)

    def rename(self, source, target):
        self.log.append(("rename", source, target))
        super().rename(source, target)

    def remove_tree(self, path):
        self.log += [("remove", part, None) for part in [*sorted(path.iterdir()), path]]
        super().remove_tree(path)


class NoSync(Recorder):
    """A mutant: files are written and never forced to the disk."""

    def write(self, path, content):
        self.log.append(("write", path, content))
        path.write_bytes(content)


class NoDirectorySync(Recorder):
    """A mutant: names are never forced to the disk."""

    def sync_directory(self, path):
        pass


class NoStaging(Recorder):
    """A mutant: files are written under the final name at once."""

    def _final(self, path: Path) -> Path:
        parts = [
            part.removeprefix(".").removesuffix(".staged") if part.endswith(".staged") else part for part in path.parts
        ]
        return Path(*parts)

    def make_directory(self, path):
        super().make_directory(self._final(path))

    def write(self, path, content):
        super().write(self._final(path), content)

    def sync_directory(self, path):
        super().sync_directory(self._final(path))

    def rename(self, source, target):
        if self._final(source) != target:
            super().rename(source, target)


class DeleteFirst(Recorder):
    """A mutant: older checkpoints go before the new one is there."""

    def make_directory(self, path):
        if path.name.endswith(".staged"):
            for old in sorted(path.parent.glob("step-*")):
                self.remove_tree(old)
        super().make_directory(path)


@dataclass
class Crashes:
    """What the crash states of a campaign were like."""

    states: int = 0
    violations: list[str] = field(default_factory=list)


Log = list[tuple[str, Path, Any]]


def recorded(act: Callable[[Log], None]) -> Log:
    """What ``act``, which writes through recorders with the log it is given, does; with every real fsync."""
    log: Log = []

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        log.append(("sync", path, path.read_bytes() if path.is_file() else None))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        act(log)
    return log


def crashes(log: Log, real: Path, left: Path, draws: int) -> Iterator[tuple[str, str]]:
    """After each operation below ``real``, for each mode of a crash, what is left is in ``left``: yields where, and the mode."""
    rng = random.Random(0)
    disk = Disk(real)
    for number, (operation, path, argument) in enumerate(log):
        disk.do(operation, path, argument)
        for mode in ("killed", "lost", "metadata", *["any"] * draws):
            disk.build(left, mode, rng)
            yield f"{mode} after {number}: {operation} {path.name}", mode
            shutil.rmtree(left)


def crash_states(
    tmp_path: Path, recorder: type[Recorder] = Recorder, saves: int = 5, keep: int = 2, draws: int = 1
) -> Crashes:
    """Save ``saves`` checkpoints, and look at what is left after a crash at every moment in between."""
    real, left = tmp_path / "real", tmp_path / "left"
    real.mkdir()
    returned: list[int] = []  # how long the log was when the save of a step returned

    def save(log: Log) -> None:
        for step in range(1, saves + 1):
            checkpoint.save(real / "run" / "checkpoints", made_up(step), keep, recorder(log))
            returned.append(len(log))

    found = Crashes()
    log = recorded(save)
    for number, (where, mode) in enumerate(crashes(log, real, left, draws)):
        done = number // (3 + draws) + 1  # operations
        found.states += 1
        saved = sum(length <= done for length in returned)
        found.violations += [f"{where}: {what}" for what in _wrong(left / "run" / "checkpoints", saved, mode)]
    return found


def _wrong(folder: Path, returned: int, mode: str) -> Iterator[str]:
    problems: list[str] = []
    try:
        newest = checkpoint.newest(folder, problems)
    except DataError:
        if returned:
            yield f"nothing loads, though the checkpoint of step {returned} was saved"
    else:
        if newest.step < returned:
            yield f"step {newest.step} loads, though the checkpoint of step {returned} was saved"
        if not same(newest, made_up(newest.step)):
            yield f"what loads as step {newest.step} was never saved"
    if problems and mode != "any":  # where single operations are lost, half of an old checkpoint may reappear
        yield f"not whole and not absent: {problems[0]}"


# --- damaged bytes ---------------------------------------------------------------------------------------------------


def damages(folder: Path, count: int, rng: random.Random) -> Iterator[tuple[Path, bytes]]:
    """``count`` single-bit flips and truncations, spread evenly over the files of a checkpoint."""
    files = sorted(folder.iterdir())
    for number in range(count):
        file = files[number % len(files)]
        content = bytearray(file.read_bytes())
        if number % 5 == 4:
            del content[rng.randrange(len(content)) :]
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        yield file, bytes(content)


def accepted(folder: Path, step: int, older: int, damaged: Iterator[tuple[Path, bytes]]) -> list[str]:
    """The damages of checkpoint ``step`` that are not heard of once, by name, with checkpoint ``older`` in its place."""
    wrong = []
    for file, content in damaged:
        intact = file.read_bytes()
        file.write_bytes(content)
        problems: list[str] = []
        found = checkpoint.newest(folder, problems)
        if (
            not same(found, made_up(older))
            or len(problems) != 1
            or str(checkpoint.directory(folder, step)) not in problems[0]
        ):
            wrong.append(f"{file.name}: step {found.step}, problems {problems}")
        file.write_bytes(intact)
    return wrong


def forge(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest as a stranger would: with a seal that fits."""
    file = path / checkpoint.MANIFEST
    manifest = json.loads(file.read_bytes())
    manifest.pop("sha256", None)
    change(manifest)
    file.write_bytes(sealed(manifest))


def replace_file(path: Path, name: str, content: bytes) -> None:
    """Put another content into a checkpoint, with a manifest that fits."""
    (path / name).write_bytes(content)
    facts = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    forge(path, lambda manifest: manifest["files"].update({name: facts}))


def strange_contents(path: Path, count: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Tensor files and states that are wrong inside, whose hashes will fit."""
    names = ["model.safetensors", "optimizer.safetensors", checkpoint.STATE]
    words = [
        b'"F32"',
        b'"F64"',
        b'"BOOL"',
        b'"F4"',
        b'"X"',
        b"[0,24]",
        b"[-1,24]",
        b"[1e9,2]",
        b"[[]]",
        b"null",
        b"NaN",
    ]
    words.append(b"9" * 30)
    for number in range(count):
        name = names[number % len(names)]
        content = bytearray((path / name).read_bytes())
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(content))
            match rng.randrange(5):
                case 0:
                    content[place] ^= 1 << rng.randrange(8)
                case 1:
                    del content[place : place + rng.randint(1, 40)]
                case 2:
                    content[place:place] = rng.choice(words)
                case 3:
                    word = rng.choice(words)
                    content[place : place + len(word)] = word
                case 4:
                    content[:8] = rng.choice([0, 1, 7, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
            content = content or bytearray(b"{")
        yield name, bytes(content)
