"""Going on: whatever ends a run says what is safe and the command that goes on, which works; a refusal leaves nothing."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import shlex
import shutil
import signal
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command import TINY, run
from PIL import Image
from runs import CPU, create, final, restored, rows, settings, train

from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.machine import memory
from gendiff.machine.memory import memory_for, shortage
from gendiff.machine.workers import DataProcessDied, in_order
from gendiff.machine.world import World
from gendiff.run import checkpoint
from gendiff.run.directory import Run
from gendiff.run.roll import absence, roll
from gendiff.storage import disk
from gendiff.storage.files import Files, put, saved
from gendiff.storage.lock import locked
from gendiff.training.continuation import changed_data, refuse_other_data, resuming
from gendiff.training.step import Step
from gendiff.training.trainer import Trainer

ALONE = World(0, 1, CPU)
ALLOCATOR = "DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.fixture
def pictures(tmp_path):
    """Ten pictures of 8x8, in a folder whose name a shell would take apart."""
    folder, rng = tmp_path / "my pictures", np.random.default_rng(0)
    folder.mkdir()
    for k in range(10):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    return folder


def of(folder, on_bad_image="error", **options):
    data = {"name": "folder", "path": str(folder), "size": 8, "on_bad_image": on_bad_image}
    return settings(data=data, **{"steps": 12, "checkpoint_every": 100, "log_every": 1, **options})


def goes_bad(file, at):
    """Prepare a trainer whose data lose a picture before a step; nothing of it was read before."""

    def prepare(trainer):
        steps = trainer.batches.data_index
        trainer.batches.data_index = lambda step, position: (
            file.write_bytes(b"x") if step == at else None,
            steps(step, position),
        )[1]

    return prepare


@pytest.mark.filterwarnings("ignore:1 of 10 image files")
class TestPictures:
    @pytest.fixture
    def failed(self, pictures, tmp_path):
        """A run that met a picture which went bad, and its error."""
        begun = create(tmp_path / "a run", of(pictures))
        met = next(
            step for step in range(3, 12) if 5 in [restored(begun).batches.data_index(step, k) for k in range(4)]
        )
        with pytest.raises(DataError) as caught:
            train(begun, prepare=goes_bad(pictures / "5.png", met), workers=0)
        assert final(begun)[0] == met - 1
        return begun, met - 1, caught.value

    def test_the_error_says_what_is_safe_and_how_to_go_on(self, failed):
        begun, step, error = failed
        assert "5.png" in error.what
        assert f"the checkpoint of step {step} is safe" in error.details
        assert "remove" not in error.fix
        assert begun.info["status"] == "failed"
        assert resuming(begun) in error.fix
        assert resuming(begun, "data.on_bad_image=skip") in error.fix
        assert shlex.split(resuming(begun)) == ["gendiff", "train", "--resume", str(begun.path)]

    def test_put_back_it_goes_on_to_the_same_bits(self, failed, pictures, tmp_path):
        begun, _, _ = failed
        rng = np.random.default_rng(0)
        drawn = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(6)]
        Image.fromarray(drawn[5]).save(pictures / "5.png")
        assert run("train", "--resume", begun.path, "--device", "cpu").code == 0
        other = create(tmp_path / "other", of(pictures))
        train(other)
        assert final(begun) == final(other)
        assert rows(begun) == rows(other)
        assert "changes" not in begun.info

    @pytest.mark.parametrize("removed", [False, True])
    def test_it_goes_on_without_it(self, failed, pictures, removed):
        """Bad or removed: the run's record says since when and what, and the same command without it is refused with it."""
        begun, step, _ = failed
        if removed:
            (pictures / "5.png").unlink()
        refused = run("train", "--resume", begun.path, "--device", "cpu")
        assert refused.code == (2 if removed else 4)
        assert resuming(begun, "data.on_bad_image=skip") in refused.err
        assert final(begun)[0] == step
        words = shlex.split(resuming(begun, "data.on_bad_image=skip"))[1:]
        told = run(*words, "--device", "cpu")
        assert told.code == 0, told.err
        assert f"from step {step} on, '{begun.path}' leaves out 1 of the pictures" in told.err
        assert final(begun)[0] == 12
        (change,) = begun.info["changes"]
        assert (change["step"], change["set"]) == (step, {"data.on_bad_image": "skip"})
        assert change["data"]["left_out"] == 1
        assert [name for name, _ in change["data"]["unreadable"]] == ([] if removed else ["5.png"])
        assert (
            begun.info["data"]["fingerprint"]
            == change["data"]["fingerprint"]
            == Run.open(begun.path).data().fingerprint
        )
        assert [row["step"] for row in rows(begun)] == list(range(1, 13))
        assert run("train", "--resume", begun.path, "--steps", 14, "--device", "cpu").code == 0
        assert len(begun.info["changes"]) == 1  # nothing has changed since

    @pytest.mark.parametrize("workers", [1, 2])
    def test_the_order_without_it_is_the_same_for_any_number_of_workers(self, failed, tmp_path, workers):
        begun, _, _ = failed
        other = tmp_path / "other"
        shutil.copytree(begun.path, other)
        for path, count in ((begun.path, 0), (other, workers)):
            given = ("--set", "data.on_bad_image=skip", "--set", f"train.workers={count}")
            assert run("train", "--resume", path, *given, "--device", "cpu").code == 0
        assert final(begun) == final(Run.open(other))
        assert rows(begun) == rows(Run.open(other))

    def test_put_back_later_it_is_taken_again(self, failed, pictures):
        begun, _, _ = failed
        damaged = (pictures / "5.png").read_bytes()
        assert run("train", "--resume", begun.path, "--set", "data.on_bad_image=skip", "--device", "cpu").code == 0
        rng = np.random.default_rng(0)
        original = [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(6)][5]
        Image.fromarray(original).save(pictures / "5.png")
        assert (pictures / "5.png").read_bytes() != damaged
        told = run("train", "--resume", begun.path, "--steps", 14, "--device", "cpu")
        assert told.code == 0
        assert f"'{begun.path}' leaves out none of its pictures any more" in told.err
        assert [change["data"]["left_out"] for change in begun.info["changes"]] == [1, 0]

    @pytest.mark.parametrize("what", ["another content", "one more"])
    def test_other_pictures_are_no_absence(self, failed, pictures, what):
        begun, step, _ = failed
        name = "5.png" if what == "another content" else "10.png"
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(pictures / name)
        if what == "one more":
            (pictures / "5.png").unlink()
        told = run("train", "--resume", begun.path, "--set", "data.on_bad_image=skip", "--device", "cpu")
        assert told.code == 2
        assert f"new, or not as they were: {name}" in told.err
        assert final(begun)[0] == step

    def test_what_is_compared_must_have_seen_the_same(self, pictures, tmp_path):
        begun = create(tmp_path / "run", of(pictures))
        (pictures / "5.png").unlink()
        config = of(pictures, "skip")
        assert changed_data(begun, config)["left_out"] == 1
        with pytest.raises(ConfigError, match=r"1 of the pictures .* are gone or cannot be read"):
            refuse_other_data(begun, config)

    def test_a_new_run_that_meets_one_in_its_first_step_leaves_nothing(self, pictures, tmp_path):
        for picture in pictures.iterdir():
            content = picture.read_bytes()
            picture.write_bytes(content[: len(content) - 40])  # the headers are whole
        told = run("train", "--data", f"folder:path={pictures},size=8", *TINY, "--out", tmp_path / "run")
        assert told.code == 4
        assert not (tmp_path / "run").exists()


