"""Intervals for scores between 0 and 1 that are no plain shares: AUC, average precision, F1, kappa and their means."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tellapart.evaluation.intervals import normal_quantile

Shape = Callable[[np.ndarray], np.ndarray]

# How many images the variance that theory expects counts for, beside those that the measured variance rests on.
_PRIOR_IMAGES = 1.0
# 60 halvings of [0, 1] end below the resolution of float64.
_HALVINGS = 60
# Influences that cancel leave a rounding error of about 1e-17 each; the least true variance is far above its square.
_NO_VARIANCE = 1e-26


def score_interval(
    value: np.ndarray, variance: np.ndarray, num_behind: np.ndarray, shape: Shape, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return intervals for scores in [0, 1] from their variance as measured and as theory expects it.

    As Wilson's, an interval holds every x that lies within z standard errors *at x* of the value, so that it stays in
    [0, 1], leans away from the ends, and is not empty at 0 or 1. The variance at x is `dispersion * shape(x)`.
    `dispersion` is the measured variance over `shape(value)`, drawn towards 1 as if one more image said so: where a
    few images carry the whole variance, as near 0 and 1, they say little about it. With `shape(x) = x (1 - x) / n` and
    hits and misses this is Wilson's interval.

    Args:
        value: `(C,)`, in [0, 1] or NaN.
        variance: measured, `(C,)`.
        num_behind: how many images it rests on, `(C,)`, from `variance_of`.
        shape: from true values `(C,)` to the variance that theory expects, `(C,)`; zero at 0 and 1.
        confidence: in (0, 1).

    Returns:
        Low and high ends, float64 `(C,)`; NaN where the value is.

    Source: Wilson (1927) for the inversion; Newcombe (2006), "Confidence intervals for an effect size measure based on
    the Mann-Whitney statistic", part 2, method 5, for doing so with another variance than the binomial one; McCullagh
    and Nelder (1989), "Generalized linear models", section 4.5, for the dispersion; Smyth (2004), "Linear models and
    empirical Bayes methods", for drawing a variance towards the expected one by degrees of freedom.

    >>> n, hits = 20, np.array([1.0] * 18 + [0.0] * 2)
    >>> variance, num_behind = variance_of((hits - 0.9) / n)
    >>> low, high = score_interval(np.array([0.9]), variance, num_behind, lambda x: x * (1 - x) / n)
    >>> round(float(low[0]), 4), round(float(high[0]), 4)
    (0.699, 0.9721)
    """
    value = np.asarray(value, np.float64)
    expected = shape(value)
    is_measured = (expected > 0) & (variance > _NO_VARIANCE)
    ratio = np.divide(variance, expected, out=np.zeros(len(value)), where=is_measured)
    weight = np.where(is_measured, num_behind, 0)
    spread = normal_quantile(confidence) ** 2 * (weight * ratio + _PRIOR_IMAGES) / (weight + _PRIOR_IMAGES)
    ends = []
    for beyond in (0.0, 1.0):
        inside, outside = value.copy(), np.where(np.isnan(value), np.nan, beyond)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            holds = (value - middle) ** 2 <= spread * shape(middle)
            inside, outside = np.where(holds, middle, inside), np.where(holds, outside, middle)
        # The end itself belongs to the interval where it is reached, as with 100% of 10.
        ends.append(np.where(value == beyond, beyond, outside))
    return ends[0], ends[1]


def variance_of(influence: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of a statistic from the influence of each image on it, and how many images it rests on.

    The latter is `(sum e^2)^2 / sum e^4`: N where all weigh the same, 1 where one image carries everything.

    Args:
        influence: how far each image moves the statistic, to first order, `(N,)`.

    Returns:
        Two arrays of float64 `(1,)`.
    """
    squares = influence**2
    variance = squares.sum()
    fourth = (squares**2).sum()
    return np.array([variance]), np.array([variance**2 / fourth if fourth > 0 else 0.0])


def share_shape(sum_of_inverse: float) -> Shape:
    """Return the variance of a mean of shares that all equal x: `x (1 - x) sum_c w_c^2 / n_c`, given that sum."""
    return lambda x: x * (1 - x) * sum_of_inverse


def f1_shape(sum_of_inverse: float) -> Shape:
    """Return the variance of a mean of F1 scores that all equal x, given `sum_c w_c^2 / (true_c + predicted_c)`.

    Source: F1 = 2 J / (1 + J) where J, the share of hits among the images that are true or predicted, is binomial (Lam,
    Gopal and Qian 2023, "Confidence intervals for the F1 score", arXiv:2309.14621); by the delta method.
    """
    return lambda x: x * (1 - x) * (2 - x) * sum_of_inverse


def auc_shape(num_positives: np.ndarray, num_negatives: np.ndarray) -> Shape:
    """Return the variance of AUCs that equal x, one a class.

    Source: Newcombe (2006), part 2, method 5: Hanley and McNeil's (1982) variance for exponential scores, with the mean
    of the two group sizes in place of each: `x (1 - x) (1 + (m - 1) ((1 - x) / (2 - x) + x / (1 + x))) / (n1 n0)`,
    `m = (n1 + n0) / 2`.
    """
    inverse, mean_size = 1 / (num_positives * num_negatives), (num_positives + num_negatives) / 2
    return lambda x: x * (1 - x) * inverse * (1 + (mean_size - 1) * ((1 - x) / (2 - x) + x / (1 + x)))


def mean_of_shapes(shape: Shape, num_classes: int) -> Shape:
    """Return the variance of the mean over classes, independent and all equal to x, from that of each class."""
    return lambda x: np.array([shape(np.full(num_classes, one)).sum() for one in x]) / num_classes**2
