"""Parts of files behind an address (s3://, gs://, https://, ...), read by offset through fsspec.

Neighbouring reads share blocks of several MiB that are fetched ahead; reads far apart fetch what they need. Memory is
bounded either way. A file system is made anew in every process, because fsspec's do not survive a fork.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from tellapart.data.sources.tar.local import PerProcess
from tellapart.data.sources.tar.remote_system import (
    cause_of,
    is_alike,
    is_final,
    no_parts,
    open_system,
    refused,
    said,
    shown,
)
from tellapart.errors import DataError

T = TypeVar("T")
_BLOCK_BYTES, _NUM_BLOCKS = 2**23, 4
# So many reads decide whether neighbours are read.
_NUM_REMEMBERED = 32
_NUM_ATTEMPTS, _FIRST_WAIT_S = 4, 0.5
# An index of a million samples takes 20 MB.
_MAX_SMALL_BYTES = 2**28
# What a store gives as the version of a file, or else its time.
_STAMPS = ("ETag", "etag", "md5Hash", "Last-Modified", "LastModified", "updated", "mtime", "created")


class NotThereError(DataError):
    """There is no file at the address."""


class _Passing(Exception):  # noqa: N818 - it never leaves this module
    """What came is not what was asked for, and may be the next time."""


class _Block(NamedTuple):
    address: str
    number: int


class _State:
    """What one process holds."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.systems: dict[str, Any] = {}
        self.blocks: OrderedDict[_Block, Future[bytes]] = OrderedDict()
        self.recent: deque[_Block] = deque(maxlen=_NUM_REMEMBERED)
        self.ahead = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self.waiting: Future[Any] | None = None


