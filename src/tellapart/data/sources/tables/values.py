"""Label values as tables hold them, before anyone has said what they mean: arrays, coded strings, lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Coded(NamedTuple):
    """Strings, each different one kept once: value i is `names[codes[i]]`; codes are int64 `(N,)`."""

    names: tuple[str, ...]
    codes: np.ndarray


class Lists:
    """Several values an image: those of image i are `values[starts[i]:starts[i + 1]]`.

    Args:
        values: those of all images, one after another: strings, whole numbers or floats.
        starts: int64 `(N + 1,)`, not falling, from 0 to the number of values.
    """

    def __init__(self, values: np.ndarray | Coded, starts: np.ndarray) -> None:
        self.values, self.starts = values, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self) -> np.ndarray:
        """Return which image each value belongs to, int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def as_table(self, task: str) -> np.ndarray | None:
        """Return numbers as `(N, K)` where the lists are not lists of classes, or None where they are.

        They are numbers where they are floats, where the task is regression, or where they are 0 and 1 and one of
        them is repeated within a list, which no list of classes has.

        >>> Lists(np.array([0, 1, 1, 1, 0, 0]), np.array([0, 3, 6])).as_table("auto").tolist()
        [[0, 1, 1], [1, 0, 0]]
        """
        lengths = np.diff(self.starts)
        if isinstance(self.values, Coded) or not len(lengths) or lengths.min() != lengths.max() or lengths[0] == 0:
            return None
        table = self.values.reshape(len(lengths), -1)
        if table.dtype.kind == "f" or task == "regression":
            return table
        is_set = np.isin(table, (0, 1)).all() and (np.diff(np.sort(table, axis=1), axis=1) == 0).any()
        return table if is_set else None


Values = np.ndarray | Coded | Lists


def code(texts: Sequence[str]) -> Coded:
    """Return strings as `Coded`, the names in the order of their first use.

    >>> code(["b", "a", "b"]).codes.tolist()
    [0, 1, 0]
    """
    names: dict[str, int] = {}
    codes = np.fromiter((names.setdefault(text, len(names)) for text in texts), np.int64, len(texts))
    return Coded(tuple(names), codes)


def kind_of(values: Values) -> str:
    """Return what the values are in a word, for errors and to see whether two tables agree.

    >>> kind_of(np.zeros(3, np.int64)), kind_of(Lists(np.zeros(3), np.array([0, 3])))
    ('int64', 'lists of float64')
    """
    if isinstance(values, Lists):
        return f"lists of {kind_of(values.values)}"
    return "text" if isinstance(values, Coded) or values.dtype.kind == "U" else values.dtype.name


def join(parts: Sequence[Values]) -> Values:
    """Return the values of several tables one after another; they must be of one kind."""
    first = parts[0]
    if isinstance(first, Lists):
        lists = [part for part in parts if isinstance(part, Lists)]
        flat = join([part.values for part in lists])
        lengths = np.concatenate([np.diff(part.starts) for part in lists])
        assert not isinstance(flat, Lists)
        return Lists(flat, _starts(lengths))
    if isinstance(first, Coded):
        coded = [part for part in parts if isinstance(part, Coded)]
        names = code([name for part in coded for name in part.names])
        ends = np.cumsum([len(part.names) for part in coded])[:-1]
        places = np.split(names.codes, ends)
        codes = [place[part.codes] for place, part in zip(places, coded, strict=True)]
        return Coded(names.names, np.concatenate(codes))
    return np.concatenate([part for part in parts if isinstance(part, np.ndarray)])


def take(values: Values, rows: np.ndarray) -> Values:
    """Return the values of some images, in the order of `rows`."""
    if isinstance(values, Coded):
        return Coded(values.names, values.codes[rows])
    if isinstance(values, np.ndarray):
        return values[rows]
    lengths = np.diff(values.starts)[rows]
    starts = _starts(lengths)
    places = np.arange(starts[-1]) - np.repeat(starts[:-1] - values.starts[:-1][rows], lengths)
    flat = take(values.values, places)
    assert not isinstance(flat, Lists)
    return Lists(flat, starts)


def gather(values: Values, images: np.ndarray, count: int) -> Lists:
    """Return lists of all the values that rows of the same image have; `images[i]`, below `count`, is that of row i."""
    if not isinstance(values, Lists):
        values = Lists(values, np.arange(len(images) + 1))
    owners = images[values.rows()]
    flat = take(values.values, np.argsort(owners, kind="stable"))
    assert not isinstance(flat, Lists)
    return Lists(flat, _starts(np.bincount(owners, minlength=count)))


def differ(values: Values, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return bool `(len(rows),)`: whether the value of `rows[i]` is another than that of `others[i]`."""
    if isinstance(values, Lists):
        pairs = zip(rows.tolist(), others.tolist(), strict=True)
        return np.array([_sorted(values, row) != _sorted(values, other) for row, other in pairs], dtype=bool)
    array = values.codes if isinstance(values, Coded) else values
    return array[rows] != array[others]


def show(values: Values, row: int) -> str:
    """Return the value of one image as text, for messages."""
    if isinstance(values, Lists):
        return ", ".join(show(values.values, place) for place in range(values.starts[row], values.starts[row + 1]))
    return values.names[values.codes[row]] if isinstance(values, Coded) else str(values[row])


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _sorted(lists: Lists, row: int) -> list[object]:
    array = lists.values.codes if isinstance(lists.values, Coded) else lists.values
    return sorted(array[lists.starts[row] : lists.starts[row + 1]].tolist())
