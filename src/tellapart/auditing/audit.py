"""The whole audit: read every image once, compare them, and say what is wrong, worst first."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np

from tellapart.auditing.classes import class_counts, class_findings, source_findings
from tellapart.auditing.duplicates import Pair, exact_findings, find_near_pairs, group_findings, near_findings
from tellapart.auditing.examine import MIN_COMPARED_PX, Examination, blank_rows, examine, tiny_rows
from tellapart.auditing.files import Recorded, changed_findings, format_findings, unreadable_findings
from tellapart.auditing.findings import (
    SEVERITIES,
    Example,
    Finding,
    LabelSuspect,
    Subject,
    as_plain,
    counted,
    in_order,
    rows_array,
    verb,
)
from tellapart.auditing.pictures import picture_findings
from tellapart.errors import DataError

FORMAT = 1
# A bar for so many items: a context that gives the function to call with the number of items just done.
Task = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        subject: the source, and how it is divided.
        findings: worst first.
        examination: what the reading pass measured of each image.
        near_pairs: images that look alike; empty where they were not compared.
        suspects: images whose labels a run's predictions doubt, the most doubtful first.
        seconds: how long each part took.
        was_compared: whether near duplicates were looked for.
    """

    subject: Subject
    findings: tuple[Finding, ...]
    examination: Examination
    near_pairs: tuple[Pair, ...]
    suspects: tuple[LabelSuspect, ...]
    seconds: dict[str, float]
    was_compared: bool

    @property
    def num_read(self) -> int:
        """How many images can be read."""
        return len(self.subject) - len(self.examination.errors)

    def severity_counts(self) -> dict[str, int]:
        """Return the number of findings of each severity, also of those that have none."""
        return {name: sum(found.severity == name for found in self.findings) for name in SEVERITIES}

    def as_dict(self, max_examples: int = 5) -> dict[str, Any]:
        """Return what `check --json` prints, plain data; `format` rises when a name changes its meaning or goes.

        `source`, `task`, `num_images`, `num_read`; `splits`: images by split ("undivided" where there are none);
        `findings`: worst first, each with `kind`, `severity`, `count`, `message`, `advice`, `override`, `rows` (every
        row that it concerns) and `examples` (`rows`, `paths`, `labels`, `splits`, `detail`); `classes`: images by
        class and split; `seconds`: of `reading`, `comparing` (if done) and `total`.
        """
        source = self.subject.source
        return {
            "format": FORMAT,
            "source": source.name,
            "task": source.task,
            "num_images": len(source),
            "num_read": self.num_read,
            "splits": {name or "undivided": count for name, count in self.subject.split_counts().items()},
            "findings": [as_plain(found, self.subject, max_examples) for found in self.findings],
            "classes": {
                name: {split or "undivided": count for split, count in counts.items()}
                for name, counts in class_counts(self.subject).items()
            },
            "near_duplicates": [
                {
                    "rows": [pair.first, pair.second],
                    "paths": [source.paths[pair.first], source.paths[pair.second]],
                    "score": round(pair.score, 4),
                    "relation": pair.relation,
                }
                for pair in self.near_pairs
            ],
            "label_suspects": [
                {
                    "row": suspect.row,
                    "path": source.paths[suspect.row],
                    "given": suspect.given,
                    "suggested": suspect.suggested,
                    "score": round(suspect.score, 4),
                }
                for suspect in self.suspects
            ],
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def audit(
    subject: Subject,
    task: Task,
    *,
    size_px: int = 0,
    compare: bool = True,
    suspects: Sequence[LabelSuspect] = (),
    recorded: Sequence[Recorded] = (),
) -> Audit:
    """Return what is wrong with a source.

    Args:
        subject: the source and its division.
        task: makes a progress bar.
        size_px: the side in pixels that a network would be trained at; 0 if that is not known.
        compare: whether to look for near duplicates.
        suspects: images whose labels a run's predictions doubt.
        recorded: what was known of the images at an earlier time, to be compared with now.

    Raises:
        DataError: there are no images.
        RunError: a process that reads ended.
    """
    source = subject.source
    if not len(source):
        raise DataError(f"{source.name}: expected images, found none.")
    start = time.perf_counter()
    with task("reading images", len(source)) as advance:
        examination = examine(source, advance)
    seconds = {"reading": time.perf_counter() - start}
    pairs: list[Pair] = []
    if compare:
        before = time.perf_counter()
        with task("comparing images", len(source)) as advance:
            skip = np.union1d(blank_rows(examination), tiny_rows(examination))
            pairs = find_near_pairs(examination.thumbnails, examination.pixel_hashes, skip, advance)
        seconds["comparing"] = time.perf_counter() - before
    findings = [
        *unreadable_findings(subject, examination.errors),
        *(found for before in recorded for found in changed_findings(subject, examination, before)),
        *exact_findings(subject, examination.pixel_hashes),
        *group_findings(subject),
        *near_findings(subject, pairs),
        *_suspect_findings(subject, suspects),
        *class_findings(subject),
        *picture_findings(subject, examination, size_px),
        *format_findings(subject, examination),
        *source_findings(subject),
        *(_uncompared(examination) if compare else ()),
    ]
    seconds["total"] = time.perf_counter() - start
    return Audit(subject, tuple(in_order(findings)), examination, tuple(pairs), tuple(suspects), seconds, compare)


def _uncompared(examination: Examination) -> list[Finding]:
    """Say that the smallest images were not compared: what was not looked for is not absent."""
    rows = tiny_rows(examination)
    if not len(rows):
        return []
    return [
        Finding(
            "source",
            "note",
            len(rows),
            f"{counted(len(rows), 'image')} under {MIN_COMPARED_PX} px {verb(len(rows), 'was', 'were')} not compared "
            "for look-alikes: so small, different things look alike.",
        )
    ]


def _suspect_findings(subject: Subject, suspects: Sequence[LabelSuspect]) -> list[Finding]:
    if not suspects:
        return []
    return [
        Finding(
            "label-suspect",
            "warning",
            len(suspects),
            f"{counted(len(suspects), 'label')} that the run's predictions doubt.",
            "Look at them, the most doubtful first. --fix marks them and changes no label.",
            tuple(
                Example((suspect.row,), f"'{suspect.given}', more likely '{suspect.suggested}'")
                for suspect in suspects[: subject.max_examples]
            ),
            rows_array(suspect.row for suspect in suspects),
        )
    ]
