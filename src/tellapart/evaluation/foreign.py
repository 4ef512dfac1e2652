"""Tables of predictions that anything may have written, read as our own: CSV, TSV or Parquet."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.errors import RunError, nearest
from tellapart.evaluation.foreign_file import ForeignTable, is_ours, listed, number, read_parquet, read_text
from tellapart.evaluation.predictions import Predictions

ENDINGS = (".csv", ".tsv", ".parquet")
_TRUE_COLUMNS = ("class", "label", "target", "true", "true_class", "true_label", "y_true")
_LIST_COLUMNS = ("probabilities", "probs")
_PREFIXES = ("prob_", "p_", "probability_")
# What tables of predictions have beside probabilities; such a column is a class only with a prefix.
_OTHER_COLUMNS = {
    *_TRUE_COLUMNS,
    *_LIST_COLUMNS,
    *("path", "path_raw", "index", "", "predicted", "prediction", "prob", "confidence", "split", "correct", "loss"),
}
# Sums that are off by no more than this were rounded when they were written; by more, they are no probabilities.
_SUM_TOLERANCE = 1e-3


def is_table(path: Any) -> bool:
    """Return whether what a user named is a file that may hold a table of predictions, by its ending."""
    return isinstance(path, str | os.PathLike) and Path(path).suffix.lower() in ENDINGS and not Path(path).is_dir()


def read_table(path: str | os.PathLike[str], classes: Sequence[str] = ()) -> Predictions:
    """Return a table of predictions that Tellapart or anything else wrote.

    A table of others has a row an image and needs these columns, in any order:

    - `class`, `label` or `target`: the true class, by name;
    - the probability of each class: a column a class, named as it or `prob_` and its name; or one column
      `probabilities` of lists, in CSV such as `[0.1, 0.9]`, whose order `classes` tells.

    `path` and `index` name the image, where they are there. In a CSV file the cells may stand between commas,
    semicolons or tabs; with semicolons a decimal comma is read too. Other columns are passed over.

    Args:
        path: the file.
        classes: the names for a column of lists, in its order; by default the true classes in the order of the
            alphabet (of numbers: from the lowest), if there are as many.

    Raises:
        RunError: what keeps it from being read, with the row and the column. Rows are counted as spreadsheets do: the
            first below the header of a text file is 2, the first of a Parquet file 1.
    """
    path = Path(path)
    if not path.is_file():
        raise RunError(f"{path}: expected a table of predictions ({', '.join(ENDINGS)}), found no such file.")
    if path.suffix.lower() not in ENDINGS:
        raise RunError(f"{path}: expected a table of predictions, a file that ends in {', '.join(ENDINGS)}.")
    if path.suffix.lower() == ".parquet":
        if is_ours(path):
            return Predictions.load(path)
        table = read_parquet(path)
    else:
        table = read_text(path)
    if not table.num_rows:
        raise table.fail("expected a row an image, found none below the header.")
    truth = _true_names(table)
    names, outputs = _probabilities(table, truth, classes)
    place = {name: k for k, name in enumerate(names)}
    unknown = [row for row, name in enumerate(truth) if name not in place]
    if unknown:
        name, more = truth[unknown[0]], f" (and {len(unknown) - 1:,} rows more)" if len(unknown) > 1 else ""
        guess = nearest(name, names)
        hint = f" Did you mean '{guess}'?" if guess else ""
        raise table.fail(
            f"row {table.row(unknown[0])}{more}: the true class is '{name}', but there is no probability of it.{hint} "
            f"The probabilities are of: {listed(names)}."
        )
    _require_probabilities(table, names, outputs)
    paths, indices = _images(table)
    return Predictions(
        task="multiclass",
        classes=tuple(names),
        indices=indices,
        paths=paths,
        targets=np.array([place[name] for name in truth], dtype=np.int64),
        outputs=outputs.astype(np.float32),
        num_given=table.num_rows,
    )


def _true_names(table: ForeignTable) -> list[str]:
    by_name = {name.lower(): name for name in table.columns}
    column = next((by_name[name] for name in _TRUE_COLUMNS if name in by_name), None)
    if column is None:
        guesses = [nearest(wanted, by_name) for wanted in _TRUE_COLUMNS[:3]]
        guess = next((by_name[found] for found in guesses if found), None)
        hint = f" Is it '{guess}'? Rename that column." if guess else ""
        raise table.fail(
            "expected a column with the true class, called class, label or target; "
            f"found: {listed(table.columns)}.{hint}"
        )
    names = []
    for place, value in enumerate(table.columns[column]):
        # What pandas makes of whole numbers where a row lacks one.
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        if value is None or text in ("", "nan"):
            raise table.fail(f"row {table.row(place)}, column {column}: expected the true class, found nothing.")
        names.append(text)
    return names


def _probabilities(table: ForeignTable, truth: list[str], classes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the classes and their probabilities, float64 `(N, K)`, from a column a class or from a column of lists."""
    if lists := next((name for name in table.columns if name.lower() in _LIST_COLUMNS), None):
        return _from_lists(table, lists, truth, classes)
    for prefix in _PREFIXES:
        columns = {name[len(prefix) :]: name for name in table.columns if name.lower().startswith(prefix)}
        if len(columns) > 1:
            break
    else:
        columns = {
            name: name for name in table.columns if name.lower() not in _OTHER_COLUMNS and _is_numeric(table, name)
        }
        columns |= {name: name for name in truth if name in table.columns}
    if len(columns) < 2:
        shown = listed(sorted(set(truth)))
        raise table.fail(
            "expected a column of probabilities for each class, named as the class or prob_CLASS (true classes: "
            f"{shown}); found: {listed(table.columns)}."
        )
    return list(columns), np.stack([_numbers(table, name) for name in columns.values()], axis=1)


