"""Images whose labels nobody asks for: what an out-of-distribution score is measured on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.data.sources import Source, open_source
from tellapart.data.sources.tables.files import read_file
from tellapart.data.sources.tree import title, to_text, walk
from tellapart.errors import DataError, TellapartError


class FolderImages(Source):
    """All images below a folder, whatever its layout, all with one label, which need not mean anything.

    Raises:
        DataError: the folder cannot be listed.
    """

    def __init__(self, folder: Path, classes: Sequence[str], label: int = 0) -> None:
        self.root = folder.absolute()
        self._files = walk(self.root).images
        targets = np.full(len(self._files), label, dtype=np.int64)
        super().__init__(title(folder), classes=classes, paths=[to_text(file) for file in self._files], targets=targets)

    def read(self, index: int) -> bytes:
        """Return the bytes of the file.

        Raises:
            ImageError: the file is gone, is a folder, or may not be read.
        """
        assert self.root is not None
        return read_file(self.root / self._files[index])


def open_unlabelled(data: Any, data_dir: str) -> tuple[Source, np.ndarray]:
    """Return images of anything, and which rows to take: those of the data's own test part, if it has one, else all.

    A folder of image files needs no layout; every other kind of data is opened as for training.

    Raises:
        DataError: there are no images, or nothing of that name.
    """
    if isinstance(data, str | os.PathLike) and (folder := Path(data).expanduser()).is_dir():
        found = FolderImages(folder, ["anything"])
        if len(found):
            return found, np.arange(len(found))
    source = open_source(data, data_dir=data_dir)
    tested = np.flatnonzero([part == "test" for part in source.parts])
    rows = tested if len(tested) else np.arange(len(source))
    if not len(rows):
        raise DataError(f"{source.name}: expected images, found none.")
    return source, rows


def one_known_class(data: Any, classes: Sequence[str]) -> Source | None:
    """Return a folder of images of a single class, which is too few to train on and enough to evaluate on, or None."""
    if not isinstance(data, str | os.PathLike) or not (folder := Path(data).expanduser()).is_dir():
        return None
    try:
        tops = {file.split("/")[0] for file in walk(folder.absolute()).images if "/" in file}
    except TellapartError:
        return None
    known = {to_text(top) for top in tops} & set(classes)
    return FolderImages(folder, classes, classes.index(known.pop())) if len(tops) == len(known) == 1 else None
