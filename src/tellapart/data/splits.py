"""Train, val and test: drawn once, by content, and stored. Choices look at val; test is for the final number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tellapart import seeding
from tellapart.config import DataConfig
from tellapart.data.sources import Source
from tellapart.errors import DataError, RunError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """The stored division: one row a sample of the source, unreadable ones included (their hash is "").

    Raises:
        RunError: from `load`, if the file is missing or not such a table.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    pixel_hashes: tuple[str, ...]

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of the split's readable images, int64, in order."""
        pairs = zip(self.splits, self.pixel_hashes, strict=True)
        return np.array([row for row, (name, found) in enumerate(pairs) if name == split and found], dtype=np.int64)

    def num_given(self, split: str) -> int:
        """Return how many images the split was given, unreadable ones included."""
        return sum(name == split for name in self.splits)

    def save(self, path: Path) -> None:
        """Write the split as Parquet, under a temporary name first."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table(
            {
                "index": pa.array(range(len(self.paths)), pa.int64()),
                "path": pa.array(self.paths, pa.string()),
                "class": pa.array(self.classes, pa.string()),
                "split": pa.array(self.splits, pa.string()),
                "pixel_hash": pa.array(self.pixel_hashes, pa.string()),
            }
        )
        temporary = path.with_name(path.name + ".tmp")
        pq.write_table(table, temporary)
        temporary.replace(path)

    @staticmethod
    def load(path: Path) -> Split:
        """Read a stored split."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            columns = pq.read_table(path).to_pydict()
            return Split(*(tuple(columns[name]) for name in ("path", "class", "split", "pixel_hash")))
        except (OSError, KeyError, pa.ArrowException) as error:
            raise RunError(
                f"{path}: expected the stored split of a run, found {type(error).__name__}: {error}"
            ) from None


def make_split(source: Source, pixel_hashes: Sequence[str], config: DataConfig, seed: int) -> Split:
    """Return the division of a source: its own parts where it has them, drawn ones where it has not.

    A part that is missing is drawn from the training images, stratified by class, at least one image a class left to
    train on. Which images go is a function of the seed and their pixels: images with the same pixels stay on one side,
    and adding images later moves few of the others.

    Args:
        source: what to divide.
        pixel_hashes: one per sample; "" for an unreadable one, which is then drawn by its path.
        config: the fractions.
        seed: the run's seed.

    Raises:
        DataError: a class without training images, no training images, or too few to hold any out.
    """
    splits = [part or "train" for part in source.parts]
    labels = _strata(source)
    keys = [found or f"path:{path}" for found, path in zip(pixel_hashes, source.paths, strict=True)]
    train_count = splits.count("train")
    for name, fraction in (("test", config.test_fraction), ("val", config.val_fraction)):
        if name not in splits and fraction:
            _hold_out(splits, labels, keys, name, max(1, round(fraction * train_count)), seed)
    names = tuple(source.label_name(row) for row in range(len(source)))
    split = Split(tuple(source.paths), names, tuple(splits), tuple(pixel_hashes))
    _check(split, source)
    return split


def _strata(source: Source) -> np.ndarray:
    """Return the class that each sample is stratified by; several labels or a number make no classes."""
    return source.targets if source.task == "multiclass" else np.zeros(len(source), dtype=np.int64)


def _hold_out(splits: list[str], labels: np.ndarray, keys: list[str], name: str, total: int, seed: int) -> None:
    """Move `total` training samples to the split `name`, in proportion to the classes, same pixels together."""
    rows_of_class: dict[int, list[int]] = {}
    for row, split in enumerate(splits):
        if split == "train":
            rows_of_class.setdefault(int(labels[row]), []).append(row)
    quotas = apportion({label: len(rows) for label, rows in rows_of_class.items()}, total)
    moved_keys: set[str] = set()
    for label, rows in rows_of_class.items():
        ranks = {row: (seeding.derive(seed, f"split/{name}/{keys[row]}"), keys[row], row) for row in rows}
        for row in sorted(rows, key=ranks.__getitem__)[: quotas[label]]:
            moved_keys.add(keys[row])
    remaining = {label: len(rows) for label, rows in rows_of_class.items()}
    moves = [row for row, split in enumerate(splits) if split == "train" and keys[row] in moved_keys]
    for row in moves:
        remaining[int(labels[row])] -= 1
    emptied = {label for label, count in remaining.items() if count == 0}
    kept_keys = {keys[row] for row in moves if int(labels[row]) in emptied}
    for row in moves:
        if keys[row] not in kept_keys:
            splits[row] = name


def apportion(counts: Mapping[int, int], total: int) -> dict[int, int]:
    """Return how many of each class to hold out: in proportion, by largest remainder, one always left.

    >>> apportion({0: 50, 1: 30, 2: 1}, 8)
    {0: 5, 1: 3, 2: 0}
    """
    whole = sum(counts.values())
    ideal = {label: total * count / whole for label, count in counts.items()}
    quotas = {label: min(int(ideal[label]), count - 1) for label, count in counts.items()}
    by_remainder = sorted(counts, key=lambda label: (int(ideal[label]) - ideal[label], -counts[label], label))
    missing = min(total, whole - len(counts)) - sum(quotas.values())
    while missing > 0:
        for label in by_remainder:
            if missing and quotas[label] < counts[label] - 1:
                quotas[label] += 1
                missing -= 1
    return quotas


def _check(split: Split, source: Source) -> None:
    if not split.num_given("train"):
        raise DataError(f"{source.name}: expected training images, found none in its train part.")
    if source.task == "multiclass":
        in_train = {split.classes[row] for row in split.rows("train")}
        for name in source.classes:
            if name not in in_train and name in split.classes:
                where = sorted({s for s, c in zip(split.splits, split.classes, strict=True) if c == name} - {"train"})
                raise DataError(
                    f"{source.name}: the class '{name}' has no training images that can be read"
                    + (f" (it has some in {' and '.join(where)})" if where else "")
                    + ". Add some, or take the class out of every part."
                )
    if not len(split.rows("val")):
        raise DataError(
            f"{source.name}: too few images to hold any out for val: {split.num_given('train')} in "
            f"{max(1, len(source.classes))} classes. Expected at least one class with two images of different pixels."
        )


def leaked_rows(split: Split) -> dict[str, np.ndarray]:
    """Return, for val and test, the rows whose pixels are those of a training image as well."""
    trained = {split.pixel_hashes[row] for row in split.rows("train")}
    leaks = {}
    for name in ("val", "test"):
        leaks[name] = np.array([row for row in split.rows(name) if split.pixel_hashes[row] in trained], dtype=np.int64)
    return leaks
