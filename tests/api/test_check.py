"""`tellapart.check`: folders, arrays, manifests and runs in; findings, a page and a manifest out; nothing changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tellapart.api.check import Checked, UnwrittenError, check
from tellapart.api.run import Run
from tellapart.api.train import train
from tellapart.data.sources import open_source
from tellapart.errors import DataError, RunError, TellapartError

MakeFolder = Callable[..., Path]


def kinds(checked: Checked) -> dict[str, int]:
    return {finding.kind: finding.count for finding in checked.findings}


def fingerprint(root: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


def blobs(count: int, seed: int = 0) -> np.ndarray:
    """Return pictures that are nothing alike, uint8 `(count, 24, 24, 3)`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)


@pytest.fixture
def photos(make_folder: MakeFolder) -> Path:
    root = make_folder({"train/ant": 12, "train/bee": 12, "test/ant": 4, "test/bee": 4}, sizes=((24, 24),))
    (root / "train/ant/leaked.png").write_bytes((root / "test/ant/000.png").read_bytes())
    (root / "train/bee/conflict.png").write_bytes((root / "train/ant/000.png").read_bytes())
    (root / "train/bee/broken.png").write_bytes(b"no image")
    return root


def test_a_folder_is_judged_and_left_as_it_is(photos: Path, tmp_path: Path) -> None:
    before = fingerprint(photos)
    checked = check(photos, quick=True, html=tmp_path / "page.html", fix=tmp_path / "clean.csv", progress=False)
    assert kinds(checked) == {"unreadable": 1, "leak": 1, "conflict": 2}
    assert not checked.is_clean
    assert fingerprint(photos) == before
    assert checked.page is not None
    assert checked.page.read_text(encoding="utf-8").count("<section") == 4
    assert checked.fixed is not None
    assert len(open_source(str(checked.fixed.manifest))) == 33
    assert str(checked).startswith("images: 35 images, 2 classes: train 27  test 8")


def test_the_manifest_of_a_check_checks_without_errors_and_trains(photos: Path, tmp_path: Path) -> None:
    check(photos, quick=True, fix=tmp_path / "clean.csv", progress=False)
    again = check(tmp_path / "clean.csv", quick=True, progress=False)
    assert again.audit.severity_counts()["error"] == 0
    assert kinds(again) == {"conflict": 2, "source": 1} or set(kinds(again)) <= {"conflict", "source"}
    run = train(str(tmp_path / "clean.csv"), run=tmp_path / "run", progress=False, model="mlp", epochs=1)
    assert run.result is not None
    assert run.split.num_given("test") == 8


def test_the_dictionary_is_json_with_the_promised_names(photos: Path) -> None:
    found = check(photos, quick=True, max_examples=1, progress=False).as_dict()
    assert json.loads(json.dumps(found)) == found
    promised = {"format", "source", "task", "num_images", "num_read", "splits", "findings", "classes", "seconds"}
    assert promised <= set(found)
    assert (found["num_images"], found["num_read"]) == (35, 34)
    assert found["splits"] == {"train": 27, "test": 8}
    assert found["classes"] == {"ant": {"train": 13, "test": 4}, "bee": {"train": 14, "test": 4}}
    leak = next(finding for finding in found["findings"] if finding["kind"] == "leak")
    assert leak["examples"][0]["paths"] == ["test/ant/000.png", "train/ant/leaked.png"]
    assert all(len(finding["examples"]) <= 1 for finding in found["findings"])


def test_two_checks_find_the_same(photos: Path) -> None:
    first, second = (check(photos, quick=True, progress=False).as_dict() for _ in range(2))
    for found in (first, second):
        del found["seconds"]
    assert first == second


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["ant", "bee"] * 10),
        np.array([[1, 0], [0, 1], [1, 1], [1, 0]] * 5),
        np.linspace(0.0, 1.0, 20),
    ],
    ids=["multiclass", "multilabel", "regression"],
)
def test_arrays_of_every_task(labels: Any, tmp_path: Path) -> None:
    checked = check((blobs(20), labels), quick=True, html=tmp_path / "page.html", progress=False)
    assert [finding for finding in checked.findings if finding.severity != "note"] == []
    assert checked.is_clean
    images = blobs(20)
    images[3] = images[4]
    assert kinds(check((images, labels), quick=True, progress=False)).keys() & {"conflict", "duplicate"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, write_images: Any) -> Path:
    """A folder of images and a run over it; tests get a copy."""
    root = tmp_path_factory.mktemp("check")
    write_images(root / "photos", {"ant": 30, "bee": 30}, ((24, 24),))
    run = train(str(root / "photos"), run=root / "run", progress=False, model="mlp", epochs=1)
    run.evaluate("val", progress=False)
    return root


