"""Comparisons: against formulas worked out by hand and SciPy, intervals that hold the truth, tables that differ."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.errors import RunError
from tellapart.evaluation.alignment import align
from tellapart.evaluation.comparison import Compared, compare_seeds, compare_tables
from tellapart.evaluation.intervals import bootstrap_mean
from tellapart.evaluation.metrics import evaluate_predictions
from tellapart.evaluation.paired import Difference, holm, mcnemar, paired_means
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.spread import spread_over_runs, welch

RNG = np.random.default_rng(0)


def table(n: int = 60, *, task: str = "multiclass", skill: float = 0.7, seed: int = 0, **changes: Any) -> Predictions:
    """Return a table of three classes in which the truth, the same for every seed, mostly gets the most."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    favoured = np.where(rng.random(n) < skill, labels, (labels + 1) % 3)
    probs = rng.dirichlet([1, 1, 1], n) + 2 * np.eye(3)[favoured]
    outputs = (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)
    targets: np.ndarray = labels.astype(np.int64)
    if task != "multiclass":
        targets = np.eye(3, dtype=np.float32)[labels]
    found = Predictions(
        task=task,
        classes=("ant", "bee", "cat"),
        indices=np.arange(n),
        paths=[f"{i}.png" for i in range(n)],
        targets=targets,
        outputs=outputs,
        num_given=n,
    )
    return replace(found, **changes)


# --- McNemar and Holm ------------------------------------------------------------------------------------------------


def hits_of(both: int, only_first: int, only_second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = [True] * (both + only_first) + [False] * (only_second + neither)
    second = [True] * both + [False] * only_first + [True] * only_second + [False] * neither
    return np.array(first), np.array(second)


def test_mcnemar_by_hand() -> None:
    # Of 8 discordant images at most 2 favour the second: 2 (C(8,0) + C(8,1) + C(8,2)) / 2^8 = 74 / 256.
    found = mcnemar(*hits_of(90, 6, 2, 3))
    assert (found.both, found.only_first, found.only_second, found.neither) == (90, 6, 2, 3)
    assert found.p == pytest.approx(74 / 256)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_mcnemar_is_the_binomial_of_the_discordant_pairs(only_first: int, only_second: int, both: int) -> None:
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    found = mcnemar(*hits_of(both, only_first, only_second, 1))
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(*hits_of(both, only_second, only_first, 1)).p == pytest.approx(found.p)


def test_mcnemar_claims_no_more_than_it_says() -> None:
    claims = 0
    for _ in range(1000):
        drawn = RNG.multinomial(100, [0.85, 0.05, 0.05, 0.05])
        claims += mcnemar(*hits_of(*drawn.tolist())).p < 0.05
    assert claims / 1000 < 0.05


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([math.nan, 0.02, 0.5])
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.04, 0.5])


# --- the paired bootstrap --------------------------------------------------------------------------------------------


def test_the_interval_is_the_bootstrap_of_the_differences() -> None:
    first, second = RNG.exponential(size=2000), RNG.exponential(size=2000) + 0.1
    found = paired_means({"nll": first}, {"nll": second}, seed=5)["nll"]
    low, high = bootstrap_mean(second - first, seed=5)
    assert found.value == pytest.approx((second - first).mean())
    assert found.low <= low + 1e-6
    assert found.high >= high - 1e-6
    assert found.high - found.low < 1.1 * (high - low)


def test_what_is_hard_for_both_does_not_widen_it() -> None:
    hard = RNG.exponential(10, size=500)
    found = paired_means({"mse": hard}, {"mse": hard + RNG.normal(0.1, 0.1, 500)}, seed=0)["mse"]
    assert 0.08 < found.low < found.high < 0.12
    assert found.p == pytest.approx(2 / 1001)


def test_bonett_and_price_by_hand() -> None:
    # 10 of 50 images only the second, 2 only the first: the shares of 52 are 11/52 and 3/52.
    first, second = (hits.astype(float) for hits in hits_of(30, 2, 10, 8))
    found = paired_means({"top1": first}, {"top1": second}, seed=0, shares=["top1"])["top1"]
    centre, half = 8 / 52, 1.959963985 * math.sqrt((14 / 52 - (8 / 52) ** 2) / 52)
    assert found.value == pytest.approx(8 / 50)
    assert found.low <= centre - half + 1e-9
    assert found.high >= centre + half - 1e-9
    assert found.high - found.low < 1.2 * 2 * half


