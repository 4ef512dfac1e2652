"""What a probability is worth: whether it is right as often as it says, before and after the temperature."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tellapart.auditing.findings import counted, verb
from tellapart.evaluation.calibration_error import NUM_BINS
from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.metrics import Estimate, reliability
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.selective import at_confidence, confidence_for
from tellapart.reporting.charts import Axis, Bars, Chart, Line, draw
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.figures import lowest, reliability_chart
from tellapart.reporting.gallery import chance
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import Section, percent, render

if TYPE_CHECKING:
    from markupsafe import Markup

_SURE = 0.9
# A share of fewer images than this says little; then the surest fifth is looked at instead.
_FEWEST_SURE = 20
_NUM_BARS = 20
# The interval of a share of 25 is at most 0.37 wide; of fewer, a point says next to nothing.
_CASES_A_POINT = 25
# The curve of fewer images than this is mostly the luck of the first of them.
_FEWEST_ON_CURVE = 10
_WANTED_ACCURACY = 0.99
_COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
_ERRORS = {
    "ece": "ECE, the calibration error",
    "ece_classwise": "ECE, class by class",
    "nll": "Negative log-likelihood",
    "brier": "Brier score",
}
_WORDS = {
    "multiclass": ("probability of the predicted class", "share that is right", "images"),
    "multilabel": ("probability of a label", "share that has it", "pairs of image and label"),
}


@dataclass(frozen=True)
class Sure:
    """How the images did that the network was sure of.

    `n` of them, at least `least` probable, `said` on average, of which `right` were; with Wilson's interval.
    """

    n: int
    least: float
    said: float
    right: float
    low: float
    high: float


def section(facts: RunFacts, pictures: Pictures) -> Section | None:
    """Return reliability, confidences and the risk-coverage curve; None for numbers, which have no probabilities."""
    split = facts.judged_on
    predictions = facts.predictions.get(split)
    if predictions is None or predictions.task == "regression" or not len(predictions):
        return None
    after = predictions.sorted_by_index()
    before = after.uncalibrated()
    was_scaled = after.temperature != 1.0 and not math.isnan(after.temperature)
    html = render(
        "reliability.html",
        sentence=sentence(after, split),
        temperature=temperature_sentence(facts, split),
        rows=error_rows(facts.uncalibrated.get(split, {}) if was_scaled else {}, facts.metrics.get(split, {})),
        was_scaled=was_scaled,
        panels=_panels(before if was_scaled else None, after),
        histogram=_histogram(after),
        curve=_curve(facts, after),
    )
    return Section("calibration", "What its probabilities are worth", html)


# --- in words --------------------------------------------------------------------------------------------------------


def confidences(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities float64 `(M,)`, and whether each came true: of images, or of pairs of image and label."""
    if predictions.task == "multilabel":
        return predictions.outputs.ravel().astype(np.float64), predictions.targets.ravel() > 0
    probs = predictions.outputs.max(axis=1).astype(np.float64)
    return probs, predictions.predicted() == predictions.targets


def how_sure(predictions: Predictions) -> Sure:
    """Return how often what is at least 90% probable came true; where that is rare, what is the surest fifth."""
    probs, is_true = confidences(predictions)
    least = _SURE
    if (probs >= least).sum() < _FEWEST_SURE:
        least = float(np.quantile(probs, 0.8))
    chosen = probs >= least
    n, right = int(chosen.sum()), int(is_true[chosen].sum())
    low, high = wilson(right, n)
    return Sure(n, least, float(probs[chosen].mean()), right / n, low, high)


