"""Nothing is read before it is looked at: pipes, devices, holes, archives that inflate, and what is nested deeply."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gendiff.component import parse_value
from gendiff.errors import DataError
from gendiff.evaluation.event_files import holds_events, holds_statistics, of_array, of_files
from gendiff.evaluation.statistics import WIDEST, Statistics
from gendiff.plain import DEEPEST, json_bytes, json_object, json_value, toml_table
from gendiff.storage import reading, sealed
from gendiff.storage.arrays import npy, npz

HUGE = 40 * 2**30


@pytest.fixture
def little_memory():
    """What is read inside takes no more than a few megabytes."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


def strange(kind: str, path: Path) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "hole":
        path.touch()
        os.truncate(path, HUGE)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"endless": "/dev/zero", "lost": "nowhere", "loop": path.name}[kind])
    return path


@pytest.mark.parametrize("kind", ["pipe", "hole", "folder", "endless", "lost", "loop"])
def test_what_is_no_file_of_its_kind_is_named(kind, tmp_path, little_memory):
    path = strange(kind, tmp_path / "x.json")
    for read in (
        reading.json_file,
        reading.toml_file,
        lambda path: list(reading.rows(path)),
        lambda path: reading.content(path, 100),
        sealed.read,
        lambda path: sealed.read(path, HUGE),
        Statistics.load,
    ):
        with pytest.raises(DataError) as raised:
            read(path)
        assert str(path) in str(raised.value)
    for read in (npy, reading.archive):
        with pytest.raises((OSError, ValueError, zipfile.BadZipFile)):
            read(path)


def test_a_large_file_of_holes_is_not_read_even_if_its_size_is_right(tmp_path, little_memory):
    with pytest.raises(DataError, match="hole"):
        sealed.read(strange("hole", tmp_path / "model.safetensors"), HUGE)


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "there").write_text('{"a": 1}')
    (tmp_path / "here").symlink_to("there")
    assert reading.json_file(tmp_path / "here") == {"a": 1}


def test_a_row_without_end(tmp_path):
    (tmp_path / "rows").write_bytes(b"{}\n" + b"x" * (reading.ROW + 1))
    lines = reading.rows(tmp_path / "rows")
    assert next(lines) == b"{}"
    with pytest.raises(DataError, match="a line has more than"):
        next(lines)


# --- JSON and TOML ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["[" * 100_000, "[" * (DEEPEST + 9) + "]" * (DEEPEST + 9)], ids=["open", "closed"])
def test_what_is_nested_deeply_is_a_value_error(content):
    with pytest.raises(ValueError, match="nested too deeply"):
        json_value(content)
    with pytest.raises(ValueError, match="nested too deeply"):
        toml_table(f"a = {content}".encode())
    assert json_value("[" * DEEPEST + "]" * DEEPEST)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "9" * 5000, str(2**63)])
def test_numbers_that_no_file_of_ours_holds(text):
    with pytest.raises(ValueError, match="not valid JSON"):
        json_value(text)


def test_a_lenient_reader_and_every_writer_have_null_for_them():
    assert json_object('{"a": NaN, "b": [Infinity, 1e999, 1.5]}', lenient=True) == {"a": None, "b": [None, None, 1.5]}
    assert json_value(json_bytes({"a": float("nan"), "b": (float("inf"), 1.5)})) == {"a": None, "b": [None, 1.5]}


@pytest.mark.parametrize("content", ["[]", "1", "null", '"x"', ""])
def test_an_object_is_an_object(content):
    with pytest.raises(ValueError, match="JSON"):
        json_object(content)


@pytest.mark.parametrize("before", ["", '# "\n', "x = '''a''''\n", 'x = """\n"""""\n', "x = 'y\"'\n", 'x = "\\\\"\n'])
@pytest.mark.parametrize("part", ["a", '"a b"', "'='"])
def test_a_key_of_ten_thousand_parts(before, part, little_memory):
    key = ".".join([part] * 10_000)
    with pytest.raises(ValueError, match="too many parts"):
        toml_table(f"{before}{key} = 1".encode())
    assert parse_value(f"{{{key} = 1}}") == f"{{{key} = 1}}"


@pytest.mark.parametrize(
    "text", ["'a." + "a." * 200 + "'", '"""\n' + "a." * 200 + '"""', "[" + "0.5, " * 99 + "]", "1 # " + "a." * 99]
)
def test_dots_elsewhere_are_no_keys(text):
    assert toml_table(f"value = {text}\n[a.b.c]".encode())["a"] == {"b": {"c": {}}}


# --- arrays and archives ----------------------------------------------------------------------------------------------


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    content = BytesIO()
    np.lib.format.write_array_header_1_0(content, {"descr": descr, "fortran_order": False, "shape": shape})
    return content.getvalue()