def test_no_image_tells_them_apart_and_still_there_is_an_interval() -> None:
    hits = np.ones(20)
    found = paired_means({"top1": hits}, {"top1": hits}, seed=0, shares=["top1"])["top1"]
    assert found.value == 0.0
    assert found.low == pytest.approx(-found.high)
    assert 0.05 < found.high < 0.2
    assert found.p == 1.0


@pytest.mark.parametrize(("n", "shares"), [(50, (0.9, 0.03, 0.01)), (180, (0.95, 0.02, 0.0)), (180, (0.8, 0.1, 0.05))])
def test_intervals_of_accuracies_hold_the_truth(n: int, shares: tuple[float, float, float]) -> None:
    both, only_first, only_second = shares
    truth, held, num_tables = only_second - only_first, 0, 200
    for number in range(num_tables):
        drawn = RNG.multinomial(n, [both, only_first, only_second, max(0.0, 1 - sum(shares))])
        first, second = (hits.astype(float) for hits in hits_of(*drawn.tolist()))
        found = paired_means({"top1": first}, {"top1": second}, seed=number, shares=["top1"])["top1"]
        held += found.low <= truth <= found.high
    assert held / num_tables > 0.93


def test_intervals_of_losses_hold_the_truth() -> None:
    held, claims, num_tables = 0, 0, 300
    for number in range(num_tables):
        hard = RNG.exponential(size=60)
        first, second = hard + RNG.exponential(0.5, 60), hard + RNG.exponential(0.5, 60)
        found = paired_means({"nll": first}, {"nll": second}, seed=number)["nll"]
        held += found.low <= 0 <= found.high
        claims += found.p < 0.05
    assert 0.92 < held / num_tables < 0.98
    assert claims / num_tables < 0.08


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_few_images_prove_nothing(n: int) -> None:
    first, second = np.zeros(n), np.ones(n) + 1e-3 * np.arange(n)
    found = paired_means({"mse": first}, {"mse": second}, seed=0)["mse"]
    assert not found.p < 0.05
    assert math.isnan(found.low) == (n == 1)


# --- two tables ------------------------------------------------------------------------------------------------------


def test_differences_are_those_of_the_metrics() -> None:
    first, second = table(skill=0.6, seed=1), table(skill=0.9, seed=2)
    found = compare_tables(first, second)
    metrics = [evaluate_predictions(each) for each in (first, second)]
    assert set(found.differences) == {"top1", "nll", "brier"}
    for name, difference in found.differences.items():
        assert difference.value == pytest.approx(metrics[1][name].value - metrics[0][name].value, abs=1e-12)
        assert difference.low <= difference.value <= difference.high
    assert found.counts is not None
    assert found.counts.only_second - found.counts.only_first == round(60 * found.differences["top1"].value)
    assert found.p == found.counts.p


def test_swapped_tables_give_the_opposite() -> None:
    first, second = table(skill=0.5, seed=1), table(skill=0.95, seed=2)
    one, other = compare_tables(first, second), compare_tables(second, first)
    assert (one.better(), other.better()) == (2, 1)
    for name, found in one.differences.items():
        mirrored = other.differences[name]
        assert (found.value, found.low, found.high) == pytest.approx((-mirrored.value, -mirrored.high, -mirrored.low))
    assert one.p == pytest.approx(other.p)


def test_a_table_against_itself() -> None:
    for task in ("multiclass", "multilabel", "regression"):
        found = compare_tables(table(task=task), table(task=task))
        assert found.is_same
        assert (found.better(), found.differences[found.metric].value, found.p) == (0, 0.0, 1.0)


