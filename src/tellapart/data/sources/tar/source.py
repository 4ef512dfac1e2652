"""WebDataset tar shards, on a disk or behind an address: never whole in memory, each sample found by its place."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tellapart.data.order import WINDOW
from tellapart.data.sources.base import Source, part_of, require_two_classes
from tellapart.data.sources.labels import understand
from tellapart.data.sources.parts import parts_of
from tellapart.data.sources.shards import parts_of_shards
from tellapart.data.sources.tar.index import Index, Shard, load_index
from tellapart.data.sources.tar.labels import as_values, folder_of, read_classes
from tellapart.data.sources.tar.local import LocalFiles
from tellapart.data.sources.tar.remote import RemoteFiles
from tellapart.data.sources.tar.remote_system import shown
from tellapart.data.sources.tar.shards import find_shards
from tellapart.data.sources.tree import title, to_text
from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

# A remote shard without an index is streamed once, in steps of this; so many at a time.
_STREAM_BYTES, _NUM_STREAMS = 2**23, 4


class TarSource(Source):
    """The samples of tar shards: files that share a name up to its first dot, one of them an image, one a label.

    The label is in KEY.cls (a number or a class name), in KEY.json (under a name such as "label"; a list is several
    labels) or, where there is neither, in KEY.txt. Classes are named by classes.json or classes.txt beside the
    shards, and else by the labels themselves. The part is said by "split" in the JSON, or by the shard's name.

    Args:
        text_or_path: a .tar file, a folder of them, a pattern such as `train-{0000..0127}.tar` or `train-*.tar`, or
            such an address (`s3://`, `gs://`, `https://`, ...).
        task: "auto" or a key of `tasks.TASKS`.

    Raises:
        DataError: a shard is not there, damaged, cut off or compressed, or no sample has an image and a label.
        MissingError: a package that an address needs is not installed.
    """

    def __init__(self, text_or_path: str | Path, *, task: str = "auto") -> None:
        given = str(text_or_path)
        if given.startswith("file://"):
            given = unquote(given.removeprefix("file://"))
        self._files = RemoteFiles() if "://" in given else LocalFiles()
        name = to_text(shown(given).rstrip("/").rpartition("/")[2]) if "://" in given else title(Path(given))
        shards, fronts = find_shards(given, self._files)
        self._addresses = [shard.address for shard in shards]
        notes: list[str] = []
        indexes = _load_indexes(shards, self._files, notes)
        samples = pa.concat_tables([index.samples for index in indexes]).unify_dictionaries()
        numbers = np.repeat(np.arange(len(shards)), [len(index.samples) for index in indexes])
        paths = _paths(fronts, indexes)
        notes += _notes(samples, paths, indexes)
        is_usable = samples.column("problem").is_null().to_numpy()
        if not is_usable.any():
            raise DataError(_nothing_usable(name, indexes, notes))
        rows = np.flatnonzero(is_usable)
        samples, self.blocks = samples.filter(pa.array(is_usable)), numbers[rows]
        self._offsets, self._sizes = (samples.column(column).to_numpy() for column in ("offset", "size"))
        folders = list(dict.fromkeys(folder_of(address) for address in self._addresses))
        described = read_classes(folders, self._files.read_small)
        values = as_values(*_coded(samples, "label"), described.classes, name)
        labels = understand(
            values, described.classes, described.task if task == "auto" and described.task else task, name
        )
        if labels.task == "multiclass":
            require_two_classes(name, labels.classes)
        super().__init__(
            name,
            classes=labels.classes,
            paths=paths if len(rows) == len(paths) else [paths[row] for row in rows.tolist()],
            targets=labels.targets,
            parts=_parts(samples, self.blocks, fronts),
            task=labels.task,
            notes=[*notes, *labels.notes],
        )
        self.groups, self.times = _texts(samples, "group"), _texts(samples, "time")
        if labels.task == "multiclass" and (note := _note_on_order(labels.targets)):
            self.notes.append(note)

    def read(self, index: int) -> bytes:
        """Return the bytes of the image as they are stored.

        Raises:
            ImageError: the shard is no longer there or cannot be read.
            DataError: the shard has been changed, or the network failed also after several attempts.
        """
        address, offset, size = self._place(index)
        data = self._files.read(address, offset, size)
        if len(data) < size:
            raise ImageError("its shard ends before the image does")
        return data

    def read_many(self, indices: Sequence[int]) -> list[bytes | np.ndarray | ImageError]:
        """Return the same as `read` for each of several samples; behind an address, all are asked for at once.

        Raises:
            DataError: as `read`.
        """
        if isinstance(self._files, RemoteFiles):
            return [*self._files.read_many([self._place(index) for index in indices])]
        return super().read_many(indices)

    def _place(self, index: int) -> tuple[str, int, int]:
        assert self.blocks is not None
        return self._addresses[int(self.blocks[index])], int(self._offsets[index]), int(self._sizes[index])


def _load_indexes(shards: list[Shard], files: LocalFiles | RemoteFiles, notes: list[str]) -> list[Index]:
    found: list[str] = []

    def load(shard: Shard) -> Index:
        if isinstance(files, LocalFiles):
            return load_index(shard, files.read, files.read_small, found)
        return load_index(shard, files.read_apart, files.read_small, found, _STREAM_BYTES)

    # Headers are parsed in Python, so that threads help only where they wait.
    with ThreadPoolExecutor(_NUM_STREAMS if isinstance(files, RemoteFiles) else 1, "index") as pool:
        indexes = list(pool.map(load, shards))
    found = sorted(set(found))
    notes += found[:3] + ([f"and {len(found) - 3:,} more such indexes."] if len(found) > 3 else [])
    return indexes


def _names(index: Index) -> list[str]:
    return index.samples.column("name").to_pylist()


def _paths(fronts: list[str], indexes: list[Index]) -> list[str]:
    """Return the paths that the JSON of the samples says, where all say one of their own, else shard and member."""
    said = [path for index in indexes for path in index.samples.column("path").to_pylist()]
    if None not in said and len(set(said)) == len(said):
        return said
    return [f"{front}/{path}" for front, index in zip(fronts, indexes, strict=True) for path in _names(index)]


def _coded(samples: pa.Table, name: str) -> tuple[list[str], np.ndarray]:
    """Return a column as its different texts and, for each sample, which of them it has, -1 for none."""
    column = samples.column(name).combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary.to_pylist(), pc.fill_null(array.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _texts(samples: pa.Table, name: str) -> list[str] | None:
    """Return a column as texts, "" for none; None where no sample has one."""
    names, codes = _coded(samples, name)
    return np.array([*names, ""], dtype=object)[codes].tolist() if (codes >= 0).any() else None


def _parts(samples: pa.Table, blocks: np.ndarray, fronts: list[str]) -> list[str]:
    names, codes = _coded(samples, "split")
    if any(part_of(names[code].strip()) for code in np.unique(codes) if code >= 0):
        words = parts_of(names[code].strip() for code in np.unique(codes) if code >= 0)
        said = [words.get(word.strip()) or "" for word in names]
        return np.array([*said, ""], dtype=object)[codes].tolist()
    parts = parts_of_shards(fronts)
    return np.array([parts[front] for front in fronts], dtype=object)[blocks].tolist()


def _notes(samples: pa.Table, paths: list[str], indexes: list[Index]) -> list[str]:
    problems, codes = _coded(samples, "problem")
    notes = []
    for code in np.unique(codes[codes >= 0]):
        rows = np.flatnonzero(codes == code)
        named = ", ".join(paths[row] for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
        noun = "sample" if len(rows) == 1 else "samples"
        notes.append(f"left out {len(rows):,} {noun} {problems[code]}: {named}.")
    if count := sum(index.facts["num_several"] for index in indexes):
        named = [name for index in indexes for name in index.facts["several"]][:3]
        notes.append(f"{count:,} images were passed over, because their samples have one already: {', '.join(named)}.")
    return notes


def _nothing_usable(name: str, indexes: list[Index], notes: list[str]) -> str:
    endings: dict[str, int] = {}
    for index in indexes:
        for ending, count in index.facts["endings"].items():
            endings[ending] = endings.get(ending, 0) + count
    ranked = sorted(endings.items(), key=lambda item: (-item[1], item[0]))[:8]
    found = ", ".join(f"{count:,} .{ending}" for ending, count in ranked) or "no samples"
    return (
        f"{name}: expected samples with an image and a label, such as 0001.jpg and 0001.cls or 0001.json with a label; "
        f"found {found}. {' '.join(notes)}".rstrip()
    )


def _note_on_order(targets: np.ndarray) -> str:
    """Return a sentence where the classes lie one after another, which shuffling within a window does not mix."""
    if len(targets) <= WINDOW:
        return ""
    expected = float(((np.bincount(targets) / len(targets)) ** 2).sum())
    if (targets[1:] == targets[:-1]).mean() <= (1 + expected) / 2:
        return ""
    return (
        f"the samples lie sorted by class, and training mixes only those within {WINDOW:,} places; `tellapart pack` "
        "writes shards in which they are mixed."
    )
