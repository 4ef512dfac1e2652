"""Doubtful labels: planted mistakes come first, and nothing is said of what a model agrees with."""

from __future__ import annotations

import numpy as np
import pytest

from tellapart.auditing.label_suspects import find_label_suspects
from tellapart.errors import RunError
from tellapart.evaluation.predictions import Predictions

pytest.importorskip("cleanlab", reason="cleanlab comes with the extra `audit`")
CLASSES = ("ant", "bee", "cat")


def table(targets: np.ndarray, outputs: np.ndarray, task: str = "multiclass") -> Predictions:
    count = len(targets)
    return Predictions(
        task=task,
        classes=CLASSES if task != "regression" else (),
        indices=np.arange(count) + 100,
        paths=[f"{row}.png" for row in range(count)],
        targets=targets,
        outputs=outputs.astype(np.float32),
        num_given=count,
    )


def confident(truth: np.ndarray, surely: np.ndarray | int = 0) -> np.ndarray:
    """Return probabilities of a model that is right nearly always, and very sure of the images `surely`."""
    logits = np.random.default_rng(0).normal(0.0, 0.7, (len(truth), 3)) + 4.0 * np.eye(3)[truth]
    if len(truth):
        logits[surely, truth[surely]] += 3.0
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_planted_mistakes_are_found_and_come_first() -> None:
    truth = np.arange(300) % 3
    given = truth.copy()
    planted = np.array([5, 50, 150, 250, 299])
    given[planted] = (truth[planted] + 1) % 3
    found = find_label_suspects(table(given, confident(truth, planted)))
    assert {suspect.row - 100 for suspect in found[: len(planted)]} == set(planted.tolist())
    first = found[0]
    assert first.given == CLASSES[given[first.row - 100]]
    assert first.suggested == CLASSES[truth[first.row - 100]]
    scores = [suspect.score for suspect in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0.5 < score <= 1.0 for score in scores)


def test_nothing_is_doubted_where_the_model_agrees() -> None:
    truth = np.arange(300) % 3
    assert find_label_suspects(table(truth, np.eye(3)[truth] * 0.97 + 0.01)) == []


def test_a_class_that_no_image_has_does_not_matter() -> None:
    truth = np.arange(200) % 2
    given = truth.copy()
    given[7] = 1 - truth[7]
    found = find_label_suspects(table(given, confident(truth, 7)))
    assert found[0].row == 107


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_single_class_or_nothing_leaves_nothing_to_compare(count: int) -> None:
    truth = np.zeros(count, dtype=np.int64)
    assert find_label_suspects(table(truth, confident(truth))) == []


def test_several_labels_an_image() -> None:
    truth = np.random.default_rng(1).random((300, 3)) < 0.4
    given = truth.astype(np.float32)
    given[[20, 200], 0] = 1.0 - given[[20, 200], 0]
    outputs = np.where(truth, 0.95, 0.05)
    found = find_label_suspects(table(given, outputs, "multilabel"))
    assert {suspect.row for suspect in found} == {120, 300}
    names = [name for name, is_set in zip(CLASSES, truth[20], strict=True) if is_set]
    assert {suspect.suggested for suspect in found if suspect.row == 120} == {"|".join(names)}


def test_numbers_cannot_be_doubted_this_way() -> None:
    with pytest.raises(RunError, match="predicts numbers"):
        find_label_suspects(table(np.ones((3, 1), np.float32), np.ones((3, 1)), "regression"))
