"""A folder of runs as one page: what each came to, which may be compared, what differs, and which have not ended."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tellapart.auditing.findings import counted, printable
from tellapart.evaluation.metrics import Estimate
from tellapart.reporting.axes import thinned
from tellapart.reporting.overview_words import (
    alone_words,
    duration_words,
    group_words,
    headline_name,
    moment_words,
    setting_words,
    several_words,
    size_words,
    summary_words,
)
from tellapart.reporting.page import frame
from tellapart.reporting.run_rows import Group, RunRow, differing, grouped
from tellapart.reporting.section import Section, number, percent, render

if TYPE_CHECKING:
    from markupsafe import Markup

# A drawing of a curve is 132 units across; more points than this cannot be seen in it.
_MOST_CURVE_POINTS = 66
_CURVE_WIDTH, _CURVE_HEIGHT = 132.0, 40.0
_SHARES = frozenset({"top1", "exact_match"})


def render_overview(rows: Sequence[RunRow], name: str, start: str | os.PathLike[str]) -> str:
    """Return the overview of runs as HTML: one file, no address outside of it but the runs' own reports.

    Args:
        rows: the runs, as `api.overview.gather_runs` finds them.
        name: what the folder is called.
        start: the folder that the page will lie in, from which the links to the runs' reports lead.
    """
    groups = grouped(rows)
    together = [group for group in groups if len(group.rows) > 1]
    alone = [group.rows[0] for group in groups if len(group.rows) == 1]
    several = [row for row in rows if row.kind != "run" and row.state == "ended"]
    others = [row for row in rows if row.state != "ended"]
    sections = [_summary(rows, groups)]
    sections += [_group(group, number, together, start) for number, group in enumerate(together, 1)]
    sections += [_alone(alone, bool(together), start)] if alone else []
    sections += [_several(several, start)] if several else []
    sections += [_others(others)] if others else []
    return frame(
        title=name, subtitle=counted(len(rows), "run"), sections=sections, notes=[], made_by="tellapart report"
    )


def _summary(rows: Sequence[RunRow], groups: Sequence[Group]) -> Section:
    style = _own_style()
    return Section(
        "overview",
        "Overview",
        render("overview.html", part="summary", style=style, words_of=summary_words(rows, groups)),
    )


def _group(group: Group, place: int, groups: Sequence[Group], start: str | os.PathLike[str]) -> Section:
    same = [other for other in groups if other.data == group.data]
    data = printable(group.data)
    title = f"{data}, division {same.index(group) + 1} of {len(same)}" if len(same) > 1 else data
    fields = differing(group.rows)
    html = render(
        "overview.html",
        part="group",
        id=f"runs-{place}",
        title=title,
        words_of=group_words(group),
        table=_table(group.rows, start, with_data=False),
        fields=list(fields),
        changed=[
            {"name": row.name, "cells": [setting_words(values[at]) for values in fields.values()]}
            for at, row in enumerate(group.rows)
        ],
        curves=_curves(group.rows),
        metric=headline_name(group.headline),
    )
    return Section(f"runs-{place}", title, html)


def _alone(rows: Sequence[RunRow], has_groups: bool, start: str | os.PathLike[str]) -> Section:
    html = render(
        "overview.html",
        part="alone",
        id="alone",
        words_of=alone_words(rows),
        table=_table(rows, start, with_data=True),
    )
    return Section("alone", "Not comparable" if has_groups or len(rows) > 1 else printable(rows[0].data), html)


def _several(rows: Sequence[RunRow], start: str | os.PathLike[str]) -> Section:
    parts = [
        {
            "id": f"several-{place}",
            "name": row.name,
            "words": several_words(row),
            "table": _table(_ended(row.members), start, with_data=False),
        }
        for place, row in enumerate(rows, 1)
    ]
    spreads = [_spread_row(row) for row in sorted(rows, key=lambda row: (row.data, row.name))] if len(rows) > 1 else []
    return Section("several", "Folds and seeds", render("overview.html", part="several", parts=parts, spreads=spreads))


def _spread_row(row: RunRow) -> dict[str, Any]:
    """Return the cells of a folder of folds or seeds in the table of such folders."""
    is_share = row.headline in _SHARES
    mean, std, low, high = (row.spread.get(name) for name in ("mean", "std", "low", "high"))
    ends = [_value_text(end, is_share) for end in (low, high) if end is not None]
    return {
        "name": row.name,
        "what": f"{len(row.members)} {row.kind}",
        "data": row.data,
        "model": row.model,
        "judged": f"{row.n:,} of {'all' if row.kind == 'folds' else 'val'}",
        "mean": mean,
        "mean_text": "–" if mean is None else _value_text(mean, is_share),
        "std": std,
        "std_text": "–" if std is None else _value_text(std, is_share),
        "interval": " to ".join(ends) if len(ends) == 2 else "–",
    }


def _others(rows: Sequence[RunRow]) -> Section:
    entries = [
        {"name": row.name, "state": row.state, "why": row.why, "at": moment_words(row.written_at)} for row in rows
    ]
    return Section("others", "Not ended or damaged", render("overview.html", part="others", entries=entries))


def _ended(rows: Sequence[RunRow]) -> list[RunRow]:
    return [row for row in rows if row.state == "ended"]


def _table(rows: Sequence[RunRow], start: str | os.PathLike[str], *, with_data: bool) -> dict[str, Any]:
    """Return the cells of a table of runs; all intervals are drawn on one scale."""
    headlines = {row.headline for row in rows}
    found = [each.get(row.headline) for row in rows for each in (row.metrics, row.test)]
    low, high = _scale([each for each in found if each is not None], is_share=headlines <= _SHARES)
    cell = partial(_estimate_cell, low=low, high=high)
    return {
        "metric": headline_name(next(iter(headlines))) if len(headlines) == 1 else "metric",
        "scale": [_value_text(end, headlines <= _SHARES) for end in (low, high)] if len(headlines) == 1 else None,
        "with_data": with_data,
        "has_test": any(row.test or row.looks for row in rows),
        "rows": [
            {
                "name": row.name,
                "link": _link(row, start),
                "data": row.data,
                "model": row.model,
                "recipe": row.recipe,
                "epochs": row.epochs,
                "best_epoch": row.best_epoch,
                "val": cell(row.value, row.n, row.num_given, row.headline),
                "test": cell(row.test.get(row.headline), row.n_test, row.n_test, row.headline),
                "looks": row.looks,
                "nll": row.metrics.get("nll"),
                "ece": row.metrics.get("ece"),
                "params": row.num_params,
                "size": size_words(row.num_params),
                "seconds": row.seconds,
                "time": duration_words(row.seconds),
                "at": row.written_at,
                "date": moment_words(row.written_at),
            }
            for row in rows
        ],
    }


def _estimate_cell(
    found: Estimate | None, n: int, num_given: int, headline: str, *, low: float, high: float
) -> dict[str, Any] | None:
    if found is None or not math.isfinite(found.value):
        return None
    is_share = headline in _SHARES
    ends = (found.low, found.high)
    has_ends = all(map(math.isfinite, ends))

    def at(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 1)

    return {
        "value": found.value,
        "text": _value_text(found.value, is_share),
        "interval": " to ".join(_value_text(end, is_share).rstrip("%") for end in ends) if has_ends else "",
        "n": n,
        "is_partial": n < num_given,
        "at": at(found.value),
        "bar": [at(end) for end in ends] if has_ends else None,
    }


def _scale(found: Sequence[Estimate], *, is_share: bool) -> tuple[float, float]:
    """Return the ends of the scale that all intervals are drawn on: round numbers around them."""
    values = [end for each in found for end in (each.low, each.value, each.high) if math.isfinite(end)]
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if not is_share:
        margin = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        return low - margin, high + margin
    step = 0.05 if high - low > 0.1 else 0.01
    return max(0.0, math.floor(low / step + 1e-9) * step), min(1.0, math.ceil(high / step - 1e-9) * step)


def _curves(rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    """Return the drawings of the headline on val by epoch: one a run, all on the scale of all."""
    shown = [row for row in rows if any(map(math.isfinite, row.curve))]
    values = [value for row in shown for value in row.curve if math.isfinite(value)]
    if not values:
        return []
    low, high = min(values), max(values)
    longest = max(len(row.curve) for row in shown)
    span = (high - low) or 1.0

    def point(row: RunRow, epoch: int) -> str:
        x = 2 + (_CURVE_WIDTH - 4) * epoch / max(1, longest - 1)
        y = _CURVE_HEIGHT - 3 - (_CURVE_HEIGHT - 6) * (row.curve[epoch] - low) / span
        return f"{x:.1f} {y:.1f}"

    drawings = []
    for row in shown:
        places = thinned(range(len(row.curve)), [_or_none(v) for v in row.curve], _MOST_CURVE_POINTS)
        finite = [place for place in places if math.isfinite(row.curve[place])]
        last, is_share = row.curve[finite[-1]], row.headline in _SHARES
        drawings.append(
            {
                "name": row.name,
                "path": "M" + "L".join(point(row, place) for place in finite),
                "dot": point(row, finite[-1]).split(),
                "said": f"{_value_text(row.curve[finite[0]], is_share)} after epoch {finite[0] + 1}, "
                f"{_value_text(last, is_share)} after epoch {finite[-1] + 1}",
                "last": _value_text(last, is_share),
            }
        )
    return drawings


def _link(row: RunRow, start: str | os.PathLike[str]) -> str:
    """Return the relative address of a run's own report, or "" where it has none."""
    if not row.has_report:
        return ""
    path = os.path.relpath(row.path / "report.html", start)
    # A dot in front, because a first part with a colon in it would be taken for a scheme such as "https".
    return "./" + quote(Path(path).as_posix().encode("utf-8", "surrogateescape"))


def _value_text(value: float, is_share: bool) -> str:
    return percent(value) if is_share else number(value)


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _own_style() -> Markup:
    from markupsafe import Markup

    from tellapart.reporting.section import environment

    loader = environment().loader
    assert loader is not None
    return Markup(loader.get_source(environment(), "overview.css")[0])
