"""The metrics of each class on its own, each with its interval."""

from __future__ import annotations

import numpy as np

from tellapart.errors import RunError
from tellapart.evaluation.estimates import UNDEFINED, Estimate, estimate, expect_images, plain
from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.ranking import rank_classes

PER_CLASS = ("precision", "recall", "f1", "roc_auc", "average_precision")


def per_class_table(predictions: Predictions, *, seed: int = 0) -> list[dict[str, str | int | float | None]]:
    """Return a row a class: class, support, and precision, recall, f1, roc_auc, average_precision, NAME_low, NAME_high.

    What is not defined is None: recall, roc_auc and average_precision without an image of the class, precision without
    a prediction of it, f1 without either, roc_auc also where all images are of the class. `support` counts the images
    of the class. Precision and recall have Wilson's interval for the images predicted or there; f1 that of the share of
    hits among the images that are either, carried over by F1 = 2 J / (1 + J).

    Args:
        predictions: of classes or labels.
        seed: for other intervals than these, which draw nothing.

    Raises:
        RunError: the table is empty or not valid, or is of a regression, which has no classes.

    Source: `sklearn.metrics`; Lam, Gopal and Qian (2023), "Confidence intervals for the F1 score: a comparison of four
    methods", arXiv:2309.14621, Wilson indirect, for F1; `rank_classes` for the others.
    """
    predictions.check()
    expect_images(len(predictions), predictions.num_given)
    if predictions.task == "regression":
        raise RunError(
            "per_class_table: expected a multiclass or multilabel table, found a regression: it has no classes."
        )
    p = predictions.sorted_by_index()
    guess = p.predicted()
    rankings = rank_classes(p.outputs, lambda k: is_of_class(p, k))
    areas = zip(rankings.roc_auc_by_class(), rankings.average_precision_by_class(), strict=True)
    rows: list[dict[str, str | int | float | None]] = []
    for k, (name, (roc_auc, average_precision)) in enumerate(zip(p.classes, areas, strict=True)):
        true, guessed = is_of_class(p, k), guess == k if p.task == "multiclass" else guess[:, k]
        hits, num_true, num_guessed = int((true & guessed).sum()), int(true.sum()), int(guessed.sum())
        found = (share(hits, num_guessed), share(hits, num_true), f1(hits, num_true + num_guessed))
        row: dict[str, str | int | float | None] = {"class": name, "support": num_true}
        for key, each in zip(PER_CLASS, (*found, roc_auc, average_precision), strict=True):
            row |= {key: plain(each.value), f"{key}_low": plain(each.low), f"{key}_high": plain(each.high)}
        rows.append(row)
    return rows


def is_of_class(p: Predictions, k: int) -> np.ndarray:
    """Return which images are of a class, or have the label, bool `(N,)`."""
    return p.targets == k if p.task == "multiclass" else p.targets[:, k] > 0


def share(hits: int, n: int) -> Estimate:
    """Return a share with Wilson's interval; not defined of nothing."""
    return estimate(hits / n, wilson(hits, n)) if n else UNDEFINED


def f1(hits: int, num_true_and_guessed: int) -> Estimate:
    """Return F1 of a class from its hits and the sum of images that are of it and images taken for it.

    >>> found = f1(8, 20)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.8, 0.562, 0.926)
    """
    if num_true_and_guessed == 0:
        return UNDEFINED
    low, high = (2 * end / (1 + end) for end in wilson(hits, num_true_and_guessed - hits))
    return estimate(2 * hits / num_true_and_guessed, (low, high))
