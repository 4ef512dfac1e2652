"""Files of rows, opened the same way whether CSV, TSV, JSON Lines or Parquet: what columns they have, and the cells."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from tellapart.data.sources.tree import ENDINGS, ending
from tellapart.errors import DataError

_NUM_SAMPLED, _NUM_SHOWN = 1000, 5
_DELIMITERS = ",;\t|"
# The longest row that pyarrow reads.
_BLOCK_BYTES = 2**24


@dataclass(frozen=True)
class Table:
    """One file of rows.

    Attributes:
        path: the file.
        schema: its columns; every one a string where the file holds only text.
        first_row: the number of its first row in messages: 2 where a line of names comes first, as a spreadsheet
            counts, 1 in JSON Lines, 0 in Parquet.
        is_text: whether cells are text that may stand for numbers.
        notes: sentences for the user about how it was read.
        read: the columns of these names, all rows.
        read_sample: the first rows, without columns of bytes.
    """

    path: Path
    schema: pa.Schema
    first_row: int
    is_text: bool
    notes: list[str]
    read: Callable[[Sequence[str]], pa.Table]
    read_sample: Callable[[], pa.Table]

    @cached_property
    def sample(self) -> pa.Table:
        """The first rows, for guessing what the columns hold; columns of bytes or lists may be left out."""
        with _errors_of(self.path):
            return self.read_sample()


def open_table(path: Path) -> Table:
    """Open a file of rows by its ending.

    Raises:
        DataError: the file cannot be read, has no line of names, or two columns of one name.
    """
    with _errors_of(path):
        table = _OPENERS[ending(path.name)](path)
    names = table.schema.names
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"{path}: two columns are called '{doubled}'. Give each column a name of its own.")
    return table


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Name the file, and what it was read as, in whatever goes wrong."""
    try:
        yield
    except (pa.ArrowException, UnicodeError, OSError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read as {_KINDS[ending(path.name)]}: {reason}") from error


def rows_named(first: int, rows: Sequence[int] | np.ndarray) -> str:
    """Return the numbers of some rows for a message, counted from `first`: a few of them, and how many there are."""
    shown = ", ".join(f"{row + first:,}" for row in rows[:_NUM_SHOWN])
    if len(rows) == 1:
        return f"row {shown}"
    return f"rows {shown}" + (f", ... ({len(rows):,} in all)" if len(rows) > _NUM_SHOWN else "")


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without dictionary encoding, views or lists of a fixed length."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return column.cast(pa.list_(kind.value_type))
    return column.cast(pa.large_string()) if pa.types.is_string_view(kind) else column


def trimmed(column: pa.ChunkedArray | pa.Array) -> Any:
    """Return a column of strings without the blanks around them."""
    return pc.call_function("utf8_trim_whitespace", [column])


def text_lengths(column: pa.ChunkedArray | pa.Array) -> Any:
    """Return how many letters the strings of a column have."""
    return pc.call_function("utf8_length", [column])


def as_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of numbers without nulls, or of booleans, as an array.

    pyarrow's own `to_numpy` imports pandas where that is installed, which takes longer than reading most tables.
    """
    column = column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    arrays = [np.from_dlpack(chunk) for chunk in chunks if len(chunk)]
    return np.concatenate(arrays) if arrays else np.zeros(0, column.type.to_pandas_dtype())


def _open_parquet(path: Path) -> Table:
    def read(names: Sequence[str]) -> pa.Table:
        with (
            _errors_of(path),
            pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file,
        ):
            return file.read(columns=list(names))

    def read_sample() -> pa.Table:
        names = [field.name for field in schema if not _is_heavy(field.type)]
        with pq.ParquetFile(path, memory_map=True) as file:
            batch = next(file.iter_batches(_NUM_SAMPLED, columns=names, use_threads=False), None) if names else None
        return schema.empty_table().select(names) if batch is None else pa.Table.from_batches([batch])

    schema = pq.read_schema(path, memory_map=True)
    return Table(path, schema, 0, False, [], read, read_sample)


def _is_heavy(kind: pa.DataType) -> bool:
    """Return whether a column may hold images, or numbers by the thousand."""
    if pa.types.is_struct(kind):
        return any(_is_heavy(kind.field(place).type) for place in range(kind.num_fields))
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return is_bytes or pa.types.is_nested(kind)


def _open_json(path: Path) -> Table:
    raw = path.read_bytes()
    if raw.lstrip(codecs.BOM_UTF8 + b" \t\r\n")[:1] == b"[":
        raise DataError(
            f"{path}: is one JSON list. Expected JSON Lines: an object {{...}} a line, and no list around them."
        )
    if not _is_utf8(raw):
        raise DataError(f"{path}: is not UTF-8, which JSON has to be. Save it as UTF-8.")
    table = pajson.read_json(pa.py_buffer(raw), pajson.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES))
    return Table(
        path, table.schema, 1, False, [], lambda names: table.select(list(names)), lambda: table.slice(0, _NUM_SAMPLED)
    )


def _open_csv(path: Path) -> Table:
    raw = path.read_bytes()
    encoding, notes = _encoding(raw)
    head = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)("replace")
    lines = io.StringIO(head.decode(raw[:_BLOCK_BYTES]), newline="")
    delimiter = "\t" if ending(path.name) == ".tsv" else _delimiter(lines)
    names = [name.strip() for name in next((row for row in csv.reader(lines, delimiter=delimiter) if row), [])]
    _check_header(path, names)
    # The line of names is read as a row and dropped: so both readers agree on where it ends, and names may be odd.
    keys = [str(place) for place in range(len(names))]
    options = {
        "parse_options": pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        "read_options": pacsv.ReadOptions(
            use_threads=False, column_names=keys, encoding=encoding, block_size=_BLOCK_BYTES
        ),
    }

    def convert(places: Sequence[int]) -> pacsv.ConvertOptions:
        # Text stays text: whether "007", "NA" or "1.0" is a number or a name is decided with all cells in view.
        return pacsv.ConvertOptions(
            include_columns=[keys[place] for place in places],
            column_types=dict.fromkeys(keys, pa.string()),
            strings_can_be_null=False,
        )

    def read(wanted: Sequence[str]) -> pa.Table:
        places = [names.index(name) for name in wanted]
        with _errors_of(path):
            table = pacsv.read_csv(pa.py_buffer(raw), convert_options=convert(places), **options)
        _require_closed_quotes(path, raw, table)
        return table.slice(1).rename_columns(list(wanted))

    def read_sample() -> pa.Table:
        with pacsv.open_csv(pa.py_buffer(raw), convert_options=convert(range(len(names))), **options) as reader:
            return pa.Table.from_batches([reader.read_next_batch()]).slice(1, _NUM_SAMPLED).rename_columns(names)

    schema = pa.schema([pa.field(name, pa.string()) for name in names])
    return Table(path, schema, 2, True, notes, read, read_sample)


def _encoding(raw: bytes) -> tuple[str, list[str]]:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", []
    if _is_utf8(raw):
        return "utf-8", []
    try:
        raw.decode("cp1252")
        encoding = "cp1252"
    except UnicodeError:
        encoding = "latin-1"
    return encoding, [f"the table is not UTF-8; it was read as {encoding}. If accents look wrong, save it as UTF-8."]


def _is_utf8(raw: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(raw), _BLOCK_BYTES):
            decoder.decode(raw[start : start + _BLOCK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeError:
        return False
    return True


def _delimiter(lines: io.StringIO) -> str:
    """Return the sign that the line of names holds most often; a comma where it holds none."""
    first = next((line for line in lines if line.strip()), "")
    lines.seek(0)
    return max(_DELIMITERS, key=lambda sign: (first.count(sign), -_DELIMITERS.index(sign)))


def _check_header(path: Path, names: list[str]) -> None:
    if not names:
        raise DataError(f"{path}: is empty. Expected a line of column names, then a line an image.")
    for name in names:
        if ending(name) in ENDINGS or ("/" in name and (path.parent / name).is_file()):
            raise DataError(
                f"{path}: its first line is data, not names: it has '{name}'. Add a first line that names the columns, "
                "such as file_name,label."
            )
    if len(names) == 1:
        raise DataError(
            f"{path}: has one column, '{names[0]}'. Expected a column of image files and one of labels, divided by "
            "commas, semicolons or tabs."
        )


def _require_closed_quotes(path: Path, raw: bytes, table: pa.Table) -> None:
    """Refuse a file whose last quote is never closed: all that follows it would be one cell."""
    if raw.count(b'"') % 2 == 0 or not len(table):
        return
    for column in table.columns:
        if "\n" in column[-1].as_py():
            row = len(table)
            raise DataError(f'{path}, row {row}: a quote (") is opened and never closed. Close it or take it out.')


_OPENERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _open_csv,
    ".tsv": _open_csv,
    ".jsonl": _open_json,
    ".ndjson": _open_json,
    ".parquet": _open_parquet,
}
_KINDS = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSON Lines", ".ndjson": "JSON Lines", ".parquet": "Parquet"}
