"""View: what the page shows of one process, each part from the function that the command of the same name prints or draws.

    a picture on its way       `gendiff process plot strip`
    λ by band, and its loss    `gendiff process show`
    error against steps        `gendiff process predict`

A view is a function of the process and the picture alone; what moves with the slider of i is drawn anew, what does not is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

from torch import Tensor

from gendiff.errors import ConfigError
from gendiff.grid import GridSampler
from gendiff.lab.diagnosis import diagnose
from gendiff.lab.forward import DECIBEL, BandSNR, spaced
from gendiff_cli.explorer.drawing import Axis, Curve, bars, chart, picture
from gendiff_cli.process.plot import At, columns, on_its_way
from gendiff_cli.process.predict import (
    DEFAULT_COUNTS,
    SAMPLERS,
    Covariance,
    gaussian,
    name_of,
    network_error,
    predictions,
    sampler_of,
)
from gendiff_cli.process.subject import Subject

BANDS = 6  # of frequency
COLUMNS = 9  # of a strip
POINTS = 41  # of a curve over i
TALL = 6.0  # λ is shown from -6 to 6: beyond it a component is clean, or noise
WRONG = 0.1  # by how much the network is off that is no perfect one


@dataclass(frozen=True)
class Pictures:
    """One process and one picture.

    Args:
        subject: the process.
        x_0: the event that is destroyed, ``(1, *event)``.
        at: what the columns of the strip have in common.

    """

    subject: Subject
    x_0: Tensor
    at: At = At.STEP

    @cached_property
    def strip(self) -> str:
        """The picture on its way to noise, x_i above its signal."""
        steps = columns(self.subject, self.x_0, self.at, COLUMNS)
        noisy, signal = on_its_way(self.subject, self.x_0, [i or 0 for i in steps])
        return f'<div class="strip">{"".join(map(_column, steps, noisy, signal))}</div>'

    def moment(self, t: float) -> str:
        """x_i and its signal, large, at a fraction t of the way."""
        N = self.subject.diffusion.N
        i = step(t, N)
        noisy, signal = on_its_way(self.subject, self.x_0, [i])
        return (
            f'<div class="moment"><figure>{picture(noisy[0], f"x_{i}")}<figcaption>x<sub>i</sub>, i = {i} of {N}'
            f"</figcaption></figure><figure>{picture(signal[0], f'signal of x_{i}')}<figcaption>its signal alone</figcaption>"
            "</figure></div>"
        )


def _column(i: int | None, noisy: Tensor, signal: Tensor) -> str:
    if i is None:
        return "<figure><figcaption>never</figcaption></figure>"
    tiles = picture(noisy, f"x_{i}") + picture(signal, f"signal of x_{i}")
    return f"<figure>{tiles}<figcaption>{i}</figcaption></figure>"


def step(t: float, N: int) -> int:
    """The step at a fraction t of the way."""
    return min(max(round(t * N), 0), N)


@dataclass(frozen=True)
class Numbers:
    """One process, by frequency band."""

    subject: Subject

    @property
    def N(self) -> int:
        """Steps of the process."""
        return self.subject.diffusion.N

    @cached_property
    def snr(self) -> BandSNR:
        """By band, in a basis where frequency means something."""
        return BandSNR(self.subject.in_frequencies, BANDS)

    @cached_property
    def lost(self) -> list[int | None]:
        """The first step at which the data-SNR of each band is below 1; None where it never is."""
        return self.snr.data_below(0.0)

    @cached_property
    def lam(self) -> tuple[list[int], list[list[float]]]:
        """Steps, and λ of each band at them, ``[band][step]``; NaN where a band is empty."""
        steps = spaced(self.N, POINTS)
        return steps, (self.snr.decibels(steps) / DECIBEL).T.tolist()

    def curves(self, t: float) -> str:
        """λ of each band over i; a dot where its data are lost."""
        steps, rows = self.lam
        lines = [
            Curve([*zip(steps, row, strict=True)], f"band{k}", dots=self._dot(k))
            for k, row in enumerate(rows)
            if not math.isnan(row[0])
        ]
        words, alt = ("step i", "λ = log(a/s)"), "λ of each frequency band over the steps"
        return chart(Axis(0, self.N), Axis(-TALL, TALL), lines, words, alt, at=step(t, self.N), zero=0.0)

    def _dot(self, band: int) -> list[tuple[float, float]]:
        i = self.lost[band]
        return [] if i is None else [(i, float(self.snr.decibel(i)[band]) / DECIBEL)]

    @cached_property
    def facts(self) -> str:
        """What `process show` says of it besides: the end, and what is odd."""
        diffusion = self.subject.in_frequencies
        end = diffusion.at(self.N).half_log_snr * DECIBEL + self.snr.component_data
        said = [f"data-SNR at N at most {float(end.max()):.1f} dB"]
        if (width := None if diffusion.alike else self.subject.config.velocity.blur_width(self.N)) is not None:
            said.append(f"blur at N {float(width.true[-1]):.2f} pixels")
        odd = diagnose(self.snr, self.subject.config.velocity)
        rules = "".join(f"<details><summary>{escape(one.rule)}</summary>{escape(one.text)}</details>" for one in odd)
        return f'<p class="facts">{escape("; ".join(said))}</p>{rules}'


def losses(sides: Sequence[tuple[str, Numbers]], t: float) -> str:
    """When each band of the data is lost, process by process, over i/N."""
    rows = []
    for k in range(BANDS):
        row = []
        for name, one in sides:
            if not one.snr.components[k]:
                continue
            i = one.lost[k]
            words = "never" if i is None else f"i = {i}"
            row.append((None if i is None else i / one.N, f"band{k} {name.lower()}", f"{name}: {words}"))
        if row:
            rows.append((f"ρ < {sides[0][1].snr.edges[k]:.2f}", row))
    return bars(rows, t, "the step at which each frequency band of the data is lost")


# --- error against steps ------------------------------------------------------------------------------------------------

Rows = list[dict[str, Any]]


def forecast(subject: Subject, name: str, wanted: Callable[[], bool]) -> Iterator[Rows]:
    """The rows of ``gendiff process predict`` with one sampler, one number of steps after the other, as long as they are wanted.

    There are none of a sampler that cannot sample the process.
    """
    target, dense = gaussian(subject, Covariance.AUTO)
    diffusion = subject.diffusion if dense else subject.as_planned
    sampler = sampler_of(name, None, None, default_prior=subject.prior)
    try:
        next(iter(sampler.updates(diffusion)))
    except ConfigError:
        return
    off = network_error(subject, sampler, WRONG)
    counts = [n for n in DEFAULT_COUNTS if n <= diffusion.N] if isinstance(sampler, GridSampler) else [None]
    for n in counts:
        if not wanted():
            return
        yield predictions(subject, diffusion, target, sampler, None if n is None else (n,), 4, False, off)


def errors(sides: Mapping[str, Rows], network: bool) -> str:
    """The predicted error against the number of evaluations, of a perfect network or one that is off, as curves and a table."""
    lines, body, values = list[Curve](), list[str](), list[float]()
    samplers = list(dict.fromkeys(row["sampler"] for rows in sides.values() for row in rows))
    counts = sorted({row["asked"] for rows in sides.values() for row in rows})
    for name, rows in sides.items():
        for k, sampler in enumerate(samplers):
            of = {row["asked"]: _error(row, network) for row in rows if row["sampler"] == sampler}
            points = [(n, error) for n, error in sorted(of.items()) if math.isfinite(error) and error > 0]
            if not of:
                continue
            values += [error for _, error in points]
            lines.append(Curve(points, f"sampler{k}", dashed=name == "B", dots=points))
            cells = "".join(f"<td>{f'{of[n]:.3g}' if n in of else '–'}</td>" for n in counts)
            mark = f'<span class="key sampler{k}{" dashed" if name == "B" else ""}"></span>'
            body.append(f"<tr><th>{mark}{name}, {escape(sampler)}</th>{cells}</tr>")
    if not values:
        return ""
    low, high = min(values), max(values)
    axis = Axis(10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high) + 1e-9), log=True)
    across = Axis(min(counts) * 0.8, max(counts) * 1.2, log=True)
    drawn = chart(across, axis, lines, ("evaluations", "error"), "predicted error against evaluations", ticks=counts)
    head = "".join(f"<th>{n}</th>" for n in counts)
    return f'{drawn}<div class="scroll"><table><tr><th>evaluations</th>{head}</tr>{"".join(body)}</table></div>'


def _error(row: dict[str, Any], network: bool) -> float:
    return float(row["off"]["error"] if network else row["error"])


def default_samplers(subject: Subject) -> list[str]:
    """Those that `process predict` takes: the one that is used, and the usual two."""
    return list(dict.fromkeys([name_of(subject.config.sampler), *SAMPLERS]))
