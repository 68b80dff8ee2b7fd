"""Charts: drawings of a page in its own colours, light or dark, that are read with or without colour.

Each is an SVG 400 units wide whose text stays readable on a phone. Colours are the page's (CSS variables), arms differ in dash
and marker too, and every mark has a title that a pointer or a screen reader finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from markupsafe import Markup

from gendiff.comparison.verdict import number, signed

WIDTH = 400
DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2 1 2 1 2")
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 10, 40  # around the plot


@dataclass(frozen=True)
class Line:
    """A curve.

    Args:
        label: what it is.
        x, y: its points.
        low, high: ends of the interval at each point; None where there is none.
        place: of the arm, which gives colour and dash; -1 is the data.

    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    place: int = -1


@dataclass
class _Scale:
    """A map from values to places along an axis."""

    values: Sequence[float]
    start: float
    end: float
    log: bool = False
    ticks: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        finite = [v for v in self.values if math.isfinite(v) and (v > 0 or not self.log)] or [1.0]
        low, high = min(finite), max(finite)
        if self.log:
            low, high = low / 1.15, high * 1.15
            self.ticks = log_ticks(low, high)
        else:
            margin = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
            low, high = low - margin, high + margin
            self.ticks = _ticks(low, high)
        self.low, self.high = low, high

    def __call__(self, value: float) -> float:
        """Where a value stands; what a logarithm cannot show stands at the low end."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(max(value, low)), math.log(low), math.log(high)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def lines(curves: Sequence[Line], x_label: str, y_label: str, *, log_x: bool = False, log_y: bool = True) -> Markup:
    """Curves with intervals as whiskers, over a grid; the legend is the page's."""
    height = 250
    svg = _svg(height, f"{y_label} against {x_label}")
    xs = [x for curve in curves for x in curve.x]
    ys = [y for curve in curves for y in curve.y]
    ys += [end for curve in curves for end in (*curve.low, *curve.high) if end is not None and (end > 0 or not log_y)]
    across = _Scale(xs, LEFT, WIDTH - RIGHT, log_x)
    if log_x and len(set(xs)) <= 6:
        across.ticks = sorted(set(xs))
    up = _Scale(ys, height - BOTTOM, TOP, log_y and min(ys) > 0)
    _axes(svg, across, up, height, x_label, y_label)
    for curve in curves:
        group = _element(svg, "g", {"class": _tint(curve.place)})
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in zip(curve.x, curve.y, strict=True))
        _element(group, "polyline", {"points": points, "class": "curve", "stroke-dasharray": _dash(curve.place)})
        for k, (x, y) in enumerate(zip(curve.x, curve.y, strict=True)):
            low, high = (ends[k] if k < len(ends) else None for ends in (curve.low, curve.high))
            title = f"{curve.label}: {number(y)} at {number(x)}"
            if low is not None and high is not None:
                _whisker(group, across(x), up(low), across(x), up(high))
                title += f" ({number(low)} to {number(high)})"
            if len(curve.x) <= 40:
                _marker(group, across(x), up(y), curve.place, title)
    return _text_of(svg)


@dataclass(frozen=True)
class Point:
    """A mark of a scatter: where it is, what its title says, and whether it is full or a ring."""

    x: float
    y: float
    title: str
    full: bool = True
    place: int = 1


