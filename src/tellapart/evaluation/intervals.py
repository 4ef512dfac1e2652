"""How far a measured number may be from the true one: Wilson's interval for shares, the bootstrap for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist

import numpy as np

from tellapart.seeding import derive

# 1000 resamples put the 2.5% and 97.5% points on about the 25th value from either end, the least that Efron and
# Tibshirani (1993, "An Introduction to the Bootstrap", section 13.3) advise for percentile intervals.
NUM_RESAMPLES = 1000

# Draws made at a time: 2**20 float64 numbers are 8 MiB, so memory does not grow with the number of resamples.
_DRAWS_PER_CHUNK = 2**20


def wilson(num_successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval for a share, `(low, high)` within [0, 1].

    It is never empty, not even at 0% or 100%, where the textbook interval `p +- z sqrt(p (1 - p) / n)` is.

    Args:
        num_successes: how many of the `n` were right, 0 to `n`. Both may be fractions where `n` is an effective size.
        n: how many there were. With none the share is not defined, so both ends are NaN.
        confidence: in (0, 1).

    Raises:
        ValueError: `num_successes` is not within 0 to `n`, or `confidence` not within (0, 1).

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22, 209-212:
    `(k + z^2/2 +- z sqrt(k (n - k) / n + z^2/4)) / (n + z^2)`, z the normal quantile of `(1 + confidence) / 2`.

    >>> low, high = wilson(95, 100)
    >>> round(low, 4), round(high, 4)
    (0.8882, 0.9785)
    """
    if not 0 <= num_successes <= n:
        raise ValueError(f"wilson: expected 0 <= num_successes <= n, found {num_successes} of {n}.")
    z = normal_quantile(confidence)
    if n == 0:
        return math.nan, math.nan
    centre = num_successes + z * z / 2
    spread = z * math.sqrt(num_successes * (n - num_successes) / n + z * z / 4)
    share = num_successes / n
    # In exact arithmetic the share is inside and 0 and 1 are reached exactly; rounding must not change that.
    low = max(0.0, min(share, (centre - spread) / (n + z * z)))
    high = min(1.0, max(share, (centre + spread) / (n + z * z)))
    return low, high


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    n: int,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    strata: np.ndarray | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of any statistic of `n` images, `(low, high)`.

    The percentile form, not BCa: it stays within the range of the statistic, and BCa would call the statistic `n` more
    times for its jackknife. With fewer than two images the spread cannot be known and both ends are NaN. Resamples in
    which the statistic is NaN are left out. Two statistics given the same seed and `n` see the same resamples.

    Args:
        statistic: takes an index array, int64 `(n,)` with values in [0, n), and returns a number.
        n: how many images there are.
        seed: the draws are a function of it.
        num_resamples: how many times the images are drawn again.
        strata: what each image is drawn within, `(n,)`, such as its class; every stratum keeps its size. A stratum of
            one image adds no spread.
        confidence: in (0, 1).

    Source: Efron and Tibshirani (1993), "An Introduction to the Bootstrap", section 13.3.

    >>> values = np.arange(100.0)
    >>> low, high = bootstrap(lambda i: float(np.median(values[i])), 100, seed=0)
    >>> bool(low < 49.5 < high)
    True
    """
    draws = resamples(n, seed=seed, num_resamples=num_resamples, strata=strata)
    return _percentiles([np.array([statistic(row) for row in chunk], np.float64) for chunk in draws], n, confidence)


def bootstrap_mean(
    values: np.ndarray,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    strata: np.ndarray | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return what `bootstrap` returns for the mean of `values`, float `(n,)`, many times faster.

    >>> values = np.arange(100.0)
    >>> bootstrap_mean(values, seed=3) == bootstrap(lambda i: float(values[i].mean()), 100, seed=3)
    True
    """
    values = np.asarray(values, np.float64)
    draws = resamples(len(values), seed=seed, num_resamples=num_resamples, strata=strata)
    return _percentiles([values[chunk].mean(axis=1) for chunk in draws], len(values), confidence)


