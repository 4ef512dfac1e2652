"""What is to be learnt from the labels, and turning one task into another where the labels allow it."""

from __future__ import annotations

import numpy as np

from tellapart.data.sources.base import Source, require_two_classes
from tellapart.errors import ConfigError, unknown_name

TASKS = {
    "multiclass": "one class an image",
    "multilabel": "any number of classes an image",
    "regression": "one or more numbers an image",
}


def change_task(source: Source, task: str) -> None:
    """Make `source` a source for `task` where its labels allow it; "auto" and its own task change nothing.

    Multiclass becomes multilabel as one class set an image, and regression where every class name is a number.
    Multilabel becomes multiclass where each image has exactly one class. Regression becomes multiclass where all
    values are whole numbers, one an image: each value is then a class.

    Raises:
        ConfigError: no such task, or the labels do not allow it.
    """
    if task in ("auto", source.task):
        return
    if task not in TASKS:
        raise ConfigError([unknown_name("task", task, ["auto", *TASKS])])
    targets, classes = _CHANGES[source.task, task](source)
    source.task, source.targets, source.classes = task, targets, classes


def _impossible(source: Source, task: str, why: str) -> ConfigError:
    return ConfigError(
        [f"task='{task}' does not fit {source.name}: {why}. Leave task out, or set task='{source.task}'."]
    )


def _multiclass_to_multilabel(source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    return np.eye(len(source.classes), dtype=np.float32)[source.targets], source.classes


def _multiclass_to_regression(source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    values = np.array([_as_number(name) for name in source.classes], dtype=np.float32)
    if not np.isfinite(values).all():
        name = source.classes[int(np.argmin(np.isfinite(values)))]
        raise _impossible(source, "regression", f"the class name '{name}' is no number")
    return values[source.targets][:, None], ()


def _multilabel_to_multiclass(source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    counts = source.targets.sum(axis=1)
    if (counts != 1).any():
        row = int(np.argmax(counts != 1))
        raise _impossible(source, "multiclass", f"{source.paths[row]} has {int(counts[row])} classes, expected one")
    return source.targets.argmax(axis=1).astype(np.int64), source.classes


def _multilabel_to_regression(source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    return source.targets, ()


def _regression_to_multiclass(source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    values = source.targets
    if values.shape[1] != 1 or (values != np.round(values)).any():
        raise _impossible(source, "multiclass", "its targets are not one whole number an image")
    known, targets = np.unique(values[:, 0].astype(np.int64), return_inverse=True)
    require_two_classes(source.name, [str(value) for value in known])
    return targets.astype(np.int64), tuple(str(value) for value in known)


def _regression_to_multilabel(source: Source) -> tuple[np.ndarray, tuple[str, ...]]:
    if not np.isin(source.targets, (0, 1)).all():
        raise _impossible(source, "multilabel", "its targets are not all 0 or 1")
    return source.targets, tuple(str(index) for index in range(source.targets.shape[1]))


_CHANGES = {
    ("multiclass", "multilabel"): _multiclass_to_multilabel,
    ("multiclass", "regression"): _multiclass_to_regression,
    ("multilabel", "multiclass"): _multilabel_to_multiclass,
    ("multilabel", "regression"): _multilabel_to_regression,
    ("regression", "multiclass"): _regression_to_multiclass,
    ("regression", "multilabel"): _regression_to_multilabel,
}


def _as_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
