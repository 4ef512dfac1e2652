"""Decoded and reduced images on disk, found again by the bytes of the files they came from.

A cache is a folder of slabs. A slab is written once, under another name, synced, renamed, and never changed; beside it
lies its index, whose presence makes it count. So any number of processes may fill one cache at a time (each writes
slabs of its own), and one that is killed loses the slab that it was writing. What is found is checked against a
checksum, and whatever is not there, not whole or thrown out by another process is decoded again.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import xxhash

from tellapart.data.sources.downloads import cache_folder

# One image: what it was made of, what its pixels hash to before they were reduced, and sums over the reduced pixels.
FACTS = np.dtype(
    [("content", "S32"), ("pixels", "S32"), ("sums", "<i8", 3), ("square_sums", "<i8", 3), ("checksum", "<u8")]
)
_SLAB_BYTES = 64 * 2**20
# A reader keeps every slab open; systems allow a process about a thousand files.
_MAX_SLABS = 500
# Left free for everybody else who writes to the disk.
_SPARED_BYTES = 2 * 2**30
# Raised when the same file and settings would give other pixels than before.
_VERSION = 1


class _Index(NamedTuple):
    """What is in a cache: the facts of each image, its slab and its place there, and the order by content."""

    facts: np.ndarray
    slab: np.ndarray
    slot: np.ndarray
    order: np.ndarray

    @staticmethod
    def of(facts: np.ndarray, slab: np.ndarray, slot: np.ndarray) -> _Index:
        return _Index(facts, slab, slot, np.argsort(facts["content"], kind="stable"))


class ImageCache:
    """The reduced images of one size and kind; `find` says where one is, `read` gets it, `add` puts it there.

    Safe to read from threads and from forked or spawned processes; `add` and `commit` belong to one thread.

    Args:
        root: the folder of all caches, whose slabs together stay below `max_bytes`.
        kind: what tells these images from the same ones reduced otherwise; a folder name.
        shape: (height, width, channels) of an image.
        max_bytes: what all caches in `root` may take; the slabs that were not used for longest are deleted first.
    """

    def __init__(self, root: Path, kind: str, shape: tuple[int, int, int], max_bytes: int) -> None:
        self.root, self.folder, self.shape, self.max_bytes = root, root / f"{kind}-v{_VERSION}", shape, max_bytes
        self.image_bytes = int(np.prod(shape))
        self._slab_bytes = min(max(_SLAB_BYTES, max_bytes // _MAX_SLABS), max_bytes)
        self.is_full = False
        self._slabs: list[Path] = []
        self._files: dict[int, int] = {}
        # Replaced as a whole, because threads look things up while another commits.
        self._index = _Index.of(np.empty(0, FACTS), np.empty(0, np.int64), np.empty(0, np.int64))
        self._file: BinaryIO | None = None
        self._new: list[np.void] = []
        self._load()

    def __len__(self) -> int:
        return len(self._index.facts)

    def __getstate__(self) -> dict[str, Any]:
        assert not self._new, "commit before the cache is handed to another process"
        return {**self.__dict__, "_files": {}, "_file": None}

    def __del__(self) -> None:
        for file in self.__dict__.get("_files", {}).values():
            with suppress(OSError):
                os.close(file)

    def find(self, contents: Sequence[str]) -> np.ndarray:
        """Return where the images of these content hashes are, int64 `(N,)`; -1 for those that are not there."""
        wanted, index = np.array(contents, dtype="S32"), self._index
        if not len(index.facts):
            return np.full(len(wanted), -1, dtype=np.int64)
        known = index.facts["content"]
        place = np.searchsorted(known, wanted, sorter=index.order)
        found = index.order[np.minimum(place, len(known) - 1)]
        return np.where((known[found] == wanted) & (wanted != b""), found, -1)

    def facts(self, places: np.ndarray) -> np.ndarray:
        """Return what is known of images, an array of FACTS, for places that `find` gave."""
        return self._index.facts[places]

    def read(self, place: int, out: np.ndarray) -> bool:
        """Read one image into `out`, uint8 `(H, W, C)`, contiguous; False if it is not there any more, or damaged."""
        index = self._index
        try:
            file = self._open(int(index.slab[place]))
            size = os.preadv(file, [out.reshape(-1).data], int(index.slot[place]) * self.image_bytes)
        except OSError:
            return False
        is_right = size == self.image_bytes and checksum(out) == int(index.facts["checksum"][place])
        if not is_right:  # else it would be found, and decoded all the same, by every run to come
            slab = self._slabs[int(index.slab[place])]
            _remove(slab.with_suffix(".facts"))
            _remove(slab)
        return is_right

    def add(self, facts: np.void, image: np.ndarray) -> None:
        """Keep one image, uint8 `(H, W, C)`; it can be found after the next `commit`."""
        if self.is_full:
            return
        try:
            if self._file is None:
                self._file = self._begin()
            if self._file is not None:
                self._file.write(np.ascontiguousarray(image).data)
                self._new.append(facts)
        except OSError:  # a full or read-only disk: the images are decoded again when they are needed
            self._give_up()
        if (len(self._new) + 1) * self.image_bytes > self._slab_bytes:
            self.commit()

    def commit(self) -> None:
        """Make what was added last durable and findable."""
        if self._file is None:
            return
        try:
            if self._new:
                self._finish(self._file)
        except OSError:
            self._give_up()
            return
        self._drop()

    def _finish(self, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())
        facts = np.array(self._new, dtype=FACTS)
        # An index's name holds its checksum: a wrong hash or sum in it would be believed as much as a wrong pixel.
        slab = self.folder / f"{uuid.uuid4().hex}-{xxhash.xxh3_64_hexdigest(facts.tobytes())}.slab"
        with _new_file(self.folder) as index:
            try:
                index.write(facts.tobytes())
                index.flush()
                os.fsync(index.fileno())
                Path(file.name).rename(slab)
                Path(index.name).rename(slab.with_suffix(".facts"))
            except OSError:
                _remove(Path(index.name))
                _remove(slab)
                raise
        self._enter([(slab, facts)])

    def _begin(self) -> BinaryIO | None:
        """Open a new slab's file, where there is room for it."""
        if self.image_bytes > self._slab_bytes or not self._make_room(self._slab_bytes):
            self.is_full = True
            return None
        self.folder.mkdir(parents=True, exist_ok=True)
        return _new_file(self.folder)

    def _make_room(self, size: int) -> bool:
        """Delete the slabs that nobody used for longest until `size` more bytes fit; never those of this cache."""
        self.root.mkdir(parents=True, exist_ok=True)
        slabs = {path: status for path in self.root.glob("*/*.slab") if (status := _status(path))}
        total = sum(status.st_size for status in slabs.values())
        free = shutil.disk_usage(self.root).free - _SPARED_BYTES
        oldest = sorted((path for path in slabs if path not in set(self._slabs)), key=lambda p: slabs[p].st_mtime)
        for path in oldest:
            if total + size <= self.max_bytes and size <= free:
                break
            _remove(path.with_suffix(".facts"))
            if not _remove(path):
                continue
            total, free = total - slabs[path].st_size, free + slabs[path].st_size
        return total + size <= self.max_bytes and size <= free

    def _load(self) -> None:
        found = []
        for path in sorted(self.folder.glob("*.facts")):
            slab = path.with_suffix(".slab")
            try:
                facts = _read_index(path)
                is_whole = slab.stat().st_size == len(facts) * self.image_bytes
            except (OSError, ValueError):
                continue
            if not is_whole:
                continue
            found.append((slab, facts))
            with suppress(OSError):  # somebody else's folder, perhaps, which can be read all the same
                os.utime(slab)  # used just now
        self._enter(found)
        for path in self.folder.glob(".*.writing"):
            _remove_abandoned(path)

    def _enter(self, slabs: Sequence[tuple[Path, np.ndarray]]) -> None:
        facts, slab, slot = ([column] for column in self._index[:3])
        for path, new in slabs:
            facts.append(new)
            slab.append(np.full(len(new), len(self._slabs)))
            slot.append(np.arange(len(new)))
            self._slabs.append(path)
        self._index = _Index.of(np.concatenate(facts), np.concatenate(slab), np.concatenate(slot))

    def _open(self, slab: int) -> int:
        if slab not in self._files:
            file = os.open(self._slabs[slab], os.O_RDONLY)
            if self._files.setdefault(slab, file) != file:  # another thread was faster
                os.close(file)
        return self._files[slab]

    def _give_up(self) -> None:
        self.is_full = True
        self._drop()

    def _drop(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            _remove(Path(self._file.name))
        self._file, self._new = None, []


def checksum(image: np.ndarray) -> int:
    """Return the checksum of an image's bytes. Source: XXH3 with 64 bits."""
    return xxhash.xxh3_64_intdigest(image.reshape(-1).data)


def image_caches(cache_dir: str) -> Path:
    """Return the folder of all image caches: `cache_dir`, or the user's."""
    return Path(cache_dir).expanduser() if cache_dir else cache_folder() / "images"


def _read_index(path: Path) -> np.ndarray:
    """Return the facts of a slab's images.

    Raises:
        ValueError: the file does not hold what was written.
    """
    raw = path.read_bytes()
    if not path.stem.endswith(f"-{xxhash.xxh3_64_hexdigest(raw)}"):
        raise ValueError("another checksum than in its name")
    return np.frombuffer(raw, FACTS)


def _new_file(folder: Path) -> BinaryIO:
    """Open a new file that is locked; before it is, another process may take it for abandoned and delete it."""
    while True:
        file = (folder / f".{uuid.uuid4().hex}.writing").open("xb")
        with suppress(BlockingIOError):
            _lock(file)
            if os.fstat(file.fileno()).st_nlink:
                return file
        file.close()


def _lock(file: BinaryIO) -> None:
    """Hold a lock for as long as this process lives, by which others see that the file is being written."""
    try:
        import fcntl
    except ImportError:  # Windows, where an open file cannot be deleted anyway
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _status(path: Path) -> os.stat_result | None:
    """Return size and times of a file, or None if another process deleted it."""
    try:
        return path.stat()
    except OSError:
        return None


def _remove(path: Path) -> bool:
    """Delete a file, and return whether it is gone; a folder may belong to somebody else, or be read-only."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _remove_abandoned(path: Path) -> None:
    """Delete the slab that a killed process was writing; one that is still being written is locked."""
    try:
        with path.open("rb") as file:
            _lock(file)
            path.unlink()
    except OSError:
        return
