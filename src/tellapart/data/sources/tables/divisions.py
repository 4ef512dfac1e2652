"""Cells that divide the samples: parts, groups and times."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pyarrow as pa

from tellapart.data.sources.parts import parts_of
from tellapart.data.sources.tables.table import Table, plain, rows_named, trimmed
from tellapart.errors import DataError


def group_cells(table: Table, data: pa.Table, name: str) -> list[str]:
    """Return the cells of any column as texts without blanks around them, "" for null.

    Raises:
        DataError: the column holds lists or the like.
    """
    try:
        text = plain(data.column(name)).cast(pa.large_string())
    except pa.ArrowException as error:
        kind = data.schema.field(name).type
        raise DataError(f"{table.path}: the column '{name}' must hold strings or numbers, found {kind}.") from error
    return [cell or "" for cell in trimmed(text).to_pylist()]


def part_cells(table: Table, data: pa.Table, name: str) -> list[str]:
    """Return the part that each cell says, "" where it is empty.

    Raises:
        DataError: a cell says something else.
    """
    cells = group_cells(table, data, name)
    parts = parts_of(dict.fromkeys(cells))
    strange = [cell for cell, part in parts.items() if part is None and cell]
    if strange:
        rows = [row for row, cell in enumerate(cells) if cell == strange[0]]
        raise DataError(
            f"{table.path}, {rows_named(table.first_row, rows)}: '{name}' is '{strange[0]}', expected train, val, test "
            "(or validation, dev, eval, ...), or nothing."
        )
    return [parts[cell] or "" for cell in cells]


def time_cells(table: Table, data: pa.Table, name: str) -> list[str]:
    """Return texts whose order is that of time, all of one form: ISO 8601 in UTC, or numbers of as many digits.

    Raises:
        DataError: a cell is neither a date nor a whole number.
    """
    cells = group_cells(table, data, name)
    known = {cell for cell in cells if cell}
    if all(cell.isascii() and cell.isdigit() for cell in known):
        width = max(map(len, known), default=0)
        return [cell.zfill(width) if cell else "" for cell in cells]
    forms = {cell: _iso(cell) for cell in known}
    wrong = next((cell for cell in cells if cell and forms[cell] is None), None)
    if wrong is not None:
        raise DataError(
            f"{table.path}, row {cells.index(wrong) + table.first_row:,}: '{name}' is '{wrong}', which cannot be put "
            "in order of time. Write times as 2024-03-31 or 2024-03-31 18:05, or as whole numbers."
        )
    return [forms[cell] or "" if cell else "" for cell in cells]


def _iso(text: str) -> str | None:
    # 2024:03:31 is how cameras write a date (Exif 2.32, tag DateTime), 2024/03/31 how people do.
    text = re.sub(r"^(\d{4})[:/.](\d{1,2})[:/.](\d{1,2})", lambda m: f"{m[1]}-{m[2]:0>2}-{m[3]:0>2}", text)
    try:
        time = datetime.fromisoformat(text)
        time = time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError):
        return None
    return time.isoformat(timespec="microseconds")
