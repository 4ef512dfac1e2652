"""The bytes of images in Parquet files, read a row group at a time and only as many of them kept as fit a bound."""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tellapart.errors import DataError

# Data of fewer bytes are read once and held; the figure depends on the data alone, so that `blocks`, and with it the
# order of an epoch, is the same on every machine.
HOLD_BYTES = 2**31
# What each process keeps of larger data.
KEEP_BYTES = 2**28
_alive: weakref.WeakSet[RowGroups] = weakref.WeakSet()


class RowGroups:
    """One binary column of several Parquet files, by row. Safe from threads, after a fork and after pickling.

    Args:
        files: the files, in order.
        column: a column of bytes, or a struct with a field `bytes`.

    Attributes:
        num_bytes, largest_bytes: what all of the column, and the largest row group of it, take decompressed.
        lengths: int64, the number of rows of each row group.
        num_null: how many rows have no bytes, or None where the files do not say.
        is_held: whether all of it is kept in memory.
        num_kept_bytes: what is kept in this process now.

    Raises:
        DataError: a file cannot be read.
    """

    def __init__(self, files: Sequence[Path], column: str) -> None:
        self._files, self._column = list(files), column
        self._metadata: list[pq.FileMetaData | None] = [None] * len(files)
        self._places: list[tuple[int, int]] = []
        lengths, sizes, nulls = [], [], []
        for number in range(len(files)):
            metadata = self._open_metadata(number)
            leaf = _leaf(metadata, column)
            for group in range(metadata.num_row_groups):
                chunk = metadata.row_group(group).column(leaf)
                self._places.append((number, group))
                lengths.append(chunk.num_values)
                sizes.append(chunk.total_uncompressed_size)
                is_known = chunk.is_stats_set and chunk.statistics.has_null_count
                nulls.append(chunk.statistics.null_count if is_known else None)
        self.lengths = np.array(lengths, dtype=np.int64)
        self.num_bytes, self.largest_bytes = sum(sizes), max(sizes, default=0)
        self.num_null = None if None in nulls else sum(nulls)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])[:-1].tolist()
        self.is_held = self.num_bytes <= HOLD_BYTES
        self._begin()

    def hold(self) -> None:
        """Read all of it, so that processes forked later share the memory.

        Raises:
            DataError: a file is damaged.
        """
        for group in range(len(self._places)):
            try:
                self._group(group)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.file_of(group)}: cannot be read as Parquet: {error}") from error

    def file_of(self, group: int) -> Path:
        """Return the file that a row group lies in."""
        return self._files[self._places[group][0]]

    def place(self, row: int) -> tuple[int, int]:
        """Return (row group, row in it)."""
        group = bisect_right(self._starts, row) - 1
        return group, row - self._starts[group]

    def read(self, row: int) -> bytes | None:
        """Return the bytes in a row, or None where it has none.

        Raises:
            ArrowException, OSError: the file is damaged or gone.
        """
        group, within = self.place(row)
        return self._group(group)[within].as_py()

    def _group(self, group: int) -> pa.ChunkedArray:
        """Return a row group from memory, or read it: once, also where several threads ask for it at the same time."""
        with self._lock:
            future = self._kept.get(group)
            is_mine = future is None
            if future is None:
                future = self._kept[group] = Future()
            self._kept.move_to_end(group)
        if not is_mine:
            return future.result()
        try:
            cells = self._load(group)
        except BaseException as error:
            with self._lock:
                self._kept.pop(group, None)
            future.set_exception(error)
            raise
        future.set_result(cells)
        with self._lock:
            self.num_kept_bytes += cells.nbytes
            self._let_go()
        return cells

    def _let_go(self) -> None:
        """Forget the row groups that were used longest ago, but never the last one."""
        while not self.is_held and self.num_kept_bytes > KEEP_BYTES and len(self._kept) > 1:
            oldest = next((group for group, future in self._kept.items() if future.done()), None)
            if oldest is None:
                return
            self.num_kept_bytes -= self._kept.pop(oldest).result().nbytes

    def _load(self, group: int) -> pa.ChunkedArray:
        number, within = self._places[group]
        with pq.ParquetFile(
            self._files[number],
            metadata=self._open_metadata(number),
            memory_map=True,
            page_checksum_verification=True,
        ) as file:
            is_struct = pa.types.is_struct(file.schema_arrow.field(self._column).type)
            leaf = f"{self._column}.bytes" if is_struct else self._column
            table = file.read_row_group(within, columns=[leaf], use_threads=False)
        column = table.column(0)
        # Flattening gives null bytes where the struct itself is null.
        return column.flatten()[0] if is_struct else column

    def _open_metadata(self, number: int) -> pq.FileMetaData:
        metadata = self._metadata[number]
        if metadata is None:
            try:
                metadata = self._metadata[number] = pq.read_metadata(self._files[number], memory_map=True)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self._files[number]}: cannot be read as Parquet: {error}") from error
        return metadata

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Future[pa.ChunkedArray]] = OrderedDict()
        self.num_kept_bytes = 0
        _alive.add(self)

    def after_fork(self) -> None:
        """Go on in a forked process: what is in memory stays, but no thread is there to finish or to release."""
        self._lock = threading.Lock()
        self._kept = OrderedDict((group, future) for group, future in self._kept.items() if future.done())

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_metadata": [None] * len(self._files)}
        for name in ("_lock", "_kept", "num_kept_bytes"):
            del state[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()


def _leaf(metadata: pq.FileMetaData, column: str) -> int:
    """Return the number of the leaf that holds the bytes."""
    paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    return paths.index(f"{column}.bytes" if f"{column}.bytes" in paths and column not in paths else column)


def _renew_after_fork() -> None:
    for groups in _alive:
        groups.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)
