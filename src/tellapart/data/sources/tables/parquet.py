"""Parquet files in the layout of Hugging Face `datasets`: encoded images and their labels, one row an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from tellapart.data.sources.base import ColumnNames, Source, require_two_classes
from tellapart.data.sources.labels import understand
from tellapart.data.sources.shards import find_shards, parts_of_shards
from tellapart.data.sources.tables.cells import join_rows, read_columns, understand_cells
from tellapart.data.sources.tables.columns import choose_columns, holds_bytes
from tellapart.data.sources.tables.files import count_files, read_file
from tellapart.data.sources.tables.manifest import ManifestSource
from tellapart.data.sources.tables.row_groups import RowGroups
from tellapart.data.sources.tables.table import Table, open_table
from tellapart.data.sources.tasks import change_task
from tellapart.data.sources.tree import title
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

# A row group is read as a whole; above this, reading one image takes so much memory that the user should know.
_LARGE_GROUP_BYTES = 2**30


def open_parquet(path: str | Path, task: str = "auto", columns: ColumnNames | None = None) -> Source:
    """Return the source for a Parquet file or a folder of them: of images, or of the paths of images.

    Raises:
        DataError: as `ParquetSource` and `ManifestSource`.
    """
    asked = columns or ColumnNames()
    root, files = find_shards(Path(path).expanduser())
    table = open_table(root / files[0])
    image = choose_columns(table, asked, lambda texts: count_files(texts, table.path.parent, root)).image
    if holds_bytes(table.schema.field(image).type):
        return ParquetSource(path, task=task, columns=asked)
    return ManifestSource(path, [root / file for file in files], task=task, columns=asked)


class ParquetSource(Source):
    """The images of one Parquet file or of all shards in a folder.

    Up to `row_groups.HOLD_BYTES` the encoded bytes are held in memory, outside of Python's heap, so that forked
    workers share them. Larger data are read a row group at a time, and `blocks` says which one an image lies in. A
    row without bytes and with a path is read from that file, relative to the Parquet file's folder.

    Args:
        path: a `.parquet` file, or a folder with such files in it or in its sub-folders.
        task: "auto" or a key of `TASKS`.
        columns: the columns that the user named; the others are told by metadata, names and types.

    Raises:
        DataError: a file is damaged, the columns cannot be told, or a row has no valid label.
        ConfigError: the labels do not allow `task`.
    """

    def __init__(self, path: str | Path, *, task: str = "auto", columns: ColumnNames | None = None) -> None:
        self._root, files = find_shards(Path(path).expanduser())
        asked, name = columns or ColumnNames(), title(Path(path))
        tables = [open_table(self._root / file) for file in files]
        chosen = choose_columns(tables[0], asked, lambda _: 0)
        _require_bytes(tables, chosen.image)
        shards = []
        for table in tables:
            data = read_columns(table, chosen.without_image())
            shards.append(understand_cells(table, data, chosen, asked.separator, task))
        rows = join_rows(shards, name)
        if not len(rows):
            raise DataError(f"{path}: expected images, found no rows.")
        lengths = [len(shard) for shard in shards]
        parts = parts_of_shards(files)
        if rows.parts is None:
            told = [parts[file] for file, length in zip(files, lengths, strict=True) for _ in range(length)]
            rows = replace(rows, parts=told, notes=[*rows.notes, *_part_notes(parts)])
        stored = [
            path
            for table, length in zip(tables, lengths, strict=True)
            for path in _stored_paths(table, chosen.image, length)
        ]
        self._bytes = RowGroups([table.path for table in tables], chosen.image)
        # Only where bytes may be missing are the paths more than names.
        self._linked = None if self._bytes.num_null == 0 else stored
        self._require_any(str(path))
        labels = understand(rows.labels, rows.classes, task, name)
        super().__init__(
            name,
            classes=labels.classes,
            paths=_unique_paths(stored, files, lengths, rows.parts or []),
            targets=labels.targets,
            parts=rows.parts,
            task=labels.task,
            notes=list(dict.fromkeys([*chosen.notes, *rows.notes, *labels.notes, *self._bytes_notes()])),
        )
        self.groups, self.times = rows.groups, rows.times
        if self._bytes.is_held:
            self._bytes.hold()
        else:
            self.seeks = False
            self.blocks = np.repeat(np.arange(len(self._bytes.lengths)), self._bytes.lengths)
        change_task(self, task)
        if self.task == "multiclass":
            require_two_classes(name, self.classes)

    def read(self, index: int) -> bytes:
        """Return the bytes of the image as they are stored.

        Raises:
            ImageError: the row has no image, its file is not there, or the Parquet file is damaged or gone.
        """
        try:
            raw = self._bytes.read(index)
        except (pa.ArrowException, OSError, DataError) as error:
            raise ImageError(f"its row group cannot be read as Parquet ({error})") from error
        if raw is not None:
            return raw
        if self._linked is None or not self._linked[index]:
            raise ImageError("the row holds no image")
        group, _ = self._bytes.place(index)
        return read_file(self._bytes.file_of(group).parent / (self._linked[index] or ""))

    def _require_any(self, where: str) -> None:
        if self._linked is None or self._bytes.num_null != len(self._linked):
            return
        linked = [path for path in self._linked if path]
        if not count_files(linked, self._root, self._root):
            example = f", such as '{linked[0]}'" if linked else ""
            raise DataError(
                f"{where}: none of its {len(self._linked):,} rows holds the bytes of an image, and none of the "
                f"paths in their place leads to a file{example}. Write the images into the table, or put "
                "the files there."
            )

    def _bytes_notes(self) -> list[str]:
        notes = []
        if self._bytes.num_null:
            notes.append(
                f"rows without the bytes of an image: {self._bytes.num_null:,} of {self._bytes.lengths.sum():,}."
            )
        if not self._bytes.is_held and self._bytes.largest_bytes > _LARGE_GROUP_BYTES:
            notes.append(
                f"the largest row group takes {self._bytes.largest_bytes / 2**30:.1f} GiB of memory in every process "
                "that reads; `tellapart pack` writes the data in small ones."
            )
        return notes


def _require_bytes(tables: Sequence[Table], image: str) -> None:
    for table in tables:
        if image not in table.schema.names:
            found = ", ".join(table.schema.names)
            raise DataError(f"{table.path}: expected the column '{image}' as in the other files, found {found}.")
        kind = table.schema.field(image).type
        if not holds_bytes(kind):
            raise DataError(f"{table.path}: the column '{image}' must hold the bytes of image files, found {kind}.")


def _stored_paths(table: Table, image: str, length: int) -> list[str | None]:
    """Return the paths beside the bytes, None where there are none."""
    kind = table.schema.field(image).type
    if not pa.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return [None] * length
    return table.read([f"{image}.path"]).column(0).combine_chunks().field("path").to_pylist()


def _unique_paths(
    stored: Sequence[str | None], files: Sequence[str], lengths: Sequence[int], parts: Sequence[str]
) -> list[str]:
    """Return the stored paths; with the part in front where parts repeat them; else file and row."""
    paths = list(stored)
    if len(set(paths)) < len(paths):
        paths = [f"{part}/{path}" if path and part else path for path, part in zip(paths, parts, strict=True)]
    counts = Counter(paths)
    places = [(file, row) for file, length in zip(files, lengths, strict=True) for row in range(length)]
    return [
        path if path and counts[path] == 1 else f"{file}#{row}" for path, (file, row) in zip(paths, places, strict=True)
    ]


def _part_notes(parts: dict[str, str]) -> list[str]:
    without = [file for file, part in parts.items() if not part]
    if not without or len(without) == len(parts):
        return []
    return [f"the names of these files say no part (train, val, test): {', '.join(without[:3])}."]
