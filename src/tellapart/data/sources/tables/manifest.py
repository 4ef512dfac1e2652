"""Tables that name image files: CSV, TSV, JSON Lines or Parquet, with a label and perhaps a split and a group a row.

Paths are relative to the table's folder or absolute; `files.find_files` says what else is tried. One table a data set,
or one a part: `train/metadata.csv` and `test/metadata.csv`, or `train.csv` and `test.csv`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tellapart.data.sources.base import ColumnNames, Source, require_two_classes
from tellapart.data.sources.found import find_manifests
from tellapart.data.sources.labels import understand
from tellapart.data.sources.parts import parts_of
from tellapart.data.sources.shards import parts_of_shards
from tellapart.data.sources.tables.cells import Rows, join_rows, read_columns, understand_cells
from tellapart.data.sources.tables.columns import Columns, UnrelatedTableError, choose_columns
from tellapart.data.sources.tables.files import Found, count_files, find_files, read_file
from tellapart.data.sources.tables.repeated import merge_repeated
from tellapart.data.sources.tables.table import Table, open_table, plain, rows_named
from tellapart.data.sources.tasks import change_task
from tellapart.data.sources.tree import title, to_text
from tellapart.errors import DataError

_NUM_SHOWN = 5


class ManifestSource(Source):
    """The images that one or several tables name.

    Rows that repeat a file are one image: with the same label they count once, with other labels they are several
    labels where the task is multilabel, and an error where it is not. A file that is not there is an image that
    cannot be read: a note lists such files, and `read` says so.

    Args:
        path: a table, or the folder that paths are shown relative to.
        tables: those of a folder; where left out, the ones that `found.find_manifests` finds.
        task: "auto" or a key of `TASKS`.
        columns: the columns that the user named; the others are told by their names and contents.

    Raises:
        DataError: a table cannot be read, lacks a column, or has rows without a label or that contradict each other.
        UnrelatedTableError: the columns cannot be told, or none of the files is there.
        ConfigError: the labels do not allow `task`.
    """

    def __init__(
        self,
        path: str | Path,
        tables: Sequence[Path] | None = None,
        *,
        task: str = "auto",
        columns: ColumnNames | None = None,
    ) -> None:
        asked, name = columns or ColumnNames(), title(Path(path))
        self._folder, opened = _open_tables(Path(path).expanduser(), tables)
        self.root = self._folder
        chosen = choose_columns(opened[0], asked, lambda texts: count_files(texts, opened[0].path.parent, self._folder))
        sheets = [_read_sheet(table, chosen, asked.separator, task, self._folder) for table in opened]
        files = [file for sheet in sheets for file in sheet.found.files]
        _require_any(sheets, self._folder)
        kept, rows = merge_repeated(files, _join(sheets, files, name, self._folder), task, _row_names(sheets))
        labels = understand(rows.labels, rows.classes, task, name)
        self._files = [files[row] for row in kept]
        is_there = np.array([there for sheet in sheets for there in sheet.found.is_there], dtype=bool)[kept]
        notes = [*chosen.notes, *(note for sheet in sheets for note in (*sheet.table.notes, *sheet.found.notes))]
        super().__init__(
            name,
            classes=labels.classes,
            paths=[to_text(file) for file in self._files],
            targets=labels.targets,
            parts=rows.parts,
            task=labels.task,
            notes=list(dict.fromkeys([*notes, *rows.notes, *labels.notes, *_missing(self._files, is_there)])),
        )
        self.groups, self.times = rows.groups, rows.times
        change_task(self, task)
        if self.task == "multiclass":
            require_two_classes(name, self.classes)

    def read(self, index: int) -> bytes:
        """Return the bytes of the file.

        Raises:
            ImageError: the file is gone, is a folder, or may not be read.
        """
        return read_file(self._folder / self._files[index])


class _Sheet(NamedTuple):
    table: Table
    rows: Rows
    texts: list[str]
    found: Found


def _open_tables(path: Path, tables: Sequence[Path] | None) -> tuple[Path, list[Table]]:
    """Return the folder that paths are shown relative to, and the tables."""
    root = path.absolute()
    if root.is_file():
        return root.parent, [open_table(root)]
    tables = find_manifests(root) if tables is None else tables
    if not tables:
        raise DataError(f"{path}: expected a table of images, such as metadata.csv, found none.")
    return root, [open_table(table.absolute()) for table in tables]


def _read_sheet(table: Table, columns: Columns, separator: str, task: str, root: Path) -> _Sheet:
    data = read_columns(table, [columns.image, *columns.without_image()])
    cells = plain(data.column(columns.image))
    try:
        texts = [text or "" for text in cells.cast(pa.large_string()).to_pylist()]
    except pa.ArrowException as error:
        raise DataError(
            f"{table.path}: the column '{columns.image}' must hold the paths of images, found {cells.type}."
        ) from error
    if empty := [row for row, text in enumerate(texts) if not text.strip()]:
        raise DataError(
            f"{table.path}, {rows_named(table.first_row, empty)}: '{columns.image}' is empty; every row needs an image."
        )
    rows = understand_cells(table, data, columns, separator, task)
    return _Sheet(table, rows, texts, find_files(texts, table.path.parent, root))


def _require_any(sheets: Sequence[_Sheet], root: Path) -> None:
    """Refuse tables in which nothing can be read; the first row shows how its path was understood."""
    where = ", ".join(str(sheet.table.path) for sheet in sheets[:3])
    texts = [text for sheet in sheets for text in sheet.texts]
    if not texts:
        raise UnrelatedTableError(f"{where}: expected images, found no rows.")
    if any(there for sheet in sheets for there in sheet.found.is_there):
        return
    if "://" in texts[0] and not texts[0].startswith("file:"):
        raise UnrelatedTableError(
            f"{where}: its images are addresses, such as {texts[0]}, which are not fetched. Download the images, and "
            "write the paths of the files instead."
        )
    raise UnrelatedTableError(
        f"{where}: none of its {len(texts):,} files is there. '{texts[0]}' was looked for as "
        f"{root / sheets[0].found.files[0]}. Paths are relative to the folder of the table, or absolute."
    )


def _join(sheets: Sequence[_Sheet], files: Sequence[str], name: str, root: Path) -> Rows:
    rows = join_rows([sheet.rows for sheet in sheets], name)
    if rows.parts is not None:
        return rows
    names = [sheet.table.path.relative_to(root).as_posix() for sheet in sheets]
    parts = parts_of_shards(names)
    # A table that the user named alone is no part of anything, whatever it is called.
    if any(parts.values()) and names != [name]:
        lengths = [len(sheet.texts) for sheet in sheets]
        told = [parts[table] for table, length in zip(names, lengths, strict=True) for _ in range(length)]
        return replace(rows, parts=told)
    in_paths = _parts_in_paths(files)
    note = "the table names no parts; they were told by the folders of the files."
    return replace(rows, parts=in_paths, notes=[*rows.notes, note]) if in_paths else rows


def _parts_in_paths(files: Sequence[str]) -> list[str] | None:
    """Return the part that the folders of each file say, where all files lie in folders that say one, and train is."""
    folders = [file.rpartition("/")[0] for file in files]
    parts = parts_of({name for folder in set(folders) for name in folder.split("/")})
    told = {folder: next(filter(None, map(parts.get, folder.split("/"))), "") for folder in set(folders)}
    return [told[folder] for folder in folders] if "train" in told.values() and all(told.values()) else None


def _row_names(sheets: Sequence[_Sheet]) -> Callable[[int], str]:
    ends = np.cumsum([len(sheet.texts) for sheet in sheets])

    def name(row: int) -> str:
        number = int(np.searchsorted(ends, row, side="right"))
        table, start = sheets[number].table, int(ends[number - 1]) if number else 0
        return f"{table.path}, row {row - start + table.first_row:,}"

    return name


def _missing(files: Sequence[str], is_there: np.ndarray) -> list[str]:
    rows = np.flatnonzero(~is_there)
    if not len(rows):
        return []
    shown = ", ".join(to_text(str(files[row])) for row in rows[:_NUM_SHOWN]) + (
        ", ..." if len(rows) > _NUM_SHOWN else ""
    )
    return [f"files that are not there, and so cannot be read: {len(rows):,} of {len(files):,}: {shown}."]
