"""Drawing: pictures as data in the page, and curves as SVG that follows its colours. Nothing here knows what is drawn."""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from gendiff.datasets import pictures

WIDTH, HEIGHT = 480, 250  # of a chart, in its own units: type of 13 of them is legible on a telephone
LEFT, RIGHT, TOP, BOTTOM = 46, 20, 12, 38
ROOM = 90  # that the text beside a bar takes


def line(command: str) -> str:
    """A command, which is broken between its words and not after a hyphen."""
    return " ".join(f"<span>{escape(word)}</span>" for word in command.split(" "))


def picture(event: Tensor, alt: str) -> str:
    """One event as an image."""
    content = io.BytesIO()
    # The quickest way, and in noise there is nothing to find that would take longer.
    pictures.image(event).save(content, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


@dataclass(frozen=True)
class Axis:
    """One axis of a chart: values low..high, or their logarithms, at so many units."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float, start: float, end: float) -> float:
        """Where a value is between two places; one beyond the axis is at its end."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, self._inside(value)))
        return start + (value - low) / (high - low) * (end - start)

    def _inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    @property
    def ticks(self) -> list[float]:
        """About five round values."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, (last - first) // 4)
            return [10.0**k for k in range(first, last + 1, stride)]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = min((m * power for m in (1, 2, 5, 10)), key=lambda size: abs(size - rough))
        count = math.floor((self.high - self.low) / step + 1e-9)
        return [math.ceil(self.low / step - 1e-9) * step + k * step for k in range(count + 1)]


@dataclass(frozen=True)
class Curve:
    """A line through points, with a class that gives it its colour; ``dashed`` tells it from another of that colour."""

    points: Sequence[tuple[float, float]]
    style: str
    dashed: bool = False
    dots: Sequence[tuple[float, float]] = ()


def chart(
    x: Axis,
    y: Axis,
    curves: Iterable[Curve],
    words: tuple[str, str],
    alt: str,
    at: float | None = None,
    zero: float | None = None,
    ticks: Sequence[float] = (),
) -> str:
    """Curves over a grid.

    Args:
        words: what the axes show.
        at: where a line stands across the x axis.
        zero: where a strong line lies across the y axis.
        ticks: of the x axis, in the place of round values.

    """

    def across(value: float) -> float:
        return x.at(value, LEFT, WIDTH - RIGHT)

    def up(value: float) -> float:
        return y.at(value, HEIGHT - BOTTOM, TOP)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">']
    for tick in ticks or [t for t in x.ticks if x.low <= t <= x.high]:
        parts.append(f'<path class="rule" d="M{across(tick):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{across(tick):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{_number(tick)}</text>'
        )
    for tick in y.ticks:
        parts.append(f'<path class="rule" d="M{LEFT} {up(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{up(tick) + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    if zero is not None:
        parts.append(f'<path class="zero" d="M{LEFT} {up(zero):.1f}H{WIDTH - RIGHT}"/>')
    for curve in curves:
        if curve.points:
            path = "L".join(f"{across(a):.1f} {up(b):.1f}" for a, b in curve.points)
            parts.append(f'<path class="curve {curve.style}{" dashed" if curve.dashed else ""}" d="M{path}"/>')
        parts += [
            f'<circle class="dot {curve.style}" cx="{across(a):.1f}" cy="{up(b):.1f}" r="4"/>' for a, b in curve.dots
        ]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    if at is not None:
        parts.append(f'<path class="at" d="M{across(at):.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(words[0])}</text>'
    )
    parts.append(
        f'<text x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">{escape(words[1])}</text></svg>'
    )
    return "".join(parts)


def bars(rows: Sequence[tuple[str, Sequence[tuple[float | None, str, str]]]], at: float | None, alt: str) -> str:
    """For each row its name, and one bar below the other: how far it reaches, 0..1 (None: all the way), its class and text."""
    line, gap, left = 17, 9, 62
    height = sum(line * len(each) + gap for _, each in rows) + 6

    def across(value: float) -> float:
        return left + value * (WIDTH - left - RIGHT)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(alt)}">']
    if at is not None:
        parts.append(f'<path class="at" d="M{across(at):.1f} 0V{height}"/>')
    y = 4
    for name, each in rows:
        parts.append(
            f'<text x="{left - 6}" y="{y + line * len(each) / 2 + 4:.1f}" text-anchor="end">{escape(name)}</text>'
        )
        for reach, style, text in each:
            end = across(1.0 if reach is None else reach)
            inside = end + ROOM > WIDTH
            place, anchor, style_of_text = (end - 5, "end", "on") if inside else (end + 5, "start", "beside")
            parts.append(
                f'<rect class="bar {style}" x="{left}" y="{y}" width="{end - left:.1f}" height="{line - 3}" rx="2"/>'
            )
            parts.append(
                f'<text class="{style_of_text}" x="{place:.1f}" y="{y + 11}" text-anchor="{anchor}">{escape(text)}</text>'
            )
            y += line
        y += gap
    return "".join([*parts, "</svg>"])


def _number(value: float) -> str:
    text = f"{value:.0f}" if 1000 <= abs(value) < 1e5 else f"{value:.3g}"
    return text.replace("e-0", "e-").replace("e+0", "e").replace("-", "−") if value else "0"
