"""The folder that shards are packed into: who may write there, what is in it, and what a stopped pack has left.

Until all is whole, everything lies in OUT/.packing, where no source looks, so that half a data set is never taken for
one: `plan.json`, for each shard NAME the shard as NAME.whole and its record as NAME.json, and NAME.part while it is
being written. Then the shards are moved to OUT, and `pack.json` is written last.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tellapart.errors import RunError

_WORKSHOP = ".packing"
PACK_FILE = "pack.json"
# Written beside the shards; `.tar.index.json` and the like are recognised by the shard's name in front.
_OWN_FILES = (PACK_FILE, "README.md", "classes.json")
_SHARD_ENDINGS = (".parquet", ".tar")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Folder:
    """OUT and the workshop inside it."""

    def __init__(self, out: Path) -> None:
        self.out, self._shop = out, out / _WORKSHOP

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, and keep other processes from packing into it while the block runs.

        Raises:
            RunError: it cannot be made or written to, is no folder, or another process packs into it.
        """
        with self._errors_in_words():
            if self.out.exists() and not self.out.is_dir():
                raise RunError(f"{self.out}: is a file. Give a folder for the shards, new or empty.")
            self.out.mkdir(parents=True, exist_ok=True)
            with _locked(self.out):
                yield

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # whoever read what is printed has gone; the folder is in order
            raise
        except OSError as error:
            what = error.strerror or error
            if error.errno in _FULL:
                raise RunError(
                    f"{self.out}: the disk is full, or what may be written there is limited ({what}). What is whole is "
                    "kept: make room, and the same command goes on from there."
                ) from error
            where = f" ({error.filename})" if error.filename else ""
            raise RunError(f"{self.out}: cannot be written to: {what}{where}.") from error

    def stored(self) -> dict[str, Any] | None:
        """Return what was begun or finished here: {"plan": ..., "shards": {file: record}, "is_done": ...}, or None.

        Raises:
            RunError: files lie here that packing did not make, or what is stored cannot be read.
        """
        pack, plan = _read_json(self.out / PACK_FILE), _read_json(self._shop / "plan.json")
        try:
            records = {record["file"]: record for record in (pack or {}).get("shards", [])}
            for path in sorted(self._shop.glob("*.json")):
                if path.name != "plan.json":
                    record = _read_json(path) or {}
                    records[record["file"]] = record
            chosen = pack["plan"] if pack is not None else plan
        except (KeyError, TypeError) as error:
            raise RunError(
                f"{self.out}: holds a {PACK_FILE} that packing did not write. Give another folder."
            ) from error
        self._refuse_foreign(None if chosen is None else set(records))
        return None if chosen is None else {"plan": chosen, "shards": records, "is_done": pack is not None}

    def _refuse_foreign(self, known: set[str] | None) -> None:
        """Refuse what would be mixed with the shards: in a new folder any file, in a known one other shards."""
        names = sorted(path.name for path in self.out.iterdir() if not path.name.startswith("."))
        if known is None:
            foreign = names
        else:
            foreign = [name for name in names if name.endswith(_SHARD_ENDINGS) and name not in known]
        if foreign:
            shown = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3:,} more" if len(foreign) > 3 else "")
            raise RunError(f"{self.out}: holds what packing did not put there ({shown}). Give a new or empty folder.")

    def begin(self, plan: dict[str, Any]) -> None:
        """Store the plan, and drop what a stopped process has left unfinished."""
        self._shop.mkdir(exist_ok=True)
        for path in self._shop.glob("*.part"):
            path.unlink()
        write_json(self._shop / "plan.json", plan)

    def has(self, record: dict[str, Any] | None) -> bool:
        """Return whether the shard of a record is there, here or in the workshop, with the size that it had."""
        return record is not None and any(
            path.is_file() and path.stat().st_size == record["num_bytes"]
            for path in (self.out / record["file"], self._whole(record["file"]))
        )

    def _whole(self, file: str) -> Path:
        return self._shop / f"{file}.whole"

    def part(self, file: str) -> Path:
        """Return where a shard is written."""
        return self._shop / f"{file}.part"

    def keep(self, file: str, record: dict[str, Any]) -> None:
        """Count a shard as whole: its bytes are on the disk, and its record with them."""
        self.part(file).replace(self._whole(file))
        sync_folder(self._shop)
        write_json(self._shop / f"{file}.json", record)

    def publish(self, files: list[str]) -> None:
        """Move the whole shards to where sources find them."""
        for file in files:
            if self._whole(file).exists():
                self._whole(file).replace(self.out / file)
        sync_folder(self.out)

    def finish(self, pack: dict[str, Any]) -> None:
        """Write `pack.json`, which says that all is there, and remove the workshop."""
        if _read_json(self.out / PACK_FILE) != pack:
            write_json(self.out / PACK_FILE, pack)
        shutil.rmtree(self._shop, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read as JSON: {error}. Remove it, or give another folder.") from error
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either whole or not there."""
    write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or not there."""
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(folder: Path, patience_s: float = 10.0) -> Iterator[None]:
    """Hold a lock on a folder that ends with the process, and with the processes it has forked."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock; there nothing keeps two from the same folder.
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    end = time.monotonic() + patience_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                # The worker processes of one that was just killed need a moment to notice.
                if time.monotonic() > end:
                    raise RunError(f"{folder}: another process is packing into this folder.") from error
                time.sleep(0.1)
            except OSError:  # file systems without locks
                break
        yield
    finally:
        os.close(descriptor)
