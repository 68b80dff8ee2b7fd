"""Checkpoints: whole or not there, whatever crashes; no corrupt byte accepted; nothing lost when the disk fails."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import resource
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from faults import (
    DISK_ERRORS,
    Crash,
    DeleteFirst,
    NoDirectorySync,
    NoStaging,
    NoSync,
    Watched,
    accepted,
    at,
    crash,
    crash_states,
    damages,
    failure,
    forge,
    made_up,
    replace_file,
    same,
    strange_contents,
)
from runs import exit_code, forked

from gendiff.errors import DataError, GendiffError
from gendiff.run import checkpoint
from gendiff.run.checkpoint import Checkpoint
from gendiff.storage.files import Files, to_become
from gendiff.storage.lock import locked
from gendiff.storage.sealed import sealed


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a place: these tests make and remove thousands of directories."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    """Nothing here depends on a real fsync; the model of power loss watches for the calls."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def two(folder):
    """Checkpoints 1 and 2."""
    for step in (1, 2):
        checkpoint.save(folder, made_up(step), keep=2)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def name(step):
    return f"step-{step:012d}"


class TestRoundTrip:
    def test_everything_comes_back(self, folder):
        tensors = {
            "model": {
                "float": torch.randn(3, 4),
                "half": torch.randn(5).bfloat16(),
                "whole": torch.arange(6),
                "scalar": torch.tensor(2.5),
                "empty": torch.empty(0, 3),
                "special": torch.tensor([float("nan"), float("inf"), -0.0]),
            },
            "optimizer": {},
        }
        state = {"images": 7, "window": {"bands": [0.1, 1e-300]}, "text": "π\u2028"}
        saved = Checkpoint(step=12, tensors=tensors, state=state, about={"run": "r", "data": None})
        path = checkpoint.save(folder, saved, keep=1)
        loaded = checkpoint.load(path)
        assert (loaded.step, loaded.state, loaded.about) == (12, state, saved.about)
        assert loaded.tensors.keys() == tensors.keys()
        for key, tensor in tensors["model"].items():
            found = loaded.tensors["model"][key]
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert (
                found.contiguous()
                .view(torch.uint8 if found.ndim else found.dtype)
                .equal(tensor.contiguous().view(torch.uint8 if tensor.ndim else tensor.dtype))
            )
        assert loaded.tensors["optimizer"] == {}

    def test_layout_is_the_documented_one(self, two):
        assert names(two) == [name(1), name(2)]
        assert names(two / name(2)) == [
            "MANIFEST.json",
            "ema.safetensors",
            "model.safetensors",
            "optimizer.safetensors",
            "state.json",
        ]

    def test_weights_hash_is_that_of_the_file(self, two):
        content = (two / name(2) / "ema.safetensors").read_bytes()
        assert checkpoint.weights_hash(two / name(2), "ema") == hashlib.sha256(content).hexdigest()[:12]

    def test_numbers_that_json_cannot_hold_are_refused_before_anything_is_written(self, two):
        with pytest.raises(ValueError, match="JSON"):
            checkpoint.save(two, Checkpoint(3, {"model": {}}, {"loss": float("nan")}, {}), keep=2)
        assert names(two) == [name(1), name(2)]


class TestRetention:
    @pytest.mark.parametrize("keep", [1, 2, 3])
    def test_the_newest_are_kept(self, folder, keep):
        for step in range(1, 6):
            checkpoint.save(folder, made_up(step), keep)
        assert names(folder) == [name(step) for step in range(6 - keep, 6)]

    @pytest.mark.parametrize("keep", [1, 2])
    def test_damaged_newer_ones_never_push_out_what_verifies(self, folder, keep):
        """A run that went back to step 3, because 8 and 9 were damaged, saves 5: it must not keep 8 and 9 instead."""
        for step in (3, 8, 9):
            checkpoint.save(folder, made_up(step), keep=3)
        for step in (8, 9):
            (folder / name(step) / "model.safetensors").write_bytes(b"damaged")
        assert checkpoint.newest(folder).step == 3
        checkpoint.save(folder, made_up(5), keep)
        assert same(checkpoint.newest(folder), made_up(5))
        for step in range(6, 12):  # and as the run passes them, the damaged ones go
            checkpoint.save(folder, made_up(step), keep)
            assert same(checkpoint.newest(folder), made_up(max(step, 5)))
        assert names(folder) == [name(step) for step in range(12 - keep, 12)]

    def test_a_damaged_one_is_replaced_when_its_step_is_done_again(self, two):
        (two / name(2) / "state.json").unlink()
        assert checkpoint.newest(two).step == 1
        checkpoint.save(two, made_up(2), keep=2)
        problems = []
        assert same(checkpoint.newest(two, problems), made_up(2))
        assert problems == []

    def test_an_intact_one_is_never_written_again(self, two):
        before = (two / name(2)).stat().st_ino

        def refuse(operation, path, content):
            raise AssertionError(f"{operation} {path}")

        assert checkpoint.save(two, made_up(2), 2, Watched(refuse)) == two / name(2)
        assert (two / name(2)).stat().st_ino == before


