"""Findings about files: what cannot be read, what is not what its name says, what changed since it was first read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tellapart.auditing.examine import Examination, blank_rows
from tellapart.auditing.findings import Example, Finding, Subject, counted, examples_of, rows_array, verb
from tellapart.auditing.header import COLOR_MODES, RIGHT_ENDINGS, has_wrong_ending
from tellapart.data.sources.tree import ending

_SKIP = "--data.bad-images skip"


@dataclass(frozen=True)
class Recorded:
    """What was known of each image by its path at an earlier time; a hash of "" is not known."""

    name: str
    content_hashes: Mapping[str, str]
    pixel_hashes: Mapping[str, str]


def unreadable_findings(subject: Subject, errors: Mapping[int, str]) -> list[Finding]:
    """Return what cannot be read: files that end early, and all others."""
    total, found = len(subject), []
    short = {row: reason for row, reason in errors.items() if reason.startswith("truncated")}
    others = {row: reason for row, reason in errors.items() if row not in short}
    for kind, reasons, what in (
        ("unreadable", others, "cannot be read"),
        ("truncated", short, f"{verb(len(short), 'is', 'are')} cut short and cannot be read"),
    ):
        if not reasons:
            continue
        rows = rows_array(reasons)
        found.append(
            Finding(
                kind,
                "error",
                len(rows),
                f"{len(rows):,} of {counted(total, 'image')} {what}"
                + (": none is left." if len(errors) == total else "."),
                f"Mend or remove them, or leave them out with {_SKIP}.",
                examples_of(rows, [reasons[int(row)] for row in rows[: subject.max_examples]], subject.max_examples),
                rows,
                "" if len(errors) == total else _SKIP,
            )
        )
    return found


def format_findings(subject: Subject, examination: Examination) -> list[Finding]:
    """Return files with the ending of another format, with unusual colours, and with several frames."""
    return [
        *_wrong_endings(subject, examination.measures),
        *_color_modes(subject, examination.measures),
        *_grey_among_color(subject, examination),
        *_animated(subject, examination.measures),
    ]


def _wrong_endings(subject: Subject, measures: np.ndarray) -> list[Finding]:
    paths, formats = subject.source.paths, measures["format"]
    wrong = [row for row, path in enumerate(paths) if has_wrong_ending(path, formats[row])]
    if not wrong:
        return []
    details = [
        f"{formats[row]} content, ending {ending(paths[row])} (expected {RIGHT_ENDINGS[formats[row]][0]})"
        for row in wrong[: subject.max_examples]
    ]
    return [
        Finding(
            "wrong-ending",
            "note",
            len(wrong),
            f"{counted(len(wrong), 'file')} named as another format than the content has.",
            "Tellapart goes by the content; other programs may refuse them. Rename them when convenient.",
            examples_of(wrong, details, subject.max_examples),
            rows_array(wrong),
        )
    ]


def _color_modes(subject: Subject, measures: np.ndarray) -> list[Finding]:
    modes = measures["color_mode"]
    rows = np.flatnonzero(modes != "")
    if not len(rows):
        return []
    names, counts = np.unique(modes[rows], return_counts=True)
    said = ", ".join(f"{count:,} {name}" for count, name in sorted(zip(counts, names, strict=True), reverse=True))
    # One of each kind first.
    firsts = [int(rows[np.flatnonzero(modes[rows] == name)[0]]) for name in names]
    order = [*firsts, *(int(row) for row in rows if row not in set(firsts))]
    details = [COLOR_MODES[modes[row]] for row in order[: subject.max_examples]]
    return [
        Finding(
            "color-mode",
            "note",
            len(rows),
            f"{counted(len(rows), 'image')} with colours kept in an unusual way: {said}.",
            "Look at one of each, whether that is what you want the network to see.",
            examples_of(order, details, subject.max_examples),
            rows,
        )
    ]


def _grey_among_color(subject: Subject, examination: Examination) -> list[Finding]:
    """Grey images among colour ones are harmless, unless one class has most of them: then grey gives it away."""
    source, readable = subject.source, examination.readable()
    rows = readable[examination.measures["is_grey"][readable]]
    rows = np.setdiff1d(rows, blank_rows(examination))
    if source.num_channels == 1 or not 0 < len(rows) <= 0.5 * len(readable):
        return []
    message = f"{counted(len(rows), 'image')} without colour among {len(readable):,} images, most in colour."
    advice = "They are read as grey in three channels; nothing needs to be done."
    severity = "note"
    if source.task == "multiclass" and len(source.classes) > 1 and len(rows) >= 10:
        in_class = np.bincount(source.targets[readable], minlength=len(source.classes))
        grey = np.bincount(source.targets[rows], minlength=len(source.classes))
        most = int(np.argmax(grey))
        if grey[most] >= 0.8 * len(rows) and grey[most] >= 0.25 * in_class[most]:
            severity = "warning"
            message += f" {grey[most]:,} of them are in the class '{source.classes[most]}'."
            advice = "A network can tell that class by the lack of colour. Make all images grey, or mix the kinds."
    return [Finding("grey", severity, len(rows), message, advice, examples_of(rows, None, subject.max_examples), rows)]


def _animated(subject: Subject, measures: np.ndarray) -> list[Finding]:
    rows = np.flatnonzero(measures["is_animated"])
    if not len(rows):
        return []
    return [
        Finding(
            "animated",
            "note",
            len(rows),
            f"{counted(len(rows), 'file')} of several frames or pages; the first one is the image.",
            "To learn from the other frames, save them as files of their own.",
            examples_of(rows, None, subject.max_examples),
            rows,
        )
    ]


def changed_findings(subject: Subject, examination: Examination, before: Recorded) -> list[Finding]:
    """Return images whose bytes (or pixels, where no bytes were kept) differ from those recorded, or that are gone.

    A bit that rots inside a JPEG mostly still decodes, so that only the hash of the file tells.
    """
    paths = subject.source.paths
    changed, num_compared = [], 0
    for row, path in enumerate(paths):
        then, now = before.content_hashes.get(path, ""), examination.content_hashes[row]
        if not (then and now):
            then, now = before.pixel_hashes.get(path, ""), examination.pixel_hashes[row]
        if then and (now or row in examination.errors):  # no hash now: it cannot even be opened
            num_compared += 1
            if then != now:
                changed.append(row)
    found = []
    if changed:
        details = [
            f"cannot be read any more: {examination.errors[row]}" if row in examination.errors else "another content"
            for row in changed[: subject.max_examples]
        ]
        found.append(
            Finding(
                "changed",
                "error",
                len(changed),
                f"{len(changed):,} of {counted(num_compared, 'image')} changed since {before.name} was written.",
                "Where nobody edited them, the disk or a copy damaged them: restore these files from a backup.",
                examples_of(changed, details, subject.max_examples),
                rows_array(changed),
            )
        )
    recorded = {*before.content_hashes, *before.pixel_hashes}
    if gone := sorted(recorded - set(paths)):
        found.append(
            Finding(
                "missing",
                "error",
                len(gone),
                f"{len(gone):,} of {counted(len(recorded), 'image')} that {before.name} knows are not there any more.",
                "Put them back, or check the data that it was made from.",
                tuple(Example((), path) for path in gone[: subject.max_examples]),
            )
        )
    return found