def sentence(predictions: Predictions, split: str) -> str:
    """Return what the probabilities mean to somebody who uses them."""
    sure = how_sure(predictions)
    is_pairs = predictions.task == "multilabel"
    what = (
        f"{counted(sure.n, 'label')} that it gave"
        if is_pairs
        else f"{counted(sure.n, 'image')} of {split} that it gave"
    )
    right = "are there" if is_pairs else f"{verb(sure.n, 'is', 'are')} right"
    share = {0.0: "none", 1.0: "all"}.get(sure.right, f"{sure.right:.1%}")
    found = (
        f"Of the {what} a probability of {sure.least:.0%} or more, {share} {right} "
        f"({sure.low:.1%} to {sure.high:.1%}). On average it had said {chance(sure.said)}: "
    )
    if sure.said > sure.high:
        return found + "it is surer than it should be. Take its probabilities as an order, not at their word."
    if sure.said < sure.low:
        return found + "it is right more often than it says."
    return found + f"it keeps its word, as far as {counted(sure.n, 'image' if not is_pairs else 'label')} can tell."


def temperature_sentence(facts: RunFacts, split: str) -> str:
    """Return what the temperature is and what it did."""
    predictions = facts.predictions[split]
    value = predictions.temperature
    if math.isnan(value):
        return "The rows of this table were calibrated by different temperatures, so there is no one before."
    if value == 1.0:
        return "No temperature was applied: these are the probabilities that the network gives by itself."
    was = "too sure" if value > 1 else "not sure enough"
    words = f"The network's logits are divided by a temperature of {value:.3g}, fitted on val: it had been {was}. "
    words += "That changes no prediction, only how sure each is. "
    if split == "val":
        words += "Fitted on these same images, it looks a little better here than it will elsewhere."
    return words.rstrip()


def error_rows(
    before: Mapping[str, Estimate], after: Mapping[str, Estimate]
) -> list[tuple[str, Estimate | None, Estimate, bool]]:
    """Return (what, before, after, whether it is a share) for each error that is known."""
    return [
        (words, before.get(name), after[name], name.startswith("ece"))
        for name, words in _ERRORS.items()
        if name in after
    ]


# --- drawn -----------------------------------------------------------------------------------------------------------


def _panels(before: Predictions | None, after: Predictions) -> list[Markup]:
    num_bins = num_bins_for(len(confidences(after)[0]))
    bins = {"after": reliability(after, num_bins)}
    if before is not None:
        bins = {"before": reliability(before, num_bins), **bins}
    # One scale for both, wide enough for every point; an interval may leave it.
    low = lowest([row[key] for rows in bins.values() for row in rows for key in ("confidence", "accuracy")])
    titles = {"before": "Before the temperature", "after": "As it ships"}
    return [
        reliability_chart(
            f"reliability-{name}",
            titles[name],
            rows,
            low,
            _WORDS[after.task],
            "soft" if name == "before" else "accent",
        )
        for name, rows in bins.items()
    ]


