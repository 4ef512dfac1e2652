"""The benchmark of coverage on real predictions, in short: a logistic regression's of the digits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.predictions import Predictions

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py"
NUM_DRAWS = 30


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interval_coverage", BENCHMARK)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["interval_coverage"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def digits() -> Predictions:
    """Return what a weak logistic regression, fitted on 60 digits, says about all the others."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    images, targets = load_digits(return_X_y=True)
    model = LogisticRegression(C=1e-3, max_iter=500).fit(images[:60], targets[:60])
    outputs = model.predict_proba(images[60:]).astype(np.float32)
    n = len(outputs)
    return Predictions(
        "multiclass", tuple("0123456789"), np.arange(n), [""] * n, np.asarray(targets[60:], np.int64), outputs, n
    )


@pytest.mark.parametrize("n", [50, 200])
def test_intervals_hold_the_truth_of_real_predictions(benchmark: ModuleType, digits: Predictions, n: int) -> None:
    lines = benchmark.coverage(digits, [n], 1000, groups=("shares",))
    # scikit-learn takes milliseconds a class.
    lines |= benchmark.coverage(digits, [n], NUM_DRAWS, groups=("areas",))
    rows = {key: benchmark.summary(*key, line) for key, line in lines.items() if line.held}
    for region in ("all", "near 100%", "near 0%"):
        assert 0.93 <= rows["accuracy", n, region]["exact"] <= 0.97, region
        assert 0.925 <= rows["recall of a class", n, region]["exact"] <= 0.975, region
        assert rows["recall of a class", n, region]["coverage"] == pytest.approx(
            rows["recall of a class", n, region]["exact"], abs=0.02
        ), region
    # 30 samples of ten classes each: 95% within 3 standard errors, which a miss of one in eight is beyond.
    assert 0.9 <= rows["roc_auc of a class", n, "all"]["coverage"] <= 0.995
    assert 0.9 <= rows["average_precision of a class", n, "all"]["coverage"] <= 0.995


def test_wrong_intervals_would_be_seen(
    benchmark: ModuleType, digits: Predictions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "share", lambda k, n: narrow(benchmark, k, n))
    lines = benchmark.coverage(digits, [50], 300, groups=("shares",))
    assert benchmark.summary("recall of a class", 50, "all", lines["recall of a class", 50, "all"])["coverage"] < 0.91


def narrow(benchmark: ModuleType, hits: int, n: int) -> object:
    """Return an interval that holds the truth in 85% of cases."""
    low, high = wilson(hits, n, 0.85)
    return benchmark.Estimate(hits / n, low, high) if n else benchmark.Estimate(np.nan, np.nan, np.nan)


def test_exact_coverage_by_hand(benchmark: ModuleType) -> None:
    # Of 2 images with a true share of 1/2: Wilson's interval of 1 of 2 holds it, and so do those of 0 and 2 of 2.
    assert benchmark.exact_coverage(2, 0.5) == pytest.approx(1.0)
    # 50 images at 99%: the interval of 48 hits ends at 98.9%, so 49 and 50 are left.
    assert benchmark.exact_coverage(50, 0.99) == pytest.approx(0.99**50 + 50 * 0.99**49 * 0.01)
    # No interval can do better than 98.6% there: 48, 49 and 50 together.
    assert benchmark.best_coverage(50, 0.99) == pytest.approx(0.9862, abs=1e-4)


def test_the_table_is_legible(benchmark: ModuleType, digits: Predictions) -> None:
    lines = benchmark.coverage(digits, [50], 4)
    rows = [benchmark.summary(*key, line) for key, line in lines.items() if line.held]
    text = benchmark.in_words(rows + list(benchmark.averaged([50])))
    assert {"ece", "kappa", "f1_macro", "recall_macro"} <= {row["metric"] for row in rows}
    assert text.splitlines()[1].startswith("accuracy")
    assert max(map(len, text.splitlines())) <= 135
