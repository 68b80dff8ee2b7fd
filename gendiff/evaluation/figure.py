"""Figure: samples beside the training events that are nearest to them.

Matplotlib is imported with this module, so import it where the figure is asked for.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from gendiff.datasets import pictures
from gendiff.evaluation.neighbours import Neighbours
from gendiff.storage.files import saved

ACROSS = 12  # pictures side by side, at most
CELL = 1.05  # inches of a picture and its words
NEAR = "#b3261e"  # of the words of what is nearer than events are


def beside(near: Sequence[Neighbours], samples: Tensor, events: Sequence[Tensor]) -> Figure:
    """Each sample, and right of it the event that is nearest to it in each space, with its number and distance.

    Args:
        near: one for each space, with the same samples in ``closest``, in the same order.
        samples: these, ``(K, *event)``.
        events: for each space the nearest event of each sample, ``(K, *event)``.

    """
    each, K = 1 + len(near), len(samples)
    blocks = max(min(ACROSS // each, -(-K // 4)), 1)
    rows = -(-K // blocks)
    words = [textwrap.fill(one.remark.text, round(13 * CELL * (blocks * each + 1))) for one in near]
    lines = sum(text.count("\n") + 1 for text in words)
    height = 0.2 + 0.16 * lines
    width = CELL * (blocks * each + 0.25 * (blocks - 1))
    figure = Figure(figsize=(width, rows * CELL * 1.28 + height), dpi=150)
    top = 1 - height / figure.get_figheight()
    gaps = [1.0] * each + [0.25]
    grid = figure.add_gridspec(
        rows, blocks * (each + 1) - 1, left=0.01, right=0.99, bottom=0.005, top=top - 0.3 / figure.get_figheight(),
        width_ratios=(gaps * blocks)[:-1], wspace=0.08, hspace=0.42,
    )  # fmt: skip
    figure.text(0.01, 1 - 0.08 / figure.get_figheight(), "\n".join(words), fontsize=7.5, va="top", linespacing=1.35)
    for k in range(K):
        row, column = k % rows, k // rows * (each + 1)
        _picture(figure.add_subplot(grid[row, column]), samples[k], f"sample {near[0].closest[k].sample}")
        for place, (one, theirs) in enumerate(zip(near, events, strict=True), start=1):
            close = one.closest[k]
            _picture(
                figure.add_subplot(grid[row, column + place]),
                theirs[k],
                f"{_short(close.origin)}\n{one.name} {close.distance:.3g}",
                NEAR if close.distance <= one.threshold else "black",
            )
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write it as PNG, whole or not at all."""
    saved(path, lambda file: figure.savefig(file, format="png"))


def _picture(panel: Axes, event: Tensor, words: str, colour: str = "black") -> None:
    panel.imshow(np.asarray(pictures.image(event)), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    panel.set_title(words, fontsize=6.5, pad=2, color=colour)
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(1.2 if colour != "black" else 0.4)


def _short(name: str, most: int = 18) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"
