"""How well a classifier notices that an image is of nothing that it knows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tellapart.errors import RunError
from tellapart.evaluation.estimates import Estimate, estimate, metrics_json
from tellapart.evaluation.intervals import bootstrap, wilson
from tellapart.evaluation.ranking import rank_classes

# The share of known images that must be let through where the false alarms are counted.
TRUE_POSITIVE_RATE = 0.95


@dataclass(frozen=True)
class Separation:
    """How well a score tells known images from others.

    Attributes:
        auroc: the chance that a known image scores higher than another one, ties counting half.
        fpr95: the share of other images that score at least `threshold`; lower is better.
        threshold: the highest score that 95% of the known images reach.
    """

    auroc: Estimate
    fpr95: Estimate
    threshold: float


def max_softmax(logits: np.ndarray) -> np.ndarray:
    """Return the largest probability of each row, float64 `(N,)`, of logits `(N, K)`.

    Source: Hendrycks and Gimpel (2017), "A baseline for detecting misclassified and out-of-distribution examples".

    >>> max_softmax(np.array([[0.0, 0.0], [0.0, np.log(3)]])).round(6).tolist()
    [0.5, 0.75]
    """
    return np.exp(logits.max(axis=1) - energy(logits))


def max_logit(logits: np.ndarray) -> np.ndarray:
    """Return the largest logit of each row, float64 `(N,)`.

    Source: Hendrycks et al. (2022), "Scaling out-of-distribution detection for real-world settings", section 3.
    """
    return logits.max(axis=1).astype(np.float64)


def energy(logits: np.ndarray) -> np.ndarray:
    """Return the negative free energy of each row, log sum exp of its logits, float64 `(N,)`.

    Source: Liu et al. (2020), "Energy-based out-of-distribution detection", equation 4, with temperature 1.

    >>> energy(np.array([[0.0, 0.0]])).round(6).tolist()
    [0.693147]
    """
    exact = logits.astype(np.float64)
    highest = exact.max(axis=1)
    return highest + np.log(np.exp(exact - highest[:, None]).sum(axis=1))


# Each from uncalibrated logits; higher for what the classifier knows.
SCORES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "max_softmax": max_softmax,
    "max_logit": max_logit,
    "energy": energy,
}


def separations(known: np.ndarray, others: np.ndarray, task: str, *, seed: int = 0) -> dict[str, Separation]:
    """Return how well each score tells images of the known classes from others.

    Args:
        known: uncalibrated logits `(N, K)` of images of the classifier's own classes, none of them trained on.
        others: uncalibrated logits `(M, K)` of images of anything else.
        task: "multiclass", or "multilabel", for which the largest logit alone is defined.
        seed: the draws of the bootstrap are a function of it.

    Raises:
        RunError: there are no images on one side, a logit is not finite, or the task is a regression.
    """
    if task == "regression":
        raise RunError("out of distribution: the scores are of logits, which a network that predicts numbers lacks.")
    for name, logits in (("known images", known), ("other images", others)):
        if not len(logits):
            raise RunError(f"out of distribution: expected at least one of the {name}, found none that could be read.")
        if not np.isfinite(logits).all():
            raise RunError(f"out of distribution: expected finite logits of the {name}, found others.")
    names = SCORES if task == "multiclass" else ("max_logit",)
    return {name: separation(SCORES[name](known), SCORES[name](others), seed=seed) for name in names}


def separation(known: np.ndarray, others: np.ndarray, *, seed: int = 0) -> Separation:
    """Return how well a score, higher for the known, tells `known` `(N,)` from `others` `(M,)`.

    The area under the ROC curve has the interval of `Rankings.roc_auc_by_class`; the false positive rate at a true
    positive rate of 95% the percentile bootstrap's, drawn within each side, or Wilson's where it is 0 or 1 and every
    draw would be alike.

    >>> found = separation(np.array([3.0, 4.0]), np.array([1.0, 3.0]))
    >>> found.auroc.value, found.fpr95.value, found.threshold
    (0.875, 0.5, 3.0)
    """
    side = np.repeat([0, 1], [len(known), len(others)])
    scores = np.concatenate([known, others])
    drawn = bootstrap(
        lambda rows: _fpr95(scores[rows[: len(known)]], scores[rows[len(known) :]]), len(scores), seed=seed, strata=side
    )
    return Separation(
        auroc=_area(known, others),
        fpr95=_widened(_fpr95(known, others), len(others), drawn),
        threshold=_threshold(known),
    )


def separations_json(found: dict[str, Separation]) -> dict[str, Any]:
    """Return the separations in plain numbers for JSON."""
    return {
        name: {**metrics_json({"auroc": each.auroc, "fpr95": each.fpr95}), "threshold": each.threshold}
        for name, each in found.items()
    }


def _area(known: np.ndarray, others: np.ndarray) -> Estimate:
    is_known = np.repeat([True, False], [len(known), len(others)])
    ranked = rank_classes(np.concatenate([known, others])[:, None], lambda _: is_known)
    return ranked.roc_auc_by_class()[0]


def _fpr95(known: np.ndarray, others: np.ndarray) -> float:
    return float((others >= _threshold(known)).mean())


def _threshold(known: np.ndarray) -> float:
    place = len(known) - math.ceil(round(TRUE_POSITIVE_RATE * len(known), 9))
    return float(np.partition(known, place)[place])


def _widened(value: float, size: int, interval: tuple[float, float]) -> Estimate:
    if value in (0.0, 1.0):
        interval = wilson(value * size, size)
    return estimate(value, interval)
