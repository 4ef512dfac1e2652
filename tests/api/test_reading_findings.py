"""What the quick audit says is stored in the run, for its report to show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import tellapart
from tellapart.api.prepare import storable_name


def test_a_run_stores_what_the_quick_audit_found(image_folder: Path, tmp_path: Path) -> None:
    shutil.copy(image_folder / "ant" / "000.png", image_folder / "ant" / "copy.png")
    options = {"train.epochs": 1, "preprocess.size_px": 8, "train.report": "no"}
    run = tellapart.train(image_folder, model="mlp", run=tmp_path / "run", options=options, progress=False)
    found = json.loads((run.path / "findings.json").read_text())["findings"]
    duplicates = [each for each in found if each["kind"] == "duplicate"]
    assert [sorted(each["paths"]) for each in duplicates[0]["examples"]] == [["ant/000.png", "ant/copy.png"]]
    assert set(duplicates[0]["examples"][0]["splits"]) <= {"train", "val", "test"}


def test_nothing_found_is_stored_too(tmp_path: Path) -> None:
    options = {"train.epochs": 1, "train.report": "no"}
    run = tellapart.train("digits", model="mlp", run=tmp_path / "run", options=options, progress=False)
    assert json.loads((run.path / "findings.json").read_text()) == {"findings": []}


def test_a_known_name_is_stored_as_such_beside_a_folder_of_that_name(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(image_folder, tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert storable_name("digits") == "digits"
    assert storable_name("./digits") == storable_name(Path("digits")) == str(tmp_path / "digits")
