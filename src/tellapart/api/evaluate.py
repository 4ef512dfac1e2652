"""`evaluate`: a classifier's metrics on images, each image counted once, each number with its interval."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tellapart.api.evaluation import Evaluation, make_evaluation
from tellapart.api.load import load
from tellapart.api.looks import add_look, looks_at, require_same_division, weights_hash
from tellapart.api.overlap import overlap_with
from tellapart.api.pages import renew_page
from tellapart.api.robustness import CorruptedHits, out_of_distribution, selective_results
from tellapart.api.run import Run, write_json
from tellapart.api.subject import Subject, aligned_targets, is_own_again, other_subject, own_subject
from tellapart.api.without_images import Asked, evaluate_several, evaluate_table
from tellapart.data.splits import SPLITS, Split
from tellapart.errors import RunError, unknown_name
from tellapart.evaluation.foreign import is_table
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.views import views
from tellapart.exporting.classifier import Classifier
from tellapart.training.progress import Progress, make_progress

__all__ = ["Evaluation", "aligned_targets", "classify", "evaluate", "judge", "looks_at", "record", "stacked"]

_BATCH_SIZE = 256


def evaluate(
    run: str | os.PathLike[str] | Run,
    split: str | None = None,
    *,
    data: Any = None,
    tta: str = "none",
    corruptions: bool = False,
    limit: int = 0,
    selective: bool = False,
    ood: Any = None,
    classes: Sequence[str] = (),
    device: str = "auto",
    progress: bool | Progress = True,
) -> Evaluation:
    """Return a classifier's metrics on images, and store the predictions in its run.

    Args:
        run: a run or its folder; or a table of predictions that anything wrote (.csv, .tsv, .parquet), see
            `evaluation.foreign.read_table`.
        split: "val" (by default), "test" or "train" of the run's own images; of other data, the part of that name, and
            by default all images. A look at test is recorded in the run.
        data: any other data, whose classes are matched by name: what `train` takes. For a run that was trained on
            arrays, those arrays again.
        tta: "flip" or "flip-shift" look at several views of each image; see `evaluation.views`.
        corruptions: also measure the accuracy under noise, blur and the like; written to `robustness.json`.
        limit: for corruptions, of how many images, drawn by the run's seed; 0: of all.
        selective: also measure what answering only for images that the classifier is sure of would bring.
        ood: images of anything that the classifier does not know, to see whether it notices; written to `ood.json`.
        classes: for a table with a column of lists of probabilities: the classes, in their order.
        device: where to compute.
        progress: whether to show a progress bar.

    Raises:
        RunError: no such run or split, the split is empty or was edited, a damaged table, or what was asked for has no
            meaning for the task.
        DataError: images are missing, or their pixels or labels changed since the split was stored; other data have a
            class that the run does not know.
        ConfigError: `tta` is no name of views.
    """
    asked = Asked(tta=tta, corruptions=corruptions, limit=limit, selective=selective, ood=ood)
    if split is not None and split not in SPLITS:
        raise RunError(unknown_name("split", split, SPLITS))
    views(tta)
    if not isinstance(run, Run) and (Path(run).is_file() or is_table(run)):
        return evaluate_table(Path(run), asked.in_words(split, data), selective=selective, classes=classes)
    display = progress if isinstance(progress, Progress) else make_progress(progress)
    run = run if isinstance(run, Run) else Run(Path(run))
    if (run.path / "model.safetensors").exists():
        raise RunError(
            f"{run.path}: is a bundle, which says nothing of images. Name the folder of the run that made it."
        )
    if several := evaluate_several(run, split, data, asked, device=device, progress=display):
        if split == "test":
            renew_page(run, display)
        return several
    classifier = load(run, device=device)
    require_same_division(run)
    asked.require_sense(classifier)
    is_own = data is None or is_own_again(run, data)
    subject = own_subject(run, split or "val", data) if is_own else other_subject(run, data, split, classifier)
    name = (split or "val") if is_own else f"data-{_file_name(subject.name)}"
    evaluation = _evaluate_subject(run, classifier, subject, name, asked, display)
    if selective:
        # What val says is wanted of the run's own data, whatever is evaluated.
        again = data if is_own else None
        val = evaluation.predictions if name == "val" else _val_table(run, again, tta, device, display)
        found = selective_results(evaluation.predictions, val, is_val=name == "val", seed=run.config.seed)
        evaluation = replace(evaluation, selective=found)
    record(run, evaluation)
    if name == "test" or evaluation.robustness is not None or evaluation.ood is not None:
        renew_page(run, display, subject.source if is_own else None, classifier)
    return replace(evaluation, looks=tuple(looks_at(run, "test")))


def judge(
    classifier: Classifier, stored: Split, split: str, targets: np.ndarray, outputs: np.ndarray, seed: int
) -> Evaluation:
    """Return the metrics of `outputs` against `targets` for a split's readable images, in the order of its rows."""
    rows = stored.rows(split)
    predictions = Predictions(
        task=classifier.task,
        classes=classifier.classes,
        indices=rows,
        paths=[stored.paths[row] for row in rows],
        targets=targets,
        outputs=outputs,
        num_given=stored.num_given(split),
        temperature=classifier.temperature,
        thresholds=classifier.thresholds,
    )
    return make_evaluation(split, predictions, seed)


