"""The stored division of a source, and what it shows of images that lie on two sides."""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.errors import RunError

SPLITS = ("train", "val", "test")
# The value of an image that a division leaves out: it is neither trained on nor evaluated.
UNUSED = "unused"

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Split:
    """The stored division: one row a sample of the source, unreadable ones included (their hash is "").

    Attributes:
        paths: as the source has them.
        classes: the labels in words.
        splits: "train", "val", "test", or "unused".
        pixel_hashes: of the decoded pixels.
        content_hashes: of the bytes that hold the image, or "" for each where that is not known.
        groups: what must not be divided, by name; "" is an image of its own.

    Raises:
        RunError: from `load`, if the file is missing or not such a table.
    """

    paths: tuple[str, ...]
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    pixel_hashes: tuple[str, ...]
    content_hashes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("content_hashes", "groups"):
            if not getattr(self, name):
                object.__setattr__(self, name, ("",) * len(self.paths))

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of the split's readable images, int64, in order."""
        pairs = zip(self.splits, self.pixel_hashes, strict=True)
        return np.array([row for row, (name, found) in enumerate(pairs) if name == split and found], dtype=np.int64)

    def num_given(self, split: str) -> int:
        """Return how many images the split was given, unreadable ones included."""
        return sum(name == split for name in self.splits)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as Parquet, or as text where the name ends in .csv or .tsv; under a temporary name first."""
        path = Path(path)
        columns: dict[str, Any] = {
            "index": range(len(self.paths)),
            "path": self.paths,
            "class": self.classes,
            "split": self.splits,
            "pixel_hash": self.pixel_hashes,
        }
        # Nobody who edits the table by hand wants columns that say nothing.
        columns |= {
            name: values
            for name, values in (("content_hash", self.content_hashes), ("group", self.groups))
            if any(values)
        }
        temporary = path.with_name(path.name + ".tmp")
        if delimiter := _DELIMITERS.get(path.suffix.lower()):
            _write_text(columns, temporary, delimiter)
        else:
            _write_parquet(columns, temporary)
        temporary.replace(path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Split:
        """Read a stored split, as Parquet or, by its ending, as CSV or TSV."""
        try:
            columns = read_columns(Path(path))
            needed = (tuple(columns[name]) for name in ("path", "class", "split", "pixel_hash"))
            added = (tuple(text or "" for text in columns.get(name, ())) for name in ("content_hash", "group"))
            return Split(*needed, *added)
        except (OSError, KeyError, ValueError) as error:
            raise RunError(
                f"{path}: expected the stored split of a run, found {type(error).__name__}: {error}"
            ) from None


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a table by name: of a CSV or TSV file as text, of a Parquet file as stored.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such table.
    """
    if path.suffix.lower() in _DELIMITERS:
        return _read_text(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Not read_table, which takes a folder called split=1 above the file for a column.
        with pq.ParquetFile(path) as file:
            return file.read().to_pydict()
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None


def _read_text(path: Path) -> dict[str, list[str]]:
    # With a byte order mark, as spreadsheets write it; newlines inside of quotes are part of a path.
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        file.seek(0)
        try:
            rows = [row for row in csv.reader(file, delimiter=_delimiter(path, first), strict=True) if row]
        except csv.Error as error:
            raise ValueError(str(error)) from None
    if not rows:
        raise ValueError("an empty file")
    header = [name.strip().lower() for name in rows[0]]
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise ValueError(f"row {number}: expected {len(header)} cells ({', '.join(header)}), found {len(row)}")
    return {name: [row[place] for row in rows[1:]] for place, name in enumerate(header)}


def _delimiter(path: Path, header: str) -> str:
    """Return the sign between cells: in a .csv file a comma, or what spreadsheets write where a comma is decimal."""
    if path.suffix.lower() == ".csv":
        for sign in (",", ";", "\t"):
            if sign in header:
                return sign
    return _DELIMITERS[path.suffix.lower()]


def _write_text(columns: dict[str, Any], path: Path, delimiter: str) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _write_parquet(columns: dict[str, Any], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {name: pa.array(values, pa.int64() if name == "index" else pa.string()) for name, values in columns.items()}
    pq.write_table(pa.table(table), path)


def leaked_rows(split: Split) -> dict[str, np.ndarray]:
    """Return, for val and test, the rows whose pixels are those of a training image as well."""
    trained = {split.pixel_hashes[row] for row in split.rows("train")}
    leaks = {}
    for name in ("val", "test"):
        leaks[name] = np.array([row for row in split.rows(name) if split.pixel_hashes[row] in trained], dtype=np.int64)
    return leaks


def leaked_groups(split: Split) -> dict[str, dict[str, np.ndarray]]:
    """Return, for val and test, the groups that train has images of as well, each with its rows there, int64."""
    trained = {split.groups[row] for row in split.rows("train")} - {""}
    leaks: dict[str, dict[str, np.ndarray]] = {}
    for name in ("val", "test"):
        found: dict[str, list[int]] = defaultdict(list)
        for row in split.rows(name):
            if split.groups[row] in trained:
                found[split.groups[row]].append(int(row))
        leaks[name] = {group: np.array(found[group], dtype=np.int64) for group in sorted(found)}
    return leaks
