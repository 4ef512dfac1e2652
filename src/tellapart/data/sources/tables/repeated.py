"""Rows of a table that name the same file: one image, with one label or several, or a contradiction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tellapart.data.sources.tables.cells import Rows
from tellapart.data.sources.tables.values import Values, differ, gather, show, take
from tellapart.errors import DataError


def merge_repeated(
    files: Sequence[str], rows: Rows, task: str, name_row: Callable[[int], str]
) -> tuple[np.ndarray, Rows]:
    """Return the first row of each file, int64, and the cells of the files, with a note where there were fewer.

    Args:
        files: one a row.
        rows: the cells.
        task: with "multilabel" a file has the labels of all its rows; else all its rows must say the same label.
        name_row: the name of a row for errors.

    Raises:
        DataError: two rows of one file contradict each other.
    """
    first: dict[str, int] = {}
    firsts = np.fromiter((first.setdefault(file, row) for row, file in enumerate(files)), np.int64, len(files))
    repeats = np.flatnonzero(firsts != np.arange(len(files)))
    kept = np.fromiter(first.values(), np.int64, len(first))
    if not len(repeats):
        return kept, rows
    for what, cells in (("split", rows.parts), ("group", rows.groups), ("time", rows.times)):
        _require_same_cells(what, cells, files, firsts, repeats, name_row)
    if task == "multilabel":
        places = np.zeros(len(files), dtype=np.int64)
        places[kept] = np.arange(len(kept))
        labels: Values = gather(rows.labels, places[firsts], len(kept))
        note = f"rows that repeat a file: {len(repeats):,}; an image has the labels of all its rows."
    else:
        _require_same_labels(rows.labels, files, firsts, repeats, name_row)
        labels = take(rows.labels, kept)
        note = f"rows that repeat a file with the same label: {len(repeats):,}; each file was taken once."
    parts, groups, times = (
        None if cells is None else [cells[row] for row in kept] for cells in (rows.parts, rows.groups, rows.times)
    )
    return kept, replace(rows, labels=labels, parts=parts, groups=groups, times=times, notes=[*rows.notes, note])


def _require_same_cells(
    what: str,
    cells: list[str] | None,
    files: Sequence[str],
    firsts: np.ndarray,
    repeats: np.ndarray,
    name_row: Callable[[int], str],
) -> None:
    for row in repeats if cells is not None else ():
        first = int(firsts[row])
        if cells is not None and cells[row] != cells[first]:
            raise DataError(
                f"{name_row(first)} and {name_row(int(row))} name the same file, {files[row]}, with the {what} "
                f"'{cells[first]}' and '{cells[row]}'. Take one of the rows out."
            )


def _require_same_labels(
    labels: Values, files: Sequence[str], firsts: np.ndarray, repeats: np.ndarray, name_row: Callable[[int], str]
) -> None:
    others = repeats[differ(labels, repeats, firsts[repeats])]
    if len(others):
        row, first = int(others[0]), int(firsts[others[0]])
        raise DataError(
            f"{name_row(first)} and {name_row(row)} name the same file, {files[row]}, with the labels "
            f"'{show(labels, first)}' and '{show(labels, row)}' (such rows: {len(others):,}). If an image may have "
            "several labels, say task=multilabel; else take the wrong rows out."
        )
