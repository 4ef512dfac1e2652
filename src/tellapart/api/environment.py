"""Where a run was made: the command, the versions, the hardware, and the code of the working directory."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from typing import Any

import torch

import tellapart
from tellapart import hardware

# Longer than git takes for a repository of a million files; a run does not wait for a file system that hangs.
_GIT_TIMEOUT_S = 10.0


def environment() -> dict[str, Any]:
    """Return what is known of the place that a run is made in, as plain data for environment.json.

    `command`, `versions` and `platform`; `hardware`: `cpu` (its name), `cores` that this process may use, `gpu` (its
    name, or None); `git`: see `git_state`, None where the working directory is in no repository.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "command": sys.argv,
        "versions": versions(),
        "platform": platform.platform(),
        "hardware": {"cpu": hardware.cpu_name(), "cores": hardware.num_cpus(), "gpu": gpu},
        "git": git_state(),
    }


def versions() -> dict[str, str]:
    """Return the versions that decide what a run computes."""
    return {
        "tellapart": tellapart.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def git_state(folder: str | os.PathLike[str] = ".") -> dict[str, Any] | None:
    """Return the commit that a folder's repository is at, and whether it holds changes that are not committed.

    Files that git does not know, such as the run itself, are no change.

    Returns:
        `commit` (its hash) and `dirty` (a bool, or None where git could not tell); None where there is no repository,
        no commit or no git.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: str | os.PathLike[str], *arguments: str) -> str | None:
    """Return what a git command prints, or None where it fails; it changes nothing."""
    program = shutil.which("git")
    if program is None:
        return None
    # A repository's config can name a program to be asked about changes; who only trains in it did not ask for that.
    command = [program, "-c", "core.fsmonitor=false", "-C", os.fspath(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_GIT_TIMEOUT_S,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