class TestDamage:
    def test_every_flip_and_truncation_is_heard_of(self, two):
        rng = random.Random(1)
        assert accepted(two, 2, 1, damages(two / name(2), 200, rng)) == []
        assert same(checkpoint.newest(two), made_up(2))

    def test_every_bit_of_a_manifest_counts(self, two):
        """Also those that no other file depends on: the run's name, the versions, the layout of the text."""
        file = two / name(2) / "MANIFEST.json"
        content = file.read_bytes()
        for needle in (b'"run"', b"made-up", b"0.1.0", b"digits/1", b'"about"', b"\n", b"u00e9"):
            place = content.index(needle) + len(needle) // 2
            for bit in range(8):
                changed = bytearray(content)
                changed[place] ^= 1 << bit
                file.write_bytes(changed)
                with pytest.raises(DataError, match="MANIFEST"):
                    checkpoint.load(two / name(2))

    @pytest.mark.parametrize("missing", ["MANIFEST.json", "state.json", "model.safetensors", "optimizer.safetensors"])
    def test_missing_files(self, two, missing):
        (two / name(2) / missing).unlink()
        problems = []
        assert checkpoint.newest(two, problems).step == 1
        assert len(problems) == 1
        assert missing in problems[0]

    def test_never_an_empty_start(self, two):
        for step in (1, 2):
            (two / name(step) / "model.safetensors").write_bytes(b"")
        with pytest.raises(DataError, match="no usable checkpoint") as caught:
            checkpoint.newest(two)
        assert caught.value.exit_code == 4
        assert [part for part in caught.value.details if name(2) in part]
        assert [part for part in caught.value.details if name(1) in part]

    @pytest.mark.parametrize("made", [True, False])
    def test_no_checkpoint_at_all(self, folder, made):
        if made:
            folder.mkdir(parents=True)
        with pytest.raises(DataError, match="no usable checkpoint"):
            checkpoint.newest(folder)


