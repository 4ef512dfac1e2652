"""Which Parquet files make up a data set, and which part of it each one holds."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tellapart.data.sources.base import part_of
from tellapart.data.sources.tree import ENDINGS, ending
from tellapart.errors import DataError

_MAX_DEPTH = 2


def find_shards(path: Path) -> tuple[Path, list[str]]:
    """Return (folder, the Parquet files relative to it), train before val before test.

    Of a folder, the files of the uppermost level that has any are taken, down to two levels below it.

    Raises:
        DataError: there are none.
    """
    if path.is_file():
        return path.absolute().parent, [path.name]
    files = _shards_below(path)
    if not files:
        raise DataError(f"{path}: expected .parquet files, found none.")
    order = {"train": 0, "": 1, "val": 2, "test": 3}
    return path.absolute(), sorted(files, key=lambda file: (order[part_of_shard(file)], file))


def holds_shards(folder: Path) -> bool:
    """Return whether a folder is a data set in Parquet files rather than a folder of images."""
    try:
        return bool(_shards_below(folder))
    except OSError:  # whoever reads the folder next says what is wrong with it
        return False


def _shards_below(root: Path) -> list[str]:
    """List the Parquet files of the uppermost level; below the folder itself, images rule them out."""
    level = [""]
    for depth in range(_MAX_DEPTH + 1):
        files, below = [], []
        for folder in level:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith("."):
                        continue
                    if ending(path) == ".parquet" and entry.is_file():
                        files.append(path)
                    elif ending(path) in ENDINGS and depth > 0:
                        return []
                    elif entry.is_dir() and not entry.is_symlink():
                        below.append(path)
        if files:
            return files
        level = below
    return []


def part_of_shard(file: str) -> str:
    """Return the part that a shard's name says, or "": the file's own name first, then its folders', from the last.

    >>> part_of_shard("data/train-00000-of-00002.parquet"), part_of_shard("test/0.parquet")
    ('train', 'test')
    """
    *folders, name = file.split("/")
    for text in (name.removesuffix(".parquet"), *reversed(folders)):
        for word in re.split(r"[^a-zA-Z0-9]+", text):
            if part := part_of(word):
                return part
    return ""
