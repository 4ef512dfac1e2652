"""Every number that Tellapart prints about a model, each with its 95% interval, from one table of predictions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tellapart.evaluation.calibration_error import calibration_metrics, calibration_of, mean_of, reliability
from tellapart.evaluation.confusion import class_metrics, confusion_matrix, label_metrics
from tellapart.evaluation.estimates import (
    HEADLINE,
    HIGHER_IS_BETTER,
    Estimate,
    estimate,
    expect_images,
    format_accuracy,
    metrics_json,
)
from tellapart.evaluation.intervals import bootstrap_counts, wilson
from tellapart.evaluation.per_class import is_of_class, per_class_table
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.quick import quick_metrics, target_ranks
from tellapart.evaluation.ranking import rank_classes
from tellapart.evaluation.statistics import r2

__all__ = [
    "HEADLINE",
    "HIGHER_IS_BETTER",
    "Estimate",
    "calibration_metrics",
    "confusion_matrix",
    "evaluate_predictions",
    "format_accuracy",
    "metrics_json",
    "per_class_table",
    "quick_metrics",
    "reliability",
    "target_ranks",
]


def evaluate_predictions(predictions: Predictions, *, seed: int = 0) -> dict[str, Estimate]:
    """Return every metric of the task of `predictions`, with 95% intervals.

    The rows are taken in the order of their sample indices, so the order in which they were computed changes no bit.
    Classes without an image in the table are left out of means over classes. An interval always holds its value.

    - multiclass: `top1`; `top5` with more than 5 classes; `balanced_accuracy`, which is `recall_macro`;
      `precision_macro` (a class that is never predicted counts 0), `f1_macro`, and these weighted by support;
      `roc_auc` and `average_precision`, means over classes of one against the rest; `kappa` (Cohen's); `mcc`
      (Matthews'); and those of `calibration_metrics`. A target tied with a class of lower index ranks below it.
    - multilabel: `map`, the mean over classes of average precision; `roc_auc`, also a mean; `f1_macro`, `f1_micro` and
      `f1_weighted` of `predictions.predicted()`; `exact_match`, the share of images with every class right; and those
      of `calibration_metrics`.
    - regression: `mse`, `mae` and `r2`, means over the predicted numbers, and `rmse`, the root of `mse`.

    Shares of images have Wilson's interval; nll, brier and the errors of a regression a percentile bootstrap by image;
    the calibration errors one corrected for their bias; and all other scores `score_interval`, of which
    `benchmarks/interval_coverage.py` measures how often it holds the truth.

    Args:
        predictions: the table.
        seed: the draws of the bootstrap are a function of it.

    Raises:
        RunError: the table is empty or not valid.

    Source: the values are those of `sklearn.metrics`, where it has them; see `calibration_metrics` for the others.
    """
    predictions.check()
    expect_images(len(predictions), predictions.num_given)
    return _EVALUATE[predictions.task](predictions.sorted_by_index(), seed)


def _multiclass(p: Predictions, seed: int) -> dict[str, Estimate]:
    ranks = target_ranks(p.outputs, p.targets)
    result = {"top1": _share_of_images(ranks < 1)}
    if len(p.classes) > 5:
        result["top5"] = _share_of_images(ranks < 5)
    of_classes = class_metrics(p.targets, p.predicted(), len(p.classes))
    result["balanced_accuracy"] = of_classes["recall_macro"]
    result |= {name: found for name, found in of_classes.items() if name not in ("kappa", "mcc")}
    rankings = rank_classes(p.outputs, lambda k: is_of_class(p, k))
    result["roc_auc"], result["average_precision"] = rankings.mean_roc_auc(), rankings.mean_average_precision()
    result["kappa"], result["mcc"] = of_classes["kappa"], of_classes["mcc"]
    return result | calibration_of(p, seed)


def _multilabel(p: Predictions, seed: int) -> dict[str, Estimate]:
    truth, guess = p.targets > 0, p.predicted()
    rankings = rank_classes(p.outputs, lambda k: is_of_class(p, k))
    return {
        "map": rankings.mean_average_precision(),
        "roc_auc": rankings.mean_roc_auc(),
        **label_metrics(truth, guess),
        "exact_match": _share_of_images((truth == guess).all(axis=1)),
        **calibration_of(p, seed),
    }


def _regression(p: Predictions, seed: int) -> dict[str, Estimate]:
    targets = p.targets.astype(np.float64)
    error = p.outputs.astype(np.float64) - targets
    mse = mean_of((error**2).mean(axis=1), seed)
    r2_of = r2(error, targets)
    value = float(r2_of(np.ones((len(p), 1), np.float32))[0])
    return {
        "mse": mse,
        "mae": mean_of(np.abs(error).mean(axis=1), seed),
        "rmse": Estimate(math.sqrt(mse.value), math.sqrt(mse.low), math.sqrt(mse.high)),
        "r2": estimate(value, bootstrap_counts(r2_of, len(p), seed=seed)),
    }


_EVALUATE: dict[str, Callable[[Predictions, int], dict[str, Estimate]]] = {
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
}


def _share_of_images(hits: np.ndarray) -> Estimate:
    return estimate(float(hits.mean()), wilson(int(hits.sum()), len(hits)))