def test_a_roll_knows_its_files_and_no_others():
    before = {"a": 1, "b": 2, "c": 3}
    kept = roll(before)
    assert (
        absence(kept, before)
        == absence(kept, dict(reversed(before.items())))
        == replace(absence(kept, before), count=0)
    )
    assert (absence(kept, {"a": 1}).count, absence(kept, {"a": 1}).strange) == (2, ())
    for other in ({"a": 2}, {"d": 1}, {"a\0": 1}):
        assert absence(kept, {"b": 2, **other}).strange == tuple(other)


class TestChanges:
    def test_what_changes_nothing_that_is_trained_may_be_set(self, tmp_path):
        begun = create(tmp_path / "run", settings(steps=4))
        train(begun, steps=2)
        changes = (
            "train.keep=1",
            "train.workers=1",
            "train.preview.steps=2",
            "train.sample_every=3",
            "train.checkpoint_every=1",
        )
        told = run("train", "--resume", begun.path, *(w for c in changes for w in ("--set", c)), "--device", "cpu")
        assert told.code == 0, told.err
        assert begun.info["changes"][0]["set"] == {
            "train.keep": 1,
            "train.workers": 1,
            "train.preview.steps": 2,
            "train.sample_every": 3,
            "train.checkpoint_every": 1,
        }
        config = Run.open(begun.path, training=True).config.train
        assert (config.keep, config.workers, config.preview.steps, config.sample_every) == (1, 1, 2, 3)
        other = create(tmp_path / "other", settings(steps=4))
        train(other)
        assert final(begun) == final(other)

    @pytest.mark.parametrize(
        "change", ["train.seed=1", "train.ema=0", "data.size=9", "model.width=3", "N=7", "train.keeping=1"]
    )
    def test_nothing_else_may(self, tmp_path, change):
        begun = create(tmp_path / "run", settings(steps=4))
        train(begun, steps=2)
        before = (begun.path / "config.toml").read_bytes()
        told = run("train", "--resume", begun.path, "--set", change, "--device", "cpu")
        assert told.code == 2
        assert (begun.path / "config.toml").read_bytes() == before


