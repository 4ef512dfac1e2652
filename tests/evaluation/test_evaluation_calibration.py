"""The temperature: it finds the one that made the logits, agrees with brute force, and changes no prediction."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, softmax

from tellapart.errors import RunError
from tellapart.evaluation.calibration import (
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    apply_temperature,
    fit_temperature,
)
from tellapart.evaluation.metrics import target_ranks


def drawn(task: str, n: int, num_classes: int, seed: int, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits that are calibrated as they are: the targets are drawn from the probabilities they stand for."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, (n, num_classes))
    if task == "multilabel":
        return logits, (rng.random(logits.shape) < expit(logits)).astype(np.float32)
    return logits, (softmax(logits, 1).cumsum(1) < rng.random((n, 1))).sum(1).clip(0, num_classes - 1)


def smoothed_nll(logits: np.ndarray, targets: np.ndarray, task: str, temperature: float) -> float:
    """Return what is minimised, written out from the docstring's formula with SciPy."""
    n, num_classes = logits.shape
    scaled = np.asarray(logits, np.float64) / temperature
    if task == "multiclass":
        others = softmax(np.where(np.eye(num_classes, dtype=bool)[targets], -np.inf, logits), 1)
        wanted = others / (2 * (n + 1))
        wanted[np.arange(n), targets] = (n + 0.5) / (n + 1)
        return float(-(wanted * log_softmax(scaled, 1)).sum(1).mean())
    positive, negative = targets.sum(), (1 - targets).sum()
    wanted = np.where(targets > 0, (positive + 0.5) / (positive + 1), 1 / (2 * (negative + 1)))
    losses = wanted * np.logaddexp(0, -scaled) + (1 - wanted) * np.logaddexp(0, scaled)
    return float(losses.sum(1).mean())


TASKS = ["multiclass", "multilabel"]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("true", [0.25, 0.7, 1.0, 1.8, 6.0])
def test_the_temperature_that_made_the_logits_is_found(task: str, true: float) -> None:
    logits, targets = drawn(task, 10_000, 10, seed=round(true * 100))
    assert fit_temperature(logits * true, targets, task) == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("n", "num_classes", "scale"), [(1, 2, 1.0), (9, 3, 4.0), (200, 7, 0.3), (500, 40, 2.5)])
