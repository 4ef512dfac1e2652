"""Raw label values to targets, classes and a task, by one set of rules for every source that has only values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tellapart.data.sources.tables.values import Coded, Lists, Values
from tellapart.errors import DataError, unknown_name

# Above both, whole numbers look more like a quantity than like names of classes.
_MANY_CLASSES, _MANY_CLASSES_SHARE = 50, 0.2


class Labels(NamedTuple):
    """Targets as a `Source` holds them, the class names, the task, and notes for the user."""

    targets: np.ndarray
    classes: tuple[str, ...]
    task: str
    notes: list[str]


def understand(values: Values, classes: Sequence[str] | None, task: str, name: str) -> Labels:
    """Return what the label values mean.

    Strings and whole numbers are classes; a table of 0 and 1 with two or more columns is multilabel; floats are
    regression; lists of strings or whole numbers are multilabel, and lists of as many floats each regression.
    `task` decides where values could be read in two ways; what it cannot decide is left to `change_task`.

    Args:
        values: `(N,)` or `(N, K)`, strings, whole numbers, bool or floats; or strings as `Coded`; or `Lists`.
        classes: the names, index = label, or None for the sorted values that occur.
        task: "auto" or a key of `TASKS`.
        name: of the source, for errors.

    Raises:
        DataError: values of no use, NaN, or outside of `classes`.

    >>> understand(np.array(["cat", "ant", "cat"]), None, "auto", "pets")[:3]
    (array([1, 0, 1]), ('ant', 'cat'), 'multiclass')
    """
    if classes is not None:
        classes = _checked_classes(classes, name)
    if isinstance(values, Lists):
        table = values.as_table(task) if classes is None else None
        if table is None:
            return _lists(values, classes, name)
        values = table
    if isinstance(values, Coded):
        return _strings(values, classes, name)
    values = _checked_values(values, name)
    if values.ndim == 2 and values.shape[1] == 1 and values.dtype.kind != "f" and task != "multilabel":
        values = values[:, 0]
    is_number = values.dtype.kind != "U"
    if is_number and task == "regression" and classes is None:
        return Labels(_as_columns(values), (), "regression", [])
    if values.ndim == 2:
        return _table(values, classes, name)
    if values.dtype.kind == "f" and (task == "auto" or (values != np.round(values)).any()):
        is_whole = bool((values == np.round(values)).all())
        note = "the targets are floats, so the task is regression; whole numbers as integers would be classes."
        return Labels(_as_columns(values), (), "regression", [note] if is_whole else [])
    if is_number:
        return _numbers(values.astype(np.int64), classes, name)
    known, codes = np.unique(values, return_inverse=True)
    return _strings(Coded(tuple(known.tolist()), codes), classes, name)


def _checked_classes(classes: Sequence[str], name: str) -> tuple[str, ...]:
    names = tuple(str(label) for label in classes)
    if doubled := sorted({label for label in names if names.count(label) > 1}):
        raise DataError(f"{name}: class names must differ, found more than one '{doubled[0]}'.")
    return names


def _checked_values(values: np.ndarray, name: str) -> np.ndarray:
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind in "OT" and all(isinstance(value, str) for value in values.flat):
        values = values.astype(np.str_)
    is_wide = values.ndim == 2 and values.shape[1] > 1
    if values.dtype.kind not in "biufU" or values.ndim not in (1, 2) or (is_wide and values.dtype.kind == "U"):
        raise DataError(
            f"{name}: targets must be strings or whole numbers (N,), or numbers (N, K), "
            f"found {values.dtype} of shape {values.shape}."
        )
    if values.ndim == 2 and values.shape[1] == 0:
        raise DataError(f"{name}: targets have no columns: shape {values.shape}.")
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            wrong = ~np.isfinite(values.astype(np.float32)).reshape(len(values), -1).all(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(f"{name}: target {row} is {values[row]}; every target must be a finite float32.")
    return values


def _as_columns(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).reshape(len(values), -1)


def _table(values: np.ndarray, classes: tuple[str, ...] | None, name: str) -> Labels:
    if not np.isin(values, (0, 1)).all():
        if values.dtype.kind == "f":
            return Labels(_as_columns(values), (), "regression", [])
        raise DataError(
            f"{name}: whole-number targets of shape {values.shape} must be 0 or 1 (multilabel), found "
            f"{values.min()} to {values.max()}. For regression pass task='regression'."
        )
    if values.shape[1] == 1 and values.dtype.kind == "f":
        return Labels(_as_columns(values), (), "regression", [])
    names = classes or tuple(str(column) for column in range(values.shape[1]))
    if len(names) != values.shape[1]:
        raise DataError(f"{name}: {len(names)} class names but {values.shape[1]} columns of targets; expected as many.")
    return Labels(_as_columns(values), names, "multilabel", [])


def _lists(lists: Lists, classes: tuple[str, ...] | None, name: str) -> Labels:
    """Turn lists of classes into a table of 0 and 1, a column a class."""
    if isinstance(lists.values, np.ndarray) and lists.values.dtype.kind == "f":
        lengths = np.diff(lists.starts)
        row = int(np.argmax(lengths != lengths[0]))
        raise DataError(
            f"{name}: the list of target {row} has {lengths[row]} numbers, that of target 0 has {lengths[0]}; "
            "for regression each list must be as long."
        )
    flat = understand(lists.values, classes, "auto", name)
    targets = np.zeros((len(lists), len(flat.classes)), dtype=np.float32)
    targets[lists.rows(), flat.targets] = 1
    without = int((np.diff(lists.starts) == 0).sum())
    note = f"images without any label: {without:,}; each counts as one of none of the classes."
    return Labels(targets, flat.classes, "multilabel", [*flat.notes, note] if without else flat.notes)


def _numbers(values: np.ndarray, classes: tuple[str, ...] | None, name: str) -> Labels:
    if classes is None:
        known, targets = np.unique(values, return_inverse=True)
        names = tuple(str(value) for value in known)
        return Labels(targets.astype(np.int64), names, "multiclass", _notes_on_numbers(known, len(values)))
    outside = (values < 0) | (values >= len(classes))
    if outside.any():
        row = int(np.argmax(outside))
        expected = f"0 to {len(classes) - 1} for {len(classes)} classes"
        raise DataError(f"{name}: label {row} is {values[row]}; expected {expected}.")
    return Labels(values, classes, "multiclass", [])


def _notes_on_numbers(known: np.ndarray, count: int) -> list[str]:
    notes = []
    if not np.array_equal(known, np.arange(len(known))):
        first, last = known[0] if len(known) else "", known[-1] if len(known) else ""
        notes = [f"the labels are {first} to {last} with {len(known)} values; the classes are named after them."]
    if len(known) > max(_MANY_CLASSES, _MANY_CLASSES_SHARE * count):
        notes.append(
            f"the {count:,} labels are whole numbers of {len(known):,} values, each taken as a class; where they "
            "measure something, say task=regression."
        )
    return notes


def _strings(coded: Coded, classes: tuple[str, ...] | None, name: str) -> Labels:
    used = np.unique(coded.codes)
    names = [coded.names[code] for code in used]
    known = classes or tuple(sorted(names))
    place = {label: index for index, label in enumerate(known)}
    if strange := [label for label in sorted(names) if label not in place]:
        raise DataError(f"{name}: {unknown_name('class', strange[0], known)}")
    places = np.zeros(len(coded.names), dtype=np.int64)
    places[used] = [place[label] for label in names]
    return Labels(places[coded.codes], known, "multiclass", [])
