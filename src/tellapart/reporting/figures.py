"""Drawings that `charts` does not have: the reliability diagram, and predicted against true numbers.

Both are squares of the width of a chart, with one scale for both axes, so that the diagonal is what it should be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tellapart.reporting.axes import STYLES, nice_ticks
from tellapart.reporting.charts import WIDTH
from tellapart.reporting.section import render

if TYPE_CHECKING:
    from markupsafe import Markup

_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 10, 38
_SIDE = WIDTH - _LEFT - _RIGHT
# More points than these cover each other, and every one takes bytes.
_MAX_POINTS = 1500


def lowest(shares: Sequence[float]) -> float:
    """Return where an axis up to 100% may begin so that all of the shares are on it: a multiple of 10%, below 1.

    >>> lowest([0.93, 0.87]), lowest([1.0]), lowest([])
    (0.8, 0.9, 0.0)
    """
    least = min(shares, default=0.0)
    return min(0.9, max(0.0, math.floor(least * 10 + 1e-9) / 10))


def reliability_chart(
    name: str, title: str, bins: Sequence[Mapping[str, Any]], low: float, words: tuple[str, str, str], color: str
) -> Markup:
    """Return a reliability diagram: a point a bin, with its interval, against the diagonal.

    Args:
        name: its id.
        title: stands above it.
        bins: rows of `evaluation.metrics.reliability`.
        low: where both axes begin, up to 100%.
        words: what the x axis, the y axis and the images of a bin are called.
        color: a CSS variable of the style sheet.
    """
    place = _Square(low, 1.0)
    points = [
        {
            "x": place.x(row["confidence"]),
            "y": place.y(row["accuracy"]) if row["accuracy"] >= low else None,
            "top": place.y(max(low, row["high"])),
            "bottom": place.y(max(low, row["low"])),
            "row": row,
        }
        for row in bins
    ]
    said = (
        "On the diagonal, as many are right as the probability says; below it, fewer are: the network is too sure. "
        + " ".join(f"{row['confidence']:.0%}: {row['accuracy']:.0%}." for row in bins)
    )
    return render(
        "reliability_chart.html",
        id=name,
        title=title,
        description=said,
        points=points,
        square=place.drawn("percent"),
        words=words,
        color=color,
    )


def scatter_chart(name: str, title: str, true: np.ndarray, predicted: np.ndarray) -> Markup:
    """Return predicted against true numbers, float `(N,)` each; of many, an even selection is drawn."""
    step = max(1, math.ceil(len(true) / _MAX_POINTS))
    order = np.argsort(true, kind="stable")[::step]
    true, predicted = true[order], predicted[order]
    low, high = (float(each) for each in (min(true.min(), predicted.min()), max(true.max(), predicted.max())))
    margin = (high - low) * 0.03 or abs(high) or 1.0
    place = _Square(low - margin, high + margin)
    # Strokes without length, whose round ends are the points: a tenth of the bytes of circles.
    pairs = zip(true.tolist(), predicted.tolist(), strict=True)
    said = f"{len(true):,} images; on the diagonal the prediction is what is true."
    return render(
        "scatter_chart.html",
        id=name,
        title=title,
        description=said + (f" Every {step}th is drawn." if step > 1 else ""),
        path="".join(f"M{place.x(a)} {place.y(b)}h0" for a, b in pairs),
        square=place.drawn("number"),
        words=("true", "predicted"),
    )


class _Square:
    """The same range of values along both axes of a square drawing."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def x(self, value: float) -> float:
        return round(_LEFT + _SIDE * self._share(value), 1)

    def y(self, value: float) -> float:
        return round(_TOP + _SIDE * (1 - self._share(value)), 1)

    def _share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def drawn(self, style: str) -> dict[str, Any]:
        """Return the frame for the template: edges, ticks with their places and texts."""
        ticks = nice_ticks(self.low, self.high)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else self.high - self.low
        return {
            "width": WIDTH,
            "height": _TOP + _SIDE + _BOTTOM,
            "left": _LEFT,
            "right": WIDTH - _RIGHT,
            "top": _TOP,
            "bottom": _TOP + _SIDE,
            "ticks": [(self.x(tick), self.y(tick), STYLES[style](tick, step)) for tick in ticks],
        }
