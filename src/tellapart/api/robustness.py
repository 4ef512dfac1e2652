"""What an evaluation adds on request: accuracy under corruptions, selective answers, and noticing the unknown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from tellapart import seeding
from tellapart.api.run import Run
from tellapart.api.unlabelled import open_unlabelled
from tellapart.data.scan import read_chunks
from tellapart.errors import DataError, RunError
from tellapart.evaluation.corruptions import CORRUPTIONS, LARGEST_SMALL_PX, STRENGTHS, corrupt
from tellapart.evaluation.intervals import bootstrap_mean, wilson
from tellapart.evaluation.metrics import Estimate, metrics_json
from tellapart.evaluation.ood import separations, separations_json
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.selective import at_confidence, confidence_for, risk_coverage, selective_json
from tellapart.exporting.classifier import Classifier
from tellapart.training.progress import Progress

SOURCE = "Hendrycks and Dietterich (2019), arXiv 1903.12261"
_BATCH_SIZE = 256
# How sure to be that the images that are answered are right.
WANTED_ACCURACY = 0.99


class CorruptedHits:
    """Whether each image is still classified right, for every corruption and strength.

    Args:
        classifier: a multiclass classifier.
        targets: class indices int64 `(N,)`.
        indices: sample indices int64 `(N,)`: what is drawn for an image is a function of its own.
        seed: of the draws.
        tta: as in `Classifier.outputs`.
        limit: how many images to draw, by the seed; 0 takes all.

    Raises:
        RunError: the task is not multiclass, or `limit` is negative.
    """

    def __init__(
        self, classifier: Classifier, targets: np.ndarray, indices: np.ndarray, *, seed: int, tta: str, limit: int = 0
    ) -> None:
        if classifier.task != "multiclass":
            raise RunError(
                f"corruptions: what they change is the accuracy, which a {classifier.task} classifier does not have. "
                "Evaluate it without --corruptions."
            )
        if limit < 0:
            raise RunError(f"limit: expected a number of images, or 0 for all, found {limit}.")
        self.classifier, self.targets, self.indices, self.seed, self.tta = classifier, targets, indices, seed, tta
        self.is_drawn = np.ones(len(targets), bool)
        if 0 < limit < len(targets):
            self.is_drawn[:] = False
            self.is_drawn[seeding.permutation(len(targets), seed, "corruption-subset")[:limit].numpy()] = True
        # One column an image; what could not be read stays out of `is_seen`.
        self.clean = np.zeros(len(targets), bool)
        self.is_seen = np.zeros(len(targets), bool)
        self.hits = {(name, strength): np.zeros(len(targets), bool) for name in CORRUPTIONS for strength in STRENGTHS}

    @property
    def num_steps(self) -> int:
        """How many images, corrupted ones counted each, `add` is going to report."""
        return int(self.is_drawn.sum()) * len(self.hits)

    def add(
        self, places: np.ndarray, images: torch.Tensor, outputs: np.ndarray, advance: Callable[[int], None]
    ) -> None:
        """Take a batch: places `(B,)`, reduced images uint8 `(B, C, R, R)`, and what is said of them uncorrupted."""
        kept = self.is_drawn[places]
        places, images = places[kept], images[torch.from_numpy(kept)]
        if not len(places):
            return
        targets = self.targets[places]
        self.is_seen[places] = True
        self.clean[places] = outputs[kept].argmax(axis=1) == targets
        for (name, strength), hits in self.hits.items():
            changed = corrupt(images, name, strength, indices=self.indices[places], seed=self.seed)
            hits[places] = self.classifier.outputs(changed, tta=self.tta).cpu().numpy().argmax(axis=1) == targets
            advance(len(places))

    def as_dict(self) -> dict[str, Any]:
        """Return every accuracy with its 95% interval: Wilson's, and for means a bootstrap by image."""
        seen = self.is_seen
        n = int(seen.sum())
        if not n:
            raise RunError("corruptions: expected at least one image, found none that could be read.")
        hits = {key: found[seen] for key, found in self.hits.items()}
        kinds = {}
        for name in CORRUPTIONS:
            shares = [_share(hits[name, strength]) for strength in STRENGTHS]
            kinds[name] = {
                "strengths": [{"strength": k, **_plain(share)} for k, share in zip(STRENGTHS, shares, strict=True)],
                "mean": _plain(self._mean([hits[name, strength] for strength in STRENGTHS])),
            }
        side_px = self.classifier.module.preprocess.resize_px
        return {
            "n": n,
            "num_given": len(self.targets),
            "is_drawn": bool(not self.is_drawn.all()),
            "parameters": "CIFAR-10-C" if side_px <= LARGEST_SMALL_PX else "ImageNet-C",
            "side_px": side_px,
            "seed": self.seed,
            "source": SOURCE,
            "clean": _plain(_share(self.clean[seen])),
            "mean": _plain(self._mean(list(hits.values()))),
            "corruptions": kinds,
        }

    def _mean(self, hits: list[np.ndarray]) -> Estimate:
        per_image = np.mean(hits, axis=0)
        value = float(per_image.mean())
        low, high = bootstrap_mean(per_image, seed=self.seed)
        if value in (0.0, 1.0):
            # Every draw is then alike, which says nothing about the next image.
            low, high = wilson(value * len(per_image), len(per_image))
        return Estimate(value, float(np.fmin(value, low)), float(np.fmax(value, high)))


