"""`pack`: any labelled images written as shards, large ones scaled down, to be read fast and moved easily."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tellapart.data.packing import Settings, pack_source
from tellapart.data.packing.summary import format_bytes
from tellapart.data.sources import SOURCES, ColumnNames, open_source
from tellapart.errors import RunError
from tellapart.training.progress import Progress, make_progress


@dataclass(frozen=True)
class Packed:
    """What a pack holds.

    Attributes:
        path: the folder, which `train` and `open_source` take.
        num_images: in the shards; of these `num_scaled` were scaled down, `num_kept` are the user's files byte for
            byte, and `num_encoded` were given as pixels.
        num_bytes_before: of the images as they were given.
        num_bytes: of the shards.
        shards: the files' names.
        unreadable: the paths of the images that were left out, with the reasons.
        details: all that `pack.json` holds.
    """

    path: Path
    num_images: int
    num_scaled: int
    num_kept: int
    num_encoded: int
    num_bytes_before: int
    num_bytes: int
    shards: list[str]
    unreadable: dict[str, str]
    details: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return what `tellapart pack --json` prints."""
        counts = {name: value for name, value in vars(self).items() if name.startswith("num_")}
        return {"path": str(self.path), **counts, "shards": self.shards, "unreadable": self.unreadable}

    def __str__(self) -> str:
        share = f" ({self.num_bytes / self.num_bytes_before:.0%})" if self.num_bytes_before else ""
        size_px = self.details["plan"]["settings"]["max_size_px"]
        parts = [
            _images(self.num_images),
            f"{format_bytes(self.num_bytes_before)} -> {format_bytes(self.num_bytes)}{share}",
            f"{self.num_scaled:,} scaled down to {size_px} px" if self.num_scaled else "",
            f"{self.num_kept:,} kept byte for byte" if self.num_kept else "",
            f"{self.num_encoded:,} encoded from pixels" if self.num_encoded else "",
        ]
        count = len(self.shards)
        text = f"{', '.join(part for part in parts if part)}; {count:,} shard{'s' * (count != 1)} in {self.path}."
        if self.unreadable:
            path, reason = next(iter(self.unreadable.items()))
            text += (
                f"\n{_images(len(self.unreadable))} left out because they cannot be read, such as {path}: {reason}; "
                f"all are listed in {self.path / 'pack.json'}."
            )
        return f"{text}\nTrain with: tellapart train {shlex.quote(str(self.path))}"


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def pack(
    data: Any,
    out: str | os.PathLike[str],
    *,
    format: str = "parquet",
    max_size_px: int = 256,
    encode: str = "keep",
    quality: int = 90,
    shard_mib: int = 256,
    shuffle: bool = True,
    seed: int = 0,
    bad_images: str = "fail",
    num_workers: int = -1,
    data_dir: str = "",
    task: str = "auto",
    columns: ColumnNames | None = None,
    progress: bool | Progress = True,
) -> Packed:
    """Write any source of labelled images as shards, and return what was written.

    A call that was stopped, at whatever moment, goes on where it was when it is made again, and ends with the same
    bytes as one that was not. Until all is whole the folder holds nothing that could be taken for a data set.

    Args:
        data: what `train` takes: a data set's name, a folder, a manifest, Parquet or tar files, arrays, a Dataset.
        out: the folder for the shards, new, empty, or of the same call made before.
        format: "parquet" (as Hugging Face `datasets` writes it) or "webdataset" (tar files).
        max_size_px: images whose shorter side is larger are set upright, laid over white and scaled down to it;
            smaller ones stay as they are, byte for byte. 0 leaves all as they are.
        encode: how scaled images and pixels are encoded: "keep" (lossy files as JPEG, the rest as PNG), "jpeg",
            "png" or "webp".
        quality: of JPEG and WebP, 1 to 100.
        shard_mib: about how large a shard becomes.
        shuffle: mix the images of a part once, so that reading them in order meets all classes.
        seed: of the mixing.
        bad_images: "fail" names all images that cannot be read and ends with an error; "skip" leaves them out and
            lists them in `pack.json`.
        num_workers: processes that read and encode; 0 works in this one; -1 is one a core.
        data_dir: where downloaded data sets lie or go.
        task: what the targets mean, as for `train`.
        columns: which columns of a manifest or Parquet file to read.
        progress: whether to show progress, or a display of your own.

    Raises:
        DataError: the data cannot be opened, or images in it cannot be read.
        ConfigError: a setting is out of its range.
        RunError: `out` holds something else or cannot be written to, the disk is full, or a process ended.
    """
    settings = Settings(format, max_size_px, encode, quality, shard_mib, shuffle, seed)
    path = Path(out).expanduser()
    _refuse_inside(data, path)
    source = open_source(data, data_dir=data_dir, task=task, columns=columns)
    display = progress if isinstance(progress, Progress) else make_progress(progress)
    for note in source.notes:
        display.say(note)
    try:
        found = pack_source(
            source, path, settings, bad_images=bad_images, num_workers=num_workers, say=display.say, task=display.task
        )
    finally:
        display.close()
    counts = {name: value for name, value in found.items() if name.startswith("num_")}
    shards = [shard["file"] for shard in found["shards"]]
    return Packed(path=path, **counts, shards=shards, unreadable=found["unreadable"], details=found)


def _refuse_inside(data: Any, out: Path) -> None:
    """Refuse to write shards where the next reading of the data would take them for a part of it."""
    if not isinstance(data, str | os.PathLike) or (isinstance(data, str) and data in SOURCES):
        return
    folder = Path(data).expanduser()
    if folder.is_dir() and out.resolve().is_relative_to(folder.resolve()):
        raise RunError(
            f"{out}: lies inside the data ({data}), which would then hold its images twice. Give a folder elsewhere."
        )