class TestStrangers:
    """Directories that somebody made on purpose: seals and hashes fit, the content does not."""

    def refused(self, two):
        problems = []
        assert checkpoint.newest(two, problems).step == 1
        (problem,) = problems
        assert len(problem) < 600
        return problem

    @pytest.mark.parametrize("version", [2, 0, "1", None, [1], "x" * 100_000])
    def test_an_unknown_format_is_refused_by_name(self, two, version):
        forge(two / name(2), lambda manifest: manifest.update(format=version))
        problem = self.refused(two)
        assert f"has format {version!r}"[:20] in problem
        assert "of gendiff 0.1.0; this gendiff reads format 1" in problem

    @pytest.mark.parametrize(
        "escape",
        [
            "../1",
            "/etc/hostname",
            "..",
            ".",
            "",
            "a/b",
            "x\0y",
            "\ud800",
            "x" * 5000,
            "../step-000000000001/state.json",
        ],
    )
    def test_no_file_outside_the_directory_is_read(self, two, escape):
        facts = {"size": 4, "sha256": "0" * 64}
        forge(two / name(2), lambda manifest: manifest["files"].update({escape: facts}))
        self.refused(two)

    def test_an_escaping_name_is_called_impossible(self, two):
        secret = two.parent / "secret.safetensors"
        secret.write_bytes((two / name(1) / "model.safetensors").read_bytes())
        true = json.loads((two / name(1) / "MANIFEST.json").read_bytes())["files"]["model.safetensors"]
        for escape in ("../../secret.safetensors", str(secret)):  # size and hash are right: only its place is wrong
            forge(two / name(2), lambda manifest, escape=escape: manifest["files"].update({escape: true}))
            assert "impossible file" in self.refused(two)

    @pytest.mark.parametrize("facts", [None, [], "x", {}, {"size": -1}, {"size": "4"}, {"sha256": 3}])
    def test_meaningless_facts(self, two, facts):
        forge(two / name(2), lambda manifest: manifest["files"].update({"model.safetensors": facts}))
        self.refused(two)

    @pytest.mark.parametrize("files", [None, [], {}, "x", {"model.safetensors": 1}])
    def test_meaningless_lists_of_files(self, two, files):
        forge(two / name(2), lambda manifest: manifest.update(files=files))
        assert "lists no files" in self.refused(two)

    @pytest.mark.parametrize(
        "content", [b"[]", b"1", b"null", b'"x"', b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}']
    )
    @pytest.mark.parametrize("file", ["MANIFEST.json", "state.json"])
    def test_json_that_is_no_object(self, two, file, content):
        if file == "state.json":
            replace_file(two / name(2), file, content)
        else:
            (two / name(2) / file).write_bytes(content)
        assert "JSON" in self.refused(two)

    @pytest.mark.parametrize("file", ["MANIFEST.json", "state.json"])
    def test_huge_json(self, two, file):
        content = b'{"step": 2, "x": "' + b"x" * (16 * 2**20) + b'"}'
        if file == "state.json":
            replace_file(two / name(2), file, content)
        else:
            (two / name(2) / file).write_bytes(content)
        assert "at most" in self.refused(two)

    @pytest.mark.parametrize("state", [{}, {"step": 1}, {"step": "2"}, {"step": None}, {"step": 2.5}])
    def test_state_and_manifest_disagree(self, two, state):
        replace_file(two / name(2), "state.json", json.dumps(state).encode())
        assert "disagree about the step" in self.refused(two)

    def test_a_renamed_directory(self, two):
        (two / name(2)).rename(two / name(7))
        assert "disagree about the step" in self.refused(two)

    @pytest.mark.parametrize("file", ["MANIFEST.json", "state.json", "model.safetensors"])
    @pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
    def test_what_is_no_file_neither_hangs_nor_fills_memory(self, two, file, kind):
        path = two / name(2) / file
        path.unlink()
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
        if file != "MANIFEST.json":
            forge(two / name(2), lambda manifest: manifest["files"][file].update(size=path.stat().st_size))
        assert "not a regular file" in self.refused(two)

    def test_a_file_among_the_directories(self, two):
        shutil.rmtree(two / name(2))
        (two / name(2)).write_bytes(b"not a directory")
        assert "MANIFEST" in self.refused(two)

    def test_wrong_tensors_with_fitting_hashes(self, two):
        """Every one is either refused as damaged or gives tensors; nothing else is ever raised."""
        refused = 0
        intact = {file.name: file.read_bytes() for file in (two / name(2)).iterdir()}
        for file, content in strange_contents(two / name(2), 300, random.Random(2)):
            replace_file(two / name(2), file, content)
            try:
                assert checkpoint.load(two / name(2)).step == 2
            except DataError as error:
                refused += 1
                assert len(error.what) < 2000
            for restored, data in intact.items():
                (two / name(2) / restored).write_bytes(data)
        assert 100 < refused <= 300


class TestCrash:
    @pytest.mark.parametrize("keep", [1, 2])
    def test_a_process_that_dies_at_any_operation(self, tmp_path, keep):
        """For real, in the middle of every operation of three saves; and the next save cleans up."""
        number = 0
        while True:
            folder, returned = tmp_path / str(number) / "checkpoints", 0
            files = Watched(at(number, crash))
            try:
                for step in range(1, 4):
                    checkpoint.save(folder, made_up(step), keep, files)
                    returned = step
                break
            except Crash:
                pass
            try:
                found = checkpoint.newest(folder)
            except DataError:
                assert returned == 0
            else:
                assert found.step in (returned, returned + 1)
                assert same(found, made_up(found.step))
            checkpoint.save(folder, made_up(9), keep)  # a later step than the one that was being saved
            assert not [entry for entry in names(folder) if entry.startswith(".")]
            assert len(names(folder)) <= keep
            assert same(checkpoint.newest(folder), made_up(9))
            number += 1
        assert number > 30

    @pytest.mark.parametrize("keep", [1, 2])
    def test_power_loss_at_any_moment(self, tmp_path, keep):
        found = crash_states(tmp_path, saves=5, keep=keep, draws=2)
        assert found.violations == []
        assert found.states > 500

    @pytest.mark.parametrize("mutant", [NoSync, NoDirectorySync, NoStaging, DeleteFirst])
    def test_the_model_of_power_loss_sees_each_mistake(self, tmp_path, mutant):
        assert crash_states(tmp_path, mutant, saves=3, keep=1).violations