def _is_numeric(table: ForeignTable, name: str) -> bool:
    """Return whether a column begins with numbers; a later cell that is none is then an error, and named."""
    try:
        for value in table.columns[name][:3]:
            number(value, table.has_decimal_commas)
    except (TypeError, ValueError):
        return False
    return True


def _numbers(table: ForeignTable, name: str) -> np.ndarray:
    found = np.empty(table.num_rows)
    for place, value in enumerate(table.columns[name]):
        try:
            found[place] = number(value, table.has_decimal_commas)
        except (TypeError, ValueError):
            what = "nothing" if value is None or value == "" else repr(value)
            raise table.fail(f"row {table.row(place)}, column {name}: expected a probability, found {what}.") from None
    return found


def _from_lists(
    table: ForeignTable, column: str, truth: list[str], classes: Sequence[str]
) -> tuple[list[str], np.ndarray]:
    rows = []
    for place, value in enumerate(table.columns[column]):
        try:
            cells = re.split(r"[\s,;]+", value.strip(" [](){}\t\n")) if isinstance(value, str) else value
            rows.append([float(cell) for cell in cells])
        except (TypeError, ValueError):
            found = "nothing" if value in (None, "") else f"{value!r:.60}"
            raise table.fail(
                f"row {table.row(place)}, column {column}: expected a list of probabilities, found {found}."
            ) from None
        if len(rows[-1]) != len(rows[0]):
            raise table.fail(
                f"row {table.row(place)}, column {column}: expected {len(rows[0])} probabilities, as in the first row, "
                f"found {len(rows[-1])}."
            )
    # As scikit-learn orders them.
    names = list(classes) or sorted(set(truth), key=lambda name: (int(name), "") if name.isdecimal() else (-1, name))
    if len(names) != len(rows[0]):
        said = "classes were named" if classes else "true classes are in the table"
        raise table.fail(
            f"column {column}: has {len(rows[0])} probabilities an image, but {len(names)} {said} ({listed(names)}). "
            "Name the classes in the order of the probabilities: --classes A,B,C."
        )
    return names, np.array(rows)


def _require_probabilities(table: ForeignTable, names: list[str], outputs: np.ndarray) -> None:
    """Raise a RunError with the first row that is no probabilities, and what its numbers look like instead."""
    bad = np.argwhere(~np.isfinite(outputs))
    if len(bad):
        row, k = bad[0]
        count = len(np.unique(bad[:, 0]))
        raise table.fail(
            f"row {table.row(row)}, column of '{names[k]}': expected a probability, found {outputs[row, k]}"
            f"{f' ({count:,} rows have such)' if count > 1 else ''}. Leave out images without a prediction."
        )
    sums = outputs.sum(axis=1)
    outside = (outputs < 0).any(axis=1) | (outputs > 1 + _SUM_TOLERANCE).any(axis=1)
    wrong = np.flatnonzero(outside | (np.abs(sums - 1) > _SUM_TOLERANCE))
    if len(wrong):
        row = wrong[0]
        raise table.fail(
            f"row {table.row(row)}: the probabilities of the {len(names)} classes sum to {sums[row]:.6g}, expected 1 "
            f"({len(wrong):,} of {len(sums):,} rows do not fit). {_looks_like(outputs, sums, wrong)} Columns taken as "
            f"classes: {listed(names)}."
        )


def _looks_like(outputs: np.ndarray, sums: np.ndarray, wrong: np.ndarray) -> str:
    if (outputs >= 0).all() and (np.abs(sums - 100) < 1).all():
        return "They look like percentages: divide them by 100."
    if (outputs < 0).any():
        return "With numbers below 0 they look like logits: take the softmax of each row."
    if (np.abs(sums[wrong] - 1) < 0.05).all():
        return "They look rounded: write them with at least 5 decimals."
    if (outputs <= 1).all():
        return "They may be of labels that do not exclude each other, or a column may be no class."
    return "They look like logits or counts: take the softmax of logits, divide counts by their sum."


def _images(table: ForeignTable) -> tuple[list[str], np.ndarray]:
    by_name = {name.lower(): name for name in table.columns}
    paths = [f"row {table.row(place)}" for place in range(table.num_rows)]
    indices = np.arange(table.num_rows, dtype=np.int64)
    if "index" in by_name:
        numbers = _numbers(table, by_name["index"])
        whole = np.isfinite(numbers) & (numbers == np.round(numbers))
        if not whole.all():
            row = table.row(int(np.flatnonzero(~whole)[0]))
            raise table.fail(f"row {row}, column {by_name['index']}: expected a whole number.")
        indices = numbers.astype(np.int64)
        _require_unique(table, by_name["index"], indices.tolist())
        paths = [f"index {index}" for index in indices]
    if "path" in by_name:
        paths = [str(value) for value in table.columns[by_name["path"]]]
        _require_unique(table, by_name["path"], paths)
    return paths, indices


def _require_unique(table: ForeignTable, column: str, values: Sequence[Any]) -> None:
    first: dict[Any, int] = {}
    for place, value in enumerate(values):
        if value in first:
            raise table.fail(
                f"rows {table.row(first[value])} and {table.row(place)}: both have '{value}' in column {column}; "
                "expected every image once."
            )
        first[value] = place