def archive(path: Path, members: dict[str, bytes | int], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive; of a number there are so many zeros behind a header of as many numbers."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                if isinstance(content, bytes):
                    member.write(content)
                else:
                    side = int((content / 8) ** 0.5)
                    member.write(header((side, side)))
                    for _ in range(side * side * 8 // 2**20):
                        member.write(bytes(2**20))
                    member.write(bytes(side * side * 8 % 2**20))
    return path


def array(values: np.ndarray) -> bytes:
    content = BytesIO()
    np.save(content, values, allow_pickle=True)
    return content.getvalue()


MU = array(np.zeros(4))


def test_an_axis_that_is_true_or_false(tmp_path):
    """NumPy takes it for a number in a header, and for none where it maps the file."""
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (True, 3)}".ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(12))
    with pytest.raises(ValueError, match="impossible shape"):
        npy(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "members",
    [
        {"mu": MU, "sigma": 2**27},
        {"mu": array(np.zeros(4096)), "sigma": 2**27},
        {"mu": header((WIDEST + 1,)) + bytes(8 * WIDEST + 8), "sigma": header((WIDEST + 1, WIDEST + 1))},
        {"mu": MU, "sigma": header((4, 4))},
        {"mu": MU, "sigma": array(np.array([{}]))},
        {"mu": MU, "sigma": array(np.eye(4)), "n": array(np.arange(9))},
        {"mu": MU, "sigma": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31)},
        {"mu": MU, "sigma": array(np.eye(4)), "features": array(np.array("x" * 2**21))},
        {"mu": array(np.array("a")), "sigma": array(np.eye(4))},
        {"mu": MU},
    ],
    ids=["other d", "inflates", "wide", "short", "objects", "count", "header", "text", "no number", "absent"],
)
def test_statistics_that_are_none(members, tmp_path, little_memory):
    with pytest.raises(DataError) as raised:
        Statistics.load(archive(tmp_path / "s.npz", members))
    assert "s.npz" in str(raised.value)


def test_what_statistics_do_not_need_is_not_inflated(tmp_path, little_memory):
    members = {"mu": MU, "sigma": array(np.eye(4)), "more": 2**27, "objects": array(np.array([{}]))}
    assert Statistics.load(archive(tmp_path / "s.npz", members)).covariance.trace() == 4


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_inflate_without_a_bound(method, tmp_path):
    path = archive(tmp_path / "a.npz", {"a": MU}, method)
    with pytest.raises(ValueError, match="packed by method"), npz(path) as arrays:
        _ = arrays["a"]
    with zipfile.ZipFile(path) as file, pytest.raises(ValueError, match="packed by method"):
        reading.member(file, "a.npy", 1000)


def test_an_archive_whose_list_of_files_is_a_hole(tmp_path, little_memory):
    path = strange("hole", tmp_path / "a.zip")
    with path.open("ab") as file:
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, 2**32 - 2, 0, 0))
    with pytest.raises(ValueError, match="list of files"):
        reading.archive(path)


@pytest.mark.parametrize(
    "values", [np.arange(6.0).reshape(2, 3), np.arange(6).reshape(3, 2).T, np.zeros((0, 3)), np.float32(2)]
)
def test_arrays_come_back(values, tmp_path):
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", a=values, text="é")
    with npz(tmp_path / "a.npz") as arrays:
        assert (arrays.names, arrays.text("text")) == (["a", "text"], "é")
        for read in (arrays["a"], npy(tmp_path / "a.npy")):
            assert (read.dtype, read.shape) == (values.dtype, values.shape)
            assert np.array_equal(read, values)
        with pytest.raises(ValueError, match="no text"):
            arrays.text("a")


# --- samples ----------------------------------------------------------------------------------------------------------


def pictures(path: Path) -> Path:
    path.mkdir()
    for k in range(3):
        Image.fromarray(np.full((8, 8, 3), 90 * k, np.uint8)).save(path / f"{k}.png")
    return path


@pytest.mark.parametrize("kind", ["pipe", "hole", "endless", "lost"])
def test_a_picture_that_is_none(kind, tmp_path, little_memory):
    strange(kind, pictures(tmp_path / "a") / "9.png")
    with pytest.raises(DataError, match=r"9\.png"):
        torch.cat(list(of_files(tmp_path / "a").at(range(4))))


def test_a_pipe_in_the_place_of_an_archive(tmp_path):
    for name in ("a.zip", "a.npz"):
        assert not holds_events(strange("pipe", tmp_path / name))
    for read in (of_array, holds_statistics):
        with pytest.raises(DataError, match="not a regular file"):
            read(tmp_path / "a.npz")


def test_pictures_that_inflate(tmp_path, little_memory):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file, file.open("0.bmp", "w") as member:
        for _ in range(2**7):
            member.write(bytes(2**20))
    with pytest.raises(DataError, match="inflate"):
        of_files(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as file, file.open("arr_0.npy", "w") as member:
        member.write(header((2**7, 2**10, 2**10), "|u1"))
        for _ in range(2**7):
            member.write(bytes(2**20))
    with pytest.raises(DataError, match="inflate"):
        of_array(tmp_path / "a.npz")


def test_pictures_beside_other_arrays(tmp_path):
    v = np.zeros((4, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=v, arr_1=np.arange(4))
    assert of_array(tmp_path / "a.npz").event_shape == (3, 8, 8)
