"""The index of a tar shard: where each sample's image lies and what its label says, written once.

An index is a Parquet table followed by a mark and the SHA-256 of the table, because Parquet itself notices only part
of what can happen to a file. It lies beside the shard as NAME.tar.index, where whoever wrote the shards put it, or in
the user's cache folder. What it says of the shard (its size, and the bytes of one header near the end) is compared
with the shard before it is believed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tellapart.data.sources.downloads import cache_folder
from tellapart.data.sources.tar.headers import BLOCK, Read, Window, members
from tellapart.data.sources.tar.local import LocalFiles
from tellapart.data.sources.tar.remote_system import shown
from tellapart.data.sources.tar.samples import JSON_NAMES, SCHEMA, TEXT_COLUMNS, read_samples
from tellapart.data.sources.tree import to_text

# Counts up whenever a shard of the same bytes would get another index.
_VERSION = 2
_PARQUET = b"PAR1"
_MARK = b"tellapart index\n"
_TRAILER_BYTES = len(_MARK) + hashlib.sha256().digest_size
# Enough for the header, the label and the next header of a small image; what is read in vain costs little.
_CHUNK_BYTES = 2**14
# Names that somebody could join to a folder and so leave it.
_LEADS_AWAY = r"^/|(^|/)\.\.(/|$)"


class Shard(NamedTuple):
    """A shard as it lies there: its address, its size, and what changes with its content, such as its time or ETag."""

    address: str
    size: int
    stamp: str


class Index(NamedTuple):
    """The samples of a shard, with `samples.SCHEMA`, and what was counted on the way."""

    samples: pa.Table
    facts: dict[str, Any]


def write_index(tar_path: str | Path) -> Path:
    """Write the index of a local shard beside it, as NAME.tar.index, and return its path.

    Raises:
        DataError: the shard cannot be read as tar.
        OSError: the folder cannot be written to.
    """
    path, files = Path(tar_path), LocalFiles()
    size, stamp = files.facts(str(path))
    shard = Shard(str(path), size, stamp)
    target = path.with_name(f"{path.name}.index")
    _write(target, encode_index(build_index(shard, _reader(files.read, shard)), shard, _reader(files.read, shard)))
    return target


def load_index(
    shard: Shard,
    read: Callable[[str, int, int], bytes],
    read_beside: Callable[[str], bytes | None],
    notes: list[str],
    chunk_bytes: int = _CHUNK_BYTES,
) -> Index:
    """Return the index of a shard: the one beside it, the one in the cache, or a new one, which is then kept there.

    Args:
        shard: which.
        read: returns the bytes at (address, offset, size).
        read_beside: returns a small file, or None if it is not there.
        notes: gets a sentence about an index that could not be used or kept.
        chunk_bytes: how much of the shard to read at a time where it has to be indexed.

    Raises:
        DataError: the shard cannot be read as tar.
    """
    own = _reader(read, shard)
    # Behind an address of the web may stand a question, which is no part of the name.
    name, sign, question = shard.address.partition("?") if "://" in shard.address else (shard.address, "", "")
    beside = f"{name}.index{sign}{question}"
    if (raw := read_beside(beside)) is not None:
        if (index := decode_index(raw, shard, own)) is not None:
            return index
        if raw.startswith(_PARQUET):  # else it is something else of that name, or a server's page that says "not found"
            notes.append(f"{to_text(shown(beside))} is damaged or not of this tar, so the shard was indexed anew.")
    kept = _kept(shard)
    try:
        raw = kept.read_bytes()
    except OSError:
        raw = b""
    if (index := decode_index(raw, shard, own)) is not None:
        return index
    index = build_index(shard, own, chunk_bytes)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write(kept, encode_index(index, shard, own))
    except OSError as error:
        reason = error.strerror or error
        notes.append(f"the index could not be kept in {kept.parent} ({reason}); it will be made again the next time.")
    return index


def build_index(shard: Shard, read: Read, chunk_bytes: int = _CHUNK_BYTES) -> Index:
    """Return the index of a shard, from one pass over its headers and labels.

    Raises:
        DataError: the shard cannot be read as tar.
    """
    window = Window(read, shard.size, chunk_bytes)
    return _index(read_samples(window, members(window, to_text(shown(shard.address)))))


def encode_index(index: Index, shard: Shard, read: Read) -> bytes:
    """Return an index as the bytes of its file."""
    place = _place_of_probe(index.samples)
    known = {
        "version": _VERSION,
        "size": shard.size,
        "probe": hashlib.sha256(read(place, BLOCK)).hexdigest(),
        **index.facts,
    }
    sink = pa.BufferOutputStream()
    table = index.samples.replace_schema_metadata({"tellapart": json.dumps(known)})
    pq.write_table(table, sink, compression="zstd", use_dictionary=list(TEXT_COLUMNS))  # pyright: ignore[reportArgumentType]
    raw = sink.getvalue().to_pybytes()
    return raw + _MARK + hashlib.sha256(raw).digest()


def decode_index(raw: bytes, shard: Shard, read: Read) -> Index | None:
    """Return the index that `encode_index` made into bytes, or None if it is damaged or not that of this shard."""
    table, trailer = raw[:-_TRAILER_BYTES], raw[-_TRAILER_BYTES:]
    if trailer != _MARK + hashlib.sha256(table).digest():
        return None
    try:
        samples = pq.read_table(pa.BufferReader(table), read_dictionary=list(TEXT_COLUMNS), use_threads=False)
        index = _index(samples)
        is_ours = (index.facts["version"], index.facts["size"]) == (_VERSION, shard.size)
        if not is_ours or not _is_sound(index, shard.size):
            return None
        probe = hashlib.sha256(read(_place_of_probe(samples), BLOCK)).hexdigest()
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None
    return index if probe == index.facts["probe"] else None


def _index(samples: pa.Table) -> Index:
    facts = json.loads((samples.schema.metadata or {}).get(b"tellapart", b"{}"))
    return Index(samples.replace_schema_metadata(), facts)


def _is_sound(index: Index, size: int) -> bool:
    """Return whether an index read from disk is one that may be worked with: strangers may have written it."""
    samples, facts = index
    if not samples.schema.equals(SCHEMA) or not isinstance(facts["endings"], dict):
        return False
    if not isinstance(facts["num_several"], int) or not isinstance(facts["several"], list):
        return False
    if any(samples.column(name).null_count for name in ("name", "offset", "size")):
        return False
    names = samples.column("name")
    leads_away = pc.match_substring_regex(names, _LEADS_AWAY)  # pyright: ignore[reportAttributeAccessIssue]
    if len(names.unique()) < len(names) or leads_away.to_numpy().any():
        return False
    offset, length = (samples.column(name).to_numpy() for name in ("offset", "size"))
    is_inside = (offset >= BLOCK) & (length >= 0) & (length <= size) & (offset <= size - length)
    is_useless = samples.column("problem").is_valid().to_numpy()
    is_labelled = samples.column("label").is_valid().to_numpy()
    return bool(((is_inside & is_labelled) | (((offset == -1) | is_inside) & is_useless)).all())


def _place_of_probe(samples: pa.Table) -> int:
    """Return where the header of the last image lies; of a shard without one, where the file starts."""
    return max([BLOCK, *samples.column("offset").to_numpy()[-1:].tolist()]) - BLOCK


def _kept(shard: Shard) -> Path:
    """Return where in the cache the index of a shard lies; other names of labels make another index."""
    text = json.dumps([_VERSION, JSON_NAMES, shard.address, shard.size, shard.stamp])
    return cache_folder() / "indexes" / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}.index"


def _reader(read: Callable[[str, int, int], bytes], shard: Shard) -> Read:
    return lambda offset, size: read(shard.address, offset, size)


def _write(path: Path, raw: bytes) -> None:
    """Write a file under a temporary name and rename it, so that no half of one is ever found."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(raw)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