def selective_results(predictions: Predictions, val: Predictions | None, *, is_val: bool, seed: int) -> dict[str, Any]:
    """Return the risk-coverage curve, and what answering only from a confidence on does, for JSON.

    Args:
        predictions: what is evaluated.
        val: what chooses the confidence; None chooses none.
        is_val: whether both are the same images, so that what was chosen is judged on what chose it.
        seed: of the bootstrap.
    """
    curve = risk_coverage(predictions, seed=seed)
    chosen = None if val is None else confidence_for(val, WANTED_ACCURACY)
    judged = at_confidence(predictions, chosen.confidence) if chosen and chosen.confidence is not None else None
    return {**selective_json(curve, chosen, judged), "is_judged_on_what_chose": is_val}


def out_of_distribution(
    classifier: Classifier, known: np.ndarray, data: Any, *, run: Run, tta: str, display: Progress
) -> dict[str, Any]:
    """Return how well the known images are told from those of other data, for JSON.

    Args:
        classifier: the run's classifier.
        known: uncalibrated logits `(N, K)` of the evaluated images.
        data: images of anything else; their labels are not read.
        run: whose seed draws, and whose training images are looked for among the others.
        tta: as in `Classifier.logits`.
        display: where to show a bar.

    Raises:
        DataError: the data cannot be opened, or none of its images can be read.
    """
    source, rows = open_unlabelled(data, run.config.data.data_dir)
    trained_on = {run.split.pixel_hashes[row] for row in run.split.rows("train")}
    logits, errors, num_trained_on = [], {}, 0
    with display.task(f"classifying {source.name}", len(rows)) as advance:
        for found in read_chunks(source, rows, classifier.module.preprocess):
            readable = np.array([place not in found.errors for place in range(len(found.rows))])
            errors |= {source.paths[found.rows[place]]: reason for place, reason in found.errors.items()}
            num_trained_on += sum(pixels in trained_on for pixels in found.pixel_hashes if pixels)
            for part in found.images[torch.from_numpy(readable)].split(_BATCH_SIZE):
                logits.append(classifier.logits(part, tta=tta).float().cpu().numpy())
            advance(len(found.rows))
    read = np.concatenate([part for part in logits if len(part)] or [np.empty((0, known.shape[1]), np.float32)])
    if not len(read):
        raise DataError(f"{source.name}: none of the {len(rows):,} images can be read.")
    return {
        "data": source.name,
        "n": len(read),
        "num_given": len(rows),
        "num_known": len(known),
        "num_trained_on": num_trained_on,
        "unreadable": errors,
        "scores": separations_json(separations(known, read, classifier.task, seed=run.config.seed)),
    }


def _share(hits: np.ndarray) -> Estimate:
    return Estimate(float(hits.mean()), *wilson(int(hits.sum()), len(hits)))


def _plain(estimate: Estimate) -> Mapping[str, float | None]:
    return metrics_json({"": estimate})[""]
