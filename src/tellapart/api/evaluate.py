"""`evaluate`: a run's metrics on one of its splits, each image counted once, each number with its interval."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tellapart.api.load import load
from tellapart.api.opening import open_data
from tellapart.api.run import Run
from tellapart.data.scan import read_chunks
from tellapart.data.sources import Source
from tellapart.data.splits import SPLITS, Split
from tellapart.errors import DataError, RunError, unknown_name
from tellapart.evaluation.metrics import Estimate, evaluate_predictions, metrics_json
from tellapart.evaluation.predictions import Predictions
from tellapart.exporting.classifier import Classifier
from tellapart.training.progress import Progress, make_progress

_BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluation:
    """Metrics on a split. `n` images were evaluated of the `num_given` that the split has."""

    split: str
    n: int
    num_given: int
    metrics: dict[str, Estimate]
    predictions: Predictions

    def as_dict(self) -> dict[str, Any]:
        """Return what `evaluate --json` prints."""
        return {
            "split": self.split,
            "n": self.n,
            "num_given": self.num_given,
            "metrics": metrics_json(self.metrics),
        }


def evaluate(
    run: str | os.PathLike[str] | Run,
    split: str = "val",
    *,
    data: Any = None,
    device: str = "auto",
    progress: bool | Progress = True,
) -> Evaluation:
    """Return a run's metrics on a split of its data, and store the predictions in the run.

    Args:
        run: a run or its folder.
        split: "val", "test" or "train". A look at test is recorded in the run.
        data: the data again, for a run that was trained on arrays.
        device: where to compute.
        progress: whether to show a progress bar.

    Raises:
        RunError: no such run or split, or the split is empty.
        DataError: images are missing, or their pixels or labels changed since the split was stored.
    """
    run = run if isinstance(run, Run) else Run(Path(run))
    if split not in SPLITS:
        raise RunError(unknown_name("split", split, SPLITS))
    classifier = load(run, device=device)
    rows = run.split.rows(split)
    if not len(rows):
        raise RunError(f"{run.path}: the run has no {split} images.{_why_empty(run, split)}")
    source = _open_again(run, data)
    source_rows = _source_rows(source, run.split, rows)
    display = progress if isinstance(progress, Progress) else make_progress(progress)
    with display.task(f"evaluating {split}", len(rows)) as advance:
        reduced = _read_checked(source, source_rows, run.split, rows, classifier, advance)
        outputs = classify(classifier, reduced)
    targets = aligned_targets(source, classifier, source_rows)
    evaluation = judge(classifier, run.split, split, targets, outputs, run.config.seed)
    record(run, evaluation)
    return evaluation


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
    )
    metrics = evaluate_predictions(predictions, seed=seed)
    return Evaluation(split, len(predictions), predictions.num_given, metrics, predictions)


def record(run: Run, evaluation: Evaluation) -> None:
    """Store the predictions, and note in the run that somebody looked at the split, and with which weights."""
    evaluation.predictions.save(run.path / "predictions" / f"{evaluation.split}.parquet")
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": hashlib.sha256((run.bundle / "model.safetensors").read_bytes()).hexdigest(),
        **evaluation.as_dict(),
    }
    path = run.path / "evaluations.jsonl"
    before = path.read_bytes() if path.exists() else b"\n"
    # A process that was killed while it wrote may have left half a line, which the next must not be glued to.
    start = b"" if before.endswith(b"\n") else b"\n"
    with path.open("ab") as file:
        file.write(start + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def looks_at(run: Run, split: str) -> list[dict[str, Any]]:
    """Return the recorded evaluations of a split, oldest first."""
    path = run.path / "evaluations.jsonl"
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue  # Torn by a kill; the evaluation that wrote it never returned its numbers.
    return [line for line in lines if line["split"] == split]


def classify(classifier: Classifier, reduced: Iterator[torch.Tensor]) -> np.ndarray:
    """Return outputs float32 `(N, K)` for reduced images uint8 `(C, R, R)`, computed a batch at a time."""
    outputs: list[torch.Tensor] = []
    batch: list[torch.Tensor] = []
    for image in reduced:
        batch.append(image)
        if len(batch) == _BATCH_SIZE:
            outputs.append(classifier.outputs(torch.stack(batch)).cpu())
            batch = []
    if batch:
        outputs.append(classifier.outputs(torch.stack(batch)).cpu())
    return torch.cat(outputs).numpy()


def aligned_targets(source: Source, classifier: Classifier, rows: np.ndarray) -> np.ndarray:
    """Return the targets of the source's `rows` with classes in the classifier's order, matched by name.

    Raises:
        DataError: the rows have a class that the classifier does not know; one that only other rows have is no matter.
    """
    found = source.targets[rows]
    if source.classes == classifier.classes or classifier.task == "regression":
        return found
    place = {name: index for index, name in enumerate(classifier.classes)}
    order = np.array([place.get(name, -1) for name in source.classes], dtype=np.int64)
    is_present = np.isin(np.arange(len(order)), found) if classifier.task == "multiclass" else found.any(axis=0)
    unknown = np.flatnonzero(is_present & (order < 0))
    if len(unknown):
        raise DataError(f"{source.name}: the classifier does not know the class '{source.classes[unknown[0]]}'.")
    if classifier.task == "multiclass":
        return order[found]
    targets = np.zeros((len(rows), len(classifier.classes)), dtype=np.float32)
    targets[:, order[order >= 0]] = found[:, order >= 0]
    return targets


def _why_empty(run: Run, split: str) -> str:
    if run.split.num_given(split):
        return " None of those it was given could be read."
    return " None were held out for it (--data.test-fraction), or there were too few to." if split == "test" else ""


def _open_again(run: Run, data: Any) -> Source:
    settings = run.config.data
    if data is None and settings.source == "<arrays>":
        raise RunError(f"{run.path}: this run was trained on arrays; give them again as `data`.")
    return open_data(settings.source if data is None else data, settings)


def _source_rows(source: Source, split: Split, rows: np.ndarray) -> np.ndarray:
    """Return where in the source the split's rows are, by path; files that came later do not matter."""
    place = {path: row for row, path in enumerate(source.paths)}
    missing = [split.paths[row] for row in rows if split.paths[row] not in place]
    if missing:
        raise DataError(
            f"{source.name}: {len(missing):,} of {len(rows):,} images of the split are no longer there "
            f"({', '.join(missing[:3])}). Put them back; a number without them would be another one."
        )
    for row in rows:
        label = source.label_name(place[split.paths[row]])
        if label != split.classes[row]:
            raise DataError(
                f"{split.paths[row]}: its label is '{label}', and was '{split.classes[row]}' when the split was made. "
                "Put it back; or start a new run with the new labels."
            )
    return np.array([place[split.paths[row]] for row in rows], dtype=np.int64)


def _read_checked(
    source: Source, source_rows: np.ndarray, split: Split, rows: np.ndarray, classifier: Classifier, advance: Any
) -> Iterator[torch.Tensor]:
    left = iter(rows)
    for found in read_chunks(source, source_rows, classifier.module.preprocess):
        for place, (row, image) in enumerate(zip(islice(left, len(found.rows)), found.images, strict=True)):
            if reason := found.errors.get(place):
                raise DataError(f"{split.paths[row]}: could be read when the split was made, and cannot now: {reason}.")
            if found.pixel_hashes[place] != split.pixel_hashes[row]:
                raise DataError(f"{split.paths[row]}: its pixels are not those that it had when the split was made.")
            yield image
        advance(len(found.rows))
