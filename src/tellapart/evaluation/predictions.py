"""The table of what a model said about each image, which every metric, report and calibration reads."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.errors import RunError, unknown_name
from tellapart.evaluation.calibration import apply_temperature

TASKS = ("multiclass", "multilabel", "regression")

# A class of a multi-label image is predicted when its probability is above this, where no threshold was chosen for it.
THRESHOLD = 0.5

_ROW_SUM_TOLERANCE = 1e-3
# The mean of several float32 probabilities can round to just above 1.
_RANGE_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about the images of one split, one row an image.

    Attributes:
        task: "multiclass", "multilabel" or "regression".
        classes: the names, one a column of `outputs`. A regression may have none, or one name a predicted number.
        indices: sample indices, int64 `(N,)`, each once.
        paths: where the images are, N of them. A path that is not valid Unicode may hold surrogates.
        targets: multiclass: class indices, int64 `(N,)`; multilabel: 0 or 1, float32 `(N, K)`; regression: true
            values, float32 `(N, K)`.
        outputs: float32 `(N, K)`: probabilities in [0, 1], of a multiclass row summing to one, or predicted values.
            They are what ships: the temperature is in them.
        num_given: how many images the split has, those that could not be read included; at least N.
        temperature: what the logits were divided by before they became `outputs`; 1 where nothing was calibrated, NaN
            where it is not known, or is not the same for all rows.
        thresholds: multilabel: above what probability each class is predicted, K numbers; none: 0.5 for each.
    """

    task: str
    classes: tuple[str, ...]
    indices: np.ndarray
    paths: list[str]
    targets: np.ndarray
    outputs: np.ndarray
    num_given: int
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def predicted(self) -> np.ndarray:
        """Return the predicted classes: multiclass int64 `(N,)`, ties to the lowest index; multilabel bool `(N, K)`.

        Raises:
            RunError: the task is a regression, which predicts no classes.
        """
        if self.task == "multiclass":
            return self.outputs.argmax(axis=1)
        if self.task == "multilabel":
            return self.outputs > np.array(self.thresholds or THRESHOLD, np.float64)
        raise RunError(f"predicted: expected a multiclass or multilabel table, found {self.task}: it has no classes.")

    def uncalibrated(self) -> Predictions:
        """Return the table as it was before the temperature; itself where that is 1 or not known.

        The thresholds move with the probabilities, so what is predicted stays what it was.
        """
        if self.temperature == 1.0 or math.isnan(self.temperature) or self.task == "regression":
            return self
        undone = 1.0 / self.temperature
        thresholds = apply_temperature(np.array(self.thresholds, np.float32), undone, "multilabel")
        return replace(
            self,
            outputs=apply_temperature(self.outputs, undone, self.task),
            temperature=1.0,
            thresholds=tuple(thresholds.tolist()),
        )

    def sorted_by_index(self) -> Predictions:
        """Return the same table in the order of the sample indices, which no number of workers or ranks changes."""
        order = np.argsort(self.indices, kind="stable")
        return replace(
            self,
            indices=self.indices[order],
            paths=[self.paths[i] for i in order],
            targets=self.targets[order],
            outputs=self.outputs[order],
        )

    def check(self, where: str | os.PathLike[str] = "predictions", advice: str = "Look at these images first.") -> None:
        """Raise a RunError that lists everything that is wrong with the table, if anything is."""
        # Values are only looked at once the shapes are right.
        problems = _shape_problems(self) or _value_problems(self)
        if problems:
            head = f"{os.fspath(where)}: this table of predictions cannot be used:"
            raise RunError("\n".join([head, *(f"  - {problem}" for problem in problems), advice]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as Parquet: to a temporary name, synced, then renamed.

        Columns: index, path, path_raw (UTF-8 with surrogates, only where `path` had to be escaped), class, target,
        predicted, prob (of the predicted class), and probabilities (of a regression: values). Task, classes, num_given,
        temperature and thresholds are JSON in the metadata of the schema, under `tellapart.predictions`, with a SHA-256
        of the contents.

        Raises:
            RunError: the table is not valid, so it could not be loaded again.
        """
        from tellapart.evaluation.predictions_file import write

        self.check(path)
        write(self, Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictions:
        """Read a table that `save` wrote; every array comes back with the same bits.

        Raises:
            RunError: there is no such file, it is damaged or of another kind, or its contents contradict each other.
        """
        from tellapart.evaluation.predictions_file import read

        return read(cls, Path(path))


def _shape_problems(p: Predictions) -> list[str]:
    if p.task not in TASKS:
        return [unknown_name("task", p.task, TASKS)]
    if p.outputs.ndim != 2:
        return [f"outputs: expected two axes (N, K), found {p.outputs.shape}"]
    problems = []
    n, num_outputs = len(p.indices), p.outputs.shape[1]
    if len(p.classes) != num_outputs and (p.classes or p.task != "regression"):
        problems.append(f"outputs: expected one column for each of {len(p.classes)} classes, found {num_outputs}")
    if len(p.paths) != n:
        problems.append(f"paths: expected {n}, one an index, found {len(p.paths)}")
    num_thresholds = num_outputs if p.task == "multilabel" and p.thresholds else 0
    if len(p.thresholds) != num_thresholds:
        problems.append(f"thresholds: expected {num_thresholds}, found {len(p.thresholds)}")
    target = (np.int64, (n,)) if p.task == "multiclass" else (np.float32, (n, num_outputs))
    expected = {"indices": (np.int64, (n,)), "targets": target, "outputs": (np.float32, (n, num_outputs))}
    for name, (dtype, shape) in expected.items():
        array = getattr(p, name)
        if array.dtype != dtype or array.shape != shape:
            problems.append(f"{name}: expected {np.dtype(dtype)} {shape}, found {array.dtype} {array.shape}")
    return problems


def _value_problems(p: Predictions) -> list[str]:
    problems = []
    if repeated := [name for name, count in Counter(p.classes).items() if count > 1]:
        problems.append(f"classes: expected every name once, found {_first(repeated)} more than once")
    indices, counts = np.unique(p.indices, return_counts=True)
    if (counts > 1).any():
        problems.append(f"indices: expected every image once, found {_first(indices[counts > 1])} more than once")
    if len(p) > p.num_given:
        problems.append(f"num_given: expected at least the {len(p)} images in the table, found {p.num_given}")
    if not (math.isnan(p.temperature) or 0 < p.temperature < math.inf):
        problems.append(f"temperature: expected a finite number above 0, found {p.temperature}")
    if outside := [threshold for threshold in p.thresholds if not 0 <= threshold <= 1]:
        problems.append(f"thresholds: expected numbers from 0 to 1, found {_first(outside)}")
    bad = {"outputs: expected finite numbers, found others": ~np.isfinite(p.outputs).all(axis=1)}
    if p.task == "multiclass":
        num_classes = len(p.classes)
        with np.errstate(invalid="ignore"):
            sums = p.outputs.sum(axis=1, dtype=np.float64)
        off = ~(np.abs(sums - 1) <= _ROW_SUM_TOLERANCE)
        bad[f"targets: expected 0 to {num_classes - 1}, found others"] = (p.targets < 0) | (p.targets >= num_classes)
        bad[f"outputs: expected probabilities that sum to 1 within {_ROW_SUM_TOLERANCE}, found other sums"] = off
    elif p.task == "multilabel":
        bad["targets: expected 0 or 1, found others"] = ~np.isin(p.targets, (0, 1)).all(axis=1)
    else:
        bad["targets: expected finite numbers, found others"] = ~np.isfinite(p.targets).all(axis=1)
    if p.task != "regression":
        outside = (p.outputs < -_RANGE_TOLERANCE) | (p.outputs > 1 + _RANGE_TOLERANCE)
        bad["outputs: expected probabilities from 0 to 1, found others"] = outside.any(axis=1)
    problems += [f"{text} for image {_first(p.indices[rows])}" for text, rows in bad.items() if rows.any()]
    return problems


def _first(items: Any, num_shown: int = 3) -> str:
    shown = ", ".join(repr(x) if isinstance(x, str) else str(x) for x in items[:num_shown])
    return shown if len(items) <= num_shown else f"{shown} and {len(items) - num_shown} more"
