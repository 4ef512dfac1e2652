"""A measured number with its interval, the names of all metrics, and how they are shown and stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tellapart.errors import RunError

# The one metric of each task that choices are made by.
HEADLINE = {"multiclass": "top1", "multilabel": "map", "regression": "mse"}

HIGHER_IS_BETTER = {
    "top1": True,
    "top5": True,
    "balanced_accuracy": True,
    "precision_macro": True,
    "recall_macro": True,
    "f1_macro": True,
    "precision_weighted": True,
    "recall_weighted": True,
    "f1_weighted": True,
    "f1_micro": True,
    "roc_auc": True,
    "average_precision": True,
    "map": True,
    "exact_match": True,
    "kappa": True,
    "mcc": True,
    "nll": False,
    "brier": False,
    "ece": False,
    "ece_classwise": False,
    "mse": False,
    "mae": False,
    "rmse": False,
    "r2": True,
}


@dataclass(frozen=True)
class Estimate:
    """A measured number and its 95% interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


UNDEFINED = Estimate(math.nan, math.nan, math.nan)


def estimate(value: float, interval: tuple[float, float]) -> Estimate:
    """Return the estimate, its interval widened to hold the value, which a skewed or shifted one may leave out."""
    return Estimate(float(value), float(np.minimum(value, interval[0])), float(np.maximum(value, interval[1])))


def format_accuracy(estimate: Estimate, n: int, num_given: int = 0) -> str:
    """Return an accuracy for the screen, in percent, with its interval and the number of images.

    Where not all of the `num_given` images could be evaluated, it says so.

    >>> format_accuracy(Estimate(0.9533, 0.9463, 0.9591), 4500)
    '95.3% (94.6 to 95.9, n = 4,500)'
    >>> format_accuracy(Estimate(0.9533, 0.9463, 0.9591), 4500, 4510)
    '95.3% (94.6 to 95.9, n = 4,500 of 4,510 given)'
    """
    given = f" of {num_given:,} given" if num_given > n else ""
    return f"{estimate.value:.1%} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f}, n = {n:,}{given})"


def metrics_json(metrics: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Return metrics in plain floats for JSON, which has no NaN and no infinity: those become null.

    >>> metrics_json({"r2": Estimate(0.5, 0.25, float("nan"))})
    {'r2': {'value': 0.5, 'low': 0.25, 'high': None}}
    """
    return {name: {"value": plain(e.value), "low": plain(e.low), "high": plain(e.high)} for name, e in metrics.items()}


def plain(x: float) -> float | None:
    """Return a float for JSON, None where there is no finite number."""
    return float(x) if math.isfinite(x) else None


def expect_images(num_images: int, num_given: int) -> None:
    """Raise a RunError if there is nothing to evaluate."""
    if num_images == 0:
        raise RunError(
            f"there is nothing to evaluate: expected at least one image, found none that could be read of {num_given} "
            "given. Look at what the split holds and at the images named as unreadable."
        )
