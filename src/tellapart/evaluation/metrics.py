"""Every number that Tellapart prints about a model, each with its 95% interval, from one table of predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tellapart.errors import RunError, unknown_name
from tellapart.evaluation.intervals import (
    NUM_RESAMPLES,
    bootstrap_counts,
    bootstrap_mean,
    effective_n,
    mean_of_shares,
    wilson,
)
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.statistics import f1, mean_average_precision, r2

# The one metric of each task that choices are made by.
HEADLINE = {"multiclass": "top1", "multilabel": "map", "regression": "mse"}

HIGHER_IS_BETTER = {
    "top1": True,
    "top5": True,
    "balanced_accuracy": True,
    "nll": False,
    "brier": False,
    "map": True,
    "f1_macro": True,
    "f1_micro": True,
    "exact_match": True,
    "mse": False,
    "mae": False,
    "rmse": False,
    "r2": True,
}

# Ranking metrics read every (image, class) pair once a resample, and 10**8 of them take about two seconds on one core.
# Larger tables get fewer resamples so that they stay near that, but never so few that the ends are noise.
_PAIRS_PER_BOOTSTRAP = 10**8
_FEWEST_RESAMPLES = 200


@dataclass(frozen=True)
class Estimate:
    """A measured number and its 95% interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def evaluate_predictions(predictions: Predictions, *, seed: int = 0) -> dict[str, Estimate]:
    """Return every metric of the task of `predictions`, with 95% intervals.

    The rows are taken in the order of their sample indices, so the order in which they were computed changes no bit.
    Classes without an image in the table are left out of means over classes. An interval always holds its value.

    - multiclass: `top1`; `top5` with more than 5 classes; `balanced_accuracy`, the mean recall of the classes present;
      `nll`, the mean of -ln(probability of the target), clipped at the least normal float32; `brier`, the mean over
      images of the sum over classes of squared differences. A target tied with a class of lower index ranks below it.
    - multilabel: `map`, the mean over classes of average precision; `f1_macro` and `f1_micro` of the classes above 0.5;
      `exact_match`, the share of images with every class right.
    - regression: `mse`, `mae` and `r2`, means over the predicted numbers, and `rmse`, the root of `mse`.

    Shares of images have Wilson's interval, `balanced_accuracy` that of `mean_of_shares`, the rest a percentile
    bootstrap by image. With few positives a class, that of `map` is too narrow: in 300 simulated tables of three
    classes it held the truth in 87% of cases at 10 positives a class, 91% at 30 and 95% at 100.

    Args:
        predictions: the table.
        seed: the draws of the bootstrap are a function of it.

    Raises:
        RunError: the table is empty or not valid.

    Source: Brier (1950), "Verification of forecasts expressed in terms of probability", equation 2; the others as
    scikit-learn defines them, in `sklearn.metrics`.
    """
    predictions.check()
    _expect_images(len(predictions), predictions.num_given)
    return _EVALUATE[predictions.task](predictions.sorted_by_index(), seed)


