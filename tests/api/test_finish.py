"""How a run ends: calibrated on val and on nothing else, judged as what ships, with a page that can fail alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tellapart
from tellapart.api import finish
from tellapart.api.run import Run
from tellapart.data.sources.arrays import ArraySource
from tellapart.evaluation.calibration import fit_temperature
from tellapart.evaluation.metrics import quick_metrics
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.thresholds import choose_thresholds
from tellapart.training.progress import Progress

RNG = np.random.default_rng(0)
LABELS = np.arange(90) % 3
# Something to learn that is not certain: each class has a brightness of its own, and noise.
IMAGES = (RNG.integers(0, 120, (90, 8, 8)) + 40 * LABELS[:, None, None]).astype(np.uint8)
SEVERAL = np.stack([LABELS == 0, LABELS > 0, RNG.random(90) < 0.3], axis=1).astype(np.float32)


class Said(Progress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def say(self, text: str) -> None:
        self.texts.append(text)


def train(path: Path, data: Any = None, said: Said | None = None, **options: Any) -> Run:
    chosen = {
        "train.batch_size": 16,
        **({} if isinstance(data, ArraySource) else {"data.val_fraction": 0.3}),
        "train.report": "no",
        **{name.replace("__", "."): value for name, value in options.items()},
    }
    data = (IMAGES, LABELS) if data is None else data
    return tellapart.train(data, model="mlp", epochs=3, run=path, options=chosen, progress=said or False)


def table(run: Run) -> Predictions:
    return Predictions.load(run.path / "predictions" / "val.parquet")


def result(run: Run) -> dict[str, Any]:
    assert run.result is not None
    return run.result


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("runs") / "mine")


def test_the_temperature_is_that_of_the_logits_on_val(run: Run) -> None:
    """From the shipped classifier without it, whose probabilities are the logits but for a constant an image."""
    stored = table(run)
    plain = tellapart.load(run, calibrated=False)
    probs = np.array([list(found.probs.values()) for found in plain.predict([IMAGES[row] for row in stored.indices])])
    assert result(run)["temperature"] == pytest.approx(
        fit_temperature(np.log(probs), stored.targets, "multiclass"), rel=1e-4
    )
    assert result(run)["temperature"] not in (1.0, pytest.approx(64.0))
    assert result(run)["temperature"] == stored.temperature == run.classifier.temperature
    np.testing.assert_allclose(stored.uncalibrated().outputs, probs, rtol=1e-4, atol=1e-6)


def test_before_and_after_are_told(run: Run) -> None:
    stored = table(run)
    before, after = result(run)["uncalibrated"], result(run)["metrics"]
    assert set(before) == {"nll", "brier", "ece", "ece_classwise"} <= set(after)
    found = quick_metrics("multiclass", stored.uncalibrated().outputs, stored.targets)
    assert before["nll"]["value"] == pytest.approx(found["nll"], rel=1e-9)
    assert after["nll"]["value"] < before["nll"]["value"]
    info = run.classifier.info
    assert info["calibration"]["fitted_on"] == "val"
    assert info["calibration"]["before"] == before
    assert info["calibration"]["after"] == {name: after[name] for name in before}
    assert info["temperature"] == result(run)["temperature"]


@pytest.mark.parametrize("targets", [LABELS, SEVERAL], ids=["multiclass", "multilabel"])
def test_evaluate_finds_the_same_number_to_the_last_bit(tmp_path: Path, targets: np.ndarray) -> None:
    run = train(tmp_path / "run", (IMAGES, targets))
    first = table(run)
    found = run.evaluate("val", data=(IMAGES, targets), progress=False)
    assert found.as_dict()["metrics"] == run.metrics
    assert found.predictions.outputs.tobytes() == first.outputs.tobytes()
    assert (found.predictions.temperature, found.predictions.thresholds) == (first.temperature, first.thresholds)
    assert first.temperature != 1.0


def test_the_temperature_moves_no_prediction_and_no_history(tmp_path: Path, run: Run) -> None:
    plain = train(tmp_path / "plain", train__calibration="none")
    assert result(plain)["temperature"] == table(plain).temperature == 1.0
    assert result(plain)["uncalibrated"] == {}
    assert plain.metrics["top1"] == run.metrics["top1"]
    assert np.array_equal(table(plain).predicted(), table(run).predicted())
    np.testing.assert_allclose(table(run).uncalibrated().outputs, table(plain).outputs, rtol=1e-4, atol=1e-6)
    timing = {"seconds", "images_per_s", "wait_share"}
    lines = [[{k: v for k, v in line.items() if k not in timing} for line in one.history] for one in (plain, run)]
    assert lines[0] == lines[1]


def test_only_val_is_looked_at(tmp_path: Path) -> None:
    parts = ["train"] * 40 + ["val"] * 20 + ["test"] * 30
    changed = LABELS.copy()
    changed[60:] = (changed[60:] + 1) % 3
    runs = [
        train(tmp_path / str(n), ArraySource(IMAGES, labels, parts=parts)) for n, labels in enumerate((LABELS, changed))
    ]
    assert result(runs[0])["temperature"] == result(runs[1])["temperature"]
    other = LABELS.copy()
    other[40:60] = (other[40:60] + 1) % 3
    third = train(tmp_path / "val", ArraySource(IMAGES, other, parts=parts), train__select="last")
    assert result(third)["temperature"] != result(runs[0])["temperature"]


def test_thresholds_are_those_of_the_calibrated_probabilities(tmp_path: Path) -> None:
    run = train(tmp_path / "run", (IMAGES, SEVERAL))
    stored = table(run)
    expected = choose_thresholds(stored.outputs, stored.targets)
    assert stored.thresholds == run.classifier.thresholds == tuple(expected.tolist())
    assert run.classifier.info["thresholds"] == expected.tolist()
    labels = [found.label for found in run.predict([IMAGES[row] for row in stored.indices])]
    chosen = ["|".join(str(k) for k in np.flatnonzero(row)) for row in stored.predicted()]
    assert labels == chosen
    # They are no part of the temperature: without one they are chosen all the same.
    plain = train(tmp_path / "plain", (IMAGES, SEVERAL), train__calibration="none")
    assert len(table(plain).thresholds) == 3
    assert np.array_equal(table(plain).predicted(), stored.predicted())


def test_numbers_have_neither(tmp_path: Path) -> None:
    run = train(tmp_path / "run", (IMAGES, LABELS[:, None].astype(np.float32)), data__task="regression")
    assert (result(run)["temperature"], result(run)["uncalibrated"]) == (1.0, {})
    assert (table(run).temperature, table(run).thresholds) == (1.0, ())


def test_val_of_one_image(tmp_path: Path) -> None:
    parts = ["train"] * 80 + ["val"] + ["test"] * 9
    run = train(tmp_path / "run", ArraySource(IMAGES, LABELS, parts=parts))
    assert result(run)["n"] == 1
    assert 1 / 64 <= result(run)["temperature"] <= 64
    assert math.isfinite(run.metrics["nll"]["value"])


def test_what_is_said_fits_a_terminal_and_tells_before_and_after(tmp_path: Path) -> None:
    said = Said()
    run = train(tmp_path / "run", said=said)
    text = "\n".join(said.texts)
    assert "accuracy on val: " in text
    before, after = (100 * found["ece"]["value"] for found in (result(run)["uncalibrated"], run.metrics))
    assert f"calibration error: {before:.1f}% before, {after:.1f}%" in text
    assert f"temperature {result(run)['temperature']:.3g}" in text
    ends = said.texts[next(n for n, line in enumerate(said.texts) if "epoch 1 to 3" in line) :]
    assert max(map(len, ends)) <= 80


def test_the_page_is_written_and_named(tmp_path: Path) -> None:
    said = Said()
    run = train(tmp_path / "run", said=said, train__report="yes")
    assert said.texts[-1] == f"report: {run.path / 'report.html'}"
    assert (run.path / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("error", [OSError("disk\nfull"), RuntimeError(), KeyError("x")])
def test_a_page_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, run: Run
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise error

    monkeypatch.setattr("tellapart.api.report.write_report", fail)
    said = Said()
    found = train(tmp_path / "run", said=said, train__report="yes")
    assert found.metrics == run.metrics
    assert not (found.path / "report.html").exists()
    warnings = [text for text in said.texts if "the report was not written" in text]
    assert len(warnings) == 1
    assert "\n" not in warnings[0]
    assert f"To try again: tellapart report {found.path}" in warnings[0]
    assert (str(error).split() or [type(error).__name__])[0] in warnings[0]


def test_killed_while_the_page_is_written_the_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledError(BaseException):
        pass

    def die(*arguments: Any, **keywords: Any) -> None:
        raise KilledError

    monkeypatch.setattr("tellapart.api.report.write_report", die)
    with pytest.raises(KilledError):
        train(tmp_path / "run", train__report="yes")
    assert Run(tmp_path / "run").result is not None
    assert tellapart.load(tmp_path / "run").predict(IMAGES[0])


def test_several_runs_end_with_an_overview_and_one_that_fails_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("tellapart.api.report.report", fail)
    said = Said()
    found = train(tmp_path / "folds", said=said, data__folds=2, train__report="yes")
    assert result(found)["folds"] == 2
    assert said.texts[-1].startswith("warning: the report was not written: disk full.")
    assert (tmp_path / "folds" / "fold-1" / "report.html").is_file()
    # A run of several says what it came to in two or three lines, not in twenty.
    assert not any("epoch 1 to 3" in text for text in said.texts)
    assert sum("calibration error: " in text for text in said.texts) == 2


def test_the_description_is_plain_json(run: Run) -> None:
    info = json.loads((run.bundle / "config.json").read_text())
    assert info["calibration"]["method"] == "temperature"
    assert info["versions"] == finish.versions()
