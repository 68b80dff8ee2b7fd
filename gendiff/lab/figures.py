"""Figures of processes: schedules, the SNR of every frequency over the steps, pictures on their way to noise.

Each is a matplotlib figure that nobody has drawn yet; `save` writes it as PNG or PDF. Matplotlib is imported with this module, so
import it where a figure is asked for.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from gendiff.datasets import pictures
from gendiff.errors import ConfigError
from gendiff.lab.forward import BandSNR
from gendiff.schedule import BlurSchedule
from gendiff.storage.disk import unwritable
from gendiff.storage.files import saved

FORMATS = (".png", ".pdf")
LIMIT = 40.0  # decibel: beyond it a component is clean, or noise
LABEL = 60  # characters of a label that fit beside or above a panel


class Drawing(Figure):
    """A figure that a notebook shows, also where nobody has asked for matplotlib's own display."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=75)
        return file.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure by the ending of ``path``; raises `ConfigError` for another ending or a place that cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"cannot write '{path}': a figure is a PNG or a PDF", fix=f"end it in {' or '.join(FORMATS)}")
    try:
        # No date in it: the same figure is the same file.
        metadata = {"CreationDate": None} if path.suffix.lower() == ".pdf" else None
        saved(path, lambda file: figure.savefig(file, format=path.suffix[1:].lower(), metadata=metadata))
    except OSError as error:
        raise unwritable(
            error, path, where="", fix="give a path in another folder, one that exists: --out PATH"
        ) from error


@dataclass(frozen=True)
class Curve:
    """A blur schedule to draw.

    Args:
        width: the blur it adds up to at i = 0..N, pixels; None where that is unknown.

    """

    schedule: BlurSchedule
    width: Tensor | None = None


def schedules(curves: Mapping[str, Curve], N: int) -> Figure:
    """f(i) of each schedule over i = 1..N, and beside it the width of the blur so far; Fig. 4 of Lee et al. 2022."""
    figure = Drawing(figsize=(9, 3.6), dpi=150, layout="constrained")
    per_step, total = figure.subplots(1, 2)
    for label, curve in curves.items():
        f = curve.schedule.cumulative(N).diff()  # asked for through the sum, which checks it
        per_step.plot(
            np.arange(1, N + 1), f.numpy(), label=_short(label), clip_on=False, zorder=3
        )  # f = 0 is on the frame
        if curve.width is not None:
            total.plot(np.arange(N + 1), curve.width.numpy(), label=_short(label), clip_on=False, zorder=3)
    per_step.set(xlabel="step i", ylabel="f(i)", title="blurs added at step i", xlim=(0, N))
    total.set(xlabel="step i", ylabel="pixels", title="standard deviation of the blur so far", xlim=(0, N))
    per_step.set_ylim(bottom=0)
    total.set_ylim(bottom=0)
    figure.legend(
        *per_step.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(curves), 4), frameon=False
    )
    return figure


def snr(processes: Mapping[str, BandSNR], columns: int = 200) -> Figure:
    """The SNR of each band (rows, coarse below) over i (columns) as colour; lines where SNR and data-SNR are 1."""
    figure = Drawing(figsize=(2.2 + 2.8 * len(processes), 3.6), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(processes), squeeze=False)[0]
    mesh = None
    for panel, (label, bands) in zip(panels, processes.items(), strict=True):
        N = bands.diffusion.N
        steps = sorted({round(1 + k * (N - 1) / (columns - 1)) for k in range(columns)})
        decibel = bands.decibels(steps)
        data = decibel + bands.data
        edges = np.array([0.0, *bands.edges])
        mesh = panel.pcolormesh(
            _edges(steps), *_filled(edges, decibel.T.numpy()), cmap="RdBu", vmin=-LIMIT, vmax=LIMIT, rasterized=True
        )
        centres = (edges[1:] + edges[:-1]) / 2
        _crossing(panel, bands.below(0.0), centres, "-", "SNR = 1")
        if not torch.equal(data.nan_to_num(), decibel.nan_to_num()):
            _crossing(panel, bands.data_below(0.0), centres, "--", "data-SNR = 1")
        panel.set(xlabel="step i", xlim=(1, N), ylim=(0, edges[-1]))
        panel.set_title(_short(label, 34), fontsize=9)
    panels[0].set_ylabel("frequency ρ, radians per pixel")
    if panels[-1].get_legend_handles_labels()[0]:  # a process need not cross anything
        panels[-1].legend(loc="upper right", fontsize=7)
    assert mesh is not None
    figure.colorbar(mesh, ax=list(panels), label="SNR in dB", extend="both")
    return figure


def _crossing(panel: Axes, steps: list[int | None], rho: np.ndarray, style: str, label: str) -> None:
    inside = [(i, r) for i, r in zip(steps, rho, strict=True) if i is not None]
    if inside:
        panel.plot([i for i, _ in inside], [r for _, r in inside], style, color="black", linewidth=1.2, label=label)


def _filled(edges: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges and rows without the bands in which small pictures have no frequency: their neighbours meet half way."""
    full = np.flatnonzero(~np.isnan(rows).all(axis=1))
    inner = (edges[full[:-1] + 1] + edges[full[1:]]) / 2
    return np.array([edges[0], *inner, edges[-1]]), rows[full]


def _edges(steps: Sequence[int]) -> np.ndarray:
    """The edges of columns centred at ``steps``."""
    middle = [(one + other) / 2 for one, other in itertools.pairwise(steps)]
    return np.array([steps[0] - 0.5, *middle, steps[-1] + 0.5])


@dataclass(frozen=True)
class Strip:
    """What one process does to one event.

    Args:
        label: what the process is called.
        steps: i of each column; None for a column that the process never reaches.
        noisy, signal: ``x_i`` and its signal ``a_i x_0`` alone, each ``(C, H, W)`` or ``(C, L)``; as many as there are steps.

    """

    label: str
    steps: Sequence[int | None]
    noisy: Sequence[Tensor]
    signal: Sequence[Tensor]


def strips(rows: Sequence[Strip], heads: Sequence[str]) -> Figure:
    """Two rows for each process, x_i above its signal alone; ``heads`` say what the columns have in common."""
    count = len(heads)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    figure = Drawing(figsize=(1.0 + 1.05 * count, 0.35 + 2.45 * len(rows)), dpi=150, layout=layout)
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, row in zip(parts, rows, strict=True):
        part.suptitle(_short(row.label), fontsize=9, x=0.01, ha="left")
        axes = part.subplots(2, count, squeeze=False)
        for column in range(count):
            i = row.steps[column]
            for line, views in zip(axes, (row.noisy, row.signal), strict=True):
                panel = line[column]
                panel.set_axis_off()
                if i is not None:
                    panel.imshow(np.asarray(pictures.image(views[column])), cmap="gray", vmin=0, vmax=255)
            text = f"i = {i}" if i is not None else "never"
            axes[0][column].set_title("\n".join(filter(None, [heads[column], text])), fontsize=7)
    return figure


def _short(label: str, length: int = LABEL) -> str:
    return label if len(label) <= length else f"{label[: length - 1]}…"
