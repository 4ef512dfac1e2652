"""The images that an evaluation is of: a split of the run's own data, or any other data; each read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tellapart.api.opening import open_data
from tellapart.api.run import Run
from tellapart.api.unlabelled import one_known_class
from tellapart.data.preprocess import Preprocess
from tellapart.data.scan import read_chunks
from tellapart.data.sources import ColumnNames, Source, open_source
from tellapart.data.splits import SPLITS, Split
from tellapart.errors import ConfigError, DataError, RunError, nearest
from tellapart.exporting.classifier import Classifier

_NUM_PROBES = 8


@dataclass(eq=False)
class Subject:
    """Images with what they are to be called in the table of predictions.

    Attributes:
        source: where they are.
        rows: which of its samples, int64 `(N,)`.
        indices: their sample indices in the table, int64 `(N,)`.
        paths: their paths in the table.
        num_given: how many there are with those that were known to be unreadable.
        expected: the pixel hashes that they must have; None accepts any image, and leaves out what cannot be read.
        name: of other data than the run's; "" for the run's own.
        errors: filled by `images`: the reason, by place, of what cannot be read.
        pixel_hashes: filled by `images`, N of them, "" where an image could not be read.
    """

    source: Source
    rows: np.ndarray
    indices: np.ndarray
    paths: list[str]
    num_given: int
    expected: list[str] | None = None
    name: str = ""
    errors: dict[int, str] = field(default_factory=dict)
    pixel_hashes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def images(self, preprocess: Preprocess, advance: Callable[[int], None]) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield the place and the reduced image, uint8 `(C, R, R)`, of each that can be read, in order.

        Raises:
            DataError: an image of the run's own split changed or can no longer be read.
        """
        start = 0
        for found in read_chunks(self.source, self.rows, preprocess):
            for place, image in enumerate(found.images, start):
                reason, pixels = found.errors.get(place - start, ""), found.pixel_hashes[place - start]
                if self.expected is not None:
                    _require_unchanged(self.paths[place], reason, pixels, self.expected[place])
                self.pixel_hashes.append(pixels)
                if reason:
                    self.errors[place] = reason
                else:
                    yield place, image
            start += len(found.rows)
            advance(len(found.rows))

    def read_places(self) -> np.ndarray:
        """Return the places of the images that could be read, int64."""
        return np.array([place for place in range(len(self)) if place not in self.errors], dtype=np.int64)


def own_subject(run: Run, split: str, data: Any = None) -> Subject:
    """Return the images of a split of the run's own data, which must be as they were.

    Args:
        run: the run.
        split: "train", "val" or "test".
        data: the run's own data again, where only the caller has them.

    Raises:
        RunError: the split is empty.
        DataError: images are missing, or have other labels.
    """
    stored = run.split
    rows = stored.rows(split)
    if not len(rows):
        raise RunError(f"{run.path}: the run has no {split} images.{_why_empty(run, split)}")
    settings = run.config.data
    if data is None and settings.source == "<arrays>":
        raise RunError(f"{run.path}: this run was trained on arrays; give them again as `data`.")
    source = open_data(settings.source if data is None else data, settings)
    return Subject(
        source=source,
        rows=_source_rows(source, stored, rows),
        indices=rows,
        paths=[stored.paths[row] for row in rows],
        num_given=stored.num_given(split),
        expected=[stored.pixel_hashes[row] for row in rows],
    )


def is_own_again(run: Run, data: Any) -> bool:
    """Return whether what a caller gave is what the run was trained on, which has no name to find it by.

    That is so for an object whose samples have the paths of the stored split and, of a few of them, one has its pixels.
    """
    if data is None or isinstance(data, str) or hasattr(data, "__fspath__"):
        return False
    source = open_data(data, run.config.data)
    if list(run.split.paths) != source.paths:
        return False
    known = np.flatnonzero([bool(pixels) for pixels in run.split.pixel_hashes])
    probes = known[np.unique(np.linspace(0, len(known) - 1, _NUM_PROBES).round().astype(int))] if len(known) else known
    # The pixels are hashed as they are, whatever the size that they are reduced to.
    preprocess = Preprocess(8, [0.0] * source.num_channels, [1.0] * source.num_channels)
    found = [pixels for chunk in read_chunks(source, probes, preprocess) for pixels in chunk.pixel_hashes]
    return any(run.split.pixel_hashes[row] == pixels for row, pixels in zip(probes, found, strict=True))