class RemoteFiles:
    """Reads parts of files by address; safe to use from threads, after a fork, and after pickling.

    Args:
        block_bytes: what neighbouring reads share.
        num_blocks: how many blocks a process holds at most.
        first_wait_s: the wait after a first failure; each further one is twice as long.
    """

    def __init__(
        self, block_bytes: int = _BLOCK_BYTES, num_blocks: int = _NUM_BLOCKS, first_wait_s: float = _FIRST_WAIT_S
    ) -> None:
        self.block_bytes, self.num_blocks, self.first_wait_s = block_bytes, num_blocks, first_wait_s
        self._state = PerProcess(_State)
        self._sizes: dict[str, int] = {}

    def facts(self, address: str) -> tuple[int, str]:
        """Return the size of a file in bytes, and text that changes when its content does, "" if nothing does.

        Raises:
            NotThereError: it is not there.
            DataError: the network fails, or the server tells no size or gives no parts of files.
            MissingError: a package for this kind of address is not installed.
        """
        system, path = self._system(address)
        info = self._try(address, partial(system.info, path))
        size = info.get("size")
        if size is None or info.get("partial") is False:
            lacking = "tell how large the file is" if size is None else "give parts of a file"
            raise DataError(
                f"{shown(address)}: the server does not {lacking}. Copy the file to a disk and read it there."
            )
        self._sizes[address] = int(size)
        return int(size), next((str(info[name]) for name in _STAMPS if info.get(name)), "")

    def require_parts(self, address: str) -> None:
        """Find out, without fetching it, whether the server gives parts of a file, as not every HTTP server does.

        Raises:
            DataError: it does not.
        """
        system, path = self._system(address)
        if not address.startswith(("http://", "https://")) or self._sizes[address] < 2:
            return

        def read_second_byte() -> int:
            with system.open(path, "rb", block_size=2**10, cache_type="none", size=self._sizes[address]) as file:
                file.seek(1)
                return len(file.read(1))

        try:
            self._try(address, read_second_byte)
        except DataError as error:
            if isinstance(error.__cause__, ValueError):
                raise no_parts(address) from error
            raise

    def find(self, folder: str, pattern: str) -> list[str]:
        """Return the addresses below a folder that match a pattern with "*", sorted; none where there is no folder.

        Raises:
            DataError, MissingError: as `facts`.
        """
        system, path = self._system(f"{folder}/")
        root = path.rstrip("/")
        try:
            found = self._try(folder, partial(system.glob, f"{root}/{pattern}"))
        except NotThereError:
            return []
        return sorted(f"{folder}/{name.removeprefix(root).lstrip('/')}" for name in found)

    def read_small(self, address: str) -> bytes | None:
        """Return a whole file, or None if it is not there, may not be read, or is not small.

        Raises:
            DataError: the network fails.
        """
        system, path = self._system(address)
        try:
            size = self._try(address, partial(system.info, path)).get("size")
            if size is None or size > _MAX_SMALL_BYTES:
                return None
            return self._try(address, partial(system.cat_file, path))
        except DataError as error:
            if error.__cause__ is not None and is_final(error.__cause__):
                return None
            raise

    def read(self, address: str, offset: int, size: int) -> bytes:
        """Return `size` bytes of a file from `offset` on.

        Raises:
            DataError: they cannot be read, also not after several attempts.
        """
        first, last = offset // self.block_bytes, max(offset, offset + size - 1) // self.block_bytes
        wanted = [_Block(address, number) for number in range(first, last + 1)]
        state = self._state.get()
        with state.lock:
            before = set(state.recent)
            held = all(block in state.blocks for block in wanted)
            # The neighbours of single images that lie far apart would be fetched in vain.
            is_near = wanted[0] in before or _Block(address, first - 1) in before
            is_gainful = is_near and len(before) <= self.num_blocks and len(wanted) < self.num_blocks
            state.recent.append(wanted[-1])
        is_inside = offset + size <= self._sizes[address]
        if not is_inside or not (held or is_gainful):
            return self._fetch(address, offset, size)
        whole = b"".join(self._block(state, block) for block in wanted)
        if _Block(address, first - 1) in before:
            self._read_ahead(state, _Block(address, last + 1))
        start = offset - first * self.block_bytes
        return whole[start : start + size]

    def read_apart(self, address: str, offset: int, size: int) -> bytes:
        """Return the same as `read`, past the blocks: for whoever reads in large steps anyway."""
        return self._fetch(address, offset, size)

    def read_many(self, wanted: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Return the bytes at each (address, offset, size), asked for at the same time where fsspec can.

        Raises:
            DataError: as `read`.
        """
        if not wanted:
            return []
        system, _ = self._system(wanted[0][0])
        apart = [self._system(address) for address, _, _ in wanted]
        if any(other is not system for other, _ in apart):
            return [self._fetch(*part) for part in wanted]
        starts, ends = [offset for _, offset, _ in wanted], [offset + size for _, offset, size in wanted]
        try:
            found = system.cat_ranges([path for _, path in apart], starts, ends, on_error="return")
        except Exception:  # each of fsspec's file systems raises its own kinds
            found = [None] * len(wanted)
        # What failed is asked for again, one by one, with the waits and the errors of `read`.
        return [
            bytes(piece) if isinstance(piece, bytes) and len(piece) == part[2] else self._fetch(*part)
            for piece, part in zip(found, wanted, strict=True)
        ]

    def _block(self, state: _State, block: _Block) -> bytes:
        with state.lock:
            future = state.blocks.get(block)
            is_mine = future is None
            if future is None:
                future = state.blocks[block] = Future()
            state.blocks.move_to_end(block)
            while len(state.blocks) > self.num_blocks:
                state.blocks.popitem(last=False)
        if is_mine:
            start = block.number * self.block_bytes
            try:
                size = min(self.block_bytes, self._sizes[block.address] - start)
                future.set_result(self._fetch(block.address, start, size))
            except BaseException as error:
                with state.lock:
                    state.blocks.pop(block, None)
                future.set_exception(error)
        return future.result()

    def _read_ahead(self, state: _State, block: _Block) -> None:
        with state.lock:
            is_busy = state.waiting is not None and not state.waiting.done()
            if is_busy or block in state.blocks or block.number * self.block_bytes >= self._sizes[block.address]:
                return
            state.waiting = state.ahead.submit(self._block, state, block)

    def _fetch(self, address: str, offset: int, size: int) -> bytes:
        system, path = self._system(address)

        def fetch() -> bytes:
            data = system.cat_file(path, start=offset, end=offset + size) if size else b""
            if len(data) > size:
                raise no_parts(address)
            if len(data) < size:
                raise _Passing(f"{len(data):,} of {size:,} bytes came, from byte {offset:,} on")
            return data

        return self._try(address, fetch)

    def _try(self, address: str, call: Callable[[], T]) -> T:
        """Return what `call` does, called again after growing waits where the failure may pass."""
        failure: BaseException | None = None
        for attempt in range(_NUM_ATTEMPTS):
            if attempt:
                time.sleep(self.first_wait_s * 2 ** (attempt - 1))
            try:
                return call()
            except DataError:
                raise
            except Exception as error:  # each of fsspec's file systems raises its own kinds
                failure = cause_of(error)
                if isinstance(failure, FileNotFoundError):
                    raise NotThereError(f"{shown(address)}: there is no such file.") from error
                if is_final(failure):
                    raise DataError(refused(address, failure)) from failure
        raise DataError(
            f"{shown(address)}: could not be read in {_NUM_ATTEMPTS} attempts: {said(address, failure)}. Is the "
            "network there? Give the command again, or resume the run, when it is."
        ) from failure

    def _system(self, address: str) -> tuple[Any, str]:
        """Return this process's file system for an address, and the path in it."""
        state, folder = self._state.get(), address.rpartition("/")[0]
        if (system := state.systems.get(folder)) is None:
            made = open_system(address)
            with state.lock:
                # Addresses of the same store share its connections.
                same = next((other for other in state.systems.values() if is_alike(other, made)), made)
                system = state.systems.setdefault(folder, same)
        return system, system._strip_protocol(address)