def scatter(
    points: Sequence[Point], x_label: str, y_label: str, *, log_x: bool = False, names: Sequence[str] = ()
) -> Markup:
    """Marks over a grid, on a logarithmic axis where all y are positive.

    Args:
        names: what stands at x = 0, 1, ..., where these are no numbers.

    """
    height = 250
    svg = _svg(height, f"{y_label} against {x_label}")
    ys = [point.y for point in points]
    across = _Scale([-0.5, len(names) - 0.5] if names else [point.x for point in points], LEFT, WIDTH - RIGHT, log_x)
    up = _Scale(ys, height - BOTTOM, TOP, min(ys) > 0)
    across.ticks = [] if names else across.ticks
    _axes(svg, across, up, height, x_label, y_label)
    for place, name in enumerate(names):
        _text(svg, across(place), height - BOTTOM + 15, _cut(name, max(60 // len(names), 4)), "middle")
    for point in points:
        group = _element(svg, "g", {"class": _tint(point.place)})
        if point.full:
            _marker(group, across(point.x), up(point.y), point.place, point.title)
        else:
            ring = {"cx": f"{across(point.x):.1f}", "cy": f"{up(point.y):.1f}", "r": "3", "class": "seed"}
            _title(_element(group, "circle", ring), point.title)
    return _text_of(svg)


@dataclass(frozen=True)
class Row:
    """A difference with its interval, and the difference of each seed."""

    label: str
    value: float
    low: float | None
    high: float | None
    seeds: Sequence[float]
    place: int

    @property
    def reach(self) -> float:
        """How far it goes from 0."""
        return max(abs(value) for value in (self.value, self.low, self.high, *self.seeds) if value is not None)

    @property
    def told(self) -> str:
        """The difference and its interval in words."""
        if self.low is None or self.high is None:
            return signed(self.value)
        return f"{signed(self.value)} ({signed(self.low)} to {signed(self.high)})"


def forest(rows: Sequence[Row], x_label: str) -> Markup:
    """Differences, one a row, against a line at 0."""
    step = 50
    height = TOP + step * len(rows) + BOTTOM
    svg = _svg(height, x_label)
    ends = [v for row in rows for v in (row.value, row.low, row.high, *row.seeds) if v is not None]
    across = _Scale([0.0, *ends], 12, WIDTH - RIGHT)
    tops = [TOP + step * k + 20 for k in range(len(rows))]
    for tick in across.ticks:
        for top in tops:  # not behind the labels
            _element(svg, "line", _at(across(tick), top, across(tick), top + step - 20) | {"class": "grid"})
        _text(svg, across(tick), height - BOTTOM + 15, tick_text(tick), "middle")
    for top in tops:
        _element(svg, "line", _at(across(0), top, across(0), top + step - 20) | {"class": "zero"})
    _text(svg, (12 + WIDTH - RIGHT) / 2, height - 6, x_label, "middle", "axis")
    for row, top in zip(rows, tops, strict=True):
        y = top + 11
        group = _element(svg, "g", {"class": _tint(row.place)})
        _text(group, 12, top - 6, _cut(row.label, 34), "start", "label")
        _text(group, WIDTH - RIGHT, top - 6, row.told, "end")
        if row.low is not None and row.high is not None:
            _whisker(group, across(row.low), y, across(row.high), y)
        for value in row.seeds:
            dot = {"cx": f"{across(value):.1f}", "cy": f"{y + 10:.1f}", "r": "2.4", "class": "seed"}
            _title(_element(group, "circle", dot), f"{row.label}: one seed, {signed(value)}")
        _marker(group, across(row.value), y, row.place, f"{row.label}: {row.told}")
    return _text_of(svg)


def heat_map(
    values: Sequence[Sequence[float | None]],
    columns: Sequence[float],
    largest: float,
    x_label: str,
    y_label: str,
    title: Callable[[int, int], str],
) -> Markup:
    """A map of signed values: warm above 0, cool below, as strong as they are large.

    Args:
        values: row by row from the bottom; None is left empty.
        columns: what stands below each column.
        largest: the value of full strength, the same for maps that are compared.
        title: the title of the cell ``(row, column)``.

    """
    height, left = 190, 40
    svg = _svg(height, f"{y_label} against {x_label}")
    bottom, right = height - BOTTOM, WIDTH - RIGHT
    wide, high = (right - left) / len(columns), (bottom - TOP) / len(values)
    for r, row in enumerate(values):
        for c, value in enumerate(row):
            if value is None:
                continue
            strength = min(abs(value) / largest, 1.0) if largest else 0.0
            cell = _element(
                svg,
                "rect",
                {
                    "x": f"{left + c * wide:.2f}",
                    "y": f"{bottom - (r + 1) * high:.2f}",
                    "width": f"{wide + 0.3:.2f}",  # no seam between neighbours
                    "height": f"{high + 0.3:.2f}",
                    "class": "warm" if value > 0 else "cool",
                    "fill-opacity": f"{strength**0.8:.3f}",
                },
            )
            _title(cell, title(r, c))
    _element(
        svg,
        "rect",
        {"x": str(left), "y": str(TOP), "width": f"{right - left}", "height": f"{bottom - TOP}", "class": "frame"},
    )
    for c in sorted({0, len(columns) // 2, len(columns) - 1}):
        _text(
            svg,
            left + (c + 0.5) * wide,
            bottom + 15,
            number(columns[c]),
            ("start", "middle", "end")[(c > 0) + (c == len(columns) - 1)],
        )
    _text(svg, (left + right) / 2, height - 6, x_label, "middle", "axis")
    for r, name in ((0, "low"), (len(values) - 1, "high")):
        _text(svg, left - 5, bottom - (r + 0.5) * high + 4, name, "end")
    _rotated(svg, 11, (TOP + bottom) / 2, y_label)
    return _text_of(svg)


def marker(place: int) -> Markup:
    """What stands for an arm in a legend: its line and its marker."""
    svg = ElementTree.Element(
        "svg", {"viewBox": "0 0 34 14", "width": "34", "height": "14", "class": "key", "aria-hidden": "true"}
    )
    group = _element(svg, "g", {"class": _tint(place)})
    _element(group, "polyline", {"points": "1,7 33,7", "class": "curve", "stroke-dasharray": _dash(place)})
    _marker(group, 17, 7, place, "")
    return _text_of(svg)


# --- parts ------------------------------------------------------------------------------------------------------------


def _svg(height: float, name: str) -> ElementTree.Element:
    return ElementTree.Element("svg", {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": name})


def _element(parent: ElementTree.Element, tag: str, attributes: dict[str, str]) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, attributes)


def _text_of(svg: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))  # ElementTree escapes what it is given


def _title(parent: ElementTree.Element, text: str) -> None:
    if text:
        _element(parent, "title", {}).text = text


def _text(parent: ElementTree.Element, x: float, y: float, text: str, anchor: str, kind: str = "tick") -> None:
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor, "class": kind}
    _element(parent, "text", attributes).text = text


def _rotated(parent: ElementTree.Element, x: float, y: float, text: str) -> None:
    attributes = {"transform": f"translate({x:g} {y:g}) rotate(-90)", "text-anchor": "middle", "class": "axis"}
    _element(parent, "text", attributes).text = text


def _axes(svg: ElementTree.Element, across: _Scale, up: _Scale, height: float, x_label: str, y_label: str) -> None:
    for tick in up.ticks:
        _element(svg, "line", _at(LEFT, up(tick), WIDTH - RIGHT, up(tick)) | {"class": "grid"})
        _text(svg, LEFT - 5, up(tick) + 4, tick_text(tick), "end")
    for tick in across.ticks:
        _element(svg, "line", _at(across(tick), TOP, across(tick), height - BOTTOM) | {"class": "grid"})
        _text(svg, across(tick), height - BOTTOM + 15, tick_text(tick), "middle")
    _text(svg, (LEFT + WIDTH - RIGHT) / 2, height - 6, x_label, "middle", "axis")
    _rotated(svg, 11, (TOP + height - BOTTOM) / 2, y_label)


def _marker(parent: ElementTree.Element, x: float, y: float, place: int, title: str) -> None:
    r = 3.6
    shapes = (
        ("circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{r}"}),
        ("rect", {"x": f"{x - r:.1f}", "y": f"{y - r:.1f}", "width": f"{2 * r}", "height": f"{2 * r}"}),
        ("polygon", {"points": f"{x:.1f},{y - r - 1:.1f} {x + r + 1:.1f},{y + r:.1f} {x - r - 1:.1f},{y + r:.1f}"}),
        (
            "polygon",
            {
                "points": f"{x:.1f},{y - r - 1:.1f} {x + r + 1:.1f},{y:.1f} {x:.1f},{y + r + 1:.1f} {x - r - 1:.1f},{y:.1f}"
            },
        ),
    )
    if place < 0:
        return
    tag, attributes = shapes[place % len(shapes)]
    _title(_element(parent, tag, attributes | {"class": "marker"}), title)


def _whisker(parent: ElementTree.Element, x_1: float, y_1: float, x_2: float, y_2: float) -> None:
    _element(parent, "line", _at(x_1, y_1, x_2, y_2) | {"class": "whisker"})


def _at(x_1: float, y_1: float, x_2: float, y_2: float) -> dict[str, str]:
    return {"x1": f"{x_1:.1f}", "y1": f"{y_1:.1f}", "x2": f"{x_2:.1f}", "y2": f"{y_2:.1f}"}


def _tint(place: int) -> str:
    return "arm data" if place < 0 else f"arm arm-{place % 8}"


def _dash(place: int) -> str:
    return "" if place < 0 else DASHES[place % len(DASHES)]


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers."""
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, and 2 and 5 times them where there are few; round numbers where even that leaves one or two."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        if len(ticks) >= 3:
            return ticks if len(ticks) <= 7 else ticks[:: -(-len(ticks) // 7)]
    return _ticks(low, high)


def tick_text(value: float) -> str:
    """A number beside an axis, short."""
    if value == 0:
        return "0"
    text = f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return text.replace("-", "−")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
