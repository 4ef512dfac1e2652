"""Temperature scaling: one number that makes probabilities as sure as they are right."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tellapart.errors import RunError

# A network that seems to need more than this says nothing of the images, or the images are too few to tell.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 1 / 64, 64.0

# How many logits are looked at together: what lies in between then takes tens of megabytes, whatever N and K are.
_LOGITS_AT_ONCE = 2**20

# What a float32 can tell from 0 and from 1: its least number, and half the distance from 1 to the next below.
_LEAST = float(np.finfo(np.float32).smallest_subnormal)
_MOST = 1.0 - float(np.finfo(np.float32).epsneg) / 2


def fit_temperature(logits: np.ndarray, targets: np.ndarray, task: str) -> float:
    """Return the temperature T at which `logits / T` fit the targets best: above 1 for a network that is too sure.

    What is minimised is the mean negative log-likelihood of softmax(z / T) (multilabel: sigmoid(z / T), over all pairs
    of image and class) against smoothed targets. Without that, images that are all right would ask for T = 0, which is
    certainty. N images, the truth y, any other class j, and q_j the share of j in what the network itself gives to
    the classes other than y (at T = 1):

        multiclass:  t_y = (N + 1/2) / (N + 1),   t_j = q_j / (2 (N + 1))
        multilabel:  t = (P + 1/2) / (P + 1) for the P pairs that are positive, t = 1 / (2 (Q + 1)) for the Q others

    That weighs as much as half an image more with a wrong label, and fades as N grows. Platt adds a whole one; with
    more than two classes something has to say which label is wrong, and the mistakes that happen are those which the
    network thinks likely. In simulations of 30 and 200 images of 2 to 100 classes, half of one, shared out like that,
    came closer to the best temperature than a whole one shared out evenly in each of 24 cases, mostly by far.

    The smoothed mean is convex in 1 / T, so the root of its derivative is its one minimum; by that mean the result is
    never worse than T = 1. Dividing by T keeps every order of the logits, so no prediction changes.

    Args:
        logits: float `(N, K)`, finite, of images that the network was not trained on.
        targets: multiclass: int `(N,)`; multilabel: 0 or 1, `(N, K)`; regression: not read.
        task: "multiclass", "multilabel" or "regression", which has no temperature: 1.

    Returns:
        A float32 number from 1/64 to 64; 1 where no temperature changes anything.

    Raises:
        RunError: there are no images, or a logit is not finite.

    Source: Guo et al. (2017), "On calibration of modern neural networks", section 4.2; the targets after Platt (1999),
    "Probabilistic outputs for support vector machines", section 2.2.

    >>> round(fit_temperature(np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), np.array([0, 1, 1]), "multiclass"), 4)
    3.9152
    """
    if task == "regression":
        return 1.0
    if not len(logits):
        raise RunError("temperature: expected logits of at least one image, found none.")
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits).all(axis=1)).sum())
        raise RunError(
            f"temperature: expected finite logits, found others for {bad:,} of {len(logits):,} images. The network "
            "gives no numbers for them; train it with a lower learning rate."
        )
    value, slope_of, smoothed = _TASKS[task]
    at_targets = smoothed(logits, targets)

    def slope(log_inverse: float) -> float:
        return _mean(slope_of, logits, math.exp(log_inverse)) - at_targets

    def objective(temperature: float) -> float:
        return _mean(value, logits, 1.0 / temperature) - at_targets / temperature

    low, high = -math.log(HIGHEST_TEMPERATURE), -math.log(LOWEST_TEMPERATURE)
    if slope(low) == slope(high) == 0.0:
        return 1.0
    if slope(low) >= 0:
        best = low
    elif slope(high) <= 0:
        best = high
    else:
        from scipy.optimize import brentq

        best = float(brentq(slope, low, high, xtol=1e-9))  # pyright: ignore[reportArgumentType]
    # It is stored as float32, so it is judged as that.
    return min((1.0, float(np.float32(math.exp(-best)))), key=objective)


def apply_temperature(probs: np.ndarray, temperature: float, task: str) -> np.ndarray:
    """Return what the probabilities become when the logits behind them are divided by a temperature.

    softmax(log p / T), or sigmoid(log(p / (1 - p)) / T), computed in float64. The logits are known from the
    probabilities only as well as float32 holds them: 0 counts as the least number above it, 1 as the middle
    between it and the number below. `apply_temperature(p, 1 / T, task)` takes T out again.

    Args:
        probs: float32 `(N, K)`, or for multilabel of any shape; from 0 to 1.
        temperature: above 0.
        task: "multiclass", "multilabel" or "regression", whose values stay as they are.

    >>> apply_temperature(np.array([[0.25, 0.75]], np.float32), 0.5, "multiclass").round(4)
    array([[0.1, 0.9]], dtype=float32)
    """
    if task == "regression" or temperature == 1.0:
        return probs
    exact = np.clip(probs.astype(np.float64), _LEAST, None if task == "multiclass" else _MOST)
    if task == "multiclass":
        scaled = np.log(exact) / temperature
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    scaled = (np.log(exact) - np.log1p(-exact)) / temperature
    return np.exp(-np.logaddexp(0, -scaled)).astype(np.float32)


Term = Callable[[np.ndarray, float], np.ndarray]


def _mean(term: Term, logits: np.ndarray, inverse: float) -> float:
    """Return the mean over images of a term at 1 / T, some images at a time."""
    step = max(1, _LOGITS_AT_ONCE // logits.shape[1])
    parts = (logits[start : start + step].astype(np.float64) for start in range(0, len(logits), step))
    return math.fsum(float(term(part, inverse).sum()) for part in parts) / len(logits)


def _log_partition(logits: np.ndarray, inverse: float) -> np.ndarray:
    """Return log(sum_j exp(z_j / T)) of each image, the largest logit taken as 0."""
    return np.log(np.exp(inverse * _shifted(logits)).sum(axis=1))


def _expected_logit(logits: np.ndarray, inverse: float) -> np.ndarray:
    """Return the derivative of `_log_partition` by 1 / T: the mean logit under softmax(z / T)."""
    shifted = _shifted(logits)
    powers = np.exp(inverse * shifted)
    return (powers * shifted).sum(axis=1) / powers.sum(axis=1)


def _multiclass_at_targets(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean over images of sum_j t_j z_j, the largest logit taken as 0."""
    shifted = _shifted(np.asarray(logits, np.float64))
    images = np.arange(len(logits))
    at_truth = shifted[images, targets]
    if logits.shape[1] == 1:
        return 0.0
    # What the network says of the other classes alone: each row without its truth.
    others = shifted[np.arange(logits.shape[1]) != targets[:, None]].reshape(len(logits), -1)
    at_others = others.max(axis=1) + _expected_logit(others, 1.0)
    truth = (len(logits) + 0.5) / (len(logits) + 1)
    return float((truth * at_truth + (1 - truth) * at_others).mean())