def num_bins_for(count: int) -> int:
    """Return how many points a diagram of so many cases has: those of the ECE, fewer where each would hold too few.

    >>> num_bins_for(10_000), num_bins_for(100), num_bins_for(1)
    (15, 4, 1)
    """
    return max(1, min(NUM_BINS, count // _CASES_A_POINT))


def _histogram(predictions: Predictions) -> Markup:
    """Return how many images got which probability; right ones drawn over all, so that the rest shows as wrong."""
    probs, is_true = confidences(predictions)
    is_pairs = predictions.task == "multilabel"
    low = 0.0 if is_pairs else lowest([float(probs.min())])
    edges = np.linspace(low, 1.0, _NUM_BARS + 1)
    everything, right = (np.histogram(np.clip(chosen, low, 1.0), edges)[0] for chosen in (probs, probs[is_true]))
    names = ("not so labelled", "so labelled") if is_pairs else ("wrong", "right")
    return draw(
        Chart(
            id="confidences",
            title="Images by how sure it is" if not is_pairs else "Pairs by probability",
            layers=(
                Bars(names[0], edges.tolist(), everything.tolist(), "miss"),
                Bars(names[1], edges.tolist(), right.tolist(), "accent"),
            ),
            x=Axis(_WORDS[predictions.task][0], low, 1.0, "percent"),
            y=Axis(_WORDS[predictions.task][2], 0.0, style="count"),
            description=f"{int((~is_true).sum()):,} of {len(probs):,} are {names[0]}.",
        )
    )


def coverage_curve(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share answered, the number answered and the number right for each distinct confidence, surest first.

    `evaluation.selective.risk_coverage` has the same points, and the area below them with its interval, for which it
    takes a second.
    """
    probs, is_true = confidences(predictions)
    order = np.argsort(-probs, kind="stable")
    last = np.append(np.flatnonzero(np.diff(probs[order])), len(order) - 1)
    return (last + 1) / len(order), last + 1, np.cumsum(is_true[order])[last]


def _curve(facts: RunFacts, predictions: Predictions) -> dict[str, Any] | None:
    if predictions.task != "multiclass" or len(predictions) < _FEWEST_ON_CURVE:
        return None
    coverage, answered, right = coverage_curve(predictions)
    intervals = np.array([wilson(int(k), int(n)) for k, n in zip(right, answered, strict=True)])
    shown = answered >= _FEWEST_ON_CURVE
    accuracy = right / answered
    said, mark = _selective(facts, predictions)
    # The intervals of the few surest, which are wide, may leave the drawing.
    low = max(0.0, np.floor(20 * (accuracy[shown].min() - 0.05) + 1e-9) / 20)
    chart = draw(
        Chart(
            id="risk-coverage",
            title="Accuracy, if it may leave out the least sure",
            layers=(
                Line(
                    "accuracy",
                    coverage[shown].tolist(),
                    accuracy[shown].tolist(),
                    intervals[shown, 0].tolist(),
                    intervals[shown, 1].tolist(),
                    "accent",
                ),
            ),
            x=Axis("share of the images it answers for", 0.0, 1.0, "percent"),
            y=Axis("share of those that is right", float(low), 1.0, "percent"),
            description=f"Answering for all, {accuracy[-1]:.1%} are right. {said}",
            marks=[(at, "") for at, _ in mark],
            note=f"Dotted: {mark[0][1]}." if mark else "",
            table=False,
        )
    )
    return {"chart": chart, "sentence": said, "rows": coverage_rows(predictions)}


def coverage_rows(predictions: Predictions) -> list[dict[str, Any]]:
    """Return, for some shares of the images, the confidence it takes, and how many of those answered are right."""
    probs, is_true = confidences(predictions)
    order = np.argsort(-probs, kind="stable")
    right = np.cumsum(is_true[order])
    rows = []
    for wanted in _COVERAGES:
        n = max(1, round(wanted * len(order)))
        low, high = wilson(int(right[n - 1]), n)
        rows.append(
            {
                "coverage": wanted,
                "n": n,
                "confidence": float(probs[order[n - 1]]),
                "accuracy": float(right[n - 1] / n),
                "low": low,
                "high": high,
            }
        )
    return rows


def _selective(facts: RunFacts, predictions: Predictions) -> tuple[str, list[tuple[float, str]]]:
    """Return what it takes to be right 99% of the time, chosen on val and judged here, and a mark for the chart."""
    split = facts.judged_on
    chosen = confidence_for(facts.predictions["val"], _WANTED_ACCURACY)
    if chosen.confidence is None:
        why = f"val cannot tell: {chosen.why_none}."
        return f"From what probability on it is right {_WANTED_ACCURACY:.0%} of the time, {why}", []
    judged = at_confidence(predictions, chosen.confidence)
    where = "val, which chose that," if split == "val" else f"{split}, which did not choose that,"
    # Cut, not rounded: 99.97% is another demand than 100%.
    least = f"{math.floor(chosen.confidence * 1000) / 10:g}%"
    answered = "all" if judged.num_answered == judged.n else percent(judged.coverage.value)
    words = (
        f"To be right {_WANTED_ACCURACY:.0%} of the time, let it answer only from a probability of {least} on (chosen "
        f"on val). On {where} it then answers for {answered} of the images"
    )
    if judged.num_answered:
        found = judged.accuracy
        words += f" and is right for {percent(found.value)} of those ({percent(found.low)} to {percent(found.high)})"
    # At the very edge a line would say nothing.
    is_seen = judged.coverage.value < _COVERAGES[1]
    return words + ".", [(judged.coverage.value, f"from a probability of {least} on")] if is_seen else []
