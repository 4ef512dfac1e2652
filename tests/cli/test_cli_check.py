"""`tellapart check` as it is typed: what goes to stdout, what to stderr, and what it exits with."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tellapart.errors import DataError

MakeFolder = Callable[..., Path]
Captured = pytest.CaptureFixture[str]
verb = importlib.import_module("tellapart.cli.check")


@pytest.fixture
def photos(make_folder: MakeFolder) -> Path:
    root = make_folder({"train/ant": 12, "train/bee": 12, "test/ant": 4, "test/bee": 4}, sizes=((24, 24),))
    (root / "train/ant/leaked.png").write_bytes((root / "test/ant/000.png").read_bytes())
    return root


def test_findings_are_printed_with_examples_and_advice(photos: Path, capsys: Captured) -> None:
    assert verb.run([str(photos), "--quick"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "images: 33 images, 2 classes: train 25  test 8"
    assert lines[1].startswith("error    1 of 8 test images (12.5%) has the pixels of one in train.")
    assert lines[1].endswith("leak")
    assert lines[2] == "           test/ant/000.png = train/ant/leaked.png"
    assert lines[3].startswith("         -> The number on test flatters")
    assert lines[-1].startswith("1 error; read in ")
    assert all(len(line) <= 80 for line in lines)


def test_json_is_alone_on_stdout(photos: Path, capsys: Captured) -> None:
    assert verb.run([str(photos), "--quick", "--json"]) == 0
    out, _ = capsys.readouterr()
    assert out.count("\n") == 1
    found = json.loads(out, parse_constant=pytest.fail)
    assert [finding["kind"] for finding in found["findings"]] == ["leak"]
    assert found["html"] is None
    assert found["fix"] is None


def test_strict_exits_with_1_where_something_is_wrong(photos: Path, capsys: Captured) -> None:
    assert verb.run([str(photos), "--quick", "--strict"]) == 1
    (photos / "train/ant/leaked.png").unlink()
    assert verb.run([str(photos), "--quick", "--strict"]) == 0
    out = capsys.readouterr().out
    assert "Nothing found." in out
    assert "not compared for near duplicates (--quick)" in out


def test_what_was_written_is_said_with_the_next_command(photos: Path, tmp_path: Path, capsys: Captured) -> None:
    page, manifest = tmp_path / "page.html", tmp_path / "clean.csv"
    assert verb.run([str(photos), "--quick", "--html", str(page), "--fix", str(manifest)]) == 0
    out = capsys.readouterr().out
    assert f"page: {page}" in out
    assert f"manifest: {manifest} (32 kept, 1 left out, 0 marked to be looked at)" in out
    assert f"left out: {tmp_path / 'clean.left-out.csv'}" in out
    assert f"next: tellapart train {manifest}" in out
    assert page.is_file()


def test_a_name_cannot_write_to_the_terminal(tmp_path: Path, capsys: Captured) -> None:
    for name in ("ant", "be\x1b[31me"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "\x1b]0;owned\x07\u202e.png").write_bytes(b"")
        for place in range(3):
            Image.fromarray(np.full((9, 9), 40 * place, np.uint8)).save(tmp_path / name / f"{place}\x9b2J.png")
    (tmp_path / "\x1b[2Jempty").mkdir()
    assert verb.run([str(tmp_path), "--quick"]) == 0
    assert verb.run([str(tmp_path), "--quick", "--json"]) == 0
    out = capsys.readouterr().out
    assert r"\x1b]0;owned\x07\u202e.png" in out
    assert all(letter.isprintable() or letter == "\n" for letter in out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "expected DATA, or --run RUN"), (["x", "--max-examples", "0"], "at least 1"), (["x", "--htm"], "--html")],
)
def test_wrong_calls_exit_with_2(arguments: list[str], says: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        verb.run(arguments)
    assert caught.value.code == 2
    assert says in capsys.readouterr().err


def test_examples_are_as_many_as_asked_for(tmp_path: Path, capsys: Captured, make_folder: MakeFolder) -> None:
    root = make_folder({"ant": 3, "bee": 3})
    for place in range(6):
        (root / "ant" / f"broken {place}.png").write_bytes(b"")
    assert verb.run([str(root), "--quick", "--max-examples", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("an empty file") == 2
    assert "and 4 more" in out


def test_findings_are_printed_also_where_the_manifest_cannot_be(
    photos: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise DataError("--fix: No space left on device")

    monkeypatch.setattr("tellapart.api.check.write_fixed", full)
    with pytest.raises(DataError, match="No space left"):
        verb.run([str(photos), "--quick", "--fix", str(tmp_path / "clean.csv")])
    assert "have the pixels" in capsys.readouterr().out.replace("has the pixels", "have the pixels")
