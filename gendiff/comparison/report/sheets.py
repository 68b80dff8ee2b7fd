"""Sheets: events side by side in one small picture, and pictures as text that a page can hold.

A pixel of an event is a pixel of the sheet: the page enlarges it without smoothing.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from gendiff.datasets import pictures

GAP = 1  # pixels between two events
BACKGROUND = 128
LARGEST = 64  # pixels of a side; larger pictures are shown smaller
SHADES = 32  # of a channel where pictures of noise are many: the eye sees no difference, and the page is smaller


def sheet(events: Tensor, columns: int, shades: int | None = None) -> Image.Image:
    """Events ``(n, *event)`` row by row; ``shades`` rounds each channel to so many values."""
    tiles = [pictures.image(event) for event in shown_size(events)]
    width, height = tiles[0].size
    rows = -(-len(tiles) // columns)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    mode = tiles[0].mode
    canvas = Image.new(mode, size, BACKGROUND if mode == "L" else (BACKGROUND,) * 3)
    for k, tile in enumerate(tiles):
        canvas.paste(tile, (k % columns * (width + GAP), k // columns * (height + GAP)))
    if shades is None:
        return canvas
    step = 255 / (shades - 1)
    return canvas.point([round(round(value / step) * step) for value in range(256)] * len(mode))


def shown_size(events: Tensor) -> Tensor:
    """Pictures with no side above 64 pixels, by averaging; signals as they are."""
    if events.ndim != 4 or max(events.shape[2:]) <= LARGEST:
        return events
    height, width = (max(1, round(side * LARGEST / max(events.shape[2:]))) for side in events.shape[2:])
    return adaptive_avg_pool2d(events, (height, width))


def values_of(events: Tensor) -> int:
    """Bytes of one event in a sheet, before any compression."""
    tile = pictures.image(shown_size(events[:1])[0])
    return tile.width * tile.height * len(tile.mode)


def data_uri(picture: Image.Image) -> str:
    """The picture as a PNG inside a ``data:`` address; the same picture is the same text."""
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def chosen(count: int, of: int) -> list[int]:
    """At most ``count`` of the numbers 0..of-1, equally spaced, both ends among them."""
    if of <= count:
        return list(range(of))
    return sorted({round(k * (of - 1) / (count - 1)) for k in range(count)})


def squares(events: Sequence[Tensor], most: int, budget: int) -> int:
    """How many events of each set make square sheets of at most ``budget`` bytes together: 4, 9, 16, ... ``most``."""
    each = max(1, values_of(events[0]))
    fitting = min(min(map(len, events)), most, max(4, budget // (each * len(events))))
    return int(fitting**0.5) ** 2 or 1
