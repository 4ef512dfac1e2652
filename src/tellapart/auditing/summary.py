"""An audit as text for a terminal: the division, then each finding with examples and advice."""

from __future__ import annotations

import textwrap

from tellapart.auditing.audit import Audit
from tellapart.auditing.findings import Example, Finding, Subject, counted, printable

_INDENT = " " * 9
_MIN_WIDTH = 60


def headline(subject: Subject) -> str:
    """Return how many images there are, of how many classes, in which splits."""
    source = subject.source
    kind = counted(len(source.classes), "class") if source.classes else "numbers"
    counts = "  ".join(f"{name} {count:,}" for name, count in subject.split_counts().items() if name)
    return printable(f"{source.name}: {counted(len(source), 'image')}, {kind}" + (f": {counts}" if counts else ""))


def as_text(audit: Audit, max_examples: int = 3, width: int = 80) -> str:
    """Return the audit in words, worst first; lines are at most `width` long, paths aside."""
    width = max(width, _MIN_WIDTH)
    lines = [headline(audit.subject)]
    for finding in audit.findings:
        lines += _finding_lines(audit.subject, finding, max_examples, width)
    if not audit.findings:
        lines.append("Nothing found.")
    return "\n".join([*lines, _closing(audit)])


def _finding_lines(subject: Subject, finding: Finding, most: int, width: int) -> list[str]:
    first, *rest = textwrap.wrap(printable(finding.message), width - len(_INDENT) - len(finding.kind) - 2) or [""]
    room = width - len(_INDENT) - len(finding.kind)
    lines = [f"{finding.severity:<{len(_INDENT)}}{first:<{room}}{finding.kind}"]
    lines += [_INDENT + line for line in rest]
    lines += [f"{_INDENT}  {example_text(subject, example)}" for example in finding.examples[:most]]
    if rest := finding.num_beyond(most):
        lines.append(f"{_INDENT}  and {rest:,} more")
    if finding.advice:
        lines += textwrap.wrap(
            printable(finding.advice),
            width,
            initial_indent=f"{_INDENT}-> ",
            subsequent_indent=f"{_INDENT}   ",
            # An option or a path is to be copied whole.
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def example_text(subject: Subject, example: Example) -> str:
    """Return an example in one line: its paths, and what is to be said of them."""
    paths = " = ".join(subject.describe(row) for row in example.rows)
    text = f"{paths} ({example.detail})" if paths and example.detail else paths or example.detail
    return printable(text)


def _closing(audit: Audit) -> str:
    counts = ", ".join(counted(count, name) for name, count in audit.severity_counts().items() if count)
    times = f"read in {_duration(audit.seconds['reading'])}"
    if audit.was_compared:
        times += f", compared in {_duration(audit.seconds['comparing'])}"
    else:
        times += "; not compared for near duplicates (--quick)"
    unread = len(audit.examination.errors)
    read = f"{audit.num_read:,} of {counted(len(audit.subject), 'image')}" if unread else ""
    return f"{counts or 'no findings'}; {read + ' ' if read else ''}{times}."


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