class Dying:
    """Work that a kill ends."""

    def __call__(self, item):
        if item == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


class TestDataProcesses:
    def test_one_that_is_killed_is_said(self):
        outcomes = in_order(Dying(), range(9), 1)
        with pytest.raises(
            DataProcessDied, match="a data process has died: it was killed, most likely for want of memory"
        ):
            list(outcomes)
        assert multiprocessing.active_children() == []

    def test_a_run_that_loses_one_goes_on(self, tmp_path):
        begun = create(tmp_path / "run", settings(workers=1, steps=12, checkpoint_every=100))

        def kill(progress):
            if progress.step == 4:
                multiprocessing.active_children()[0].kill()

        with pytest.raises(DataProcessDied) as caught:
            train(begun, report=kill)
        step = final(begun)[0]
        assert step >= 4
        assert f"the checkpoint of step {step} is safe" in caught.value.details
        assert resuming(begun, "train.workers=0") in caught.value.fix
        assert begun.info["status"] == "failed"
        assert run(*shlex.split(resuming(begun, "train.workers=0"))[1:], "--device", "cpu").code == 0
        other = create(tmp_path / "other", settings(steps=12, checkpoint_every=100))
        train(other)
        assert final(begun) == final(other)

    def test_its_end_is_not_heard_in_the_middle_of_a_step(self, tmp_path):
        """torch would raise wherever the signal finds this process."""
        outcomes = in_order(Dying(), range(9), 1)
        next(outcomes)
        handler = signal.getsignal(signal.SIGCHLD)
        assert not getattr(handler, "__module__", "").startswith("torch")
        outcomes.close()


