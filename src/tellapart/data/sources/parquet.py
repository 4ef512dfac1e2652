"""Parquet files in the layout of Hugging Face `datasets`: encoded images and their labels, one row an image."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tellapart.data.sources.base import Source, require_two_classes
from tellapart.data.sources.columns import Columns, choose_columns, class_names
from tellapart.data.sources.labels import Labels, understand
from tellapart.data.sources.shards import find_shards, part_of_shard
from tellapart.data.sources.tree import title
from tellapart.errors import DataError


class ParquetSource(Source):
    """The images of one Parquet file or of all shards in a folder.

    The encoded bytes of all images are held in memory, outside of Python's heap, so that forked workers share them.

    Args:
        path: a `.parquet` file, or a folder with such files in it or in its sub-folders.

    Raises:
        DataError: a file is damaged, the columns cannot be told, or a row has no image or no valid label.
    """

    def __init__(self, path: str | Path) -> None:
        root, files = find_shards(Path(path))
        name = title(Path(path))
        columns = choose_columns(root / files[0])
        shards = [_read_shard(root, file, columns) for file in files]
        self._chunks = [chunk for shard in shards for chunk in shard.images.chunks if len(chunk)]
        lengths = [len(chunk) for chunk in self._chunks]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])[:-1].astype(int).tolist()
        if not lengths:
            raise DataError(f"{path}: expected images, found no rows.")
        labels = _understand_shards(shards, columns.label, name)
        if labels.task == "multiclass":
            require_two_classes(name, labels.classes)
        super().__init__(
            name,
            classes=labels.classes,
            paths=_unique_paths(shards),
            targets=labels.targets,
            parts=[shard.part for shard in shards for _ in range(len(shard.images))],
            task=labels.task,
            notes=[*columns.notes, *labels.notes, *_part_notes(shards)],
        )

    def read(self, index: int) -> bytes:
        """Return the bytes of the image as they are stored."""
        place = bisect_right(self._starts, index) - 1
        return self._chunks[place][index - self._starts[place]].as_py()


class _Shard(NamedTuple):
    file: str
    part: str
    images: pa.ChunkedArray
    paths: list[str | None]
    labels: np.ndarray
    names: tuple[str, ...] | None


def _read_shard(root: Path, file: str, columns: Columns) -> _Shard:
    where = root / file
    try:
        with pq.ParquetFile(where, memory_map=True, page_checksum_verification=True) as parquet:
            if lacking := [name for name in (columns.image, columns.label) if name not in parquet.schema_arrow.names]:
                found = ", ".join(parquet.schema_arrow.names)
                raise DataError(f"{where}: expected the column '{lacking[0]}' as in the other files, found {found}.")
            table = parquet.read(columns=[columns.image, columns.label])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where}: cannot be read as Parquet: {error}") from error
    label = table.column(columns.label)
    flat = table.select([columns.image]).flatten()
    is_struct = pa.types.is_struct(table.schema.field(columns.image).type)
    images = flat.column(f"{columns.image}.bytes" if is_struct else columns.image)
    paths: list[str | None] = [None] * len(images)
    if f"{columns.image}.path" in flat.column_names:
        paths = flat.column(f"{columns.image}.path").to_pylist()
    if not _is_binary(images.type):
        expected = "must hold the bytes of image files"
        raise DataError(f"{where}: the column '{columns.image}' {expected}, found {images.type}.")
    _require_no_null(images, where, columns.image, "an image; a path alone is not followed")
    _require_no_null(label, where, columns.label, "a label")
    names = class_names(table.schema, columns.label)
    values = _label_values(label, f"{where}: the column '{columns.label}'")
    if names is not None:
        _require_in_range(values, names, where)
    return _Shard(file, part_of_shard(file), images, paths, values, names)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _require_no_null(column: pa.ChunkedArray, where: Path, name: str, expected: str) -> None:
    if column.null_count:
        row = column.is_null().index(True).as_py()
        raise DataError(f"{where}, row {row}: '{name}' is null; every row needs {expected}. Drop such rows first.")


def _label_values(column: pa.ChunkedArray, where: str) -> np.ndarray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
        kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return np.array(column.to_pylist(), dtype=np.str_)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pc.cast(column, pa.int64()).to_numpy()
    if pa.types.is_floating(kind):
        return pc.cast(column, pa.float64()).to_numpy()
    raise DataError(f"{where} must hold whole numbers, strings or floats, found {kind}.")


def _require_in_range(values: np.ndarray, names: Sequence[str], where: Path | str) -> None:
    if values.dtype.kind != "i":
        raise DataError(f"{where}: labels with class names must be whole numbers, found {values.dtype}.")
    outside = (values < 0) | (values >= len(names))
    if outside.any():
        row = int(np.argmax(outside))
        hint = " -1 marks unlabelled images: leave that file out." if values[row] == -1 else ""
        raise DataError(
            f"{where}, row {row}: the label is {values[row]}, expected 0 to {len(names) - 1} "
            f"for {len(names)} classes.{hint}"
        )


def _understand_shards(shards: Sequence[_Shard], column: str, name: str) -> Labels:
    """Bring the labels of all shards together by name."""
    named = [shard.names for shard in shards if shard.names is not None]
    if not named:
        parts = [shard.labels for shard in shards if len(shard.labels)]
        kinds = {"text" if values.dtype.kind == "U" else values.dtype.name for values in parts}
        if len(kinds) > 1:
            raise DataError(f"{name}: the column '{column}' is {' in one file and '.join(sorted(kinds))} in another.")
        return understand(np.concatenate(parts), None, "auto", name)
    classes = list(dict.fromkeys(label for names in named for label in names))
    places = {label: index for index, label in enumerate(classes)}
    targets = []
    for shard in shards:
        names = shard.names or named[0]
        _require_in_range(shard.labels, names, shard.file)
        targets.append(np.array([places[label] for label in names], dtype=np.int64)[shard.labels])
    notes = ["the files list different class names; they were brought together by name."] if len(set(named)) > 1 else []
    return Labels(np.concatenate(targets), tuple(classes), "multiclass", notes)


def _unique_paths(shards: Sequence[_Shard]) -> list[str]:
    """Return the stored paths; with the part in front where parts repeat them; else file and row."""
    rows = [(shard, row, path) for shard in shards for row, path in enumerate(shard.paths)]
    paths = [path for _, _, path in rows]
    if len(set(paths)) < len(paths):
        paths = [f"{shard.part}/{path}" if path and shard.part else path for shard, _, path in rows]
    counts = Counter(paths)
    return [
        path if path and counts[path] == 1 else f"{shard.file}#{row}"
        for (shard, row, _), path in zip(rows, paths, strict=True)
    ]


def _part_notes(shards: Sequence[_Shard]) -> list[str]:
    without = [shard.file for shard in shards if not shard.part]
    if not without or len(without) == len(shards):
        return []
    return [f"the names of these files say no part (train, val, test): {', '.join(without[:3])}."]
