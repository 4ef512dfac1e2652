"""Sources: where labelled images come from. One file a kind; `open_source` finds the one that fits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tellapart.data.sources.arrays import ArraySource, open_npz
from tellapart.data.sources.base import ColumnNames, InMemorySource, Source
from tellapart.data.sources.cifar import open_cifar10, open_cifar100
from tellapart.data.sources.dataset import DatasetSource
from tellapart.data.sources.digits import open_digits
from tellapart.data.sources.folder import FolderSource
from tellapart.data.sources.found import find_manifests, holds_tars, names_shards
from tellapart.data.sources.mnist import open_fashion_mnist, open_mnist
from tellapart.data.sources.shards import holds_shards
from tellapart.data.sources.tasks import TASKS, change_task
from tellapart.data.sources.tree import walk
from tellapart.errors import ConfigError, DataError, nearest, unknown_name

__all__ = [
    "DATASETS",
    "SOURCES",
    "TASKS",
    "ArraySource",
    "ColumnNames",
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

_KNOWN = (
    "a folder of images (one folder a class), a manifest (.csv, .tsv, .jsonl, .parquet), .parquet files or .tar shards "
    "or a folder of them, an .npz file, hf://OWNER/NAME, a known name"
)
_MANIFESTS = (".csv", ".tsv", ".jsonl", ".ndjson")
_PACKED = (".zip", ".tar.gz", ".tgz", ".7z", ".rar")


def open_source(data: Any, *, data_dir: str = "", task: str = "auto", columns: ColumnNames | None = None) -> Source:
    """Return the source for what the user named.

    Args:
        data: a key of `SOURCES`; a path to a folder of images, a manifest (`.csv`, `.tsv`, `.jsonl`, `.parquet`), a
            `.parquet` or `.tar` file or a folder of those, several tar shards such as `s{0000..0127}.tar` (local or
            any address that fsspec knows), an `.npz` file; `hf://owner/name`; a pair (images, targets) of arrays; a
            torch Dataset; or a source, which is returned itself. A known name wins over a folder of the same name,
            which `./name` still reaches.
        data_dir: where downloaded data sets lie or go; "" for `~/.cache/tellapart/data`.
        task: "auto" for what the labels say, or a key of `TASKS`.
        columns: which columns of a manifest or Parquet file to read.

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
    source = data if isinstance(data, Source) else _open_named(data, data_dir, task, columns or ColumnNames())
    change_task(source, task)
    return source


def _open_named(data: Any, data_dir: str, task: str, columns: ColumnNames) -> Source:
    if not isinstance(data, str | Path) or not str(data):
        raise DataError(f"expected {_KNOWN}, or a pair (images, targets), found {data!r:.80}.")
    text = str(data)
    if isinstance(data, str) and text in SOURCES:
        source = _without_columns(SOURCES[text](data_dir), columns)
        if Path(text).exists():
            source.notes.append(f"'{text}' was taken as the known data set; for the folder of that name write ./{text}")
        return source
    if text.startswith("hf://"):
        from tellapart.data.sources.hub import open_hub

        return open_hub(text, data_dir, task, columns)
    path = Path(text).expanduser()
    if not path.exists() and (names_shards(text) or "://" in text):
        from tellapart.data.sources.tar.source import TarSource

        return _without_columns(TarSource(text, task=task), columns)
    if path.is_dir():
        return _open_folder(path, task, columns)
    if path.is_file():
        return _open_file(path, task, columns)
    raise DataError(_not_found(text, path.absolute()))


def _open_folder(path: Path, task: str, columns: ColumnNames) -> Source:
    """Open what a folder holds: a manifest that names its images, else Parquet, else tar shards, else images.

    A table that does not describe images that are there is passed over, where the folder can be read without it and
    the user named no columns.
    """
    manifests = find_manifests(path)
    if not manifests and not holds_shards(path):
        return _open_images(path, task, columns)
    # pyarrow is imported where a table is read, not for every folder and name.
    from tellapart.data.sources.tables.columns import UnrelatedTableError
    from tellapart.data.sources.tables.manifest import ManifestSource
    from tellapart.data.sources.tables.parquet import open_parquet

    shown = ", ".join(manifest.relative_to(path).as_posix() for manifest in manifests) or "its Parquet file"
    try:
        if not manifests:
            return open_parquet(path, task, columns)
        if len(manifests) == 1 and manifests[0].suffix == ".parquet":
            return open_parquet(manifests[0], task, columns)
        source = ManifestSource(path, manifests, task=task, columns=columns)
    except UnrelatedTableError as error:
        if columns != ColumnNames():
            raise
        try:
            source = _open_images(path, task, columns)
        except DataError:
            raise error from None
        source.notes.insert(0, f"{shown} was passed over, for it does not describe these images: {error}")
        return source
    num_below = len(walk(path).images)
    among = f", of the {num_below:,} images below the folder" if num_below > len(source) else ""
    source.notes.insert(0, f"the images are those that {shown} names: {len(source):,}{among}.")
    return source


def _open_images(path: Path, task: str, columns: ColumnNames) -> Source:
    if holds_tars(path):
        from tellapart.data.sources.tar.source import TarSource

        return _without_columns(TarSource(path, task=task), columns)
    return _without_columns(FolderSource(path), columns)


def _without_columns(source: Source, columns: ColumnNames) -> Source:
    """Say that columns were named for data that have none."""
    if columns != ColumnNames():
        source.notes.append("these data have no columns, so the names that were given for columns are not used.")
    return source


def _open_file(path: Path, task: str, columns: ColumnNames) -> Source:
    ending = path.suffix.lower()
    if ending == ".parquet":
        from tellapart.data.sources.tables.parquet import open_parquet

        return open_parquet(path, task, columns)
    if ending in _MANIFESTS:
        from tellapart.data.sources.tables.manifest import ManifestSource

        return ManifestSource(path, task=task, columns=columns)
    if ending == ".tar":
        from tellapart.data.sources.tar.source import TarSource

        return _without_columns(TarSource(path, task=task), columns)
    if ending == ".npz":
        return _without_columns(open_npz(path, task), columns)
    if path.name.lower().endswith(_PACKED):
        raise DataError(f"{path}: is a compressed archive, in which no image can be found by its place. Unpack it.")
    raise DataError(f"{path}: is a file of a kind that is no source of labelled images. Expected {_KNOWN}.")


def _not_found(text: str, path: Path) -> str:
    if not any(mark in text for mark in (os.sep, "/", "~", ".")):
        return f"{unknown_name('data set', text, SOURCES)}. A folder or file of that name is not here either."
    parent, lacking = path.parent, path.name
    while not parent.is_dir():
        parent, lacking = parent.parent, parent.name
    guess = nearest(lacking, [entry.name for entry in parent.iterdir()])
    hint = f" Did you mean {parent / guess}?" if guess else ""
    return f"{text}: there is no such file or folder ({parent} has no '{lacking}').{hint}"