def quick_metrics(task: str, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the values, without intervals, of the few metrics that are cheap enough for after every epoch.

    Args:
        task: "multiclass" (gives top1, nll), "multilabel" (map, f1_macro) or "regression" (mse, mae).
        outputs: as in `Predictions`, float32 `(N, K)`. A multiclass row that holds a NaN counts as wrong.
        targets: as in `Predictions`.

    Raises:
        RunError: there are no images, or the task is unknown.

    >>> quick_metrics("multiclass", np.array([[0.5, 0.5], [0.25, 0.75]], np.float32), np.array([0, 0]))["top1"]
    0.5
    """
    if task not in HEADLINE:
        raise RunError(unknown_name("task", task, HEADLINE))
    _expect_images(len(outputs), len(outputs))
    if task == "multiclass":
        hits = target_ranks(outputs, targets) == 0
        return {"top1": float(hits.mean()), "nll": float(_nll_per_image(outputs, targets).mean())}
    if task == "multilabel":
        once = np.ones((len(outputs), 1), np.float32)
        value = {"map": mean_average_precision(outputs, targets), "f1_macro": f1(outputs, targets, "macro")}
        return {name: float(statistic(once)[0]) for name, statistic in value.items()}
    error = outputs.astype(np.float64) - targets
    return {"mse": float((error**2).mean()), "mae": float(np.abs(error).mean())}


def per_class_table(predictions: Predictions) -> list[dict[str, str | int | float | None]]:
    """Return one row a class: class, support, precision, recall, f1, recall_low and recall_high (Wilson, 95%).

    What is not defined is None: recall without an image of the class, precision without a prediction of it, f1 without
    either. `support` counts the images of the class.

    Raises:
        RunError: the table is empty or not valid, or is of a regression, which has no classes.
    """
    predictions.check()
    _expect_images(len(predictions), predictions.num_given)
    num_classes = len(predictions.classes)
    guess, truth = predictions.predicted(), predictions.targets
    if predictions.task == "multiclass":
        guess, truth = (np.eye(num_classes, dtype=bool)[labels] for labels in (guess, truth))
    hits, support, guessed = ((x > 0).sum(axis=0) for x in (guess * truth, truth, guess))
    rows = []
    for k, name in enumerate(predictions.classes):
        low, high = wilson(int(hits[k]), int(support[k]))
        numbers = {
            "precision": _share(hits[k], guessed[k]),
            "recall": _share(hits[k], support[k]),
            "f1": _share(2 * hits[k], guessed[k] + support[k]),
            "recall_low": low,
            "recall_high": high,
        }
        rows.append({"class": name, "support": int(support[k]), **{key: _plain(x) for key, x in numbers.items()}})
    return rows


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
    return {
        name: {"value": _plain(e.value), "low": _plain(e.low), "high": _plain(e.high)} for name, e in metrics.items()
    }


def target_ranks(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return how many classes stand before the target of each image, int64 `(N,)`: top-k is right where it is below k.

    The order is descending and stable: of equal outputs the lower index stands first, as with argmax. A row that holds
    a NaN has no order, and its rank is K.

    >>> target_ranks(np.array([[0.25, 0.5, 0.25], [0.25, 0.5, 0.25]]), np.array([0, 2]))
    array([1, 2])
    """
    at_target = np.take_along_axis(outputs, targets[:, None], axis=1)
    earlier = np.arange(outputs.shape[1]) < targets[:, None]
    ranks = ((outputs > at_target) | ((outputs == at_target) & earlier)).sum(axis=1)
    return np.where(np.isnan(outputs).any(axis=1), outputs.shape[1], ranks)


def _multiclass(p: Predictions, seed: int) -> dict[str, Estimate]:
    ranks = target_ranks(p.outputs, p.targets)
    result = {"top1": _share_of_images(ranks < 1)}
    if len(p.classes) > 5:
        result["top5"] = _share_of_images(ranks < 5)
    difference = p.outputs.astype(np.float64)
    difference[np.arange(len(p)), p.targets] -= 1
    result["balanced_accuracy"] = _balanced_accuracy(ranks < 1, p.targets, seed)
    result["nll"] = _mean(_nll_per_image(p.outputs, p.targets), seed)
    result["brier"] = _mean((difference**2).sum(axis=1), seed)
    return result


def _multilabel(p: Predictions, seed: int) -> dict[str, Estimate]:
    num_resamples = max(_FEWEST_RESAMPLES, min(NUM_RESAMPLES, _PAIRS_PER_BOOTSTRAP // p.outputs.size))
    # A class counts the same however few images have it, so what a perfect score proves hangs on the rare ones.
    positives = p.targets.sum(axis=0, dtype=np.float64)
    statistics = {
        "map": (mean_average_precision(p.outputs, p.targets), effective_n(positives)),
        "f1_macro": (f1(p.outputs, p.targets, "macro"), effective_n(positives)),
        "f1_micro": (f1(p.outputs, p.targets, "micro"), positives.sum()),
    }
    once = np.ones((len(p), 1), np.float32)
    result = {}
    for name, (statistic, size) in statistics.items():
        value = float(statistic(once)[0])
        interval = bootstrap_counts(statistic, len(p), seed=seed, num_resamples=num_resamples)
        if value in (0.0, 1.0):
            # Every resample of a perfect table is perfect, which says nothing about the next image.
            interval = wilson(value * size, size)
        result[name] = _estimate(value, interval)
    result["exact_match"] = _share_of_images((p.predicted() == (p.targets > 0)).all(axis=1))
    return result


def _regression(p: Predictions, seed: int) -> dict[str, Estimate]:
    error = p.outputs.astype(np.float64) - p.targets
    mse = _mean((error**2).mean(axis=1), seed)
    r2_of = r2(error, p.targets.astype(np.float64))
    value = float(r2_of(np.ones((len(p), 1), np.float32))[0])
    return {
        "mse": mse,
        "mae": _mean(np.abs(error).mean(axis=1), seed),
        "rmse": Estimate(math.sqrt(mse.value), math.sqrt(mse.low), math.sqrt(mse.high)),
        "r2": _estimate(value, bootstrap_counts(r2_of, len(p), seed=seed)),
    }


_EVALUATE: dict[str, Callable[[Predictions, int], dict[str, Estimate]]] = {
    "multiclass": _multiclass,
    "multilabel": _multilabel,
    "regression": _regression,
}


def _balanced_accuracy(hits: np.ndarray, targets: np.ndarray, seed: int) -> Estimate:
    _, labels, support = np.unique(targets, return_inverse=True, return_counts=True)
    value = float((np.bincount(labels, hits) / support).mean())
    return _estimate(value, mean_of_shares(hits, labels, seed=seed))


def _nll_per_image(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    at_target = np.take_along_axis(outputs, targets[:, None], axis=1)[:, 0].astype(np.float64)
    return -np.log(np.maximum(at_target, np.finfo(np.float32).tiny))


def _share_of_images(hits: np.ndarray) -> Estimate:
    return _estimate(float(hits.mean()), wilson(int(hits.sum()), len(hits)))


def _mean(values: np.ndarray, seed: int) -> Estimate:
    return _estimate(float(values.mean()), bootstrap_mean(values, seed=seed))


def _estimate(value: float, interval: tuple[float, float]) -> Estimate:
    """Return the estimate, its interval widened to hold the value, which a skewed bootstrap may leave out."""
    return Estimate(value, float(np.minimum(value, interval[0])), float(np.maximum(value, interval[1])))


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan


def _plain(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _expect_images(num_images: int, num_given: int) -> None:
    if num_images == 0:
        raise RunError(
            f"there is nothing to evaluate: expected at least one image, found none that could be read of {num_given} "
            "given. Look at what the split holds and at the images named as unreadable."
        )
