"""The cells of a table's columns as labels, parts, groups and times, the same way for every kind of table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tellapart.data.sources.tables.columns import Columns, class_names, is_text
from tellapart.data.sources.tables.divisions import group_cells, part_cells, time_cells
from tellapart.data.sources.tables.table import Table, as_array, plain, rows_named, text_lengths, trimmed
from tellapart.data.sources.tables.values import Coded, Lists, Values, join, kind_of
from tellapart.errors import DataError

_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_COMMA_NUMBER = re.compile(r"[+-]?[0-9]+,[0-9]+")


@dataclass(frozen=True)
class Rows:
    """What the cells of a table say, a row a sample.

    `classes` are the names that metadata gives, index = label; `where` is the table, for errors.
    """

    labels: Values
    classes: tuple[str, ...] | None = None
    parts: list[str] | None = None
    groups: list[str] | None = None
    times: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    where: str = ""

    def __len__(self) -> int:
        return len(self.labels.codes) if isinstance(self.labels, Coded) else len(self.labels)


def read_columns(table: Table, names: Sequence[str]) -> pa.Table:
    """Return some columns of a table, all rows.

    Raises:
        DataError: one is not there, as where several files differ.
    """
    if lacking := [name for name in names if name not in table.schema.names]:
        found = ", ".join(table.schema.names)
        raise DataError(f"{table.path}: expected the column '{lacking[0]}' as in the other files, found {found}.")
    return table.read(list(dict.fromkeys(names)))


def understand_cells(table: Table, data: pa.Table, columns: Columns, separator: str, task: str) -> Rows:
    """Return what the cells of all columns but that of the images say.

    Args:
        table: where they come from, for messages and metadata.
        data: the columns, read.
        columns: which is which.
        separator: the sign between several labels in one cell, or "".
        task: "auto" or a key of `TASKS`; decides whether decimals are names of classes.

    Raises:
        DataError: a label is missing, or a cell cannot be what its column says.
    """
    notes: list[str] = []
    labels = [_labels(table, data, name, separator, task, notes) for name in columns.labels]
    classes = class_names(table.schema, columns.labels[0]) if len(labels) == 1 else None
    values = labels[0]
    if len(labels) > 1:
        values, classes = _side_by_side(table, columns.labels, labels, task)
    elif classes is not None:
        require_in_range(values, classes, str(table.path))
    return Rows(
        values,
        classes,
        part_cells(table, data, columns.split) if columns.split else None,
        group_cells(table, data, columns.group) if columns.group else None,
        time_cells(table, data, columns.time) if columns.time else None,
        notes,
        str(table.path),
    )


def join_rows(rows: Sequence[Rows], where: str) -> Rows:
    """Bring several tables together, their labels by name where metadata names classes.

    Raises:
        DataError: the tables hold different kinds of labels, or labels outside of the names.
    """
    filled = [part for part in rows if len(part)] or list(rows[:1])
    kinds = sorted({kind_of(part.labels) for part in filled})
    if len(kinds) > 1:
        raise DataError(f"{where}: the labels are {' in one file and '.join(kinds)} in another.")
    labels, classes, notes = _join_labels(rows, filled)

    def joined(cells: list[list[str] | None]) -> list[str] | None:
        if not any(part is not None for part in cells):
            return None
        return [cell for part, own in zip(rows, cells, strict=True) for cell in own or [""] * len(part)]

    return Rows(
        labels,
        classes,
        joined([part.parts for part in rows]),
        joined([part.groups for part in rows]),
        joined([part.times for part in rows]),
        [*notes, *(note for part in rows for note in part.notes)],
        where,
    )


def _join_labels(rows: Sequence[Rows], filled: Sequence[Rows]) -> tuple[Values, tuple[str, ...] | None, list[str]]:
    named = [part.classes for part in rows if part.classes is not None]
    if not named or (len(set(named)) == 1 and isinstance(filled[0].labels, np.ndarray) and filled[0].labels.ndim == 2):
        return join([part.labels for part in filled]), named[0] if named else None, []
    classes = tuple(dict.fromkeys(label for names in named for label in names))
    places = {label: index for index, label in enumerate(classes)}
    renumbered = []
    for part in filled:
        names, labels = part.classes or named[0], part.labels
        numbers = require_in_range(labels, names, part.where)
        numbers = np.array([places[label] for label in names], dtype=np.int64)[numbers]
        renumbered.append(Lists(numbers, labels.starts) if isinstance(labels, Lists) else numbers)
    notes = ["the files list different class names; they were brought together by name."] if len(set(named)) > 1 else []
    return join(renumbered), classes, notes


def require_in_range(labels: Values, classes: Sequence[str], where: str) -> np.ndarray:
    """Return labels, those of lists one after another, after a check that they number class names.

    Raises:
        DataError: they are no whole numbers, or one is outside of the names.
    """
    flat = labels.values if isinstance(labels, Lists) else labels
    if isinstance(flat, Coded | Lists) or flat.dtype.kind != "i":
        raise DataError(f"{where}: labels with class names must be whole numbers, found {kind_of(labels)}.")
    outside = (flat < 0) | (flat >= len(classes))
    if outside.any():
        place = int(np.argmax(outside))
        row = labels.rows()[place] if isinstance(labels, Lists) else place
        hint = " -1 marks unlabelled images: leave that file out." if flat[place] == -1 else ""
        raise DataError(
            f"{where}, row {row}: the label is {flat[place]}, expected 0 to {len(classes) - 1} "
            f"for {len(classes)} classes.{hint}"
        )
    return flat


def _labels(table: Table, data: pa.Table, name: str, separator: str, task: str, notes: list[str]) -> Values:
    column = plain(data.column(name))
    where = f"{table.path}: the column '{name}'"
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        column = column.cast(pa.string())
    if is_text(column.type):
        column = _trimmed(column, f"the column '{name}'", notes) if table.is_text else column
        if separator:
            column = pc.call_function("split_pattern", [column], pc.SplitPatternOptions(separator))
    _require_filled(table, column, name, may_be_empty=bool(separator))
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        if separator and not is_text(data.column(name).type):
            notes.append(f"the column '{name}' holds lists already; the separator was not needed.")
        return _lists(column, table.is_text or bool(separator), task, where)
    if is_text(column.type) and table.is_text:
        _note_signs(column, name, notes)
    return _flat(column, table.is_text, task, where)


def _trimmed(column: pa.ChunkedArray, what: str, notes: list[str]) -> pa.ChunkedArray:
    taken_off = trimmed(column)
    if not taken_off.equals(column):
        notes.append(f"blanks around the cells of {what} were taken off.")
    return taken_off


def _require_filled(table: Table, column: pa.ChunkedArray, name: str, *, may_be_empty: bool) -> None:
    empty = as_array(column.is_null())
    if is_text(column.type) and not may_be_empty and not column.null_count:
        empty = as_array(text_lengths(column)) == 0
    rows = np.flatnonzero(empty)
    if len(rows):
        raise DataError(
            f"{table.path}, {rows_named(table.first_row, rows)}: '{name}' is null or empty; every row needs a label. "
            "Fill it in, or drop such rows first."
        )


def _flat(column: pa.ChunkedArray | pa.Array, may_be_numbers: bool, task: str, where: str) -> np.ndarray | Coded:
    kind = column.type
    if is_text(kind):
        text = column.cast(pa.large_string())
        encoded = (text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text).dictionary_encode()
        coded = Coded(tuple(encoded.dictionary.to_pylist()), as_array(encoded.indices).astype(np.int64))
        return _numbers_in(coded, task) if may_be_numbers else coded
    try:
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return as_array(column.cast(pa.int64()))
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return as_array(column.cast(pa.float64()))
    except pa.ArrowException as error:
        raise DataError(f"{where} holds numbers that are too large: {error}") from error
    raise DataError(f"{where} must hold whole numbers, strings, floats or lists of those, found {kind}.")


def _numbers_in(coded: Coded, task: str) -> np.ndarray | Coded:
    """Return text as numbers where every cell is one; decimals stay names where the task says classes."""
    names = coded.names
    if names and all(_WHOLE.fullmatch(name) for name in names):
        return np.array([int(name) for name in names], dtype=np.int64)[coded.codes]
    if names and all(_COMMA_NUMBER.fullmatch(name) or _WHOLE.fullmatch(name) for name in names):
        names = tuple(name.replace(",", ".") for name in names)
    if not names or not all(_NUMBER.fullmatch(name) for name in names):
        return coded
    numbers = np.array([float(name) for name in names])
    has_leading_zero = any(_WHOLE.fullmatch(name) is None and name.lstrip("+-").isdigit() for name in names)
    if has_leading_zero or (task in ("multiclass", "multilabel") and (numbers != np.round(numbers)).any()):
        return coded
    return numbers[coded.codes]


def _lists(column: pa.ChunkedArray, may_be_numbers: bool, task: str, where: str) -> Lists:
    array = column.combine_chunks()
    flat = plain(pa.chunked_array([array.flatten()])).combine_chunks()
    lengths = np.diff(as_array(array.offsets)).astype(np.int64)
    if pa.types.is_null(flat.type):
        flat = flat.cast(pa.string())
    if flat.null_count:
        raise DataError(f"{where} has a list with a null in it. Take it out.")
    if is_text(flat.type):
        flat = trimmed(flat) if may_be_numbers else flat
        kept = as_array(text_lengths(flat)) > 0
        owners = np.repeat(np.arange(len(lengths)), lengths)[kept]
        lengths, flat = np.bincount(owners, minlength=len(lengths)), flat.filter(pa.array(kept.tolist(), pa.bool_()))
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Lists(_flat(flat, may_be_numbers, task, where), starts)


def _note_signs(column: pa.ChunkedArray, name: str, notes: list[str]) -> None:
    """Point out cells that look like several labels, whose pieces occur in other cells."""
    texts = set(column.unique().to_pylist())
    for sign in "|;,":
        several = [text for text in texts if sign in text]
        if several and any(piece.strip() in texts for text in several for piece in text.split(sign)):
            example = min(several)
            notes.append(
                f"labels such as '{example}' in '{name}' were each taken as one class; label_separator='{sign}' makes "
                "them several."
            )
            return


def _side_by_side(
    table: Table, names: tuple[str, ...], columns: Sequence[Values], task: str
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """Return several columns of numbers as one table; of 0 and 1 alone, the columns' names are the classes."""
    arrays = []
    for name, column in zip(names, columns, strict=True):
        if not isinstance(column, np.ndarray):
            raise DataError(f"{table.path}: of several label columns each must hold numbers, '{name}' does not.")
        arrays.append(column)
    values = np.stack(arrays, axis=1)
    if np.isin(values, (0, 1)).all() and task != "regression":
        return values.astype(np.int64), names
    return values.astype(np.float64), None
