"""Folds: each image tested on once, by a run that never saw it; what ended is not repeated; what they say together."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tellapart
from tellapart.api.evaluate import looks_at
from tellapart.api.folds import FoldsRun, in_words, pool
from tellapart.api.run import Run
from tellapart.api.several import TitledProgress
from tellapart.cli import main
from tellapart.data.splits import UNUSED, Split
from tellapart.errors import ConfigError, DataError, Interrupted, NonFiniteLossError, RunError
from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.predictions import Predictions
from tellapart.training.progress import EpochReport, Progress, StepReport

RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 3
# Something to learn: each class has a brightness of its own.
IMAGES = (RNG.integers(0, 64, (60, 8, 8)) + 64 * LABELS[:, None, None]).astype(np.uint8)


class Said(Progress):
    """Keeps what it is told, and does something at a chosen sentence or epoch."""

    def __init__(self, at: str = "", then: Callable[[], None] = lambda: None) -> None:
        self.texts: list[str] = []
        self.epochs: list[EpochReport] = []
        self.steps: list[StepReport] = []
        self.at, self.then = at, then

    def say(self, text: str) -> None:
        self.texts.append(text)
        if self.at and text.startswith(self.at):
            self.then()

    def epoch(self, report: EpochReport) -> None:
        self.epochs.append(report)
        if self.at == f"{report.title} epoch {report.epoch}":
            self.then()

    def step(self, report: StepReport) -> None:
        self.steps.append(report)


def train(path: Path, data: Any = None, *, folds: int = 3, epochs: int = 1, **options: Any) -> Run:
    progress, resume = options.pop("progress", False), options.pop("resume", False)
    chosen = {"train.batch_size": 16, "data.folds": folds, "optim.lr": 0.003}
    chosen |= {name.replace("__", "."): value for name, value in options.items()}
    data = (IMAGES, LABELS) if data is None else data
    return tellapart.train(data, model="mlp", epochs=epochs, run=path, resume=resume, options=chosen, progress=progress)


def finished(run: Run) -> dict[str, Any]:
    assert run.result is not None
    return run.result


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> FoldsRun:
    run = train(tmp_path_factory.mktemp("runs") / "mine", epochs=2)
    assert isinstance(run, FoldsRun)
    return run


# --- what it leaves behind -------------------------------------------------------------------------------------------


def test_a_folder_of_whole_runs(folds: FoldsRun) -> None:
    names = {path.name for path in folds.path.iterdir()}
    runs = {"fold-1", "fold-2", "fold-3"}
    assert names == {*runs, "config.json", "folds.json", "predictions", "report.html", "result.json"}
    assert [run.path.name for run in folds.runs] == ["fold-1", "fold-2", "fold-3"]
    for number, run in enumerate(folds.runs, start=1):
        assert (run.config.data.folds, run.config.data.fold) == (3, number)
        assert finished(run)["split"] == "val"
        assert run.bundle.is_dir()
        assert len(run.predict([IMAGES[0]])) == 1


def test_each_image_is_tested_on_once_by_a_run_that_never_saw_it(folds: FoldsRun) -> None:
    tested = np.concatenate([run.split.rows("test") for run in folds.runs])
    assert sorted(tested.tolist()) == list(range(60))
    for run in folds.runs:
        test, val, rest = (set(run.split.rows(name).tolist()) for name in ("test", "val", "train"))
        assert len(test) == 20
        assert len(val) == 6
        assert test | val | rest == set(range(60))
        (look,) = looks_at(run, "test")
        assert look["n"] == 20


def test_the_pooled_number_by_hand(folds: FoldsRun) -> None:
    result = finished(folds)
    hits = []
    for run in folds.runs:
        table = Predictions.load(run.path / "predictions" / "test.parquet")
        hits += (table.outputs.argmax(axis=1) == LABELS[table.indices]).tolist()
    top1 = result["metrics"]["top1"]
    assert result["n"] == result["num_given"] == len(hits) == 60
    assert top1["value"] == sum(hits) / 60
    assert (top1["low"], top1["high"]) == pytest.approx(wilson(sum(hits), 60))
    assert folds.metrics == result["metrics"]


def test_mean_and_deviation_over_the_folds_by_hand(folds: FoldsRun) -> None:
    result = finished(folds)
    values = [each["metrics"]["top1"]["value"] for each in result["per_fold"]]
    mean = sum(values) / 3
    assert result["over_folds"]["top1"]["mean"] == pytest.approx(mean)
    assert result["over_folds"]["top1"]["std"] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in values) / 2))
    assert values == [looks_at(run, "test")[0]["metrics"]["top1"]["value"] for run in folds.runs]
    assert [each["n"] for each in result["per_fold"]] == [20, 20, 20]
    stored = json.loads((folds.path / "folds.json").read_text())
    assert stored == {"folds": 3, "done": result["per_fold"]}


def test_the_pooled_table_has_every_image_in_order(folds: FoldsRun) -> None:
    table = folds.predictions
    assert table.indices.tolist() == list(range(60))
    assert table.targets.tolist() == LABELS.tolist()
    assert table.paths == list(folds.runs[0].split.paths)
    part = Predictions.load(folds.runs[1].path / "predictions" / "test.parquet")
    assert np.array_equal(table.outputs[part.indices], part.outputs)


def test_a_fold_is_the_run_that_its_config_makes_alone(folds: FoldsRun, tmp_path: Path) -> None:
    alone = train(tmp_path / "alone", epochs=2, data__fold=2)
    assert not isinstance(alone, FoldsRun)
    assert alone.split == folds.runs[1].split
    weights = [(run.bundle / "model.safetensors").read_bytes() for run in (alone, folds.runs[1])]
    assert weights[0] == weights[1]


def test_what_is_said_names_the_fold(tmp_path: Path) -> None:
    display = Said()
    run = train(tmp_path / "mine", folds=2, epochs=2, progress=display)
    assert [(report.title, report.epoch) for report in display.epochs] == [
        (f"fold {fold} of 2", epoch) for fold in (1, 2) for epoch in (1, 2)
    ]
    assert {report.title for report in display.steps} <= {"fold 1 of 2", "fold 2 of 2"}
    recipe, *texts, last, page = display.texts
    assert page == f"report: {tmp_path / 'mine' / 'report.html'}"
    assert recipe.startswith("recipe ")
    assert all(text.startswith("fold ") for text in texts)
    assert sum("test: accuracy " in text for text in texts) == 2
    assert last == in_words(finished(run), "top1")
    assert last.startswith("over 2 folds, each image tested on once: accuracy ")


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_other_tasks_have_their_own_number(tmp_path: Path, task: str) -> None:
    targets = LABELS[:, None].astype(np.float32) if task == "regression" else np.eye(3, dtype=np.float32)[LABELS]
    display = Said()
    run = train(tmp_path / "mine", (IMAGES, targets), folds=2, data__task=task, progress=display)
    headline = {"regression": "mse", "multilabel": "map"}[task]
    assert finished(run)["n"] == 60
    assert set(finished(run)["over_folds"][headline]) == {"mean", "std"}
    assert display.texts[-2].startswith(f"over 2 folds, each image tested on once: {headline} ")


# --- interrupted and resumed -----------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def stop() -> None:
    raise RuntimeError("killed")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> FoldsRun:
    run = train(tmp_path_factory.mktemp("two") / "mine", folds=2)
    assert isinstance(run, FoldsRun)
    return run


@pytest.mark.parametrize(
    "at",
    [
        "fold 1 of 2: accuracy on val",
        "fold 1 of 2: test:",
        "fold 2 of 2: arrays",
        "fold 2 of 2 epoch 1",
        "over 2 folds",
    ],
)
def test_killed_anywhere_the_same_command_goes_on(two: FoldsRun, tmp_path: Path, at: str) -> None:
    path = tmp_path / "mine"
    with pytest.raises(RuntimeError, match="killed"):
        train(path, folds=2, progress=Said(at, stop))
    ended = [fold for fold in (1, 2) if looks_at(Run(path / f"fold-{fold}"), "test")]
    before = [snapshot(path / f"fold-{fold}") for fold in ended]
    run = train(path, folds=2, resume=True)
    assert isinstance(run, FoldsRun)
    assert [snapshot(path / f"fold-{fold}") for fold in ended] == before
    assert [len(looks_at(each, "test")) for each in run.runs] == [1, 1]
    assert finished(run)["metrics"] == finished(two)["metrics"]
    for one, other in zip(run.runs, two.runs, strict=True):
        assert (one.bundle / "model.safetensors").read_bytes() == (other.bundle / "model.safetensors").read_bytes()


def test_a_signal_names_the_folder_of_all_folds(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    display = Said("fold 1 of 2 epoch 1", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as found:
        train(path, folds=2, epochs=3, progress=display)
    assert str(found.value).startswith("fold 1 of 2: ")
    assert str(found.value).endswith(f"Go on with: tellapart train --resume {path}")
    assert finished(train(path, folds=2, epochs=3, resume=True))["n"] == 60


def test_what_has_ended_is_not_done_again(folds: FoldsRun) -> None:
    before, display = snapshot(folds.path), Said()
    run = tellapart.train((IMAGES, LABELS), run=folds.path, resume=True, progress=display)
    assert isinstance(run, FoldsRun)
    assert run.result == folds.result
    assert display.texts == [f"{folds.path}: this run has ended; there is nothing left to do."]
    assert snapshot(folds.path) == before


def test_one_fold_resumes_on_its_own(two: FoldsRun, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    with pytest.raises(RuntimeError):
        train(path, folds=2, progress=Said("fold 2 of 2 epoch 1", stop))
    alone = tellapart.train((IMAGES, LABELS), run=path / "fold-2", resume=True, progress=False)
    assert finished(alone)["metrics"] == finished(two.runs[1])["metrics"]
    run = train(path, folds=2, resume=True)
    assert finished(run)["metrics"] == finished(two)["metrics"]


def test_other_images_on_resume_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    with pytest.raises(RuntimeError):
        train(path, progress=Said("fold 1 of 3: test:", stop))
    with pytest.raises(RunError, match=r"images of .* changed since the first fold began"):
        train(path, (IMAGES[:50], LABELS[:50]), resume=True)
    changed = IMAGES.copy()
    changed[7] += 1
    with pytest.raises(RunError, match="the images changed since the run began: 1 with other pixels"):
        train(path, (changed, LABELS), resume=True)


def test_another_config_on_resume_is_an_error(folds: FoldsRun) -> None:
    with pytest.raises(ConfigError, match=r"data\.folds: the run has 3, this command asks for 4"):
        train(folds.path, folds=4, epochs=2, resume=True)


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_there", [False, True])
def test_nothing_is_left_behind_where_no_fold_could_begin(tmp_path: Path, is_there: bool) -> None:
    path = tmp_path / "mine"
    if is_there:
        path.mkdir()
    labels = LABELS.copy()
    labels[:] = np.arange(60) % 2
    labels[0] = 2
    with pytest.raises(DataError, match=r"data\.folds: all images of the class '2' fall into one fold"):
        train(path, (IMAGES, labels))
    assert path.exists() == is_there
    assert not is_there or not any(path.iterdir())


def test_a_loss_that_is_no_number_names_the_fold(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"^fold 1 of 3: "):
        train(tmp_path / "mine", epochs=3, optim__lr=1e30, schedule__name="constant")


@pytest.mark.parametrize("settings", [{"folds": 1}, {"data__test_fraction": 0.2}, {"data__fold": 4}])
def test_settings_are_refused_before_anything_is_read(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.(folds|fold|test_fraction): "):
        train(tmp_path / "mine", **settings)
    assert not (tmp_path / "mine").exists()


def test_the_folder_of_folds_has_no_model(folds: FoldsRun) -> None:
    names = ", ".join(str(folds.path / f"fold-{number}") for number in (1, 2, 3))
    wanted = f"holds the runs of 3 folds and no model of its own. Name one: {names}"
    for ask in (lambda: tellapart.load(folds.path), lambda: folds.classifier):
        with pytest.raises(RunError) as found:
            ask()
        assert str(found.value).endswith(wanted)
    with pytest.raises(RunError, match=r"each fold has a division of its own, such as .*fold-1"):
        _ = folds.split


def test_pooling_tables_that_do_not_fit_is_an_error(folds: FoldsRun) -> None:
    tables = [Predictions.load(run.path / "predictions" / "test.parquet") for run in folds.runs]
    split = folds.runs[0].split
    assert len(pool(tables, split)) == 60
    for wrong in (tables[:2], [*tables, tables[0]], [tables[0], tables[0], tables[2]]):
        with pytest.raises(RunError, match="do not hold each of 60 images once"):
            pool(wrong, split)


def test_unreadable_images_are_given_and_unused_ones_are_not(folds: FoldsRun) -> None:
    tables = [Predictions.load(run.path / "predictions" / "test.parquet") for run in folds.runs]
    split = folds.runs[0].split
    more = Split(
        (*split.paths, "broken", "own test"),
        (*split.classes, "0", "1"),
        (*split.splits, "train", UNUSED),
        (*split.pixel_hashes, "", "ff"),
    )
    pooled = pool(tables, more)
    assert math.isnan(pooled.temperature) or len({table.temperature for table in tables}) == 1
    assert (len(pooled), pooled.num_given) == (60, 61)


# --- with folders and the command line -------------------------------------------------------------------------------


def test_a_folder_with_a_test_part_through_the_command_line(
    make_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_folder({"train/ant": 8, "train/bee": 8, "test/ant": 3, "test/bee": 3})
    path = tmp_path / "mine"
    options = ["--data.folds", "2", "--epochs", "1", "--model", "mlp", "--preprocess.size-px", "8"]
    assert main.run(["train", str(data), "--run", str(path), *options]) == 0
    out = capsys.readouterr().out
    assert "its 6 images are in no fold" in out
    assert f"tellapart train {data} ..." in out
    assert f"tellapart predict {path / 'fold-1'} IMAGE ..." in out
    shutil.rmtree(path / "fold-2")
    (path / "result.json").unlink()
    assert main.run(["train", "--resume", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["folds"], result["n"], result["num_given"]) == (2, 16, 16)
    assert all(run.split.num_given(UNUSED) == 6 for run in FoldsRun(path).runs)
    assert main.run(["evaluate", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n"], found["metrics"]["top1"]) == (16, result["metrics"]["top1"])
    assert main.run(["predict", str(path), str(data / "train/ant/000.png")]) == 1
    assert f"Name one: {path / 'fold-1'}, {path / 'fold-2'}" in capsys.readouterr().err


def test_the_display_passes_everything_on() -> None:
    inner = Said()
    display = TitledProgress(inner, "fold 2 of 5", ["a note of the source"])
    display.say("a note of the source")
    display.say("hello")
    with display.task("reading", 3) as advance:
        advance(1)
    assert inner.texts == ["fold 2 of 5: hello"]


def test_a_check_doubts_labels_by_what_the_folds_say(tmp_path: Path) -> None:
    pytest.importorskip("cleanlab", reason="cleanlab comes with the extra `audit`")
    labels = LABELS.copy()
    labels[7] = (LABELS[7] + 1) % 3
    run = train(tmp_path / "mine", (IMAGES, labels), epochs=20)
    found = tellapart.check((IMAGES, labels), run=run.path, quick=True, progress=False)
    assert [suspect.row for suspect in found.audit.suspects][:1] == [7]
    assert found.audit.suspects[0].suggested == str(LABELS[7])
    # The three divisions contradict each other; none of them is judged.
    assert not [finding for finding in found.findings if "leak" in finding.kind]
