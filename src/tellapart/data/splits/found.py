"""What the source or its paths say of groups and times."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

import numpy as np

from tellapart.config import DataConfig
from tellapart.data.sources import Source
from tellapart.errors import DataError

Say = Callable[[str], None]


def search_paths(pattern: str, paths: Sequence[str]) -> list[str]:
    """Return what the regular expression finds in each path: its first group, or the whole match; "" for nothing.

    >>> search_paths("(p[0-9]+)_", ["scans/p7_1.png", "scans/p7_2.png", "scans/other.png"])
    ['p7', 'p7', '']
    """
    compiled = re.compile(pattern)
    number = 1 if compiled.groups else 0
    return [(match[number] or "") if (match := compiled.search(path)) else "" for path in paths]


def find_groups(source: Source, config: DataConfig, say: Say) -> list[str] | None:
    """Return the group of each image, "" for one by itself, or None where nobody speaks of groups."""
    if not config.group_pattern:
        return list(source.groups) if source.groups is not None and any(source.groups) else None
    if source.groups is not None and any(source.groups):
        say("note: groups are those of data.group_pattern; the column of groups was not used.")
    groups = search_paths(config.group_pattern, source.paths)
    alone = [path for path, group in zip(source.paths, groups, strict=True) if not group]
    if alone:
        say(
            f"note: data.group_pattern finds nothing in {len(alone):,} of {len(groups):,} paths "
            f"({', '.join(alone[:3])}): each of these images is a group of its own."
        )
    return groups


def find_times(source: Source, config: DataConfig) -> list[str] | None:
    """Return the time of each image as text, or None where the division does not go by time."""
    if config.time_pattern:
        return search_paths(config.time_pattern, source.paths)
    return list(source.times or ()) if config.time_column else None


def rank_times(source: Source, times: list[str], rows: np.ndarray, say: Say) -> np.ndarray:
    """Return the place of each row's time among all different times of `rows`, int64 `(N,)`, 0 the oldest, -1 others.

    Times compare as numbers if all are, else as dates if all are ISO 8601, else as text.

    Raises:
        DataError: rows without a time.
    """
    missing = [source.paths[row] for row in rows.tolist() if not times[row].strip()]
    if missing:
        raise DataError(
            f"{source.name}: {len(missing):,} of {len(rows):,} images have no time ({', '.join(missing[:3])}), so they "
            "belong neither before nor after the cut. Give each a time, or leave these images out."
        )
    texts = [times[row].strip() for row in rows.tolist()]
    values = _as_numbers(texts) or _as_instants(texts, say)
    if values is None:
        say(f"note: times such as '{texts[0]}' are neither all numbers nor all ISO dates; they are ordered as text.")
        values = texts
    place = {value: index for index, value in enumerate(sorted(set(values)))}
    ranks = np.full(len(times), -1, dtype=np.int64)
    ranks[rows] = [place[value] for value in values]
    return ranks


def _as_numbers(texts: Sequence[str]) -> list[Decimal] | None:
    try:
        # Not float, to which neighbouring nanoseconds since 1970 are equal.
        numbers = [Decimal(text) for text in texts]
    except InvalidOperation:
        return None
    return numbers if all(number.is_finite() for number in numbers) else None


def _as_instants(texts: Sequence[str], say: Say) -> list[datetime] | None:
    try:
        found = [datetime.fromisoformat(text) for text in texts]
    except ValueError:
        return None
    if 0 < sum(each.tzinfo is None for each in found) < len(found):
        say("note: some times name a time zone and some do not; those without are taken as UTC.")
    return [each.replace(tzinfo=UTC) if each.tzinfo is None else each for each in found]
