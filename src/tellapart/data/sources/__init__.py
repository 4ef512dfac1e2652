"""Sources: where labelled images come from. One file a kind; `open_source` finds the one that fits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tellapart.data.sources.arrays import ArraySource, open_npz
from tellapart.data.sources.base import InMemorySource, Source
from tellapart.data.sources.cifar import open_cifar10, open_cifar100
from tellapart.data.sources.dataset import DatasetSource
from tellapart.data.sources.digits import open_digits
from tellapart.data.sources.folder import FolderSource
from tellapart.data.sources.mnist import open_fashion_mnist, open_mnist
from tellapart.data.sources.shards import holds_shards
from tellapart.data.sources.tasks import TASKS, change_task
from tellapart.errors import ConfigError, DataError, nearest, unknown_name

__all__ = [
    "DATASETS",
    "SOURCES",
    "TASKS",
    "ArraySource",
    "DatasetSource",
    "FolderSource",
    "InMemorySource",
    "Source",
    "change_task",
    "open_source",
]

# Name to the function that opens it, given the folder for downloaded data.
SOURCES: dict[str, Callable[[str], Source]] = {
    "cifar10": open_cifar10,
    "cifar100": open_cifar100,
    "digits": open_digits,
    "fashion-mnist": open_fashion_mnist,
    "mnist": open_mnist,
}

DATASETS: dict[str, str] = {
    "cifar10": "60,000 colour photographs, 32 x 32, 10 classes of animals and vehicles; downloaded (170 MB)",
    "cifar100": "60,000 colour photographs, 32 x 32, 100 classes; downloaded (169 MB)",
    "digits": "1,797 grey handwritten digits, 8 x 8, 10 classes; comes with scikit-learn, no download",
    "fashion-mnist": "70,000 grey pictures of clothes, 28 x 28, 10 classes; downloaded (31 MB)",
    "mnist": "70,000 grey handwritten digits, 28 x 28, 10 classes; downloaded (12 MB)",
}

_TODAY = "a folder of images (one folder a class), a .parquet file or a folder of them, an .npz file, a known name"
_LATER = (".csv", ".tsv", ".jsonl", ".json", ".tar", ".tar.gz", ".tgz", ".zip")


def open_source(data: Any, *, data_dir: str = "", task: str = "auto") -> Source:
    """Return the source for what the user named.

    Args:
        data: a key of `SOURCES`; a path to a folder of images, a `.parquet` file, a folder of those, or an `.npz`
            file; a pair (images, targets) of arrays; a torch Dataset; or a source, which is returned itself. A known
            name wins over a folder of the same name, which `./name` still reaches.
        data_dir: where downloaded data sets lie or go; "" for `~/.cache/tellapart/data`.
        task: "auto" for what the labels say, or a key of `TASKS`.

    Raises:
        DataError: nothing of that name, or it cannot be read.
        MissingError: the data set must be downloaded and cannot be.
        ConfigError: no such task, or the labels do not allow it.
    """
    if task != "auto" and task not in TASKS:
        raise ConfigError([unknown_name("task", task, ["auto", *TASKS])])
    if isinstance(data, tuple) and len(data) == 2:
        return ArraySource(*data, task=task)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str | list | tuple | dict):
        return DatasetSource(data, task)
    source = data if isinstance(data, Source) else _open_named(data, data_dir, task)
    change_task(source, task)
    return source


def _open_named(data: Any, data_dir: str, task: str) -> Source:
    if not isinstance(data, str | Path) or not str(data):
        raise DataError(f"expected {_TODAY}, or a pair (images, targets), found {data!r:.80}.")
    text = str(data)
    if isinstance(data, str) and text in SOURCES:
        source = SOURCES[text](data_dir)
        if Path(text).exists():
            source.notes.append(f"'{text}' was taken as the known data set; for the folder of that name write ./{text}")
        return source
    path = Path(text).expanduser()
    if path.is_dir():
        return _open_folder(path)
    if "://" in text or text.lower().endswith(_LATER):
        raise DataError(f"{text}: this kind of source is not read yet. Today: {_TODAY}.")
    if path.is_file():
        return _open_file(path, task)
    raise DataError(_not_found(text, path.absolute()))


def _open_folder(path: Path) -> Source:
    # pyarrow is imported where Parquet is read, not for every folder and name.
    if holds_shards(path):
        from tellapart.data.sources.parquet import ParquetSource

        return ParquetSource(path)
    return FolderSource(path)


def _open_file(path: Path, task: str) -> Source:
    if path.suffix.lower() == ".parquet":
        from tellapart.data.sources.parquet import ParquetSource

        return ParquetSource(path)
    if path.suffix.lower() == ".npz":
        return open_npz(path, task)
    raise DataError(f"{path}: is a file of a kind that is no source of labelled images. Expected {_TODAY}.")


def _not_found(text: str, path: Path) -> str:
    if not any(mark in text for mark in (os.sep, "/", "~", ".")):
        return f"{unknown_name('data set', text, SOURCES)}. A folder or file of that name is not here either."
    parent, lacking = path.parent, path.name
    while not parent.is_dir():
        parent, lacking = parent.parent, parent.name
    guess = nearest(lacking, [entry.name for entry in parent.iterdir()])
    hint = f" Did you mean {parent / guess}?" if guess else ""
    return f"{text}: there is no such file or folder ({parent} has no '{lacking}').{hint}"
