"""`report`: written at the end of training and on demand, from what the run holds; what lacks is said."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tellapart
from tellapart.api.report import gather, report, write_report
from tellapart.api.run import Run
from tellapart.cli.main import run as command_line
from tellapart.errors import RunError
from tellapart.evaluation.metrics import evaluate_predictions
from tellapart.reporting import model_section
from tellapart.training.progress import Progress
from tests.reporting.made_facts import made_ood, made_robustness

LABELS = np.arange(120) % 3
IMAGES = (np.random.default_rng(0).integers(0, 64, (120, 8, 8)) + 64 * LABELS[:, None, None]).astype(np.uint8)


def train(run: Path, data: Any, **options: Any) -> Run:
    chosen = {"train.batch_size": 16, **{name.replace("__", "."): value for name, value in options.items()}}
    return tellapart.train(data, model="mlp", epochs=2, run=run, options=chosen, progress=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "photos"
    for place, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        folder = root / ("dark", "grey", "light")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{place:03}.png")
    return root


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its look at test, and its data; not to be changed."""
    run = train(tmp_path_factory.mktemp("runs") / "mine", str(photos))
    tellapart.evaluate(run, "test", progress=False)
    return run.path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to be spoilt."""
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def ids(path: Path) -> list[str]:
    return re.findall(r'<section id="([a-z-]+)"', path.read_text(encoding="utf-8"))


EVERY = ["answer", "curves", "confusion", "classes", "mistakes", "calibration", "data", "model"]


def test_training_ends_with_a_report_of_val(photos: Path, tmp_path: Path) -> None:
    run = train(tmp_path / "run", str(photos))
    text = (run.path / "report.html").read_text(encoding="utf-8")
    assert ids(run.path / "report.html") == EVERY
    assert "Accuracy on val" in text
    assert "data:image/webp" in text
    assert list(run.path.glob(".report*")) == []
    quiet = train(tmp_path / "quiet", str(photos), train__report="no")
    assert not (quiet.path / "report.html").exists()


def test_after_a_look_at_test_the_answer_is_of_test(run: Path) -> None:
    path = report(run)
    assert path == run / "report.html"
    assert ids(path) == EVERY
    text = path.read_text(encoding="utf-8")
    assert "Accuracy on test" in text
    assert "Nothing was learned from these images or chosen by them." in text


def test_the_same_run_twice_gives_the_same_bytes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_section, "latency_s", lambda classifier: 0.001)
    first, second = report(run, tmp_path / "1.html"), report(str(run), tmp_path / "2.html")
    assert first.read_bytes() == second.read_bytes()


def test_numbers_noted_by_a_look_are_those_of_its_table(trained: Path) -> None:
    facts = gather(Run(trained))
    assert set(facts.metrics) == set(facts.predictions) == {"val", "test"}
    for split, table in facts.predictions.items():
        computed = evaluate_predictions(table, seed=facts.config.seed)
        assert set(computed) == set(facts.metrics[split])
        for name, found in facts.metrics[split].items():
            for key in ("value", "low", "high"):
                assert getattr(found, key) == pytest.approx(getattr(computed[name], key), nan_ok=True)


def test_a_look_that_stored_another_table_does_not_count(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    for line in lines:
        line["metrics"]["top1"]["value"] = 0.123
    noted = {"tta": {"tta": "flip"}, "data": {"data": "other"}, "weights": {"weights": "0" * 64}, "n": {"n": 1}}
    for change in noted.values():
        text = "".join(json.dumps({**line, **change}) + "\n" for line in lines)
        (run / "evaluations.jsonl").write_text(text)
        facts = gather(Run(run))
        assert all(found["top1"].value != 0.123 for found in facts.metrics.values())
    (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert gather(Run(run)).metrics["test"]["top1"].value == 0.123


def test_data_that_is_gone_is_a_sentence(run: Path, photos: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = str(photos / "moved away")
    (run / "config.json").write_text(json.dumps(config))
    text = report(run).read_text(encoding="utf-8")
    assert ids(run / "report.html") == EVERY
    assert "There are no pictures in this page, because the images could not be opened again" in text
    assert "<img" not in text


def test_a_run_of_arrays_gets_its_pictures_from_who_has_them(tmp_path: Path) -> None:
    run = train(tmp_path / "run", (IMAGES, LABELS))
    assert "data:image/webp" in (run.path / "report.html").read_text()
    without = report(run, tmp_path / "without.html").read_text()
    assert "the run was trained on arrays" in without
    assert "<img" not in without
    assert "data:image/webp" in report(run, tmp_path / "with.html", data=(IMAGES, LABELS)).read_text()


def test_a_picture_that_changed_is_not_shown(trained: Path, photos: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(photos, tmp_path / "photos"))
    for file in root.rglob("*.png"):
        Image.fromarray(np.full((8, 8), 7, np.uint8)).save(file)
    # What is shown as it is stored; what the network would be given is another matter, and is PNG.
    assert "data:image/webp" not in report(trained, tmp_path / "page.html", data=str(root)).read_text()


def test_what_a_report_cannot_be_made_of(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected a run's folder, or one that holds runs; found nothing"):
        report(tmp_path / "nowhere")
    with pytest.raises(RunError, match="found a file"):
        report(run / "config.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="found no run in it"):
        report(tmp_path / "empty")
    with pytest.raises(RunError, match=r"--out .*expected the name of a file"):
        report(run, tmp_path / "no" / "such" / "folder.html")
    with pytest.raises(RunError, match=r"--out .*expected the name of a file"):
        report(run, tmp_path)
    (run / "predictions" / "val.parquet").unlink()
    with pytest.raises(RunError, match=r"expected the predictions on val.*tellapart evaluate"):
        report(run)
    shutil.rmtree(run / "bundle")
    with pytest.raises(RunError, match="has not ended"):
        report(run)


def test_a_division_that_was_edited_is_refused(run: Path) -> None:
    split = Run(run).split
    moved = tuple("train" if name == "val" else name for name in split.splits)
    type(split)(split.paths, split.classes, moved, split.pixel_hashes, split.content_hashes).save(run / "split.parquet")
    with pytest.raises(RunError, match="not the division that the run was trained with"):
        report(run)


def test_files_that_only_add_to_the_page_may_be_missing_or_damaged(run: Path) -> None:
    (run / "environment.json").write_text("no json")
    (run / "findings.json").write_text("[]")
    (run / "history.jsonl").unlink()
    with (run / "evaluations.jsonl").open("a") as file:
        file.write('{"torn": ')
    assert ids(report(run)) == [name for name in EVERY if name != "curves"]


def test_what_an_evaluation_added_is_shown_where_it_is_whole_and_of_these_weights(run: Path) -> None:
    weights = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])["weights"]
    whole = {"robustness": made_robustness(weights=weights), "ood": made_ood(weights=weights)}

    def left(**changed: str) -> tuple[bool, bool]:
        for name, content in whole.items():
            (run / f"{name}.json").write_text(changed.get(name, json.dumps(content)))
        facts = gather(Run(run))
        return bool(facts.robustness), bool(facts.ood)

    assert gather(Run(run)).robustness == {}
    assert left() == (True, True)
    assert ids(report(run)) == [*EVERY[:6], "robustness", *EVERY[6:]]
    for name, seen in (("robustness", (False, True)), ("ood", (True, False))):
        for damaged in ("", "[]", "{}", json.dumps(whole[name])[:-9], json.dumps({**whole[name], "n": None})):
            assert left(**{name: damaged}) == seen
        # Made before the run was trained again.
        assert left(**{name: json.dumps({**whole[name], "weights": "0" * 64})}) == seen
        unrecorded = {key: value for key, value in whole[name].items() if key != "weights"}
        assert left(**{name: json.dumps(unrecorded)}) == (True, True)


def test_a_page_that_cannot_be_written_leaves_nothing_behind(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(RunError, match="the report cannot be written: No space left on device"):
        write_report(Run(run), tmp_path / "page.html")
    assert not list(tmp_path.glob("*page*")) + list(tmp_path.glob(".*page*"))


def test_a_folder_of_runs_gets_an_overview(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "runs" / "one")
    shutil.copytree(run, tmp_path / "runs" / "two")
    path = report(tmp_path / "runs")
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "runs" / "report.html"
    assert "2 runs" in text
    assert 'href="./one/report.html"' in text


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    target = tmp_path / "other.html"
    assert command_line(["report", str(run), "--out", str(target), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"report": str(target), "bytes": target.stat().st_size}
    assert command_line(["report", str(tmp_path / "nowhere")]) == 1
    assert "tellapart report: " in capsys.readouterr().err


def test_it_is_public(run: Path) -> None:
    made: Callable[..., Path] = tellapart.report
    assert made is report


def test_a_look_at_test_renews_the_page(tmp_path: Path) -> None:
    options = {"train.epochs": 1, "data.test_fraction": 0.2}
    run = tellapart.train("digits", model="mlp", run=tmp_path / "run", options=options, progress=False)
    page = run.path / "report.html"
    assert "Accuracy on val" in page.read_text()
    run.evaluate("test", progress=False)
    assert "Accuracy on test" in page.read_text()
    page.unlink()
    run.evaluate("test", progress=False)
    assert not page.exists(), "whoever took it away does not want it"


def test_a_page_that_cannot_be_renewed_loses_no_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tellapart.train("digits", model="mlp", run=tmp_path / "run", options={"train.epochs": 1}, progress=False)

    def fail(*_: object, **__: object) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr("tellapart.api.report.write_report", fail)
    told = Told()
    assert run.evaluate("test", progress=told).n == 180
    assert any("the report was not written: no space left" in text for text in told.texts)


class Told(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)
