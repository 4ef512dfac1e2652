"""A folder of runs in a terminal: a line a run, those that may be compared below each other, the best first."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from tellapart.auditing.findings import counted, printable
from tellapart.evaluation.metrics import Estimate
from tellapart.reporting.overview_words import headline_name, several_words
from tellapart.reporting.run_rows import RunRow, grouped
from tellapart.reporting.sparklines import padded, shortened

_FEWEST_NAME_CELLS = 12
_FEWEST_MODEL_CELLS, _MOST_MODEL_CELLS = 5, 14
_FLATTERED = "The best of many by val is flattered by being picked: quote its number on test."


def run_lines(rows: Sequence[RunRow], *, width: int = 80, ascii_only: bool = False) -> list[str]:
    """Return the runs as lines: tables of what may be compared, then folds and seeds, then what has not ended.

    Args:
        rows: as `api.overview.gather_runs` finds them.
        width: cells of a line, at least 70; names are cut to fit, sentences are not.
        ascii_only: whether the terminal has ASCII alone.
    """
    if not rows:
        return ["no runs"]
    blocks = []
    for group in grouped(rows):
        metric, count = headline_name(group.headline), len(group.rows)
        title = shortened(group.data, width // 2, ascii_only=ascii_only)
        table = _table(group.rows, width, ascii_only)
        runs = f", {count:,} runs" if count > 1 else ""
        blocks.append([f"{title}: {metric} on {counted(group.n, 'image')} of val{runs}", *table])
    for row in rows:
        if row.kind != "run" and row.state == "ended":
            wrapped = [_wrapped(sentence, width, ascii_only) for sentence in several_words(row)[:2]]
            blocks.append(
                [shortened(row.name, width, ascii_only=ascii_only), *(line for lines in wrapped for line in lines)]
            )
    if others := [row for row in rows if row.state != "ended"]:
        wrapped = [_without_number(row, width, ascii_only) for row in others]
        blocks.append(["without a number:", *(line for lines in wrapped for line in lines)])
    if any(len(group.rows) > 1 for group in grouped(rows)):
        blocks.append(["Runs in one table were judged on the same images.", _FLATTERED])
    if any(row.looks > 1 for row in rows):
        blocks.append(["x2: test was looked at twice. What a look chose makes the next number flatter."])
    lines: list[str] = []
    for block in blocks:
        lines += ["", *block] if lines else block
    return lines


def _table(rows: Sequence[RunRow], width: int, ascii_only: bool) -> list[str]:
    """Return a heading and a line a run: name, model, val, test, date."""
    numbers = [
        ["val", *(_estimate(row.value, row.headline) for row in rows)],
        ["test", *(_estimate(row.test.get(row.headline), row.headline) + _looks(row.looks) for row in rows)],
        ["date", *(row.written_at[:10] or "-" for row in rows)],
    ]
    # Two blanks before each column. Numbers are never cut; models are before names, and both keep some letters.
    left = width - sum(max(map(len, column)) + 2 for column in numbers) - 4
    room = max(_FEWEST_MODEL_CELLS, min(_MOST_MODEL_CELLS, left - _FEWEST_NAME_CELLS))
    columns = [["model", *(shortened(row.model, room, ascii_only=ascii_only) for row in rows)], *numbers]
    widths = [max(map(_cells, column)) for column in columns]
    room = max(_FEWEST_NAME_CELLS, left - widths[0])
    names = ["run", *(shortened(row.name, room, ascii_only=ascii_only) for row in rows)]
    longest = max(_cells(name) for name in names)
    lines = []
    for place, name in enumerate(names):
        cells = [padded(column[place], width) for column, width in zip(columns, widths, strict=True)]
        lines.append(f"  {padded(name, longest)}  {'  '.join(cells)}".rstrip())
    return lines


def _estimate(found: Estimate | None, headline: str) -> str:
    """Return an estimate and its interval as short as they can be."""
    if found is None or not math.isfinite(found.value):
        return "-"
    if headline == "top1":
        return f"{100 * found.value:.1f}% ({100 * found.low:.1f}-{100 * found.high:.1f})"
    return f"{found.value:.4g} ({found.low:.3g}-{found.high:.3g})"


def _looks(looks: int) -> str:
    return f" x{looks}" if looks > 1 else ""


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _without_number(row: RunRow, width: int, ascii_only: bool) -> list[str]:
    """Return why a run has no number; a command to be copied stands on a line of its own."""
    why, _, command = row.why.partition(" To go on: ")
    lines = _wrapped(f"{row.name}: {row.state}: {why}", width, ascii_only)
    # A line of its own is never broken, however long the path is.
    return [*lines, f"    {_printable(command, ascii_only)}"] if command else lines


def _printable(text: str, ascii_only: bool) -> str:
    text = printable(text)
    return text.encode("ascii", "backslashreplace").decode("ascii") if ascii_only else text


def _wrapped(text: str, width: int, ascii_only: bool) -> list[str]:
    """Return a sentence in lines of two blanks and the words that fit; a path or a command's word is not broken."""
    wrap = textwrap.TextWrapper(
        width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return wrap.wrap(_printable(text, ascii_only))
