"""Which classes are taken for which, and the metrics that this decides: precision, recall, F1, kappa, Matthews."""

from __future__ import annotations

import math

import numpy as np

from tellapart.errors import RunError
from tellapart.evaluation.estimates import UNDEFINED, Estimate, estimate
from tellapart.evaluation.intervals import effective_n, wilson
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.score_intervals import Shape, f1_shape, score_interval, share_shape, variance_of


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """Return how often each class was taken for each, int64 `(K, K)`: rows are true classes, columns predicted ones.

    Raises:
        RunError: the table is not valid, or not of exclusive classes.
    """
    predictions.check()
    if predictions.task != "multiclass":
        raise RunError(
            f"confusion_matrix: expected a multiclass table, found {predictions.task}: a class can only be taken for "
            "another where an image has exactly one."
        )
    return _count(predictions.targets, predictions.predicted(), len(predictions.classes))


def _count(truth: np.ndarray, guess: np.ndarray, num_classes: int) -> np.ndarray:
    # As sklearn.metrics.confusion_matrix, which tests hold it against, but without its import.
    cells = np.bincount(truth * num_classes + guess, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def class_metrics(truth: np.ndarray, guess: np.ndarray, num_classes: int) -> dict[str, Estimate]:
    """Return macro and weighted precision, recall and F1, Cohen's kappa and Matthews' coefficient, with intervals.

    Means are over the classes that have images; a class of those that is never predicted has precision 0. Weighted
    recall is accuracy, with Wilson's interval.

    Args:
        truth: class indices, int64 `(N,)`.
        guess: as `truth`.
        num_classes: K.

    Source: `sklearn.metrics`; the intervals are those of `score_interval`, their variances by the delta method. That of
    kappa so is Fleiss, Cohen and Everitt's (1969), "Large sample standard errors of kappa and weighted kappa"; that of
    F1 is Takahashi et al.'s (2022), "Confidence interval for micro-averaged F1 and macro-averaged F1 scores".
    """
    from sklearn.metrics import precision_recall_fscore_support

    counts = _Counts(truth, guess, num_classes)
    present = np.flatnonzero(counts.support)
    found: dict[str, Estimate] = {}
    for average, weights in (("macro", (counts.support > 0) / len(present)), ("weighted", counts.support / counts.n)):
        # scikit-learn's stubs take these for narrower types.
        options: dict[str, object] = {"labels": present, "average": average, "zero_division": 0.0}
        values = precision_recall_fscore_support(truth, guess, **options)[:3]  # pyright: ignore[reportArgumentType]
        precision, recall, f1 = (float(value) for value in values)
        found[f"precision_{average}"] = counts.precision(precision, weights, is_weighted=average == "weighted")
        if average == "macro":
            found["recall_macro"] = counts.recall(recall)
        else:
            found["recall_weighted"] = estimate(recall, wilson(int(counts.hit.sum()), counts.n))
        found[f"f1_{average}"] = counts.f1(f1, weights, is_weighted=average == "weighted")
    return {**found, "kappa": counts.kappa(), "mcc": counts.mcc()}


class _Counts:
    """The counts of a table, and how far each image moves what is computed from them."""

    def __init__(self, truth: np.ndarray, guess: np.ndarray, num_classes: int) -> None:
        self.truth, self.guess, self.n = truth, guess, len(truth)
        self.hit = truth == guess
        self.support = np.bincount(truth, minlength=num_classes)
        self.guessed = np.bincount(guess, minlength=num_classes)
        self.hits = np.bincount(truth[self.hit], minlength=num_classes)

    def precision(self, value: float, weights: np.ndarray, is_weighted: bool) -> Estimate:
        sizes = np.maximum(self.guessed, 1)
        share = self.hits / sizes
        influence = (weights / sizes)[self.guess] * (self.hit - share[self.guess])
        if is_weighted:
            influence += (share[self.truth] - value) / self.n
        least = _least_variance(self.hits, sizes, weights)
        return self._estimate(value, influence, share_shape((weights**2 / sizes).sum()), least)

    def recall(self, value: float) -> Estimate:
        # Within classes: how many images each class has says nothing about how often it is recognised.
        sizes = np.maximum(self.support, 1)
        share = self.hits / sizes
        scale = np.sqrt(sizes / np.maximum(sizes - 1, 1)) / (sizes * (self.support > 0).sum())
        influence = scale[self.truth] * (self.hit - share[self.truth])
        least = _least_variance(self.hits, sizes, (self.support > 0) / (self.support > 0).sum())
        return _score(value, influence, share_shape(1 / effective_n(self.support)), least)

    def f1(self, value: float, weights: np.ndarray, is_weighted: bool) -> Estimate:
        sizes = np.maximum(self.support + self.guessed, 1)
        share, weight = 2 * self.hits / sizes, weights / sizes
        influence = weight[self.truth] * (2 * self.hit - share[self.truth]) - (weight * share)[self.guess]
        if is_weighted:
            influence += (share[self.truth] - value) / self.n
        least = _least_variance(2 * self.hits, sizes, weights)
        return self._estimate(value, influence, f1_shape((weights**2 / sizes).sum()), least)

    def kappa(self) -> Estimate:
        from sklearn.metrics import cohen_kappa_score

        share, chance, by_chance = self._agreement()
        if chance == 1:
            return UNDEFINED  # All images are of one class and all are taken for it: there is no agreement to expect.
        influence = (self.hit - share) / (1 - chance) - by_chance * (1 - share) / (1 - chance) ** 2
        value = float(cohen_kappa_score(self.truth, self.guess))
        return self._from_minus_one(value, influence / self.n, chance)

    def mcc(self) -> Estimate:
        from sklearn.metrics import matthews_corrcoef

        share, chance, by_chance = self._agreement()
        true_spread, guess_spread = (1 - ((counts / self.n) ** 2).sum() for counts in (self.support, self.guessed))
        if true_spread * guess_spread == 0:
            return UNDEFINED  # A correlation with what does not vary.
        of_true = -2 * ((self.support / self.n)[self.truth] - (1 - true_spread))
        of_guess = -2 * ((self.guessed / self.n)[self.guess] - (1 - guess_spread))
        scale = math.sqrt(true_spread * guess_spread)
        value = float(matthews_corrcoef(self.truth, self.guess))
        influence = (self.hit - share - by_chance) / scale
        influence -= value / 2 * (of_true / true_spread + of_guess / guess_spread)
        return self._from_minus_one(value, influence / self.n, chance)

    def _agreement(self) -> tuple[float, float, np.ndarray]:
        """Return the share of hits, the share that chance would hit, and how far each image moves the latter."""
        true_share, guess_share = self.support / self.n, self.guessed / self.n
        chance = float((true_share * guess_share).sum())
        return float(self.hit.mean()), chance, guess_share[self.truth] + true_share[self.guess] - 2 * chance

    def _from_minus_one(self, value: float, influence: np.ndarray, chance: float) -> Estimate:
        """Return the estimate of a coefficient in [-1, 1], which 2n (1 - chance) shares would know as precisely."""
        shape = share_shape(1 / max(2 * self.n * (1 - chance), 1))
        half = self._estimate((value + 1) / 2, influence / 2, shape)
        return estimate(value, (2 * half.low - 1, 2 * half.high - 1))

    def _estimate(self, value: float, influence: np.ndarray, shape: Shape, least: float = 0.0) -> Estimate:
        return _score(value, influence * math.sqrt(self.n / max(self.n - 1, 1)), shape, least)


def label_metrics(truth: np.ndarray, guess: np.ndarray) -> dict[str, Estimate]:
    """Return macro, micro and weighted F1 of labels, with intervals.

    The macro mean is over the classes that have images. What is not defined, without a single label, is NaN.

    Args:
        truth: bool `(N, K)`.
        guess: bool `(N, K)`.

    Source: as `class_metrics`; the images are what was drawn, so the labels of one image move together.
    """
    from sklearn.metrics import f1_score

    support, guessed, hits = (mask.sum(axis=0) for mask in (truth, guess, truth & guess))
    present = np.flatnonzero(support)
    sizes = np.maximum(support + guessed, 1)
    share = 2 * hits / sizes
    found: dict[str, Estimate] = {f"f1_{average}": UNDEFINED for average in ("macro", "micro", "weighted")}
    if support.sum() + guessed.sum():
        total = support.sum() + guessed.sum()
        value = float(f1_score(truth, guess, average="micro", zero_division=0.0))  # pyright: ignore[reportArgumentType]
        influence = (2 * (truth & guess).sum(axis=1) - value * (truth.sum(axis=1) + guess.sum(axis=1))) / total
        found["f1_micro"] = _label_score(value, influence, f1_shape(1 / total))
    if len(present) == 0:
        return found
    for average, weights in (("macro", (support > 0) / len(present)), ("weighted", support / support.sum())):
        options: dict[str, object] = {"labels": present, "average": average, "zero_division": 0.0}
        value = float(f1_score(truth, guess, **options))  # pyright: ignore[reportArgumentType]
        weight = weights / sizes
        # einsum, not a matrix product: BLAS changes the last bits with the number of cores.
        influence = np.einsum("nk,k->n", truth & guess, 2 * weight) - np.einsum("nk,k->n", truth, weight * share)
        influence -= np.einsum("nk,k->n", guess, weight * share)
        if average == "weighted":
            influence += np.einsum("nk,k->n", truth, (share - value) / support.sum())
        least = _least_variance(2 * hits, sizes, weights)
        found[f"f1_{average}"] = _label_score(value, influence, f1_shape((weights**2 / sizes).sum()), least)
    return found


def _label_score(value: float, influence: np.ndarray, shape: Shape, least: float = 0.0) -> Estimate:
    n = len(influence)
    return _score(value, influence * math.sqrt(n / max(n - 1, 1)), shape, least)


def _score(value: float, influence: np.ndarray, shape: Shape, least: float) -> Estimate:
    value = min(1.0, max(0.0, value))
    variance, num_behind = variance_of(influence)
    low, high = score_interval(np.array([value]), np.maximum(variance, least), num_behind, shape)
    return estimate(value, (low[0], high[0]))


def _least_variance(hits: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> float:
    """Return the variance of a mean of shares when each has a 1/C-th of a hit and a miss more, C how many there are.

    The few images of a rare class are often all hits, and then show no variance, although the mean hangs on them. For
    classes of 1000 and 10 images with true shares of 0.9 and 0.95, an interval without this held the mean in 40% of
    cases, and with it in 99%; for 0.95 and 0.9 in 62% and 97% (400 simulated tables each).

    Source: Price and Bonett (2004), "An improved confidence interval for a linear function of binomial proportions".
    """
    more = 1 / np.count_nonzero(weights)
    share = (hits + more) / (sizes + 2 * more)
    return float((weights**2 * share * (1 - share) / (sizes + 2 * more)).sum())
