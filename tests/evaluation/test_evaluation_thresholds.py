"""Thresholds: the best F1 that any threshold has, in the middle of a gap, and 0.5 where there is nothing to choose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from tellapart.evaluation.thresholds import choose_thresholds


def choose(scores: list[float], positives: list[int]) -> float:
    return float(choose_thresholds(np.array([scores], np.float32).T, np.array([positives]).T)[0])


def f1(scores: np.ndarray, positives: np.ndarray, threshold: float) -> float:
    taken = scores > threshold
    return 2 * float(positives[taken].sum()) / max(1.0, float(taken.sum() + positives.sum()))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=1, max_size=25),
    st.booleans(),
)
def test_no_threshold_has_a_higher_f1(images: list[tuple[float, bool]], are_coarse: bool) -> None:
    scores = np.array([score for score, _ in images], np.float32)
    if are_coarse:
        scores = np.round(scores, 1)
    positives = np.array([positive for _, positive in images], np.float32)
    found = float(choose_thresholds(scores[:, None], positives[:, None])[0])
    assert 0 <= found <= 1
    if not positives.any() or len(set(scores.tolist())) == 1:
        assert found == 0.5
        return
    # Every way to divide them: above each score, and above none.
    best = max(f1(scores, positives, threshold) for threshold in [0.0, *scores.tolist()])
    if (scores > 0).all():
        best = max(best, f1(scores, positives, -1.0))
    assert f1(scores, positives, found) == pytest.approx(best, abs=1e-12)


def test_the_f1_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random(60).astype(np.float32)
    positives = (rng.random(60) < scores).astype(np.float32)
    found = float(choose_thresholds(scores[:, None], positives[:, None])[0])
    values = [f1_score(positives, scores > threshold, zero_division=0) for threshold in scores]  # pyright: ignore
    assert f1_score(positives, scores > found) == max(values)


def test_it_lies_in_the_middle_of_the_gap() -> None:
    assert choose([0.125, 0.25, 0.5, 0.75], [0, 0, 1, 1]) == 0.375
    # All are positive: all are predicted, with room below the lowest.
    assert choose([0.25, 0.5], [1, 1]) == 0.125


def test_of_equal_f1_the_nearest_to_a_half_and_then_the_higher() -> None:
    # Taking one or all three gives an F1 of 2/3 * ...: by hand, cut after 1: 2*1/(1+2) = 2/3; after 4: 2*2/(4+2) = 2/3.
    assert choose([0.9, 0.6, 0.3, 0.1], [1, 0, 0, 1]) == pytest.approx(0.75)
    # Two cuts with F1 2/3, at 0.75 and 0.25, each a quarter from the half.
    assert choose([1.0, 0.5, 0.5, 0.5], [1, 0, 0, 1]) == 0.75


def test_no_positive_or_nothing_that_divides_them_keeps_a_half() -> None:
    assert choose([0.1, 0.7, 0.9], [0, 0, 0]) == 0.5
    assert choose([0.3, 0.3, 0.3], [0, 1, 0]) == 0.5
    assert choose([0.3], [1]) == 0.5


def test_scores_of_zero_cannot_be_taken_in() -> None:
    """Nothing is below 0, and what is predicted is above its threshold."""
    assert 0 <= choose([0.0, 0.0, 0.5], [1, 1, 0]) < 0.5


def test_neighbouring_numbers_are_still_divided() -> None:
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    found = choose_thresholds(np.array([[low], [high]]), np.array([[0], [1]]))
    assert found.dtype == np.float32
    assert low <= found[0] < high


def test_the_order_of_images_does_not_matter_and_classes_do_not_meet() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((200, 4)).astype(np.float32)
    targets = (rng.random((200, 4)) < scores).astype(np.float32)
    found = choose_thresholds(scores, targets)
    order = rng.permutation(200)
    assert np.array_equal(choose_thresholds(scores[order], targets[order]), found)
    assert np.array_equal(choose_thresholds(scores[:, ::-1], targets[:, ::-1]), found[::-1])
    assert found.shape == (4,)
