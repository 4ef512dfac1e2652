"""Which images `explain` is asked about: files, folders, pixels, rows of a run, or its most confident mistakes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.api.training_images import TrainingImages
from tellapart.data.decode import ImageError
from tellapart.data.sources.tree import to_text, walk
from tellapart.data.splits import SPLITS
from tellapart.errors import DataError, RunError, unknown_name
from tellapart.evaluation.predictions import Predictions

NUM_MISTAKES = 10


@dataclass(frozen=True)
class Asked:
    """An image to explain.

    Attributes:
        path: how it is called.
        read: returns its bytes or pixels; raises ImageError or OSError.
        row: in the run's division, where it was named by that.
        stored_label: what the stored table of predictions says of it, where it was found by that.
    """

    path: str
    read: Callable[[], bytes | np.ndarray]
    row: int | None = None
    stored_label: str | None = None


def given_images(images: Any) -> Iterator[Asked]:
    """Yield the files, the images in the folders, and the pixels that were given.

    Raises:
        DataError: a folder holds no images or cannot be listed, or something is no image.
    """
    is_one = isinstance(images, str | os.PathLike | bytes) or (isinstance(images, np.ndarray) and images.ndim < 4)
    several: Any = [images] if is_one or not hasattr(images, "__iter__") else images
    for number, image in enumerate(several):
        if isinstance(image, bytes | np.ndarray):
            yield Asked(f"image {number}", lambda image=image: image)
        elif not isinstance(image, str | os.PathLike):
            raise DataError(
                f"explain: expected paths, bytes of image files or uint8 arrays, found {type(image).__name__}."
            )
        elif "\0" not in os.fspath(image) and Path(image).is_dir():
            found = walk(Path(image)).images
            if not found:
                raise DataError(f"{to_text(os.fspath(image))}: found no images there.")
            yield from (_file(Path(image) / name) for name in found)
        else:
            yield _file(image)


def _file(path: str | os.PathLike[str]) -> Asked:
    def read() -> bytes:
        if "\0" in os.fspath(path):
            raise ImageError("no file can have this name")
        return Path(path).read_bytes()

    return Asked(to_text(os.fspath(path)), read)


def own_images(
    folder: Path,
    known: TrainingImages | None,
    split: str | None,
    mistakes: int | None,
    index: Sequence[int],
    notes: list[str],
) -> Iterator[Asked]:
    """Yield the images of a run's own data that were asked for: mistakes on a split, and rows.

    Args:
        folder: the run.
        known: its images.
        split: whose mistakes; None with `mistakes` means val.
        mistakes: how many; None with `split` means `NUM_MISTAKES`.
        index: rows of split.parquet.
        notes: gets a sentence where there are fewer mistakes than were asked for.

    Raises:
        RunError: no such split or row, no stored predictions, or a bundle, which has none.
        DataError: the run's data cannot be opened.
    """
    if split is None and mistakes is None and not len(index):
        return
    if known is None:
        raise RunError(f"{folder}: a bundle knows no images of its own. Name a run, or the files to explain.")
    if known.source is None:
        raise DataError(f"{folder}: its own images cannot be read: {known.problem}")
    if split is not None or mistakes is not None:
        yield from _mistakes(folder, known, split or "val", NUM_MISTAKES if mistakes is None else mistakes, notes)
    for row in index:
        count = len(known.split.paths)
        if not 0 <= row < count:
            raise RunError(f"{folder}: --index {row}: its division has the rows 0 to {count - 1:,}.")
        yield Asked(known.split.paths[row], lambda row=int(row): known.read(row), int(row))


def _mistakes(folder: Path, known: TrainingImages, split: str, most: int, notes: list[str]) -> Iterator[Asked]:
    if split not in SPLITS:
        raise RunError(unknown_name("split", split, SPLITS))
    if most < 1:
        raise DataError(f"mistakes: expected at least 1, found {most}.")
    path = folder / "predictions" / f"{split}.parquet"
    if not path.exists():
        raise RunError(
            f"{path}: not there; mistakes are found in stored predictions. Make them: "
            f"tellapart evaluate {folder} --split {split}"
        )
    table = Predictions.load(path)
    if len(table) and (table.indices.min() < 0 or table.indices.max() >= len(known.split.paths)):
        raise RunError(f"{path}: has rows that the run's division has not. Make it again with `tellapart evaluate`.")
    places = rank_mistakes(table)[:most]
    if len(places) < most:
        found = f"{len(places):,} mistakes" if len(places) != 1 else "1 mistake"
        notes.append(f"There {'is' if len(places) == 1 else 'are'} {found} among {len(table):,} images of {split}.")
    for place in places.tolist():
        row = int(table.indices[place])
        yield Asked(known.split.paths[row], lambda row=row: known.read(row), row, _label(table, place))


def rank_mistakes(table: Predictions) -> np.ndarray:
    """Return the places of the wrong rows, int64, the most confident mistake first; of numbers, the largest error.

    Of a multi-label row, the confidence is how far the furthest wrong class is from its label; errors of several
    numbers are compared in standard deviations of the labels.
    """
    if table.task == "multiclass":
        is_wrong, scores = table.predicted() != table.targets, table.outputs.max(axis=1, initial=0.0)
    elif table.task == "multilabel":
        wrong = table.predicted() != (table.targets > 0.5)
        is_wrong = wrong.any(axis=1)
        scores = np.where(wrong, np.abs(table.outputs - table.targets), 0.0).max(axis=1, initial=0.0)
    else:
        spread = table.targets.std(axis=0, dtype=np.float64) if len(table) else np.ones(table.targets.shape[1])
        errors = np.abs(table.outputs.astype(np.float64) - table.targets) / np.where(spread > 0, spread, 1.0)
        scores = errors.max(axis=1, initial=0.0)
        is_wrong = scores > 0
    order = np.argsort(-scores, kind="stable")
    return order[is_wrong[order]].astype(np.int64)


def _label(table: Predictions, place: int) -> str | None:
    if table.task == "multiclass":
        return table.classes[int(table.predicted()[place])]
    if table.task == "multilabel":
        return "|".join(name for name, chosen in zip(table.classes, table.predicted()[place], strict=True) if chosen)
    return None
