"""From what probability on a class of a multi-label image is predicted: chosen class by class, where F1 is highest."""

from __future__ import annotations

import numpy as np

from tellapart.evaluation.predictions import THRESHOLD


def choose_thresholds(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return for each class the threshold with the highest F1: what is above it is predicted.

    A threshold lies in the middle between two scores next to each other, or between 0 and the lowest, so that rounding
    cannot move an image across it. Of those with the same F1 the one nearest to 0.5 is taken, of two as near the
    higher. A class with no positive image keeps 0.5, and so does one whose scores are all the same: nothing divides
    them.

    F1 takes no interest in how certain the choice is: with a handful of positives a class, and for a class that the
    scores say little about, the best threshold tends to be low. Judge it on other images.

    Args:
        outputs: probabilities, float32 `(N, K)`.
        targets: 0 or 1, `(N, K)`.

    Returns:
        float32 `(K,)`, from 0 to 1.

    Source: F1 = 2 TP / (predicted + positive) at every cut. Lipton et al. (2014), "Optimal thresholding of classifiers
    to maximize F1 measure", on what the optimum is and its winner's curse.

    >>> choose_thresholds(np.array([[0.1], [0.2], [0.3], [0.9]], np.float32), np.array([[0], [1], [0], [1]]))
    array([0.15], dtype=float32)
    """
    scores = np.asarray(outputs, np.float32)
    columns = (_choose(scores[:, k], targets[:, k] > 0) for k in range(scores.shape[1]))
    return np.array(list(columns), np.float32)


def _choose(scores: np.ndarray, positives: np.ndarray) -> float:
    num_positive = int(positives.sum())
    if not num_positive or scores.min() == scores.max():
        return THRESHOLD
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    # After the last of equal scores: images with the same score are predicted together.
    ends = np.append(np.flatnonzero(ordered[1:] < ordered[:-1]), len(ordered) - 1)
    f1 = 2 * np.cumsum(positives[order])[ends] / (ends + 1 + num_positive)
    cuts = _middles(ordered[ends])
    # Nothing is below a score of 0, so there is no cut that takes it in.
    f1[cuts >= ordered[ends]] = -1
    best = np.flatnonzero(f1 == f1.max())
    # The cuts fall, so of two as near the first is the higher.
    return float(cuts[best[np.argmin(np.abs(cuts[best].astype(np.float64) - THRESHOLD))]])


def _middles(falling: np.ndarray) -> np.ndarray:
    """Return a number between each score and the next below it (after the last: 0), which the score itself is above."""
    below = np.append(falling[1:], np.float32(0))
    middles = ((falling.astype(np.float64) + below) / 2).astype(np.float32)
    # Between neighbours among the float32 numbers there is none; the middle is then rounded to either.
    return np.where(middles < falling, middles, below)
