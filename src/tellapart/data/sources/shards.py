"""Which files of one ending make up a data set, and which part of it each one holds."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from tellapart.data.sources.base import part_of
from tellapart.data.sources.parts import parts_of
from tellapart.data.sources.tree import ENDINGS, ending
from tellapart.errors import DataError

_MAX_DEPTH = 2
_ORDER = {"train": 0, "": 1, "val": 2, "test": 3}


def find_shards(path: Path) -> tuple[Path, list[str]]:
    """Return (folder, the Parquet files relative to it), train before val before test.

    Of a folder, the files of the uppermost level that has any are taken, down to two levels below it.

    Raises:
        DataError: there are none.
    """
    if path.is_file():
        return path.absolute().parent, [path.name]
    files = files_below(path, ".parquet")
    if not files:
        raise DataError(f"{path}: expected .parquet files, found none.")
    parts = parts_of_shards(files)
    return path.absolute(), sorted(files, key=lambda file: (_ORDER[parts[file]], file))


def holds_shards(folder: Path) -> bool:
    """Return whether a folder is a data set in Parquet files rather than a folder of images."""
    try:
        return bool(files_below(folder, ".parquet"))
    except OSError:  # whoever reads the folder next says what is wrong with it
        return False


def files_below(root: Path, kind: str) -> list[str]:
    """List the files of an ending on the uppermost level that has any; below the folder itself, images rule them out.

    Raises:
        OSError: a folder cannot be listed.
    """
    level = [""]
    for depth in range(_MAX_DEPTH + 1):
        files, below = [], []
        for folder in level:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.startswith("."):
                        continue
                    if ending(path) == kind and entry.is_file():
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
    return part_of(_word_of_shard(file)) or ""


def parts_of_shards(files: Sequence[str]) -> dict[str, str]:
    """Return the part of each shard, with all the names in view, as `parts_of` does.

    >>> parts_of_shards(["train-0.tar", "valid-0.tar", "eval-0.tar"])
    {'train-0.tar': 'train', 'valid-0.tar': 'val', 'eval-0.tar': 'test'}
    """
    words = {file: _word_of_shard(file) for file in files}
    parts = parts_of(words.values())
    return {file: parts[word] or "" for file, word in words.items()}


def _word_of_shard(file: str) -> str:
    """Return the word of a shard's name that says its part, or ""."""
    *folders, name = file.split("/")
    for text in (name.rpartition(".")[0] or name, *reversed(folders)):
        for word in re.split(r"[^a-zA-Z0-9]+", text):
            if part_of(word):
                return word
    return ""
