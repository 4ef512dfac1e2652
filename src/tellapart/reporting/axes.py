"""From values to places in a drawing: round numbers along an axis, how to write them, fewer points alike in shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# More points than this are finer than the pixels of the largest screen a chart is shown on.
MOST_POINTS = 240


@dataclass(frozen=True)
class Axis:
    """An axis: its title, the least and the largest value shown (by default from what is drawn), and how to write them.

    `style` is a key of `STYLES`.
    """

    title: str
    low: float | None = None
    high: float | None = None
    style: str = "number"


@dataclass(frozen=True)
class Scale:
    """From values of an axis to units of the drawing, `start` for `low` and `end` for `high`."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...] = ()

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        share = (value - self.low) / (self.high - self.low)
        # What lies outside is drawn at the edge, never over the text.
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    @property
    def step(self) -> float:
        """The distance between two ticks."""
        return self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else self.high - self.low


def scale_of(axis: Axis, values: Sequence[float], start: float, end: float, *, is_x: bool) -> Scale:
    """Return the scale for the finite `values` of an axis; an open end of a y axis moves out to a round number."""
    low = axis.low if axis.low is not None else min(values, default=0.0)
    high = axis.high if axis.high is not None else max(values, default=1.0)
    if high <= low:
        # One epoch, or a value that never changes: still an axis, with the value in its middle where it may be.
        room = 0.5 if is_x else abs(low) / 2 or 1.0
        low, high = low - room if axis.low is None else low, high + room
    step = tick_step(low, high, 6 if is_x else 4, is_whole=axis.style == "count")
    if not is_x:
        low = low if axis.low is not None else math.floor(low / step + 1e-6) * step
        high = high if axis.high is not None else math.ceil(high / step - 1e-6) * step
    return Scale(low, high, start, end, ticks(low, high, step))


def tick_step(low: float, high: float, most: int, *, is_whole: bool = False) -> float:
    """Return the least of 1, 2 or 5 times a power of ten that divides a range into at most `most` parts.

    >>> tick_step(0.0, 1.0, 5), tick_step(1, 3, 5, is_whole=True)
    (0.2, 1.0)
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    return max(step, 1.0) if is_whole else step


def nice_ticks(low: float, high: float, most: int = 5, *, is_whole: bool = False) -> tuple[float, ...]:
    """Return round numbers from `low` to `high`, in at most `most` parts.

    >>> nice_ticks(0.0, 1.0)
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """
    return ticks(low, high, tick_step(low, high, most, is_whole=is_whole))


def ticks(low: float, high: float, step: float) -> tuple[float, ...]:
    """Return the multiples of `step` from `low` to `high`.

    >>> ticks(0.3, 1.0, 0.25)
    (0.5, 0.75, 1.0)
    """
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return tuple(float(f"{number * step:.10g}") for number in range(first, last + 1))


def thinned(xs: Sequence[float], ys: Sequence[float | None], most: int = MOST_POINTS) -> list[int]:
    """Return the places of up to `most` points that look like all of them, ascending, first and last among them.

    Source: Steinarsson (2013), "Downsampling time series for visual representation", section 4.2
    (Largest-Triangle-Three-Buckets).

    >>> thinned(range(5), [0, 0, 9, 0, 0], 3)
    [0, 2, 4]
    """
    n = len(xs)
    if n <= most:
        return list(range(n))
    points = np.array([xs, [0.0 if y is None else y for y in ys]], float).T
    edges = np.linspace(1, n - 1, most - 1).astype(int)
    chosen = [0]
    for place, (start, end) in enumerate(pairwise(edges)):
        following = points[end : edges[place + 2]].mean(0) if place + 2 < len(edges) else points[-1]
        a, bucket = points[chosen[-1]], points[start:end]
        area = np.abs((a[0] - following[0]) * (bucket[:, 1] - a[1]) - (a[0] - bucket[:, 0]) * (following[1] - a[1]))
        chosen.append(int(start + area.argmax()))
    return [*chosen, n - 1]


def _plain(value: float, step: float) -> str:
    """Return a number with as many decimals as the step between ticks needs."""
    if value and abs(value) < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-")
    if abs(value) >= 1e6:
        return f"{value / 1e6:.{_decimals(step / 1e6)}f}M"
    if abs(value) >= 1e4 and step >= 100:
        return f"{value / 1e3:.{_decimals(step / 1e3)}f}k"
    return f"{value:,.{_decimals(step)}f}"


def _decimals(step: float) -> int:
    # 1e-9 keeps a step of exactly 0.1, whose logarithm may be just below -1, at one decimal.
    return max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0


# How a value is written beside ticks that are `step` apart.
STYLES: dict[str, Callable[[float, float], str]] = {
    "number": _plain,
    "count": lambda value, step: _plain(round(value), max(step, 1)),
    "percent": lambda value, step: f"{100 * value:.{_decimals(100 * step)}f}%",
}
