"""Whether two tables of predictions are of the same images, and the rows of one in the order of the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tellapart.errors import RunError
from tellapart.evaluation.predictions import Predictions

_NUM_SHOWN = 3


def align(
    first: Predictions,
    second: Predictions,
    names: tuple[str, str] = ("A", "B"),
    hashes: tuple[Mapping[str, str] | None, Mapping[str, str] | None] = (None, None),
) -> Predictions:
    """Return the rows of `second` in the order of `first`, or say in which ways the two are not of the same images.

    An image is known by its path, or by its index where a table from elsewhere has no paths. Classes go by name: in
    another order they are the same, and the columns of what is returned are in the order of `first`.

    Args:
        first: a table.
        second: another one.
        names: how they are called in the error.
        hashes: of the pixels of each image by its path, or None where they are not known.

    Raises:
        RunError: another task, classes, images, labels or pixels; everything that differs, with examples.
    """
    problems = _kind_problems(first, second, names)
    if not problems:
        first, second = _with_paths(first, second), _with_paths(second, first)
        second = _with_classes_of(second, first.classes)
        rows, problems = _match(first, second, names)
        if not problems:
            second = _in_order(second, rows)
            problems = _content_problems(first, second, names, hashes)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise RunError(
            f"{names[0]} and {names[1]} cannot be compared, because they are not of the same images:\n{listed}"
        )
    return second


def _kind_problems(first: Predictions, second: Predictions, names: tuple[str, str]) -> list[str]:
    if first.task != second.task:
        return [f"{names[0]} is a {first.task} task, {names[1]} a {second.task} task"]
    if first.task == "regression" and not (first.classes and second.classes):
        widths = first.outputs.shape[1], second.outputs.shape[1]
        same = f"{names[0]} predicts {widths[0]} numbers an image, {names[1]} {widths[1]}"
        return [same] if widths[0] != widths[1] else []
    what = "numbers" if first.task == "regression" else "classes"
    return [
        f"{what} only in {name}: {_some(sorted(set(one.classes) - set(other.classes)))}"
        for name, one, other in ((names[0], first, second), (names[1], second, first))
        if set(one.classes) - set(other.classes)
    ]


def _with_paths(table: Predictions, other: Predictions) -> Predictions:
    """Return the table with the paths of the other's images of the same index, where it has indices alone."""
    if table.paths != [f"index {index}" for index in table.indices]:
        return table
    known = dict(zip(other.indices.tolist(), other.paths, strict=True))
    return replace(table, paths=[known.get(index, f"index {index}") for index in table.indices.tolist()])


def _with_classes_of(table: Predictions, classes: tuple[str, ...]) -> Predictions:
    """Return the table with its columns in the order of `classes`, which it has in some order."""
    if table.classes == classes or not table.classes or not classes:
        return table
    order = [table.classes.index(name) for name in classes]
    targets = np.argsort(order)[table.targets] if table.task == "multiclass" else table.targets[:, order]
    thresholds = tuple(table.thresholds[place] for place in order) if table.thresholds else ()
    return replace(table, classes=classes, outputs=table.outputs[:, order], targets=targets, thresholds=thresholds)


def _match(first: Predictions, second: Predictions, names: tuple[str, str]) -> tuple[list[int], list[str]]:
    """Return the row of `second` for each row of `first`, or what keeps them from being matched."""
    repeated = [
        f"{name} names the same image in several rows: {_some(again)}"
        for name, table in zip(names, (first, second), strict=True)
        if (again := [path for path, count in Counter(table.paths).items() if count > 1])
    ]
    if repeated:
        is_same = first.paths == second.paths and np.array_equal(first.indices, second.indices)
        return list(range(len(first))), [] if is_same else repeated
    place = {path: row for row, path in enumerate(second.paths)}
    known = set(first.paths)
    only_first = [path for path in first.paths if path not in place]
    only_second = [path for path in second.paths if path not in known]
    problems = [
        f"{_images(len(only))} only in {name}: {_some(only)}"
        for name, only in zip(names, (only_first, only_second), strict=True)
        if only
    ]
    if problems:
        num_both = len(first) - len(only_first)
        return [], [*problems, f"{_images(num_both)} in both" if num_both else "no image in both"]
    return [place[path] for path in first.paths], []


def _in_order(table: Predictions, rows: Sequence[int]) -> Predictions:
    order = np.array(rows, dtype=np.int64)
    return replace(
        table,
        indices=table.indices[order],
        paths=[table.paths[row] for row in rows],
        targets=table.targets[order],
        outputs=table.outputs[order],
    )


def _content_problems(
    first: Predictions,
    second: Predictions,
    names: tuple[str, str],
    hashes: tuple[Mapping[str, str] | None, Mapping[str, str] | None],
) -> list[str]:
    """Return what differs between two tables with the same images in the same order."""
    problems = []
    is_other = (first.targets != second.targets).reshape(len(first), -1).any(axis=1)
    if is_other.any():
        shown = [
            f"{first.paths[row]} ({_labels(first, second, row, names)})" for row in np.flatnonzero(is_other).tolist()
        ]
        problems.append(f"{_images(len(shown))} with another label: {_some(shown)}")
    if hashes[0] is not None and hashes[1] is not None:
        pairs = ((path, hashes[0].get(path), hashes[1].get(path)) for path in first.paths)
        changed = [path for path, one, other in pairs if one and other and one != other]
        if changed:
            problems.append(f"{_images(len(changed))} with other pixels under the same path: {_some(changed)}")
    return problems


def _labels(first: Predictions, second: Predictions, row: int, names: tuple[str, str]) -> str:
    return ", ".join(f"{_label(table, row)} in {name}" for table, name in zip((first, second), names, strict=True))


def _label(table: Predictions, row: int) -> str:
    target = table.targets[row]
    if table.task == "multiclass":
        return repr(table.classes[int(target)])
    if table.task == "regression":
        return " ".join(f"{value:g}" for value in target)
    return "+".join(table.classes[place] for place in np.flatnonzero(target)) or "none"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - _NUM_SHOWN:,} more" if len(items) > _NUM_SHOWN else ""
    return ", ".join(map(_printable, items[:_NUM_SHOWN])) + more


def _printable(text: str) -> str:
    r"""Return text for a line of a terminal: what it cannot show, such as a byte that is not Unicode, is written out.

    >>> print(_printable("two\nlines"))
    two\nlines
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
