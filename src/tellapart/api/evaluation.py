"""What an evaluation found: as numbers, as JSON, and as lines for a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tellapart.api.looks import looks_in_words
from tellapart.api.overlap import Overlap
from tellapart.evaluation.metrics import (
    HEADLINE,
    Estimate,
    calibration_metrics,
    confusion_matrix,
    evaluate_predictions,
    format_accuracy,
    metrics_json,
    per_class_table,
)
from tellapart.evaluation.predictions import Predictions
from tellapart.reporting.evaluation import (
    ood_lines,
    overlap_lines,
    robustness_lines,
    selective_lines,
    unreadable_lines,
    wrapped,
)
from tellapart.reporting.sparklines import is_ascii_only
from tellapart.reporting.terminal import evaluation_summary


@dataclass(frozen=True)
class Evaluation:
    """Metrics on some images. `n` were evaluated of the `num_given` that there are.

    Attributes:
        split: "train", "val" or "test" of the run's own; "data-NAME" for other data, "table" for a foreign table.
        n: how many images were evaluated.
        num_given: how many there are, those that cannot be read included.
        metrics: every metric of the task with its 95% interval.
        predictions: the table that they were computed from.
        tta: over which views of each image was averaged.
        data: the name of other data, or of a foreign table; "" for the run's own.
        unreadable: why, by path, images of other data could not be read.
        overlap: how many images of other data the run has seen before; None for none.
        robustness: accuracy under corruptions, if asked for, as in `robustness.json`.
        selective: risk against coverage, if asked for.
        ood: how well the unknown is noticed, if asked for, as in `ood.json`.
        looks: the recorded evaluations on test, oldest first.
        seed: what the draws of intervals are a function of.
    """

    split: str
    n: int
    num_given: int
    metrics: dict[str, Estimate]
    predictions: Predictions
    tta: str = "none"
    data: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    overlap: Overlap | None = None
    robustness: Mapping[str, Any] | None = None
    selective: Mapping[str, Any] | None = None
    ood: Mapping[str, Any] | None = None
    looks: tuple[Mapping[str, Any], ...] = ()
    seed: int = 0

    @cached_property
    def per_class(self) -> list[dict[str, Any]]:
        """One row a class, see `per_class_table`; none for numbers."""
        return [] if self.predictions.task == "regression" else list(per_class_table(self.predictions, seed=self.seed))

    @cached_property
    def uncalibrated(self) -> dict[str, Estimate]:
        """How good the probabilities are before the temperature; empty where there is none, or it is not known."""
        temperature = self.predictions.temperature
        if self.predictions.task == "regression" or temperature == 1.0 or math.isnan(temperature):
            return {}
        return calibration_metrics(self.predictions.uncalibrated(), seed=self.seed)

    def as_dict(self) -> dict[str, Any]:
        """Return the metrics in short, for JSON: split, n, num_given, metrics, and what else it takes to tell them."""
        found: dict[str, Any] = {
            "split": self.split,
            "n": self.n,
            "num_given": self.num_given,
            "metrics": metrics_json(self.metrics),
        }
        if self.tta != "none":
            found["tta"] = self.tta
        if self.data:
            found["data"] = self.data
        return found

    def details(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints: everything."""
        table = self.predictions
        found = {**self.as_dict(), "task": table.task, "classes": list(table.classes), "tta": self.tta}
        found["data"] = self.data or None
        found["temperature"] = None if math.isnan(table.temperature) else table.temperature
        found["uncalibrated"] = metrics_json(self.uncalibrated) or None
        found["thresholds"] = list(table.thresholds) or None
        found["per_class"] = self.per_class
        found["confusion_matrix"] = confusion_matrix(table).tolist() if table.task == "multiclass" else None
        found["unreadable"] = dict(self.unreadable)
        found["overlap"] = None if self.overlap is None else self.overlap.as_dict()
        found |= {"robustness": self.robustness, "selective": self.selective, "ood": self.ood}
        return {**found, "looks": [dict(look) for look in self.looks]}

    def lines(self, width: int = 80) -> list[str]:
        """Return what `evaluate` prints: plain text that fits a terminal of 80 columns."""
        plain = is_ascii_only(sys.stdout)
        name = self.data or self.split
        headline, *rest = evaluation_summary(
            self.predictions,
            self.metrics,
            split=name,
            classes=self.per_class,
            uncalibrated=self.uncalibrated or None,
            width=width,
            ascii_only=plain,
        )
        # What makes the first number another one than it seems stands right below it.
        lines = [headline, *self._warnings(), *rest]
        for block in (
            [] if self.selective is None else selective_lines(self.selective, name),
            [] if self.robustness is None else robustness_lines(self.robustness, width=width),
            [] if self.ood is None else ood_lines(self.ood, name),
        ):
            lines += ["", *block] if block else []
        return lines

    def _warnings(self) -> list[str]:
        lines = []
        if self.tta != "none":
            lines.append(f"averaged over several views of each image (--tta {self.tta})")
        if self.overlap is not None:
            lines += overlap_lines(self.overlap.as_dict(), self.n, self._new_in_words())
        if self.split == "test":
            lines += wrapped(looks_in_words(self.looks))
        return lines + unreadable_lines(self.unreadable)

    def _new_in_words(self) -> str:
        assert self.overlap is not None
        headline, found = HEADLINE[self.predictions.task], self.overlap.headline
        if found is None:
            return ""
        if headline == "top1":
            return f"accuracy {format_accuracy(found, self.overlap.num_new)}"
        return f"{headline} {found.value:.4f} ({found.low:.4f} to {found.high:.4f}, n = {self.overlap.num_new:,})"


def make_evaluation(split: str, predictions: Predictions, seed: int) -> Evaluation:
    """Return the metrics of a table of predictions."""
    metrics = evaluate_predictions(predictions, seed=seed)
    return Evaluation(split, len(predictions), predictions.num_given, metrics, predictions, seed=seed)