class TestTorn:
    def test_a_step_that_fails_halfway_is_not_saved(self, tmp_path, monkeypatch):
        begun = create(tmp_path / "run", settings())

        def fail(step, applies):
            if step.tally.count == 9:
                raise RuntimeError("in the middle of it")
            average(step, applies)

        average = Step._average
        with monkeypatch.context() as patch:
            patch.setattr(Step, "_average", fail)
            with pytest.raises(RuntimeError, match="in the middle"):
                train(begun)
        assert final(begun)[0] == 5
        train(begun)
        other = create(tmp_path / "other", settings())
        train(other)
        assert final(begun) == final(other)

    def test_a_checkpoint_holds_copies(self):
        trainer = Trainer(settings(warmup=0), CPU, ALONE)
        trainer.train_step(trainer.batches[1])
        taken = trainer.checkpoint({})
        before = {name: tensor.clone() for name, tensor in taken.tensors["model"].items()}
        window = dict(taken.state["window"])
        trainer.train_step(trainer.batches[2])
        assert all(torch.equal(tensor, before[name]) for name, tensor in taken.tensors["model"].items())
        assert taken.state["window"] == window


def write_saved(path: Path, content: bytes) -> None:
    saved(path, lambda file: file.write(content))


def lock_anew(path: Path, content: bytes) -> None:
    with locked(path.parent, "used", ""):
        pass


