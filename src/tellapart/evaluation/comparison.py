"""Two models compared from their tables of predictions, and two ways of training from the tables of several seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tellapart.evaluation.estimates import HEADLINE, HIGHER_IS_BETTER
from tellapart.evaluation.intervals import NUM_RESAMPLES
from tellapart.evaluation.paired import Difference, McNemar, mcnemar, paired_means, paired_statistic
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.quick import nll_per_image, target_ranks
from tellapart.evaluation.spread import Welch, welch
from tellapart.evaluation.statistics import mean_average_precision

# The share of false claims that is accepted where there is no difference.
LEVEL = 0.05

# As in `evaluate`: a resample of a ranking metric reads all (image, class) pairs of both tables.
_PAIRS_PER_BOOTSTRAP = 5 * 10**7
_FEWEST_RESAMPLES = 200
# Metrics that are between 0 and 1 on each image.
_SHARES = ("top1", "exact_match")


@dataclass(frozen=True)
class Compared:
    """How two models differ on the same images.

    Attributes:
        metric: what decides: top1, map or mse.
        differences: the second model's metric minus the first's, by name; `metric` is among them.
        test: "mcnemar", "bootstrap" or "welch": where `p` is from.
        p: the p-value of no difference, for `metric`.
        counts: of a McNemar test.
        seeds: of two ways of training: the difference of the means over their seeds, by Welch.
        is_same: whether both say the same of every image, to the last bit.
        interval_over: what the interval of `metric` is over, "images" or "seeds".
    """

    metric: str
    differences: dict[str, Difference]
    test: str
    p: float
    counts: McNemar | None = None
    seeds: Welch | None = None
    is_same: bool = False

    def better(self, p: float | None = None) -> int:
        """Return which model is better, 1 or 2, or 0 where these images cannot tell.

        A claim needs all there is: the p-value, and the intervals that leave out 0.

        Args:
            p: the p-value adjusted for other comparisons made beside this one; by default the own one.
        """
        p = self.p if p is None else p
        found = self.differences[self.metric]
        intervals = [(found.low, found.high)] + ([(self.seeds.low, self.seeds.high)] if self.seeds else [])
        if not p < LEVEL or not all(low > 0 or high < 0 for low, high in intervals):
            return 0
        return 2 if (found.value > 0) == HIGHER_IS_BETTER[self.metric] else 1


def compare_tables(first: Predictions, second: Predictions, *, seed: int = 0) -> Compared:
    """Return how two models differ, from tables with the same images in the same order, see `align`.

    - multiclass: top1, nll and brier by the paired bootstrap; McNemar's exact test of the hits decides.
    - multilabel: map, nll and exact_match; the bootstrap of map decides.
    - regression: mse and mae; the bootstrap of mse decides.

    Args:
        first: the table of the first model.
        second: of the second.
        seed: the draws of the bootstrap are a function of it.
    """
    values = [per_image(table) for table in (first, second)]
    found = paired_means(*values, seed=seed, shares=_SHARES)
    metric, counts, test = HEADLINE[first.task], None, "bootstrap"
    if first.task == "multiclass":
        counts, test = mcnemar(values[0]["top1"] > 0, values[1]["top1"] > 0), "mcnemar"
    elif first.task == "multilabel":
        found = {"map": _map_difference(first, second, seed), **found}
    p = found[metric].p if counts is None else counts.p
    return Compared(metric, found, test, p, counts, is_same=np.array_equal(first.outputs, second.outputs))


def compare_seeds(first: Sequence[Predictions], second: Sequence[Predictions], *, seed: int = 0) -> Compared:
    """Return how two ways of training differ, from the tables of several seeds of each, all in the same order.

    Two things may make the means differ by chance. The seeds: Welch's test over the trainings, which are not paired.
    The images: the paired bootstrap of what each image gives on average over the seeds; of map, which is no mean over
    images, the mean of map over the seeds in the same resample.

    Args:
        first: a table a seed, at least two.
        second: likewise.
        seed: the draws of the bootstrap are a function of it.
    """
    sides = [[per_image(table) for table in tables] for tables in (first, second)]
    means = [{name: np.mean([each[name] for each in side], axis=0) for name in side[0]} for side in sides]
    found = paired_means(*means, seed=seed, shares=_SHARES)
    metric = HEADLINE[first[0].task]
    values = [[float(each[metric].mean()) for each in side] if metric in side[0] else [] for side in sides]
    if metric == "map":
        found = {"map": _map_difference(first, second, seed), **found}
        once = np.ones((len(first[0]), 1), np.float32)
        values = [[float(_map(table)(once)[0]) for table in tables] for tables in (first, second)]
    tested = welch(*values)
    is_same = len(first) == len(second) and all(
        np.array_equal(one.outputs, other.outputs) for one, other in zip(first, second, strict=True)
    )
    p = tested.p if not math.isnan(tested.p) else 1.0
    return Compared(metric, found, "welch", p, seeds=tested, is_same=is_same)


def per_image(table: Predictions) -> dict[str, np.ndarray]:
    """Return what each image adds to the metrics that are means over images, float64 `(N,)` each.

    multiclass: top1 (0 or 1), nll and brier; multilabel: nll and exact_match; regression: mse and mae.
    """
    if table.task == "regression":
        error = table.outputs.astype(np.float64) - table.targets
        return {"mse": (error**2).mean(axis=1), "mae": np.abs(error).mean(axis=1)}
    nll = nll_per_image(table.task, table.outputs, table.targets)
    if table.task == "multilabel":
        is_right = (table.predicted() == (table.targets > 0)).all(axis=1)
        return {"nll": nll, "exact_match": is_right.astype(np.float64)}
    off = table.outputs.astype(np.float64)
    off[np.arange(len(table)), table.targets] -= 1
    hits = target_ranks(table.outputs, table.targets) == 0
    return {"top1": hits.astype(np.float64), "nll": nll, "brier": (off**2).sum(axis=1)}


def _map(table: Predictions) -> Callable[[np.ndarray], np.ndarray]:
    return mean_average_precision(table.outputs, table.targets)


def _map_difference(
    first: Predictions | Sequence[Predictions], second: Predictions | Sequence[Predictions], seed: int
) -> Difference:
    sides = [[side] if isinstance(side, Predictions) else list(side) for side in (first, second)]
    maps = [[_map(table) for table in side] for side in sides]
    n, num_pairs = len(sides[0][0]), sum(table.outputs.size for side in sides for table in side)
    return paired_statistic(
        lambda counts: np.mean([value(counts) for value in maps[0]], axis=0),
        lambda counts: np.mean([value(counts) for value in maps[1]], axis=0),
        n,
        seed=seed,
        num_resamples=max(_FEWEST_RESAMPLES, min(NUM_RESAMPLES, 2 * _PAIRS_PER_BOOTSTRAP // max(1, num_pairs))),
    )
