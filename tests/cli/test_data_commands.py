"""``gendiff data``: what a newcomer types, right and wrong."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import gendiff_cli.app
import numpy as np
import pytest
from command import run
from gendiff_plugins.data.folder import Folder
from gendiff_plugins.data.packed import Packed
from PIL import Image
from published import cifar_archive, encoded, idx_folder, lsun_folder, pictures, values

from gendiff.datasets.packing import pack


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Data of several kinds, good and bad."""
    root = tmp_path_factory.mktemp("material")
    for name in ("photos", "torn", "text", "mixed", "foreign"):
        (root / name).mkdir()
    for k in range(5):
        v = values(20 + k, 30, 3, seed=k % 4)
        for name in ("photos", "torn", "mixed"):
            (root / name / f"{k}.png").write_bytes(encoded(v))
    torn = root / "torn" / "3.png"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    (root / "mixed" / "x.png").write_text("no picture")
    (root / "text" / "a.txt").write_text("x")
    (root / "foreign" / "keep").write_text("mine")
    (root / "file").write_text("x")
    lsun_folder(root / "church_lmdb", pictures(4).values())
    cifar_archive(root / "cifar")
    idx_folder(root / "mnist")
    np.save(root / "a.npy", values(6, 9, 8, 3))
    pack(Folder(path=root / "photos", size=8), root / "whole")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch, material):
    """A working folder with a copy of it."""
    shutil.copytree(material, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(*words, **options):
    return run("data", "prepare", *words, "--workers", options.get("workers", 0))


# --- prepare ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "shape", "count"),
    [
        ("photos", (3, 8, 8), 5),
        ("church_lmdb", (3, 8, 8), 4),
        ("lsun:path=church_lmdb,crop=center", (3, 8, 8), 4),
        ("cifar", (3, 8, 8), 10),
        ("cifar10:path=cifar,split=test", (3, 8, 8), 2),
        ("mnist", (1, 8, 8), 4),
        ("a.npy", (3, 8, 8), 6),
        ("digits", (1, 8, 8), 1797),
        ("whole", (3, 8, 8), 5),
    ],
)
def test_any_source_is_packed_and_can_be_trained_on(here, source, shape, count):
    if source == "mnist":  # a name of data is one: the folder needs a slash
        source = "./mnist"
    done = prepare(source, "p", "--size", 8)
    assert done.code == 0, done.err
    data = Packed(path="p")
    assert (data.event_shape, data.length) == (shape, count)
    assert "next: gendiff train --data packed:path=p\n" in done.err
    assert f"{count:,} of {'x'.join(map(str, shape))}" in done.out
    assert data.fingerprint in done.out


def test_the_result_as_json_is_all_there_is(here):
    done = prepare("torn", "p", "--size", "8x6", "--crop", "center", "--on-bad-image", "skip", "--json")
    facts = done.json
    assert facts["path"] == "p"
    assert (facts["count"], facts["event_shape"]) == (4, [3, 8, 6])
    assert facts["skipped"] == {"count": 1, "first": [["3.png", "image file is truncated"]]}
    assert facts["source"]["resize"]["crop"] == "center"
    assert facts["fingerprint"] == Packed(path="p").fingerprint


def test_size_channels_and_crop_belong_to_the_source_or_are_done_here(here):
    assert prepare("photos", "p", "--size", "6x8", "--channels", 1, "--crop", "center").code == 0
    assert json.loads(Path("p/packed.json").read_text())["source"]["spec"] == (
        "folder:path=photos,size=[6, 8],channels=1,crop=center"
    )
    assert prepare("folder:path=photos,size=5", "q", "--size", 7).code == 0  # a flag comes last
    assert Packed(path="q").event_shape == (3, 7, 7)
    assert prepare("dead-leaves", "r", "--size", 8, "--n", 3).code == 0
    facts = json.loads(Path("r/packed.json").read_text())
    assert facts["source"]["resize"] is None
    assert facts["largest_rounding"] > 0
    assert prepare("cifar", "s", "--size", "4x6", "--crop", "center").code == 0
    assert json.loads(Path("s/packed.json").read_text())["source"]["resize"]["height"] == 4