def full(path):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestDisk:
    def test_a_full_one_is_said_with_path_bytes_and_a_way_on(self, tmp_path, monkeypatch):
        begun = create(tmp_path / "a run", settings(log_every=7, checkpoint_every=5))
        fsync = os.fsync

        def fail(descriptor):
            if Path(os.readlink(f"/proc/self/fd/{descriptor}")) == begun.metrics:
                full(begun.metrics)
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(GendiffError, match="No space left on device") as caught:
                train(begun)
        error = str(caught.value)
        assert f"cannot write '{begun.metrics}'" in error
        assert "bytes needed, " in error
        assert "bytes free" in error
        assert "the checkpoint of step 5 is safe" in error
        assert f"make room, then go on: {resuming(begun)}" in error
        assert caught.value.exit_code == 1
        train(begun)
        assert final(begun)[0] == 20

    def test_a_checkpoint_that_does_not_fit(self, tmp_path, monkeypatch):
        begun = create(tmp_path / "run", settings())
        write = Files.write

        def fail(files, path, content):
            if "step-000000000010" in str(path):
                full(path)
            write(files, path, content)

        monkeypatch.setattr(Files, "write", fail)
        with pytest.raises(GendiffError) as caught:
            train(begun)
        assert "the checkpoint of step 5 is safe" in str(caught.value)
        assert resuming(begun) in caught.value.fix
        assert begun.info["status"] == "failed"

    def test_a_preview_that_does_not_fit_costs_no_step(self, tmp_path, monkeypatch):
        begun = create(tmp_path / "run", settings(sample_every=7))
        write = Files.write

        def fail(files, path, content):
            if ".png" in path.name:
                full(path)
            write(files, path, content)

        with monkeypatch.context() as patch:
            patch.setattr(Files, "write", fail)
            with pytest.raises(GendiffError, match="No space left") as caught:
                train(begun)
        assert "the checkpoint of step 7 is safe" in str(caught.value)
        train(begun)
        assert begun.preview(7).exists()

    @pytest.mark.parametrize("number", disk.FULL)
    def test_refusals_name_what_they_can(self, tmp_path, number):
        error = OSError(number, os.strerror(number))
        with (
            pytest.raises(GendiffError) as caught,
            disk.writing(tmp_path / "new" / "file", 1234, ["this is safe"], "go on"),
        ):
            raise error
        assert caught.value.what == f"cannot write '{tmp_path / 'new' / 'file'}': {os.strerror(number)}"
        assert caught.value.details[0].startswith("1,234 bytes needed, ")
        assert caught.value.details[1] == "this is safe"
        assert caught.value.fix == "make room, then go on"
        assert "the disk refuses" in disk.refusal(error).what

    def test_a_file_that_is_cut_short_is_named(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(disk.Refused) as caught:
            Files().write(tmp_path / "file", b"12345")
        assert (caught.value.filename, caught.value.size, caught.value.errno) == (
            str(tmp_path / "file"),
            5,
            errno.ENOSPC,
        )

    @pytest.mark.parametrize("write", [Files().write, Files().replace, Files().add, put, write_saved, lock_anew])
    def test_a_disk_that_takes_nothing_is_said_with_the_path(self, tmp_path, write):
        """Of few bytes, which are written when the file is closed, if nobody looks before."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            with pytest.raises((OSError, GendiffError)) as caught:
                write(tmp_path / "file", b"12345")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert str(tmp_path) in str(caught.value)
        assert os.strerror(errno.EFBIG) in str(caught.value)

    def test_nobody_else_is_blamed(self, tmp_path, monkeypatch):
        """Whoever's code was writing."""
        from gendiff_plugins.data.digits import Digits

        monkeypatch.setattr(Digits, "__getitem__", lambda *arguments: full(""))
        told = run("evaluate", "digits", "--data", "digits", "--n", 16, "--no-cache")
        assert told.code == 1
        assert "No space left on device" in told.err
        assert "digits' of" not in told.err

    def test_a_run_that_vanishes_is_not_written_again(self, tmp_path):
        begun = create(tmp_path / "run", settings())

        def vanish(progress):
            if progress.step == 7:
                shutil.rmtree(begun.path)

        with pytest.raises(GendiffError, match="is gone: it was removed or moved") as caught:
            train(begun, report=vanish)
        assert resuming(begun) in caught.value.fix
        assert not begun.path.exists()

    def test_one_that_was_moved_goes_on_where_it_is_put_back(self, tmp_path):
        begun = create(tmp_path / "run", settings(log_every=1))
        with pytest.raises(GendiffError, match="is gone"):
            train(begun, report=lambda progress: progress.step == 7 and begun.path.rename(tmp_path / "away"))
        (tmp_path / "away").rename(begun.path)
        train(begun)
        other = create(tmp_path / "other", settings(log_every=1))
        train(other)
        assert final(begun) == final(other)


class TestNothingLeft:
    """A command that is refused, for whatever reason, can be given again, corrected."""

    @pytest.mark.parametrize(
        "given",
        [
            ("--batch", 100000),
            ("--sampler", "ddim:steps=2000"),
            ("--set", "model.width=3000000000"),
            ("--device", "cuda:77"),
            ("--logger", "tensorboard:folder=3"),
        ],
        ids=str,
    )
    def test_settings(self, tmp_path, given):
        told = run("train", "--model", "mlp", "--steps", 2, *given, "--out", tmp_path / "run")
        assert told.code in (1, 2)
        assert list(tmp_path.iterdir()) == []

    def test_room(self, tmp_path, monkeypatch):
        usage = namedtuple("usage", "total used free")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 1000))
            told = run("train", *TINY, "--out", tmp_path / "run")
        assert told.code == 1
        assert "not enough room" in told.err
        assert list(tmp_path.iterdir()) == []
        assert run("train", *TINY, "--out", tmp_path / "run").code == 0

    @pytest.mark.parametrize("exists", [True, False])
    def test_a_first_step_that_fails(self, tmp_path, monkeypatch, exists):
        """Too little memory, or anything else; a directory that was there stays, empty."""
        if exists:
            (tmp_path / "run").mkdir()

        def fail(*arguments):
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 12 bytes."
            )

        with monkeypatch.context() as patch:
            patch.setattr(Step, "__call__", fail)
            told = run("train", *TINY, "--out", tmp_path / "run")
        assert told.code == 1
        assert told.err.splitlines()[-4].startswith("error: out of memory: a step on 4 events with a network of ")
        assert f"no step was saved, and '{tmp_path / 'run'}' was taken away again" in told.err
        assert "lower --batch" in told.err
        assert [list(path.iterdir()) for path in tmp_path.iterdir()] == [[]] * exists
        assert run("train", *TINY, "--out", tmp_path / "run").code == 0

    def test_a_disk_that_fills_while_it_is_made(self, tmp_path, monkeypatch):
        replaced = Files.replace

        def fail(files, path, content):
            if path.name == "process.safetensors":
                full(path)
            replaced(files, path, content)

        monkeypatch.setattr(Files, "replace", fail)
        assert run("train", *TINY, "--out", tmp_path / "run").code == 1
        assert list(tmp_path.iterdir()) == []

    def test_a_run_with_a_checkpoint_stays(self, tmp_path, monkeypatch):
        take = Step.__call__

        def fail(step, *arguments):
            if step.tally.count == 2:
                raise RuntimeError("unforeseen")
            take(step, *arguments)

        monkeypatch.setattr(Step, "__call__", fail)
        assert run("train", *TINY, "--out", tmp_path / "run").code == 1
        assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [2]


