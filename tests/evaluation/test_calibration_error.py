"""Calibration errors: by hand, against torchmetrics and scikit-learn, and how their bias is dealt with."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tellapart.errors import RunError
from tellapart.evaluation.calibration_error import binned_error, calibration_metrics, equal_mass_edges, in_bins
from tellapart.evaluation.estimates import metrics_json
from tellapart.evaluation.metrics import confusion_matrix, evaluate_predictions, reliability
from tellapart.evaluation.predictions import Predictions


def table(task: str, outputs: np.ndarray, targets: np.ndarray) -> Predictions:
    n, num_classes = outputs.shape
    kind = np.int64 if task == "multiclass" else np.float32
    return Predictions(
        task,
        tuple(f"class {k}" for k in range(num_classes)),
        np.arange(n),
        [f"{i}.png" for i in range(n)],
        np.asarray(targets).astype(kind),
        np.asarray(outputs, np.float32),
        n,
    )


def drawn(n: int, num_classes: int = 4, seed: int = 0, sharpness: float = 1.0) -> Predictions:
    """Return a table whose classes are drawn from its probabilities; sharpened, it claims too much."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(n, num_classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = (rng.random((n, 1)) > np.cumsum(probs, axis=1)).sum(axis=1).clip(0, num_classes - 1)
    sharp = probs**sharpness
    return table("multiclass", sharp / sharp.sum(axis=1, keepdims=True), targets)


def test_ece_by_hand() -> None:
    # Fifteen bins of two images each: confidences 0.51, 0.52, ..., 0.80, of which every other one is right.
    confidence = np.arange(51, 81) / 100
    right = np.arange(30) % 2 == 0
    found = calibration_metrics(
        table("multiclass", np.stack([confidence, 1 - confidence], axis=1), np.where(right, 0, 1))
    )
    # In each bin |mean confidence - 1/2|, from 0.015 to 0.295; their mean is that of 0.51 to 0.80 less a half.
    assert found["ece"].value == pytest.approx(confidence.mean() - 0.5, abs=1e-6)
    # The second class has the same gaps with the sign turned.
    assert found["ece_classwise"].value == pytest.approx(found["ece"].value, abs=1e-6)


@pytest.mark.parametrize("num_bins", [5, 15])
def test_binned_error_equals_torchmetrics(num_bins: int) -> None:
    import torch
    from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

    p = drawn(700, 6)
    equal_width = np.linspace(0, 1, num_bins + 1)[1:-1]
    confidence, hits = p.outputs.max(axis=1).astype(np.float64), p.predicted() == p.targets
    expected = multiclass_calibration_error(torch.tensor(p.outputs), torch.tensor(p.targets), 6, num_bins, "l1")
    assert binned_error(confidence, hits, equal_width) == pytest.approx(float(expected), abs=1e-6)
    # torchmetrics knows bins of equal width only. Of evenly spread probabilities they are those of equal mass.
    even = (np.random.default_rng(1).permutation(900) + 0.5) / 900
    happened = np.random.default_rng(2).random(900) < even**2
    expected = binary_calibration_error(torch.tensor(even), torch.tensor(happened).long(), num_bins, "l1")
    found = binned_error(even, happened, equal_mass_edges(even, num_bins))
    assert found == pytest.approx(float(expected), abs=1e-6)
    if num_bins == 15:
        labels = table("multilabel", np.stack([even, even], axis=1), np.stack([happened, happened], axis=1))
        of_labels = calibration_metrics(labels)
        assert of_labels["ece"].value == pytest.approx(float(expected), abs=1e-6)
        assert of_labels["ece_classwise"].value == pytest.approx(float(expected), abs=1e-6)


def test_bins_are_those_of_sklearn() -> None:
    from sklearn.calibration import calibration_curve

    p = drawn(333, 5)
    rows = reliability(p, num_bins=12)
    share, mean = calibration_curve(
        p.predicted() == p.targets, p.outputs.max(axis=1).astype(np.float64), n_bins=12, strategy="quantile"
    )
    assert [row["accuracy"] for row in rows] == pytest.approx(share, abs=1e-12)
    assert [row["confidence"] for row in rows] == pytest.approx(mean, abs=1e-12)
    assert sum(row["count"] for row in rows) == 333
    assert max(row["count"] for row in rows) - min(row["count"] for row in rows) <= 1
    assert all(0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1 for row in rows)
    ece = sum(row["count"] * abs(row["accuracy"] - row["confidence"]) for row in reliability(p)) / 333
    assert calibration_metrics(p)["ece"].value == pytest.approx(ece, abs=1e-12)
    json.dumps(rows, allow_nan=False)


