"""How often the 95% intervals hold the truth: samples drawn from a large table of real predictions.

    python benchmarks/interval_coverage.py RUN/predictions/test.parquet [--draws 1000] [--sizes 50 200 1000] [--json]

The table stands for all images there are, so what is measured on the whole of it is the truth. Samples of n rows are
drawn from it with replacement, and of each sample the intervals are computed as `evaluate` does. The draws of a line
are spread over its populations:

- all: the whole table; AUC and average precision of each class against the rest.
- near 100%: for shares ten parts of the rows with the most confident predictions, of accuracies from 95% to 99.8%; for
  AUC the two classes of up to ten pairs, those whose AUC is between 0.97 and 0.998.
- near 0%: for shares ten parts of the rows whose true class got the least probability, of accuracies from 5% to 0.2%;
  for AUC the same pairs with their scores turned round.

A line of a metric by class is over all classes, each checked in every sample that has images of it; in the regions near
an end over those classes whose truth is within 0.1 of it, and not at the very end, which every interval holds. A share
is a whole number of images over n, so that its coverage jumps with the true share, and for some no interval can come
near 95%. So accuracy and recall have more columns: "exact" is the coverage computed from the binomial distribution
instead of drawn, which decides; "any" is the coverage closest to 95% that any interval whatsoever could have, averaged
over the populations in the same way. The lines "any share" average the exact coverage over all true shares of a range,
as Brown, Cai and DasGupta (2001), "Interval estimation for a binomial proportion", do; in place of the width they show
the lowest coverage.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.evaluation.calibration_error import calibration_of
from tellapart.evaluation.confusion import class_metrics
from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.metrics import Estimate
from tellapart.evaluation.per_class import f1, share
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.ranking import rank_classes
from tellapart.training.progress import make_progress

BAND = (0.935, 0.965)
SIZES, NUM_DRAWS, NUM_PARTS = (50, 200, 1000), 1000, 10
REGIONS = ("all", "near 100%", "near 0%")
# Shares of images, areas under curves, and means over classes and calibration.
GROUPS = ("shares", "areas", "more")
# How far from its end a class or an AUC of a region near an end may be.
NEAR = 0.1
# What must be within the band; the other lines are there to be seen.
REQUIRED = ("accuracy", "recall of a class", "roc_auc of a class")
Measured = dict[str, list[Estimate]]
Lines = dict[tuple[str, int, str], "Line"]
cached_wilson = lru_cache(maxsize=2**20)(wilson)


@dataclass
class Line:
    """What is known of one metric at one n in one region."""

    truths: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)
    exact: list[float] = field(default_factory=list)
    attainable: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("--draws", type=int, default=NUM_DRAWS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-required", action="store_true", help="leave out means over classes and calibration")
    parser.add_argument("--json", action="store_true")
    found = parser.parse_args()
    table = Predictions.load(found.predictions)
    if table.task != "multiclass":
        parser.error(f"expected a multiclass table, found {table.task}")
    display = make_progress(sys.stderr.isatty(), sys.stderr)
    groups = GROUPS[:2] if found.only_required else GROUPS
    num_lines = 6 if found.only_required else 7
    with display.task("drawing samples", num_lines * len(found.sizes) * found.draws) as advance:
        lines = coverage(table, found.sizes, found.draws, found.seed, advance, groups=groups)
    display.close()
    rows = [summary(*key, line) for key, line in lines.items() if line.held] + list(averaged(found.sizes))
    print(json.dumps({"images": len(table), "draws": found.draws, "rows": rows}) if found.json else in_words(rows))


def coverage(
    table: Predictions,
    sizes: Sequence[int],
    num_draws: int,
    seed: int = 0,
    advance: Callable[[int], object] = lambda count: None,
    *,
    groups: Sequence[str] = GROUPS,
) -> Lines:
    """Return a line for each (metric, n, region) of the groups of metrics that are asked for."""
    lines: Lines = {}
    measures = {"shares": measure_shares, "areas": measure_areas, "more": measure_more}
    for name, region in [
        (group, region) for group in groups for region in (REGIONS if group != "more" else REGIONS[:1])
    ]:
        measure = measures[name]
        parts = [*(pairs if name == "areas" and region != "all" else populations)(table, region)]
        for part_number, part in enumerate(parts):
            truth = measure(part)
            for n in sizes:
                if name == "shares":
                    add_exact(lines, region, n, part, truth)
                rng = np.random.default_rng([seed, REGIONS.index(region), part_number, n])
                for _ in range(num_draws // len(parts) + (part_number < num_draws % len(parts))):
                    add(lines, region, n, truth, measure(take(part, rng.integers(0, len(part), n))))
                    advance(1)
    return lines


# --- populations ------------------------------------------------------------------------------------------------------


def populations(table: Predictions, region: str) -> Iterator[Predictions]:
    """Yield parts of the table in which the accuracy is that of the region."""
    if region == "all":
        yield table
        return
    right = table.predicted() == table.targets
    is_high = region == "near 100%"
    score = -table.outputs.max(axis=1) if is_high else table.outputs[np.arange(len(table)), table.targets]
    order = np.argsort(score, kind="stable")
    so_far = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    for distance in np.linspace(0.05, 0.002, NUM_PARTS):
        found = np.flatnonzero(so_far >= 1 - distance if is_high else so_far <= distance)
        # A part is the largest that is so right or so wrong; one of a few rows would say nothing.
        if len(found) and found[-1] >= 50:
            yield take(table, order[: found[-1] + 1])


def pairs(table: Predictions, region: str) -> list[Predictions]:
    """Return tables of two classes whose AUC is near 1, or the same with scores turned round."""
    found = []
    for a, b in combinations(range(len(table.classes)), 2):
        rows = np.flatnonzero((table.targets == a) | (table.targets == b))
        both = table.outputs[rows][:, [a, b]].astype(np.float64)
        first = both[:, 0] / np.maximum(both.sum(axis=1), 1e-30)
        probs = np.stack([first, 1 - first] if region == "near 100%" else [1 - first, first], axis=1)
        part = replace(
            take(table, rows),
            classes=(table.classes[a], table.classes[b]),
            targets=(table.targets[rows] == b).astype(np.int64),
            outputs=probs.astype(np.float32),
        )
        area = measure_areas(part)["roc_auc of a class"][0].value
        if 0.97 <= max(area, 1 - area) <= 0.998:
            found.append(part)
    return found[:: max(1, math.ceil(len(found) / NUM_PARTS))]


def take(table: Predictions, rows: np.ndarray) -> Predictions:
    """Return a table of `rows`, in which every row counts as an image of its own."""
    return replace(
        table,
        indices=np.arange(len(rows)),
        paths=[""] * len(rows),
        targets=table.targets[rows],
        outputs=table.outputs[rows],
        num_given=len(rows),
    )


# --- what is measured, by the functions that `evaluate` uses ----------------------------------------------------------


def measure_shares(table: Predictions) -> Measured:
    num_classes, hit = len(table.classes), table.predicted() == table.targets
    support, hits = (np.bincount(of, minlength=num_classes) for of in (table.targets, table.targets[hit]))
    return {
        "accuracy": [share(int(hit.sum()), len(table))],
        "recall of a class": [share(int(k), int(n)) for k, n in zip(hits, support, strict=True)],
    }


def measure_areas(table: Predictions) -> Measured:
    # Of two classes, the second's AUC is the first's.
    columns = table.outputs if len(table.classes) > 2 else table.outputs[:, :1]
    found = rank_classes(columns, lambda k: table.targets == k)
    means = {"roc_auc": [found.mean_roc_auc()], "average_precision": [found.mean_average_precision()]}
    return {
        "roc_auc of a class": found.roc_auc_by_class(),
        "average_precision of a class": found.average_precision_by_class(),
    } | (means if len(table.classes) > 2 else {})


def measure_more(table: Predictions) -> Measured:
    truth, guess, num_classes = table.targets, table.predicted(), len(table.classes)
    # The bootstrap's draws are a function of its seed, which must not be the same for all samples.
    seed = int(table.outputs.view(np.uint32).sum() % 2**31)
    found = class_metrics(truth, guess, num_classes) | calibration_of(table, seed)
    rows = {name: [each] for name, each in found.items()}
    support, guessed, hits = (np.bincount(x, minlength=num_classes) for x in (truth, guess, truth[truth == guess]))
    rows["f1 of a class"] = [f1(int(h), int(s)) for h, s in zip(hits, support + guessed, strict=True)]
    rows["precision of a class"] = [share(int(h), int(s)) for h, s in zip(hits, guessed, strict=True)]
    return rows


def add(lines: Lines, region: str, n: int, truth: Measured, sample: Measured) -> None:
    """Note which of a sample's intervals held the truth."""
    for metric, estimates in sample.items():
        line = lines.setdefault((metric, n, region), Line())
        checked = [
            (true.value, found)
            for true, found in zip(truth[metric], estimates, strict=True)
            if is_in(region, true.value) and not math.isnan(found.low)
        ]
        if not checked:
            continue
        # A truth on the edge, such as 100%, must not be lost to rounding.
        line.held.append(float(np.mean([found.low - 1e-9 <= true <= found.high + 1e-9 for true, found in checked])))
        line.truths += [true for true, _ in checked]
        line.widths += [found.high - found.low for _, found in checked]


