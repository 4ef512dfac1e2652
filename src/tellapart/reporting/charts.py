"""Charts as drawings in the page: lines with bands, bars and diagonals, in the page's own colours.

A chart is drawn for a width of 360 units, so that its text is legible on a phone; several beside each other fill a
desktop. Colours are names of CSS variables of the style sheet: "train", "val", "test", "accent", "soft", "ink".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tellapart.reporting.axes import STYLES, Axis, Scale, nice_ticks, scale_of, thinned
from tellapart.reporting.section import render

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["STYLES", "WIDTH", "Axis", "Bars", "Chart", "Line", "draw", "multiples", "nice_ticks", "thinned"]

WIDTH, HEIGHT = 360, 216
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 36
# So few points are seen better as dots on the line.
_MOST_DOTS = 12
_MOST_TABLE_ROWS = 60


@dataclass(frozen=True)
class Line:
    """A line through points; it has a gap where a y is None or NaN. `low` and `high` make a band around it.

    A thin line is context: it has no dots and its numbers are in no table.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    color: str = "val"
    is_dashed: bool = False
    is_thin: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars from 0 up: `edges` are one more than `heights`."""

    name: str
    edges: Sequence[float]
    heights: Sequence[float]
    color: str = "val"


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        id: unique in the page.
        title: stands above it.
        layers: drawn in this order.
        x, y: the axes.
        description: what a person who cannot see it should know, in a sentence.
        marks: vertical lines, (x, label).
        diagonal: whether to draw y = x.
        note: a sentence below it.
        table: whether the numbers can be unfolded below it.
    """

    id: str
    title: str
    layers: Sequence[Line | Bars]
    x: Axis
    y: Axis
    description: str
    marks: Sequence[tuple[float, str]] = ()
    diagonal: bool = False
    note: str = ""
    table: bool = True


def draw(chart: Chart) -> Markup:
    """Return the chart as a `<figure>`: its title, its key, the drawing, and its numbers in a table to unfold."""
    x = scale_of(chart.x, _values(chart, 0), _LEFT, WIDTH - _RIGHT, is_x=True)
    y = scale_of(chart.y, _values(chart, 1), HEIGHT - _BOTTOM, _TOP, is_x=False)
    return render(
        "chart.html",
        chart=chart,
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=WIDTH - _RIGHT,
        top=_TOP,
        bottom=HEIGHT - _BOTTOM,
        x_ticks=[(_round(x(tick)), STYLES[chart.x.style](tick, x.step)) for tick in x.ticks],
        y_ticks=[(_round(y(tick)), STYLES[chart.y.style](tick, y.step)) for tick in y.ticks],
        layers=[_layer(layer, x, y) for layer in chart.layers],
        marks=[_mark(x(at), label) for at, label in chart.marks],
        diagonal=_path([(x(v), y(v)) for v in (max(x.low, y.low), min(x.high, y.high))]) if chart.diagonal else "",
        table=_table(chart, x, y) if chart.table else None,
    )


def multiples(charts: Sequence[Chart]) -> Markup:
    """Return charts beside each other, as many in a row as there is room for."""
    return render("multiples.html", charts=[draw(chart) for chart in charts])


def _values(chart: Chart, axis: int) -> list[float]:
    found: list[float | None] = [0.0] if axis and any(isinstance(layer, Bars) for layer in chart.layers) else []
    for layer in chart.layers:
        if isinstance(layer, Bars):
            found += [layer.edges, layer.heights][axis]
        else:
            found += [*layer.ys, *layer.low, *layer.high] if axis else layer.xs
    return [value for value in found if value is not None and math.isfinite(value)]


