"""The formats of shards: what they are called, what a row of them holds, and what writes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from tellapart.data.sources import Source


@dataclass(frozen=True)
class Layout:
    """What every row of a data set has beside its image."""

    task: str
    classes: tuple[str, ...]
    num_outputs: int
    has_groups: bool
    has_times: bool

    @classmethod
    def of(cls, source: Source) -> Layout:
        """Return the layout of a source."""
        return cls(source.task, source.classes, source.num_outputs, source.groups is not None, source.times is not None)


class Row(NamedTuple):
    """One sample: its number in the source, its image as stored, and what the source knows of it."""

    number: int
    data: bytes
    ending: str
    path: str
    target: np.ndarray | np.int64
    group: str
    time: str


class ShardWriter(Protocol):
    """Writes rows to one open file."""

    def add(self, row: Row) -> None:
        """Write, or keep for writing, one row."""

    def close(self) -> None:
        """Write what is left and the end of the file; the file itself stays open."""


class Format(NamedTuple):
    """A kind of shard: how one is named, what a row costs beside the image, and what writes it."""

    file: Callable[[str, int, int], str]
    overhead_bytes: int
    open: Callable[[BinaryIO, Layout], ShardWriter]


def parquet_file(part: str, number: int, count: int) -> str:
    """Return a shard's name as Hugging Face `datasets` writes it.

    >>> parquet_file("train", 0, 12)
    'train-00000-of-00012.parquet'
    """
    return f"{part or 'data'}-{number:05d}-of-{count:05d}.parquet"


def tar_file(part: str, number: int, count: int) -> str:
    """Return a shard's name as `{00000..00011}` addresses it.

    >>> tar_file("", 3, 12)
    'data-00003.tar'
    """
    return f"{part or 'data'}-{number:05d}.tar"


def _open_parquet(file: BinaryIO, layout: Layout) -> ShardWriter:
    from tellapart.data.packing.parquet import ParquetShard

    return ParquetShard(file, layout)


def _open_tar(file: BinaryIO, layout: Layout) -> ShardWriter:
    from tellapart.data.packing.webdataset import TarShard

    return TarShard(file, layout)


# A tar member costs a header of 512 bytes and is filled up to 512; a sample has two members, the second one small.
FORMATS = {
    "parquet": Format(parquet_file, 100, _open_parquet),
    "webdataset": Format(tar_file, 512 + 256 + 1024, _open_tar),
}
