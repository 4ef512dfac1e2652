"""Answering only when sure enough: how often a classifier is wrong, against how many images it answers for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from tellapart.errors import RunError
from tellapart.evaluation.estimates import Estimate, metrics_json
from tellapart.evaluation.intervals import bootstrap_counts, wilson
from tellapart.evaluation.predictions import Predictions


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Risk against coverage: one point for each distinct confidence, the highest first.

    Attributes:
        coverage: the share of the images that are at least so confident, float64 `(P,)`, growing to 1.
        risk: the share of those that are wrong, float64 `(P,)`.
        confidence: the confidence of the point, the probability of the predicted class, float64 `(P,)`.
        aurc: the area under the curve, with its 95% interval; lower is better, 0 is the best.
    """

    coverage: np.ndarray
    risk: np.ndarray
    confidence: np.ndarray
    aurc: Estimate

    def thinned(self, num_points: int = 200) -> list[dict[str, float]]:
        """Return up to `num_points` of the points, spread evenly over them and both ends included, for JSON."""
        places = np.unique(np.linspace(0, len(self.coverage) - 1, min(num_points, len(self.coverage))).round())
        rows = zip(*(array[places.astype(int)] for array in (self.coverage, self.risk, self.confidence)), strict=True)
        return [{"coverage": float(c), "risk": float(r), "confidence": float(t)} for c, r, t in rows]


@dataclass(frozen=True)
class ConfidenceFor:
    """The confidence above which the images that chose it are right often enough.

    Attributes:
        accuracy: what was asked for, such as 0.99.
        confidence: answer where the probability of the predicted class is at least this; None where the images cannot
            support any, and `why_none` says why.
        num_answered: of the images that chose it, how many are so confident.
        num_right: how many of these are right.
        n: how many images chose it.
    """

    accuracy: float
    confidence: float | None
    num_answered: int
    num_right: int
    n: int
    why_none: str = ""


@dataclass(frozen=True)
class AtConfidence:
    """What answering only from a confidence on does to a table: its accuracy and its coverage, with 95% intervals."""

    accuracy: Estimate
    coverage: Estimate
    num_answered: int
    n: int


def risk_coverage(predictions: Predictions, *, seed: int = 0) -> RiskCoverage:
    """Return the risk-coverage curve of a multiclass table, and the area under it.

    Images are answered in the order of their confidence. The area is the mean over k = 1 ... N of the risk of the k
    most confident images; equally confident ones, which have no order, count with the mean over all of their orders:
    `sum_g [e_g + (E_g - r_g M_g) (H(M_g + n_g) - H(M_g))] / N` over the groups g of equal confidence, of n_g images and
    e_g errors, r_g = e_g / n_g, after M_g images and E_g errors of higher confidence; H are the harmonic numbers.
    Its interval is a percentile bootstrap by image.

    Args:
        predictions: the table.
        seed: the draws of the bootstrap are a function of it.

    Raises:
        RunError: the table is empty or is not multiclass.

    Source: El-Yaniv and Wiener (2010), "On the foundations of noise-free selective classification", JMLR 11, section 2;
    the area: Geifman, Uziel and El-Yaniv (2019), "Bias-reduced uncertainty estimation for deep neural classifiers".
    """
    confidence, is_wrong = _confidence_and_errors(predictions)
    order = np.argsort(-confidence, kind="stable")
    starts = np.flatnonzero(np.diff(confidence[order], prepend=np.inf))
    statistic = _area(is_wrong[order], starts)
    ones = np.ones((len(order), 1), np.float32)
    value = float(statistic(ones)[0])
    low, high = bootstrap_counts(lambda counts: statistic(counts[order]), len(order), seed=seed)
    last = np.append(starts[1:], len(order)) - 1
    num_answered = last + 1
    return RiskCoverage(
        coverage=num_answered / len(order),
        risk=np.cumsum(is_wrong[order])[last] / num_answered,
        confidence=confidence[order][last],
        aurc=Estimate(value, float(np.fmin(value, low)), float(np.fmax(value, high))),
    )


