"""What is in the shards, counted: a record of each, `pack.json`, and the files that lie beside them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from tellapart import __version__
from tellapart.data.packing.card import card
from tellapart.data.packing.encode import Encoded
from tellapart.data.packing.folder import write_bytes, write_json
from tellapart.data.packing.plan import Plan
from tellapart.errors import DataError

_COUNTED = {"kept": "num_kept", "scaled": "num_scaled", "encoded": "num_encoded"}
_MOST_NAMED = 20


@dataclass
class ShardRecord:
    """What is in one shard; `unreadable` are the paths left out, with the reasons."""

    file: str
    num_images: int = 0
    num_scaled: int = 0
    num_kept: int = 0
    num_encoded: int = 0
    num_bytes_before: int = 0
    num_bytes: int = 0
    sha256: str = ""
    unreadable: dict[str, str] = field(default_factory=dict)

    def count(self, path: str, image: Encoded) -> None:
        """Enter one image."""
        if image.error:
            self.unreadable[path] = image.error
            return
        self.num_images += 1
        self.num_bytes_before += image.num_bytes_before
        setattr(self, _COUNTED[image.action], getattr(self, _COUNTED[image.action]) + 1)


class HashedFile:
    """A file being written from start to end, with the SHA-256 and the number of what was written so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.num_bytes = file, hashlib.sha256(), 0
        self.closed = False

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        self._file.write(data)
        self.digest.update(data)
        self.num_bytes += memoryview(data).nbytes
        return memoryview(data).nbytes

    def tell(self) -> int:
        """Return how much was written."""
        return self.num_bytes

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def close(self) -> None:
        """Leave the file itself to who opened it."""


def summarize(plan: Plan, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what `pack.json` holds: the plan, the sums over all shards, and each shard's record.

    Nothing in it depends on when, where or in how many attempts the shards were written.
    """
    names = ("num_images", "num_scaled", "num_kept", "num_encoded", "num_bytes_before", "num_bytes")
    return {
        "tellapart": __version__,
        **{name: sum(record[name] for record in records) for name in names},
        "unreadable": {path: reason for record in records for path, reason in record["unreadable"].items()},
        "plan": plan.as_dict(),
        "shards": list(records),
    }


def refuse_unreadable(pack: dict[str, Any], bad_images: str) -> None:
    """Refuse what was packed where nothing could be read, or with `bad_images` "fail" not all.

    Raises:
        DataError: with the paths and the reasons.
    """
    unreadable = pack["unreadable"]
    if not unreadable or (bad_images == "skip" and pack["num_images"]):
        return
    named = [f"  {path}: {reason}" for path, reason in list(unreadable.items())[:_MOST_NAMED]]
    if len(unreadable) > _MOST_NAMED:
        named.append(f"  and {len(unreadable) - _MOST_NAMED:,} more")
    what = f"{len(unreadable):,} of {pack['plan']['num_images']:,} images cannot be read:"
    mend = "Mend these files, or leave them out with --bad-images skip; the same command goes on with what is packed."
    raise DataError("\n".join([what, *named, mend if pack["num_images"] else "There is nothing to pack."]))


def write_beside(out: Path, pack: dict[str, Any]) -> None:
    """Write the README.md, and for tar shards the names of the classes and the index of each shard."""
    if not (out / "README.md").exists():
        write_bytes(out / "README.md", card(pack).encode())
    tars = [out / shard["file"] for shard in pack["shards"] if shard["file"].endswith(".tar")]
    if not tars:
        return
    write_json(out / "classes.json", {"task": pack["plan"]["task"], "classes": pack["plan"]["classes"]})
    from tellapart.data.sources.tar.index import write_index

    for tar in tars:
        write_index(tar)


def format_bytes(count: float) -> str:
    """Return a number of bytes in words, in powers of 1,000 as disks are sold.

    >>> format_bytes(5_123_456_789), format_bytes(999)
    ('5.1 GB', '999 bytes')
    """
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"