def record(run: Run, evaluation: Evaluation) -> None:
    """Store the predictions, and note in the run that somebody looked at the split, and with which weights.

    Those of several views are stored beside those of one, as `predictions/SPLIT-VIEWS.parquet`.
    """
    evaluation.predictions.save(_predictions_file(run, evaluation.split, evaluation.tta))
    found: dict[str, Any] = evaluation.as_dict()
    if evaluation.predictions.task != "regression":
        found["temperature"] = evaluation.predictions.temperature
    add_look(run, found)


def classify(classifier: Classifier, reduced: Iterable[torch.Tensor], tta: str = "none") -> np.ndarray:
    """Return outputs float32 `(N, K)` for reduced images uint8 `(C, R, R)`, computed a batch at a time."""
    return torch.cat([classifier.outputs(batch, tta).cpu() for batch in stacked(reduced)]).numpy()


def stacked(reduced: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield images in batches `(B, C, R, R)`: the last bits depend on which of them are computed together."""
    images = iter(reduced)
    while batch := list(islice(images, _BATCH_SIZE)):
        yield torch.stack(batch)


def _evaluate_subject(
    run: Run, classifier: Classifier, subject: Subject, name: str, asked: Asked, display: Progress
) -> Evaluation:
    """Classify the images in one pass, and measure what was asked for."""
    seed = run.config.seed
    targets = aligned_targets(subject.source, classifier, subject.rows)
    hits = None
    if asked.corruptions:
        hits = CorruptedHits(classifier, targets, subject.indices, seed=seed, tta=asked.tta, limit=asked.limit)
    outputs, logits = _classify_subject(classifier, subject, asked, hits, display)
    predictions = _table(classifier, subject, targets, outputs)
    about = {"split": name, "data": subject.name or None, "tta": asked.tta, "weights": weights_hash(run)}
    evaluation = replace(
        make_evaluation(name, predictions, seed),
        tta=asked.tta,
        data=subject.name,
        unreadable={subject.paths[place]: reason for place, reason in sorted(subject.errors.items())},
        overlap=overlap_with(run.split, subject, predictions, seed) if subject.name else None,
        robustness=None if hits is None else {**about, **hits.as_dict()},
    )
    if asked.ood is not None:
        found = out_of_distribution(classifier, logits, asked.ood, run=run, tta=asked.tta, display=display)
        evaluation = replace(evaluation, ood={**about, "known": subject.name or name, **found})
    for file, measured in (("robustness.json", evaluation.robustness), ("ood.json", evaluation.ood)):
        if measured is not None:
            write_json(run.path / file, measured)
    return evaluation


def _classify_subject(
    classifier: Classifier, subject: Subject, asked: Asked, hits: CorruptedHits | None, display: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs `(n, K)` of the images that can be read, and their logits where `ood` wants them, in one pass."""
    total = len(subject) + (0 if hits is None else hits.num_steps)
    outputs, logits = [], []
    with display.task(f"evaluating {subject.name or 'images'}", total) as advance:
        images = subject.images(classifier.module.preprocess, advance)
        while batch := list(islice(images, _BATCH_SIZE)):
            places, reduced = np.array([place for place, _ in batch]), torch.stack([image for _, image in batch])
            outputs.append(classifier.outputs(reduced, asked.tta).cpu().numpy())
            if asked.ood is not None:
                logits.append(classifier.logits(reduced, asked.tta).cpu().numpy())
            if hits is not None:
                hits.add(places, reduced, outputs[-1], advance)
    empty = np.empty((0, len(classifier.classes) or len(classifier.module.target_mean)), np.float32)
    return np.concatenate([empty, *outputs]), np.concatenate([empty, *logits])


def _table(classifier: Classifier, subject: Subject, targets: np.ndarray, outputs: np.ndarray) -> Predictions:
    places = subject.read_places()
    return Predictions(
        task=classifier.task,
        classes=classifier.classes,
        indices=subject.indices[places],
        paths=[subject.paths[place] for place in places],
        targets=targets[places],
        outputs=outputs,
        num_given=subject.num_given,
        temperature=classifier.temperature,
        thresholds=classifier.thresholds,
    )


def _val_table(run: Run, data: Any, tta: str, device: str, display: Progress) -> Predictions:
    """Return the table of val that the weights as they are gave, made now if it is not there."""
    file = _predictions_file(run, "val", tta)
    looks = [look for look in looks_at(run, "val") if look.get("tta", "none") == tta]
    if file.is_file() and looks and looks[-1].get("weights") == weights_hash(run):
        return Predictions.load(file)
    found = evaluate(run, "val", data=data, tta=tta, device=device, progress=display)
    return found.predictions


def _predictions_file(run: Run, split: str, tta: str) -> Path:
    return run.path / "predictions" / (f"{split}.parquet" if tta == "none" else f"{split}-{tta}.parquet")


def _file_name(name: str) -> str:
    """Return a name in letters that every file system has."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "other"
