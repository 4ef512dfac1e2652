"""Classes: counts, classes that are missing somewhere, names that mean the same."""

from __future__ import annotations

import numpy as np
import pytest

from tellapart.auditing.classes import class_counts, class_findings, source_findings
from tellapart.auditing.findings import Finding, subject_of
from tellapart.data.sources import ArraySource


def source(labels: object, parts: list[str] | None = None, classes: list[str] | None = None) -> ArraySource:
    images = np.zeros((len(labels), 4, 4), np.uint8)  # pyright: ignore[reportArgumentType]
    return ArraySource(images, labels, classes, parts=parts)


def found(labels: object, parts: list[str] | None = None, classes: list[str] | None = None) -> dict[str, Finding]:
    listed = class_findings(subject_of(source(labels, parts, classes)))
    assert len({finding.kind for finding in listed}) == len(listed)
    return {finding.kind: finding for finding in listed}


def test_balanced_classes_in_every_part_give_no_finding() -> None:
    assert found(["a", "b"] * 20, ["train"] * 20 + ["val"] * 10 + ["test"] * 10) == {}
    assert found(["a", "b"] * 20) == {}


def test_counts_are_by_class_and_split() -> None:
    subject = subject_of(source(["a", "b", "a", "b"], ["train", "train", "train", "test"]))
    assert class_counts(subject) == {"a": {"train": 2, "test": 0}, "b": {"train": 1, "test": 1}}
    labels = np.array([[1, 1], [0, 1], [0, 0]])
    assert class_counts(subject_of(source(labels, classes=["x", "y"]))) == {"x": {"": 1}, "y": {"": 2}}
    assert class_counts(subject_of(source(np.array([0.5, 1.5])))) == {}


def test_a_class_missing_from_train_is_an_error_and_from_test_a_warning() -> None:
    labels = ["a"] * 12 + ["b"] * 12 + ["c"] * 2 + ["a"]
    parts = ["train"] * 24 + ["test"] * 3
    listed = class_findings(subject_of(source(labels, parts)))
    in_train, in_test = (finding for finding in listed if finding.kind == "class-absent")
    assert (in_train.severity, [e.detail for e in in_train.examples]) == ("error", ["c"])
    assert (in_test.severity, [e.detail for e in in_test.examples]) == ("warning", ["b"])


def test_a_class_without_any_image_is_said_once() -> None:
    listed = found(["a", "b"] * 20, ["train"] * 20 + ["test"] * 20, ["a", "b", "ghost"])
    assert set(listed) == {"class-empty"}
    assert listed["class-empty"].examples[0].detail == "ghost"


@pytest.mark.parametrize(
    ("names", "alike"),
    [
        (["Cat", "cat"], True),
        (["polar bear", "polar_bear"], True),
        (["polar-bear", "PolarBear"], True),
        (["cafe\u0301", "caf\u00e9"], True),
        (["class 1", "class1"], True),
        (["1-5", "15"], False),
        (["cat", "cats"], False),
        (["a", "b"], False),
        (["-", "_"], False),
    ],
)
def test_names_that_may_mean_the_same(names: list[str], alike: bool) -> None:
    assert ("class-names" in found(names * 12)) is alike


def test_few_images_and_uneven_classes() -> None:
    listed = found(["a"] * 100 + ["b"] * 9)
    assert listed["class-small"].examples[0].detail == "b: 9 images"
    assert "'a' has 100 images, 'b' 9" in listed["class-imbalance"].message
    assert set(listed) == {"class-small", "class-imbalance"}
    assert found(["a"] * 99 + ["b"] * 10) == {}


def test_images_without_any_label() -> None:
    labels = np.array([[1, 0]] * 10 + [[0, 1]] * 10 + [[0, 0]] * 2)
    listed = found(labels, classes=["x", "y"])
    assert listed["no-label"].rows.tolist() == [20, 21]


def test_numbers_have_no_classes() -> None:
    assert found(np.linspace(0, 1, 9)) == {}


def test_what_a_source_left_out_is_a_note_and_an_empty_class_folder_a_warning() -> None:
    given = source(["a", "b"])
    given.notes = [
        "left out 2 folders without images: train/x, train/y.",
        "left out 1 file whose endings are not of images (1 .txt): a.txt.",
        "found 2 class names different in upper and lower case alone: A, a.",
    ]
    empty, note = source_findings(subject_of(given))
    assert (empty.kind, empty.severity) == ("class-empty", "warning")
    assert (note.kind, note.severity, note.message[:8]) == ("source", "note", "Left out")