def is_in(region: str, truth: float) -> bool:
    """Return whether a true value is one to check: defined, and in a region near an end, near it but not the end."""
    distance = {"all": 0.05, "near 100%": 1 - truth, "near 0%": truth}[region]
    return not math.isnan(truth) and 0 < distance <= NEAR


# --- what needs no draws ----------------------------------------------------------------------------------------------


def add_exact(lines: Lines, region: str, n: int, part: Predictions, truth: Measured) -> None:
    """Note the coverage of Wilson's interval for accuracy and for the recall of each class."""
    line = lines.setdefault(("accuracy", n, region), Line())
    line.exact.append(exact_coverage(n, truth["accuracy"][0].value))
    line.attainable.append(best_coverage(n, truth["accuracy"][0].value))
    shares = np.bincount(part.targets, minlength=len(part.classes)) / len(part)
    classes = [k for k, true in enumerate(truth["recall of a class"]) if is_in(region, true.value)]
    if not classes:
        return
    found = [exact_of_class(n, shares[k], truth["recall of a class"][k].value) for k in classes]
    # A sample without images of a class does not check it.
    weights = 1 - (1 - shares[classes]) ** n
    lines.setdefault(("recall of a class", n, region), Line()).exact.append(float(np.average(found, weights=weights)))


def exact_coverage(n: int, share: float) -> float:
    """Return how often Wilson's interval holds a true share, for a sample of n."""
    chances = binomial(n, share)
    held = [low <= share <= high for low, high in (cached_wilson(k, n) for k in range(n + 1))]
    return float(chances[held].sum())


