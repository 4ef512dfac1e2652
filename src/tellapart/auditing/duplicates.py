"""Findings about images that are there twice: on both sides of a division, under two labels, or just twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from tellapart.auditing.examine import room_for
from tellapart.auditing.findings import Example, Finding, Subject, counted, rows_array, share, verb

# (looked at, holds the copy): what leaks from the second flatters the number on the first.
_LEAKS = (("test", "train"), ("val", "train"), ("test", "val"))
# Copies of one image beyond this many are not paired one by one with the copies of another.
_MOST_COPIES = 4
_ROWS_AT_A_TIME = 10_000
_FIX = "--fix OUT writes a manifest without the {split} copies; test is never changed."


@dataclass(frozen=True)
class Pair:
    """Two rows that show the same picture. `score` is 1 where the pixels are equal; `relation` says what differs."""

    first: int
    second: int
    score: float = 1.0
    relation: str = "same pixels"


def exact_groups(pixel_hashes: Sequence[str]) -> list[list[int]]:
    """Return the rows of every image that is there more than once, each list ascending.

    >>> exact_groups(["a", "b", "", "a", ""])
    [[0, 3]]
    """
    rows: dict[str, list[int]] = {}
    for row, found in enumerate(pixel_hashes):
        if found:
            rows.setdefault(found, []).append(row)
    return [members for members in rows.values() if len(members) > 1]


def find_near_pairs(
    thumbnails: np.ndarray,
    pixel_hashes: Sequence[str],
    skip: np.ndarray,
    advance: Callable[[int], None] | None = None,
) -> list[Pair]:
    """Return pairs of rows that look alike without being equal, best first.

    One image of each group of equal ones is compared, and a pair of two is one of all their copies.

    Args:
        thumbnails: uint8 `(N, C, S, S)`.
        pixel_hashes: one per image, "" for an unreadable one.
        skip: rows to leave out, int64: images of one colour are all alike.
        advance: called with the number of images just compared, for a progress bar.
    """
    from tellapart.auditing.near_duplicates import find_near_duplicates

    copies: dict[str, list[int]] = {}
    left_out = set(skip.tolist())
    for row, found in enumerate(pixel_hashes):
        if found and row not in left_out:
            copies.setdefault(found, []).append(row)
    members = list(copies.values())
    if len(members) < 2:
        return []
    chosen = np.array([rows[0] for rows in members], dtype=np.int64)
    images = thumbnails if len(chosen) == len(thumbnails) else _chosen(thumbnails, chosen)
    pairs = []
    for found in find_near_duplicates(images, advance=advance):
        for first, second in product(members[found.first][:_MOST_COPIES], members[found.second][:_MOST_COPIES]):
            pairs.append(Pair(min(first, second), max(first, second), float(found.score), str(found.relation)))
    return sorted(pairs, key=lambda pair: (-pair.score, pair.first, pair.second))


def _chosen(thumbnails: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return some of the thumbnails, a part at a time: all of them may be more than the memory holds."""
    images = room_for((len(rows), *thumbnails.shape[1:]))
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        images[part] = thumbnails[rows[part]]
    return images


def exact_findings(subject: Subject, pixel_hashes: Sequence[str]) -> list[Finding]:
    """Return what follows from images with equal pixels."""
    groups = exact_groups(pixel_hashes)
    pairs = [Pair(first, second) for group in groups for first, second in _links(group, subject)]
    return [*_leaks(subject, pairs, "leak"), *_conflicts(subject, pairs, "conflict"), *_copies(subject, groups)]


def near_findings(subject: Subject, pairs: Sequence[Pair]) -> list[Finding]:
    """Return what follows from images that look alike."""
    return [
        *_leaks(subject, pairs, "near-leak"),
        *_conflicts(subject, pairs, "near-conflict"),
        *_alike(subject, pairs),
    ]


def group_findings(subject: Subject) -> list[Finding]:
    """Return groups (the same patient, camera or burst) that a division of the user's own has on two sides."""
    if not subject.is_own or not any(subject.groups):
        return []
    of_split: dict[str, dict[str, list[int]]] = {}
    for row, (split, group) in enumerate(zip(subject.splits, subject.groups, strict=True)):
        if group:
            of_split.setdefault(split, {}).setdefault(group, []).append(row)
    found = []
    for looked_at, holding in _LEAKS:
        mine, other = of_split.get(looked_at, {}), of_split.get(holding, {})
        common = [group for group in mine if group in other]
        rows = rows_array(row for group in common for row in mine[group])
        if not common:
            continue
        examples = tuple(Example((mine[group][0], other[group][0]), f"group '{group}'") for group in common)
        found.append(
            Finding(
                "group-leak",
                "warning",
                len(rows),
                f"{counted(len(rows), looked_at + ' image')} of {counted(len(common), 'group')} also in {holding}.",
                "What they have in common can be learnt by heart. Keep each group in one split.",
                examples[: subject.max_examples],
                rows,
            )
        )
    return found


def _links(group: list[int], subject: Subject) -> Iterable[tuple[int, int]]:
    """Return pairs that join one image of every split and label in the group with one of every other, and all to one.

    All pairs of a picture that is there 10,000 times would be 50 million.
    """
    of_kind: dict[tuple[str, str], list[int]] = {}
    for row in group:
        of_kind.setdefault((subject.splits[row], subject.source.label_name(row)), []).append(row)
    for mine, other in combinations(of_kind.values(), 2):
        yield from ((min(row, other[0]), max(row, other[0])) for row in mine)
        yield from ((min(row, mine[0]), max(row, mine[0])) for row in other[1:])


