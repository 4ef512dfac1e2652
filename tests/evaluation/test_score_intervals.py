"""Score intervals: Wilson's where it is defined, variances against brute force, and how often they hold the truth."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.evaluation.confusion import class_metrics, label_metrics
from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.ranking import Rankings, rank_classes
from tellapart.evaluation.score_intervals import auc_shape, score_interval, share_shape, variance_of


@given(st.integers(1, 400), st.data())
def test_of_hits_and_misses_it_is_wilsons(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    influence = (np.arange(n) < hits).astype(float) - hits / n
    found = score_interval(np.array([hits / n]), *variance_of(influence / n), share_shape(1 / n))
    assert [float(end[0]) for end in found] == pytest.approx(wilson(hits, n), abs=1e-12)


def test_newcombes_example_by_hand() -> None:
    # At an AUC of 1 the lower end solves (1 - x)^2 = z^2 V(x) with V of method 5; m = n = 5.
    (low,), (high,) = score_interval(np.ones(1), np.zeros(1), np.zeros(1), auc_shape(np.array(5.0), np.array(5.0)))
    variance = low * (1 - low) * (1 + 4 * ((1 - low) / (2 - low) + low / (1 + low))) / 25
    assert (1 - low) ** 2 == pytest.approx(1.959964**2 * variance, rel=1e-5)
    assert 0.5 < low < high == 1.0


def test_what_is_not_defined_stays_so() -> None:
    low, high = score_interval(np.array([np.nan, 0.5]), np.full(2, 0.01), np.full(2, 9.0), share_shape(0.01))
    assert np.isnan(low).tolist() == np.isnan(high).tolist() == [True, False]


def test_many_images_leave_the_measured_variance_alone() -> None:
    # With half the variance that theory expects, the interval has half Wilson's squared width in the middle.
    low, high = score_interval(np.array([0.5]), np.array([0.5e-4]), np.array([1e6]), share_shape(4e-4))
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * math.sqrt(0.5e-4), rel=0.01)


def scores(n: int, seed: int, levels: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Return scores with ties, and at least two images of each kind."""
    rng = np.random.default_rng(seed)
    positives = rng.random(n) < 0.4
    positives[:4] = [True, True, False, False]
    return np.round(levels * rng.random(n) + 3 * positives) / levels, positives


def ranked(score: np.ndarray, positives: np.ndarray) -> Rankings:
    return rank_classes(score[:, None], lambda k: positives)


@pytest.mark.parametrize("seed", range(5))
def test_variance_of_auc_is_delongs(seed: int) -> None:
    score, positives = scores(30, seed)
    hits, rest = score[positives], score[~positives]
    wins = (hits[:, None] > rest) + 0.5 * (hits[:, None] == rest)
    expected = wins.mean(axis=1).var(ddof=1) / len(hits) + wins.mean(axis=0).var(ddof=1) / len(rest)
    found = ranked(score, positives).roc_auc
    assert found.value[0] == pytest.approx(wins.mean(), abs=1e-12)
    assert found.variance[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_variance_of_average_precision_is_the_jackknifes(seed: int) -> None:
    from sklearn.metrics import average_precision_score

    score, positives = scores(30, seed)
    left = [np.delete(np.arange(30), i) for i in range(30)]
    without = np.array([average_precision_score(positives[i], score[i]) for i in left])
    expected = 29 / 30 * ((without - without.mean()) ** 2).sum()
    found = ranked(score, positives).average_precision
    assert found.value[0] == pytest.approx(average_precision_score(positives, score), abs=1e-12)
    assert found.variance[0] == pytest.approx(expected, rel=1e-9)


def test_order_of_images_and_monotone_scores_change_nothing() -> None:
    score, positives = scores(50, 1)
    order = np.random.default_rng(2).permutation(50)
    a = ranked(score, positives).roc_auc_by_class() + ranked(score, positives).average_precision_by_class()
    b = ranked(score[order], positives[order])
    c = ranked(score**3, positives)
    for other in (b, c):
        pairs = zip(a, other.roc_auc_by_class() + other.average_precision_by_class(), strict=True)
        assert all((x.value, x.low, x.high) == pytest.approx((y.value, y.low, y.high), abs=1e-12) for x, y in pairs)


def test_an_auc_turned_round_has_its_interval_turned_round() -> None:
    score, positives = scores(40, 3)
    (a,), (b,) = ranked(score, positives).roc_auc_by_class(), ranked(-score, positives).roc_auc_by_class()
    assert (b.value, b.low, b.high) == pytest.approx((1 - a.value, 1 - a.high, 1 - a.low), abs=1e-9)


def test_the_mean_of_one_class_is_that_class() -> None:
    found = ranked(*scores(40, 4))
    (auc,), (precision,) = found.roc_auc_by_class(), found.average_precision_by_class()
    for a, b in ((auc, found.mean_roc_auc()), (precision, found.mean_average_precision())):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high), abs=1e-12)