def exact_of_class(n: int, class_share: float, recall: float) -> float:
    """Return the same for a class of which a sample of n has a random number of images, given that it has any."""
    chances = binomial(n, class_share)
    likely = [size for size in range(1, n + 1) if chances[size] > 1e-6]
    return float(sum(chances[size] * exact_coverage(size, recall) for size in likely) / chances[likely].sum())


def best_coverage(n: int, share: float) -> float:
    """Return the coverage closest to 95% that any interval can have: the chance of some run of counts."""
    so_far = np.concatenate([[0], np.cumsum(binomial(n, share))])
    runs = so_far[None, :] - so_far[:, None]
    return float(runs.flat[np.abs(runs - 0.95).argmin()])


def binomial(n: int, share: float) -> np.ndarray:
    from scipy.stats import binom

    return binom.pmf(np.arange(n + 1), n, share)


def averaged(sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield the exact coverage for accuracy averaged over true shares."""
    for first, last in ((0.5, 1.0), (0.95, 1.0), (0.99, 1.0)):
        shares = np.linspace(first, last, 402)[1:-1]
        for n in sizes:
            exact = [exact_coverage(n, share) for share in shares]
            yield {
                "metric": "any share",
                "n": n,
                "region": f"{first:.0%} to {last:.0%}",
                "truth": [first, last],
                "exact": float(np.mean(exact)),
                "lowest": min(exact),
                "within": BAND[0] <= np.mean(exact) <= BAND[1],
            }


# --- the table --------------------------------------------------------------------------------------------------------


def summary(metric: str, n: int, region: str, line: Line) -> dict[str, Any]:
    """Return a line in plain numbers. Several checks of one sample go together, so the error is over samples."""
    exact = float(np.mean(line.exact)) if line.exact else None
    held = float(np.mean(line.held)) if line.held else math.nan
    judged = held if exact is None else exact
    return {
        "metric": metric,
        "n": n,
        "region": region,
        "truth": [min(line.truths), max(line.truths)],
        "samples": len(line.held),
        "checks": len(line.truths),
        "coverage": held,
        "standard_error": float(np.std(line.held) / math.sqrt(len(line.held))),
        "exact": exact,
        "attainable": float(np.mean(line.attainable)) if line.attainable else None,
        "width": float(np.mean(line.widths)),
        "within": bool(BAND[0] <= judged <= BAND[1]),
        "required": metric in REQUIRED,
    }


def in_words(rows: list[dict[str, Any]]) -> str:
    """Return the table; required lines first."""
    head = f"{'metric':34s}{'n':>6s} {'population':12s}{'truth':>15s}{'checks':>8s}{'coverage':>16s}"
    text = [head + f"{'exact':>8s}{'any':>7s}{'width':>8s}  {BAND[0]:.1%} to {BAND[1]:.1%}"]
    place = {name: number for number, name in enumerate(REQUIRED)}
    for row in sorted(rows, key=lambda row: (place.get(row["metric"], len(place)), row["metric"], row["region"])):
        truth = f"{row['truth'][0]:.3f} to {row['truth'][1]:.3f}"
        drawn = f"{row['coverage']:.1%} +- {row['standard_error']:.1%}" if "coverage" in row else ""
        exact, attainable = (f"{row[key]:.1%}" if row.get(key) is not None else "" for key in ("exact", "attainable"))
        width = f"{row['width']:.3f}" if "width" in row else f"{row['lowest']:.1%}"
        text.append(
            f"{row['metric']:34s}{row['n']:6d} {row['region']:12s}{truth:>15s}{row.get('checks', 0):8d}{drawn:>16s}"
            f"{exact:>8s}{attainable:>7s}{width:>8s}  {'yes' if row['within'] else 'no'}"
        )
    return "\n".join(text)


if __name__ == "__main__":
    main()
