"""Images of other data that a run has seen before: a number on them is too good."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tellapart.api.subject import Subject
from tellapart.data.splits import Split
from tellapart.evaluation.metrics import HEADLINE, Estimate, evaluate_predictions, metrics_json
from tellapart.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Overlap:
    """How many images of other data the run has seen: it was trained on them, or chose its weights by them.

    `headline` is the task's headline metric of the `num_new` others alone; None where there are none.
    """

    num_trained_on: int
    num_chosen_by: int
    num_new: int
    headline: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        found = None if self.headline is None else metrics_json({"": self.headline})[""]
        return {
            "num_trained_on": self.num_trained_on,
            "num_chosen_by": self.num_chosen_by,
            "num_new": self.num_new,
            "headline_of_new": found,
        }


def overlap_with(stored: Split, subject: Subject, predictions: Predictions, seed: int) -> Overlap | None:
    """Return how many of the images have the pixels of one in train or in val; None where none has.

    Args:
        stored: the run's division.
        subject: the images, after they were read.
        predictions: what was said of those that could be read, in their order.
        seed: of intervals.
    """
    known = {name: {stored.pixel_hashes[row] for row in stored.rows(name)} for name in ("train", "val")}
    pixels = [subject.pixel_hashes[place] for place in subject.read_places()]
    is_trained_on = np.array([each in known["train"] for each in pixels], bool)
    is_chosen_by = np.array([each in known["val"] for each in pixels], bool) & ~is_trained_on
    is_new = ~is_trained_on & ~is_chosen_by
    if is_new.all():
        return None
    headline = None
    if is_new.any():
        kept = replace(
            predictions,
            indices=predictions.indices[is_new],
            paths=[path for path, keep in zip(predictions.paths, is_new, strict=True) if keep],
            targets=predictions.targets[is_new],
            outputs=predictions.outputs[is_new],
        )
        headline = evaluate_predictions(kept, seed=seed)[HEADLINE[predictions.task]]
    return Overlap(int(is_trained_on.sum()), int(is_chosen_by.sum()), int(is_new.sum()), headline)