def _shifted(logits: np.ndarray) -> np.ndarray:
    return logits - logits.max(axis=1, keepdims=True)


def _log_either(logits: np.ndarray, inverse: float) -> np.ndarray:
    """Return log(1 + exp(z / T)), summed over the classes."""
    return np.logaddexp(0, inverse * logits).sum(axis=1)


def _expected_positive(logits: np.ndarray, inverse: float) -> np.ndarray:
    """Return the derivative of `_log_either` by 1 / T."""
    return (np.exp(-np.logaddexp(0, -inverse * logits)) * logits).sum(axis=1)


def _multilabel_at_targets(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean over images of sum_k t_k z_k."""
    num_positive = float((targets > 0).sum())
    if_positive, if_not = (num_positive + 0.5) / (num_positive + 1), 0.5 / (targets.size - num_positive + 1)
    return float((np.where(targets > 0, if_positive, if_not) * logits).sum(axis=1).mean())


# A task's terms: of the negative log-likelihood that which no target is in, its derivative by 1 / T, and the mean of
# the logits at the smoothed targets, which is the derivative of the rest.
_TASKS: dict[str, tuple[Term, Term, Callable[[np.ndarray, np.ndarray], float]]] = {
    "multiclass": (_log_partition, _expected_logit, _multiclass_at_targets),
    "multilabel": (_log_either, _expected_positive, _multilabel_at_targets),
}