def test_mean_average_precision_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score

    tables = [table(200, task="multilabel", skill=skill, seed=seed) for skill, seed in ((0.5, 1), (0.95, 2))]
    wanted = [float(average_precision_score(each.targets, each.outputs, average="macro")) for each in tables]
    found = compare_tables(*tables)
    assert (found.metric, found.test) == ("map", "bootstrap")
    assert found.differences["map"].value == pytest.approx(wanted[1] - wanted[0])
    assert found.differences["map"].low > 0
    assert found.better() == 2


def test_lower_errors_are_better() -> None:
    first, second = table(task="regression", skill=0.5, seed=1), table(task="regression", skill=1.0, seed=2)
    found = compare_tables(first, second)
    error = [((each.outputs - each.targets) ** 2).mean() for each in (first, second)]
    assert found.differences["mse"].value == pytest.approx(error[1] - error[0], rel=1e-5)
    assert found.differences["mse"].high < 0
    assert found.better() == 2
    assert compare_tables(second, first).better() == 1


def test_a_claim_needs_the_test_and_the_interval() -> None:
    clear, unclear = Difference(0.1, 0.05, 0.15, 0.01), Difference(0.1, -0.01, 0.21, 0.06)
    assert Compared("top1", {"top1": clear}, "mcnemar", 0.01).better() == 2
    assert Compared("top1", {"top1": clear}, "mcnemar", 0.06).better() == 0
    assert Compared("top1", {"top1": unclear}, "mcnemar", 0.01).better() == 0
    assert Compared("top1", {"top1": clear}, "mcnemar", 0.03).better(p=0.06) == 0
    assert Compared("top1", {"top1": clear}, "mcnemar", math.nan).better() == 0


# --- several seeds ---------------------------------------------------------------------------------------------------