@pytest.mark.parametrize(("num_hits", "num_rest"), [(1, 9), (9, 1), (1, 1), (5, 0), (0, 5)])
def test_single_images_and_single_classes(num_hits: int, num_rest: int) -> None:
    positives = np.arange(num_hits + num_rest) < num_hits
    for score in (positives.astype(float), 1.0 - positives, np.full(len(positives), 0.5)):
        found = ranked(score, positives)
        (auc,), (precision,) = found.roc_auc_by_class(), found.average_precision_by_class()
        assert math.isnan(auc.value) == (num_hits * num_rest == 0)
        assert math.isnan(precision.value) == (num_hits == 0)
        assert num_hits * num_rest == 0 or auc.low <= auc.value <= auc.high > auc.low + 0.3
        assert precision.low <= precision.value <= precision.high or num_hits == 0


def numbers(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    return {name: found.value for name, found in class_metrics(truth, guess, 4).items()}


def test_intervals_of_tables_have_the_width_of_the_jackknife() -> None:
    rng = np.random.default_rng(5)
    truth = rng.integers(0, 4, 300)
    guess = np.where(rng.random(300) < 0.6, truth, rng.integers(0, 4, 300))
    # Every fifth image stands for all of them; scikit-learn takes its time.
    left = [numbers(*(np.delete(labels, i) for labels in (truth, guess))) for i in range(0, 300, 5)]
    for name, found in class_metrics(truth, guess, 4).items():
        without = np.array([each[name] for each in left])
        error = math.sqrt(299 / 300 * 5 * ((without - without.mean()) ** 2).sum())
        assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.2), name
        assert found.low < found.value < found.high


def test_labels_of_one_image_move_together() -> None:
    rng = np.random.default_rng(6)
    one = rng.random((200, 1)) < 0.5
    guess = one ^ (rng.random((200, 1)) < 0.2)
    for name in ("f1_macro", "f1_micro", "f1_weighted"):
        single, copies = (label_metrics(np.repeat(one, k, 1), np.repeat(guess, k, 1))[name] for k in (1, 5))
        ends = (copies.value, copies.low, copies.high)
        # Five copies of a label know no more than one, but for what theory adds; alone they would be 0.03 closer.
        assert ends == pytest.approx((single.value, single.low, single.high), abs=0.02), name


Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize(("num_hits", "num_rest", "shift"), [(6, 44, 1.5), (25, 25, 2.5), (40, 160, 2.0)])
def test_auc_intervals_hold_the_truth_as_often_as_they_say(num_hits: int, num_rest: int, shift: float) -> None:
    from scipy.stats import norm

    truth = float(norm.cdf(shift / math.sqrt(2)))
    rng, held = np.random.default_rng(7), []
    positives = np.arange(num_hits + num_rest) < num_hits
    for _ in range(150):
        (found,) = ranked(rng.normal(size=len(positives)) + shift * positives, positives).roc_auc_by_class()
        held.append(found.low <= truth <= found.high)
    # 95%, and 3 standard errors of 150 draws below; twice as many misses fail.
    assert np.mean(held) >= 0.897


def test_a_class_of_few_hits_does_not_look_certain() -> None:
    rng, truth = np.random.default_rng(9), np.repeat([0, 1], [500, 10])
    held = []
    for _ in range(60):
        guess = np.where(rng.random(510) < np.array([0.9, 0.95])[truth], truth, 1 - truth)
        found = class_metrics(truth, guess, 2)["recall_macro"]
        held.append(found.low <= 0.925 <= found.high)
    # A stratified bootstrap holds it in 4 of 10.
    assert np.mean(held) >= 0.9


def test_a_perfect_table_and_a_hopeless_one_are_wilsons_where_that_is_defined() -> None:
    labels = np.arange(40) % 4
    found = class_metrics(labels, labels, 4)
    assert (found["recall_macro"].low, found["recall_macro"].high) == pytest.approx(wilson(40, 40))
    assert (found["precision_macro"].low, found["precision_macro"].high) == pytest.approx(wilson(40, 40))
    assert found["kappa"].low == pytest.approx(2 * wilson(60, 60)[0] - 1)
    wrong = class_metrics(labels, (labels + 1) % 4, 4)
    assert (wrong["recall_macro"].low, wrong["recall_macro"].high) == pytest.approx(wilson(0, 40))
