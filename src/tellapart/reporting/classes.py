"""Each class by itself: precision, recall, F1, AUC and average precision, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tellapart.auditing.findings import printable
from tellapart.evaluation.metrics import per_class_table
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import Section, render

# More rows than this nobody reads, and a thousand of them would be a megabyte of bars.
MOST_CLASSES = 150
_COLUMNS = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "roc_auc": "AUC",
    "average_precision": "average precision",
}


def section(facts: RunFacts, pictures: Pictures) -> Section | None:
    """Return the table of the split that the answer is of; None for numbers, which have no classes."""
    table = facts.predictions[facts.judged_on]
    if table.task == "regression":
        return None
    rows = per_class_table(table, seed=facts.config.seed)
    columns = {key: title for key, title in _COLUMNS.items() if any(row.get(key) is not None for row in rows)}
    shown = weakest(rows)
    return Section(
        "classes",
        "Class by class",
        render(
            "classes.html",
            rows=[_row(row, columns) for row in shown],
            columns=list(columns.values()),
            split=facts.judged_on,
            num_left_out=len(rows) - len(shown),
        ),
    )


def weakest(rows: Sequence[Mapping[str, Any]], most: int = MOST_CLASSES) -> list[Mapping[str, Any]]:
    """Return all rows in their order, or, where there are more than `most`, those with the least F1 in theirs."""
    if len(rows) <= most:
        return list(rows)
    # A class that nothing is known of is not the weakest; it comes last.
    order = sorted(range(len(rows)), key=lambda i: (rows[i].get("f1") is None, rows[i].get("f1") or 0.0, i))
    return [rows[i] for i in order[:most]]


def _row(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    cells = [{"value": row.get(key), "low": row.get(f"{key}_low"), "high": row.get(f"{key}_high")} for key in columns]
    return {"name": printable(str(row["class"])), "support": row["support"], "cells": cells}
