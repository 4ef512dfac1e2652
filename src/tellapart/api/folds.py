"""k-fold: a run for each part of the images, tested on what it never saw, and what the runs say together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.api.evaluate import evaluate, looks_at
from tellapart.api.prepare import Prepared
from tellapart.api.run import Run, write_json
from tellapart.api.several import (
    Member,
    TitledProgress,
    TrainOne,
    begun,
    estimate_in_words,
    number,
    require_same_images,
    spread,
    train_member,
    with_precision,
)
from tellapart.config import RunConfig
from tellapart.data.splits import UNUSED, Split, make_split
from tellapart.errors import RunError
from tellapart.evaluation.metrics import HEADLINE, Estimate, evaluate_predictions, metrics_json
from tellapart.evaluation.predictions import Predictions
from tellapart.training.progress import Progress


@dataclass(frozen=True)
class FoldsRun(Run):
    """The runs of all folds, by the folder that holds them. It has no model of its own; `result` is of all images."""

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the folds that have begun, in order."""
        paths = (fold_path(self.path, fold) for fold in range(1, self.config.data.folds + 1))
        return tuple(Run(path) for path in paths if (path / "config.json").exists())

    @cached_property
    def split(self) -> Split:
        """There is none: each fold's run has its own."""
        raise RunError(f"{self.path}: each fold has a division of its own, such as {fold_path(self.path, 1)}.")

    @cached_property
    def predictions(self) -> Predictions:
        """What was said of every image by the one run that was tested on it."""
        return Predictions.load(self.path / "predictions" / "folds.parquet")


def is_folds(config: RunConfig) -> bool:
    """Return whether a config asks for the runs of all folds, one after another."""
    return config.data.folds > 0 and config.data.fold == 0


def fold_path(path: Path, fold: int) -> Path:
    """Return the folder of a fold's run, from 1."""
    return path / f"fold-{fold}"


def train_folds(prepared: Prepared, path: Path, display: Progress, train_one: TrainOne) -> FoldsRun:
    """Train and test the run of every fold that has not ended, and write what all say together.

    Each fold is a whole run in `path/fold-K`. A look at its test part is recorded there, once. `path/folds.json` has
    the folds that have ended, `path/result.json` the final result, and `path/predictions/folds.parquet` what was said
    of every image by the run that was tested on it.

    Args:
        prepared: the source, and a config with `data.folds` and no `data.fold`.
        path: the folder, new, or of folds that were interrupted.
        display: where to say how it goes.
        train_one: trains or resumes the run of one fold.

    Raises:
        DataError: the images cannot be read, or divided so that each fold can be learned without.
        RunError: the images changed since the first fold began.
        Interrupted: a signal asked it to stop; the folds that ended are kept, and the one it was in can go on.
    """
    prepared = with_precision(prepared)
    num_folds = prepared.config.data.folds
    done: list[dict[str, Any]] = []
    tables: list[Predictions] = []
    for fold in range(1, num_folds + 1):
        member = _member(prepared, path, fold)
        shown = TitledProgress(display, member.title, prepared.source.notes if fold > 1 else ())
        with begun(path, prepared.config, fold_path(path, 1)):
            run = train_member(prepared, path, member, shown, train_one, partial(_store_split, prepared, path))
        tables.append(_test_fold(run, prepared, shown))
        done.append(_entry(run, fold, tables[-1], prepared.config.seed))
        write_json(path / "folds.json", {"folds": num_folds, "done": done})
    pooled = pool(tables, Run(fold_path(path, 1)).split)
    pooled.save(path / "predictions" / "folds.parquet")
    finished = FoldsRun(path)
    result = _result(finished, pooled, done)
    write_json(path / "result.json", result)
    display.say(in_words(result, HEADLINE[pooled.task]))
    return finished


def _member(prepared: Prepared, path: Path, fold: int) -> Member:
    config = replace(prepared.config, data=replace(prepared.config.data, fold=fold))
    return Member(f"fold {fold} of {config.data.folds}", fold_path(path, fold), config)


