"""Print one of the README's set-up commands: `python readme_commands.py README.md 0` (needs Python alone)."""

from __future__ import annotations

import sys
from pathlib import Path


def setup_commands(text: str) -> list[str]:
    """Return the README's commands that make an environment, in order."""
    return [line.strip() for line in text.splitlines() if line.strip().startswith("python3 -m venv")]


if __name__ == "__main__":
    print(setup_commands(Path(sys.argv[1]).read_text())[int(sys.argv[2])])