def test_no_temperature_of_a_fine_grid_is_better(task: str, n: int, num_classes: int, scale: float) -> None:
    logits, targets = drawn(task, n, num_classes, seed=n)
    found = fit_temperature(scale * logits, targets, task)
    grid = np.exp(np.linspace(math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE), 1001))
    values = [smoothed_nll(scale * logits, targets, task, temperature) for temperature in grid]
    best = int(np.argmin(values))
    assert smoothed_nll(scale * logits, targets, task, found) <= values[best] + 1e-9
    assert grid[max(best - 1, 0)] * (1 - 1e-9) <= found <= grid[min(best + 1, 1000)] * (1 + 1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    task=st.sampled_from(TASKS),
    n=st.integers(1, 30),
    num_classes=st.integers(2, 6),
    seed=st.integers(0, 10**6),
    scale=st.floats(1e-3, 1e3),
)
def test_never_worse_than_none_and_always_in_range(
    task: str, n: int, num_classes: int, seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    logits = (scale * rng.normal(size=(n, num_classes))).astype(np.float32)
    targets: Any = rng.integers(0, num_classes, n)
    if task == "multilabel":
        targets = rng.integers(0, 2, (n, num_classes)).astype(np.float32)
    found = fit_temperature(logits, targets, task)
    assert LOWEST_TEMPERATURE <= found <= HIGHEST_TEMPERATURE
    assert found == float(np.float32(found))
    before = smoothed_nll(logits, targets, task, 1.0)
    assert smoothed_nll(logits, targets, task, found) <= before * (1 + 1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_no_error_in_val_does_not_make_it_certain(task: str) -> None:
    """Each of 50 images is right by a margin; unsmoothed, the likelihood would ask for T = 0."""
    targets = np.arange(50) % 5
    logits = 4.0 * np.eye(5)[targets] - 2.0
    wanted: Any = targets if task == "multiclass" else np.eye(5, dtype=np.float32)[targets]
    temperature = fit_temperature(logits, wanted, task)
    probs = apply_temperature(softmax(logits, 1) if task == "multiclass" else expit(logits), temperature, task)
    # As sure as after 50 successes in 50 trials and half of one more that was none.
    if task == "multiclass":
        assert probs.max(1) == pytest.approx(50.5 / 51, abs=1e-5)
    else:
        assert 0.98 < probs[targets == 0, 0].min() < 0.999
    assert temperature > LOWEST_TEMPERATURE * 10


def test_the_smoothing_fades_with_more_images() -> None:
    logits, targets = drawn("multiclass", 10_000, 5, seed=0)
    grid = np.linspace(0.95, 1.05, 51)
    plain = [-log_softmax(logits / t, 1)[np.arange(len(targets)), targets].mean() for t in grid]
    assert fit_temperature(logits, targets, "multiclass") == pytest.approx(grid[int(np.argmin(plain))], abs=4e-3)


def test_by_hand() -> None:
    """Two images of two classes, gaps of +3 and -3 to the truth: as often right as wrong, whatever the smoothing."""
    logits = np.array([[3.0, 0.0], [3.0, 0.0]])
    assert fit_temperature(logits, np.array([0, 1]), "multiclass") == HIGHEST_TEMPERATURE
    # Nine of ten right, smoothed: the confidence that fits is (9 * 10.5/11 + 0.5/11) / 10 = 19/22.
    targets = np.array([0] * 9 + [1])
    logits = np.tile([3.0, 0.0], (10, 1))
    assert fit_temperature(logits, targets, "multiclass") == pytest.approx(3 / math.log(19 / 3), rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_a_constant_added_to_an_images_logits_changes_nothing(shift: float) -> None:
    logits, targets = drawn("multiclass", 300, 6, seed=3)
    shifts = shift * np.random.default_rng(0).random((300, 1))
    assert fit_temperature(logits + shifts, targets, "multiclass") == pytest.approx(
        fit_temperature(logits, targets, "multiclass"), rel=1e-6
    )


def test_the_order_of_images_and_how_many_are_looked_at_together_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, targets = drawn("multiclass", 301, 6, seed=4)
    order = np.random.default_rng(1).permutation(301)
    expected = fit_temperature(logits, targets, "multiclass")
    assert fit_temperature(logits[order], targets[order], "multiclass") == expected
    monkeypatch.setattr("tellapart.evaluation.calibration._LOGITS_AT_ONCE", 100)
    assert fit_temperature(logits, targets, "multiclass") == expected


@pytest.mark.parametrize("task", TASKS)
def test_what_no_temperature_can_change_keeps_its_own(task: str) -> None:
    targets: Any = np.array([0, 1, 1, 2]) if task == "multiclass" else np.eye(3)[[0, 1, 1, 2]]
    assert fit_temperature(np.zeros((4, 3)), targets, task) == 1.0
    assert fit_temperature(np.zeros((4, 3), np.float32), targets, task) == 1.0


def test_of_one_class_and_of_numbers_there_is_none() -> None:
    assert fit_temperature(np.array([[3.0], [5.0]]), np.array([0, 0]), "multiclass") == 1.0
    assert fit_temperature(np.array([[np.nan]]), np.array([[2.0]]), "regression") == 1.0


@pytest.mark.parametrize("task", TASKS)
def test_one_image(task: str) -> None:
    targets: Any = np.array([1]) if task == "multiclass" else np.array([[0.0, 1.0, 0.0]])
    right = fit_temperature(np.array([[-9.0, 9.0, -9.0]]), targets, task)
    assert 1 < right < HIGHEST_TEMPERATURE
    assert fit_temperature(np.array([[9.0, -9.0, 9.0]]), targets, task) == HIGHEST_TEMPERATURE


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    logits = np.zeros((5, 3))
    logits[[1, 3], 2] = value
    with pytest.raises(RunError, match="finite logits, found others for 2 of 5 images"):
        fit_temperature(logits, np.zeros(5, np.int64), "multiclass")


def test_no_image_is_refused() -> None:
    with pytest.raises(RunError, match="at least one image"):
        fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64), "multiclass")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), temperature=st.floats(0.3, 10.0), spread=st.floats(0.1, 4.0))
def test_a_temperature_moves_no_image_to_another_class_or_rank(seed: int, temperature: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    probs = softmax(rng.normal(0, spread, (20, 6)), 1).astype(np.float32)
    found = apply_temperature(probs, temperature, "multiclass")
    assert found.dtype == np.float32
    assert found.sum(1) == pytest.approx(np.ones(20), abs=1e-6)
    for target in range(6):
        targets = np.full(20, target)
        assert np.array_equal(target_ranks(found, targets), target_ranks(probs, targets))
    assert np.array_equal(found.argmax(1), probs.argmax(1))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_from_probabilities_it_is_what_it_is_from_logits(task: str, temperature: float) -> None:
    logits, _ = drawn(task, 200, 5, seed=1)
    of = expit if task == "multilabel" else lambda z: softmax(z, 1)
    found = apply_temperature(of(logits).astype(np.float32), temperature, task)
    np.testing.assert_allclose(found, of(logits / temperature), rtol=3e-5, atol=1e-7)
    back = apply_temperature(found, 1 / temperature, task)
    # Near 1, a sharpened probability is all but rounded away in float32.
    np.testing.assert_allclose(back, of(logits), atol=1e-3 if task == "multilabel" else 1e-6, rtol=1e-4)


def test_certainties_stay_numbers() -> None:
    certain = np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], np.float32)
    for temperature in (LOWEST_TEMPERATURE, 0.5, 3.0, HIGHEST_TEMPERATURE):
        for task in TASKS:
            found = apply_temperature(certain, temperature, task)
            assert np.isfinite(found).all()
            assert ((found >= 0) & (found <= 1)).all()
            assert found[0, 0] > found[0, 1]
    assert apply_temperature(certain, 2.0, "regression") is certain