def test_images_that_are_equally_sure_share_a_bin_whatever_their_order() -> None:
    confidence = np.repeat([0.6, 0.7, 0.9], [50, 3, 47])
    bins = in_bins(confidence, equal_mass_edges(confidence))
    assert [len(set(bins[confidence == value])) for value in (0.6, 0.7, 0.9)] == [1, 1, 1]
    p = table("multiclass", np.stack([confidence, 1 - confidence], axis=1), np.arange(100) % 3 % 2)
    rows = reliability(p)
    assert [row["count"] for row in rows] == [50, 3, 47]
    order = np.random.default_rng(0).permutation(100)
    shuffled = replace(p, indices=p.indices[order], targets=p.targets[order], outputs=p.outputs[order])
    assert calibration_metrics(shuffled) == calibration_metrics(p)
    assert reliability(shuffled) == rows


def test_all_equal_probabilities_are_one_bin() -> None:
    found = calibration_metrics(table("multiclass", np.full((40, 4), 0.25), np.arange(40) % 4))
    assert found["ece"].value == found["ece_classwise"].value == 0
    assert 0.05 < found["ece"].high < 0.2


def test_a_sure_and_right_table_has_no_error() -> None:
    found = calibration_metrics(table("multiclass", np.eye(3)[np.arange(30) % 3], np.arange(30) % 3))
    assert [found[name].value for name in ("nll", "brier", "ece", "ece_classwise")] == [0, 0, 0, 0]


@pytest.mark.parametrize(("n", "sharpness"), [(60, 1.0), (60, 2.5), (500, 2.5)])
def test_intervals_hold_the_error_of_all_images(n: int, sharpness: float) -> None:
    everything = drawn(40_000, seed=1, sharpness=sharpness)
    truth = calibration_metrics(everything)
    rng = np.random.default_rng(2)
    held: dict[str, list[bool]] = {"ece": [], "ece_classwise": []}
    for _ in range(50):
        rows = rng.integers(0, 40_000, n)
        found = calibration_metrics(table("multiclass", everything.outputs[rows], everything.targets[rows]))
        for name, each in held.items():
            each.append(found[name].low <= truth[name].value <= found[name].high)
    # 95% less 3 standard errors of 50 draws; a percentile bootstrap holds a small true error never.
    assert {name: np.mean(each) for name, each in held.items() if np.mean(each) < 0.857} == {}


def test_calibration_alone_is_that_of_all_metrics() -> None:
    p = drawn(200, 5)
    full = evaluate_predictions(p, seed=4)
    alone = calibration_metrics(p, seed=4)
    assert alone == {name: full[name] for name in ("nll", "brier", "ece", "ece_classwise")}
    json.dumps(metrics_json(alone), allow_nan=False)


def test_one_image_has_a_value_and_no_interval() -> None:
    found = calibration_metrics(table("multiclass", np.array([[0.75, 0.25]]), np.array([0])))
    assert found["ece"].value == 0.25
    assert math.isnan(found["ece"].low) and math.isnan(found["nll"].high)


def test_what_states_no_probabilities_is_refused() -> None:
    numbers = table("regression", np.ones((3, 1)), np.ones((3, 1)))
    for function in (calibration_metrics, reliability, confusion_matrix):
        with pytest.raises(RunError, match="regression"):
            function(numbers)
    with pytest.raises(RunError, match="multilabel"):
        confusion_matrix(table("multilabel", np.ones((3, 1)), np.ones((3, 1))))
    with pytest.raises(RunError, match="finite"):
        calibration_metrics(table("multiclass", np.array([[np.nan, 0.5]]), np.array([0])))
    with pytest.raises(ValueError, match="num_bins"):
        reliability(drawn(10), num_bins=0)


def test_confusion_matrix_equals_sklearn() -> None:
    from sklearn import metrics

    p = drawn(300, 5)
    found = confusion_matrix(p)
    assert found.dtype == np.int64
    assert np.array_equal(found, metrics.confusion_matrix(p.targets, p.predicted(), labels=np.arange(5)))
