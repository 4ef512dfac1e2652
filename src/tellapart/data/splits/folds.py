"""k-fold: every image that may be tested on, in exactly one of k test parts of like size and classes."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tellapart.data.splits.units import Units
from tellapart.errors import DataError


def deal(units: Units, num_folds: int, seed: int, names: dict[int, str], what: str) -> np.ndarray:
    """Return the fold of each unit, int64 `(U,)`, 0 to `num_folds` - 1.

    Units of several images go first, the largest first, each to the fold where the classes then lie most evenly. Single
    images fill up: the first stretch of a class, in an order drawn by their hashes, goes to the first fold, the next to
    the next, so that its counts become level. Images that are added later move only those at the ends of stretches.

    Args:
        units: what to deal.
        num_folds: how many parts, 2 or more.
        seed: the run's seed.
        names: of the classes, by label; {} where there is one stratum only.
        what: what a unit is, in the plural, for an error.

    Raises:
        DataError: a fold would be empty, or would hold all units of a class, so that its run could not learn it.
    """
    order = units.order(seed, "fold")
    is_single = (units.sizes == 1) & (np.diff(units.starts) == 1)
    counts = [Counter[int]() for _ in range(num_folds)]
    fold_of = np.full(len(units), -1, dtype=np.int64)
    whole = units.class_counts(np.ones(len(units), dtype=bool))
    large = order[~is_single[order]]
    for unit in large[np.argsort(-units.sizes[large], kind="stable")].tolist():
        fold_of[unit] = _most_even(units.counts(unit), counts, whole)
        counts[fold_of[unit]].update(dict(units.counts(unit)))
    singles = order[is_single[order]]
    labels = units.pairs[units.starts[singles], 1]
    for label in np.unique(labels).tolist():
        chosen = singles[labels == label]
        fold_of[chosen] = np.repeat(np.arange(num_folds), _room(label, len(chosen), counts))
        for fold, count in Counter(fold_of[chosen].tolist()).items():
            counts[fold][label] += count
    _check(units, fold_of, num_folds, names, what)
    return fold_of


def _most_even(unit: list[tuple[int, int]], counts: list[Counter[int]], whole: dict[int, int]) -> int:
    """Return the fold to which the unit adds the least to the sum of squared counts, each class weighed alike."""

    def added(fold: int) -> tuple[float, int, int]:
        cost = sum(count * (2 * counts[fold][label] + count) / whole[label] for label, count in unit)
        return cost, counts[fold].total(), fold

    return min(range(len(counts)), key=added)


def _room(label: int, num_images: int, counts: list[Counter[int]]) -> list[int]:
    """Return how many of a class's single images each fold takes, so that its counts become level."""
    found, totals = [fold[label] for fold in counts], [fold.total() for fold in counts]
    room = [0] * len(counts)
    for _ in range(num_images):
        fold = min(range(len(counts)), key=lambda fold: (found[fold] + room[fold], totals[fold] + room[fold], fold))
        room[fold] += 1
    return room


def _check(units: Units, fold_of: np.ndarray, num_folds: int, names: dict[int, str], what: str) -> None:
    if len(np.unique(fold_of)) < num_folds:
        raise DataError(f"data.folds: {num_folds} folds need at least {num_folds} {what}, found {len(units)}.")
    for label in sorted(names):
        folds = set(fold_of[units.pairs[units.pairs[:, 1] == label, 0]].tolist())
        if len(folds) == 1:
            holding = int((units.pairs[:, 1] == label).sum())
            way = "Take fewer folds or another seed" if holding > 1 else f"It has images in 1 of the {what}: add others"
            raise DataError(
                f"data.folds: all images of the class '{names[label]}' fall into one fold, whose run could not learn "
                f"it. {way}, or take the class out."
            )
