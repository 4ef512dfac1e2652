"""What a folder or an address is, by the names in it alone: nothing is opened, nothing heavy imported."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tellapart.data.sources.base import part_of
from tellapart.data.sources.shards import files_below
from tellapart.data.sources.tree import ENDINGS, ending

# The names under which a table of images lies beside them; the first is Hugging Face's for a folder of images.
MANIFEST_NAMES = ("metadata", "manifest", "labels", "annotations")
MANIFEST_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_BRACES = re.compile(r"\{\d+\.\.\d+\}")
_PART_WORD = re.compile(r"(train|val|valid|validation|dev|test)")
_MAX_WRAPPINGS = 3


def names_shards(text: str) -> bool:
    """Return whether a text names tar shards: braces such as {0000..0127}, or the ending .tar.

    >>> names_shards("s3://bucket/train-{0000..0127}.tar"), names_shards("photos")
    (True, False)
    """
    return bool(_BRACES.search(text)) or text.lower().endswith(".tar")


def holds_tars(folder: Path) -> bool:
    """Return whether a folder holds tar shards, down to two levels below it, and no folder there holds images."""
    try:
        return bool(files_below(folder, ".tar")) and not _holds_images(folder)
    except OSError:  # whoever reads the folder next says what is wrong with it
        return False


def find_manifests(folder: Path) -> list[Path]:
    """Return the tables of images that lie in a folder, or none.

    The first of these that is there: a table of one of the known names; such a table in folders that are named like
    parts, as Hugging Face puts it; tables that are named like parts, such as train.csv and test.csv; whatever is in
    the folder's only sub-folder, where it holds nothing else.
    """
    try:
        for _ in range(_MAX_WRAPPINGS):
            with os.scandir(folder) as entries:
                names = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
            if found := _manifests_among(folder, names):
                return found
            if len(names) != 1 or not all(names.values()):
                break
            folder = folder / next(iter(names))
    except OSError:  # whoever reads the folder next says what is wrong with it
        pass
    return []


def _manifests_among(folder: Path, names: dict[str, bool]) -> list[Path]:
    if own := _known_manifest(folder):
        return [own]
    # Train goes first: what its columns are called, those of the others have to be called.
    in_order = sorted(names, key=lambda name: (part_of(name.partition(".")[0]) != "train", name))
    in_parts = [_known_manifest(folder / name) for name in in_order if names[name] and part_of(name)]
    if any(in_parts):
        return [path for path in in_parts if path]
    tables = [name for name in in_order if not names[name] and ending(name) in MANIFEST_ENDINGS[:4]]
    return [folder / name for name in tables if _PART_WORD.fullmatch(name.rpartition(".")[0].lower())]


def _known_manifest(folder: Path) -> Path | None:
    paths = (folder / f"{name}{kind}" for name in MANIFEST_NAMES for kind in MANIFEST_ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def _names_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _holds_images(folder: Path, depth: int = 3) -> bool:
    """Return whether images lie one to `depth` levels below a folder."""
    with os.scandir(folder) as entries:
        folders = [Path(entry) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if any(ending(name) in ENDINGS for below in folders for name in _names_in(below)):
        return True
    return depth > 1 and any(_holds_images(below, depth - 1) for below in folders)
