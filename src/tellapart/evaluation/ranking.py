"""How well scores rank the images of a class above the rest: ROC AUC and average precision, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tellapart.evaluation.estimates import UNDEFINED, Estimate, estimate
from tellapart.evaluation.intervals import effective_n
from tellapart.evaluation.score_intervals import (
    Shape,
    auc_shape,
    mean_of_shapes,
    score_interval,
    share_shape,
    variance_of,
)


@dataclass(frozen=True)
class PerClass:
    """A score of each class: value, variance and the images behind it `(K,)`, NaN where not defined.

    `influence` `(N,)` is how far each image moves the mean over the classes that are defined.
    """

    value: np.ndarray
    variance: np.ndarray
    num_behind: np.ndarray
    influence: np.ndarray


@dataclass(frozen=True)
class Rankings:
    """ROC AUC and average precision of each class against the rest, with what their intervals are made of."""

    num_images: int
    num_positives: np.ndarray
    roc_auc: PerClass
    average_precision: PerClass

    def mean_roc_auc(self) -> Estimate:
        """Return the mean over the classes that have both images and others."""
        some = ~np.isnan(self.roc_auc.value)
        positives = self.num_positives[some]
        shape = auc_shape(positives, self.num_images - positives)
        return _mean(self.roc_auc, mean_of_shapes(shape, int(some.sum())))

    def mean_average_precision(self) -> Estimate:
        """Return the mean over the classes that have images."""
        size = effective_n(self.num_positives)
        return _mean(self.average_precision, share_shape(1 / size if size else math.nan))

    def roc_auc_by_class(self) -> list[Estimate]:
        """Return the AUC of each class."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return _each(self.roc_auc, auc_shape(self.num_positives, self.num_images - self.num_positives))

    def average_precision_by_class(self) -> list[Estimate]:
        """Return the average precision of each class."""
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes = 1 / self.num_positives
            return _each(self.average_precision, lambda x: x * (1 - x) * sizes)


def rank_classes(scores: np.ndarray, is_positive: Callable[[int], np.ndarray]) -> Rankings:
    """Return how well each column of scores `(N, K)` ranks its class; classes one by one, so memory stays at `(N,)`.

    The variance of an AUC is DeLong's, and that of an average precision the jackknife's, which both cost one sort.

    Args:
        scores: higher is more likely.
        is_positive: from a class to bool `(N,)`.

    Source: DeLong, DeLong and Clarke-Pearson (1988), "Comparing the areas under two or more correlated receiver
    operating characteristic curves"; Efron (1982), "The jackknife, the bootstrap and other resampling plans", section
    3. A bootstrap of average precision is much too narrow with few positives (Boyd, Eng and Page 2013, "Area under the
    precision-recall curve", section 4).
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    num_images, num_classes = scores.shape
    num_positives = np.zeros(num_classes)
    auc, precision = _Collected(num_images, num_classes), _Collected(num_images, num_classes)
    for k in range(num_classes):
        positives = is_positive(k)
        num_positives[k] = positives.sum()
        if num_positives[k] == 0:
            continue
        score = scores[:, k].astype(np.float64)
        groups = _Groups(score, positives)
        precision.add(k, float(average_precision_score(positives, score)), groups.precision_influence())
        if num_positives[k] < num_images:
            auc.add(k, float(roc_auc_score(positives, score)), groups.auc_influence())
    return Rankings(num_images, num_positives, auc.result(), precision.result())


class _Collected:
    """What `PerClass` is made of, class by class."""

    def __init__(self, num_images: int, num_classes: int) -> None:
        self.value, self.variance, self.num_behind = np.full((3, num_classes), np.nan)
        self.influence = np.zeros(num_images)

    def add(self, k: int, value: float, influence: np.ndarray) -> None:
        # Rounding must not carry a score past the ends.
        self.value[k] = min(1.0, max(0.0, value))
        self.variance[k], self.num_behind[k] = (float(x[0]) for x in variance_of(influence))
        self.influence += influence

    def result(self) -> PerClass:
        num_defined = max(1, int((~np.isnan(self.value)).sum()))
        return PerClass(self.value, self.variance, self.num_behind, self.influence / num_defined)


class _Groups:
    """The images of one class and the rest by descending score; those with equal scores are one group."""

    def __init__(self, score: np.ndarray, positives: np.ndarray) -> None:
        self.order = np.argsort(-score, kind="stable")
        self.hit = positives[self.order]
        self.ends = np.append(np.flatnonzero(np.diff(score[self.order])) + 1, len(score))
        self.place = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=0))
        self.hits_so_far = np.cumsum(self.hit)[self.ends - 1].astype(np.float64)
        self.new_hits = np.diff(self.hits_so_far, prepend=0)
        self.num_hits = self.hits_so_far[-1]
        self.num_rest = len(score) - self.num_hits

    def auc_influence(self) -> np.ndarray:
        """Return how far each image moves the AUC, `(N,)`; the sum of squares is DeLong's variance."""
        rest_so_far = self.ends - self.hits_so_far
        new_rest = np.diff(rest_so_far, prepend=0)
        # The share of the other kind that an image is ranked rightly against, ties counting half.
        for_hit = (self.num_rest - rest_so_far + new_rest / 2) / self.num_rest
        for_rest = (self.hits_so_far - self.new_hits / 2) / self.num_hits
        auc = (self.new_hits * for_hit).sum() / self.num_hits
        # A variance over n - 1; of a single image it is not known, and 0 leaves it to what theory expects.
        hit_scale, rest_scale = (1 / math.sqrt(n * max(n - 1, 1)) for n in (self.num_hits, self.num_rest))
        return self._in_place((for_hit - auc) * hit_scale, (for_rest - auc) * rest_scale)

    def precision_influence(self) -> np.ndarray:
        """Return how far each image moves the average precision, `(N,)`; the sum of squares is the jackknife's."""
        hits, total = self.hits_so_far, self.ends
        without = np.maximum(total - 1, 1)
        kept = self.new_hits * hits / total
        before = np.cumsum(kept) - kept
        num_hits = self.num_hits
        if num_hits > 1:
            lowered = self.new_hits * (hits - 1) / without
            own = (self.new_hits - 1) * (hits - 1) / without
            without_hit = (before + own + _sum_from(lowered) - lowered) / (num_hits - 1)
        else:
            without_hit = np.full(len(total), kept.sum())
        without_rest = (before + _sum_from(self.new_hits * hits / without)) / num_hits
        left_out = self._in_place(without_hit, without_rest)
        n = len(left_out)
        return (left_out.mean() - left_out) * math.sqrt((n - 1) / n)

    def _in_place(self, for_hit: np.ndarray, for_rest: np.ndarray) -> np.ndarray:
        found = np.empty(len(self.order))
        found[self.order] = np.where(self.hit, for_hit[self.place], for_rest[self.place])
        return found


def _sum_from(values: np.ndarray) -> np.ndarray:
    """Return the sum of each value and all behind it."""
    return np.cumsum(values[::-1])[::-1]


def _mean(scores: PerClass, shape: Shape) -> Estimate:
    value = scores.value[~np.isnan(scores.value)]
    if len(value) == 0:
        return UNDEFINED
    mean = np.array([value.mean()])
    low, high = score_interval(mean, *variance_of(scores.influence), shape)
    return estimate(mean[0], (low[0], high[0]))


def _each(scores: PerClass, shape: Shape) -> list[Estimate]:
    low, high = score_interval(scores.value, scores.variance, scores.num_behind, shape)
    return [estimate(*each) for each in zip(scores.value, zip(low, high, strict=True), strict=True)]
