"""The audit as one page that needs nothing else: findings with their pictures, and how many images each class has."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from tellapart.auditing.audit import Audit
from tellapart.auditing.classes import class_counts
from tellapart.auditing.findings import Example, Finding, Subject, counted, printable
from tellapart.auditing.page_template import TEMPLATE
from tellapart.auditing.summary import example_text, headline
from tellapart.auditing.thumbnails import Thumbnails
from tellapart.errors import DataError

_MOST_CLASSES = 60
_OPTION = re.compile(r"(--[a-z][a-z.-]*[a-z](?: (?:OUT|skip|squash|balanced|yes)\b)?)")
_MOST_TOGETHER = 4
_TITLES = {
    "unreadable": "Cannot be read",
    "truncated": "Cut short",
    "changed": "Changed since",
    "missing": "Gone since",
    "leak": "On both sides of the division",
    "near-leak": "Look-alikes on both sides of the division",
    "group-leak": "Groups on both sides of the division",
    "conflict": "Same picture, different labels",
    "near-conflict": "Look-alikes with different labels",
    "label-suspect": "Doubtful labels",
    "class-absent": "Classes missing from a split",
    "class-names": "Class names that may mean the same",
    "placeholder": "Placeholders and drawings",
    "blank": "One colour",
    "duplicate": "The same picture again",
    "near-duplicate": "Look-alikes",
    "class-small": "Classes with few images",
    "class-imbalance": "Uneven classes",
    "class-empty": "Classes without images",
    "no-label": "Without a label",
    "blurred": "Without a sharp edge",
    "dark": "Very dark",
    "bright": "Very bright",
    "small": "Small",
    "large": "Very large",
    "aspect": "Long and narrow",
    "wrong-ending": "Named as another format",
    "grey": "Without colour",
    "color-mode": "Unusual colours",
    "animated": "Several frames",
    "source": "Noted while opening",
}


def write_page(audit: Audit, path: Path) -> Path:
    """Write the page, under a temporary name first, and return its path.

    Raises:
        DataError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(render_page(audit), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"--html {path}: cannot be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def render_page(audit: Audit) -> str:
    """Return the page as HTML. Names and paths come from strangers: everything is escaped."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    thumbnails = Thumbnails(audit.subject.source)
    sections = [_section(audit.subject, found, number, thumbnails) for number, found in enumerate(audit.findings)]
    return environment.from_string(TEMPLATE).render(
        name=printable(audit.subject.source.name),
        headline=headline(audit.subject).partition(": ")[2],
        verdict=_verdict(audit),
        counts=audit.severity_counts(),
        sections=sections,
        chart=_chart(audit.subject),
        seconds=audit.seconds,
        was_compared=audit.was_compared,
        pixelated=audit.examination.sharp_px <= 64,
    )


def _verdict(audit: Audit) -> str:
    counts = audit.severity_counts()
    unread = len(audit.examination.errors)
    read = f"{unread:,} of {counted(len(audit.subject), 'image')} cannot be read. " if unread else ""
    if counts["error"]:
        return f"{read}{counted(counts['error'], 'finding')} would make a result wrong. Begin there."
    if counts["warning"]:
        return f"{read}Nothing makes a result wrong; {counted(counts['warning'], 'finding')} may."
    unsought = "" if audit.was_compared else " Near duplicates were not looked for."
    return f"{read}Nothing was found that would mislead.{unsought}"


def _section(subject: Subject, finding: Finding, number: int, thumbnails: Thumbnails) -> dict[str, Any]:
    is_text = finding.kind in ("unreadable", "truncated") or not all(example.rows for example in finding.examples)
    return {
        "id": f"finding-{number}",
        "kind": finding.kind,
        "severity": finding.severity,
        "title": _TITLES[finding.kind],
        "count": finding.count,
        "message": printable(finding.message),
        "advice": _pieces(printable(finding.advice)),
        "examples": [] if is_text else [_card(subject, example, thumbnails) for example in finding.examples],
        "lines": [example_text(subject, example) for example in finding.examples] if is_text else [],
        "num_more": finding.num_beyond(len(finding.examples)),
    }


def _pieces(text: str) -> list[tuple[str, bool]]:
    """Return a text in pieces, and for each whether it is an option to be copied as it is."""
    return [(piece, place % 2 == 1) for place, piece in enumerate(_OPTION.split(text))]


def _card(subject: Subject, example: Example, thumbnails: Thumbnails) -> dict[str, Any]:
    source = subject.source
    return {
        "detail": printable(example.detail),
        "num_more": max(0, len(example.rows) - _MOST_TOGETHER),
        "images": [
            {
                "uri": thumbnails.uri(row),
                "path": printable(source.paths[row]),
                "label": printable(source.label_name(row)),
                "split": subject.splits[row],
            }
            for row in example.rows[:_MOST_TOGETHER]
        ],
    }


def _chart(subject: Subject) -> dict[str, Any] | None:
    """Return the bars of a chart of class counts: lengths in percent of the longest bar, one part a split."""
    counts = class_counts(subject)
    if not counts:
        return None
    splits = list(subject.split_counts())
    totals = {name: sum(numbers.values()) for name, numbers in counts.items()}
    names = sorted(counts, key=lambda name: (-totals[name], name))
    longest = max(*totals.values(), 1)
    bars = []
    for name in [*names[: _MOST_CLASSES - 1], *names[-1:]] if len(names) > _MOST_CLASSES else names:
        start, parts = 0.0, []
        for split in splits:
            width = 100 * counts[name].get(split, 0) / longest
            parts.append({"split": split or "all", "x": round(start, 3), "width": round(width, 3)})
            start += width
        numbers = ", ".join(f"{split or 'all'} {counts[name].get(split, 0):,}" for split in splits)
        bars.append({"name": printable(name), "total": totals[name], "parts": parts, "numbers": numbers})
    return {"bars": bars, "splits": [split or "all" for split in splits], "num_left_out": len(names) - len(bars)}
