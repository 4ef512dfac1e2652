"""The answer in one sentence, how far it may be from the truth, and what speaks against it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tellapart.auditing.findings import counted
from tellapart.evaluation.metrics import HEADLINE, Estimate
from tellapart.reporting.concerns import concerns
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import Section, count, number, percent, render

# How a metric is called, how it is written (a key of `_WRITE`), and what it says.
METRICS: dict[str, tuple[str, str, str]] = {
    "top1": ("Accuracy", "share", "images whose first guess is right"),
    "top5": ("Top-5 accuracy", "share", "images whose class is among the first five guesses"),
    "balanced_accuracy": ("Balanced accuracy", "share", "mean recall of the classes, each counting the same"),
    "precision_macro": ("Precision, macro", "share", "of what is given a name, how much is right; mean of the classes"),
    "recall_macro": ("Recall, macro", "share", "of what has a name, how much is found; mean of the classes"),
    "f1_macro": ("F1, macro", "share", "harmonic mean of precision and recall; mean of the classes"),
    "precision_weighted": ("Precision, weighted", "share", "mean of the classes, weighted by their images"),
    "recall_weighted": ("Recall, weighted", "share", "mean of the classes, weighted by their images"),
    "f1_weighted": ("F1, weighted", "share", "mean of the classes, weighted by their images"),
    "f1_micro": ("F1, micro", "share", "F1 of all classes' answers thrown together"),
    "exact_match": ("Exact match", "share", "images with every class right"),
    "map": ("Mean average precision", "share", "how well each class ranks its own images first; mean of the classes"),
    "roc_auc": ("ROC AUC", "score", "one class against the rest; 0.5 is chance, 1 is perfect"),
    "average_precision": ("Average precision", "score", "area under precision over recall; mean of the classes"),
    "kappa": ("Cohen's kappa", "score", "agreement beyond chance; 0 is chance, 1 is perfect"),
    "mcc": ("Matthews correlation", "score", "0 is chance, 1 is perfect"),
    "nll": ("Negative log-likelihood", "score", "how surprised it is by the truth; less is better"),
    "brier": ("Brier score", "score", "squared error of the probabilities; less is better"),
    "ece": ("Calibration error", "score", "how far confidence is from accuracy; less is better"),
    "ece_classwise": ("Calibration error, by class", "score", "the same, mean of the classes; less is better"),
    "mse": ("Mean squared error", "unit", "less is better"),
    "mae": ("Mean absolute error", "unit", "how far off it is; less is better"),
    "rmse": ("Root mean squared error", "unit", "less is better"),
    "r2": ("R²", "score", "share of the variation that it explains; 1 is perfect"),
}
# What stands beside the answer, of what there is.
_TILES = ("balanced_accuracy", "f1_macro", "top5", "exact_match", "f1_micro", "roc_auc", "rmse", "r2", "nll", "ece")


_WRITE: dict[str, Callable[[float], str]] = {
    "share": percent,
    # From 0 to 1, or not far from there; a small one is not to turn into 0.000.
    "score": lambda value: f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else number(value, 2),
    "unit": number,
}


@dataclass(frozen=True)
class Answer:
    """The headline metric in words.

    `big` is the value, `what` its name and the split, `sentence` says it with its interval and what it was measured on,
    `provenance` how much it can be trusted for that, and `command` what gives the final number, where there is one yet
    to be had.
    """

    big: str
    what: str
    sentence: str
    provenance: str
    command: str
    estimate: Estimate
    is_share: bool


def section(facts: RunFacts, pictures: Pictures) -> Section:
    """Return the answer, what speaks against it, and every metric."""
    answer = answer_of(facts)
    found = concerns(facts)
    return Section(
        "answer",
        "The answer",
        render(
            "answer.html",
            answer=answer,
            strip=_strip(answer) if answer.is_share else None,
            concerns=found,
            is_clean=all(concern.severity == "note" for concern in found),
            tiles=_tiles(facts),
            table=metrics_table(facts),
        ),
    )


def answer_of(facts: RunFacts) -> Answer:
    """Return the answer of a run: of test where it was looked at, else of val, and then how to get the one of test."""
    split = facts.judged_on
    table = facts.predictions[split]
    metric = "mae" if table.task == "regression" else HEADLINE[table.task]
    found = facts.metrics[split][metric]
    name, style, _ = METRICS[metric]
    big, interval = _written(found, style)
    images = counted(len(table), f"{split} image")
    meaning = {
        "top1": f"It names {big} of images right",
        "map": f"It ranks the classes with a mean average precision of {big}",
        "mae": f"It is off by {big} on average",
    }[metric]
    sentence = f"{meaning}{f' ({interval})' if interval else ''}, measured on {images}."
    provenance, command = _provenance(facts)
    return Answer(big, f"{name} on {split}", sentence, provenance, command, found, style == "share")


def _written(found: Estimate, style: str) -> tuple[str, str]:
    """Return a value and its interval in words; no interval where it is not known."""
    if not math.isfinite(found.value):
        return "–", ""
    write = _WRITE[style]
    is_known = math.isfinite(found.low) and math.isfinite(found.high)
    return write(found.value), f"95% interval {write(found.low)} to {write(found.high)}" if is_known else ""


def _provenance(facts: RunFacts) -> tuple[str, str]:
    """Return what the images had to do with the choice of these weights, and the command for a number they had not."""
    if facts.judged_on == "test":
        return "Nothing was learned from these images or chosen by them.", ""
    train = facts.config.train
    chose = train.select == "best" and (facts.result.get("epochs") or train.epochs) > 1
    used = "The epoch that is shipped was chosen on these same images" if chose else "These images are no final test"
    if chose:
        used += ", so the number is a little flattering"
    if len(facts.split.rows("test")):
        again = shlex.join(["tellapart", "evaluate", facts.path, "--split", "test"])
        return f"{used}. For the final number, look at test once:", again
    return f"{used}. No images were held out for a final test (data.test_fraction).", ""


def _tiles(facts: RunFacts) -> list[dict[str, str]]:
    found = facts.metrics[facts.judged_on]
    tiles = []
    for key in _TILES:
        if key in found and math.isfinite(found[key].value):
            name, style, _ = METRICS[key]
            big, interval = _written(found[key], style)
            tiles.append({"name": name, "value": big, "interval": interval.replace("95% interval ", "")})
    return tiles[:6]


def metrics_table(facts: RunFacts) -> dict[str, Any]:
    """Return every metric of every split that was judged: its name, what it says, value and interval."""
    splits = [name for name in ("test", "val", "train") if name in facts.metrics]
    keys = list(dict.fromkeys(key for name in splits for key in facts.metrics[name]))
    rows = []
    for key in keys:
        name, style, meaning = METRICS.get(key, (key, "unit", ""))
        cells = [_cell(facts.metrics[split].get(key), style) for split in splits]
        rows.append({"name": name, "meaning": meaning, "cells": cells})
    heads = [f"{name} (n = {count(len(facts.predictions[name]))})" for name in splits]
    return {"heads": heads, "rows": rows}


def _cell(found: Estimate | None, style: str) -> Mapping[str, str]:
    if found is None:
        return {"value": "–", "interval": ""}
    value, interval = _written(found, style)
    return {"value": value, "interval": interval.replace("95% interval ", "")}


def _strip(answer: Answer) -> dict[str, Any]:
    """Return the places of a value and its interval on a line from 0 to 100%, in units of a drawing 320 wide."""
    low, high = (x if math.isfinite(x) else answer.estimate.value for x in (answer.estimate.low, answer.estimate.high))
    at, start, end = (round(4 + 312 * min(1.0, max(0.0, x)), 1) for x in (answer.estimate.value, low, high))
    return {"at": at, "start": start, "width": max(2.0, round(end - start, 1))}
