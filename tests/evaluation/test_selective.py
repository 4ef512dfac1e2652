"""Selective prediction: curves computed by hand, ties without an order, thresholds that val can and cannot support."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tellapart.errors import RunError
from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.selective import at_confidence, confidence_for, risk_coverage, selective_json


def table(confidences: list[float], is_right: list[bool]) -> Predictions:
    """Return a table of two classes in which class 0 is predicted with these confidences."""
    first = np.array(confidences, np.float32)
    return Predictions(
        task="multiclass",
        classes=("a", "b"),
        indices=np.arange(len(first)),
        paths=[f"{place}.png" for place in range(len(first))],
        targets=np.where(is_right, 0, 1).astype(np.int64),
        outputs=np.stack([first, 1 - first], axis=1),
        num_given=len(first),
    )


def test_a_curve_by_hand() -> None:
    curve = risk_coverage(table([0.6, 0.9, 0.8, 0.7], [False, True, False, True]))
    np.testing.assert_allclose(curve.confidence, [0.9, 0.8, 0.7, 0.6], rtol=1e-6)
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [0, 1 / 2, 1 / 3, 2 / 4])
    assert curve.aurc.value == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert curve.aurc.low <= curve.aurc.value <= curve.aurc.high


def test_equally_confident_images_are_one_point() -> None:
    curve = risk_coverage(table([0.9, 0.9, 0.6], [True, False, True]))
    np.testing.assert_allclose(curve.coverage, [2 / 3, 1])
    np.testing.assert_allclose(curve.risk, [1 / 2, 1 / 3])
    # The mean of the two orders: errors 0, 1/2, 1/3 and 1, 1/2, 1/3.
    assert curve.aurc.value == pytest.approx((0.5 + 1 / 2 + 1 / 3) / 3)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from([0.55, 0.7, 0.9]), st.booleans()), min_size=1, max_size=5))
def test_the_area_is_the_mean_over_all_orders_of_ties(rows: list[tuple[float, bool]]) -> None:
    confidences, is_right = zip(*rows, strict=True)
    areas = []
    for order in permutations(range(len(rows))):
        if all(confidences[a] >= confidences[b] for a, b in pairwise(order)):
            wrong = np.cumsum([not is_right[place] for place in order])
            areas.append((wrong / np.arange(1, len(rows) + 1)).mean())
    found = risk_coverage(table(list(confidences), list(is_right))).aurc
    assert found.value == pytest.approx(np.mean(areas))
    assert not (found.low > found.value or found.high < found.value)


def test_the_order_of_the_rows_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    found = table(rng.uniform(0.5, 1, 200).tolist(), (rng.random(200) < 0.8).tolist())
    order = rng.permutation(200)
    turned = Predictions(
        found.task,
        found.classes,
        found.indices[order],
        [found.paths[place] for place in order],
        found.targets[order],
        found.outputs[order],
        200,
    )
    one, two = risk_coverage(found), risk_coverage(turned)
    assert one.aurc == two.aurc
    np.testing.assert_array_equal(one.risk, two.risk)


def test_the_interval_of_the_area_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.5, 1, 300)
    is_right = rng.random(300) < confidence
    found = risk_coverage(table(confidence.tolist(), is_right.tolist())).aurc
    areas = []
    for _ in range(2000):
        drawn = rng.integers(0, 300, 300)
        drawn = drawn[np.argsort(-confidence[drawn], kind="stable")]
        areas.append((np.cumsum(~is_right[drawn]) / np.arange(1, 301)).mean())
    np.testing.assert_allclose([found.low, found.high], np.quantile(areas, [0.025, 0.975]), rtol=0.1)


def test_the_lowest_confidence_that_holds_is_chosen() -> None:
    # The 10 least confident are wrong, and one of the first 200 is.
    confidences = np.linspace(0.99, 0.6, 210)
    is_right = np.arange(210) < 200
    is_right[50] = False
    chosen = confidence_for(table(confidences.tolist(), is_right.tolist()), 0.99)
    # 2 wrong of 200 are 1%; a third is too many until none is left.
    assert chosen.num_answered == 201
    assert (chosen.num_right, chosen.n) == (199, 210)
    assert chosen.confidence == pytest.approx(confidences[200], rel=1e-6)


def test_equal_confidences_are_answered_together_or_not_at_all() -> None:
    chosen = confidence_for(table([0.9] * 100 + [0.8] * 4, [True] * 100 + [True, False, False, False]), 0.99)
    assert (chosen.num_answered, chosen.num_right) == (100, 100)
    assert chosen.confidence == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("num_images", "num_wrong_first", "why"),
    [
        (99, 0, "99 images are too few to tell 0.99 from less; at least 100"),
        (300, 50, "no group of 100 or more of the most confident"),
    ],
)
def test_val_that_cannot_support_a_confidence_says_why(num_images: int, num_wrong_first: int, why: str) -> None:
    is_right = np.arange(num_images) >= num_wrong_first
    chosen = confidence_for(table(np.linspace(0.99, 0.6, num_images).tolist(), is_right.tolist()), 0.99)
    assert chosen.confidence is None
    assert why in chosen.why_none


def test_what_a_confidence_does_to_a_table() -> None:
    found = at_confidence(table([0.9, 0.8, 0.8, 0.6], [True, True, False, False]), float(np.float32(0.8)))
    assert (found.num_answered, found.n) == (3, 4)
    assert (found.accuracy.value, found.accuracy.low, found.accuracy.high) == (2 / 3, *wilson(2, 3))
    assert (found.coverage.value, found.coverage.low, found.coverage.high) == (3 / 4, *wilson(3, 4))
    none = at_confidence(table([0.9], [True]), 0.95)
    assert none.num_answered == 0
    assert np.isnan(none.accuracy.value)
    assert none.coverage.value == 0


def test_what_has_no_confidence_is_refused() -> None:
    empty = table([], [])
    with pytest.raises(RunError, match="at least one image"):
        risk_coverage(empty)
    numbers = Predictions("regression", (), np.arange(1), ["a"], np.ones((1, 1)), np.ones((1, 1)), 1)
    with pytest.raises(RunError, match="one class an image"):
        confidence_for(numbers)
    with pytest.raises(RunError, match=r"such as 0.99, found 99"):
        confidence_for(table([0.9], [True]), 99)


def test_json_of_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    import json

    rng = np.random.default_rng(2)
    found = table(rng.uniform(0.5, 1, 5000).tolist(), [True] * 5000)
    curve = risk_coverage(found)
    points = curve.thinned(100)
    assert len(points) == 100
    assert points[-1]["coverage"] == 1
    assert points[0]["coverage"] == pytest.approx(1 / 5000)
    told = selective_json(curve, confidence_for(found), at_confidence(found, 2.0))
    json.dumps(told, allow_nan=False)
    assert told["judged"]["accuracy"]["value"] is None
