"""Packing itself: plan, encode in processes, write shard after shard, and say what was done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tellapart.data.packing.encode import Encoded
from tellapart.data.packing.folder import Folder
from tellapart.data.packing.formats import FORMATS, Layout, Row
from tellapart.data.packing.plan import Plan, Settings, Shard, make_plan, probe_rows
from tellapart.data.packing.summary import (
    HashedFile,
    ShardRecord,
    format_bytes,
    refuse_unreadable,
    summarize,
    write_beside,
)
from tellapart.data.packing.workers import encode_in_order
from tellapart.data.sources import Source
from tellapart.errors import ConfigError, RunError

# Handed to a process at a time: so little that Ctrl-C need not wait, so much that handing over costs little.
_CHUNK_BYTES, _CHUNK_ROWS = 2**20, 64

Task = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


def pack_source(
    source: Source,
    out: Path,
    settings: Settings,
    *,
    bad_images: str = "fail",
    num_workers: int = -1,
    say: Callable[[str], None],
    task: Task,
) -> dict[str, Any]:
    """Write the source's shards, or those of them that are lacking, and return what `pack.json` then holds.

    Args:
        source: what to pack.
        out: the folder, new, empty or of an earlier call with the same source and settings.
        settings: how to pack it.
        bad_images: "fail" ends with an error when all is written but what cannot be read; "skip" leaves that out.
        num_workers: processes; 0 works in this one; -1 is one a core.
        say: shows a sentence.
        task: opens a progress bar, given a title and a number of images.

    Raises:
        RunError: the folder holds something else or cannot be written to, or the disk is full.
        DataError: all images cannot be read, or any with `bad_images` "fail".
        ConfigError: `bad_images` is neither.
    """
    if bad_images not in ("fail", "skip"):
        raise ConfigError([f"bad_images: expected fail or skip, found '{bad_images}'"])
    folder = Folder(out)
    with folder.claimed():
        stored = folder.stored()
        plan = _settle(stored, make_plan(source, settings, _probe(source, settings, num_workers)), out)
        records: dict[str, dict[str, Any]] = {} if stored is None else stored["shards"]
        shards = plan.shards(source)
        # What could not be read may have been mended since; who skips it has said that it does not matter.
        again = {file for file, record in records.items() if record["unreadable"] and bad_images == "fail"}
        pending = [shard for shard in shards if shard.file in again or not folder.has(records.get(shard.file))]
        num_there = sum(len(shard.rows) for shard in shards) - (num_left := sum(len(shard.rows) for shard in pending))
        _require_room(out, num_left * plan.mean_bytes)
        folder.begin(plan.as_dict())
        if num_there:
            say(f"{len(shards) - len(pending):,} of {len(shards):,} shards are there already.")
        with task("packing", num_there + num_left) as advance:
            advance(num_there)
            for record in _write_shards(source, plan, pending, folder, num_workers, advance):
                records[record.file] = asdict(record)
        pack = summarize(plan, [records[shard.file] for shard in shards])
        refuse_unreadable(pack, bad_images)
        folder.publish([shard.file for shard in shards])
        write_beside(out, pack)
        folder.finish(pack)
        return pack


def _probe(source: Source, settings: Settings, num_workers: int) -> list[Encoded]:
    chunks = [[row] for row in probe_rows(source)]
    with closing(encode_in_order(source, chunks, settings.reduction, num_workers)) as results:
        return [image for images in results for image in images]


def _settle(stored: dict[str, Any] | None, plan: Plan, out: Path) -> Plan:
    """Return the plan to follow: the one that was begun with, if this is the same work."""
    if stored is None:
        return plan
    try:
        begun = Plan.from_dict(stored["plan"])
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise RunError(f"{out}: was packed by another version of Tellapart. Give a new folder.") from error
    if problems := begun.differences(plan):
        state = "holds another pack" if stored["is_done"] else "holds the beginnings of another pack"
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise RunError(f"{out}: {state}:\n{listed}\nGive the same as then, or a new folder.")
    return begun


def _require_room(out: Path, num_bytes: float) -> None:
    free = shutil.disk_usage(out).free
    # The estimate is good to a tenth or so; what it says of a nearly full disk is left to the disk.
    if 0.9 * num_bytes > free:
        raise RunError(
            f"{out}: about {format_bytes(num_bytes)} are still to be written, and {format_bytes(free)} are free there. "
            "Make room, give a folder on another disk, or a smaller --max-size."
        )


def _write_shards(
    source: Source,
    plan: Plan,
    pending: Sequence[Shard],
    folder: Folder,
    num_workers: int,
    advance: Callable[[int], None],
) -> Iterator[ShardRecord]:
    size = max(1, min(_CHUNK_ROWS, int(_CHUNK_BYTES / max(1.0, plan.mean_bytes_before))))
    chunks = (
        shard.reading[start : start + size].tolist() for shard in pending for start in range(0, len(shard.rows), size)
    )
    with closing(encode_in_order(source, chunks, plan.settings.reduction, num_workers)) as results:
        images = (image for images in results for image in images)
        for shard in pending:
            yield _write_shard(source, plan, shard, images, folder, advance)


def _write_shard(
    source: Source,
    plan: Plan,
    shard: Shard,
    images: Iterator[Encoded],
    folder: Folder,
    advance: Callable[[int], None],
) -> ShardRecord:
    record = ShardRecord(shard.file)
    with folder.part(shard.file).open("wb") as raw:
        file = HashedFile(raw)
        writer = FORMATS[plan.settings.format].open(file, Layout.of(source))  # pyright: ignore[reportArgumentType]
        try:
            for index, image in _in_order(shard, images, advance):
                record.count(source.paths[index], image)
                if not image.error:
                    writer.add(_row(source, index, image))
        finally:
            # Also after an error: a Parquet writer that is left open writes when it is collected, to a closed file.
            writer.close()
        raw.flush()
        os.fsync(raw.fileno())
    record.num_bytes, record.sha256 = file.num_bytes, file.digest.hexdigest()
    folder.keep(shard.file, asdict(record))
    return record


def _in_order(shard: Shard, images: Iterator[Encoded], advance: Callable[[int], None]) -> Iterator[tuple[int, Encoded]]:
    """Yield the samples of a shard with their images as they are to be written, in whichever order they come."""
    # The rows go first: `zip` would take one image too many from an iterator in front.
    coming = zip(shard.reading.tolist(), images, strict=False)
    held: dict[int, Encoded] = {}
    for index in shard.rows.tolist():
        while index not in held:
            read, image = next(coming)
            held[read] = image
            advance(1)
        yield index, held.pop(index)


def _row(source: Source, index: int, image: Encoded) -> Row:
    group = source.groups[index] if source.groups is not None else ""
    time = source.times[index] if source.times is not None else ""
    return Row(index, image.data, image.ending, source.paths[index], source.targets[index], group, time)