def test_a_bad_picture_stops_it_and_is_left_out_on_request(here):
    stopped = prepare("torn", "p")
    assert stopped.code == 4
    assert "cannot read the picture '3.png'" in stopped.err
    assert "3 of 5 events are packed and are kept" in stopped.err
    done = prepare("torn", "p", "--on-bad-image", "skip")
    assert done.code == 0
    assert "going on from 3 of 5" in done.err
    assert "left out     1, listed in p/packed.json\n             3.png: image file is truncated" in done.out


@pytest.mark.filterwarnings("default:.*left out")
def test_a_file_that_is_no_picture_at_all_is_left_out_on_request(here):
    assert "x.png: not an image" in prepare("mixed", "p").err
    assert not Path("p").exists()
    done = prepare("mixed", "p", "--on-bad-image", "skip")
    assert done.code == 0
    assert "left out     1" in done.out
    assert "note: 1 of 6 image files cannot be read and are left out" in done.err
    assert ".py" not in done.err


def test_again_does_nothing(here):
    assert prepare("photos", "p").code == 0
    times = {path.name: path.stat().st_mtime_ns for path in Path("p").iterdir()}
    done = prepare("photos", "p")
    assert done.code == 0
    assert "'p' holds all of it already" in done.err
    assert {path.name: path.stat().st_mtime_ns for path in Path("p").iterdir()} == times


def test_quiet_and_progress(here):
    assert run("-q", "data", "prepare", "photos", "p", "--workers", 0).err == ""
    assert "packed 5 of 5" in prepare("photos", "q").err


MISTAKES = [
    ("prepare", 2, "missing argument 'SOURCE'"),
    ("prepare photos", 2, "missing argument 'DEST'"),
    ("prepare nothing p", 2, "no data and no file or folder is called 'nothing' (from SOURCE)", "known data: "),
    ("prepare ./nothing p", 4, "there is no './nothing' (from SOURCE)"),
    ("prepare text p", 4, "no data recognise what is in 'text' (from SOURCE)", "gendiff data list"),
    ("prepare file p", 4, "no data recognise what is in 'file'"),
    ("prepare folder p", 2, "data 'folder' needs 'path' (from SOURCE)"),
    ("prepare folder:path=text p", 4, "no image files among the 1 files"),
    ("prepare folder:path=photos,sise=3 p", 2, "no parameter 'sise' (from SOURCE)", "did you mean 'size'?"),
    ("prepare dead-leaves p", 2, "data 'dead-leaves' is endless", "--n 10000"),
    ("prepare gaussian-field p --n 3", 2, "data 'gaussian-field' cannot be packed"),
    ("prepare photos p --n 9", 2, "has 5 events, and not 9 (from --n)"),
    ("prepare photos p --n 0", 2, "(from --n)"),
    ("prepare photos p --size x", 2, "cannot read the size 'x' (from --size)"),
    ("prepare photos p --size 0", 2, "(from --size)"),
    ("prepare photos p --size 99999", 2, "(from --size)"),
    ("prepare photos p --channels 2", 2, "channels = 2", "(from --channels)"),
    ("prepare ./mnist p --channels 3", 2, "data 'mnist' has no parameter 'channels' (from --channels)"),
    ("prepare ./mnist p --crop center", 2, "keeps its own size", "(from --crop)"),
    ("prepare ./mnist p --size 0", 2, "a size of 0 (from --size)", "allowed: 1 to 4096"),
    ("prepare dead-leaves p --crop center --n 3", 2, "data 'dead-leaves' has no parameter 'crop' (from --crop)"),
    ("prepare photos p --crop left", 2, "(from --crop)"),
    ("prepare photos p --on-bad-image maybe", 2, "(from --on-bad-image)"),
    ("prepare photos p --workers -1", 2, "(from --workers)"),
    ("prepare photos foreign", 2, "'foreign' exists and holds something else (from DEST)", "such as keep"),
    ("prepare photos photos", 2, "'photos' exists and holds something else (from DEST)"),
    ("prepare photos file", 2, "'file' is a file (from DEST)"),
    ("prepare photos file/p", 1, "cannot write the packed set 'file/p': Not a directory", "correct the path"),
    ("prepare photos /proc/nothing/p", 1, "cannot write the packed set '/proc/nothing/p'"),
    ("prepare photos whole", 2, "'whole' holds a set that was packed from something else", "fingerprint then: "),
    ("info", 2, "missing argument 'SOURCE'"),
    ("info text", 4, "no data recognise what is in 'text'"),
    ("info ./mnist --size 8", 2, "data 'mnist' has its own size (from --size)"),
    ("info packed:path=photos", 4, "'photos' is no packed set", "gendiff data prepare photos NEW"),
    ("info packed:path=nothing", 4, "there is no 'nothing' (from SOURCE)"),
]


