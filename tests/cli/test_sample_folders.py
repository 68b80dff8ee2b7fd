"""Folders of samples: one name for one set of pictures, whole or not there, and nobody else's files in it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command import TINY, run

from gendiff.datasets import pictures
from gendiff.datasets.drawn import DrawnArray, DrawnFiles
from gendiff.errors import ConfigError, GendiffError
from gendiff.storage.staging import aside, is_empty, whole


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "r"
    options = (
        "--set",
        "train.ema=0.9",
        "--lr",
        0.05,
        "--set",
        "train.warmup=0",
        "--schedule",
        "log",
        "--rotation",
        "dct",
    )
    assert run("train", *TINY, *options, "--out", path).code == 0
    return path


@pytest.fixture
def here(tmp_path, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, "r")
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def drawn(*more: object) -> Path:
    done = run("sample", "r", "--n", 3, "--sampler", "ddim:steps=2", *more, "--json")
    assert done.code == 0, done.err
    return Path(done.json["folder"])


class TestName:
    def test_whatever_decides_the_pictures_is_in_it(self, here):
        options = [
            (),
            ("--no-ema",),
            ("--n", 4),
            ("--seed", 1),
            ("--steps", 3),
            ("--grid", "lambda"),
            ("--prior", "matched"),
            ("--sampler", "ddim:steps=2,clip=false"),
        ]
        folders = [drawn(*more) for more in options]
        assert len(set(folders)) == len(folders)
        assert folders[0] == Path("r/samples/step-00000003-ema-ddim-steps-2-seed0-n3")
        assert folders[1] == Path("r/samples/step-00000003-raw-ddim-steps-2-seed0-n3")
        for folder, more in zip(folders, options, strict=True):
            assert len(list((folder / "events").iterdir())) == (4 if "--n" in more else 3)

    def test_the_precision_in_which_they_are_drawn_is_in_it_and_in_them(self, here):
        full, low = drawn(), drawn("--precision", "bf16")
        assert low.name == full.name.replace("-seed0", "-bf16-seed0")
        assert [run("runs", "show", folder, "--json").json["precision"] for folder in (full, low)] == ["fp32", "bf16"]
        shown = run("runs", "show", low / "events" / "000000.png", "--json").json
        assert (shown["precision"], "--precision bf16" in shown["command"]) == ("bf16", True)
        near = [pictures.read_event(folder / "events", 0) for folder in (full, low)]
        assert 0 < (near[0] - near[1]).abs().max() < 0.5
        assert drawn("--precision", "auto") == full  # what a CPU computes well
        done = run("sample", "r", "--precision", "fp16")
        assert done.code == 2
        assert "bf16" in done.err

    def test_an_evaluation_says_in_which_precision_it_was_drawn(self, here):
        numbers = [
            run("evaluate", "r", "--n", 16, "--steps", 2, "--features", "pixels", *more, "--json").json
            for more in ((), ("--precision", "bf16"))
        ]
        assert [one["numbers"][0]["drawing"]["precision"] for one in numbers] == ["fp32", "bf16"]
        assert "-bf16-" in numbers[1]["file"]
        assert [any(one["rule"] == "lower-precision" for one in of["remarks"]) for of in numbers] == [False, True]
        done = run("evaluate", "r/samples", "--data", "digits", "--precision", "bf16")
        assert (done.code, "--precision bf16" in done.err) == (2, True)

    def test_a_compiled_network_draws_the_same_up_to_rounding(self, here, monkeypatch):
        asked = []
        monkeypatch.setattr("torch.compile", lambda network: asked.append(network) or network)
        assert drawn("--compile") == drawn()
        assert len(asked) == 1

    def test_raw_weights_leave_the_pictures_of_averaged_ones_alone(self, here):
        averaged = drawn("--n", 6)
        before = tree(averaged)
        raw = drawn("--no-ema")
        assert tree(averaged) == before
        assert len(list((raw / "events").iterdir())) == 3
        assert (raw / "events/000000.png").read_bytes() != before["events/000000.png"]

    def test_an_image_is_the_same_in_each(self, here):
        few, many = drawn("--n", 2), drawn("--n", 5)
        for name in ("000000.png", "000001.png"):
            assert (few / "events" / name).read_bytes() == (many / "events" / name).read_bytes()

    def test_long_specs_have_short_names_that_differ(self):
        from types import SimpleNamespace

        from gendiff_cli.sample import _folder_name

        model = SimpleNamespace(step=1, weights="ema", denoiser=SimpleNamespace(precision="fp32"))
        specs = ["a:grid='[1,2]'", "a:grid='[1;2]'", f"a:{'x' * 300}=1", f"a:{'x' * 300}=2", "a:b=../..", "a: b=é"]
        names = [_folder_name(model, SimpleNamespace(spec=spec), 0, 1) for spec in specs]
        assert len(set(names)) == len(names)
        assert all(len(name) < 120 and "/" not in name and name.isascii() and " " not in name for name in names)


class TestContent:
    def test_the_same_command_again_draws_the_same_and_leaves_no_more(self, here):
        folder = drawn("--trajectory")
        before = tree(folder)
        (folder / "events/000007.png").write_bytes(b"of another time")
        again = drawn()
        assert again == folder
        own = ("trajectory.png", "sample.json", "grid.png")  # these say the command, which is another
        assert tree(folder).keys() == before.keys() - {"trajectory.png"}
        assert all(content == before[name] for name, content in tree(folder).items() if name not in own)
        assert sorted(path.name for path in Path("r/samples").iterdir()) == [folder.name]

    def test_files_of_somebody_else_are_not_removed(self, here):
        folder = drawn()
        (folder / "events/notes.txt").write_text("mine")
        before = tree(folder)
        done = run("sample", "r", "--n", 3, "--sampler", "ddim:steps=2")
        assert done.code == 2
        assert "such as events/notes.txt" in done.err
        assert "--out DIR" in done.err
        assert tree(folder) == before

    @pytest.mark.parametrize("more", [(), ("--out", "mine"), ("--out", "there"), ("--array",), ("--trajectory",)])
    def test_an_interrupted_drawing_leaves_no_folder_and_is_gone_on_with(self, here, monkeypatch, more):
        words = ("sample", "r", "--n", 20, "--steps", 2, *more)
        Path("there").mkdir()
        put, numbers = DrawnFiles.put, []

        def interrupted(drawn, number, event, text=""):
            if number == 17:
                raise KeyboardInterrupt
            numbers.append(number)
            (put if isinstance(drawn, DrawnFiles) else put_in_array)(drawn, number, event, text)

        put_in_array = DrawnArray.put
        with monkeypatch.context() as patch:
            for kind in (DrawnFiles, DrawnArray):
                patch.setattr(kind, "put", interrupted)
            assert run(*words).code == 130
        assert not [path for path in Path("r/samples").glob("*") if not path.name.startswith(".")]
        assert not [path for path in Path("there").iterdir() if not path.name.startswith(".")]
        again, drawn_again = [], DrawnArray.put if "--array" in more else DrawnFiles.put
        with monkeypatch.context() as patch:
            kind = DrawnArray if "--array" in more else DrawnFiles
            patch.setattr(kind, "put", lambda self, k, *rest: (again.append(k), drawn_again(self, k, *rest))[1])
            done = run(*words, "--json")
        assert (done.code, "going on: 17 of 20 images were drawn before" in done.err) == (0, True)
        assert again == ([*range(8)] if "--trajectory" in more else []) + [17, 18, 19]
        whole_at_once = run(*words[:6], *(more if "--out" not in more else ()), "--out", "fresh", "--json")
        assert whole_at_once.code == 0
        one, other = (tree(Path(done_.json["folder"])) for done_ in (done, whole_at_once))
        assert one == other
        assert not list(Path(done.json["folder"]).glob(".*"))

    def test_another_drawing_does_not_go_on_with_it(self, here, monkeypatch):
        folder, save = drawn(), pictures.save_event
        stage = aside(folder)
        shutil.copytree(folder, stage)
        (stage / ".of").write_text("0" * 64)
        (stage / "events/000001.png").write_bytes((stage / "events/000000.png").read_bytes())
        calls = []
        monkeypatch.setattr(pictures, "save_event", lambda *given: (calls.append(given[1]), save(*given))[1])
        before = tree(folder)
        assert drawn() == folder
        assert calls == [0, 1, 2]
        assert tree(folder) == before

    def test_an_array_holds_the_pictures(self, here):
        files, array = drawn("--n", 20), drawn("--n", 20, "--array", "--out", "array")
        values = np.load(array / "events.npy")
        assert (values.dtype, values.shape) == (np.uint8, (20, 1, 8, 8))
        for number in range(20):
            event = pictures.read_event(files / "events", number)
            assert torch.equal(pictures.to_uint8(event), torch.from_numpy(values[number]))
        assert (array / "grid.png").exists()
        numbers = [
            run("evaluate", source, "--data", "digits", "--features", "pixels", "--json").json["numbers"][0]["value"]
            for source in (files / "events", array / "events.npy")
        ]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-9)

    def test_what_a_killed_drawing_left_is_taken_away(self, here):
        stage = Path("r/samples/.step-00000003-ema-ddim-steps-2-seed0-n3.staged")
        (stage / "events").mkdir(parents=True)
        (stage / "events/000009.png").write_bytes(b"half")
        (stage / "link").symlink_to("/nowhere")
        folder = drawn()
        assert sorted(tree(folder)) == [
            *(f"events/00000{number}.png" for number in range(3)),
            "grid.png",
            "sample.json",
        ]
        assert not stage.exists()

    def test_a_link_in_place_of_a_folder_is_not_followed(self, here):
        Path("elsewhere").mkdir()
        Path("r/samples").mkdir()
        folder = Path("r/samples/step-00000003-ema-ddim-steps-2-seed0-n3")
        for link in (folder, aside(folder)):
            link.symlink_to(Path("elsewhere").absolute())
            done = run("sample", "r", "--n", 3, "--sampler", "ddim:steps=2")
            assert done.code == 2
            assert not list(Path("elsewhere").iterdir())
            link.unlink()


class TestOut:
    def test_new_and_empty_directories_are_filled(self, here):
        Path("empty").mkdir()
        inode = Path("empty").stat().st_ino
        for out in ("new/deep", "empty"):
            assert drawn("--out", out) == Path(out)
            assert sorted(path.name for path in Path(out).iterdir()) == ["events", "grid.png", "sample.json"]
        assert Path("empty").stat().st_ino == inode  # it may be somebody's working folder

    def test_foreign_ones_are_not(self, here):
        Path("full").mkdir()
        Path("full/x").write_text("x")
        Path("file").write_text("x")
        for out in ("full", "file"):
            done = run("sample", "r", "--n", 1, "--steps", 1, "--out", out)
            assert (done.code, "(from --out)" in done.err, "choose a new directory" in done.err) == (2, True, True)
        assert Path("full/x").read_text() == "x"


class TestWhole:
    def test_two_processes_do_not_fill_the_same_folder(self, tmp_path):
        with whole(tmp_path / "x"), pytest.raises(GendiffError, match="by another process"), whole(tmp_path / "x"):
            pass
        assert list(tmp_path.iterdir()) == [tmp_path / "x"]

    def test_a_file_system_without_locks_is_no_reason_to_fail(self, tmp_path, monkeypatch):
        def refuse(*args):
            raise OSError(errno.ENOLCK, "no locks")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with whole(tmp_path / "x") as stage:
            (stage / "a").touch()
        assert (tmp_path / "x/a").exists()

    def test_a_full_disk_is_said_with_what_is_free_and_leaves_nothing(self, tmp_path):
        (tmp_path / "old").mkdir()
        (tmp_path / "old/a").write_text("kept")
        for inside, name in ((False, "old"), (False, "new"), (True, "given")):
            with pytest.raises(GendiffError, match="No space left") as caught, whole(tmp_path / name, inside):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            assert "bytes free" in str(caught.value)
            assert "make room" in caught.value.fix
        assert tree(tmp_path) == {"old/a": b"kept"}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]

    def test_what_is_needed_in_all_is_said(self, tmp_path):
        """Whoever raised it has said already which file it was; what counts is the whole."""
        for raised in (OSError(errno.ENOSPC, "full"), GendiffError("of one file")):
            if isinstance(raised, GendiffError):
                raised.__cause__ = OSError(errno.EROFS, "read-only")
            with pytest.raises(GendiffError) as caught, whole(tmp_path / "x", size=12345):
                raise raised
            assert caught.value.what.startswith(f"cannot write '{tmp_path / 'x'}'")
            assert caught.value.details[0].startswith("12,345 bytes needed, ")
            assert caught.value.fix.endswith(", or choose another directory: --out DIR")

    def test_room_is_looked_at_before_anything_is_made(self, here):
        before = tree(here)
        for n in (10**9, 10**30):
            done = run("sample", "r", "--n", n, "--steps", 2)
            assert (done.code, done.out) == (1, "")
            assert "not enough room in 'r/samples/step-" in done.err
            assert f"at least {n * 4096:,} bytes needed, " in done.err
            assert "--n" in done.err
        assert tree(here).keys() == before.keys()

    def test_a_picture_takes_a_block_and_a_signal_what_it_holds(self):
        assert pictures.file_size((3, 8, 8)) == 4096
        assert pictures.file_size((3, 256, 256)) == 3 * 256 * 256 // 4
        assert pictures.file_size((2, 256, 256)) == 4 * 2 * 256 * 256
        assert pictures.file_size((1, 48_000)) == 4 * 48_000

    def test_other_errors_are_left_as_they_are(self, tmp_path):
        with pytest.raises(PermissionError), whole(tmp_path / "x"):
            raise PermissionError(errno.EACCES, "of something else")

    def test_a_directory_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match="cannot make the directory"), whole(tmp_path / "file/x"):
            pass

    def test_a_folder_with_nothing_but_what_was_interrupted_is_empty(self, tmp_path):
        aside(tmp_path, inside=True).mkdir()
        assert is_empty(tmp_path)
        (tmp_path / "x").touch()
        assert not is_empty(tmp_path)
