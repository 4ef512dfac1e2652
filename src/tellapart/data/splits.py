"""Train, val and test: drawn once, by content, and stored. Choices look at val; test is for the final number."""

from __future__ import annotations

from collections import Counter
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
            # Not read_table, which takes a folder called split=1 above the file for a column.
            with pq.ParquetFile(path) as file:
                columns = file.read().to_pydict()
            return Split(*(tuple(columns[name]) for name in ("path", "class", "split", "pixel_hash")))
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise RunError(
                f"{path}: expected the stored split of a run, found {type(error).__name__}: {error}"
            ) from None


def make_split(source: Source, pixel_hashes: Sequence[str], config: DataConfig, seed: int) -> Split:
    """Return the division of a source: its own parts where it has them, drawn ones where it has not.

    A part that is missing is drawn from the training images, stratified by class, at least one image a class left to
    train on. Which images go is a function of the seed and their pixels: images with the same pixels stay on one side
    and count as one, and adding images later moves few of the others. Where there are too few for both, val goes
    before test.

    Args:
        source: what to divide.
        pixel_hashes: one per sample; "" for an unreadable one, which stays in the part it is in.
        config: the fractions.
        seed: the run's seed.

    Raises:
        DataError: a class without training images, no training images, or too few to hold any out.
    """
    splits = [part or "train" for part in source.parts]
    labels = _strata(source)
    num_distinct = len(_rows_of_hash(splits, pixel_hashes))
    drawn = {"test": config.test_fraction, "val": config.val_fraction}
    totals = {k: max(1, round(part * num_distinct)) for k, part in drawn.items() if part and k not in splits}
    if len(totals) == 2:
        totals["test"] = min(totals["test"], max(0, _num_spare(splits, labels, pixel_hashes) - 1))
    for name, total in totals.items():
        _hold_out(splits, labels, pixel_hashes, name, total, seed)
    names = tuple(source.label_name(row) for row in range(len(source)))
    split = Split(tuple(source.paths), names, tuple(splits), tuple(pixel_hashes))
    _check(split, source)
    return split


def _strata(source: Source) -> np.ndarray:
    """Return the class that each sample is stratified by; several labels or a number make no classes."""
    return source.targets if source.task == "multiclass" else np.zeros(len(source), dtype=np.int64)


def _rows_of_hash(splits: Sequence[str], pixel_hashes: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of each different readable image in train, by its hash."""
    rows: dict[str, list[int]] = {}
    for row, (split, found) in enumerate(zip(splits, pixel_hashes, strict=True)):
        if split == "train" and found:
            rows.setdefault(found, []).append(row)
    return rows


def _num_distinct(rows_of_hash: Mapping[str, list[int]], labels: np.ndarray) -> Counter[int]:
    """Return how many different images each class has."""
    return Counter(label for rows in rows_of_hash.values() for label in {int(labels[row]) for row in rows})


def _num_spare(splits: Sequence[str], labels: np.ndarray, pixel_hashes: Sequence[str]) -> int:
    """Return how many images could leave train with one of each class left in it."""
    counts = _num_distinct(_rows_of_hash(splits, pixel_hashes), labels)
    return sum(counts.values()) - len(counts)


def _hold_out(
    splits: list[str], labels: np.ndarray, pixel_hashes: Sequence[str], name: str, total: int, seed: int
) -> None:
    """Move `total` different training images to the split `name`, in proportion to the classes, same pixels together.

    An image that lies in several classes goes only where each of them has one to give.
    """
    rows_of_hash = _rows_of_hash(splits, pixel_hashes)
    quotas = apportion(_num_distinct(rows_of_hash, labels), total)
    for found in sorted(rows_of_hash, key=lambda found: (seeding.derive(seed, f"split/{name}/{found}"), found)):
        touched = {int(labels[row]) for row in rows_of_hash[found]}
        if all(quotas[label] > 0 for label in touched):
            for label in touched:
                quotas[label] -= 1
            for row in rows_of_hash[found]:
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
        if given := split.num_given("val"):
            raise DataError(f"{source.name}: none of the {given:,} images in its val part can be read.")
        raise DataError(
            f"{source.name}: too few images to hold any out for val: {len(split.rows('train'))} that can be read in "
            f"{max(1, len(source.classes))} classes. Expected at least one class with two images of different pixels."
        )


def leaked_rows(split: Split) -> dict[str, np.ndarray]:
    """Return, for val and test, the rows whose pixels are those of a training image as well."""
    trained = {split.pixel_hashes[row] for row in split.rows("train")}
    leaks = {}
    for name in ("val", "test"):
        leaks[name] = np.array([row for row in split.rows(name) if split.pixel_hashes[row] in trained], dtype=np.int64)
    return leaks
