"""WebDataset shards: tar files in which KEY.jpg (or another image) is followed by KEY.json with its label by name."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any, BinaryIO

import numpy as np

from tellapart.data.packing.formats import Layout, Row


class TarShard:
    """Writes one shard. Owners, times and modes are fixed, so that equal samples give equal bytes."""

    def __init__(self, file: BinaryIO, layout: Layout) -> None:
        self._layout = layout
        self._tar = tarfile.TarFile(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)

    def add(self, row: Row) -> None:
        """Write the image and what is known of it; the key is the sample's number, unique over all shards."""
        key = f"{row.number:09d}"
        known: dict[str, Any] = {"label": label_in_words(row.target, self._layout), "path": row.path}
        if self._layout.has_groups:
            known["group"] = row.group
        if self._layout.has_times:
            known["time"] = row.time
        self._add(f"{key}.{row.ending}", row.data)
        self._add(f"{key}.json", json.dumps(known, ensure_ascii=False).encode())

    def close(self) -> None:
        """Write the end of the archive."""
        self._tar.close()

    def _add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))


def label_in_words(target: np.ndarray | np.int64, layout: Layout) -> Any:
    """Return the class's name, the list of the classes' names, the number, or the list of numbers."""
    if layout.task == "multiclass":
        return layout.classes[int(target)]
    values = np.asarray(target).tolist()
    if layout.task == "multilabel":
        return [name for name, value in zip(layout.classes, values, strict=True) if value]
    return values[0] if layout.num_outputs == 1 else values
