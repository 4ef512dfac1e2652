"""How far stated probabilities are from what happens: negative log-likelihood, Brier score, calibration errors."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from tellapart.errors import RunError
from tellapart.evaluation.estimates import UNDEFINED, Estimate, estimate, expect_images
from tellapart.evaluation.intervals import bootstrap_mean, normal_quantile, wilson
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.quick import nll_per_image

NUM_BINS = 15

# How many images the variance that the probabilities themselves imply counts for in a bin, beside the images in it.
_PRIOR_IMAGES = 2


def calibration_metrics(predictions: Predictions, *, seed: int = 0) -> dict[str, Estimate]:
    """Return `nll`, `brier`, `ece` and `ece_classwise` with 95% intervals.

    - `nll`: the mean of -ln(probability of what is true), clipped at the least normal float32; for labels the mean over
      images and classes.
    - `brier`: the mean over images of the sum over classes of squared differences; for labels the mean over classes.
    - `ece`: how far the probability of the predicted class is from the share of hits, in 15 bins of equally many
      images. The ends of the bins are percentiles of the probabilities, linearly interpolated; images with equal
      probabilities are in the same bin, so bins may differ in size. For labels every (image, class) pair is a case.
    - `ece_classwise`: the same for the probability of each class, whether predicted or not, each class with bins of its
      own; the mean over the classes that have images.

    nll and brier have a percentile bootstrap by image. Not within classes: the next test set has another mix of them,
    and where classes differ in difficulty a stratified interval held the truth in 86% to 90% of cases instead of 92% to
    94%. The calibration errors are too large in small tables, where every bin is off by chance. Their interval is a
    normal one around the value less that bias, the least and the most of it that the bins allow; the ends of a
    bootstrap have the bias twice and held the truth in 0% to 90% of cases.

    Args:
        predictions: of classes or labels; `predictions.uncalibrated()` for what was before the temperature.
        seed: of the bootstrap.

    Raises:
        RunError: the table is empty, not valid, or of a regression.

    Source: Brier (1950), "Verification of forecasts expressed in terms of probability", equation 2; Naeini, Cooper and
    Hauskrecht (2015), "Obtaining well calibrated probabilities using Bayesian binning", for ECE; Nixon et al. (2019),
    "Measuring calibration in deep learning", section 3, for bins of equal mass and for classes (there: adaptive
    calibration error); Kull et al. (2019), "Beyond temperature scaling", equation 3, for classes; Bröcker (2012),
    "Estimating reliability and resolution of probability forecasts", for the bias of sums over bins.
    """
    predictions.check()
    expect_images(len(predictions), predictions.num_given)
    if predictions.task == "regression":
        raise RunError("calibration_metrics: expected probabilities, found a regression, which states none.")
    return calibration_of(predictions.sorted_by_index(), seed)


def calibration_of(p: Predictions, seed: int) -> dict[str, Estimate]:
    """Return what `calibration_metrics` does for a table that is checked and sorted."""
    return {
        "nll": mean_of(nll_per_image(p.task, p.outputs, p.targets), seed),
        "brier": mean_of(_brier_per_image(p), seed),
        "ece": _calibration_error(iter([_top_cases(p)]), len(p)),
        "ece_classwise": _calibration_error(_class_cases(p), len(p)),
    }


def mean_of(values: np.ndarray, seed: int) -> Estimate:
    """Return the mean of what each image has, `(N,)`, with a bootstrap by image."""
    return estimate(float(values.mean()), bootstrap_mean(values, seed=seed))


def reliability(predictions: Predictions, num_bins: int = NUM_BINS) -> list[dict[str, float | int]]:
    """Return the bins of `ece`, rising: confidence (mean), accuracy, count, low and high (Wilson, 95%).

    Bins that ties leave empty are left out. For labels, a case is a pair of image and class, confidence its probability
    and accuracy the share of labels; pairs of one image go together, so low and high are then too close.

    Raises:
        RunError: the table is empty, not valid, or of a regression.

    Source: `sklearn.calibration.calibration_curve` with strategy "quantile", which has the same bins.
    """
    predictions.check()
    expect_images(len(predictions), predictions.num_given)
    if predictions.task == "regression":
        raise RunError("reliability: expected probabilities, found a regression, which states none.")
    if num_bins < 1:
        raise ValueError(f"reliability: expected num_bins of 1 or more, found {num_bins}.")
    confidence, hits = _top_cases(predictions.sorted_by_index())
    bins = in_bins(confidence, equal_mass_edges(confidence, num_bins))
    count, total, right = (np.bincount(bins, weights, minlength=num_bins) for weights in (None, confidence, hits))
    rows: list[dict[str, float | int]] = []
    for k in np.flatnonzero(count):
        low, high = wilson(int(right[k]), int(count[k]))
        rows.append(
            {
                "confidence": float(total[k] / count[k]),
                "accuracy": float(right[k] / count[k]),
                "count": int(count[k]),
                "low": low,
                "high": high,
            }
        )
    return rows


def equal_mass_edges(confidence: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """Return the inner ends of bins of equally many cases, float64 `(num_bins - 1,)`, non-decreasing.

    >>> equal_mass_edges(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), 2)
    array([0.3])
    """
    return np.percentile(confidence, np.linspace(0, 100, num_bins + 1))[1:-1]


def in_bins(confidence: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the bin of each case, int64 `(N,)`; a case on an edge is in the bin below it."""
    return np.searchsorted(edges, confidence)


