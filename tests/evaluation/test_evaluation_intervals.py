"""Wilson against SciPy and by hand, the bootstrap against its definition, and how often they hold the truth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.evaluation.intervals import (
    bootstrap,
    bootstrap_counts,
    bootstrap_mean,
    effective_n,
    resamples,
    wilson,
)


@st.composite
def successes(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


@settings(deadline=None, derandomize=True)
@given(successes(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(counts: tuple[int, int], confidence: float) -> None:
    from scipy.stats import binomtest

    expected = binomtest(*counts).proportion_ci(confidence_level=confidence, method="wilson")
    assert wilson(*counts, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@settings(deadline=None, derandomize=True)
@given(successes())
def test_wilson_lies_within_zero_and_one_holds_the_share_and_is_never_empty(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    assert 0 <= low <= counts[0] / counts[1] <= high <= 1
    assert low < high


def test_wilson_by_hand() -> None:
    # z^2 = 3.841459; for 0 of 10 the formula becomes [0, z^2 / (10 + z^2)].
    assert wilson(0, 10) == pytest.approx((0.0, 3.841459 / 13.841459), abs=1e-6)
    assert wilson(10, 10) == pytest.approx((10 / 13.841459, 1.0), abs=1e-6)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


def test_wilson_of_nothing_is_not_defined() -> None:
    assert all(math.isnan(end) for end in wilson(0, 0))


@pytest.mark.parametrize(("k", "n", "confidence"), [(-1, 5, 0.95), (6, 5, 0.95), (1, 5, 0.0), (1, 5, 1.0), (1, 5, 95)])
def test_wilson_refuses_what_cannot_be(k: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        wilson(k, n, confidence)


def test_wilson_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    for truth in (0.02, 0.5, 0.95):
        held = [low <= truth <= high for low, high in (wilson(int(k), 80) for k in rng.binomial(80, truth, 400))]
        assert 0.91 <= np.mean(held) <= 0.995


def test_bootstrap_mean_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(size=(300, 100))
    held = [
        low <= 1 <= high for low, high in (bootstrap_mean(v, seed=i, num_resamples=300) for i, v in enumerate(values))
    ]
    # 95% less what a skewed mean of 100 costs, and 3 standard errors of 300 draws.
    assert 0.88 <= np.mean(held) <= 0.985


def test_bootstrap_mean_has_the_width_of_the_central_limit() -> None:
    values = np.random.default_rng(1).normal(3, 2, 4000)
    low, high = bootstrap_mean(values, seed=0)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(4000), rel=0.1)


@pytest.mark.parametrize("with_strata", [False, True])
def test_three_ways_to_bootstrap_a_mean_agree(with_strata: bool) -> None:
    rng = np.random.default_rng(2)
    values, strata = rng.random(700), rng.integers(0, 4, 700) if with_strata else None
    slow = bootstrap(lambda i: float(values[i].mean()), 700, seed=5, strata=strata)
    assert bootstrap_mean(values, seed=5, strata=strata) == slow
    by_counts = bootstrap_counts(lambda counts: values @ counts / 700, 700, seed=5, strata=strata)
    assert by_counts == pytest.approx(slow, abs=1e-7)


def test_percentiles_are_those_of_the_resampled_values() -> None:
    values = np.random.default_rng(3).random(50)
    means = [values[row].mean() for chunk in resamples(50, seed=9, num_resamples=200) for row in chunk]
    assert bootstrap_mean(values, seed=9, num_resamples=200, confidence=0.8) == pytest.approx(
        np.quantile(means, [0.1, 0.9])
    )


def test_same_seed_same_bits_other_seed_other_bits() -> None:
    values = np.random.default_rng(4).random(500)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_draws_stay_what_they_are() -> None:
    # Pinned: a change of these numbers changes every interval that anybody has reported.
    (chunk,) = resamples(10, seed=0, num_resamples=2)
    assert chunk.tolist() == [[1, 6, 2, 2, 1, 1, 5, 4, 4, 1], [6, 1, 5, 2, 9, 6, 1, 9, 1, 9]]


def test_more_resamples_begin_with_the_fewer_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    strata = np.arange(100) % 3
    whole = np.concatenate(list(resamples(100, seed=6, num_resamples=50, strata=strata)))
    monkeypatch.setattr("tellapart.evaluation.intervals._DRAWS_PER_CHUNK", 700)
    parts = list(resamples(100, seed=6, num_resamples=20, strata=strata))
    assert len(parts) == 3
    assert np.array_equal(np.concatenate(parts), whole[:20])


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(0, 2**31))
def test_a_stratified_resample_keeps_the_size_of_every_stratum(labels: list[int], seed: int) -> None:
    strata = np.array(labels)
    for chunk in resamples(len(strata), seed=seed, num_resamples=5, strata=strata):
        assert chunk.dtype == np.int64
        assert np.array_equal(np.sort(strata[chunk], axis=1), np.broadcast_to(np.sort(strata), chunk.shape))


def test_every_image_is_drawn_about_equally_often() -> None:
    counts = np.bincount(np.concatenate(list(resamples(20, seed=7, num_resamples=5000))).ravel(), minlength=20)
    # 5000 expected, standard deviation sqrt(5000 * 19 / 20) = 69.
    assert np.abs(counts - 5000).max() < 5 * 69


def test_counts_are_whole_numbers_that_sum_to_n() -> None:
    seen = []

    def statistic(counts: np.ndarray) -> np.ndarray:
        seen.append(counts)
        return counts[0]

    bootstrap_counts(statistic, 30, seed=0, num_resamples=40)
    (counts,) = seen
    assert counts.shape == (30, 40)
    assert counts.dtype == np.float32
    assert np.array_equal(counts.sum(axis=0), np.full(40, 30))
    (chunk,) = resamples(30, seed=0, num_resamples=40)
    assert np.array_equal(counts[:, 3], np.bincount(chunk[3], minlength=30))


def test_resamples_without_a_value_are_left_out() -> None:
    def first_or_nothing(i: np.ndarray) -> float:
        return float(i[0]) if i[0] < 5 else math.nan

    low, high = bootstrap(first_or_nothing, 10, seed=0)
    assert (low, high) == (0.0, 4.0)
    assert all(math.isnan(end) for end in bootstrap(lambda i: math.nan, 10, seed=0))


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images_have_no_bootstrap(n: int) -> None:
    assert all(math.isnan(end) for end in bootstrap_mean(np.ones(n), seed=0))
    assert all(math.isnan(end) for end in bootstrap(lambda i: 1.0, n, seed=0))


@pytest.mark.parametrize(
    "call",
    [
        lambda: bootstrap_mean(np.ones(5), seed=0, strata=np.zeros(4)),
        lambda: bootstrap_mean(np.ones(5), seed=0, num_resamples=0),
        lambda: bootstrap_mean(np.ones(5), seed=0, confidence=1.0),
    ],
)
def test_bootstrap_refuses_what_cannot_be(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        call()


def test_bootstrap_mean_of_ten_thousand_images_is_fast() -> None:
    values = np.random.default_rng(8).random(10_000)
    start = time.process_time()
    bootstrap_mean(values, seed=0)
    assert time.process_time() - start < 1


def test_effective_n_by_hand() -> None:
    assert effective_n(np.array([50, 50, 0])) == pytest.approx(100)
    assert effective_n(np.array([1, 1_000_000])) == pytest.approx(4, abs=1e-4)
    assert effective_n(np.array([0, 0])) == 0
