"""What a run notes of where it was made; nothing there may fail, and nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tellapart.api.environment import environment, git_state

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    names = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "code"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("1\n")
    git(folder, "add", "a.py")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_everything_is_plain_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = json.loads(json.dumps(environment()))
    assert set(found) == {"command", "versions", "platform", "hardware", "git"}
    assert found["command"] == sys.argv
    assert set(found["versions"]) == {"tellapart", "python", "torch"}
    assert set(found["hardware"]) == {"cpu", "cores", "gpu"}
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["cpu"]


@needs_git
def test_the_commit_and_whether_something_changed(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state(repository) == {"commit": commit, "dirty": False}
    # A new file, such as a run, changes nothing that is known.
    (repository / "runs").mkdir()
    (repository / "runs" / "config.json").write_text("{}")
    assert git_state(repository / "runs") == {"commit": commit, "dirty": False}
    (repository / "a.py").write_text("2\n")
    assert git_state(repository) == {"commit": commit, "dirty": True}
    monkeypatch.chdir(repository)
    assert environment()["git"] == {"commit": commit, "dirty": True}


@needs_git
def test_a_program_that_the_repository_names_is_not_started(repository: Path) -> None:
    hook = repository / "hook.sh"
    hook.write_text(f"#!/bin/sh\ntouch {repository / 'started'}\n")
    hook.chmod(0o755)
    git(repository, "config", "core.fsmonitor", str(hook))
    assert git_state(repository) is not None
    assert not (repository / "started").exists()


@needs_git
def test_no_commit_and_no_repository(tmp_path: Path) -> None:
    assert git_state(tmp_path / "nowhere") is None
    (tmp_path / "new").mkdir()
    git(tmp_path / "new", "init", "-q")
    assert git_state(tmp_path / "new") is None


def test_no_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() is None


@pytest.mark.parametrize("error", [OSError("no"), subprocess.TimeoutExpired("git", 1)])
def test_a_git_that_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: object, **keywords: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert git_state() is None
