"""Packed sets: the source's own values, the same bytes whatever interrupts, no changed byte used, nothing foreign touched."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command import TINY, run
from faults import DISK_ERRORS, Crash, NoDirectorySync, NoSync, Recorder, Watched, at, crash, crashes, failure, recorded
from gendiff_plugins.data.digits import Digits
from gendiff_plugins.data.folder import Folder
from gendiff_plugins.data.gaussian_field import GaussianField
from gendiff_plugins.data.packed import Packed
from made import SHAPE, Made, content, kill_and_go_on, values
from PIL import Image
from runs import exit_code, forked

from gendiff.datasets import packed, packing
from gendiff.datasets.batches import Batches
from gendiff.datasets.packed import PackedSet
from gendiff.datasets.packing import pack
from gendiff.datasets.preparation import Resize
from gendiff.errors import ConfigError, DataError, GendiffError
from gendiff.storage.lock import locked
from gendiff.storage.sealed import sealed


def error_of(action, kind=GendiffError):
    with pytest.raises(kind) as caught:
        action()
    assert caught.value.fix
    assert len(str(caught.value)) < 1500
    return caught.value


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """Every two events are forced to the disk, which here only notes it."""
    monkeypatch.setattr(packing, "CHUNK", 2)
    monkeypatch.setattr(packing, "BLOCK_BYTES", 1)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a place: these tests make and remove hundreds of directories."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def whole(tmp_path):
    """A packed set of eleven events, and what it must always be."""
    pack(Made(), tmp_path / "whole")
    return tmp_path / "whole"


def photos(folder, count=5):
    folder.mkdir()
    for k in range(count):
        Image.fromarray(values(k, (9 + k, 12, 3))).save(folder / f"{k}.png")
    return folder


# --- what is in it ----------------------------------------------------------------------------------------------------


class TestContent:
    def test_it_holds_the_values_of_the_source(self, whole):
        data = Packed(path=whole)
        assert (data.length, data.event_shape) == (11, SHAPE)
        for index in range(11):
            assert torch.equal(data[index], Made()[index])
        facts = json.loads((whole / "packed.json").read_bytes())
        assert facts["largest_rounding"] == 0
        assert facts["source"] == {
            "spec": "made",
            "fingerprint": "made/1 11",
            "events": 11,
            "event_shape": list(SHAPE),
            "resize": None,
            "pillow": facts["source"]["pillow"],
        }
        assert sorted(content(whole)) == ["checks.npy", "data.npy", "packed.json"]

    def test_others_can_read_and_check_it(self, whole):
        array = np.load(whole / "data.npy", mmap_mode="r")
        assert (array.dtype, array.shape) == (np.uint8, (11, *SHAPE))
        assert np.array_equal(array[7], values(7))
        checks_array = np.load(whole / "checks.npy")
        assert (checks_array.dtype, checks_array.shape) == (np.uint32, (11,))
        told = subprocess.run(
            f"tail -c +129 {whole}/data.npy | sha256sum", shell=True, capture_output=True, text=True, check=True
        )
        assert told.stdout.split()[0] == json.loads((whole / "packed.json").read_bytes())["content"]

    def test_the_bits_of_a_folder_and_of_its_packed_set_are_the_same(self, tmp_path):
        source = Folder(path=photos(tmp_path / "photos"), size=(7, 4))
        pack(source, tmp_path / "p")
        for index in range(5):
            assert torch.equal(Packed(path=tmp_path / "p")[index], source[index])
        done = PackedSet.open(tmp_path / "p").facts["source"]["resize"]
        assert done == {"filter": "bicubic, antialiased (Pillow)", "height": 7, "width": 4, "crop": "none"}

    @pytest.mark.parametrize("crop", ["none", "center"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_resizing_is_that_of_image_files(self, tmp_path, crop, channels):
        """Data that cannot resize by themselves are resized by the rule of those that can."""
        (tmp_path / "f").mkdir()
        for index in range(3):
            v = values(index, (channels, 9, 14))
            Image.fromarray(v.transpose(1, 2, 0).squeeze()).save(tmp_path / "f" / f"{index}.png")
        pack(Made(count=3, shape=(channels, 9, 14)), tmp_path / "p", resize=Resize(6, 5, crop))
        files = Folder(path=tmp_path / "f", size=(6, 5), crop=crop, channels=channels)
        for index in range(3):
            assert torch.equal(Packed(path=tmp_path / "p")[index], files[index])
        assert PackedSet.open(tmp_path / "p").facts["source"]["resize"]["crop"] == crop

    def test_values_that_are_not_of_8_bits_are_rounded_and_that_is_said(self, tmp_path):
        found = pack(Digits(), tmp_path / "p", n=6)
        error = max(float((Packed(path=tmp_path / "p")[k] - Digits()[k]).abs().max()) for k in range(6))
        assert 0 < found.facts["largest_rounding"] == pytest.approx(error, rel=1e-6)
        assert error <= 0.5 / 127.5 + 1e-6

    def test_the_fingerprint_is_that_of_the_content(self, whole, tmp_path):
        shutil.copytree(whole, tmp_path / "copy")
        pack(Made(count=10), tmp_path / "shorter")
        pack(Made(), tmp_path / "first ten", n=10)
        prints = [Packed(path=tmp_path / name).fingerprint for name in ("whole", "copy", "shorter", "first ten")]
        assert prints[0] == prints[1]
        assert prints[2] == prints[3] != prints[0]

    def test_signals_can_be_packed(self, tmp_path):
        pack(Made(shape=(2, 7)), tmp_path / "p")
        assert torch.equal(Packed(path=tmp_path / "p")[4], Made(shape=(2, 7))[4])

    @pytest.mark.parametrize("workers", [1, 3])
    def test_any_number_of_processes_gives_the_same_bytes(self, whole, tmp_path, workers):
        pack(Made(), tmp_path / "p", workers=workers)
        assert content(tmp_path / "p") == content(whole)

    def test_a_set_can_be_packed_again(self, whole, tmp_path):
        pack(Packed(path=whole), tmp_path / "again")
        assert Packed(path=tmp_path / "again").fingerprint == Packed(path=whole).fingerprint

    def test_what_cannot_be_packed_is_refused_before_anything_is_written(self, tmp_path):
        assert "not so bounded" in str(error_of(lambda: pack(GaussianField(), tmp_path / "p", n=3), ConfigError))
        assert "has 11 events" in str(error_of(lambda: pack(Made(), tmp_path / "p", n=12), ConfigError))
        signal_ = Made(shape=(2, 7))
        assert "no pictures" in str(error_of(lambda: pack(signal_, tmp_path / "p", resize=Resize(4, 4)), ConfigError))
        assert not (tmp_path / "p").exists()

    def test_values_outside_the_range_are_a_bad_event(self, tmp_path):
        class Loud(Made):
            name = "loud"

            def __getitem__(self, index):
                return super().__getitem__(index) * (2 if index == 1 else float("nan") if index == 3 else 1)

        assert "its values are from -1.90588 to 2" in str(error_of(lambda: pack(Loud(), tmp_path / "p"), DataError))
        assert pack(Loud(), tmp_path / "p", skip_bad=True).count == 9


# --- who reads it -----------------------------------------------------------------------------------------------------


def tell(data):
    return data.fingerprint, [hashlib.sha256(data[k].numpy().tobytes()).hexdigest() for k in range(data.length)]


class TestReading:
    def test_nothing_is_written_and_no_file_stays_open(self, whole):
        before = content(whole)
        tell(Packed(path=whole))
        packed._opened.cache_clear()
        assert content(whole) == before
        links = [os.path.realpath(f"/proc/self/fd/{number}") for number in range(256)]
        assert not [link for link in links if str(whole) in link]

    def test_it_is_opened_once(self, whole, monkeypatch):
        opened = []
        packed._opened.cache_clear()
        monkeypatch.setattr(packed, "parsed", lambda *a, real=packed.parsed: opened.append(a) or real(*a))
        tell(Packed(path=whole)), tell(Packed(path=whole))
        assert len(opened) == 1

    def test_a_set_that_is_replaced_is_opened_again(self, whole, tmp_path):
        data = Packed(path=whole)
        first = data.fingerprint
        pack(Made(count=4), tmp_path / "other")
        shutil.rmtree(whole)
        (tmp_path / "other").rename(whole)
        assert data.length == 4
        assert data.fingerprint != first

    def test_it_trains_as_its_source_does(self, tmp_path):
        source = Folder(path=photos(tmp_path / "photos"), size=(7, 4))
        pack(source, tmp_path / "p")
        one, other = (Batches(data, 100, 0, 4)[3] for data in (source, Packed(path=tmp_path / "p")))
        assert torch.equal(one.x_0, other.x_0)

    def test_train_and_resume_on_a_packed_set(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert run("data", "prepare", photos(tmp_path / "photos"), "p", "--size", "8", "--workers", 0).code == 0
        assert run("train", *TINY, "--data", "packed:path=p", "--out", "r").code == 0
        assert run("train", "--resume", "r", "--steps", 5).code == 0
        shutil.rmtree("p")
        assert run("data", "prepare", "photos", "p", "--size", "8", "--n", 4, "--workers", 0).code == 0
        refused = run("train", "--resume", "r", "--steps", 7)
        assert refused.code == 2
        assert "have changed since it began" in refused.err


# --- damage -----------------------------------------------------------------------------------------------------------


class TestDamage:
    def test_every_changed_bit_is_heard_of(self, whole):
        """In the values, when that event is read; anywhere else, at once."""
        rng = random.Random(0)
        for file, sound in content(whole).items():
            for _ in range(60):
                damaged = bytearray(sound)
                damaged[place := rng.randrange(len(sound))] ^= 1 << rng.randrange(8)
                (whole / file).write_bytes(damaged)
                packed._opened.cache_clear()  # two changes may come within one tick of the file system's clock
                error = error_of(lambda: tell(Packed(path=whole)), DataError)
                assert error.where == str(whole)
                if file == "data.npy" and place >= 128:
                    assert f"event {(place - 128) // 30} " in str(error)
            (whole / file).write_bytes(sound)
        packed._opened.cache_clear()
        assert tell(Packed(path=whole))

    def test_an_event_beside_a_damaged_one_is_read(self, whole):
        damaged = bytearray((whole / "data.npy").read_bytes())
        damaged[128 + 30 * 4] ^= 1
        (whole / "data.npy").write_bytes(damaged)
        data = Packed(path=whole)
        assert torch.equal(data[3], Made()[3])
        assert "event 4 " in str(error_of(lambda: data[4], DataError))
        assert torch.equal(data[5], Made()[5])

    @pytest.mark.parametrize("file", ["data.npy", "checks.npy", "packed.json"])
    def test_what_is_cut_short_or_missing_is_named(self, whole, file):
        sound = (whole / file).read_bytes()
        data = Packed(path=whole)
        assert data.length == 11  # it is open already
        for kept in (0, 1, 100, 128, len(sound) - 1):
            (whole / file).write_bytes(sound[:kept])
            packed._opened.cache_clear()
            assert "'whole' is damaged" in error_of(lambda: data[0], DataError).what
        (whole / file).write_bytes(sound + b"\0")
        packed._opened.cache_clear()
        assert "'whole' is damaged" in error_of(lambda: data[0], DataError).what
        (whole / file).unlink()
        packed._opened.cache_clear()
        error = error_of(lambda: data[0], DataError)
        assert "whole" in error.what
        assert file in str(error)

    def test_a_file_that_shrinks_under_the_map_does_not_end_the_process(self, whole):
        data = Packed(path=whole)
        assert torch.equal(data[10], Made()[10])
        os.truncate(whole / "data.npy", 200)
        assert "200 bytes" in str(error_of(lambda: data[10], DataError))

    @pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
    @pytest.mark.parametrize("file", ["data.npy", "checks.npy", "packed.json"])
    def test_what_is_no_file_neither_hangs_nor_fills_memory(self, whole, file, kind):
        (whole / file).unlink()
        if kind == "pipe":
            os.mkfifo(whole / file)
        elif kind == "device":
            (whole / file).symlink_to("/dev/zero")
        else:
            (whole / file).mkdir()
        packed._opened.cache_clear()
        assert "damaged" in error_of(lambda: Packed(path=whole).length, DataError).what

    @pytest.mark.parametrize(
        "change",
        [
            {"count": 10**12},
            {"count": 12},
            {"count": 0},
            {"count": -1},
            {"count": "11"},
            {"count": True},
            {"event_shape": [2, 3, 6]},
            {"event_shape": [3, 2, 5]},
            {"event_shape": []},
            {"event_shape": [30]},
            {"event_shape": None},
            {"event_shape": [1] * 60},
            {"event_shape": [2, 3, -5]},
            {"event_shape": [2**40, 2**40, 2**40]},
            {"checks": "0" * 64},
            {"checks": None},
            {"format": 2},
            {"format": None},
        ],
        ids=str,
    )
    def test_a_manifest_that_somebody_sealed_again_is_checked(self, whole, change):
        facts = json.loads((whole / "packed.json").read_bytes())
        facts.pop("sha256")
        (whole / "packed.json").write_bytes(sealed({**facts, **change}))
        packed._opened.cache_clear()
        error = error_of(lambda: Packed(path=whole).length, DataError)
        assert "'whole' is damaged" in error.what

    @pytest.mark.parametrize("text", [b"[]", b"1", b"", b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}', b"{}"])
    def test_a_manifest_that_is_none(self, whole, text):
        (whole / "packed.json").write_bytes(text)
        packed._opened.cache_clear()
        assert "'whole' is damaged" in error_of(lambda: Packed(path=whole).length, DataError).what

    def test_what_is_no_packed_set_is_named(self, tmp_path):
        assert "no such thing" in error_of(lambda: Packed(path=tmp_path / "no such thing").length, DataError).what
        (tmp_path / "empty").mkdir()
        assert "no packed set" in error_of(lambda: Packed(path=tmp_path / "empty").length, DataError).what
        (tmp_path / "file").write_text("x")
        error = error_of(lambda: Packed(path=tmp_path / "file").length, DataError)
        assert "file" in str(error)
        assert "~no-such-user" in error_of(lambda: Packed(path="~no-such-user/x").length, DataError).what
        assert Packed(path="/nowhere").path == Path("/nowhere")  # constructing reads nothing
        for index in (-1, 11):
            pack(Made(), tmp_path / "p")
            with pytest.raises(IndexError):
                Packed(path=tmp_path / "p")[index]


# --- interruptions ----------------------------------------------------------------------------------------------------


class TestInterruption:
    def test_a_process_that_dies_at_any_operation(self, whole, tmp_path):
        number = 0
        while True:
            folder = tmp_path / str(number)
            try:
                pack(Made(), folder, files=Watched(at(number, crash)))
                break
            except Crash:
                pass
            if folder.exists() and (folder / "packing.json").exists() and not (folder / "packed.json").exists():
                unfinished = Packed(path=folder)
                assert "not packed to its end" in error_of(lambda data=unfinished: data.length, DataError).what
            pack(Made(), folder)
            assert content(folder) == content(whole), number
            number += 1
        assert number > 30

    def test_power_loss_at_any_moment(self, whole, tmp_path):
        found, wrong = lost_states(tmp_path, whole, Recorder)
        assert wrong == []
        assert found > 100

    @pytest.mark.parametrize("mutant", [NoSync, NoDirectorySync])
    def test_the_model_of_power_loss_sees_each_mistake(self, whole, tmp_path, mutant):
        assert lost_states(tmp_path, whole, mutant)[1]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_killed_at_random_moments(self, whole, tmp_path, workers):
        rng, kills, sets = random.Random(workers), 0, 0
        while kills < 4:
            kills += kill_and_go_on(tmp_path / str(sets), rng, workers)
            assert content(tmp_path / str(sets)) == content(whole)
            sets += 1

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGUSR1, 75)])
    def test_a_request_to_stop_keeps_what_is_done(self, whole, tmp_path, number, code):
        def watch(done, total):
            if done == 4:
                os.kill(os.getpid(), number)

        error = error_of(lambda: pack(Made(), tmp_path / "p", watch=watch))
        assert error.exit_code == code
        assert "same command again" in error.fix
        begun = []
        pack(Made(), tmp_path / "p", watch=lambda done, total: begun.append(done))
        assert begun[0] == 4
        assert content(tmp_path / "p") == content(whole)

    @pytest.mark.parametrize(("number", "short"), DISK_ERRORS)
    def test_a_failing_disk_loses_nothing(self, whole, tmp_path, number, short):
        operations = []
        pack(Made(), tmp_path / "spare", files=Watched(lambda *event: operations.append(event)))
        for k in range(len(operations)):
            folder = tmp_path / f"disk-{k}"
            error = error_of(
                lambda folder=folder, k=k: pack(Made(), folder, files=Watched(at(k, failure(number, short))))
            )
            assert os.strerror(number) in error.what
            assert str(folder) in error.what
            assert "free" in str(error)
            assert "same command again" in error.fix
            pack(Made(), folder)
            assert content(folder) == content(whole), k

    def test_room_is_checked_before(self, tmp_path, monkeypatch):
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300))
        error = error_of(lambda: pack(Made(), tmp_path / "p"))
        assert "not enough room" in error.what
        assert "630 bytes needed" in str(error)
        assert not (tmp_path / "p" / "data.npy").exists()
        monkeypatch.undo()
        pack(Made(), tmp_path / "p")

    def test_a_data_process_that_dies_is_named(self, tmp_path):
        class Deadly(Made):
            name = "deadly"

            def __getitem__(self, index):
                if index == 7:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().__getitem__(index)

        error = error_of(lambda: pack(Deadly(), tmp_path / "p", workers=2))
        assert "a data process has died" in error.what
        assert "--workers" in error.fix

    def test_one_at_a_time(self, tmp_path):
        (tmp_path / "p").mkdir()
        with locked(tmp_path / "p", "packed", "wait"):
            child = forked(lambda: pack(Made(), tmp_path / "p"))
            assert exit_code(child) == 99
        pack(Made(), tmp_path / "p")


def lost_states(tmp_path, whole, recorder):
    """Crash states of one packing: how many, and in which what is left is neither whole nor can be packed to its end."""
    real, left = tmp_path / "real", tmp_path / "left"
    real.mkdir()
    log = recorded(lambda log: pack(Made(), real / "p", files=recorder(log)))
    log = [
        entry for entry in log if entry[1].name != ".lock"
    ]  # which is not written through `Files`: no crash needs it
    wanted, wrong, found, done = content(whole), [], 0, 4 * len(log)
    for where, _ in crashes(log, real, left, draws=1):
        found += 1
        packed._opened.cache_clear()
        try:
            if (left / "p" / "packed.json").exists() or found > done - 4:  # whole, or it has returned
                tell(Packed(path=left / "p"))
            pack(Made(), left / "p")
            if content(left / "p") != wanted:
                wrong.append(where)
        except GendiffError as error:
            wrong.append(f"{where}: {error.what}")
    return found, wrong


# --- going on with something else -------------------------------------------------------------------------------------


def begun(folder, data, events=4, **options):
    """A set that was interrupted."""

    def watch(done, total):
        if done >= events:
            raise Crash

    with pytest.raises(Crash):
        pack(data, folder, watch=watch, **options)
    return folder


class TestAnother:
    def test_a_whole_set_is_left_as_it_is(self, whole):
        before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
        called = []
        pack(Made(), whole, watch=lambda *counts: called.append(counts))
        assert called == []
        assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before

    @pytest.mark.parametrize("unfinished", [True, False])
    def test_another_source_or_way_is_refused(self, tmp_path, unfinished):
        shape = (1, 4, 6)
        folder = tmp_path / "p"
        begun(folder, Made(shape=shape)) if unfinished else pack(Made(shape=shape), folder)
        before = content(folder)
        for data, options, word in (
            (Made(count=12, shape=shape), {}, "fingerprint then: made/1 11; now: made/1 12"),
            (Made(shape=shape), {"n": 10}, "events then: 11; now: 10"),
            (Made(shape=shape), {"resize": Resize(4, 6, "center")}, "resize then: None"),
        ):
            error = error_of(lambda data=data, options=options: pack(data, folder, **options), ConfigError)
            assert "holds a set that was packed from something else" in error.what
            assert error.where == "DEST"
            assert word in str(error)
            assert {**content(folder), ".lock": b""} == {**before, ".lock": b""}

    def test_a_source_that_has_moved_is_the_same(self, tmp_path):
        source = photos(tmp_path / "photos")
        begun(tmp_path / "p", Folder(path=source, size=8))
        source.rename(tmp_path / "elsewhere")
        pack(Folder(path=tmp_path / "elsewhere", size=8), tmp_path / "p")
        assert Packed(path=tmp_path / "p").length == 5

    def test_what_was_packed_before_is_checked(self, tmp_path):
        folder = begun(tmp_path / "p", Made())
        damaged = bytearray((folder / "data.npy").read_bytes())
        damaged[130] ^= 1
        (folder / "data.npy").write_bytes(damaged)
        error = error_of(lambda: pack(Made(), folder), DataError)
        assert "cannot be used" in error.what
        assert f"remove '{folder}' if nothing in it is needed" in error.fix
        (folder / "data.npy").unlink()
        assert "are not what was written" in str(error_of(lambda: pack(Made(), folder), DataError))

    @pytest.mark.parametrize(
        "change",
        [{"written": "4"}, {"written": -1}, {"written": 5}, {"read": 99}, {"format": 2}, {"more": 1}, {"skipped": 3}],
        ids=str,
    )
    def test_a_journal_that_somebody_sealed_again_is_checked(self, tmp_path, change):
        folder = begun(tmp_path / "p", Made())
        facts = json.loads((folder / "packing.json").read_bytes())
        facts.pop("sha256")
        (folder / "packing.json").write_bytes(sealed({**facts, **change}))
        assert "cannot be used" in error_of(lambda: pack(Made(), folder), DataError).what

    @pytest.mark.parametrize(
        "names",
        [
            ["a.txt"],
            ["data.npy"],
            ["data.npy", "checks.npy"],
            ["packed.json"],
            ["packing.json", "data.npy"],
            [".x"],
            ["sub/x"],
        ],
    )
    def test_a_foreign_directory_is_not_touched(self, tmp_path, names):
        for name in names:
            (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "p" / name).write_text("mine")
        error_of(lambda: pack(Made(), tmp_path / "p"))
        found = {str(path.relative_to(tmp_path / "p")) for path in (tmp_path / "p").rglob("*") if path.is_file()}
        assert found == set(names)
        assert all((tmp_path / "p" / name).read_text() == "mine" for name in names)


# --- what cannot be read ----------------------------------------------------------------------------------------------


class TestBadEvents:
    def test_the_first_bad_event_stops_it_and_what_came_before_is_kept(self, whole, tmp_path):
        error = error_of(lambda: pack(Made(bad=(5, 7)), tmp_path / "p"), DataError)
        assert error.what == "event 5 is broken"
        assert "it is torn" in error.details
        assert "5 of 11 events are packed and are kept" in str(error)
        assert "--on-bad-image skip" in error.fix
        pack(Made(), tmp_path / "p")  # mended
        assert content(tmp_path / "p") == content(whole)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_skipping_counts_and_lists_them(self, tmp_path, workers):
        found = pack(Made(bad=(0, 5, 10)), tmp_path / "p", skip_bad=True, workers=workers)
        assert found.count == 8
        assert found.facts["skipped"] == {
            "count": 3,
            "first": [[f"event {k}", "it is torn"] for k in (0, 5, 10)],
        }
        kept = [k for k in range(11) if k not in (0, 5, 10)]
        for place, index in enumerate(kept):
            assert torch.equal(Packed(path=tmp_path / "p")[place], Made()[index])
        assert np.load(tmp_path / "p" / "data.npy").shape == (8, *SHAPE)

    def test_skipping_may_begin_where_it_stopped(self, tmp_path):
        pack(Made(bad=(5,)), tmp_path / "one", skip_bad=True)
        error_of(lambda: pack(Made(bad=(5,)), tmp_path / "two"), DataError)
        pack(Made(bad=(5,)), tmp_path / "two", skip_bad=True)
        assert content(tmp_path / "one") == content(tmp_path / "two")

    def test_skipping_survives_interruptions(self, tmp_path):
        pack(Made(bad=(1, 5)), tmp_path / "one", skip_bad=True)
        begun(tmp_path / "two", Made(bad=(1, 5)), events=6, skip_bad=True)
        pack(Made(bad=(1, 5)), tmp_path / "two", skip_bad=True)
        assert content(tmp_path / "one") == content(tmp_path / "two")

    def test_none_can_be_read(self, tmp_path):
        error = error_of(lambda: pack(Made(count=3, bad=(0, 1, 2)), tmp_path / "p", skip_bad=True), DataError)
        assert "none of the 3 events can be read" in error.what
        assert "event 0: it is torn" in error.details

    def test_a_long_list_is_cut(self, tmp_path, monkeypatch):
        monkeypatch.setattr(packing, "LISTED", 2)
        found = pack(Made(bad=(1, 2, 3, 4)), tmp_path / "p", skip_bad=True).facts["skipped"]
        assert (found["count"], len(found["first"])) == (4, 2)
