"""The page on data is true: each source and each rule for pictures that it lists, and no others."""

from __future__ import annotations

import io
import re
import shlex
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from gendiff_plugins.data.folder import Folder
from PIL import Image, ImageCms
from places import ROOT

from gendiff.component import parse_spec
from gendiff.data import Data
from gendiff.datasets.images import ENDINGS
from gendiff.errors import DataError
from gendiff.plugin.registry import default_registry

PAGE = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
H, W = 6, 10


def table(heading):
    """The rows of the first table below a heading, each a list of cells."""
    lines = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].splitlines()
    rows = [line for line in lines if line.startswith("|")][2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


# --- sources ----------------------------------------------------------------------------------------------------------


def test_every_source_has_a_row_and_an_example_that_can_be_typed():
    rows = table("Sources")
    built_in = {entry.name for entry in default_registry().entries("data") if entry.provider.built_in}
    assert {name.strip("`") for name, _, _ in rows} == built_in
    for name, _, example in rows:
        words = shlex.split(example.strip("`"))
        assert words[0] == "--data"
        spec = parse_spec(words[1])
        if words[2:]:
            assert words[2] == "--size"
            spec["size"] = int(words[3])
        assert Data.model_validate(spec).name == name.strip("`")  # and nothing is read


def test_the_endings_are_those_that_count():
    listed = re.search(r"in the order of their paths: ([\w, ]+)\.", PAGE)
    assert {f".{ending}" for ending in listed[1].split(", ")} == ENDINGS


# --- rules ------------------------------------------------------------------------------------------------------------


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def file_of(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return f"a.{form.lower()}", file.getvalue()


def png(width, height, depth, colour, rows, *more):
    """A PNG file written by hand, for kinds that Pillow cannot write."""

    def chunk(tag, body):
        return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = b"".join(chunk(tag, body) for tag, body in more)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def grey():
    v = noise(H, W)
    yield *file_of(Image.fromarray(v)), np.stack([v] * 3, -1), {}
    yield *file_of(Image.fromarray(v)), v[..., None], {"channels": 1}


def luma():
    v = noise(H, W, 3)
    yield *file_of(Image.fromarray(v)), (v @ [0.299, 0.587, 0.114])[..., None], {"channels": 1, "within": 1}


def palette():
    index, colours = noise(H, W) % 5, noise(5, 3, seed=1)
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    for form in ("PNG", "GIF", "BMP"):
        yield *file_of(image, form), colours[index], {}


def bilevel():
    v = noise(H, W) > 127
    for form in ("PNG", "TIFF"):
        yield *file_of(Image.fromarray(v), form), np.stack([v * np.uint8(255)] * 3, -1), {}


def sixteen_grey():
    v = np.random.default_rng(0).integers(0, 65536, (H, W), dtype=np.uint16)
    v[0, :3] = 0, 65535, 40000
    for form in ("PNG", "TIFF"):
        yield *file_of(Image.fromarray(v), form), np.stack([np.round(v / 257)] * 3, -1), {}


def sixteen_colour():
    v = np.random.default_rng(0).integers(0, 65536, (H, W, 3), dtype=np.uint16)
    rows = [row.astype(">u2").tobytes() for row in v]
    yield "a.png", png(W, H, 16, 2, rows), v >> 8, {}


def thirty_two():
    for dtype in (np.float32, np.int32):
        yield *file_of(Image.fromarray(np.ones((H, W), dtype)), "TIFF"), "32 bits", {}


def transparency():
    v = noise(H, W, 4)
    alpha = v[..., 3:] / 255
    laid = v[..., :3] * alpha + 255 * (1 - alpha)
    yield *file_of(Image.fromarray(v)), laid, {"within": 1}
    yield *file_of(Image.fromarray(v), "WEBP", lossless=True, exact=True), laid, {"within": 1}
    index = noise(H, W) % 3
    image = Image.fromarray(index, "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    shown = np.array([[10, 20, 30], [255, 255, 255], [70, 80, 90]])[index]
    yield *file_of(image, transparency=1), shown, {}
    v = noise(H, W, 3)
    shown = v.copy()
    shown[0, 0] = 255
    yield *file_of(Image.fromarray(v), transparency=tuple(map(int, v[0, 0]))), shown, {}


def cmyk():
    for colour, shown in (((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((0, 255, 255, 0), (255, 0, 0))):
        expected = np.broadcast_to(shown, (H, W, 3))
        for form, options in (("JPEG", {"quality": 100, "subsampling": 0}), ("TIFF", {})):
            yield *file_of(Image.new("CMYK", (W, H), colour), form, **options), expected, {"within": 2}


def profile():
    v = noise(H, W, 3)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    yield *file_of(Image.fromarray(v), icc_profile=lab), v, {}


def orientation():
    v = noise(H, W, 3)
    turned = [v, v[:, ::-1], v[::-1, ::-1], v[::-1], v.swapaxes(0, 1), np.rot90(v, -1), np.rot90(v, 2).swapaxes(0, 1)]
    for number, upright in enumerate([*turned, np.rot90(v)], start=1):
        exif = Image.Exif()
        exif[0x0112] = number
        for form, options in (("PNG", {}), ("WEBP", {"lossless": True})):
            yield *file_of(Image.fromarray(v), form, exif=exif, **options), upright, {"size": upright.shape[:2]}


def several():
    v, other = noise(H, W, 3), Image.fromarray(noise(H, W, 3, seed=1))
    for form, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        yield *file_of(Image.fromarray(v), form, save_all=True, append_images=[other], **options), v, {}


def another_size():
    v = np.zeros((12, 40, 3), np.uint8)
    v[:, 14:26] = 255  # the largest centred square is within
    yield *file_of(Image.fromarray(v)), np.full((6, 6, 3), 255), {"size": 6, "crop": "center", "margin": 1}
    stripes = np.zeros((32, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    yield *file_of(Image.fromarray(stripes)), np.full((8, 12, 3), 127.5), {"size": (8, 12), "within": 4, "margin": 1}


RULES = {
    "grey": grey,
    "colour with `channels=1`": luma,
    "palette": palette,
    "black and white, 1 bit": bilevel,
    "16-bit grey": sixteen_grey,
    "16-bit colour": sixteen_colour,
    "grey of 32 bits": thirty_two,
    "transparency": transparency,
    "CMYK": cmyk,
    "colour profile": profile,
    "EXIF orientation": orientation,
    "animation, several pages": several,
    "another size": another_size,
}


def test_every_rule_of_the_page_is_tested_here():
    assert [row[0] for row in table("From a picture to an event")] == list(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule(tmp_path, rule):
    for number, (name, content, expected, options) in enumerate(RULES[rule]()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / name).write_bytes(content)
        within, margin = options.pop("within", 0), options.pop("margin", 0)
        data = Folder(path=folder, **{"size": (H, W), **options})
        if isinstance(expected, str):
            with pytest.raises(DataError, match=expected):
                data[0]
            continue
        wanted = torch.from_numpy(np.array(expected, dtype=np.float64)).permute(2, 0, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            v = (data[0].double() + 1) * 127.5
        assert v.shape == wanted.shape
        inner = slice(margin, -margin or None)
        difference = (v - wanted)[:, :, inner].abs().max().item()
        assert difference <= within + 1e-4, (number, name, difference)