def tree(folder):
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[0])
def test_a_mistake_is_explained_on_one_screen_and_leaves_nothing_behind(here, mistake):
    line, code, *said = mistake
    before = tree(here)
    done = run(
        "data", *shlex.split(line), *([] if "--workers" in line or "p" not in line.split() else ["--workers", 0])
    )
    assert done.code == code, done.err
    assert done.out == ""
    for words in said:
        assert words in done.err
    assert len(done.err.splitlines()) <= 12
    assert "Traceback" not in done.err
    assert tree(here) == before


@pytest.mark.slow
def test_a_bare_path_is_data_for_training_too(here):
    done = run("train", "--data", "photos", "--batch", 4, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.json["data"] == "folder:path=photos"
    assert "unknown data 'fotos' (from --data)" in run("train", "--data", "fotos").err


# --- info -------------------------------------------------------------------------------------------------------------


def test_info_shows_what_a_folder_holds(here):
    done = run("data", "info", "photos", "--workers", 0)
    assert done.code == 0
    lines = dict(re.split(r" {2,}", line, maxsplit=1) for line in done.out.splitlines() if not line.startswith(" "))
    assert lines["events"] == "5, each 3x64x64"
    assert lines["range"].endswith("of -1 to 1")
    assert len(lines["mean"].split()) == len(lines["contrast"].split()) == 5
    assert lines["fingerprint"].startswith("folder/2 5 files")
    assert lines["duplicates"] == "none"
    assert "slope" in lines["spectrum"]
    assert done.err.endswith("next: gendiff data prepare photos NEW\n")


@pytest.mark.filterwarnings("default:.*left out")
def test_info_names_duplicates_and_what_cannot_be_read(here):
    Path("torn/copy.png").write_bytes(Path("torn/0.png").read_bytes())
    Path("torn/x.png").write_text("no picture")
    done = run("data", "info", "torn", "--size", 8, "--workers", 0)
    assert "duplicates   1 that repeat another exactly\n             0.png = copy.png" in done.out
    assert "unreadable   2" in done.out
    assert "3.png: image file is truncated" in done.out
    assert "--on-bad-image skip" in done.err
    facts = run("data", "info", "torn", "--size", 8, "--workers", 0, "--json").json
    assert facts["duplicates"] == [[{"index": 0, "name": "0.png"}, {"index": 4, "name": "copy.png"}]]
    assert [Path(bad["name"]).name for bad in facts["bad"]] == ["3.png", "x.png"]


def test_info_counts_what_is_passed_over(here):
    for name in ("a.txt", "b.txt", "c.HEIC", "README", ".hidden"):
        Path("photos", name).write_text("x")
    done = run("data", "info", "photos", "--workers", 0)
    told = "passed over  4 files that are no pictures by their ending: .txt (2), .heic (1), no ending (1)"
    assert sorted(re.findall(r"\S+ \(\d\)", told)) == sorted(re.findall(r"\S+ \(\d\)", done.out))
    assert "passed over  4 files" in done.out
    facts = run("data", "info", "photos", "--workers", 0, "--json").json
    assert facts["passed_over"] == {".txt": 2, ".heic": 1, "no ending": 1}


def test_info_says_how_large_pictures_are_and_keeps_what_it_was_asked(here):
    done = run("data", "info", "photos", "--size", 8, "--channels", 1, "--workers", 0)
    (line,) = [line for line in done.out.splitlines() if line.startswith("pictures ")]
    facts = run("data", "info", "photos", "--size", 8, "--workers", 0, "--json").json
    assert sum(number for *_, number in facts["own_sizes"]) == facts["count"]
    smallest, largest = facts["own_sizes"][0], facts["own_sizes"][-1]
    assert f"{smallest[0]}x{smallest[1]}" in line
    assert f"{largest[0]}x{largest[1]}" in line
    assert done.err.splitlines()[-1] == "next: gendiff data prepare photos NEW --size 8 --channels 1"
    lying = Image.new("RGB", (30, 20))
    exif = lying.getexif()
    exif[0x0112] = 6
    Path("one").mkdir()
    lying.save("one/a.jpg", exif=exif)
    Path("one/b.txt").write_text("x")
    told = run("data", "info", "one", "--size", 8, "--workers", 0).out
    assert "each 30x20 (height x width)" in told  # upright
    assert "1 file that is no picture by its ending: .txt (1)" in told


def test_names_that_a_terminal_would_obey_are_written_out(here):
    for name in (b"\xff.png", b"new\nline.png", b"\x1b[31mred.png"):
        Path("torn", os.fsdecode(name)).write_text("no picture")
    told = run("train", "--data", "folder:path=torn").err
    assert "3 of 8 image files" in told
    for shown in ("\\udcff.png: ", "new\\nline.png: ", "\\x1b[31mred.png: "):
        assert shown in told
    assert "\x1b" not in told


def test_names_that_are_no_text_can_be_printed(here, monkeypatch):
    Path("photos", os.fsdecode(b"\xff.png")).write_bytes(Path("photos/0.png").read_bytes())
    monkeypatch.setattr("gendiff_plugins.data.folder.printable", str)
    monkeypatch.setattr("gendiff_cli.console.printable", lambda text, keep: text)
    monkeypatch.setattr(sys, "argv", ["gendiff", "data", "info", "photos", "--size", "4", "--workers", "0"])
    written = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(written, "utf-8")) as out, pytest.raises(SystemExit) as done:
        gendiff_cli.app.main()
    out.flush()
    assert done.value.code in (0, None)
    assert b"0.png = \\udcff.png" in written.getvalue()


