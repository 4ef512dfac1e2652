"""What is cheap enough to measure after every epoch; it needs neither scikit-learn nor SciPy."""

from __future__ import annotations

import numpy as np

from tellapart.errors import RunError, unknown_name
from tellapart.evaluation.estimates import HEADLINE, expect_images
from tellapart.evaluation.statistics import f1, mean_average_precision


def quick_metrics(task: str, outputs: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """Return the values, without intervals, of the few metrics that are cheap enough for after every epoch.

    Args:
        task: "multiclass" (gives top1, nll), "multilabel" (map, f1_macro above 0.5) or "regression" (mse, mae).
        outputs: as in `Predictions`, float32 `(N, K)`. A multiclass row that holds a NaN counts as wrong.
        targets: as in `Predictions`.

    Raises:
        RunError: there are no images, or the task is unknown.

    >>> quick_metrics("multiclass", np.array([[0.5, 0.5], [0.25, 0.75]], np.float32), np.array([0, 0]))["top1"]
    0.5
    """
    if task not in HEADLINE:
        raise RunError(unknown_name("task", task, HEADLINE))
    expect_images(len(outputs), len(outputs))
    if task == "multiclass":
        hits = target_ranks(outputs, targets) == 0
        return {"top1": float(hits.mean()), "nll": float(nll_per_image(task, outputs, targets).mean())}
    if task == "multilabel":
        once = np.ones((len(outputs), 1), np.float32)
        value = {"map": mean_average_precision(outputs, targets), "f1_macro": f1(outputs, targets, "macro")}
        return {name: float(statistic(once)[0]) for name, statistic in value.items()}
    error = outputs.astype(np.float64) - targets
    return {"mse": float((error**2).mean()), "mae": float(np.abs(error).mean())}


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


def nll_per_image(task: str, outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return -ln of the probability given to what is true, float64 `(N,)`; of labels, the mean over the classes.

    Probabilities are clipped at the least normal float32, so a certain mistake costs 87.3 and not infinity.
    """
    if task == "multiclass":
        at_target = np.take_along_axis(outputs, targets[:, None], axis=1)[:, 0].astype(np.float64)
    else:
        at_target = np.where(targets > 0, outputs, 1 - outputs.astype(np.float64))
    losses = -np.log(np.maximum(at_target, np.finfo(np.float32).tiny))
    return losses if task == "multiclass" else losses.mean(axis=1)