class TestMemory:
    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (
                RuntimeError(f"{ALLOCATOR} 25600000000 bytes. Error code 12"),
                "25,600,000,000 bytes, more than this machine has left",
            ),
            (
                torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
                "2.00 GiB, more than the GPU has left",
            ),
            (MemoryError("Unable to allocate 37.3 GiB for an array"), "37.3 GiB, more than this machine has left"),
            (MemoryError(), "more than this machine has"),
            (RuntimeError("Storage size calculation overflowed with sizes=[9]"), "more than this machine has"),
            (RuntimeError("shapes do not match"), ""),
            (ValueError("can't allocate memory"), ""),
        ],
        ids=str,
    )
    def test_shortages_are_known(self, error, said):
        said = said and f"it asks for {said}"
        assert shortage(error) == said
        wrapped = ValueError("of something else")
        wrapped.__cause__ = error
        assert shortage(wrapped) == said

    def test_what_was_too_large_is_said(self):
        with pytest.raises(GendiffError) as caught, memory_for("this is too large", "shrink it"):
            raise MemoryError
        assert (
            str(caught.value)
            == "out of memory: this is too large\n  it asks for more than this machine has\n  shrink it"
        )
        with pytest.raises(RuntimeError, match="else"), memory_for("", ""):
            raise RuntimeError("something else")
        assert memory.shortage(GendiffError("out of memory")) == ""

    def test_a_huge_network_is_nobody_elses_fault(self, tmp_path):
        told = run("train", "--model", "mlp:width=3000000000", "--steps", 2, "--out", tmp_path / "run")
        assert told.code == 1
        assert told.err.startswith("error: out of memory: the network of model 'mlp' is too large to be trained here")
        assert "plugin" not in told.err
        assert "--batch" not in told.err

    def test_an_allocator_in_a_component_is_not_its_provider(self, monkeypatch):
        from gendiff_plugins.data.digits import Digits

        def fail(*arguments):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

        monkeypatch.setattr(Digits, "__getitem__", fail)
        told = run("evaluate", "digits", "--data", "digits", "--n", 16, "--no-cache")
        assert told.code == 1
        assert "error: out of memory\n  it asks for 9 bytes" in told.err
        assert "digits' of" not in told.err
        assert "--batch" not in told.err


