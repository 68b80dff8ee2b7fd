"""What is said of what cannot be used: whose it is, which argument, how much of it, and what to write instead."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from command import TINY, run
from PIL import Image
from torch.utils.data import DataLoader

from gendiff import Data
from gendiff.datasets.images import reason as reader_reason
from gendiff.errors import OBJECTS, nearest, reason, typing_errors, without_advice

RAW = ("allow_pickle", "weights_only", "Weights only", "arbitrary code", "KeyError")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "r"
    assert run("train", *TINY, "--out", path).code == 0
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(*shape: int, low: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(3).integers(low, high, shape, dtype=np.uint8)


def pictures(folder: str, sizes: list[tuple[int, int]]) -> Path:
    """Grey pictures of these heights and widths."""
    Path(folder).mkdir()
    for k, (height, width) in enumerate(sizes):
        Image.fromarray(values(height, width)).save(f"{folder}/{k:03d}.png")
    return Path(folder)


def cut(file: Path, length: int) -> None:
    file.write_bytes(file.read_bytes()[:length])


class TestSizes:
    @pytest.mark.parametrize("argument", ["SOURCE", "--reference"])
    def test_a_folder_of_several_is_said_first_with_counts_and_the_way_out(self, argument, here):
        pictures("mixed", [(8, 8)] * 10 + [(8, 12)] * 3 + [(12, 8)] * 2)
        pictures("grey", [(8, 8)] * 9)
        one, other = ("mixed", "grey") if argument == "SOURCE" else ("grey", "mixed")
        done = run("evaluate", one, "--reference", other)
        assert (done.code, done.out) == (4, "")
        assert f"15 pictures of 3 sizes, which are compared as they are (from {argument}: mixed)" in done.err
        assert "height x width: 10 of 8x8, 3 of 8x12, 2 of 12x8" in done.err
        assert "folder:path=mixed,size=[8,8]" in done.err
        way = ("folder:path=mixed,size=[8,8],channels=1", other) if argument == "SOURCE" else (one, "folder:path=mixed")
        assert run("evaluate", way[0], "--reference", way[1]).code == 0

    def test_a_picture_that_is_turned_counts_as_it_is_shown(self, here):
        pictures("turned", [(8, 12)] * 8)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(values(12, 8)).save("turned/100.png", exif=exif)
        assert run("evaluate", "turned", "--reference", "turned").code == 0

    def test_in_an_archive_too(self, here):
        pictures("mixed", [(8, 8)] * 8 + [(4, 4)])
        with zipfile.ZipFile("m.zip", "w") as archive:
            for file in sorted(Path("mixed").iterdir()):
                archive.write(file)
        done = run("evaluate", "m.zip", "--data", "digits")
        assert "9 pictures of 2 sizes" in done.err
        assert "zip:path=m.zip,size=[8,8]" in done.err


class TestArguments:
    def test_the_one_that_is_meant_is_named(self, here):
        pictures("ok", [(8, 8)] * 9)
        Path("text").mkdir()
        Path("text/a.txt").touch()
        np.save("int.npy", values(9, 8, 8).astype(np.int64))
        for wrong in (
            "nothing",
            "./nothing",
            "folder:path=nothing",
            "int.npy",
            "text",
            "digits:x=1",
            "folder:path=text",
        ):
            for argv, named in (
                (("evaluate", wrong, "--data", "digits"), "SOURCE"),
                (("evaluate", "ok", "--data", wrong), "--data"),
                (("evaluate", "ok", "--reference", wrong), "--reference"),
            ):
                done = run(*argv)
                assert done.code in (2, 4)
                first = done.err.splitlines()[0]
                assert f"(from {named}" in first, first
                assert not any(other in first for other in {"SOURCE", "--data", "--reference"} - {named})

    def test_also_of_what_is_met_on_the_way(self, here):
        pictures("ok", [(8, 8)] * 9)
        cut(pictures("bad", [(8, 8)] * 9) / "004.png", 75)
        done = run("evaluate", "ok", "--data", "folder:path=bad")
        assert done.code == 4
        assert "(from --data: bad/004.png)" in done.err
        assert "only the headers of the others were looked at" in done.err

    def test_more_than_there_are(self, here, trained):
        pictures("ok", [(8, 8)] * 9)
        for argv, words in (
            (("ok", "--data", "digits", "--n", 10), "ok has 9 events, not 10 (from --n 10)"),
            (("ok", "--reference", "ok", "--reference-n", 10), "ok has 9 events, not 10 (from --reference-n 10)"),
            (("digits", "--data", "digits", "--n", 9999), "digits has 1,797 events, not 9,999 (from --n 9999)"),
            (
                (trained, "--n", 8, "--reference-n", 9999),
                "digits has 1,797 events, not 9,999 (from --reference-n 9999)",
            ),
        ):
            done = run("evaluate", *argv)
            assert (done.code, done.out) == (2, "")
            assert words in done.err
            assert "or less, or leave it out" in done.err

    def test_how_to_draw_is_for_runs(self, here):
        pictures("ok", [(8, 8)] * 9)
        done = run("evaluate", "ok", "--data", "digits", "--steps", 4, "--no-ema")
        assert done.code == 2
        assert "'ok' is no run directory" in done.err
        assert "(from --steps 4 --no-ema)" in done.err

    def test_both_references(self, here):
        pictures("ok", [(8, 8)] * 9)
        done = run("evaluate", "ok", "--data", "digits", "--reference", "ok")
        assert (done.code, "(from --data digits --reference ok)" in done.err) == (2, True)

    def test_more_steps_than_the_process_has(self, trained):
        for command in (("sample", trained), ("evaluate", trained, "--n", 8)):
            done = run(*command, "--steps", 1001)
            assert (done.code, "1001 sampling steps of a process of 1000 (from --steps)" in done.err) == (2, True)


class TestRefusedValues:
    @pytest.mark.parametrize(
        ("argv", "value", "option", "fix"),
        [
            (("sample", "r", "--n", "0"), "0", "--n", "write --n 1 or more"),
            (("sample", "r", "-n0"), "0", "--n", "write --n 1 or more"),
            (("sample", "r", "--seed=-1"), "-1", "--seed", "write --seed 0 or more"),
            (("evaluate", "r", "--n", "3"), "3", "--n", "write --n 8 or more"),
            (("process", "show", "--bands", "65"), "65", "--bands", "write --bands 64 or less"),
        ],
    )
    def test_are_repeated_with_what_to_write(self, argv, value, option, fix, here):
        done = run(*argv)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"error: '{value}' is not allowed (from {option})\n")
        assert "  allowed: " in done.err
        assert fix in done.err


class TestWhatIsMeant:
    @pytest.mark.parametrize(
        ("argv", "said"),
        [
            ("train --rotation dtc", "did you mean 'dct'?"),
            ("list", "did you mean gendiff plugins list or gendiff data list or gendiff runs list?"),
            ("plot", "did you mean gendiff process plot?"),
            ("sho", "did you mean gendiff process show or"),
            ("traim", "did you mean 'train'?"),
            ("train digits", "did you mean --data digits?"),
            ("train dct", "did you mean --rotation dct?"),
            ("train photos", "did you mean --data photos?"),
            ("train old", "did you mean --resume old or --from old?"),
            ("process show --picture a.png", "it is an option of gendiff process plot"),
            ("process plot snrr", "did you mean 'snr'?"),
            ("sample r --precision fp31", "did you mean 'fp32'?"),
            ("process likelihood r --prior matchd", "did you mean 'matched'?"),
            ("train --hold-out abc", "--hold-out 0.1 is a tenth of the events"),
            ("train --schedule quar", "did you mean 'quartic'?"),
            ("train --set lr=0.1", "did you mean 'train.lr'?"),
            ("train --set steps=3", "did you mean 'sampler.steps' or 'train.steps'?"),
            ("compare --arm dct --grid f_mx=0.1,0.2", "did you mean 'velocity.schedule.f_max'?"),
            ("train --data folder:photos", "write folder:path=photos"),
            ("sample old/checkpoints/step-000000000003", "give old, or old@STEP for a checkpoint"),
            ("export r out --to onxx", "unknown format 'onxx' (from --to)"),
            ("export r out", "allowed: diffusers, safetensors, onnx"),
        ],
    )
    def test_is_said(self, argv, said, here):
        Path("photos").mkdir()
        Path("old").mkdir()
        Path("old/run.json").write_text("{}")
        done = run(*argv.split())
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert len(done.err.splitlines()) <= 5

    @pytest.mark.parametrize(
        ("option", "allowed", "example"), [("--steps", "a whole number", 10), ("--lr", "a number", 0.1)]
    )
    def test_what_is_no_number_is_said_once(self, option, allowed, example, here):
        said = [f"error: 'ten' is no number (from {option})", f"  allowed: {allowed}"]
        fix = f"  write it in digits, such as {option} {example}"
        assert run("train", option, "ten").err.splitlines() == [*said, fix]


@pytest.mark.parametrize(
    ("typed", "meant", "count"),
    [("dtc", "dct", 1), ("dtc", "dst", 2), ("", "ab", 2), ("ab", "ab", 0), ("lgo", "log", 1), ("ca", "abc", 3)],
)
def test_typing_errors_are_counted(typed, meant, count):
    assert typing_errors(typed, meant) == typing_errors(meant, typed) == count


def test_the_one_name_that_begins_so_is_meant():
    groups = ("Smileys & Emotion", "Symbols", "Flags")
    assert nearest("smileys", groups) == "Smileys & Emotion"
    assert nearest("sy", groups) == ""  # too short to say
    assert nearest("quart", ("quartic", "quarter")) == "quarter"  # of two the nearer one


class TestArrays:
    @pytest.mark.parametrize(
        ("array", "fix"),
        [
            (values(9, 8, 8).astype(np.int64), "array.astype(numpy.uint8)"),
            (values(9, 8, 8).astype(np.uint16) * 257, "(array / 257).round().astype(numpy.uint8)"),
            (values(9, 8, 8) > 99, "array.astype(numpy.uint8) * 255"),
        ],
        ids=["int64", "uint16", "bool"],
    )
    def test_of_other_numbers_say_how_they_become_pictures_and_that_works(self, array, fix, here):
        np.save("a.npy", array)
        np.savez("a.npz", a=array)
        for name in ("a.npy", "a.npz"):
            done = run("evaluate", name, "--data", "digits")
            assert done.code == 4
            assert f"{array.dtype}" in done.err
            assert fix in done.err
        converted = eval(fix, {"array": array, "numpy": np})
        np.save("b.npy", converted)
        np.savez("b.npz", b=converted)
        for name in ("b.npy", "b.npz"):
            assert run("evaluate", name, "--reference", name).code == 0

    def test_of_values_between_0_and_1_are_noted_with_what_to_write(self, here):
        np.save("unit.npy", values(9, 8, 8).astype(np.float32) / 255)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            done = run("evaluate", "unit.npy", "--data", "digits")
        assert done.code == 0
        assert "-1 is black" in done.err
        assert "npy:path=unit.npy,bounds=[0,1]" in done.err
        assert run("evaluate", "npy:path=unit.npy,bounds=[0,1]", "--data", "digits").code == 0  # which warns of nothing

    @pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 0.4), (0, 0)])
    def test_of_other_values_are_not(self, low, high, here):
        array = values(9, 8, 8).astype(np.float32) / 255 * (high - low) + low
        np.save("a.npy", array)
        assert Data.model_validate("npy:path=a.npy").fingerprint  # a warning would be an error

    def test_with_objects_are_no_invitation_to_load_them(self, here):
        pictures("ok", [(8, 8)] * 9)
        objects = np.array([{}, []], dtype=object)
        np.save("o.npy", objects, allow_pickle=True)
        np.savez("o.npz", a=objects)
        np.savez("s.npz", mu=objects, sigma=np.eye(2))
        Path("events").mkdir()
        np.save("events/000000.npy", objects, allow_pickle=True)
        torch.save({"a": Path}, "w.pth")
        inception = ("--features", "inception", "--fid-weights", "w.pth")
        for argv in (
            ("o.npy", "--data", "digits"),
            ("o.npz", "--data", "digits"),
            ("events", "--data", "digits"),
            ("ok", "--reference", "s.npz"),
            ("ok", "--data", "digits", *inception),
        ):
            done = run("evaluate", *argv)
            assert done.code == 4
            assert OBJECTS in done.err
            assert not any(word in done.err for word in RAW)

    def test_weights_that_are_none(self, here):
        pictures("ok", [(8, 8)] * 9)
        Path("w.pth").write_bytes(b"hello")
        torch.save({"a": torch.zeros(2)}, "other.pth")
        for file, why in (("w.pth", "it is no file of tensors"), ("other.pth", "it holds other tensors")):
            done = run("evaluate", "ok", "--data", "digits", "--features", "inception", "--fid-weights", file)
            assert (done.code, why in done.err) == (4, True)
            assert not any(word in done.err for word in RAW)


def test_advice_to_load_unsafely_is_never_passed_on():
    told = "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will likely succeed"
    for error in (ValueError("Object arrays cannot be loaded when allow_pickle=False"), RuntimeError(told)):
        for text in (reason(error), reader_reason(error), without_advice(str(error))):
            assert OBJECTS in text
            assert not any(word in text for word in RAW)
    assert without_advice("something else") == "something else"


class TestPictures:
    def test_a_decoder_that_says_a_number_is_put_into_words(self, here, capfd):
        Path("tif").mkdir()
        Image.fromarray(values(8, 8, 3)).save("tif/a.tif", compression="tiff_lzw")
        content = bytearray(Path("tif/a.tif").read_bytes())
        content[20:60] = b"\xff" * 40
        Path("tif/a.tif").write_bytes(content)
        done = run("evaluate", "tif", "--data", "digits")
        assert done.code == 4
        assert "its pixels cannot be decoded (libtiff: " in done.err
        assert "decoder error" not in done.err
        assert capfd.readouterr().err == ""  # libtiff says nothing by itself
        assert reader_reason(OSError("decoder error -2")) == "its pixels cannot be decoded (code -2)"
        assert reader_reason(OSError("-9")) == "its pixels cannot be decoded (code -9)"

    def test_all_that_are_bad_are_counted_and_what_was_looked_at_is_said(self, here):
        folder = pictures("bad", [(8, 8)] * 12)
        for k in range(7):
            (folder / f"{k:03d}.png").write_bytes(b"hello")
        for argv in (("bad", "--data", "digits"), ("digits", "--data", "folder:path=bad")):
            done = run("evaluate", *argv)
            assert done.code == 4
            assert "7 of 12" in done.err
            assert "and 2 more" in done.err
            assert "only headers were looked at" in done.err

    def test_an_archive_of_lmdb_is_to_be_unpacked(self, here):
        with zipfile.ZipFile("church.zip", "w") as archive:
            archive.writestr("church_lmdb/data.mdb", b"x" * 99)
            archive.writestr("church_lmdb/lock.mdb", b"")
        for argv in (("data", "info", "church.zip"), ("evaluate", "digits", "--data", "church.zip")):
            done = run(*argv)
            assert done.code == 4
            assert "the archive holds an LMDB database" in done.err
            assert "unpack it" in done.err
            assert "lsun:path=FOLDER" in done.err


class TestLength:
    def test_a_data_loader_takes_finite_data(self):
        data = Data.model_validate("digits")
        assert len(data) == data.length == 1797
        batches = list(DataLoader(data, batch_size=600, shuffle=True))
        assert [len(batch) for batch in batches] == [600, 600, 597]
        assert {tuple(batch.shape[1:]) for batch in batches} == {(1, 8, 8)}

    def test_endless_data_say_that_they_are(self):
        data = Data.model_validate("dead-leaves:size=8")
        with pytest.raises(TypeError, match="data 'dead-leaves' have no end, and so no length"):
            len(data)
        with pytest.raises(TypeError, match="sampler=range"):
            list(DataLoader(data))
        assert sum(len(batch) for batch in DataLoader(data, batch_size=4, sampler=range(10))) == 10
        assert data  # whether there are any does not depend on how many


class TestNothing:
    """What is empty is said to be."""

    @pytest.fixture
    def empty(self, here):
        for folder in ("nothing", "hidden"):
            Path(folder).mkdir()
        Path("hidden/.DS_Store").touch()
        zipfile.ZipFile("archive.zip", "w").close()
        for name in ("file.npy", "file.npz", "file.zip", "file.png", "file"):
            Path(name).touch()

    NAMES = ("nothing", "hidden", "archive.zip", "file.npy", "file.npz", "file.zip", "file.png", "file")

    @pytest.mark.parametrize("name", NAMES)
    def test_wherever_data_may_stand(self, name, empty):
        for argv in (
            ("data", "info", name),
            ("data", "prepare", name, "out"),
            ("evaluate", name, "--data", "digits"),
            ("evaluate", "digits", "--reference", name),
        ):
            done = run(*argv)
            assert (done.code, "empty" in done.err, name in done.err) == (4, True, True), done.err

    @pytest.mark.parametrize(
        "spec", ["folder:path=nothing", "zip:path=archive.zip", "zip:path=file.zip", "npy:path=file.npy"]
    )
    def test_where_the_spec_says_what_it_is(self, spec, empty):
        assert "is empty" in run("data", "info", spec).err

    def test_an_array_of_no_pictures(self, here):
        np.save("none.npy", np.zeros((0, 8, 8), np.uint8))
        assert "there is nothing in it" in run("data", "info", "npy:path=none.npy").err


class TestSpoiltTiff:
    @pytest.fixture
    def cut_short(self, here):
        """Three TIFFs that are cut short after their headers, and two in them."""
        Path("tiffs").mkdir()
        for k in range(5):
            Image.fromarray(values(32, 32)).save(f"tiffs/{k}.tif")
        for k, length in enumerate((500, 600, 700, 60, 9)):
            cut(Path(f"tiffs/{k}.tif"), length)

    def test_no_text_of_pillow_stands_alone(self, cut_short):
        for argv in (("evaluate", "tiffs", "--data", "digits"), ("data", "info", "tiffs"), ("data", "info", "./tiffs")):
            done = run(*argv)
            assert done.code == 4
            assert f"{2 if argv[0] == 'evaluate' else 5} of 5" in done.err  # data are decoded, samples looked at
            assert "note:" not in done.err

    def test_the_first_that_is_met_is_not_taken_for_all(self, cut_short):
        for bad in ("3.tif", "4.tif"):
            Path("tiffs", bad).unlink()
        done = run("evaluate", "tiffs", "--data", "digits")
        assert (done.code, "'0.tif'" in done.err, "note:" in done.err) == (4, True, False)
        assert "it is the first that was met: only the headers of the others were looked at" in done.err


@pytest.mark.parametrize("text", ["16,24", "16, 24", "16*24", "(16,24)", "16 24", "16X24"])
def test_a_size_that_is_torn_apart_is_written_out(text, here):
    for argv in (
        ("train", "--data", f"dead-leaves:size={text}", "--dry-run"),
        ("train", "--set", "data.name=dead-leaves", "--set", f"data.size={text}", "--dry-run"),
    ):
        done = run(*argv)
        assert (done.code, "16x24" in done.err) == (2, True), done.err