class TestFailingDisk:
    @pytest.mark.parametrize(("number", "short"), DISK_ERRORS)
    def test_each_operation_in_turn(self, two, number, short, tmp_path):
        operations = []
        spare = tmp_path / "spare"
        shutil.copytree(two, spare)
        checkpoint.save(spare, made_up(3), 1, Watched(lambda *event: operations.append(event)))
        assert [operation for operation, *_ in operations].count("write") == 5
        for k in range(len(operations)):
            folder = tmp_path / f"disk-{k}"
            shutil.copytree(two, folder)
            with pytest.raises(GendiffError) as caught:
                checkpoint.save(folder, made_up(3), 1, Watched(at(k, failure(number, short))))
            error = caught.value
            assert error.exit_code == 1
            assert os.strerror(number) in error.what
            assert str(folder) in str(error)
            assert "free" in str(error)
            found = checkpoint.newest(folder)
            assert same(found, made_up(found.step))
            if "cannot save" in error.what:
                assert "bytes needed" in str(error)
                assert found.step == 2 or operations[k][0] == "sync_directory"
                assert {name(1), name(2)} <= set(names(folder))
            else:
                assert "is saved" in str(error)
                assert found.step == 3
            assert not [entry for entry in names(folder) if entry.endswith(".staged")]
            checkpoint.save(folder, made_up(4), 1)
            assert names(folder) == [name(4)]

    def test_a_file_that_the_system_cuts_short(self, two):
        """Not a made-up error: the kernel itself takes 100 bytes of a file and then refuses."""
        size = 100

        def save():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            try:
                checkpoint.save(two, made_up(3), keep=2)
            except GendiffError as error:
                assert "File too large" in error.what
                assert f"in {two}" in error.details[0]
                raise SystemExit(error.exit_code) from error

        assert exit_code(forked(save)) == 1
        assert names(two) == [name(1), name(2)]
        assert same(checkpoint.newest(two), made_up(2))

    def test_a_short_write_is_an_error(self, two, monkeypatch):
        class Short(io.FileIO):
            def write(self, content):
                return super().write(content[: len(content) // 2])

        with monkeypatch.context() as patch:
            patch.setattr("os.fdopen", Short)
            with pytest.raises(GendiffError, match="short write"):
                checkpoint.save(two, made_up(3), keep=2)
        assert names(two) == [name(1), name(2)]

    def test_nothing_is_overwritten_in_place(self, tmp_path):
        path = tmp_path / "x"
        path.write_bytes(b"old")
        with pytest.raises(FileExistsError):
            Files().write(path, b"new")
        assert path.read_bytes() == b"old"


class TestReplace:
    def test_the_old_or_the_new_content(self, tmp_path):
        path = tmp_path / "run.json"
        Files().replace(path, b"old")
        number = 0
        while True:
            try:
                Watched(at(number, crash)).replace(path, b"new content")
                break
            except Crash:
                assert path.read_bytes() in (b"old", b"new content")
                number += 1
        assert number == 3
        assert path.read_bytes() == b"new content"
        Files().replace(path, b"newer")
        assert {to_become(entry) or entry for entry in names(tmp_path)} == {"run.json"}
        with locked(tmp_path, "trained", "wait"):
            assert names(tmp_path) == [".lock", "run.json"], "what was left by who was killed is cleared away"


@pytest.mark.parametrize("listed", [None, [], "x", {}, {"model.safetensors": None}, {"model.safetensors": {}}])
def test_a_hash_is_read_of_a_manifest_that_lists_it(tmp_path, listed):
    """Whoever seals a manifest again has not made it one."""
    path = checkpoint.save(tmp_path, Checkpoint(1, {"model": {"w": torch.zeros(2)}}, {}, {}), 1)
    file = path / checkpoint.MANIFEST
    table = {key: value for key, value in json.loads(file.read_text()).items() if key != "sha256"}
    state = {checkpoint.STATE: table["files"][checkpoint.STATE]} if listed else {}
    table["files"] = {**state, **listed} if isinstance(listed, dict) else listed
    file.write_bytes(sealed(table))
    for read in (lambda: checkpoint.weights_hash(path, "model"), lambda: checkpoint.load(path)):
        with pytest.raises(DataError):
            read()
