"""Reliability: the bins of the metrics, the curve of the risk, and sentences that say which way the numbers lie."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tellapart.evaluation.calibration import apply_temperature
from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.metrics import calibration_metrics, evaluate_predictions, reliability
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.selective import risk_coverage
from tellapart.reporting import reliability as page
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.figures import lowest
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.reliability import coverage_curve, coverage_rows, how_sure, sentence
from tests.reporting.made_facts import made_facts


def made_table(n: int = 400, sharpness: float = 1.0, seed: int = 0, skill: float = 2.0) -> Predictions:
    """Return a table whose probabilities are right on average at a sharpness of 1, and too sure above it."""
    rng = np.random.default_rng(seed)
    logits = skill * rng.normal(size=(n, 4))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(4, p=row) for row in probs])
    stated = apply_temperature(probs.astype(np.float32), 1 / sharpness, "multiclass")
    paths = [f"{row}.png" for row in range(n)]
    return Predictions("multiclass", tuple("abcd"), np.arange(n), paths, targets, stated, n)


def run_of(val: Predictions, test: Predictions | None = None) -> RunFacts:
    tables = {"val": val} | ({"test": test} if test is not None else {})
    return replace(
        made_facts(with_test=False),
        predictions=tables,
        metrics={name: evaluate_predictions(each) for name, each in tables.items()},
        uncalibrated={name: calibration_metrics(each.uncalibrated()) for name, each in tables.items()},
    )


def html_of(facts: RunFacts) -> str:
    section = page.section(facts, Pictures.of(facts))
    assert section is not None
    assert section.id == "calibration"
    return str(section.html)


def test_how_sure_counts_what_is_at_least_nine_tenths() -> None:
    probs = np.full((40, 2), [0.95, 0.05], np.float32)
    probs[30:] = [0.6, 0.4]
    targets = np.zeros(40, np.int64)
    targets[:6] = 1
    table = Predictions("multiclass", ("a", "b"), np.arange(40), [str(i) for i in range(40)], targets, probs, 40)
    sure = how_sure(table)
    assert (sure.n, sure.least) == (30, 0.9)
    assert sure.right == 24 / 30
    assert (sure.low, sure.high) == wilson(24, 30)
    assert sure.said == pytest.approx(0.95)
    said = sentence(table, "test")
    assert "Of the 30 images of test that it gave a probability of 90% or more, 80.0% are right" in said
    # 95% is above 90.5%, the upper end of 24 of 30.
    assert "surer than it should be" in said


@pytest.mark.parametrize(
    ("sharpness", "words"),
    [(1.0, "keeps its word"), (6.0, "surer than it should be"), (0.5, "right more often than it says")],
)
def test_the_sentence_says_which_way_it_errs(sharpness: float, words: str) -> None:
    assert words in sentence(made_table(4000, sharpness), "test")


def test_where_hardly_any_is_sure_the_surest_fifth_is_looked_at() -> None:
    sure = how_sure(made_table(500, 0.3))
    assert sure.least < 0.9
    assert 100 <= sure.n <= 101


def test_before_and_after_are_drawn_with_the_bins_of_the_metrics() -> None:
    raw = made_table(600, 3.0)
    shipped = replace(raw, outputs=apply_temperature(raw.outputs, 3.0, "multiclass"), temperature=3.0)
    html = html_of(run_of(shipped))
    assert 'id="reliability-before"' in html
    assert 'id="reliability-after"' in html
    for name, table in (("before", shipped.uncalibrated()), ("after", shipped)):
        part = html.split(f'id="reliability-{name}"')[1].split("</figure>")[0]
        bins = reliability(table)
        assert len(bins) == 15
        assert "A point is about 40 images" in part
        assert part.count('class="whisker"') == len(bins)
        stated = re.findall(r"<title>([\d,]+) images: ([\d.]+)% said, ([\d.]+)% so", part)
        assert stated == [
            (f"{b['count']:,}", f"{100 * b['confidence']:.1f}", f"{100 * b['accuracy']:.1f}") for b in bins
        ]
    assert "temperature of 3, fitted on val: it had been too sure" in html
    assert "Fitted on these same images" in html
    before, after = calibration_metrics(shipped.uncalibrated())["ece"], evaluate_predictions(shipped)["ece"]
    row = html.split("ECE, the calibration error")[1].split("</tr>")[0]
    assert re.findall(r"<td>([\d.]+)%", row) == [f"{100 * before.value:.1f}", f"{100 * after.value:.1f}"]
    assert before.value > after.value


def test_points_lie_where_their_numbers_say() -> None:
    table = made_table(600)
    html = html_of(run_of(table))
    assert 'id="reliability-before"' not in html
    assert "No temperature was applied" in html
    bins = reliability(table)
    low = lowest([b[key] for b in bins for key in ("confidence", "accuracy")])
    # The drawing is 360 units across, its square from 46 to 348 and from 10 to 312.
    wanted = [
        (46 + 302 * (b["confidence"] - low) / (1 - low), 312 - 302 * (b["accuracy"] - low) / (1 - low)) for b in bins
    ]
    part = html.split('id="reliability-after"')[1].split("</figure>")[0]
    drawn = [tuple(map(float, pair)) for pair in re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', part)]
    assert np.allclose(drawn, wanted, atol=0.051)


def test_the_curve_is_that_of_risk_and_coverage() -> None:
    table = made_table(500)
    coverage, answered, right = coverage_curve(table)
    known = risk_coverage(table)
    assert np.array_equal(coverage, known.coverage)
    assert np.allclose(1 - right / answered, known.risk)


def test_rows_of_coverage_by_hand() -> None:
    probs = np.array([[p, 1 - p] for p in (0.99, 0.9, 0.8, 0.7, 0.6, 0.95, 0.85, 0.75, 0.65, 0.55)], np.float32)
    targets = np.array([0, 0, 1, 0, 1, 0, 0, 0, 1, 1])
    table = Predictions("multiclass", ("a", "b"), np.arange(10), [str(i) for i in range(10)], targets, probs, 10)
    rows = {row["coverage"]: row for row in coverage_rows(table)}
    assert rows[1.0]["accuracy"] == 0.6
    # The surest five: 99, 95, 90, 85 right, 80 wrong.
    assert rows[0.5]["accuracy"] == 0.8
    assert rows[0.5]["confidence"] == pytest.approx(0.8)
    assert (rows[0.5]["low"], rows[0.5]["high"]) == wilson(4, 5)


def test_the_threshold_is_chosen_on_val_and_judged_on_test() -> None:
    html = html_of(run_of(made_table(2000, seed=1, skill=6.0), made_table(1000, seed=2, skill=6.0)))
    assert "On test, which did not choose that, it then answers for" in html
    val_only = html_of(run_of(made_table(2000, seed=1, skill=6.0)))
    assert "On val, which chose that, it then answers for" in val_only
    few = html_of(run_of(made_table(50)))
    assert "val cannot tell: 50 images are too few" in few


def test_few_images_make_few_points() -> None:
    part = html_of(run_of(made_table(110))).split('id="reliability-after"')[1]
    assert part.count('class="whisker"') == 4


def test_labels_are_pairs_and_have_no_curve() -> None:
    facts = made_facts("multilabel", n=400)
    html = html_of(facts)
    assert "pairs of image and label" in html
    assert "risk-coverage" not in html
    counts = [int(text.replace(",", "")) for text in re.findall(r"<title>([\d,]+) pairs", html)]
    assert sum(counts) == facts.predictions["test"].outputs.size


def test_numbers_have_no_probabilities() -> None:
    facts = made_facts("regression")
    assert page.section(facts, Pictures.of(facts)) is None


def test_tables_of_several_temperatures_and_of_one_image() -> None:
    table = replace(made_table(100), temperature=float("nan"))
    html = html_of(run_of(table))
    assert "different temperatures" in html
    assert 'id="reliability-before"' not in html
    one = made_table(1)
    assert "image of val" in html_of(replace(run_of(made_table(30)), predictions={"val": one}))


def test_certain_and_right() -> None:
    probs = np.tile(np.array([[1.0, 0.0]], np.float32), (50, 1))
    table = Predictions(
        "multiclass", ("a", "b"), np.arange(50), [str(i) for i in range(50)], np.zeros(50, np.int64), probs, 50
    )
    html = html_of(replace(run_of(made_table(30)), predictions={"val": table}, metrics={}, uncalibrated={}))
    assert "all are right" in html
    assert "NaN" not in html
    assert "nan" not in html.replace("dominant", "")