def confidence_for(predictions: Predictions, accuracy: float = 0.99) -> ConfidenceFor:
    """Return the lowest confidence above which the images of a table are right with at least this accuracy.

    The table is to be val's: what is chosen here is judged on other images by `at_confidence`. A confidence needs at
    least `1 / (1 - accuracy)` images above it, 100 for 99%: with fewer, a single error more would already be too many,
    so they cannot tell that accuracy from a lower one.

    Raises:
        RunError: the table is empty or is not multiclass, or `accuracy` is not within (0, 1).

    Source: Geifman and El-Yaniv (2017), "Selective classification for deep neural networks", section 3; without their
    bound, which val would have to be many times larger for: the accuracy is judged on other images instead.
    """
    if not 0 < accuracy < 1:
        raise RunError(f"accuracy: expected a number between 0 and 1, such as 0.99, found {accuracy}.")
    confidence, is_wrong = _confidence_and_errors(predictions)
    n, num_needed = len(confidence), math.ceil(round(1 / (1 - accuracy), 9))
    order = np.argsort(-confidence, kind="stable")
    last = np.append(np.flatnonzero(np.diff(confidence[order])), n - 1)
    num_answered, num_wrong = last + 1, np.cumsum(is_wrong[order])[last]
    # The errors that are allowed, not a share that rounding could move past `accuracy`.
    fits = (num_wrong <= num_answered * (1 - accuracy) + 1e-9) & (num_answered >= num_needed)
    if not fits.any():
        if n < num_needed:
            why = f"{n:,} images are too few to tell {accuracy:g} from less; at least {num_needed:,} are needed"
        else:
            why = f"no group of {num_needed:,} or more of the most confident images is right so often"
        return ConfidenceFor(accuracy, None, 0, 0, n, why)
    chosen = int(np.flatnonzero(fits)[-1])
    answered, wrong = int(num_answered[chosen]), int(num_wrong[chosen])
    return ConfidenceFor(accuracy, float(confidence[order][last[chosen]]), answered, answered - wrong, n)


def at_confidence(predictions: Predictions, confidence: float) -> AtConfidence:
    """Return accuracy and coverage of a multiclass table where only images of at least this confidence are answered.

    Both are shares of images, with Wilson's intervals; the accuracy of none is NaN.
    """
    found, is_wrong = _confidence_and_errors(predictions)
    is_answered = found >= confidence
    answered, right = int(is_answered.sum()), int((is_answered & ~is_wrong).sum())
    share = Estimate(right / answered if answered else math.nan, *wilson(right, answered))
    coverage = Estimate(answered / len(found), *wilson(answered, len(found)))
    return AtConfidence(share, coverage, answered, len(found))


def selective_json(curve: RiskCoverage, chosen: ConfidenceFor | None, judged: AtConfidence | None) -> dict[str, Any]:
    """Return the curve and the confidence in plain numbers for JSON; None where there is nothing."""
    found: dict[str, Any] = {**metrics_json({"aurc": curve.aurc}), "curve": curve.thinned()}
    if chosen is not None:
        found["chosen_on_val"] = {
            "accuracy_wanted": chosen.accuracy,
            "confidence": chosen.confidence,
            "num_answered": chosen.num_answered,
            "num_right": chosen.num_right,
            "n": chosen.n,
            "why_none": chosen.why_none or None,
        }
    if judged is not None:
        numbers = metrics_json({"accuracy": judged.accuracy, "coverage": judged.coverage})
        found["judged"] = {**numbers, "num_answered": judged.num_answered, "n": judged.n}
    return found


def _confidence_and_errors(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the predicted class, float64 `(N,)`, and where it is wrong, bool `(N,)`."""
    if predictions.task != "multiclass":
        raise RunError(
            f"selective prediction: expected one class an image, found a {predictions.task} table, which has no one "
            "probability of being right."
        )
    if not len(predictions):
        raise RunError("selective prediction: expected at least one image, found none.")
    table = predictions.sorted_by_index()
    return table.outputs.max(axis=1).astype(np.float64), table.predicted() != table.targets


def _area(is_wrong: np.ndarray, starts: np.ndarray) -> Any:
    """Return the function from how often each image counts, `(N, C)` in the order of answering, to the areas `(C,)`."""
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, len(is_wrong) + 1))])
    wrong = is_wrong.astype(np.float32)[:, None]

    def value(counts: np.ndarray) -> np.ndarray:
        size = np.add.reduceat(counts, starts, axis=0).astype(np.int64)
        errors = np.add.reduceat(counts * wrong, starts, axis=0).astype(np.float64)
        images, before = np.cumsum(size, axis=0), np.cumsum(errors, axis=0) - errors
        share = errors / np.maximum(size, 1)
        spread = harmonic[images] - harmonic[images - size]
        return (errors + (before - share * (images - size)) * spread).sum(axis=0) / images[-1]

    return value
