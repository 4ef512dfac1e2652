"""Findings about classes: how many images each has where, and names that may mean the same."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

import numpy as np

from tellapart.auditing.findings import Example, Finding, Subject, counted, rows_array, verb

# Fewer training images than this say little of a class, and their part in val and test says nothing.
_FEW = 10
_UNEVEN = 10
# Between two digits a separator means something: 1-5 and 15 are two classes.
_SEPARATORS = re.compile(r"(?<!\d)[\s_\-\u200b]+|[\s_\-\u200b]+(?!\d)")


def class_counts(subject: Subject) -> dict[str, dict[str, int]]:
    """Return, for each class, the number of its images in each split that has any; {} for a regression."""
    source, splits = subject.source, np.array(subject.splits)
    counts: dict[str, dict[str, int]] = {name: {} for name in source.classes}
    for split in subject.split_counts():
        targets = source.targets[splits == split]
        if source.task == "multiclass":
            numbers = np.bincount(targets, minlength=len(source.classes))
        else:
            numbers = targets.sum(axis=0)
        for name, number in zip(source.classes, numbers, strict=False):
            counts[name][split] = int(number)
    return counts


def class_findings(subject: Subject) -> list[Finding]:
    """Return what is odd about the classes and their counts."""
    source = subject.source
    if source.task == "regression":
        return []
    counts = class_counts(subject)
    found = [*_absent(subject, counts), *_names(subject), *_few(subject, counts), *_uneven(subject, counts)]
    if source.task == "multilabel":
        found += _unlabelled(subject)
    return found


def _absent(subject: Subject, counts: dict[str, dict[str, int]]) -> list[Finding]:
    present, found = subject.split_counts(), []
    for split in ("train", "val", "test"):
        absent = [name for name, numbers in counts.items() if any(numbers.values()) and not numbers.get(split)]
        if split not in present or not absent:
            continue
        is_wrong = split == "train" and subject.source.task == "multiclass"
        count = len(absent)
        found.append(
            Finding(
                "class-absent",
                "error" if is_wrong else "warning",
                count,
                f"{count:,} of {counted(len(counts), 'class')} {verb(count, 'has', 'have')} no image in {split}.",
                "What is not in train cannot be learnt. Add images, or take the class out of every split."
                if split == "train"
                else f"Nothing is known of them there: the number on {split} leaves them out.",
                _of_names(absent, ["" for _ in absent], subject.max_examples),
            )
        )
    return found


def _of_names(names: list[str], details: list[str], most: int) -> tuple[Example, ...]:
    pairs = zip(names[:most], details[:most], strict=True)
    return tuple(Example((), f"{name}: {detail}" if detail else name) for name, detail in pairs)


def _names(subject: Subject) -> list[Finding]:
    """Return class names that differ in case, spacing, separators or Unicode's way of writing them alone."""
    alike: dict[str, list[str]] = {}
    for name in subject.source.classes:
        folded = unicodedata.normalize("NFKC", name).casefold()
        key = _SEPARATORS.sub("", folded) or name
        alike.setdefault(key, []).append(name)
    groups = [names for names in alike.values() if len(names) > 1]
    if not groups:
        return []
    return [
        Finding(
            "class-names",
            "warning",
            len(groups),
            f"{counted(sum(map(len, groups)), 'class')} whose names differ in case, spacing or separators alone.",
            "If they mean the same, give them one name: as they are, the network learns to tell them apart.",
            tuple(Example((), " = ".join(f"'{name}'" for name in names)) for names in groups[: subject.max_examples]),
        )
    ]


def _to_learn_from(subject: Subject, counts: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return each class's images in train, or in all where nothing is divided yet."""
    split = "train" if "train" in subject.split_counts() else ""
    return {name: numbers.get(split, 0) for name, numbers in counts.items()}


def _few(subject: Subject, counts: dict[str, dict[str, int]]) -> list[Finding]:
    learnt = _to_learn_from(subject, counts)
    where = "training " if "train" in subject.split_counts() else ""
    few = sorted((number, name) for name, number in learnt.items() if 0 < number < _FEW)
    found = []
    if few:
        found.append(
            Finding(
                "class-small",
                "warning",
                len(few),
                f"{counted(len(few), 'class')} with fewer than {_FEW} {where}images.",
                "Too few to learn from or to judge by. Add images, or join the class with another.",
                _of_names(
                    [name for _, name in few], [counted(number, "image") for number, _ in few], subject.max_examples
                ),
            )
        )
    empty = [name for name, numbers in counts.items() if not any(numbers.values())]
    if empty:
        found.append(
            Finding(
                "class-empty",
                "note",
                len(empty),
                f"{counted(len(empty), 'class')} named and without a single image.",
                "The network would have an output that is never right. Take the name out.",
                _of_names(empty, ["" for _ in empty], subject.max_examples),
            )
        )
    return found


def _uneven(subject: Subject, counts: dict[str, dict[str, int]]) -> list[Finding]:
    learnt = {name: number for name, number in _to_learn_from(subject, counts).items() if number}
    if len(learnt) < 2:
        return []
    most, least = max(learnt, key=lambda name: learnt[name]), min(learnt, key=lambda name: learnt[name])
    if learnt[most] < _UNEVEN * learnt[least]:
        return []
    where = "training images" if "train" in subject.split_counts() else "images"
    return [
        Finding(
            "class-imbalance",
            "note",
            len(learnt),
            f"Classes are uneven: '{most}' has {learnt[most]:,} {where}, '{least}' {learnt[least]:,}.",
            "Judge by the recall of each class, not accuracy alone; --loss.class-weights balanced weighs them alike.",
        )
    ]


def _unlabelled(subject: Subject) -> list[Finding]:
    rows = np.flatnonzero(~subject.source.targets.any(axis=1))
    if not len(rows):
        return []
    return [
        Finding(
            "no-label",
            "note",
            len(rows),
            f"{counted(len(rows), 'image')} without any label.",
            "They teach that no class is there. If nobody labelled them yet, leave them out.",
            tuple(Example((int(row),)) for row in rows[: subject.max_examples]),
            rows_array(rows.tolist()),
        )
    ]


def source_findings(subject: Subject) -> list[Finding]:
    """Return what the source left out or assumed while it was opened."""
    found: list[Any] = []
    for note in subject.source.notes:
        if "different in upper and lower case alone" in note:
            continue  # said better by `class-names`
        is_empty_class = note.startswith("left out") and "folder" in note and "without images" in note
        sentence = note[:1].upper() + note[1:]
        kind, severity = ("class-empty", "warning") if is_empty_class else ("source", "note")
        advice = "If these are classes, their images are lacking; if not, nothing is wrong." if is_empty_class else ""
        found.append(Finding(kind, severity, 1, sentence, advice))
    return found
