"""What is taken for what: the confusion matrix, and the most confused pairs with pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tellapart.auditing.findings import printable
from tellapart.evaluation.metrics import confusion_matrix
from tellapart.evaluation.predictions import Predictions
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import Section, render

# More columns than this no screen shows side by side.
MOST_CLASSES = 30
_MOST_PAIRS = 6
_MOST_ROWS = 150
_PICTURES_PER_PAIR = 4
# So many short names stand beside each other; more are turned upright.
_MOST_LEVEL = 6
_MOST_LEVEL_LETTERS = 8


def section(facts: RunFacts, pictures: Pictures) -> Section | None:
    """Return the matrix of the split that the answer is of; None for numbers, which are not confused."""
    table = facts.predictions[facts.judged_on]
    if table.task == "regression":
        return None
    if table.task == "multilabel":
        rows = hits(table)
        left_out = max(0, len(rows) - _MOST_ROWS)
        html = render("hits.html", rows=rows[:_MOST_ROWS], num_left_out=left_out, split=facts.judged_on)
        return Section("confusion", "Hits and misses", html)
    matrix = confusion_matrix(table)
    shown = most_confused(matrix)
    pairs = [_pair(table, matrix, true, given, pictures) for true, given in confused_pairs(matrix)[:_MOST_PAIRS]]
    return Section(
        "confusion",
        "Confusion matrix",
        render(
            "confusion.html",
            matrix=_matrix(table, matrix, shown),
            num_mistakes=int(matrix.sum() - matrix.trace()),
            num_images=len(table),
            num_classes=len(table.classes),
            split=facts.judged_on,
            pairs=pairs,
        ),
    )


def confused_pairs(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Return every (true, given) that was confused, the most frequent first; equal ones by their share of the class.

    >>> confused_pairs(np.array([[5, 2], [1, 3]]))
    [(0, 1), (1, 0)]
    """
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    true, given = np.nonzero(wrong)
    shares = wrong[true, given] / matrix.sum(axis=1)[true]
    order = np.lexsort((given, true, -shares, -wrong[true, given]))
    return [(int(true[i]), int(given[i])) for i in order]


def most_confused(matrix: np.ndarray, most: int = MOST_CLASSES) -> list[int]:
    """Return the classes to show, ascending: all, or those of the most confused pairs, up to `most`.

    >>> most_confused(np.array([[5, 0, 0], [0, 3, 1], [0, 0, 3]]), 2)
    [1, 2]
    """
    if len(matrix) <= most:
        return list(range(len(matrix)))
    chosen: dict[int, None] = {}
    for pair in confused_pairs(matrix):
        if len({*chosen, *pair}) > most:
            break
        chosen |= dict.fromkeys(pair)
    return sorted(chosen)


def _matrix(table: Predictions, matrix: np.ndarray, shown: Sequence[int]) -> dict[str, Any]:
    totals = matrix.sum(axis=1)
    rows = []
    for true in shown:
        total = int(totals[true])
        cells = []
        for given in shown:
            number = int(matrix[true, given])
            kind = "d" if true == given else "m" if number else "z"
            # Mistakes are small shares: their root tells them apart where their share would leave all of them pale.
            heat = 0.0 if not number else number / total if kind == "d" else (number / total) ** 0.5
            cells.append((given, kind, number, f"{heat:.2f}".lstrip("0") if heat else ""))
        recall = matrix[true, true] / total if total else None
        elsewhere = total - sum(cell[2] for cell in cells)
        name = printable(table.classes[true])
        rows.append({"k": true, "name": name, "n": total, "recall": recall, "cells": cells, "elsewhere": elsewhere})
    names = [(k, printable(table.classes[k])) for k in shown]
    is_level = len(names) <= _MOST_LEVEL and all(len(name) <= _MOST_LEVEL_LETTERS for _, name in names)
    return {"rows": rows, "names": names, "is_partial": len(shown) < len(matrix), "is_level": is_level}


def _pair(table: Predictions, matrix: np.ndarray, true: int, given: int, pictures: Pictures) -> dict[str, Any]:
    """Return a pair of classes in words, with the images that it was surest of."""
    places = np.flatnonzero((table.targets == true) & (table.predicted() == given))
    sure = places[np.argsort(-table.outputs[places, given], kind="stable")][:_PICTURES_PER_PAIR]
    total = int(matrix[true].sum())
    shown = [
        {
            "uri": pictures.uri_of_path(table.paths[place]),
            "alt": f"{table.paths[place]}: {table.classes[true]}, taken for {table.classes[given]} "
            f"with {table.outputs[place, given]:.0%}",
            "prob": float(table.outputs[place, given]),
        }
        for place in sure
    ]
    return {
        "true": table.classes[true],
        "given": table.classes[given],
        "count": int(matrix[true, given]),
        "total": total,
        "share": matrix[true, given] / total,
        "back": int(matrix[given, true]),
        "images": [image for image in shown if image["uri"]],
    }


def hits(table: Predictions) -> list[dict[str, Any]]:
    """Return of each class of a multi-label table how often it was found, missed, and seen where it is not.

    The classes with most mistakes come first.
    """
    truth, guess = table.targets > 0, np.asarray(table.predicted(), dtype=bool)
    counts = [(truth & guess).sum(0), (truth & ~guess).sum(0), (~truth & guess).sum(0)]
    rows = [
        {"name": name, "hits": int(a), "misses": int(b), "alarms": int(c), "wrong": int(b + c)}
        for name, a, b, c in zip(table.classes, *counts, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["wrong"])