def _leaks(subject: Subject, pairs: Sequence[Pair], kind: str) -> list[Finding]:
    if not subject.is_own:
        return []
    found, is_near = [], kind.startswith("near")
    for looked_at, holding in _LEAKS:
        best: dict[int, Example] = {}
        for pair in pairs:
            for row, other in ((pair.first, pair.second), (pair.second, pair.first)):
                if (subject.splits[row], subject.splits[other]) == (looked_at, holding) and row not in best:
                    best[row] = Example((row, other), _difference(subject, pair))
        if best:
            found.append(_leak(subject, kind, looked_at, holding, best, is_near))
    return found


def _leak(
    subject: Subject, kind: str, looked_at: str, holding: str, best: dict[int, Example], is_near: bool
) -> Finding:
    count, total = len(best), subject.split_counts()[looked_at]
    how = (
        verb(count, "looks", "look") + " like one in"
        if is_near
        else verb(count, "has", "have") + " the pixels of one in"
    )
    message = f"{count:,} of {total:,} {looked_at} images ({share(count, total)}) {how} {holding}."
    flatters = f"The number on {looked_at} flatters: the network has seen them. "
    if holding == "val":
        flatters = "What was chosen on val was partly chosen on test. "
    return Finding(
        kind,
        "error" if not is_near and holding == "train" else "warning",
        count,
        message,
        flatters + _FIX.format(split=holding),
        tuple(best.values())[: subject.max_examples],
        rows_array(best),
    )


def _varied(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """Return the first pairs, no image twice where that is possible: ten views of one scene are one example."""
    chosen: list[Pair] = []
    seen: set[int] = set()
    for pair in pairs:
        if len(chosen) < most and pair.first not in seen and pair.second not in seen:
            chosen.append(pair)
            seen |= {pair.first, pair.second}
    return chosen


def _difference(subject: Subject, pair: Pair) -> str:
    """Say what differs between the two images of a pair."""
    labels = [subject.source.label_name(row) for row in (pair.first, pair.second)]
    said = [] if pair.score == 1.0 and pair.relation == "same pixels" else [pair.relation]
    if labels[0] != labels[1]:
        said.append("other label")
    return ", ".join(said)


def _conflicts(subject: Subject, pairs: Sequence[Pair], kind: str) -> list[Finding]:
    label_name = subject.source.label_name
    differing = [pair for pair in pairs if label_name(pair.first) != label_name(pair.second)]
    if not differing:
        return []
    rows = rows_array(row for pair in differing for row in (pair.first, pair.second))
    how = "look like another and have" if kind.startswith("near") else "have the same pixels as another and"
    return [
        Finding(
            kind,
            "warning",
            len(rows),
            f"{counted(len(rows), 'image')} {how} different labels.",
            "At least one label of each pair is wrong, or the classes overlap. Correct them by hand; --fix marks them."
            if kind == "conflict"
            else "Look at each pair: one label may be wrong. --fix marks them.",
            tuple(
                Example(
                    (pair.first, pair.second),
                    f"'{label_name(pair.first)}' and '{label_name(pair.second)}'"
                    + (f", {pair.relation}" if kind.startswith("near") else ""),
                )
                for pair in _varied(differing, subject.max_examples)
            ),
            rows,
        )
    ]


def _copies(subject: Subject, groups: Sequence[list[int]]) -> list[Finding]:
    """Return copies within one split and label: they count twice, which is wasteful rather than wrong."""
    inside: list[list[int]] = []
    for group in groups:
        of_kind: dict[tuple[str, str], list[int]] = {}
        for row in group:
            of_kind.setdefault((subject.splits[row], subject.source.label_name(row)), []).append(row)
        inside += [rows for rows in of_kind.values() if len(rows) > 1]
    if not inside:
        return []
    inside.sort(key=lambda rows: (-len(rows), rows))
    surplus, total = sum(len(rows) - 1 for rows in inside), len(subject)
    return [
        Finding(
            "duplicate",
            "warning" if surplus > 0.01 * total else "note",
            surplus,
            f"{counted(surplus, 'image')} ({share(surplus, total)}) {verb(surplus, 'is', 'are')} the same as "
            "another of class and split, to the pixel.",
            "They weigh several times. --fix OUT writes a manifest that keeps one of each, outside of test.",
            tuple(Example(tuple(rows[:8]), f"{len(rows):,} times") for rows in inside[: subject.max_examples]),
            rows_array(row for rows in inside for row in rows),
        )
    ]


def _alike(subject: Subject, pairs: Sequence[Pair]) -> list[Finding]:
    label_name, splits = subject.source.label_name, subject.splits
    inside = [
        pair
        for pair in pairs
        if splits[pair.first] == splits[pair.second] and label_name(pair.first) == label_name(pair.second)
    ]
    if not inside:
        return []
    rows = rows_array(row for pair in inside for row in (pair.first, pair.second))
    advice = "They are kept. --fix OUT writes a group column, so that drawn splits keep each group on one side."
    return [
        Finding(
            "near-duplicate",
            "note",
            len(rows),
            f"{counted(len(rows), 'image')} ({share(len(rows), len(subject))}) resemble another of their class "
            "and split.",
            advice,
            tuple(Example((pair.first, pair.second), pair.relation) for pair in _varied(inside, subject.max_examples)),
            rows,
        )
    ]