def test_info_of_endless_and_unbounded_data(here):
    facts = run("data", "info", "dead-leaves", "--n", 20, "--size", 8, "--workers", 0, "--json").json
    assert (facts["count"], facts["looked_at"], facts["event_shape"]) == (None, 20, [3, 8, 8])
    done = run("data", "info", "gaussian-field:size=[4, 6]", "--n", 20, "--workers", 0)
    assert "events       endless, 20 looked at, each 1x4x6" in done.out
    assert "unbounded" in done.out
    assert done.err.endswith("next: gendiff train --data 'gaussian-field:size=[4, 6]'\n")


def test_info_finds_what_is_damaged_in_a_packed_set(here):
    content = bytearray(Path("whole/data.npy").read_bytes())
    content[128 + 3 * 64 * 2] ^= 1
    Path("whole/data.npy").write_bytes(content)
    done = run("data", "info", "whole", "--workers", 0)
    assert done.code == 0
    assert "unreadable   1\n             event 2: event 2 does not match its check sum" in done.out


def test_info_of_a_part_is_that_of_the_same_part_every_time(here):
    facts = [run("data", "info", "digits", "--n", 50, "--workers", w, "--json").json for w in (0, 2)]
    assert facts[0] == facts[1]
    assert facts[0]["looked_at"] == 50


def test_help_needs_no_torch():
    code = "import sys; sys.argv = ['gendiff', 'data', 'prepare', '--help']\nfrom gendiff_cli.app import main\n"
    code += "try: main()\nfinally: assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "DEST" in done.stdout
