"""Out-of-distribution scores: hand-computed values, the areas of scikit-learn, and sides without an answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.errors import RunError
from tellapart.evaluation.ood import SCORES, energy, max_logit, max_softmax, separation, separations, separations_json


def test_scores_by_hand() -> None:
    logits = np.array([[0.0, np.log(3.0)], [2.0, 2.0]], np.float32)
    np.testing.assert_allclose(max_softmax(logits), [0.75, 0.5], rtol=1e-6)
    np.testing.assert_allclose(max_logit(logits), [np.log(3), 2], rtol=1e-6)
    np.testing.assert_allclose(energy(logits), [np.log(4), 2 + np.log(2)], rtol=1e-6)


def test_scores_of_huge_logits_are_finite() -> None:
    logits = np.array([[1e4, -1e4], [-1e4, -1e4]], np.float32)
    for score in SCORES.values():
        assert np.isfinite(score(logits)).all()


@settings(max_examples=20)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_areas_and_rates_are_those_of_scikit_learn(known: list[int], others: list[int]) -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    labels, scores = [1] * len(known) + [0] * len(others), known + others
    found = separation(np.array(known, float), np.array(others, float))
    assert found.auroc.value == pytest.approx(float(roc_auc_score(labels, scores)))
    rates = zip(*roc_curve(labels, scores, drop_intermediate=False)[:2], strict=True)
    assert found.fpr95.value == pytest.approx(min(fpr for fpr, tpr in rates if tpr >= 0.95 - 1e-12))
    for each in (found.auroc, found.fpr95):
        assert 0 <= each.low <= each.value <= each.high <= 1


def test_a_perfect_separation_is_not_certain() -> None:
    found = separation(np.arange(10.0, 60.0), np.arange(0.0, 10.0))
    assert (found.auroc.value, found.fpr95.value) == (1, 0)
    assert found.auroc.low < 1
    assert found.fpr95.high > 0.1


def test_the_threshold_lets_95_percent_through() -> None:
    known = np.arange(100.0)
    found = separation(known, np.array([4.0, 5.0, 50.0]))
    assert found.threshold == 5
    assert (known >= found.threshold).mean() == 0.95
    assert found.fpr95.value == pytest.approx(2 / 3)


def test_the_same_on_both_sides_is_chance() -> None:
    rng = np.random.default_rng(0)
    found = separations(rng.normal(size=(400, 5)), rng.normal(size=(300, 5)), "multiclass")
    for each in found.values():
        assert each.auroc.low < 0.5 < each.auroc.high
        assert each.fpr95.low < 0.95 < each.fpr95.high
    assert list(separations_json(found)) == ["max_softmax", "max_logit", "energy"]
    assert list(separations(rng.normal(size=(5, 2)), rng.normal(size=(5, 2)), "multilabel")) == ["max_logit"]


def test_what_has_no_answer_is_refused() -> None:
    one, none = np.zeros((1, 2)), np.zeros((0, 2))
    with pytest.raises(RunError, match="at least one of the known images"):
        separations(none, one, "multiclass")
    with pytest.raises(RunError, match="at least one of the other images"):
        separations(one, none, "multiclass")
    with pytest.raises(RunError, match="finite logits of the other images"):
        separations(one, np.full((1, 2), np.nan), "multiclass")
    with pytest.raises(RunError, match="numbers lacks"):
        separations(one, one, "regression")