def other_subject(run: Run, data: Any, part: str | None, classifier: Classifier) -> Subject:
    """Return the images of any other data, all of them, or those of a part of its own.

    Raises:
        DataError: the data cannot be opened, have no such part, mean something else, or have classes that the
            classifier does not know.
    """
    source = _open_other(run, data, classifier)
    rows = np.arange(len(source))
    if part is not None:
        rows = np.flatnonzero([each == part for each in source.parts])
        if not len(rows):
            raise DataError(f"{source.name}: has no part of its own called {part}. {_parts_in_words(source)}")
    if not len(rows):
        raise DataError(f"{source.name}: expected images, found none.")
    if source.task != classifier.task:
        raise DataError(
            f"{source.name}: its labels are {source.task}, but the run's classifier is {classifier.task}. Evaluate it "
            "on data of its own kind."
        )
    return Subject(
        source=source,
        rows=rows,
        indices=rows,
        paths=[source.paths[row] for row in rows],
        num_given=len(rows),
        name=f"{source.name} ({part})" if part else source.name,
    )


def _open_other(run: Run, data: Any, classifier: Classifier) -> Source:
    """Return the source, labels understood as the classifier's task asks, columns named as the run's or as usual."""
    settings = run.config.data
    named = ColumnNames(image=settings.image_column, label=settings.label_column, separator=settings.label_separator)
    problem = None
    for columns in (named, ColumnNames()):
        try:
            return open_source(data, data_dir=settings.data_dir, task=classifier.task, columns=columns)
        except (DataError, ConfigError) as error:
            problem = problem or error
    if classifier.task == "multiclass" and (source := one_known_class(data, classifier.classes)):
        return source
    assert problem is not None
    raise problem


def aligned_targets(source: Source, classifier: Classifier, rows: np.ndarray) -> np.ndarray:
    """Return the targets of the source's `rows` with classes in the classifier's order, matched by name.

    Raises:
        DataError: the rows have a class that the classifier does not know; one that only other rows have is no matter.
    """
    found = source.targets[rows]
    if classifier.task == "regression":
        _require_same_width(source, classifier, found)
        return found
    if source.classes == classifier.classes:
        return found
    place = {name: index for index, name in enumerate(classifier.classes)}
    order = np.array([place.get(name, -1) for name in source.classes], dtype=np.int64)
    is_present = np.isin(np.arange(len(order)), found) if classifier.task == "multiclass" else found.any(axis=0)
    unknown = [source.classes[k] for k in np.flatnonzero(is_present & (order < 0))]
    if unknown:
        raise DataError(_unknown_classes(source.name, unknown, classifier.classes))
    if classifier.task == "multiclass":
        return order[found]
    targets = np.zeros((len(rows), len(classifier.classes)), dtype=np.float32)
    targets[:, order[order >= 0]] = found[:, order >= 0]
    return targets


def _unknown_classes(name: str, unknown: Sequence[str], known: Sequence[str]) -> str:
    listed = [repr(each) for each in unknown[:5]] + [f"{len(unknown) - 5:,} more"] * (len(unknown) > 5)
    several = "classes" if len(unknown) > 1 else "class"
    shown = ", ".join(known[:20]) + (f" and {len(known) - 20:,} more" if len(known) > 20 else "")
    guess = nearest(unknown[0], known) or nearest(unknown[0].lower(), [each.lower() for each in known])
    hint = f" Did you mean '{guess}' by {unknown[0]!r}?" if guess else ""
    return (
        f"{name}: the classifier does not know the {several} {', '.join(listed)}.{hint} It knows: {shown}. Rename the "
        "classes, or leave out their images."
    )


def _require_same_width(source: Source, classifier: Classifier, targets: np.ndarray) -> None:
    width = len(classifier.module.target_mean)
    if targets.shape[1] != width:
        raise DataError(f"{source.name}: has {targets.shape[1]} numbers an image, but the run predicts {width}.")


def _parts_in_words(source: Source) -> str:
    counts = {name: source.parts.count(name) for name in SPLITS if name in source.parts}
    if not counts:
        return "It is not divided; without --split all of its images are evaluated."
    listed = ", ".join(f"{name} ({count:,} images)" for name, count in counts.items())
    return f"It has: {listed}. Without --split all of its images are evaluated."


def _why_empty(run: Run, split: str) -> str:
    if run.split.num_given(split):
        return " None of those it was given could be read."
    if split != "test":
        return " Evaluate another split: --split val or test; or other data: --data."
    return (
        " None were held out for it (--data.test-fraction), or there were too few to. New images make one: "
        "--data FOLDER evaluates on any."
    )


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


def _require_unchanged(path: str, reason: str, pixels: str, expected: str) -> None:
    if reason:
        raise DataError(f"{path}: could be read when the split was made, and cannot now: {reason}.")
    if pixels != expected:
        raise DataError(f"{path}: its pixels are not those that it had when the split was made.")
