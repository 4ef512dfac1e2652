"""What several trainings say together: mean, standard deviation, Student's interval, and Welch's test between two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Where a metric can lie; shares lie within 0 and 1. No mean lies outside, whatever a symmetric interval says.
_RANGES = {
    "nll": (0.0, math.inf),
    "brier": (0.0, 2.0),
    "mse": (0.0, math.inf),
    "mae": (0.0, math.inf),
    "rmse": (0.0, math.inf),
    "r2": (-math.inf, 1.0),
    "kappa": (-1.0, 1.0),
    "mcc": (-1.0, 1.0),
}


@dataclass(frozen=True)
class Spread:
    """How a number varies over trainings; NaN where too few have it.

    Attributes:
        mean: of the trainings.
        std: standard deviation of a sample.
        low: between here and `high` the mean of all trainings of the kind lies, at 95%.
        high: see `low`.
        num_runs: how many trainings have the number.
    """

    mean: float
    std: float
    low: float
    high: float
    num_runs: int

    def as_dict(self) -> dict[str, float | None]:
        """Return the numbers for JSON, None for NaN."""
        numbers = {"mean": self.mean, "std": self.std, "low": self.low, "high": self.high}
        return {name: float(value) if math.isfinite(value) else None for name, value in numbers.items()}


def spread_over_runs(values: Sequence[float | None], metric: str = "top1") -> Spread:
    """Return mean, standard deviation and the 95% interval of the mean over independent trainings.

    Trainings that differ in their seed alone are independent. Folds are not: they share training images, and no
    interval of this kind holds for them. The interval says how the training varies on these images, and nothing of what
    other images would have given.

    Args:
        values: one a training; None and NaN are left out.
        metric: its name, by which the interval is cut to where a mean can lie.

    Source: Student (1908), "The probable error of a mean", Biometrika 6, 1-25: `mean +- t(0.975, n - 1) std / sqrt(n)`.

    >>> found = spread_over_runs([0.90, 0.91, 0.92])
    >>> round(found.mean, 3), round(found.std, 3), round(found.low, 4), round(found.high, 4)
    (0.91, 0.01, 0.8852, 0.9348)
    """
    known = np.array([value for value in values if value is not None and math.isfinite(value)], np.float64)
    n = len(known)
    mean = float(known.mean()) if n else math.nan
    if n < 2:
        return Spread(mean, math.nan, math.nan, math.nan, n)
    std = float(known.std(ddof=1))
    half = t_quantile(n - 1) * std / math.sqrt(n)
    lowest, highest = _RANGES.get(metric, (0.0, 1.0))
    # Rounding may carry the mean of equal numbers past them.
    return Spread(mean, std, min(mean, max(lowest, mean - half)), max(mean, min(highest, mean + half)), n)


def t_quantile(degrees: float, confidence: float = 0.95) -> float:
    """Return the two-sided quantile of Student's t.

    >>> round(t_quantile(4), 4)
    2.7764
    """
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + confidence) / 2))


@dataclass(frozen=True)
class Welch:
    """The difference of two means over trainings, second minus first, its 95% interval, and the p-value of none."""

    difference: float
    low: float
    high: float
    p: float


def welch(first: Sequence[float], second: Sequence[float]) -> Welch:
    """Return Welch's t-test of two sets of independent trainings, which may vary by different amounts.

    The trainings are not paired: the same seed in two recipes starts from other weights and sees other batches, so it
    makes them no more alike. Where neither side varies at all there is nothing to judge by: p and interval are NaN.

    Args:
        first: a number a training, at least two.
        second: likewise.

    Raises:
        ValueError: fewer than two trainings on a side.

    Source: Welch (1947), "The generalization of Student's problem when several different population variances are
    involved", Biometrika 34, 28-35.

    >>> found = welch([0.90, 0.91, 0.92], [0.93, 0.94, 0.95])
    >>> round(found.difference, 3), round(found.p, 4)
    (0.03, 0.0213)
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if min(len(a), len(b)) < 2:
        raise ValueError(f"welch: expected at least two trainings on each side, found {len(a)} and {len(b)}.")
    difference = float(b.mean() - a.mean())
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    error = math.sqrt(parts.sum())
    # What equal numbers leave of their variance is rounding.
    if error <= 1e-12 * max(1.0, float(np.abs(a).max()), float(np.abs(b).max())):
        return Welch(difference, math.nan, math.nan, math.nan)
    degrees = float(parts.sum() ** 2 / (parts**2 / (np.array([len(a), len(b)]) - 1)).sum())
    half = t_quantile(degrees) * error
    return Welch(difference, difference - half, difference + half, two_sided(difference / error, degrees))


def two_sided(t: float, degrees: float) -> float:
    """Return the p-value of a value of Student's t, of either sign.

    >>> round(two_sided(2.7764451, 4), 4)
    0.05
    """
    from scipy.special import stdtr

    return float(2 * stdtr(degrees, -abs(t)))