def _layer(layer: Line | Bars, x: Scale, y: Scale) -> dict[str, Any]:
    if isinstance(layer, Bars):
        bars = []
        for left, right, height in zip(layer.edges[:-1], layer.edges[1:], layer.heights, strict=True):
            top, width = y(height), x(right) - x(left)
            # A hair between bars, as far as they are wide enough for one.
            gap = min(1.0, width / 5)
            bars.append(tuple(_round(v) for v in (x(left) + gap / 2, top, width - gap, y(y.low) - top)))
        return {"kind": "bars", "name": layer.name, "color": layer.color, "bars": bars}
    parts = _parts(layer)
    shown = [(x(layer.xs[i]), y(layer.ys[i] or 0.0)) for part in parts for i in part]
    dots = len(shown) <= _MOST_DOTS and not layer.is_thin
    return {
        "kind": "line",
        "name": layer.name,
        "color": layer.color,
        "style": "dashed" if layer.is_dashed else "thin" if layer.is_thin else "",
        "path": "".join(_path([(x(layer.xs[i]), y(layer.ys[i] or 0.0)) for i in part]) for part in parts),
        "bands": [_band(layer, part, x, y) for part in parts if layer.low and layer.high],
        "dots": [(_round(a), _round(b)) for a, b in shown] if dots else [],
    }


def _parts(line: Line) -> list[list[int]]:
    """Return the places of the points in runs without a gap."""
    parts: list[list[int]] = [[]]
    for place in thinned(line.xs, line.ys):
        value = line.ys[place]
        if value is None or not math.isfinite(value):
            parts.append([])
        else:
            parts[-1].append(place)
    return [part for part in parts if part]


def _band(line: Line, part: Sequence[int], x: Scale, y: Scale) -> str:
    low = [(x(line.xs[i]), y(_or(line.low[i], line.ys[i]))) for i in part]
    high = [(x(line.xs[i]), y(_or(line.high[i], line.ys[i]))) for i in part]
    if len(part) == 1:
        # One epoch: a band without a width could not be seen.
        (a, bottom), (_, top) = low[0], high[0]
        low, high = [(a - 3, bottom), (a + 3, bottom)], [(a - 3, top), (a + 3, top)]
    return _path([*low, *reversed(high)]) + "z"


def _or(value: float | None, other: float | None) -> float:
    return next((v for v in (value, other) if v is not None and math.isfinite(v)), 0.0)


def _mark(at: float, label: str) -> dict[str, Any]:
    """Return a vertical line with its label on the side where there is room."""
    is_right = at > (_LEFT + WIDTH - _RIGHT) / 2
    return {"x": _round(at), "text_x": _round(at + (-5 if is_right else 5)), "is_right": is_right, "label": label}


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_round(a)} {_round(b)}" for a, b in points) if points else ""


def _round(value: float) -> str:
    """Return a coordinate with one decimal, in as few characters as it takes."""
    return f"{value:.1f}".removesuffix(".0")


def _table(chart: Chart, x: Scale, y: Scale) -> dict[str, Any] | None:
    """Return the numbers behind the chart, where its layers share their x."""
    shown = [layer for layer in chart.layers if not (isinstance(layer, Line) and layer.is_thin)]
    lines = [layer for layer in shown if isinstance(layer, Line)]
    if not lines or len(lines) != len(shown) or any(list(line.xs) != list(lines[0].xs) for line in lines):
        return None
    n = len(lines[0].xs)
    places = sorted({*np.linspace(0, n - 1, min(n, _MOST_TABLE_ROWS)).astype(int).tolist()})
    write_x, write_y = STYLES[chart.x.style], STYLES[chart.y.style]

    def cell(value: float | None) -> str:
        return "–" if value is None or not math.isfinite(value) else write_y(value, y.step / 100)

    heads = [chart.x.title]
    for line in lines:
        heads += [line.name, *([f"{line.name}, 95% from", "to"] if line.low else [])]
    rows = []
    for i in places:
        row = [write_x(lines[0].xs[i], x.step)]
        for line in lines:
            row += [cell(line.ys[i]), *([cell(line.low[i]), cell(line.high[i])] if line.low else [])]
        rows.append(row)
    return {"heads": heads, "rows": rows, "num_left_out": n - len(places)}
