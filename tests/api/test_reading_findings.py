"""What the quick audit says is stored in the run, for its report to show."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tellapart


def test_a_run_stores_what_the_quick_audit_found(image_folder: Path, tmp_path: Path) -> None:
    shutil.copy(image_folder / "ant" / "000.png", image_folder / "ant" / "copy.png")
    options = {"train.epochs": 1, "preprocess.size_px": 8, "train.report": "no"}
    run = tellapart.train(image_folder, model="mlp", run=tmp_path / "run", options=options, progress=False)
    found = json.loads((run.path / "findings.json").read_text())["findings"]
    duplicates = [each for each in found if each["kind"] == "duplicate"]
    assert [sorted(each["paths"]) for each in duplicates[0]["examples"]] == [["ant/000.png", "ant/copy.png"]]
    assert set(duplicates[0]["examples"][0]["splits"]) <= {"train", "val", "test"}


def test_nothing_found_leaves_no_file(tmp_path: Path) -> None:
    options = {"train.epochs": 1, "train.report": "no"}
    run = tellapart.train("digits", model="mlp", run=tmp_path / "run", options=options, progress=False)
    assert not (run.path / "findings.json").exists()