def bootstrap_counts(
    statistic: Callable[[np.ndarray], np.ndarray],
    n: int,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
    strata: np.ndarray | None = None,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return what `bootstrap` returns, for a statistic that can take many resamples at once as weights.

    Args:
        statistic: takes how often each image was drawn, float32 `(n, C)` holding whole numbers with columns summing to
            `n`, one column a resample, and returns their values, `(C,)`. Sums of such counts are exact below 2**24.
        n: how many images there are.
        seed: as in `bootstrap`, with the same draws.
        num_resamples: as in `bootstrap`.
        strata: as in `bootstrap`.
        confidence: as in `bootstrap`.

    >>> values = np.arange(100.0)
    >>> low, high = bootstrap_counts(lambda counts: values @ counts / 100, 100, seed=3)
    >>> np.allclose((low, high), bootstrap_mean(values, seed=3))
    True
    """
    draws = resamples(n, seed=seed, num_resamples=num_resamples, strata=strata)
    return _percentiles([np.asarray(statistic(_counts(chunk)), np.float64) for chunk in draws], n, confidence)


def effective_n(sizes: np.ndarray) -> float:
    """Return how many images, evenly spread over strata, tell the mean of their shares as precisely as `sizes` do.

    Empty strata are left out. The variance of a mean of C shares that all equal p is `p (1 - p) sum_c(1 / n_c) / C^2`,
    which is that of one share of `C^2 / sum_c(1 / n_c)` images.

    >>> effective_n(np.array([50, 50])), effective_n(np.array([90, 10]))
    (100.0, 36.0)
    """
    sizes = sizes[sizes > 0]
    return float(len(sizes) ** 2 / (1 / sizes).sum()) if len(sizes) else 0.0


def resamples(
    n: int, *, seed: int, num_resamples: int = NUM_RESAMPLES, strata: np.ndarray | None = None
) -> Iterator[np.ndarray]:
    """Yield all resamples in chunks, int64 `(C, n)`, each row `n` indices drawn with replacement.

    The rows are a function of (seed, n, strata) and their number, whatever the chunks are.

    Raises:
        ValueError: `strata` is not one value an image, or `num_resamples` is below 1.
    """
    if num_resamples < 1:
        raise ValueError(f"bootstrap: expected num_resamples of 1 or more, found {num_resamples}.")
    if n == 0:
        return
    rng = np.random.Generator(np.random.PCG64(derive(seed, "bootstrap")))
    order, starts, sizes = _strata_layout(n, strata)
    chunk = max(1, _DRAWS_PER_CHUNK // n)
    for first in range(0, num_resamples, chunk):
        draws = rng.random((min(chunk, num_resamples - first), n))
        # floor(u * size) is below size for every float64 u < 1, so no draw leaves its stratum.
        picks = (draws * sizes).astype(np.int64) + starts
        yield picks if order is None else order[picks]


def _strata_layout(n: int, strata: np.ndarray | None) -> tuple[np.ndarray | None, np.ndarray | int, np.ndarray | int]:
    """Return the images in the order of their strata, and the start and size of the stratum at each position."""
    if strata is None:
        return None, 0, n
    if np.shape(strata) != (n,):
        raise ValueError(f"bootstrap: expected strata of shape ({n},), one an image; found {np.shape(strata)}.")
    _, stratum, sizes = np.unique(strata, return_inverse=True, return_counts=True)
    order = np.argsort(stratum, kind="stable")
    starts = np.cumsum(sizes) - sizes
    return order, starts[stratum[order]], sizes[stratum[order]]


def _counts(chunk: np.ndarray) -> np.ndarray:
    """Return how often each image stands in each row of index arrays `(C, n)`, float32 `(n, C)`."""
    num_rows, n = chunk.shape
    cells = chunk * num_rows + np.arange(num_rows)[:, None]
    return np.bincount(cells.ravel(), minlength=n * num_rows).reshape(n, num_rows).astype(np.float32)


def _percentiles(chunks: list[np.ndarray], n: int, confidence: float) -> tuple[float, float]:
    normal_quantile(confidence)
    values = np.concatenate([*chunks, np.empty(0)])
    values = values[~np.isnan(values)]
    if n < 2 or len(values) == 0:
        return math.nan, math.nan
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def normal_quantile(confidence: float) -> float:
    """Return how many standard deviations a two-sided normal interval reaches; ValueError unless within (0, 1).

    >>> round(normal_quantile(0.95), 6)
    1.959964
    """
    if not 0 < confidence < 1:
        raise ValueError(f"expected a confidence between 0 and 1, such as 0.95; found {confidence}.")
    return NormalDist().inv_cdf((1 + confidence) / 2)
