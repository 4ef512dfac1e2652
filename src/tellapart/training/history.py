"""history.jsonl: a line a step interval and a line an epoch. A resumed run neither skips nor repeats one."""

from __future__ import annotations

import json
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

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line."""
        self._file.write(json.dumps(line, allow_nan=True).encode() + b"\n")

    def sync(self) -> int:
        """Put all lines on the disk and return the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._file.close()


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a history file; a last line that a killed run left torn is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
