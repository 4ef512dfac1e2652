"""Metrics: small cases by hand, parity with scikit-learn, and what must not change a number."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.errors import RunError
from tellapart.evaluation.intervals import bootstrap, resamples, wilson
from tellapart.evaluation.metrics import (
    HEADLINE,
    HIGHER_IS_BETTER,
    Estimate,
    evaluate_predictions,
    format_accuracy,
    metrics_json,
    per_class_table,
    quick_metrics,
    target_ranks,
)
from tellapart.evaluation.per_class import PER_CLASS
from tellapart.evaluation.predictions import TASKS, Predictions
from tellapart.evaluation.statistics import average_precision, f1, mean_average_precision


def table(task: str, outputs: Any, targets: Any, num_given: int | None = None) -> Predictions:
    outputs = np.asarray(outputs, np.float32)
    targets = np.asarray(targets, np.int64 if task == "multiclass" else np.float32)
    n, num_classes = outputs.shape
    classes = tuple(f"class {k}" for k in range(num_classes))
    given_n = n if num_given is None else num_given
    return Predictions(task, classes, np.arange(n), [f"{i}.png" for i in range(n)], targets, outputs, given_n)


def random_table(
    task: str, n: int = 400, num_classes: int = 8, seed: int = 0, present: int | None = None
) -> Predictions:
    """Return a table of a model that is right more often than not; only the first `present` classes have images."""
    rng = np.random.default_rng(seed)
    present = num_classes if present is None else present
    if task == "multiclass":
        targets = rng.integers(0, present, n)
        logits = rng.normal(size=(n, num_classes)) + 2 * np.eye(num_classes)[targets]
        outputs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return table(task, outputs, targets)
    if task == "multilabel":
        targets = (rng.random((n, num_classes)) < 0.3) & (np.arange(num_classes) < present)
        # Rounded, so that many scores are tied.
        return table(task, np.round(1 / (1 + np.exp(-rng.normal(size=targets.shape) - 3 * targets + 1.5)), 2), targets)
    targets = rng.normal(size=(n, num_classes))
    return table(task, targets + 0.5 * rng.normal(size=targets.shape), targets)


def values(metrics: dict[str, Estimate]) -> dict[str, float]:
    return {name: estimate.value for name, estimate in metrics.items()}


def test_multiclass_by_hand() -> None:
    predictions = table("multiclass", [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0, 1, 0], [0.5, 0.5, 0]], [0, 2, 1, 0])
    found = evaluate_predictions(predictions)
    # Images 0, 2 and 3 are right: recalls 2/2, 1/1, 0/1. Image 1 gives its class, 2, a quarter.
    nll = (math.log(2) + math.log(4) + 0 + math.log(2)) / 4
    brier = ((0.25 + 2 / 16) + (1 / 16 + 0.25 + 9 / 16) + 0 + 0.5) / 4
    expected = {"top1": 0.75, "balanced_accuracy": 2 / 3, "recall_macro": 2 / 3, "recall_weighted": 0.75}
    # Called 0: images 0 and 3, both right. Called 1: images 1 and 2, one right. Called 2: none.
    expected |= {"precision_macro": (1 + 0.5 + 0) / 3, "f1_macro": (1 + 2 / 3 + 0) / 3, "nll": nll, "brier": brier}
    # Chance agrees in 2/4 * 2/4 + 1/4 * 2/4 + 1/4 * 0.
    expected |= {"kappa": (0.75 - 0.375) / (1 - 0.375)}
    assert {name: found[name].value for name in expected} == pytest.approx(expected, abs=1e-12)
    assert found["top1"] == Estimate(0.75, *wilson(3, 4))


def test_multilabel_by_hand() -> None:
    outputs = [[0.9, 0.1], [0.8, 0.6], [0.7, 0.5], [0.6, 0.4]]
    found = evaluate_predictions(table("multilabel", outputs, [[1, 0], [0, 1], [1, 1], [0, 0]]))
    # Class 0: hits at ranks 1 and 3, precisions 1 and 2/3; all four predicted, F1 = 4/6. Class 1: both first; one of
    # two predicted, because 0.5 is not above 0.5, F1 = 2/3. Micro: 3 hits, 5 predicted, 4 true.
    expected = {"map": (5 / 6 + 1) / 2, "f1_macro": 2 / 3, "f1_micro": 6 / 9, "f1_weighted": 2 / 3, "exact_match": 0.25}
    # Of class 0's four pairs of a hit and another image one is the wrong way round.
    expected |= {"roc_auc": (0.75 + 1) / 2}
    assert {name: found[name].value for name in expected} == pytest.approx(expected, abs=1e-7)


def test_regression_by_hand() -> None:
    found = evaluate_predictions(table("regression", [[1.0], [2.0], [5.0], [4.0]], [[1.0], [3.0], [3.0], [5.0]]))
    # Errors 0, -1, 2, -1; targets around 3: squares 4, 0, 0, 4.
    expected = {"mse": 6 / 4, "mae": 1.0, "rmse": math.sqrt(1.5), "r2": 1 - 6 / 8}
    assert values(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("present", [8, 5])
def test_multiclass_equals_sklearn(present: int) -> None:
    from sklearn import metrics

    p = random_table("multiclass", present=present)
    truth, labels = p.targets, np.arange(8)
    probs = p.outputs.astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    # scikit-learn's stubs take these for other types.
    unscaled: dict[str, Any] = {"scale_by_half": False}
    guess, some = p.predicted(), np.arange(present)
    macro: dict[str, Any] = {"labels": some, "average": "macro", "zero_division": 0}
    weighted: dict[str, Any] = {**macro, "average": "weighted"}
    one_hot = np.eye(8)[truth]
    expected = {
        "top1": metrics.accuracy_score(truth, guess),
        "top5": metrics.top_k_accuracy_score(truth, probs, k=5, labels=labels),
        "nll": metrics.log_loss(truth, probs, labels=labels),
        "brier": metrics.brier_score_loss(truth, probs, labels=labels, **unscaled),
        # Not balanced_accuracy_score, which warns of a predicted class that no image has.
        "balanced_accuracy": metrics.recall_score(truth, guess, **macro),
        "recall_macro": metrics.recall_score(truth, guess, **macro),
        "recall_weighted": metrics.recall_score(truth, guess, **weighted),
        "precision_macro": metrics.precision_score(truth, guess, **macro),
        "precision_weighted": metrics.precision_score(truth, guess, **weighted),
        "f1_macro": metrics.f1_score(truth, guess, **macro),
        "f1_weighted": metrics.f1_score(truth, guess, **weighted),
        "roc_auc": metrics.roc_auc_score(one_hot[:, some], probs[:, some], average="macro"),
        "average_precision": metrics.average_precision_score(one_hot[:, some], probs[:, some], average="macro"),
        "kappa": metrics.cohen_kappa_score(truth, guess),
        "mcc": metrics.matthews_corrcoef(truth, guess),
    }
    found = values(evaluate_predictions(p))
    assert set(found) == {*expected, "ece", "ece_classwise"}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    if present == 8:
        assert expected["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, guess))
        assert expected["roc_auc"] == pytest.approx(metrics.roc_auc_score(truth, probs, multi_class="ovr"))


@pytest.mark.parametrize("present", [8, 5])
def test_multilabel_equals_sklearn(present: int) -> None:
    from sklearn import metrics

    p = random_table("multilabel", present=present)
    guess, some = p.predicted(), slice(0, present)
    expected = {
        "map": metrics.average_precision_score(p.targets[:, some], p.outputs[:, some]),
        "f1_macro": metrics.f1_score(p.targets[:, some], guess[:, some], average="macro"),
        "f1_micro": metrics.f1_score(p.targets, guess, average="micro"),
        "f1_weighted": metrics.f1_score(p.targets[:, some], guess[:, some], average="weighted"),
        "roc_auc": metrics.roc_auc_score(p.targets[:, some], p.outputs[:, some]),
        "exact_match": metrics.accuracy_score(p.targets, guess),
        "nll": np.mean([metrics.log_loss(p.targets[:, k], p.outputs[:, k], labels=[0, 1]) for k in range(8)]),
        "brier": np.mean([metrics.brier_score_loss(p.targets[:, k], p.outputs[:, k], pos_label=1) for k in range(8)]),
    }
    found = values(evaluate_predictions(p))
    assert set(found) == {*expected, "ece", "ece_classwise"}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("num_outputs", [1, 3])
def test_regression_equals_sklearn(num_outputs: int) -> None:
    from sklearn import metrics

    p = random_table("regression", num_classes=num_outputs)
    truth, guess = p.targets.astype(np.float64), p.outputs.astype(np.float64)
    expected = {
        "mse": metrics.mean_squared_error(truth, guess),
        "mae": metrics.mean_absolute_error(truth, guess),
        "rmse": math.sqrt(metrics.mean_squared_error(truth, guess)),
        "r2": metrics.r2_score(truth, guess),
    }
    assert values(evaluate_predictions(p)) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40))
def test_average_precision_equals_sklearn_with_ties_and_weights(rows: list[tuple[int, bool, int]]) -> None:
    from sklearn.metrics import average_precision_score

    scores, positives, counts = (np.array(column) for column in zip(*rows, strict=True))
    ones = np.ones(len(rows), np.int64)
    found = average_precision(scores / 8, positives)(np.stack([counts, ones], axis=1).astype(np.float32))
    for value, weights in zip(found, (counts, ones), strict=True):
        drawn = np.repeat(np.arange(len(rows)), weights)
        if positives[drawn].any():
            assert value == pytest.approx(average_precision_score(positives[drawn], scores[drawn]), abs=1e-12)
        else:
            assert math.isnan(value)


def test_the_bootstrap_of_r2_is_the_one_by_images() -> None:
    from sklearn.metrics import r2_score

    p = random_table("regression", n=60, num_classes=3)
    found = evaluate_predictions(p, seed=3)["r2"]
    expected = bootstrap(lambda i: r2_score(p.targets[i].astype(float), p.outputs[i].astype(float)), 60, seed=3)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", ["map", "f1_macro", "f1_micro"])
def test_the_fast_statistics_are_those_of_drawn_images(name: str) -> None:
    from sklearn import metrics

    p = random_table("multilabel", n=60, num_classes=3)
    statistic, expected = {
        "map": (mean_average_precision(p.outputs, p.targets), metrics.average_precision_score),
        "f1_macro": (f1(p.outputs, p.targets, "macro"), partial(metrics.f1_score, average="macro")),
        "f1_micro": (f1(p.outputs, p.targets, "micro"), partial(metrics.f1_score, average="micro")),
    }[name]
    (draws,) = resamples(60, seed=1, num_resamples=40)
    counts = np.stack([np.bincount(row, minlength=60) for row in draws], axis=1).astype(np.float32)
    said = p.outputs if name == "map" else p.predicted()
    assert statistic(counts) == pytest.approx([expected(p.targets[row], said[row]) for row in draws], abs=1e-9)


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_the_images_changes_no_bit(task: str) -> None:
    p = random_table(task, n=150)
    order = np.random.default_rng(1).permutation(150)
    shuffled = replace(
        p,
        indices=p.indices[order],
        paths=[p.paths[i] for i in order],
        targets=p.targets[order],
        outputs=p.outputs[order],
    )
    assert evaluate_predictions(shuffled, seed=2) == evaluate_predictions(p, seed=2)
    assert quick_metrics(task, shuffled.outputs, shuffled.targets) == pytest.approx(
        quick_metrics(task, p.outputs, p.targets), rel=1e-12
    )


@pytest.mark.parametrize("task", TASKS)
def test_the_seed_moves_bootstrapped_ends_alone(task: str) -> None:
    p = random_table(task, n=150)
    first, same, other = (evaluate_predictions(p, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first != other
    assert values(first) == values(other)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.sampled_from(TASKS), st.integers(2, 30), st.integers(2, 7), st.integers(0, 10_000))
def test_every_interval_holds_its_value(task: str, n: int, num_classes: int, seed: int) -> None:
    p = random_table(task, n, num_classes, seed, present=1 + seed % num_classes)
    for name, estimate in evaluate_predictions(p).items():
        assert math.isnan(estimate.value) or estimate.low <= estimate.value <= estimate.high, name
        if task != "regression" and name != "nll" and not math.isnan(estimate.value):
            least = -1 if name in ("kappa", "mcc") else 0
            assert least <= estimate.low <= estimate.high <= (2 if name == "brier" else 1), name


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("right", [True, False])
def test_no_accuracy_claims_to_be_certain(task: str, right: bool) -> None:
    labels = np.arange(20) % 4
    truth = np.eye(4)[labels]
    outputs = truth if right else np.roll(truth, 1, axis=1)
    for name, estimate in evaluate_predictions(table(task, outputs, labels if task == "multiclass" else truth)).items():
        if estimate.value in (0.0, 1.0) and HIGHER_IS_BETTER[name]:
            assert estimate.high - estimate.low > 0.05, name


def test_balanced_accuracy_of_balanced_classes_is_top1() -> None:
    outputs = np.eye(4)[np.arange(80) % 4]
    found = evaluate_predictions(table("multiclass", outputs, np.arange(80) % 4))
    for name in ("balanced_accuracy", "precision_macro"):
        ends = (found["top1"].value, found["top1"].low, found["top1"].high)
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx(ends, abs=1e-12), name


def test_a_class_missing_from_the_split_shifts_nothing() -> None:
    p = random_table("multiclass", num_classes=6)
    wide = table("multiclass", np.insert(p.outputs, 2, 0, axis=1), p.targets + (p.targets >= 2))
    a, b = evaluate_predictions(p), evaluate_predictions(wide)
    assert values(b) == pytest.approx(values(a), abs=1e-12)
    for name in a:
        assert (b[name].low, b[name].high) == pytest.approx((a[name].low, a[name].high), abs=1e-12)
    rows = per_class_table(wide)
    names = {row["class"]: new["class"] for row, new in zip(per_class_table(p), rows[:2] + rows[3:], strict=True)}
    assert names["class 1"] == "class 1"
    assert names["class 2"] == "class 3"
    undefined = [f"{name}{end}" for name in PER_CLASS for end in ("", "_low", "_high")]
    assert rows[2] == {"class": "class 2", "support": 0} | dict.fromkeys(undefined)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=20), st.integers(0, 3))
def test_ranks_are_places_in_a_stable_descending_sort(rows: list[list[int]], label: int) -> None:
    outputs, targets = np.array(rows, np.float32), np.full(len(rows), label)
    places = [sorted(range(4), key=lambda k: -row[k]).index(label) for row in rows]
    assert target_ranks(outputs, targets).tolist() == places
    assert np.array_equal(target_ranks(outputs, targets) == 0, outputs.argmax(axis=1) == targets)


def test_a_model_that_says_the_same_of_all_classes_gets_the_first_alone() -> None:
    found = evaluate_predictions(table("multiclass", np.full((10, 10), 0.1), np.arange(10)))
    assert found["top1"].value == 0.1
    assert found["top5"].value == 0.5


def test_top5_needs_more_than_five_classes() -> None:
    assert "top5" not in evaluate_predictions(random_table("multiclass", num_classes=5))
    assert "top5" in evaluate_predictions(random_table("multiclass", num_classes=6))


def test_a_certain_mistake_has_a_large_but_finite_nll() -> None:
    found = evaluate_predictions(table("multiclass", [[1, 0], [1, 0]], [0, 1]))
    assert found["nll"].value == pytest.approx(-math.log(np.finfo(np.float32).tiny) / 2)


def test_what_cannot_be_known_is_nan_and_then_null() -> None:
    nothing = evaluate_predictions(table("multilabel", np.full((4, 2), 0.25), np.zeros((4, 2))))
    assert math.isnan(nothing["map"].value)
    assert math.isnan(nothing["f1_macro"].low)
    constant = evaluate_predictions(table("regression", [[1.0], [2.0]], [[3.1], [3.1]]))
    assert math.isnan(constant["r2"].value)
    one = evaluate_predictions(table("multiclass", [[0.5, 0.5]], [0]))
    assert one["nll"].value == pytest.approx(math.log(2))
    assert math.isnan(one["nll"].low)
    assert one["top1"] == Estimate(1.0, *wilson(1, 1))
    assert (one["balanced_accuracy"].low, one["balanced_accuracy"].high) == pytest.approx(wilson(1, 1))
    assert all(math.isnan(one[name].value) for name in ("roc_auc", "kappa", "mcc"))
    assert math.isnan(one["ece"].low)
    text = json.dumps(metrics_json({**nothing, **constant, **one}), allow_nan=False)
    assert json.loads(text)["map"] == {"value": None, "low": None, "high": None}


def test_a_resample_without_variance_does_not_reach_r2() -> None:
    # A third of all draws hold one target three times, whose variance is zero but for rounding.
    found = evaluate_predictions(table("regression", [[0.2], [0.1], [0.5]], [[0.1], [0.1], [0.6]]))
    assert -1 < found["r2"].low < found["r2"].value < found["r2"].high <= 1


def test_metrics_json_is_plain() -> None:
    found = metrics_json({"top1": Estimate(float(np.float64(0.5)), 0.25, math.inf)})
    assert found == {"top1": {"value": 0.5, "low": 0.25, "high": None}}
    assert type(found["top1"]["value"]) is float


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_per_class_table_equals_sklearn(task: str) -> None:
    from sklearn.metrics import precision_recall_fscore_support

    # The last two classes have no image. In the multi-class table the last one is never predicted either.
    p = random_table(task, n=60, num_classes=6, present=4)
    if task == "multiclass":
        outputs = p.outputs * np.array([1, 1, 1, 1, 1, 0], np.float32)
        p = replace(p, outputs=outputs / outputs.sum(axis=1, keepdims=True))
    undefined: dict[str, Any] = {"zero_division": np.nan}
    expected = precision_recall_fscore_support(p.targets, p.predicted(), labels=np.arange(6), average=None, **undefined)
    rows = per_class_table(p)
    for key, column in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        found = [math.nan if row[key] is None else row[key] for row in rows]
        assert found == pytest.approx(np.asarray(column, np.float64), abs=1e-12, nan_ok=True), key
    assert rows[5]["recall"] is None
    for row in rows[:4]:
        hits = round(float(row["recall"] or 0) * int(row["support"] or 0))
        assert (row["recall_low"], row["recall_high"]) == pytest.approx(wilson(hits, int(row["support"] or 0)))
    json.dumps(rows, allow_nan=False)


def test_per_class_table_of_a_regression_is_refused() -> None:
    with pytest.raises(RunError, match="no classes"):
        per_class_table(random_table("regression"))


@pytest.mark.parametrize("task", TASKS)
def test_quick_metrics_are_the_full_ones(task: str) -> None:
    p = random_table(task)
    quick, full = quick_metrics(task, p.outputs, p.targets), values(evaluate_predictions(p))
    assert HEADLINE[task] in quick
    assert quick == pytest.approx({name: full[name] for name in quick}, rel=1e-12)


def test_quick_metrics_count_nan_as_wrong() -> None:
    outputs = np.array([[np.nan, 1], [0, np.nan], [0, 1]], np.float32)
    found = quick_metrics("multiclass", outputs, np.array([0, 0, 1]))
    assert found["top1"] == pytest.approx(1 / 3)
    assert math.isnan(found["nll"])


def test_every_metric_has_a_direction() -> None:
    named = {name for task in TASKS for name in evaluate_predictions(random_table(task, n=20))}
    assert list(evaluate_predictions(random_table("multiclass", n=20)))[:3] == ["top1", "top5", "balanced_accuracy"]
    assert named == set(HIGHER_IS_BETTER)
    assert set(HEADLINE) == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_nothing_to_evaluate_is_said(task: str) -> None:
    empty = table(task, np.zeros((0, 3)), np.zeros(0) if task == "multiclass" else np.zeros((0, 3)), num_given=12)
    with pytest.raises(RunError, match=r"nothing to evaluate.* 12 given"):
        evaluate_predictions(empty)
    with pytest.raises(RunError, match="nothing to evaluate"):
        quick_metrics(task, empty.outputs, empty.targets)


def test_wrong_tables_and_tasks_are_refused() -> None:
    with pytest.raises(RunError, match="sum to 1"):
        evaluate_predictions(table("multiclass", [[0.5, 0.25]], [0]))
    with pytest.raises(RunError, match="Did you mean 'multilabel'"):
        quick_metrics("multilable", np.zeros((1, 1)), np.zeros((1, 1)))


def test_format_accuracy() -> None:
    assert format_accuracy(Estimate(0.9533, 0.9463, 0.9591), 4500) == "95.3% (94.6 to 95.9, n = 4,500)"
    assert format_accuracy(Estimate(1.0, *wilson(10, 10)), 10) == "100.0% (72.2 to 100.0, n = 10)"
    assert format_accuracy(Estimate(0.0, 0.0, 0.0005), 1_234_567) == "0.0% (0.0 to 0.1, n = 1,234,567)"


@pytest.mark.parametrize("task", TASKS)
def test_ten_thousand_images_of_twenty_classes_take_seconds(task: str) -> None:
    p = random_table(task, n=10_000, num_classes=20)
    start = time.process_time()
    evaluate_predictions(p)
    # 0.4 s, and scikit-learn's import.
    assert time.process_time() - start < 5


def test_importing_metrics_brings_in_nothing_heavy() -> None:
    code = (
        "import sys, tellapart.evaluation.metrics\n"
        "heavy = {'sklearn', 'scipy', 'torchvision', 'timm', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert (result.returncode, result.stderr) == (0, "")
