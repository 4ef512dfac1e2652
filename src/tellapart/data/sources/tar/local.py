"""Parts of large local files, read by offset through file descriptors that stay open."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from tellapart.data.unreadable import ImageError
from tellapart.errors import DataError

T = TypeVar("T")
# Far below the usual limit of 1,024, which loaders' pipes and sockets share.
_MAX_OPEN = 128
# What other processes' objects hold: letting go of it here would close connections that are not this process's.
_abandoned: list[Any] = []


class PerProcess(Generic[T]):
    """A value that every process makes for itself: a fork's child and an unpickled copy start with a new one."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: tuple[int, T] | None = None

    def get(self) -> T:
        """Return this process's value."""
        if self._made is None or self._made[0] != os.getpid():
            if self._made is not None:
                _abandoned.append(self._made)
            self._made = (os.getpid(), self._make())
        return self._made[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_made": None}


class _Descriptor:
    """An open file, closed when nobody uses it any more: a thread may still read what another one pushed out."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _Open:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: OrderedDict[str, _Descriptor] = OrderedDict()


class LocalFiles:
    """Reads parts of files by path; safe to use from threads, after a fork, and after pickling."""

    def __init__(self) -> None:
        self._open = PerProcess(_Open)
        self._known: dict[str, tuple[int, str]] = {}

    def facts(self, path: str) -> tuple[int, str]:
        """Return the size of a file in bytes, and text that changes when its content does.

        Raises:
            FileNotFoundError: it is not there.
            DataError: it is no file.
        """
        if not Path(path).is_file():
            if not Path(path).exists():
                raise FileNotFoundError(path)
            raise DataError(f"{path}: expected a file.")
        self._known[path] = _facts(Path(path).stat())
        return self._known[path]

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Return the bytes of a file from `offset` on, fewer than `size` only where the file ends.

        Raises:
            ImageError: the file is no longer there or cannot be read.
            DataError: it has been changed since `facts` was called.
        """
        try:
            file = self._descriptor(path)
            # A call reads at most 2 GiB, and may be cut short by a signal.
            pieces = []
            while size > 0 and (piece := os.pread(file.number, min(size, 2**30), offset)):
                pieces.append(piece)
                offset, size = offset + len(piece), size - len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        except OSError as error:
            raise ImageError(f"{path} cannot be read ({error.strerror or error})") from error

    def read_small(self, path: str) -> bytes | None:
        """Return a whole file, or None if it is not there or cannot be read."""
        try:
            return Path(path).read_bytes()
        except OSError:
            return None

    def _descriptor(self, path: str) -> _Descriptor:
        open_files = self._open.get()
        with open_files.lock:
            if (file := open_files.files.get(path)) is not None:
                open_files.files.move_to_end(path)
                return file
            file = _Descriptor(path)
            if (known := self._known.get(path)) and known != _facts(os.fstat(file.number)):
                raise DataError(f"{path}: has been changed since it was opened. Start the command anew to read it.")
            open_files.files[path] = file
            while len(open_files.files) > _MAX_OPEN:
                open_files.files.popitem(last=False)
            return file


def _facts(status: os.stat_result) -> tuple[int, str]:
    return status.st_size, f"{status.st_mtime_ns}"
