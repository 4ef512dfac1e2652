"""Findings as they are shown: in order, in words, and safe for a terminal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.auditing.findings import KINDS, SEVERITIES, Example, Finding, as_plain, in_order, printable, subject_of
from tellapart.auditing.page import _TITLES
from tellapart.auditing.summary import example_text, headline
from tellapart.data.sources import ArraySource

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)


def source(**more: object) -> ArraySource:
    return ArraySource(IMAGES, ["ant", "bee", "ant", "bee"], **more)  # pyright: ignore[reportArgumentType]


def test_worst_come_first_then_by_kind_then_by_count() -> None:
    def finding(kind: str, severity: str, count: int) -> Finding:
        return Finding(kind, severity, count, "")

    given = [
        finding("blank", "note", 9),
        finding("unreadable", "error", 1),
        finding("leak", "error", 5),
        finding("leak", "error", 7),
        finding("conflict", "warning", 3),
    ]
    found = [(f.kind, f.count) for f in in_order(given)]
    assert found == [("unreadable", 1), ("leak", 7), ("leak", 5), ("conflict", 3), ("blank", 9)]


def test_unknown_kinds_and_severities_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        Finding("blnk", "note", 1, "")
    with pytest.raises(AssertionError):
        Finding("blank", "grave", 1, "")


def test_every_kind_has_a_title_on_the_page() -> None:
    assert set(_TITLES) == set(KINDS)
    assert len(set(KINDS)) == len(KINDS)
    assert SEVERITIES[0] == "error"


@given(st.text())
def test_nothing_that_moves_a_cursor_gets_through(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert "\x1b" not in shown
    if text.isprintable():
        assert shown == text


def test_escape_sequences_and_writing_marks_are_spelled_out() -> None:
    assert printable("a\x1b]0;x\x07b.jpg") == r"a\x1b]0;x\x07b.jpg"
    assert printable("\u202egpj.exe") == r"\u202egpj.exe"
    assert printable("\x9b31m") == r"\x9b31m"
    assert printable("Käfer 甲虫.png") == "Käfer 甲虫.png"


def test_an_example_names_the_split_where_the_path_does_not() -> None:
    subject = subject_of(source(parts=["train", "", "test", "val"]))
    assert example_text(subject, Example((0, 2), "why")) == "train: arrays/0000 = test: arrays/0002 (why)"
    assert example_text(subject, Example((), "only words")) == "only words"
    # What is in no part of a source that has parts is for training.
    assert subject.splits == ("train", "train", "test", "val")


def test_the_headline_counts() -> None:
    assert headline(subject_of(source())) == "arrays: 4 images, 2 classes"
    assert headline(subject_of(source(parts=["train", "train", "test", "val"]))) == (
        "arrays: 4 images, 2 classes: train 2  val 1  test 1"
    )
    numbers = ArraySource(IMAGES, np.array([0.5, 1.5, 2.5, 3.5]))
    assert headline(subject_of(numbers)) == "arrays: 4 images, numbers"


def test_plain_form_has_the_promised_names() -> None:
    subject = subject_of(source())
    finding = Finding("blank", "warning", 2, "m", "a", (Example((1,), "d"), Example((3,))), np.array([1, 3]))
    plain = as_plain(finding, subject, most=1)
    assert plain == {
        "kind": "blank",
        "severity": "warning",
        "count": 2,
        "message": "m",
        "advice": "a",
        "override": "",
        "rows": [1, 3],
        "examples": [{"rows": [1], "paths": ["arrays/0001"], "labels": ["bee"], "splits": [""], "detail": "d"}],
    }