class TestOptimiser:
    """A state that is not of these weights is refused in our words, naming the tensor, what was expected and what is there."""

    @pytest.fixture(scope="class")
    def saved(self, tmp_path_factory):
        torch.set_num_threads(1)
        begun = create(tmp_path_factory.mktemp("saved") / "run", settings(steps=3))
        train(begun)
        return checkpoint.newest(begun.checkpoints)

    def changed(self, saved, name, tensor):
        optimizer = dict(saved.tensors["optimizer"])
        del optimizer[name]
        if tensor is not None:
            optimizer[name] = tensor
        return replace(saved, tensors={**saved.tensors, "optimizer": optimizer})

    @pytest.mark.parametrize(
        ("tensor", "said"),
        [
            (None, "is missing"),
            (torch.zeros(3), r"is \(3,\) of float32"),
            (torch.zeros(16, dtype=torch.int64), r"is \(\d+,\) of int64"),
            (torch.zeros(16, dtype=torch.float64), "of float64"),
            (torch.full((16,), torch.nan), "holds values that no training could go on with|is .16,. of float32"),
        ],
        ids=["missing", "shape", "integers", "double", "nan"],
    )
    @pytest.mark.parametrize("entry", ["exp_avg", "exp_avg_sq", "step"])
    def test_one_tensor(self, saved, entry, tensor, said):
        name = f"input.bias.{entry}"
        own = saved.tensors["optimizer"][name]
        if tensor is not None and tensor.numel() == 16:
            tensor = tensor[0].expand(own.shape).clone()
            said = "is .*of|holds values that no training could go on with"
        with pytest.raises(DataError, match=f"no usable state of the optimiser: '{name}' ({said})") as caught:
            Trainer(settings(), CPU, ALONE).restore(self.changed(saved, name, tensor))
        assert caught.value.exit_code == 4
        assert caught.value.details == (f"expected: {tuple(own.shape)} of float32",)

    @pytest.mark.parametrize("value", [None, "1", -1, 2.5, True, [], {}, 4, 10**400], ids=repr)
    @pytest.mark.parametrize("key", ["failures", "steps", "skipped"])
    def test_counts_beside_it_are_counts(self, saved, key, value):
        own = {**saved.state["window"], key: value} if key != "failures" else saved.state["window"]
        state = {**saved.state, "window": own, **({key: value} if key == "failures" else {})}
        with pytest.raises(DataError, match=r"the state\.json of the checkpoint of step 3 lacks what training needs"):
            Trainer(settings(), CPU, ALONE).restore(replace(saved, state=state))

    @pytest.mark.parametrize("value", ["1", [], {}, [None], 10**400], ids=lambda value: repr(value)[:9])
    @pytest.mark.parametrize("key", ["loss", "grad_norm", "bands", None])
    def test_sums_beside_it_are_numbers(self, saved, key, value):
        own = value if key is None else {**saved.state["window"], key: value}
        if (key, value) in (("bands", []), ("bands", {})):
            own = {**own, "bands": [1.0, 2.0]}  # an empty one is none
        if key is None and value == {}:
            own = {"strange": 1}
        with pytest.raises(DataError, match="lacks what training needs"):
            Trainer(settings(), CPU, ALONE).restore(replace(saved, state={**saved.state, "window": own}))

    def test_all_of_it(self, saved):
        for optimizer in ({}, None):
            tensors = {group: named for group, named in saved.tensors.items() if group != "optimizer"}
            if optimizer is not None:
                tensors["optimizer"] = optimizer
            with pytest.raises(DataError, match="is missing"):
                Trainer(settings(), CPU, ALONE).restore(replace(saved, tensors=tensors))

    def test_one_that_belongs_to_nothing(self, saved):
        optimizer = {**saved.tensors["optimizer"], "stranger.exp_avg": torch.zeros(2)}
        with pytest.raises(DataError, match=r"'stranger\.exp_avg' belongs to no weight of this network"):
            Trainer(settings(), CPU, ALONE).restore(replace(saved, tensors={**saved.tensors, "optimizer": optimizer}))

    def test_that_of_a_weight_which_was_never_trained_may_be_missing(self, saved):
        trainer = Trainer(settings(), CPU, ALONE)
        dict(trainer.network.named_parameters())["input.bias"].requires_grad_(False)
        optimizer = {name: t for name, t in saved.tensors["optimizer"].items() if not name.startswith("input.bias.")}
        trainer.restore(replace(saved, tensors={**saved.tensors, "optimizer": optimizer}))
        assert trainer.step == 3

    def test_the_command_says_so(self, tmp_path):
        begun = create(tmp_path / "run", settings(steps=3))
        train(begun)
        newest = checkpoint.newest(begun.checkpoints)
        shutil.rmtree(begun.checkpoints)
        checkpoint.save(begun.checkpoints, self.changed(newest, "input.bias.exp_avg", torch.zeros(3)), 1)
        told = run("train", "--resume", begun.path, "--steps", 5, "--device", "cpu")
        assert told.code == 4
        assert "no usable state of the optimiser: 'input.bias.exp_avg' is (3,) of float32" in told.err
        assert json.loads((begun.path / "run.json").read_text())["status"] == "done"


