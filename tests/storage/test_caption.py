"""Captions: what a picture says of itself, and what a stranger's cannot make us do."""

from __future__ import annotations

import os
import zlib

import pytest
import torch
from PIL import Image

from gendiff.datasets import pictures
from gendiff.errors import DataError
from gendiff.storage.caption import MOST, caption

VIEWS = [torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8)]
TEXT = '{"a": "' + "x" * 3000 + '"}'


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)


@pytest.fixture(params=["png", "gif"])
def picture(request, tmp_path):
    path = tmp_path / f"x.{request.param}"
    if request.param == "png":
        pictures.save(path, pictures.sheet(VIEWS[0]), TEXT)
    else:
        pictures.save_animation(path, VIEWS, text=TEXT)
    return path


def test_it_is_read_back_and_changes_no_pixel(picture, tmp_path):
    assert caption(picture) == TEXT
    plain = tmp_path / f"plain{picture.suffix}"
    if picture.suffix == ".png":
        pictures.save(plain, pictures.sheet(VIEWS[0]))
    else:
        pictures.save_animation(plain, VIEWS)
    assert caption(plain) == ""
    with Image.open(picture) as one, Image.open(plain) as other:
        assert one.convert("RGB").tobytes() == other.convert("RGB").tobytes()


def test_of_other_texts_it_takes_its_own(picture, tmp_path):
    path = tmp_path / f"other{picture.suffix}"
    content = picture.read_bytes()
    if picture.suffix == ".png":
        more = chunk(b"tEXt", b"Title\0of another") + chunk(b"zTXt", b"gendiff\0\0" + zlib.compress(b"0" * 10**7))
        path.write_bytes(content[:33] + more + content[33:])
    else:
        at = content.index(b"!\xfe")
        path.write_bytes(content[:at] + b"!\xfe\x05other\0" + content[at:])
    assert caption(path) == TEXT


def test_one_that_is_cut_off_anywhere_is_an_error_or_whole(picture):
    content = picture.read_bytes()
    for size in range(0, len(content) - 1, 97):
        picture.write_bytes(content[:size])
        try:
            assert caption(picture) == TEXT
        except DataError as error:
            assert str(picture) in error.what


def test_damage_in_the_text_of_a_png_is_said(tmp_path):
    path = tmp_path / "x.png"
    pictures.save(path, pictures.sheet(VIEWS[0]), TEXT)
    path.write_bytes(path.read_bytes().replace(b"xxx", b"xyx", 1))
    with pytest.raises(DataError, match="its text is damaged"):
        caption(path)


def test_what_is_too_large_is_passed_over(tmp_path):
    path = tmp_path / "x.png"
    start = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(start + chunk(b"tEXt", b"gendiff\0" + b" " * MOST) + chunk(b"IEND", b""))
    assert caption(path) == ""
    path.write_bytes(start + b"\xff\xff\xff\xfftEXtgendiff\0")
    with pytest.raises(DataError, match="cut off"):
        caption(path)
    gif = tmp_path / "x.gif"
    gif.write_bytes(b"GIF89a\1\0\1\0\0\0\0" + b"!\xfe" + (b"\xff" + b"x" * 255) * 2000 + b"\0;")
    assert caption(gif) == ""


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: path.write_bytes(b"GIF8"), lambda path: path.touch()]
)
def test_what_is_no_picture(tmp_path, make):
    make(tmp_path / "x.png")
    with pytest.raises(DataError, match="cannot read"):
        caption(tmp_path / "x.png")
