"""Statistics of resampled tables: functions from how often each image counts to a value, fast enough to bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tellapart.evaluation.predictions import THRESHOLD


def mean_average_precision(scores: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from counts `(N, C)` to the mean over classes of average precision, `(C,)`."""
    classes = [average_precision(scores[:, k], targets[:, k] > 0) for k in range(scores.shape[1])]
    return lambda counts: _mean_where_defined(np.stack([precision(counts) for precision in classes]))


def average_precision(scores: np.ndarray, positives: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from how often each image counts to the average precision of one class.

    The images are sorted once, here, and every call then costs a pass over them. Images with equal scores enter
    together, as in scikit-learn, so their order does not matter.

    Args:
        scores: float `(N,)`, higher is more likely.
        positives: bool `(N,)`.

    Returns:
        A function that takes counts, float32 `(N, C)`, and returns float64 `(C,)`, NaN where no positive is counted.

    Source: `sum_t (R_t - R_(t-1)) P_t` over the distinct scores t in descending order, R the recall and P the precision
    of the images that score at least t: `sklearn.metrics.average_precision_score`.

    >>> ones = np.ones((4, 1), np.float32)
    >>> float(average_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))(ones)[0])
    0.8333333333333333
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])) + 1, len(order))
    num_positives = np.cumsum(positives[order])[ends - 1]
    # Recall only grows at scores that a positive has, so the images between two such scores are summed in one go.
    grows = np.diff(num_positives, prepend=0) > 0
    ends, num_positives = ends[grows], num_positives[grows]
    hits = order[positives[order]]

    def value(counts: np.ndarray) -> np.ndarray:
        if len(ends) == 0:
            return np.full(counts.shape[1], np.nan)
        new = np.add.reduceat(counts[order[: ends[-1]]], np.append(0, ends[:-1]), axis=0)
        new_hits = np.add.reduceat(counts[hits], np.append(0, num_positives[:-1]), axis=0).astype(np.float64)
        precision = np.cumsum(new_hits, axis=0) / np.maximum(np.cumsum(new, axis=0), 1)
        return _divide((new_hits * precision).sum(axis=0), new_hits.sum(axis=0))

    return value


def f1(outputs: np.ndarray, targets: np.ndarray, average: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from counts `(N, C)` to F1, `(C,)`; "macro" is over the classes that have a positive."""
    truth, guess = targets > 0, outputs > THRESHOLD
    masks = [mask.astype(np.float32) for mask in (truth & guess, truth, guess)]

    def value(counts: np.ndarray) -> np.ndarray:
        hits, support, guessed = (_sums(mask, counts).astype(np.float64) for mask in masks)
        if average == "micro":
            return _divide(2 * hits.sum(axis=0), (support + guessed).sum(axis=0))
        return _mean_where_defined(np.where(support > 0, _divide(2 * hits, support + guessed), np.nan))

    return value


def r2(error: np.ndarray, targets: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function from counts `(N, C)` to R squared, `(C,)`; numbers with constant targets are left out."""
    centred = targets - targets.mean(axis=0)
    # A number of which all drawn targets are equal has no variance to explain; rounding leaves a trace of one.
    least = 1e-12 * np.ptp(targets, axis=0)[:, None] ** 2

    def value(counts: np.ndarray) -> np.ndarray:
        weights = counts.astype(np.float64)
        n = weights.sum(axis=0)
        total = _sums(centred**2, weights) - _sums(centred, weights) ** 2 / n
        explained = 1 - _divide(_sums(error**2, weights), np.where(total > least * n, total, 0))
        return _mean_where_defined(explained)

    return value


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the sums of values `(N, K)` over each resample's counts `(N, C)`, `(K, C)`.

    Not a matrix product: BLAS splits it over threads, which changes the last bits with the number of cores, and which
    wait for each other so long on a busy machine that 60 products of 20 x 10,000 x 104 took 16 s instead of 0.4.
    """
    return np.einsum("nk,nc->kc", values, counts)


def _mean_where_defined(values: np.ndarray) -> np.ndarray:
    """Return the mean over the rows of `(K, C)` that are not NaN, `(C,)`; NaN where there is none."""
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0).sum(axis=0), defined.sum(axis=0))


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=np.asarray(b) != 0)
