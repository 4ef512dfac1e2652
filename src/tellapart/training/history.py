"""history.jsonl: a line a step interval and a line an epoch. A resumed run neither skips nor repeats one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tellapart.errors import RunError


class History:
    """The lines of one run, appended as they happen.

    Args:
        path: the file; made if it is missing.
        num_bytes: for a resumed run, the length its checkpoint noted; what was written after is taken back, because
            the resumed run writes it again.

    Raises:
        RunError: the file is shorter than the checkpoint says.
    """

    def __init__(self, path: Path, num_bytes: int = 0) -> None:
        self.path = path
        found = path.stat().st_size if path.exists() else 0
        if found < num_bytes:
            raise RunError(f"{path}: expected {num_bytes} bytes of history, found {found}. Was it edited?")
        self._file = path.open("ab")
        self._file.truncate(num_bytes)
        # Truncating leaves the position where it was, and `sync` would report a length that the file has not.
        self._file.seek(num_bytes)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line; NaN and infinity, which JSON has not, become null."""
        plain = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in line.items()}
        self._file.write(json.dumps(plain, allow_nan=False).encode() + b"\n")

    def sync(self) -> int:
        """Put all lines on the disk and return the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._file.close()


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a history file; a last line that a killed run left torn is left out.

    Raises:
        RunError: another line is not JSON.
    """
    lines: list[dict[str, Any]] = []
    texts = path.read_bytes().splitlines() if path.exists() else []
    for number, text in enumerate(texts, start=1):
        try:
            lines.append(json.loads(text))
        except ValueError:
            if number < len(texts):
                raise RunError(f"{path}, line {number}: not JSON. Was the file edited?") from None
    return lines