def _store_split(prepared: Prepared, path: Path, member: Member) -> None:
    """Store the division of a fold after the first, by the pixels that the first found: all divide the same images."""
    folder, config = member.folder, member.config
    if config.data.fold == 1 or (folder / "split.parquet").exists():
        return
    first = Run(fold_path(path, 1)).split
    require_same_images(prepared, first, path, "fold")
    split = make_split(
        prepared.source, first.pixel_hashes, config.data, config.seed, content_hashes=first.content_hashes
    )
    folder.mkdir(exist_ok=True)
    split.save(folder / "split.parquet")


def _test_fold(run: Run, prepared: Prepared, display: TitledProgress) -> Predictions:
    """Return what a fold's run says of its test part; the look at it is taken and recorded once."""
    file = run.path / "predictions" / "test.parquet"
    if not looks_at(run, "test") or not file.exists():
        evaluate(run, "test", data=prepared.source, device=prepared.config.compute.device, progress=display)
    table = Predictions.load(file)
    found = evaluate_predictions(table, seed=run.config.seed)
    display.say(f"test: {estimate_in_words(found[HEADLINE[table.task]], HEADLINE[table.task], len(table))}")
    return table


def _entry(run: Run, fold: int, table: Predictions, seed: int) -> dict[str, Any]:
    result = run.result or {}
    return {
        "fold": fold,
        "run": str(run.path),
        "n": len(table),
        "num_given": table.num_given,
        "metrics": metrics_json(evaluate_predictions(table, seed=seed)),
        "best_epoch": result.get("best_epoch"),
        "seconds": result.get("seconds"),
    }


def pool(tables: Sequence[Predictions], split: Split) -> Predictions:
    """Return one table of the test parts of all folds, in which each image that was dealt into them stands once.

    Each fold has a temperature of its own, which the table of all cannot tell: it is then not known. Where the folds
    have other thresholds, classes of the table are predicted above 0.5.

    Args:
        tables: one a fold.
        split: the division of any of the folds, which names the images.

    Raises:
        RunError: the tables are not those of one division of these images.
    """
    dealt = [row for row, part in enumerate(split.splits) if part != UNUSED]
    readable = [row for row in dealt if split.pixel_hashes[row]]
    first = tables[0]
    temperatures, thresholds = {table.temperature for table in tables}, {table.thresholds for table in tables}
    indices = np.concatenate([table.indices for table in tables])
    paths = [path for table in tables for path in table.paths]
    is_whole = sorted(indices.tolist()) == readable and paths == [split.paths[row] for row in indices]
    if not is_whole or any((table.task, table.classes) != (first.task, first.classes) for table in tables):
        raise RunError(
            f"the test parts of the {len(tables)} folds do not hold each of {len(readable):,} images once: they are "
            "not folds of one division. Start a new run, in an empty folder."
        )
    return replace(
        first,
        indices=indices,
        paths=paths,
        targets=np.concatenate([table.targets for table in tables]),
        outputs=np.concatenate([table.outputs for table in tables]),
        num_given=len(dealt),
        temperature=temperatures.pop() if len(temperatures) == 1 else math.nan,
        thresholds=thresholds.pop() if len(thresholds) == 1 else (),
    ).sorted_by_index()


def _result(run: FoldsRun, pooled: Predictions, done: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "split": "test",
        "folds": len(done),
        "n": len(pooled),
        "num_given": pooled.num_given,
        "metrics": metrics_json(evaluate_predictions(pooled, seed=run.config.seed)),
        "over_folds": {name: spread([each["metrics"].get(name) for each in done]) for name in done[0]["metrics"]},
        "per_fold": done,
        "seconds": round(sum(each["seconds"] or 0 for each in done), 3),
    }


def in_words(result: Mapping[str, Any], headline: str) -> str:
    """Return the result of all folds in a line."""
    found, over = result["metrics"][headline], result["over_folds"][headline]
    value, low, high = (number(found[key]) for key in ("value", "low", "high"))
    mean, std = (number(over[key]) for key in ("mean", "std"))
    estimate = estimate_in_words(Estimate(value, low, high), headline, result["n"])
    spread = (
        f"{mean:.1%}, standard deviation {std:.1%}"
        if headline == "top1"
        else f"{mean:.4f}, standard deviation {std:.4f}"
    )
    return f"over {result['folds']} folds, each image tested on once: {estimate}; mean of the folds {spread}"
