"""What a draw moves as one: images of equal pixels, of one group, or near duplicates of each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tellapart import seeding


@dataclass(frozen=True, eq=False)
class Units:
    """The parts of the drawable rows that a draw leaves whole, U of them; images of equal pixels count as one.

    Attributes:
        names: a name each, of a group or of pixels: what is drawn is a function of it, never of the order of the rows.
        of_row: int64 `(N,)`, the unit of each row of the source, -1 for rows that are not drawn.
        sizes: int64 `(U,)`, how many different images each holds.
        pairs: int64 `(P, 3)`, sorted: unit, class, and how many different images of the class the unit holds.
    """

    names: list[str]
    of_row: np.ndarray
    sizes: np.ndarray
    pairs: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def starts(self) -> np.ndarray:
        """Where in `pairs` each unit begins, int64 `(U + 1,)`."""
        return np.searchsorted(self.pairs[:, 0], np.arange(len(self) + 1))

    def counts(self, unit: int) -> list[tuple[int, int]]:
        """Return the classes of a unit, and how many different images of each it holds."""
        return [(label, count) for _, label, count in self.pairs[self.starts[unit] : self.starts[unit + 1]].tolist()]

    def class_counts(self, is_free: np.ndarray) -> dict[int, int]:
        """Return how many different images each class has in the units that are still free, bool `(U,)`."""
        pairs = self.pairs[is_free[self.pairs[:, 0]]]
        labels, place = np.unique(pairs[:, 1], return_inverse=True)
        sums = np.bincount(place, pairs[:, 2], len(labels)).astype(np.int64)
        return dict(zip(labels.tolist(), sums.tolist(), strict=True))

    def order(self, seed: int, purpose: str) -> np.ndarray:
        """Return all units in a random order that is a function of the seed, the purpose and their names."""
        keys = [(seeding.derive(seed, f"split/{purpose}/{name}"), name) for name in self.names]
        return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def make_units(
    rows: np.ndarray,
    labels: np.ndarray,
    pixel_hashes: Sequence[str],
    groups: Sequence[str] | None = None,
    near_groups: np.ndarray | None = None,
) -> Units:
    """Return what must stay together of `rows`: equal pixels, equal groups ("" aside), equal near groups (-1 aside).

    Args:
        rows: int64 `(M,)`, the readable rows that are to be drawn.
        labels: int64 `(N,)`, the class that each row of the source is stratified by.
        pixel_hashes: N of them.
        groups: N of them.
        near_groups: int64 `(N,)`.
    """
    images: dict[str, int] = {}
    found_hashes = (pixel_hashes[int(row)] for row in rows)
    image_of = np.array([images.setdefault(found, len(images)) for found in found_hashes], dtype=np.int64)
    names = list(images)
    unit_of_image = np.arange(len(names))
    if groups is not None or near_groups is not None:
        unit_of_image, names = _join(names, rows, image_of, groups, near_groups)
    of_row = np.full(len(labels), -1, dtype=np.int64)
    of_row[rows] = unit_of_image[image_of]
    seen = np.unique(np.stack([image_of, labels[rows]], axis=1), axis=0).reshape(-1, 2)
    found, counts = np.unique(np.stack([unit_of_image[seen[:, 0]], seen[:, 1]], axis=1), axis=0, return_counts=True)
    pairs = np.concatenate([found.reshape(-1, 2), counts[:, None]], axis=1)
    return Units(names, of_row, np.bincount(unit_of_image, minlength=len(names)), pairs)


def _join(
    hashes: list[str],
    rows: np.ndarray,
    image_of: np.ndarray,
    groups: Sequence[str] | None,
    near_groups: np.ndarray | None,
) -> tuple[np.ndarray, list[str]]:
    """Return the unit of each image, int64, and the units' names: the first of its groups, or else of its hashes."""
    parents = list(range(len(hashes)))
    first: dict[str | int, int] = {}
    for row, image in zip(rows.tolist(), image_of.tolist(), strict=True):
        if groups is not None and groups[row]:
            _unite(parents, image, first.setdefault(f"group/{groups[row]}", image))
        if near_groups is not None and near_groups[row] >= 0:
            _unite(parents, image, first.setdefault(int(near_groups[row]), image))
    _, unit_of = np.unique([_root(parents, image) for image in range(len(parents))], return_inverse=True)
    of_groups: dict[int, list[str]] = defaultdict(list)
    of_hashes: dict[int, list[str]] = defaultdict(list)
    for name, image in first.items():
        if isinstance(name, str):
            of_groups[int(unit_of[image])].append(name)
    for name, unit in zip(hashes, unit_of.tolist(), strict=True):
        of_hashes[unit].append(name)
    # The least of several names, not all of them: what is added to a unit seldom changes it.
    return unit_of, [min(of_groups.get(unit) or of_hashes[unit]) for unit in range(len(of_hashes))]


def _root(parents: list[int], item: int) -> int:
    while parents[item] != item:
        parents[item] = parents[parents[item]]
        item = parents[item]
    return item


def _unite(parents: list[int], one: int, other: int) -> None:
    parents[_root(parents, one)] = _root(parents, other)
