"""The answer's sentence, and what speaks against it: said where it is so, and never of a healthy run."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tellapart.config import override
from tellapart.evaluation.metrics import Estimate, evaluate_predictions
from tellapart.reporting.answer import METRICS, answer_of, metrics_table
from tellapart.reporting.concerns import Concern, concerns
from tellapart.reporting.facts import RunFacts
from tests.reporting.made_facts import NAMES, look, made_facts, made_history


def kinds(facts: RunFacts) -> list[str]:
    return [concern.kind for concern in concerns(facts)]


def only(facts: RunFacts, kind: str) -> Concern:
    (found,) = [concern for concern in concerns(facts) if concern.kind == kind]
    return found


def with_losses(train: list[float], val: list[float], **more: Any) -> RunFacts:
    epochs = [line for line in made_history(len(train)) if line["kind"] == "epoch"]
    lines = [
        {**line, "train/loss": a, "val/loss": b, **{key: values[at] for key, values in more.items()}}
        for at, (line, a, b) in enumerate(zip(epochs, train, val, strict=True))
    ]
    return made_facts(n=4000, history=lines)


def with_tables(facts: RunFacts, **tables: Any) -> RunFacts:
    predictions = {**facts.predictions, **tables}
    metrics = {name: evaluate_predictions(table) for name, table in predictions.items()}
    return replace(facts, predictions=predictions, metrics=metrics)


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_a_healthy_run_has_nothing_against_it(task: str) -> None:
    names = () if task == "regression" else NAMES
    # Several labels of this skill are said with too little confidence unless it is high.
    assert kinds(made_facts(task, names, n=4000, skill=0.97 if task == "multilabel" else 0.9)) == []


def test_the_answer_says_what_it_was_measured_on() -> None:
    facts = made_facts(n=4000)
    answer = answer_of(facts)
    found = facts.metrics["test"]["top1"]
    assert answer.big == f"{found.value:.1%}"
    assert answer.sentence == (
        f"It names {found.value:.1%} of images right (95% interval {found.low:.1%} to {found.high:.1%}), "
        "measured on 1,000 test images."
    )
    assert answer.provenance == "Nothing was learned from these images or chosen by them."


def test_an_answer_of_val_says_that_val_chose_and_how_to_get_the_final_one() -> None:
    answer = answer_of(replace(made_facts(with_test=False), looks=()))
    assert "measured on 60 val images" in answer.sentence
    assert "chosen on these same images, so the number is a little flattering" in answer.provenance
    assert answer.command == "tellapart evaluate runs/made-up --split test"
    once = made_facts(with_test=False, num_epochs=1)
    assert "flattering" not in answer_of(once).provenance
    untested = replace(once, split=replace(once.split, splits=("train",) * 120 + ("val",) * 120))
    assert "No images were held out for a final test" in answer_of(untested).provenance


def test_answers_of_several_labels_and_of_numbers() -> None:
    several, numbers = answer_of(made_facts("multilabel")), answer_of(made_facts("regression", ()))
    assert several.sentence.startswith("It ranks the classes with a mean average precision of ")
    assert several.big.endswith("%")
    assert numbers.sentence.startswith("It is off by ")
    assert not numbers.is_share


def test_an_interval_that_is_not_known_is_not_shown() -> None:
    facts = made_facts()
    unknown = {"test": {**facts.metrics["test"], "top1": Estimate(0.5, float("nan"), float("nan"))}}
    answer = answer_of(replace(facts, metrics={**facts.metrics, **unknown}))
    assert answer.sentence == "It names 50.0% of images right, measured on 60 test images."


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_every_metric_has_a_name_and_stands_in_the_table(task: str) -> None:
    facts = made_facts(task, () if task == "regression" else tuple("abcdefg"))
    assert set(facts.metrics["test"]) <= set(METRICS)
    table = metrics_table(facts)
    assert [row["name"] for row in table["rows"]] == [METRICS[key][0] for key in facts.metrics["test"]]
    assert table["heads"] == ["test (n = 60)", "val (n = 60)"]


def test_looks_at_test() -> None:
    facts = made_facts(n=4000, skill=0.9)
    twice = replace(facts, looks=[look("test"), look("test")])
    assert only(twice, "test-looks").severity == "note"
    others = replace(facts, looks=[look("test", "b" * 64), look("test", "c" * 64), look("test")])
    found = only(others, "test-looks")
    assert found.severity == "warning"
    assert found.text.startswith("Test was looked at 3 times, with 3 different weights.")
    # Looks at other images, and at val, are no looks at test.
    assert kinds(replace(facts, looks=[look("val", "b" * 64), look("test", data="other"), look("test")])) == []


def test_a_number_of_other_weights_is_no_answer() -> None:
    facts = made_facts(n=4000, skill=0.9, looks=[look("test", "b" * 64)])
    assert only(facts, "other-weights").severity == "error"


def test_worst_first() -> None:
    leak = {"kind": "leak", "severity": "error", "message": "3 images of val are in train too.", "advice": "Remove."}
    blurred = {"kind": "blurred", "severity": "note", "message": "not for here", "advice": ""}
    facts = made_facts(findings=[blurred, leak])
    found = concerns(facts)
    assert found[0] == Concern("leak", "error", "3 images of val are in train too.", "Remove.")
    order = ["error", "warning", "note"]
    severities = [concern.severity for concern in found]
    assert severities == sorted(severities, key=order.index)
    assert "blurred" not in kinds(facts)


def test_no_better_than_the_commonest_class() -> None:
    facts = made_facts(names=("a", "b"), n=400)
    table = facts.predictions["test"]
    always = np.tile(np.array([[0.6, 0.4]], np.float32), (len(table), 1))
    found = only(with_tables(facts, test=replace(table, outputs=always)), "guessing")
    assert found.severity == "error"
    assert "always answering 'a', which would be right for 50.0%" in found.text
    assert "guessing" not in kinds(facts)


def test_numbers_no_better_than_their_mean() -> None:
    facts = made_facts("regression", (), n=400, skill=0.9)
    table = facts.predictions["test"]
    noise = np.random.default_rng(0).normal(0, 3, table.outputs.shape).astype(np.float32)
    assert "guessing" in kinds(with_tables(facts, test=replace(table, outputs=noise)))
    assert "guessing" not in kinds(facts)


def test_test_far_below_val() -> None:
    facts = made_facts(n=4000, skill=0.5)
    val = facts.predictions["val"]
    right = np.eye(3, dtype=np.float32)[val.targets]
    found = only(with_tables(facts, val=replace(val, outputs=right)), "splits-disagree")
    assert found.text.startswith("Accuracy is 100.0% on val but ")
    assert "splits-disagree" not in kinds(facts)


def test_labels_in_doubt_of_a_good_network_and_not_of_a_weak_one() -> None:
    pytest.importorskip("cleanlab", reason="cleanlab is not installed")
    facts = made_facts(n=4000, skill=0.98)
    table = facts.predictions["test"]
    mislabelled = table.targets.copy()
    mislabelled[:40] = (mislabelled[:40] + 1) % 3
    found = only(with_tables(facts, test=replace(table, targets=mislabelled)), "label-suspects")
    assert found.severity == "note"
    assert re.match(r"[3-6]\d of 1,000 test labels \(\d.\d%\) are in doubt", found.text)
    mislabelled[:300] = (mislabelled[:300] + 1) % 3
    assert "label-suspects" not in kinds(with_tables(facts, test=replace(table, targets=mislabelled)))


def test_uneven_classes_are_a_warning_where_accuracy_flatters() -> None:
    facts = made_facts(names=("a", "b"), n=4000, skill=0.9)
    labels = np.array(facts.split.classes)
    train = facts.split.rows("train")
    labels[train] = np.where(np.arange(len(train)) % 20 == 0, "b", "a")
    uneven = replace(facts, split=replace(facts.split, classes=tuple(labels.tolist())))
    assert only(uneven, "imbalance").severity == "note"
    assert "'a' has 1,900 training images, 'b' 100" in only(uneven, "imbalance").text
    table = facts.predictions["test"]
    mostly = np.where(np.arange(len(table)) % 20 == 0, 1, 0)
    always = np.tile(np.array([[0.9, 0.1]], np.float32), (len(table), 1))
    flattering = with_tables(uneven, test=replace(table, targets=mostly, outputs=always))
    found = only(flattering, "imbalance")
    assert found.severity == "warning"
    assert "Accuracy, 95.0%, flatters: the mean recall of the classes is 50.0%" in found.text


def test_overfitting_is_a_rise_on_val_while_train_falls() -> None:
    falling = [1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05]
    rising = [1.1, 0.9, 0.8, 0.9, 1.0, 1.1, 1.2]
    facts = with_losses(falling, rising)
    found = only(facts, "overfitting")
    assert "since epoch 3 the loss on val rose from 0.8 to 1.1 while that on train fell from 0.5 to 0.1" in found.text
    assert found.severity == "warning"
    spared = replace(facts, result={**facts.result, "best_epoch": 3})
    assert only(spared, "overfitting").severity == "note"
    last = replace(spared, config=override(spared.config, {"train.select": "last"}))
    assert only(last, "overfitting").severity == "warning"


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ([1.0, 0.8, 0.6, 0.5, 0.45, 0.4, 0.39], [1.2, 0.9, 0.8, 0.7, 0.69, 0.68, 0.68]),  # converges
        ([1.0, 0.8, 0.6, 0.5, 0.45, 0.4, 0.39], [1.2, 0.9, 0.8, 0.81, 0.80, 0.82, 0.81]),  # a plateau
        ([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [1.2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.9]),  # one bad epoch at the end
        ([1.0, 0.8, 0.6, 0.9, 1.0, 1.1, 1.2], [1.2, 0.9, 0.8, 1.0, 1.1, 1.2, 1.3]),  # both rise: no overfitting
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01], [0.1, 0.09, 0.08, 0.07, 0.06, 0.05, 0.05]),  # val below train
        ([0.5, 0.1], [0.1, 0.9]),  # too few epochs to tell
    ],
)
def test_no_overfitting_where_there_is_none(train: list[float], val: list[float]) -> None:
    assert "overfitting" not in kinds(with_losses(train, val))


def test_a_history_with_holes_is_no_reason_to_fail() -> None:
    lines = [{"kind": "epoch", "epoch": 1, "val/top1": None}, {"kind": "epoch", "epoch": 2, "train/loss": None}]
    assert isinstance(kinds(made_facts(history=lines)), list)
    assert isinstance(kinds(made_facts(history=[])), list)


def test_still_improving_by_more_than_chance() -> None:
    facts = with_losses([0.9, 0.8, 0.7], [0.9, 0.8, 0.7], **{"val/top1": [0.5, 0.6, 0.7]})
    improving = replace(facts, result={**facts.result, "best_epoch": 3})
    found = only(improving, "still-improving")
    assert found.advice.endswith("--epochs 6")
    settled = with_losses([0.9, 0.8, 0.7], [0.9, 0.8, 0.7], **{"val/top1": [0.5, 0.700, 0.701]})
    assert "still-improving" not in kinds(replace(settled, result={**facts.result, "best_epoch": 3}))
    assert "still-improving" not in kinds(facts)


def test_calibration_is_poor_where_its_interval_says_so() -> None:
    facts = made_facts(n=4000, skill=0.5)
    poor = {"test": {**facts.metrics["test"], "ece": Estimate(0.12, 0.10, 0.14)}}
    assert (
        "they are 12.0% off on average (10.0% to 14.0%)"
        in only(replace(facts, metrics={**facts.metrics, **poor}), "calibration").text
    )
    fine = {"test": {**facts.metrics["test"], "ece": Estimate(0.05, 0.01, 0.09)}}
    assert "calibration" not in kinds(replace(facts, metrics={**facts.metrics, **fine}))


def test_few_images() -> None:
    facts = made_facts(names=tuple("abcdefghij"), n=240, skill=0.6)
    found = concerns(facts)
    few = [concern for concern in found if concern.kind in ("few-images", "small-classes")]
    assert [concern.severity for concern in few] == ["note", "note"]
    assert few[0].text.startswith("The number is coarse: 60 images leave an interval of ")
    assert few[1].text.startswith(
        "10 of 10 classes have fewer than 10 test images (a 6, b 6, c 6, d 6, e 6 and 5 more)"
    )


def test_unreadable_images_are_counted() -> None:
    facts = made_facts(n=4000, skill=0.9)
    table = replace(facts.predictions["test"], num_given=1100)
    found = only(replace(facts, predictions={**facts.predictions, "test": table}), "unreadable")
    assert found.severity == "warning"
    assert found.text.startswith("100 of 1,100 test images (9.1%) could not be read")
