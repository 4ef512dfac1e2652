"""history.jsonl: nothing skipped, nothing twice, whatever moment a run was killed at."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tellapart.errors import RunError
from tellapart.training.history import History, read_history


def write(path: Path, count: int, num_bytes: int = 0, start: int = 0) -> int:
    history = History(path, num_bytes)
    for number in range(start, start + count):
        history.append({"kind": "step", "step": number, "lr": 0.1})
    length = history.sync()
    history.close()
    return length


def test_lines_come_back_as_they_were(tmp_path: Path) -> None:
    length = write(tmp_path / "h.jsonl", 3)
    assert length == (tmp_path / "h.jsonl").stat().st_size
    assert [line["step"] for line in read_history(tmp_path / "h.jsonl")] == [0, 1, 2]
    assert read_history(tmp_path / "other.jsonl") == []


def test_what_came_after_the_checkpoint_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    length = write(path, 2)
    write(path, 5, num_bytes=length, start=2)
    assert write(path, 1, num_bytes=length, start=2) == path.stat().st_size
    assert [line["step"] for line in read_history(path)] == [0, 1, 2]


def test_a_checkpoint_right_after_resuming_notes_the_length_that_the_file_has(tmp_path: Path) -> None:
    """A run that is killed twice without a line in between must be able to go on a second time."""
    path = tmp_path / "h.jsonl"
    first = write(path, 1)
    write(path, 9, num_bytes=first)
    second = write(path, 0, num_bytes=first)
    assert second == first == path.stat().st_size
    assert write(path, 1, num_bytes=second, start=1) > first
    assert [line["step"] for line in read_history(path)] == [0, 1]


def test_a_file_that_lost_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    length = write(path, 2)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(RunError, match=rf"expected {length} bytes of history, found {length - 3}"):
        History(path, length)


def test_numbers_that_json_has_not_become_null(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    history = History(path)
    history.append({"a": math.nan, "b": -math.inf, "c": 0.1 + 0.2})
    history.close()
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {"a": None, "b": None, "c": 0.1 + 0.2}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    write(path, 3)
    path.write_bytes(path.read_bytes()[:-9])
    assert [line["step"] for line in read_history(path)] == [0, 1]


def test_damage_before_the_last_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    write(path, 3)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:-4], lines[2], ""]))
    with pytest.raises(RunError, match="line 2"):
        read_history(path)
