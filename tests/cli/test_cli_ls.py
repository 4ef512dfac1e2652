"""`ls runs`: the runs in a folder, for people and for programs; wrong calls are explained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tellapart import config as configs
from tellapart.cli.main import EXIT_ERROR, run
from tellapart.config import RunConfig, override
from tellapart.data.splits import Split


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, top1 in (("猫-one", 0.8), ("two", 0.9)):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        (path / "config.json").write_text(configs.dump(override(RunConfig(), {"data.source": "pets"})))
        Split(("a", "b"), ("x", "y"), ("train", "val"), ("1", "2")).save(path / "split.parquet")
        metrics = {"top1": {"value": top1, "low": top1 - 0.1, "high": top1 + 0.05}}
        (path / "result.json").write_text(json.dumps({"n": 1, "num_given": 1, "metrics": metrics, "epochs": 2}))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_runs_are_listed_best_first(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pets: accuracy on 1 image of val, 2 runs"
    assert lines[2].split()[:3] == ["two", "cifar10-cnn", "90.0%"]
    assert lines[3].split()[:3] == ["猫-one", "cifar10-cnn", "80.0%"]
    assert "\x1b" not in "".join(lines)


def test_runs_as_json(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "runs", str(runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [entry["name"] for entry in found] == ["two", "猫-one"]
    assert found[0]["val"]["metrics"]["top1"]["value"] == 0.9


def test_a_terminal_without_unicode_gets_ascii(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ascii:
        """Standard output with the encoding of an old terminal."""

        encoding = "ascii"

        def __init__(self) -> None:
            self.written = ""

        def write(self, text: str) -> int:
            self.written += text.encode("ascii").decode("ascii")
            return len(text)

        def isatty(self) -> bool:
            return False

        def flush(self) -> None:
            pass

    stream = Ascii()
    monkeypatch.setattr(sys, "stdout", stream)
    assert run(["ls", "runs"]) == 0
    assert "\\u732b-one" in stream.written


def test_an_empty_folder_and_a_missing_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ls", "runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no runs\n"
    assert run(["ls", "runs", str(tmp_path / "nowhere")]) == EXIT_ERROR
    assert "expected a folder that holds runs, found nothing" in capsys.readouterr().err


def test_only_runs_take_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(["ls", "models", "somewhere"])
    assert stopped.value.code == 2
    assert "only `ls runs` takes a folder" in capsys.readouterr().err