def test_spread_is_that_of_scipy() -> None:
    from scipy import stats

    values = [0.71, 0.74, 0.69, 0.72]
    found = spread_over_runs(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert (found.mean, found.std) == pytest.approx((np.mean(values), np.std(values, ddof=1)))


def test_spread_at_its_ends() -> None:
    assert spread_over_runs([0.99, 1.0]).high == 1.0
    assert spread_over_runs([0.99, 1.0], "nll").high > 1.0
    assert math.isnan(spread_over_runs([0.5]).std)
    assert math.isnan(spread_over_runs([None, math.nan]).mean)
    same = spread_over_runs([0.9, 0.9, 0.9])
    assert (same.std, same.low, same.high) == pytest.approx((0.0, 0.9, 0.9))
    assert spread_over_runs([0.5]).as_dict() == {"mean": 0.5, "std": None, "low": None, "high": None}


def test_welch_is_that_of_scipy() -> None:
    from scipy import stats

    first, second = [0.90, 0.93, 0.91], [0.95, 0.94, 0.97, 0.93, 0.95]
    found: Any = welch(first, second)
    known: Any = stats.ttest_ind(second, first, equal_var=False)
    interval = known.confidence_interval(0.95)
    assert found.p == pytest.approx(known.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert math.isnan(welch([0.9, 0.9], [0.8, 0.8]).p)
    with pytest.raises(ValueError, match="at least two trainings on each side, found 1 and 2"):
        welch([0.9], [0.8, 0.9])


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_two_ways_of_training(task: str) -> None:
    first = [table(200, task=task, skill=0.5, seed=seed) for seed in range(3)]
    second = [table(200, task=task, skill=0.95, seed=seed) for seed in range(3, 7)]
    found = compare_seeds(first, second)
    values = [[evaluate_predictions(each)[found.metric].value for each in tables] for tables in (first, second)]
    assert found.differences[found.metric].value == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert found.seeds is not None
    assert found.seeds.p == pytest.approx(welch(*values).p)
    assert (found.test, found.better()) == ("welch", 2)
    assert compare_seeds(first, first[:2]).better() == 0
    assert compare_seeds(first, first).is_same


def test_seeds_that_do_not_vary_prove_nothing() -> None:
    found = compare_seeds([table(skill=0.3)] * 2, [table(skill=0.9, seed=1)] * 2)
    assert (found.p, found.better()) == (1.0, 0)


# --- whether they are of the same images -----------------------------------------------------------------------------


def refusal(first: Predictions, second: Predictions, **options: Any) -> str:
    with pytest.raises(RunError) as caught:
        align(first, second, **options)
    return str(caught.value)


def test_rows_in_another_order_are_put_in_order() -> None:
    first = table()
    order = RNG.permutation(60)
    second = replace(
        first,
        indices=first.indices[order],
        paths=[first.paths[i] for i in order],
        targets=first.targets[order],
        outputs=first.outputs[order],
    )
    found = align(first, second)
    assert found.paths == first.paths
    assert np.array_equal(found.outputs, first.outputs)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_classes_in_another_order_are_the_same(task: str) -> None:
    first, order = table(task=task), [2, 0, 1]
    targets = np.argsort(order)[first.targets] if task == "multiclass" else first.targets[:, order]
    second = replace(
        first,
        classes=tuple(first.classes[i] for i in order),
        targets=targets,
        outputs=first.outputs[:, order],
        thresholds=(0.3, 0.1, 0.2) if task == "multilabel" else (),
    )
    found = align(first, second)
    assert found.classes == first.classes
    assert np.array_equal(found.targets, first.targets)
    assert np.array_equal(found.outputs, first.outputs)
    assert found.thresholds == ((0.1, 0.2, 0.3) if task == "multilabel" else ())


def test_other_images_are_counted_and_named() -> None:
    first = table()
    second = replace(first, paths=[*first.paths[:55], *(f"new/{i}.png" for i in range(5))])
    said = refusal(first, second, names=("A (runs/a)", "B (runs/b)"))
    assert said.startswith("A (runs/a) and B (runs/b) cannot be compared")
    assert "5 images only in A (runs/a): 55.png, 56.png, 57.png and 2 more" in said
    assert "5 images only in B (runs/b): new/0.png, new/1.png, new/2.png and 2 more" in said
    assert "55 images in both" in said
    assert "no image in both" in refusal(first, replace(first, paths=[f"other/{i}" for i in range(60)]))


def test_other_labels_pixels_classes_and_tasks_are_named() -> None:
    first = table()
    targets = first.targets.copy()
    targets[4] = 2
    assert "1 image with another label: 4.png ('bee' in A, 'cat' in B)" in refusal(
        first, replace(first, targets=targets)
    )
    hashes = dict.fromkeys(first.paths, "aa"), dict.fromkeys(first.paths, "aa") | {"7.png": "bb"}
    assert "1 image with other pixels under the same path: 7.png" in refusal(first, first, hashes=hashes)
    said = refusal(first, replace(first, classes=("ant", "bee", "dog")))
    assert "classes only in A: cat" in said
    assert "classes only in B: dog" in said
    assert "A is a multiclass task, B a multilabel task" in refusal(first, table(task="multilabel"))
    numbers = table(task="regression", classes=())
    narrow = replace(numbers, outputs=numbers.outputs[:, :1], targets=numbers.targets[:, :1])
    assert "A predicts 3 numbers an image, B 1" in refusal(numbers, narrow)
    assert "0.png (1 0 0 in A, 2 0 0 in B)" in refusal(
        numbers,
        replace(numbers, targets=numbers.targets + np.eye(60, 3, dtype=np.float32) * (np.arange(60) < 1)[:, None]),
    )


def test_names_that_no_terminal_can_show_are_written_out() -> None:
    first = table()
    second = replace(first, paths=["new\nline\udcff.png", *first.paths[1:]])
    said = refusal(first, second)
    assert r"1 image only in B: new\nline\udcff.png" in said
    said.encode()


def test_unknown_pixels_are_no_difference() -> None:
    first = table()
    assert align(first, first, hashes=(dict.fromkeys(first.paths, "aa"), None)).paths == first.paths


def test_a_table_of_indices_alone_finds_its_images() -> None:
    first = table(indices=np.arange(60) + 100)
    second = replace(first, paths=[f"index {i}" for i in first.indices])
    assert align(first, second).paths == first.paths
    assert align(second, first).paths == first.paths


def test_an_image_named_twice() -> None:
    first = table(paths=["same.png"] * 60)
    assert len(align(first, first)) == 60
    assert "B names the same image in several rows: same.png" in refusal(table(), first)
