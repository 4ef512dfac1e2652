"""Held out by time: the newest units become test, the next newest val, and what is as old stays together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tellapart.data.splits.found import Say
from tellapart.data.splits.units import Units


def draw_newest(units: Units, ranks: np.ndarray, totals: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Return the units of each part that is drawn, int64, by its name; a unit is as new as its newest image.

    Units of one time stay together, so a part has as many images as come nearest to its total, and at least one time
    is left to train on. Where there are too few times for both, val goes before test.

    Args:
        units: what to draw from.
        ranks: int64 `(N,)`, the order of the rows of the source in time.
        totals: how many different images val, test or both should have.
    """
    newest = np.full(len(units), -1, dtype=np.int64)
    is_drawn = units.of_row >= 0
    np.maximum.at(newest, units.of_row[is_drawn], ranks[is_drawn])
    # Oldest last: `age` is the place of a unit's time among all, from the newest.
    times, age = np.unique(-newest, return_inverse=True)
    sizes = np.bincount(age, units.sizes)
    drawn = {name: np.zeros(0, dtype=np.int64) for name in totals}
    wanted = [name for name in ("test", "val") if totals.get(name)]
    if len(times) <= len(wanted):
        wanted = wanted[-1:] if len(times) > 1 else []
    start = 0
    for place, name in enumerate(wanted):
        # One time at least for each part that follows, and one to train on.
        most = len(times) - start - (len(wanted) - place)
        sums = np.cumsum(sizes[start : start + most])
        end = start + 1 + int(np.argmin(np.abs(sums - totals[name])))
        drawn[name] = np.flatnonzero((age >= start) & (age < end))
        start = end
    return drawn


def say_cuts(splits: Sequence[str], times: list[str], ranks: np.ndarray, say: Say) -> None:
    """Say from when to when the images of each part are, and how far groups or copies mix the parts in time."""
    spans = {}
    for name in ("train", "val", "test"):
        rows = [row for row, split in enumerate(splits) if split == name and ranks[row] >= 0]
        if rows:
            spans[name] = min(rows, key=ranks.__getitem__), max(rows, key=ranks.__getitem__)
    shown = ", ".join(f"{name} {times[old].strip()} to {times[new].strip()}" for name, (old, new) in spans.items())
    say(f"by time: {shown}")
    last = ranks[spans["train"][1]] if "train" in spans else -1
    mixed = sum(split in ("val", "test") and 0 <= ranks[row] <= last for row, split in enumerate(splits))
    if mixed:
        say(
            f"note: {mixed:,} images of val and test are no newer than the newest training image: their groups, or "
            "copies of them, reach into later times."
        )
