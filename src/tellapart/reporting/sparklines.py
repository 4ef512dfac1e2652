"""Drawings made of letters, for a terminal: a curve in one line, an interval on a scale, text that fits its column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TextIO

from tellapart.auditing.findings import printable

_HEIGHTS = "▁▂▃▄▅▆▇█"
_ASCII_HEIGHTS = "_.:-=+*#"
# Left end, line, value, right end, and what lies beside the interval.
_INTERVAL = "├─●┤·"
_ASCII_INTERVAL = "|-o|."


def is_ascii_only(stream: TextIO) -> bool:
    """Return whether a stream cannot print the letters that the drawings are made of."""
    # While a live line is shown, rich puts something that knows no encoding in the place of the stream.
    stream = getattr(stream, "rich_proxied_file", stream)
    try:
        (_HEIGHTS + _INTERVAL + "…").encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def sparkline(values: Sequence[float | None], width: int, *, ascii_only: bool = False) -> str:
    """Return a curve in one line, a cell a value, or a cell the mean of several where there are more than `width`.

    The lowest cell and the highest span the scale; a flat curve stands in its middle. None, NaN and infinity leave a
    gap.

    Args:
        values: in order.
        width: the most cells to take, at least 1.
        ascii_only: whether the terminal has ASCII alone.

    >>> sparkline([1.0, 2.0, None, 3.0], 10)
    '▁▅ █'
    >>> sparkline([float(n) for n in range(500)], 8)
    '▁▂▃▄▅▆▇█'
    """
    heights = _ASCII_HEIGHTS if ascii_only else _HEIGHTS
    cells = _resampled([math.nan if value is None else float(value) for value in values], max(1, width))
    found = [cell for cell in cells if math.isfinite(cell)]
    if not found:
        return " " * len(cells)
    low, high = min(found), max(found)
    top = len(heights) - 1

    def letter(cell: float) -> str:
        if not math.isfinite(cell):
            return " "
        # Halved first, because the difference of two huge numbers can be infinite.
        span = high / 2 - low / 2
        return heights[math.floor((cell / 2 - low / 2) / span * top + 0.5)] if span > 0 else heights[top // 2]

    return "".join(map(letter, cells))


def _resampled(values: list[float], width: int) -> list[float]:
    """Return at most `width` numbers, each the mean of the finite ones of its stretch."""
    if len(values) <= width:
        return values
    cells = []
    for cell in range(width):
        stretch = values[cell * len(values) // width : (cell + 1) * len(values) // width]
        found = [value for value in stretch if math.isfinite(value)]
        cells.append(sum(value / len(found) for value in found) if found else math.nan)
    return cells


def interval_bar(value: float, low: float, high: float, width: int, *, ascii_only: bool = False) -> str:
    """Return an interval drawn on a scale from 0 to 1 that is `width` cells long; blank where it is not defined.

    >>> interval_bar(0.5, 0.25, 0.75, 9)
    '··├─●─┤··'
    >>> interval_bar(1.0, 0.9, 1.0, 9, ascii_only=True)
    '.......|o'
    """
    left, line, point, right, beside = _ASCII_INTERVAL if ascii_only else _INTERVAL
    if not all(map(math.isfinite, (value, low, high))):
        return " " * width
    start, place, end = (round(min(max(x, 0.0), 1.0) * (width - 1)) for x in (low, value, high))
    cells = [beside] * width
    cells[start : end + 1] = [line] * (end + 1 - start)
    cells[start], cells[end] = left, right
    cells[place] = point
    return "".join(cells)


def shortened(text: str, width: int, *, ascii_only: bool = False) -> str:
    """Return a name from a stranger in at most `width` cells: made printable, and cut with a sign where it is longer.

    >>> shortened("Golden Retriever", 8)
    'Golden …'
    >>> shortened("雪の犬", 8, ascii_only=True)
    '\\\\u96ea..'
    """
    from rich.cells import cell_len, set_cell_size

    text = printable(text)
    if ascii_only:
        text = text.encode("ascii", "backslashreplace").decode("ascii")
    if cell_len(text) <= width:
        return text
    sign = ".." if ascii_only else "…"
    return set_cell_size(text, max(0, width - len(sign))) + sign[: max(0, width)]


def padded(text: str, width: int) -> str:
    """Return text with blanks behind it, so that it takes `width` cells."""
    from rich.cells import cell_len

    return text + " " * max(0, width - cell_len(text))