def test_a_runs_hashes_find_what_changed_since(trained: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(trained / "photos", photos)
    assert "changed" not in kinds(check(photos, run=trained / "run", quick=True, progress=False))
    file = photos / "ant" / "003.png"
    file.write_bytes(file.read_bytes() + b"\0")  # behind the end: the same pixels from other bytes
    (photos / "bee" / "002.png").unlink()
    checked = check(photos, run=Run(trained / "run"), quick=True, progress=False)
    found = {finding.kind: finding for finding in checked.findings}
    assert checked.audit.subject.source.paths[found["changed"].rows[0]] == "ant/003.png"
    assert found["missing"].examples[0].detail == "bee/002.png"


def test_a_manifest_verifies_as_a_run_does(trained: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(trained / "photos", photos)
    check(photos, quick=True, fix=photos / "clean.csv", progress=False)
    file = photos / "ant" / "003.png"
    file.write_bytes(file.read_bytes() + b"\0")
    found = kinds(check(photos, verify=photos / "clean.csv", quick=True, progress=False))
    assert found["changed"] == 1
    assert "missing" not in found


def test_without_data_it_is_the_runs_own_as_the_run_divided_it(trained: Path) -> None:
    checked = check(run=trained / "run", quick=True, progress=False)
    stored = Run(trained / "run").split
    assert checked.audit.subject.splits == stored.splits
    assert checked.audit.subject.is_own


def test_the_runs_predictions_tell_doubtful_labels(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tellapart.auditing import label_suspects
    from tellapart.auditing.findings import LabelSuspect
    from tellapart.evaluation.predictions import Predictions

    def doubt(table: Predictions) -> list[LabelSuspect]:
        given = table.classes[table.targets[0]]
        doubted = LabelSuspect(int(table.indices[0]), given, "other", 0.9)
        # The second was relabelled since, so that nothing is in doubt.
        return [doubted, LabelSuspect(int(table.indices[1]), "wasp", "other", 0.8)]

    monkeypatch.setattr(label_suspects, "find_label_suspects", doubt)
    checked = check(run=trained / "run", quick=True, progress=False)
    stored = Predictions.load(trained / "run" / "predictions" / "val.parquet")
    (suspect,) = checked.audit.suspects
    assert checked.audit.subject.source.paths[suspect.row] == stored.paths[0]
    (finding,) = [finding for finding in checked.findings if finding.kind == "label-suspect"]
    assert (finding.count, finding.severity) == (1, "warning")
    assert "more likely 'other'" in finding.examples[0].detail


def test_a_run_over_other_data_is_refused(trained: Path, make_folder: MakeFolder) -> None:
    other = make_folder({"cat": 3, "dog": 3})
    with pytest.raises(RunError, match="knows none of the images"):
        check(other, run=trained / "run", quick=True, progress=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "expected data, or a run"),
        ({"data": "digits", "max_examples": 0}, "at least 1"),
        ({"data": "digits", "fix": "clean.txt"}, "ends in .csv"),
        ({"data": "digits", "html": "no/where/page.html"}, "in a folder that is there"),
        ({"data": "digits", "html": "."}, "the name of a file"),
        ({"data": "digits", "verify": "nothing.csv"}, "expected a run's split.parquet"),
        ({"data": "digits", "run": "no/run"}, "expected a run folder"),
    ],
)
def test_wrong_calls_are_refused_before_anything_is_read(
    arguments: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tellapart.api.check.audit", lambda *_, **__: pytest.fail("it read the images"))
    with pytest.raises(TellapartError, match=says):
        check(**arguments, progress=False)


def test_a_taken_manifest_is_refused_before_anything_is_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tellapart.api.check.audit", lambda *_, **__: pytest.fail("it read the images"))
    taken = photos.parent / "clean.csv"
    taken.write_text("mine")
    with pytest.raises(DataError, match="nothing is overwritten"):
        check(photos, fix=taken, progress=False)
    with pytest.raises(DataError, match="would be taken for the labels"):
        check(photos, fix=photos / "metadata.csv", progress=False)
    assert taken.read_text() == "mine"


def test_near_duplicates_are_found_in_the_end(make_folder: MakeFolder, tmp_path: Path) -> None:
    """The whole way: a photograph recompressed and made smaller, in test, is traced to its original in train."""
    pytest.importorskip("tellapart.auditing.near_duplicates", reason="near duplicates are written elsewhere")
    from PIL import Image

    rng = np.random.default_rng(0)
    root = tmp_path / "scenes"
    for place in range(24):
        blocks = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        picture = blocks.resize((128, 96), Image.Resampling.BICUBIC)
        part = "test" if place % 6 == 5 else "train"
        path = root / part / ("ant", "bee")[place % 2] / f"{place:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        if place == 4:
            (root / "test" / "ant").mkdir(parents=True, exist_ok=True)
            picture.resize((100, 75)).save(root / "test" / "ant" / "again.jpg", quality=70)
    checked = check(root, progress=False, fix=tmp_path / "clean.csv")
    (leak,) = [finding for finding in checked.findings if finding.kind == "near-leak"]
    paths = [checked.audit.subject.source.paths[row] for row in leak.examples[0].rows]
    assert paths == ["test/ant/again.jpg", "train/ant/04.png"]
    assert checked.fixed is not None
    assert checked.fixed.num_left_out == 1


def test_findings_are_not_lost_where_a_file_cannot_be_written(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise DataError("--fix: No space left on device")

    monkeypatch.setattr("tellapart.api.check.write_fixed", full)
    with pytest.raises(UnwrittenError, match="No space left") as caught:
        check(photos, quick=True, fix=photos.parent / "clean.csv", progress=False)
    assert kinds(caught.value.checked) == {"unreadable": 1, "leak": 1, "conflict": 2}


@pytest.mark.parametrize("images", [[b"", b"x", b"y"], np.zeros((3, 20, 20), np.uint8), blobs(3)[:, :1, :1]])
def test_the_poorest_data_is_still_judged(images: Any, tmp_path: Path) -> None:
    checked = check((images, list("aba")), fix=tmp_path / "clean.csv", html=tmp_path / "page.html", progress=False)
    assert checked.fixed is not None
    assert checked.fixed.num_kept + checked.fixed.num_left_out == 3
    assert kinds(checked).keys() & {"unreadable", "blank"}


def test_images_of_a_few_pixels_are_not_compared_and_that_is_said() -> None:
    checked = check("digits", progress=False)
    assert checked.audit.near_pairs == ()
    assert "1,797 images under 16 px were not compared for look-alikes" in str(checked)
