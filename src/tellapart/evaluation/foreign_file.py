"""The cells of a table that somebody else wrote, as CSV, TSV or Parquet."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.errors import RunError


@dataclass(frozen=True)
class ForeignTable:
    """Columns by name, as they are in the file.

    `first_row` is the number that a person gives to the first row below the header.

    Raises:
        RunError: from what reads one, where the file cannot be read as a table.
    """

    path: Path
    columns: dict[str, Sequence[Any]]
    num_rows: int
    first_row: int
    has_decimal_commas: bool = False

    def row(self, place: int) -> int:
        """Return the number that a person finds the row by."""
        return place + self.first_row

    def fail(self, problem: str) -> RunError:
        """Return the error that says what is wrong in this file."""
        return RunError(f"{self.path}: {problem}")


def is_ours(path: Path) -> bool:
    """Return whether a Parquet file is a table of predictions that Tellapart wrote.

    Raises:
        RunError: it cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            return b"tellapart.predictions" in (file.schema_arrow.metadata or {})
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as a Parquet file: {error}.") from None


def read_parquet(path: Path) -> ForeignTable:
    """Return the columns of a Parquet file; see `ForeignTable`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as a Parquet file: {error}.") from None
    names = [str(name) for name in table.column_names]
    _require_each_once(path, names)
    columns = {name: table.column(k).to_pylist() for k, name in enumerate(names)}
    return ForeignTable(path, columns, table.num_rows, first_row=1)


def read_text(path: Path) -> ForeignTable:
    """Return the columns of a CSV or TSV file, every cell as text; see `ForeignTable`."""
    try:
        # With a byte order mark, as spreadsheets write it.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read as text in UTF-8: {error}.") from None
    header = text.split("\n", 1)[0]
    delimiter = "\t"
    if path.suffix.lower() == ".csv":
        delimiter = max(",;\t", key=header.count)
    try:
        rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise RunError(f"{path}: cannot be read as a table: {error}.") from None
    if not rows:
        raise RunError(f"{path}: expected a header and a row an image, found an empty file.")
    names = [name.strip() for name in rows[0]]
    _require_each_once(path, names)
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(names):
            raise RunError(f"{path}: row {number}: expected {len(names)} cells, as in the header, found {len(row)}.")
    cells = list(zip(*rows[1:], strict=True)) or [()] * len(names)
    return ForeignTable(
        path, dict(zip(names, cells, strict=True)), len(rows) - 1, 2, has_decimal_commas=delimiter == ";"
    )


def _require_each_once(path: Path, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise RunError(f"{path}: expected every column once, found '{repeated[0]}' more than once. Rename one of them.")


def number(value: Any, has_decimal_commas: bool) -> float:
    """Return the number in a cell; a ValueError or TypeError where it holds none."""
    return float(value.replace(",", ".") if isinstance(value, str) and has_decimal_commas else value)


def listed(names: Any, most: int = 12) -> str:
    """Return names in a row, those after the first `most` counted."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
