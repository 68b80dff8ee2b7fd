"""Pictures of events: sheets, strips and animations.

Pictures show values in [-1, 1] as 0..255; what lies outside is clamped. Signals ``(C, L)`` are drawn as curves,
volumes ``(C, D, H, W)`` as slices side by side.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, PngImagePlugin
from torch import Tensor

from gendiff.datasets.images import opened
from gendiff.errors import GendiffError
from gendiff.shapes import EventShape
from gendiff.storage import caption, disk
from gendiff.storage.arrays import npy
from gendiff.storage.files import saved

GAP = 2  # pixels between the pictures of a sheet
BACKGROUND = 128
SLICES = 4  # of a volume that are shown
BLOCK = 4096  # bytes of a disk that a file takes at least


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to 0..255, rounded, any shape; raises `GendiffError` for values that are not finite: black is a value too."""
    _refuse_not_finite(x)
    return ((x.detach().cpu().double() + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)


def eight_bits(x: Tensor) -> Tensor:
    """[-1, 1] rounded to the 256 values that a picture file holds, float32, any shape."""
    return to_uint8(x).float() / 127.5 - 1


def image(event: Tensor) -> Image.Image:
    """One event as a grey or RGB picture; ``(2, H, W)`` gets an empty blue channel, beyond three channels are left out."""
    if event.ndim == 2:
        return _curves(event)
    if event.ndim == 4:
        event = _slices(event)
    pixels = to_uint8(event)
    if len(pixels) == 1:
        return Image.fromarray(pixels[0].numpy(), "L")
    rgb = torch.cat([pixels, torch.zeros_like(pixels[:1])])[:3]
    return Image.fromarray(rearrange(rgb, "c h w -> h w c").contiguous().numpy(), "RGB")


def _slices(volume: Tensor) -> Tensor:
    """``(C, D, H, W)`` as ``(C, H, k W)``: up to `SLICES` of its D slices, equally spread, side by side."""
    D = volume.shape[1]
    count = min(SLICES, D)
    return rearrange(volume[:, [(2 * k + 1) * D // (2 * count) for k in range(count)]], "c d h w -> c h (d w)")


def write_png(file: IO[bytes], picture: Image.Image, text: str = "") -> None:
    """Write a picture as PNG, with a caption."""
    info = PngImagePlugin.PngInfo()
    if text:
        info.add_text(caption.KEY, text)
    picture.save(file, "PNG", pnginfo=info)


def save(path: Path, picture: Image.Image, text: str = "") -> None:
    """Write a picture as PNG, with a caption; an older file, or a link, is replaced at once."""
    with disk.writing(path):
        saved(path, lambda file: write_png(file, picture, text))


def save_event(folder: Path, number: int, event: Tensor, text: str = "") -> None:
    """Write one event: grey and RGB pictures as PNG, with a caption, anything else as a ``.npy`` of float32."""
    stem = folder / f"{number:06d}"
    if event.ndim == 3 and len(event) in (1, 3):
        save(stem.with_suffix(".png"), image(event), text)
    else:
        values = event.detach().cpu().float().numpy()
        with disk.writing(stem.with_suffix(".npy")):
            saved(stem.with_suffix(".npy"), lambda file: np.save(file, values, allow_pickle=False))


def file_size(event: EventShape) -> int:
    """Bytes that the file of one event takes of a disk at least: those of a PNG depend on what it shows."""
    values = math.prod(event)
    picture = len(event) == 3 and event[0] in (1, 3)
    return max(BLOCK, values // 4 if picture else 4 * values)


def read_event(folder: Path, number: int) -> Tensor:
    """Read back what `save_event` wrote; pictures within their 8 bits."""
    stem = folder / f"{number:06d}"
    if stem.with_suffix(".npy").exists():
        return torch.from_numpy(npy(stem.with_suffix(".npy")))
    with opened(stem.with_suffix(".png")) as picture:
        pixels = torch.from_numpy(np.array(picture)).float() / 127.5 - 1
    return pixels[None] if pixels.ndim == 2 else rearrange(pixels, "h w c -> c h w")


def sheet(events: Tensor, columns: int | None = None) -> Image.Image:
    """Events ``(n, *event)`` row by row; a square by default."""
    columns = columns or max(1, round(len(events) ** 0.5))
    tiles = [image(event) for event in events]
    return _tile([tiles[start : start + columns] for start in range(0, len(tiles), columns)])


def strip(views: list[Tensor]) -> Image.Image:
    """A trajectory: one row per event, one column per view of the chain, each ``(n, *event)``."""
    return _tile([[image(view[row]) for view in views] for row in range(len(views[0]))])


def save_animation(path: Path, views: list[Tensor], milliseconds: int = 80, text: str = "") -> None:
    """A GIF of sheets, one frame per view of the chain, that rests on the last frame; with a caption."""
    frames = [sheet(view) for view in views]
    durations = [milliseconds] * (len(frames) - 1) + [1500]
    more: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    more |= {"comment": caption.as_comment(text)} if text else {}
    saved(path, lambda file: frames[0].save(file, "GIF", **more))


def _tile(rows: list[list[Image.Image]]) -> Image.Image:
    width, height = rows[0][0].size
    scale = max(1, -(-48 // max(width, height)))  # a handwritten digit of 8 pixels is shown at 48
    width, height = width * scale, height * scale
    columns = max(map(len, rows))
    canvas = Image.new(
        rows[0][0].mode,
        (columns * (width + GAP) + GAP, len(rows) * (height + GAP) + GAP),
        BACKGROUND if rows[0][0].mode == "L" else (BACKGROUND,) * 3,
    )
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            canvas.paste(
                tile.resize((width, height), Image.Resampling.NEAREST),
                (GAP + c * (width + GAP), GAP + r * (height + GAP)),
            )
    return canvas


def _refuse_not_finite(x: Tensor) -> None:
    if bad := int((~x.detach().isfinite()).sum()):
        raise GendiffError(
            f"{bad:,} of {x.numel():,} values of a picture are not finite", fix="look at what it was made from"
        )


def _curves(signal: Tensor, width: int = 160, height: int = 96) -> Image.Image:
    _refuse_not_finite(signal)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.line([(0, height // 2), (width, height // 2)], fill=(220, 220, 220))
    colours = [(31, 119, 180), (214, 39, 40), (44, 160, 44), (148, 103, 189)]
    points = signal.shape[1]
    for channel, values in enumerate(signal.detach().cpu().double().clamp(-2, 2)):
        line = [
            (k * (width - 1) / max(points - 1, 1), (1 - v / 2) * (height - 1) / 2)
            for k, v in enumerate(values.tolist())
        ]
        draw.line(line, fill=colours[channel % len(colours)], width=2)
    return picture
