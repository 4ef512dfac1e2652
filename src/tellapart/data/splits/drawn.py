"""Held out at random: whole units, in proportion to the classes, one image of each class left to train on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tellapart.data.splits.units import Units

Counts = list[tuple[int, int]]


def apportion(counts: Mapping[int, int], total: int) -> dict[int, int]:
    """Return how many of each class to hold out: in proportion, by largest remainder, one always left.

    >>> apportion({0: 50, 1: 30, 2: 1}, 8)
    {0: 5, 1: 3, 2: 0}
    """
    whole = sum(counts.values())
    ideal = {label: total * count / whole for label, count in counts.items()}
    quotas = {label: min(int(ideal[label]), count - 1) for label, count in counts.items()}
    by_remainder = sorted(counts, key=lambda label: (int(ideal[label]) - ideal[label], -counts[label], label))
    missing = min(total, whole - len(counts)) - sum(quotas.values())
    while missing > 0:
        for label in by_remainder:
            if missing and quotas[label] < counts[label] - 1:
                quotas[label] += 1
                missing -= 1
    return quotas


def draw_parts(units: Units, totals: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    """Return the units of each part that is drawn, int64, by its name; what no part has is left to train on.

    Where there are too few for both, val goes before test.

    Args:
        units: what to draw from.
        totals: how many different images val, test or both should have.
        seed: the run's seed.
    """
    drawn = _draw_in_order(units, {name: totals[name] for name in ("test", "val") if name in totals}, seed)
    if len(totals) == 2 and not len(drawn["val"]) and len(drawn["test"]):
        return _draw_in_order(units, {"val": totals["val"], "test": totals["test"]}, seed)
    return drawn


def _draw_in_order(units: Units, totals: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
    is_free = np.ones(len(units), dtype=bool)
    drawn = {}
    for name, total in totals.items():
        drawn[name] = hold_out(units, is_free, total, units.order(seed, name))
        is_free[drawn[name]] = False
    return drawn


def hold_out(units: Units, is_free: np.ndarray, total: int, order: np.ndarray) -> np.ndarray:
    """Return the free units to hold out, int64: of `total` different images, as near to the quotas as whole units go.

    The classes take turns, the rarest first, and each takes units with images of it in the given order while they bring
    the counts nearer to the quotas. Where no unit does, the one is taken that strays the least. Every class keeps an
    image in a unit that is not taken.

    Source: the order of the classes is that of Sechidis, Tsoumakas, Vlahavas (2011), "On the stratification of
    multi-label data", section 3.
    """
    quotas = _Quotas(units, is_free, total)
    ordered = order[is_free[order]]
    if total < 1 or not len(ordered):
        return np.zeros(0, dtype=np.int64)
    places = _places_of_class(units, ordered)
    taken: set[int] = set()
    for label in sorted(quotas.left, key=lambda label: (quotas.left[label], label)):
        for unit in ordered[places[label]].tolist():
            if quotas.missing[label] <= 0:
                break
            counts = units.counts(unit)
            if unit not in taken and quotas.leave_some(counts) and quotas.added_distance(counts) < 0:
                quotas.take(counts)
                taken.add(unit)
    if not taken:
        strays = [
            (quotas.added_distance(units.counts(unit)), place)
            for place, unit in enumerate(ordered.tolist())
            if quotas.leave_some(units.counts(unit))
        ]
        taken = {int(ordered[min(strays)[1]])} if strays else set()
    return np.array(sorted(taken), dtype=np.int64)


class _Quotas:
    """How many images of each class, and of all, are still to be held out, and how many are left to train on."""

    def __init__(self, units: Units, is_free: np.ndarray, total: int) -> None:
        self.left = units.class_counts(is_free)
        self.missing = apportion(self.left, total)
        self.all_missing = sum(self.missing.values())

    def leave_some(self, counts: Counts) -> bool:
        """Return whether each class of a unit has images outside of it that are left to train on."""
        return all(self.left[label] > count for label, count in counts)

    def added_distance(self, counts: Counts) -> int:
        """Return what taking a unit adds to the squared distance from the quotas, of each class and of all."""
        size = sum(count for _, count in counts)
        by_class = sum(count * (count - 2 * self.missing[label]) for label, count in counts)
        return by_class + size * (size - 2 * self.all_missing)

    def take(self, counts: Counts) -> None:
        """Count a unit as held out."""
        for label, count in counts:
            self.left[label] -= count
            self.missing[label] -= count
            self.all_missing -= count


def _places_of_class(units: Units, ordered: np.ndarray) -> dict[int, np.ndarray]:
    """Return where in `ordered` the units with images of each class stand, int64, ascending."""
    place = np.full(len(units), -1, dtype=np.int64)
    place[ordered] = np.arange(len(ordered))
    labels, places = units.pairs[:, 1], place[units.pairs[:, 0]]
    by_label = np.lexsort((places, labels))
    by_label = by_label[places[by_label] >= 0]
    found, starts = np.unique(labels[by_label], return_index=True)
    parts = np.split(places[by_label], starts[1:])
    return dict(zip(found.tolist(), parts, strict=True))
