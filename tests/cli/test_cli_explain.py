"""`tellapart explain`: what a person reads, what a program reads, and the exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tellapart
from tellapart.cli.main import run as command

pytest.importorskip("captum", reason="captum is not installed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_images: Callable[..., Path]) -> Path:
    root = tmp_path_factory.mktemp("explained")
    write_images(root / "images", {"ant": 10, "bee": 10}, ((20, 24), (16, 16)))
    options: dict[str, Any] = {"train.batch_size": 8, "preprocess.size_px": 16, "train.report": "no"}
    tellapart.train(root / "images", model="cnn", epochs=1, run=root / "run", options=options, progress=False)
    return root


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = command(["explain", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def image(trained: Path, name: str = "ant/000.png") -> Path:
    return trained / "images" / name


def test_what_a_person_reads(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, trained / "run", image(trained), "--neighbours", 3)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith(f"{image(trained)}: ")
    assert "looks for '" in out or "zero everywhere" in out
    assert sum(line.startswith("     ") for line in lines) == 3


def test_what_a_program_reads(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, trained / "run", image(trained), image(trained, "bee/001.png"), "--json")
    assert code == 0
    found = json.loads(out)
    assert list(found) == ["run", "layer", "images", "notes", "page"]
    assert found["layer"] == {"name": "features.4", "grid": [4, 4]}
    assert [each["path"] for each in found["images"]] == [str(image(trained)), str(image(trained, "bee/001.png"))]
    first = found["images"][0]
    assert first["prob"] == pytest.approx(max(each["prob"] for each in first["top"]))
    assert len(first["neighbours"]) == 6
    assert first["true"] == "ant"
    assert err == ""


@pytest.mark.parametrize(
    "order", ["RUN IMAGE OPTION", "RUN OPTION IMAGE", "OPTION RUN IMAGE", "OPTION RUN OTHER IMAGE"]
)
def test_images_may_stand_anywhere(trained: Path, order: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = {
        "RUN": [trained / "run"],
        "IMAGE": [image(trained), image(trained, "bee/000.png")],
        "OPTION": ["--neighbours", 0],
        "OTHER": ["--class", "bee"],
    }
    code, out, err = said(capsys, *[word for name in order.split() for word in words[name]], "--json")
    assert (code, err) == (0, "")
    assert len(json.loads(out)["images"]) == 2


def test_an_unreadable_image_is_a_line_and_exit_code_1(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, out, err = said(capsys, trained / "run", tmp_path / "bad.png", image(trained), "--out", tmp_path / "p.html")
    assert code == 1
    assert out.splitlines()[0].startswith(f"{tmp_path / 'bad.png'}: cannot be read: ")
    assert f"\n{image(trained)}: " in out
    assert out.splitlines()[-1] == f"page: {tmp_path / 'p.html'}"
    assert "1 of 2 images cannot be read" in err
    assert (tmp_path / "p.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_mistakes_and_rows(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, trained / "run", "--index", 0, 3, "--neighbours", 0, "--json")
    assert code == 0
    assert len(json.loads(out)["images"]) == 2
    code, out, _ = said(capsys, trained / "run", "--split", "val", "--mistakes", 2, "--json")
    assert code == 0
    assert all(each["is_right"] is False for each in json.loads(out)["images"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--class", "bea"], "Did you mean 'bee'?"),
        (["--layer", "feature.4"], "Did you mean 'features.4'?"),
        (["--out", "page.png"], "ends in .html"),
        (["--split", "test"], "tellapart evaluate"),
        (["--index", "99"], "has the rows 0 to 19"),
    ],
)
def test_problems_are_said_and_exit_with_1(
    trained: Path, arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, trained / "run", image(trained), *arguments)
    assert (code, out) == (1, "")
    assert text in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "expected images, or --split with --mistakes, or --index"),
        (["a.png", "--neighbours", "-1"], "--neighbours: expected 0 or more"),
        (["--mistakes", "0"], "--mistakes: expected at least 1"),
        (["--split", "tset"], "invalid choice"),
        (["a.png", "--neighbors", "3"], "Did you mean '--neighbours'?"),
    ],
)
def test_wrong_calls_exit_with_2(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command(["explain", "runs/x", *arguments])
    assert caught.value.code == 2
    assert text in capsys.readouterr().err


def test_without_captum(trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    code, out, err = said(capsys, trained / "run", image(trained))
    assert (code, out) == (1, "")
    assert "pip install 'tellapart[explain]'" in err