def test_a_run_without_a_loss_is_listed_and_shown_without_one(tmp_path):
    begun = create(tmp_path / "runs" / "run", settings(steps=3))
    train(begun)
    begun.log({"step": 4, "images": 16, "loss": None, "loss_bands": None, "grad_norm": None, "skipped": 1, "lr": 1.0})
    begun.write_card()
    assert "| last loss | - |" in (begun.path / "README.md").read_text()
    (listed,) = run("runs", "list", tmp_path / "runs", "--json").json["runs"]
    assert (listed["step"], listed["loss"]) == (4, None)
    assert " 4     -  " in run("runs", "list", tmp_path / "runs").out
    assert run("runs", "show", begun.path).code == 0


PLACES = {
    "plugins new": ("plugins", "new", "acme-sine", "--kind", "schedule"),
    "reproduce": ("reproduce", "figure4"),
    "process fit": ("process", "fit", *("--data", "digits", "--rotation", "dct", "--schedule", "log", "--steps", 2)),
    "process plot": ("process", "plot", "schedules"),
    "sample": ("sample", "run", "--n", 1, "--steps", 1),
    "train": ("train", *TINY),
    "compare": (
        *("compare", "--arm", "identity", "--arm", "dct", "--data", "digits", "--model", "mlp", "--steps", 2),
        *("--seeds", 1, "--n", 16, "--features", "dct", "--nfe", 2),
    ),
}


class TestPlaces:
    """Wherever something is made: a full disk is told in bytes, a folder that takes nothing with another place; nothing stays."""

    @pytest.fixture(scope="class")
    def trained(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("trained") / "run"
        assert run("train", *TINY, "--out", path).code == 0
        return path

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
    @pytest.mark.parametrize("command", PLACES)
    def test_a_way_on_is_told_and_nothing_stays(self, command, number, trained, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        if command == "sample":
            shutil.copytree(trained, "run")
        before = sorted(Path().rglob("*"))
        mkdir, openat = Path.mkdir, os.open

        def refuse_folder(path, *more, **options):
            if number != errno.ENOSPC and not path.exists():
                raise OSError(number, os.strerror(number), str(path))
            return mkdir(path, *more, **options)

        def refuse_file(path, flags, *more, **options):
            if flags & os.O_CREAT and tmp_path in Path(path).absolute().parents and ".lock" not in str(path):
                raise OSError(number, os.strerror(number), str(path))
            return openat(path, flags, *more, **options)

        monkeypatch.setattr(Path, "mkdir", refuse_folder)
        monkeypatch.setattr(os, "open", refuse_file)
        monkeypatch.setattr(Path, "write_text", lambda path, *more, **options: refuse_file(path, os.O_CREAT))
        done = run(*PLACES[command])
        monkeypatch.undo()
        assert os.strerror(number) in done.err, done.err
        if number == errno.ENOSPC:
            assert (done.code, "bytes free" in done.err, "make room" in done.err) == (1, True, True), done.err
        else:
            assert done.code in (1, 2)
            assert "another" in done.err or "can be written to" in done.err, done.err
        left = [path for path in sorted(tmp_path.rglob("*")) if path.name not in ("__pycache__", ".lock")]
        assert [path.relative_to(tmp_path) for path in left] == [path for path in before if path.name != ".lock"]


def test_data_that_are_not_where_they_were_are_brought_back_and_not_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for k in range(8):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(f"photos/{k}.png")
    assert run("train", *TINY, "--data", "photos", "--size", 8, "--out", "r").code == 0
    Path("photos").rename("elsewhere")
    done = run("train", "--resume", "r", "--steps", 5)
    assert done.code == 4
    assert "bring 'photos' back, or put a link to it there, then go on: gendiff train --resume r" in done.err
    assert "on_bad_image" not in done.err
    Path("photos").symlink_to("elsewhere")
    assert run("train", "--resume", "r", "--steps", 5).code == 0
