"""What an audit says: one finding a kind of trouble, with its severity, its images and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tellapart.data.sources import Source

# Worst first. An error makes a result wrong; a warning may; a note is worth knowing.
SEVERITIES = ("error", "warning", "note")
# Every kind of finding, in the order in which equally severe ones are listed.
KINDS = (
    "unreadable",
    "truncated",
    "changed",
    "missing",
    "leak",
    "near-leak",
    "group-leak",
    "conflict",
    "near-conflict",
    "label-suspect",
    "class-absent",
    "class-names",
    "placeholder",
    "blank",
    "duplicate",
    "near-duplicate",
    "class-small",
    "class-imbalance",
    "class-empty",
    "no-label",
    "blurred",
    "dark",
    "bright",
    "small",
    "large",
    "aspect",
    "wrong-ending",
    "grey",
    "color-mode",
    "animated",
    "source",
)


@dataclass(frozen=True)
class LabelSuspect:
    """An image whose label a model doubts: its row, the label it has, the one it may deserve, and how sure (0 to 1)."""

    row: int
    given: str
    suggested: str
    score: float


@dataclass(frozen=True)
class Example:
    """Images to look at together, by their rows, and what is to be said of them; no rows where it is of no image."""

    rows: tuple[int, ...]
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """One kind of trouble.

    Attributes:
        kind: one of `KINDS`.
        severity: one of `SEVERITIES`.
        count: how many images, or classes, it concerns.
        message: a sentence that says what was found.
        advice: what to do about it.
        examples: the worst first.
        rows: every image it concerns, int64, ascending.
        override: the option of `train` that goes on in spite of it; "" where there is none or none is needed.
    """

    kind: str
    severity: str
    count: int
    message: str
    advice: str = ""
    examples: tuple[Example, ...] = ()
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    override: str = ""

    def __post_init__(self) -> None:
        assert self.kind in KINDS
        assert self.severity in SEVERITIES

    def num_beyond(self, most: int) -> int:
        """Return how many of the images, or classes, the first `most` examples do not show; 0 if there are none."""
        shown = self.examples[:most]
        if not shown:
            return 0
        if not len(self.rows):
            return max(0, self.count - len(shown))
        return len(self.rows) - int(np.isin(self.rows, [row for example in shown for row in example.rows]).sum())


@dataclass(frozen=True)
class Subject:
    """What is audited: a source and how it is divided.

    `splits` has "train", "val", "test", "unused" or "" (not divided) for each row; `is_own` says that the division is
    the user's own or a run's, so that what lies on both sides of it leaks. `groups` are names of what must not be
    divided, "" for an image of its own; none at all where nobody named any.
    """

    source: Source
    splits: tuple[str, ...]
    is_own: bool
    groups: tuple[str, ...] = ()
    max_examples: int = 5

    def __len__(self) -> int:
        return len(self.source)

    def in_split(self, name: str) -> np.ndarray:
        """Return the rows of a split, int64."""
        return np.flatnonzero(np.array([split == name for split in self.splits], dtype=bool))

    def split_counts(self) -> dict[str, int]:
        """Return the number of images of each split that has any."""
        counts = Counter(self.splits)
        return {name: counts[name] for name in ("train", "val", "test", "unused", "") if counts[name]}

    def describe(self, row: int) -> str:
        """Return the path of an image, its split in front where the path does not begin with it."""
        path, split = self.source.paths[row], self.splits[row]
        return f"{split}: {path}" if split and not path.lower().startswith(split) else path


def subject_of(source: Source, max_examples: int = 5) -> Subject:
    """Return the source with its own parts; where it has some, what is in none is for training."""
    is_own = any(source.parts)
    splits = tuple(part or ("train" if is_own else "") for part in source.parts)
    return Subject(source, splits, is_own, tuple(source.groups or ()), max_examples)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings worst first: by severity, then by kind, then by how many images they concern."""
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), KINDS.index(f.kind), -f.count))


def rows_array(rows: Iterable[int]) -> np.ndarray:
    """Return rows as int64, ascending, each once."""
    return np.unique(np.fromiter(rows, dtype=np.int64))


def examples_of(rows: Sequence[int] | np.ndarray, details: Sequence[str] | None, most: int) -> tuple[Example, ...]:
    """Return up to `most` examples of one image each, in the order given."""
    return tuple(
        Example((int(row),), details[place] if details is not None else "") for place, row in enumerate(rows[:most])
    )


def counted(count: int, noun: str) -> str:
    """Return a number and its noun, in the plural where it must be.

    >>> counted(1, "image"), counted(1200, "class")
    ('1 image', '1,200 classes')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def verb(count: int, singular: str, plural: str) -> str:
    """Return the form of a verb that goes with a count."""
    return singular if count == 1 else plural


def share(count: int, total: int) -> str:
    """Return a share in percent, never rounded to nothing or to all.

    >>> share(1, 60000), share(12, 112), share(3, 3)
    ('under 0.1%', '10.7%', '100%')
    """
    if count == total:
        return "100%"
    ratio = count / max(total, 1)
    return "under 0.1%" if ratio < 0.001 else "over 99.9%" if ratio > 0.999 else f"{ratio:.1%}"


def printable(text: str) -> str:
    r"""Return text that is safe to show: whatever is no visible character is escaped, as in Python.

    File names come from strangers: an escape sequence in one could rewrite a terminal, a mark that turns the writing
    direction could make one name look like another.

    >>> printable("a\x1b[2Jb\u202egpj.exe \N{SNOWMAN}")
    'a\\x1b[2Jb\\u202egpj.exe ☃'
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def as_plain(finding: Finding, subject: Subject, most: int) -> dict[str, Any]:
    """Return a finding as `check --json` prints it."""
    source = subject.source
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "count": finding.count,
        "message": finding.message,
        "advice": finding.advice,
        "override": finding.override,
        "rows": finding.rows.tolist(),
        "examples": [
            {
                "rows": list(example.rows),
                "paths": [source.paths[row] for row in example.rows],
                "labels": [source.label_name(row) for row in example.rows],
                "splits": [subject.splits[row] for row in example.rows],
                "detail": example.detail,
            }
            for example in finding.examples[:most]
        ],
    }
