"""Images that are there twice: leaks, conflicts and plain copies, exact and alike, and groups on two sides."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tellapart.auditing import duplicates
from tellapart.auditing.duplicates import (
    Pair,
    exact_findings,
    exact_groups,
    find_near_pairs,
    group_findings,
    near_findings,
)
from tellapart.auditing.findings import Finding, Subject, subject_of
from tellapart.data.sources import ArraySource


def subject(labels: str, parts: str = "", groups: str = "") -> Subject:
    """Return a subject of one image a letter; parts are a letter each: t(rain), v(al), T(est), - for none."""
    names = {"t": "train", "v": "val", "T": "test", "-": ""}
    images = np.zeros((len(labels), 4, 4), np.uint8)
    source = ArraySource(images, list(labels), classes=sorted({*labels, "y", "z"}))
    source.parts = [names[letter] for letter in parts or "-" * len(labels)]
    source.groups = [letter.strip("-") for letter in groups] if groups else None
    return subject_of(source)


def by_kind(found: list[Finding]) -> dict[str, Finding]:
    assert len({finding.kind for finding in found}) == len(found)
    return {finding.kind: finding for finding in found}


def test_a_leak_is_counted_in_the_part_that_it_flatters() -> None:
    found = by_kind(exact_findings(subject("aabbab", "ttttTT"), ["1", "2", "3", "4", "1", "9"]))
    leak = found["leak"]
    assert (leak.severity, leak.count, leak.rows.tolist()) == ("error", 1, [4])
    assert leak.message == "1 of 2 test images (50.0%) has the pixels of one in train."
    assert leak.examples[0].rows == (4, 0)
    assert set(found) == {"leak"}


def test_val_in_test_is_a_warning_and_train_in_val_an_error() -> None:
    first, second = exact_findings(subject("aaaaaa", "tvtvvT"), ["1", "1", "2", "3", "4", "4"])
    assert (first.severity, first.rows.tolist()) == ("error", [1])
    assert (second.severity, second.rows.tolist()) == ("warning", [5])
    assert "chosen on val" in second.advice


def test_without_parts_of_ones_own_nothing_leaks() -> None:
    found = by_kind(exact_findings(subject("aaab"), ["1", "1", "2", "3"]))
    assert set(found) == {"duplicate"}


def test_equal_pixels_under_two_labels_are_a_conflict() -> None:
    found = by_kind(exact_findings(subject("abcab"), ["1", "1", "1", "2", "3"]))
    assert set(found) == {"conflict"}
    assert found["conflict"].rows.tolist() == [0, 1, 2]
    assert found["conflict"].examples[0].detail == "'a' and 'b'"


def test_copies_are_counted_without_the_one_that_stays() -> None:
    found = by_kind(exact_findings(subject("aaaabb"), ["1", "1", "1", "2", "3", "3"]))["duplicate"]
    assert found.count == 3
    assert found.rows.tolist() == [0, 1, 2, 4, 5]
    assert found.examples[0].rows == (0, 1, 2)
    assert found.examples[0].detail == "3 times"
    assert found.severity == "warning"


def test_unreadable_images_are_copies_of_nothing() -> None:
    assert exact_findings(subject("aab"), ["", "", "1"]) == []


def test_a_picture_ten_thousand_times_takes_no_time() -> None:
    count = 10_000
    found = by_kind(exact_findings(subject("ab" * (count // 2), "tT" * (count // 2)), ["1"] * count))
    assert found["leak"].count == count // 2
    assert found["conflict"].count == count
    assert found["duplicate"].count == count - 2


@given(st.lists(st.sampled_from(["", "x", "y", "z"]), max_size=12), st.data())
def test_leaks_and_conflicts_are_those_of_the_definition(hashes: list[str], data: Any) -> None:
    labels = "".join(data.draw(st.sampled_from("ab")) for _ in hashes)
    parts = "".join(data.draw(st.sampled_from("tvT")) for _ in hashes)
    if not hashes:
        return
    case = subject(labels, parts)
    found = exact_findings(case, hashes)
    rows = range(len(hashes))
    leaks = {row for f in found if f.kind == "leak" for row in f.rows.tolist()}
    wanted = {
        row
        for row in rows
        for other in rows
        if hashes[row] and hashes[row] == hashes[other] and parts[row] + parts[other] in ("Tt", "vt", "Tv")
    }
    assert leaks == wanted
    conflicts = {row for f in found if f.kind == "conflict" for row in f.rows.tolist()}
    equal = [(row, other) for row in rows for other in rows if hashes[row] and hashes[row] == hashes[other]]
    assert conflicts == {row for row, other in equal if labels[row] != labels[other]}


def test_groups_of_equal_hashes() -> None:
    assert exact_groups(["b", "a", "b", "", "a", "c", ""]) == [[0, 2], [1, 4]]


def test_look_alikes_leak_contradict_or_repeat() -> None:
    case = subject("aabbab", "tttttT")
    pairs = [Pair(0, 5, 0.99, "rescaled"), Pair(0, 1, 0.98, "shifted"), Pair(1, 2, 0.97, "flipped")]
    found = by_kind(near_findings(case, pairs))
    assert set(found) == {"near-leak", "near-conflict", "near-duplicate"}
    assert found["near-leak"].severity == "warning"
    assert found["near-leak"].rows.tolist() == [5]
    assert found["near-leak"].examples[0].detail == "rescaled, other label"
    assert found["near-conflict"].rows.tolist() == [0, 1, 2, 5]
    assert found["near-duplicate"].rows.tolist() == [0, 1]
    assert near_findings(case, []) == []


def test_examples_of_look_alikes_show_no_scene_twice() -> None:
    pairs = [Pair(0, 1, 0.99, "x"), Pair(0, 2, 0.99, "x"), Pair(1, 2, 0.98, "x"), Pair(3, 4, 0.97, "x")]
    (found,) = near_findings(subject("aaaaa"), pairs)
    assert [example.rows for example in found.examples] == [(0, 1), (3, 4)]


def test_only_one_of_equal_images_is_compared_and_its_copies_share_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def find_near_duplicates(images: np.ndarray, advance: Any = None) -> list[SimpleNamespace]:
        seen.append(images)
        return [SimpleNamespace(first=0, second=1, score=0.9, relation="shifted")]

    stub = ModuleType("tellapart.auditing.near_duplicates")
    stub.find_near_duplicates = find_near_duplicates  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    thumbnails = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((6, 3, 4, 4), np.uint8)
    # Rows 0 and 2 are equal; 3 is unreadable, 5 is blank.
    found = find_near_pairs(thumbnails, ["a", "b", "a", "", "c", "d"], np.array([5]))
    assert seen[0][:, 0, 0, 0].tolist() == [0, 1, 4]
    assert [(pair.first, pair.second) for pair in found] == [(0, 1), (1, 2)]
    assert {(pair.score, pair.relation) for pair in found} == {(0.9, "shifted")}
    assert find_near_pairs(thumbnails, ["a", "a", "", "", "", ""], np.array([], dtype=np.int64)) == []


def test_images_that_fill_the_memory_are_picked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_ROWS_AT_A_TIME", 2)
    thumbnails = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 4), dtype=np.uint8)
    rows = np.array([0, 2, 3, 5, 6])
    assert np.array_equal(duplicates._chosen(thumbnails, rows), thumbnails[rows])


def test_groups_on_two_sides_are_said_where_the_division_is_the_users() -> None:
    (found,) = group_findings(subject("abab", "tTtT", "pp-q"))
    assert (found.kind, found.severity, found.rows.tolist()) == ("group-leak", "warning", [1])
    assert found.examples[0].detail == "group 'p'"
    assert group_findings(subject("abab", groups="ppqq")) == []
    assert group_findings(subject("abab", "tTtT")) == []