def binned_error(confidence: np.ndarray, hits: np.ndarray, edges: np.ndarray) -> float:
    """Return the sum over bins of |sum of confidence - number of hits|, over the number of cases.

    >>> round(binned_error(np.array([0.6, 0.8, 0.9]), np.array([0, 1, 1]), np.array([0.7])), 3)
    0.3
    """
    sums = np.bincount(in_bins(confidence, edges), confidence - hits, minlength=len(edges) + 1)
    return float(np.abs(sums).sum() / len(confidence))


def _top_cases(p: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return confidence float64 and hits of what `ece` is about; labels in the order of images."""
    if p.task == "multilabel":
        return p.outputs.ravel().astype(np.float64), p.targets.ravel().astype(np.float64)
    return p.outputs.max(axis=1).astype(np.float64), (p.predicted() == p.targets).astype(np.float64)


def _class_cases(p: Predictions) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for k in range(len(p.classes)):
        hits = p.targets == k if p.task == "multiclass" else p.targets[:, k] > 0
        if hits.any():
            yield p.outputs[:, k].astype(np.float64), hits.astype(np.float64)


def _brier_per_image(p: Predictions) -> np.ndarray:
    difference = p.outputs.astype(np.float64)
    if p.task == "multilabel":
        return ((difference - p.targets) ** 2).mean(axis=1)
    difference[np.arange(len(p)), p.targets] -= 1
    return (difference**2).sum(axis=1)


def _calibration_error(columns: Iterator[tuple[np.ndarray, np.ndarray]], num_images: int) -> Estimate:
    """Return the mean over columns of the binned error, with a normal interval around the value less its bias."""
    sums, influence, num_columns = np.zeros(5), np.zeros(num_images), 0
    for confidence, hits in columns:
        found, moved = _binned(confidence, hits)
        sums += found
        # Several cases of one image stand together.
        influence += moved.reshape(num_images, -1).sum(axis=1)
        num_columns += 1
    if num_columns == 0:
        return UNDEFINED
    value, less, more = sums[:3] / num_columns
    within, beyond = sums[3:] / num_columns**2
    if num_images < 2:
        return Estimate(float(value), math.nan, math.nan)
    # Classes whose errors are noise have signs that are noise, by which their influences may cancel; what they would
    # show if each moved alone is the least.
    reach = normal_quantile(0.95) * math.sqrt(max(((influence / num_columns) ** 2).sum(), within) + beyond)
    return estimate(value, (max(0.0, value - more - reach), min(1.0, value - less + reach)))


def _binned(confidence: np.ndarray, hits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return error, least and most bias, and variance within bins and beyond, `(5,)`; and the influence, one a case."""
    edges = equal_mass_edges(confidence)
    bins, gap, n = in_bins(confidence, edges), confidence - hits, len(confidence)
    implied = confidence * (1 - confidence)
    count, total, squares, expected = (
        np.bincount(bins, weights, minlength=NUM_BINS) for weights in (None, gap, gap**2, implied)
    )
    mean = total / np.maximum(count, 1)
    within = np.maximum(squares - total * mean, 0)
    # A bin of three hits shows no variance; that of the probabilities themselves speaks for as much as two images.
    variance = (within * count + _PRIOR_IMAGES * expected) / np.maximum(count - 1 + _PRIOR_IMAGES, 1)
    error, deviation = np.abs(total) / n, np.sqrt(variance) / n
    # The bias hangs on the true error of each bin. As found it is too large and makes the bias small; with the variance
    # taken off it is too small and makes it large.
    without_noise = np.sqrt(np.maximum(error**2 - deviation**2, 0))
    biases = [_bias(each, deviation).sum() for each in (error, without_noise)]
    found = [error.sum(), *biases, within.sum() / n**2, max(0.0, (variance - within).sum() / n**2)]
    return np.array(found), np.sign(total)[bins] * (gap - mean[bins]) / n


def _bias(error: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Return by how much the mean of |x| exceeds |mean of x|, for x normal around `error` with `deviation`.

    Source: the mean of the folded normal distribution (Leone, Nelson and Nottingham 1961).
    """
    from scipy.special import erfc

    ratio = np.divide(error, deviation, out=np.full(len(error), 50.0), where=deviation > error / 50)
    return deviation * (math.sqrt(2 / math.pi) * np.exp(-(ratio**2) / 2) - ratio * erfc(ratio / math.sqrt(2)))
