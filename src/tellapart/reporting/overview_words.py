"""The sentences of the overview: how many runs there are, which numbers may be compared, and what flatters them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tellapart.auditing.findings import counted
from tellapart.evaluation.metrics import Estimate
from tellapart.reporting.run_rows import Group, RunRow
from tellapart.reporting.section import number

_NAMES = {"top1": "accuracy", "map": "mean average precision", "mse": "mean squared error"}


def headline_name(metric: str) -> str:
    """Return what a headline metric is called in a sentence."""
    return _NAMES.get(metric, metric)


def in_words(found: Estimate, metric: str, n: int) -> str:
    """Return an estimate with its interval and n.

    >>> in_words(Estimate(0.9533, 0.9463, 0.9591), "top1", 4500)
    '95.3% (94.6 to 95.9, n = 4,500)'
    """
    if metric == "top1":
        low, high = (f"{100 * end:.1f}" if math.isfinite(end) else "?" for end in (found.low, found.high))
        return f"{found.value:.1%} ({low} to {high}, n = {n:,})"
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)}, n = {n:,})"


def summary_words(rows: Sequence[RunRow], groups: Sequence[Group]) -> list[str]:
    """Return what the whole folder is, in sentences."""
    if not rows:
        return ["There is no run in this folder."]
    states = {state: sum(row.state == state for row in rows) for state in ("ended", "unfinished", "damaged")}
    said = {"ended": "ended", "unfinished": "did not end", "damaged": "cannot be read"}
    words = [
        f"{counted(len(rows), 'run')}: " + ", ".join(f"{n:,} {said[state]}" for state, n in states.items() if n) + "."
    ]
    together = [group for group in groups if len(group.rows) > 1]
    if len(groups) > 1:
        words.append(
            "Only runs that were judged on the same images stand in one table. Numbers of different tables do not "
            "compare: other images are easier or harder."
        )
    for group in together:
        words.append(_best_words(group))
    return words


def _best_words(group: Group) -> str:
    best = group.rows[0]
    if best.value is None:
        return f"{group.data}: no run has a number on val."
    found = f"{headline_name(group.headline)} {in_words(best.value, group.headline, group.n)}"
    return f"{group.data}: the best of {len(group.rows)} runs on val is {best.name}, {found}."


def group_words(group: Group) -> list[str]:
    """Return what to keep in mind while comparing the runs of a group."""
    best, others = group.rows[0], group.rows[1:]
    n = f"the same {group.n:,} images of val"
    words = [f"{counted(len(group.rows), 'run')}, judged on {n}."]
    if best.value is None:
        return words
    level = sum(row.value is not None and row.value.value == best.value.value for row in others)
    name = f"{best.name}, level with {counted(level, 'other')}," if level else best.name
    overlapping = sum(_overlap(best.value, row.value) for row in others)
    words.append(
        f"{name} is the best of {len(group.rows)} by this very number, and being picked flatters it: the more "
        "runs are tried, the more. Its number on test, looked at once, is the one to quote."
    )
    if overlapping:
        if len(others) == 1:
            subject = "The interval of the other overlaps"
        elif overlapping == len(others):
            subject = "The intervals of all others overlap"
        else:
            subject = f"Of the {len(others):,} others, {overlapping:,} have an interval that overlaps"
        words.append(
            f"{subject} with that of the best. Whether two runs differ is told by `tellapart compare`, which looks at "
            "the same images in pairs."
        )
    looked = sum(row.looks > 0 for row in group.rows)
    if looked > 1:
        looks = sum(row.looks for row in group.rows)
        words.append(
            f"test was looked at {looks:,} times, for {looked:,} of these runs. Whoever picks the best of them by test "
            "has made it a second val, and has no number left that nothing was chosen by."
        )
    return words


def alone_words(rows: Sequence[RunRow]) -> list[str]:
    """Return why the runs that stand alone are not compared."""
    if len(rows) == 1:
        return ["No other run here was judged on the images that this one was judged on."]
    return [
        "Each of these runs was judged on images that no other run here was judged on, because the data or the "
        "division differ. Their numbers do not stand side by side, even where they look alike: a part of the "
        "difference is that of the images.",
        "Runs on one data set share a division if they are trained with the same `--data.split-seed`, or with "
        "`--data.split` and the folder of another run.",
    ]


def several_words(row: RunRow) -> list[str]:
    """Return what the runs of several folds or seeds say together."""
    what, metric = row.kind, headline_name(row.headline)
    count = f"{len(row.members):,} {what if len(row.members) != 1 else what[:-1]}"
    words = [f"{count} of {row.model} on {row.data}: {_spread_words(row.spread, row.headline, metric)}."]
    if row.value is not None and row.kind == "folds":
        words.append(
            f"All images together, each judged once by the run that never saw it: {metric} "
            f"{in_words(row.value, row.headline, row.n)}."
        )
    if row.kind == "seeds":
        words.append(
            "They were judged on the same images, so what differs is chance in training. The interval of a run says "
            "how far other images would move its number; the spread says how far another seed would."
        )
    return words


def _spread_words(spread: Mapping[str, float | None], headline: str, metric: str) -> str:
    mean, std = spread.get("mean"), spread.get("std")
    if mean is None:
        return f"{metric} is not known"

    def shown(value: float) -> str:
        return f"{value:.1%}" if headline == "top1" else number(value)

    words = f"mean {metric} {shown(mean)}"
    if std is not None:
        words += f", standard deviation {shown(std)}"
    low, high = spread.get("low"), spread.get("high")
    if low is not None and high is not None:
        words += f", 95% interval of the mean {shown(low).rstrip('%')} to {shown(high)}"
    return words


def _overlap(one: Estimate, other: Estimate | None) -> bool:
    return other is not None and other.low <= one.high and one.low <= other.high


def setting_words(value: Any) -> str:
    """Return a value of a config as a person would write it.

    >>> setting_words(("flip", "shift")), setting_words(True), setting_words(0.001), setting_words("")
    ('flip, shift', 'true', '0.001', '–')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value) or "–"


def size_words(value: int | None) -> str:
    """Return a number of parameters in two or three digits.

    >>> size_words(128714), size_words(11177538), size_words(650)
    ('0.13 M', '11.2 M', '650')
    """
    if value is None:
        return "–"
    if value < 10_000:
        return f"{value:,}"
    return f"{value / 1e6:.2f} M" if value < 1e6 else f"{value / 1e6:.1f} M"


def duration_words(seconds: float | None) -> str:
    """Return a duration in words.

    >>> duration_words(41.5), duration_words(439.0), duration_words(7384.0)
    ('42 s', '7 min', '2 h 3 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def moment_words(at: str) -> str:
    """Return a moment of ISO 8601 as date and time of day.

    >>> moment_words("2026-11-23T10:49:47+00:00")
    '2026-11-23 10:49'
    """
    return at[:16].replace("T", " ") if at else "–"
