"""The quick part of the audit, which `train` runs before it starts: what needs no more than one look at each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tellapart.auditing.classes import class_findings
from tellapart.auditing.duplicates import exact_findings, group_findings
from tellapart.auditing.files import unreadable_findings
from tellapart.auditing.findings import Finding, Subject, in_order, printable
from tellapart.config import RunConfig, get
from tellapart.data.sources import Source
from tellapart.data.splits import Split

# A leaked image counts as right although the network may only remember it. At an accuracy of 90%, a leaked twentieth
# moves the number by up to half a percentage point, which is about the interval of 10,000 images and far inside that of
# a few hundred; from there on it is the leak that one measures. Published test sets lie below: CIFAR-10's share of near
# duplicates is 3.3%, CIFAR-100's 10% (Barz and Denzler 2020, "Do we train on test data?", table 1).
MAX_LEAKED_SHARE = 0.05
_ALLOW_LEAKS = "--data.allow-leaks yes"
_NUM_NAMED = 3


def quick_findings(
    source: Source, split: Split, errors: Mapping[int, str], pixel_hashes: Sequence[str]
) -> list[Finding]:
    """Return what is wrong with a source as it was divided, worst first.

    What would make the result wrong has the severity "error": images that cannot be read, a val or test part of which
    more than `MAX_LEAKED_SHARE` is in train as well. `override` is the option that goes on in spite of it.

    Args:
        source: where the images are.
        split: how they are divided.
        errors: the reason for each row that cannot be read.
        pixel_hashes: one per row, "" for an unreadable one.
    """
    subject = Subject(source, split.splits, is_own=True, groups=split.groups, max_examples=10)
    found = [*unreadable_findings(subject, errors)]
    for finding in exact_findings(subject, pixel_hashes):
        found.append(_weighed(subject, finding) if finding.kind == "leak" else finding)
    return in_order([*found, *group_findings(subject), *class_findings(subject)])


def _weighed(subject: Subject, finding: Finding) -> Finding:
    looked_at = subject.splits[finding.examples[0].rows[0]]
    total = subject.split_counts()[looked_at]
    if finding.severity != "error" or finding.count <= MAX_LEAKED_SHARE * total:
        return replace(finding, severity="warning")
    return replace(finding, override=_ALLOW_LEAKS)


def stopping(findings: Iterable[Finding], config: RunConfig) -> list[Finding]:
    """Return the errors among the findings that the config does not override."""
    return [found for found in findings if found.severity == "error" and not _is_overridden(found, config)]


def _is_overridden(finding: Finding, config: RunConfig) -> bool:
    if not finding.override:
        return False
    option, wanted = finding.override.removeprefix("--").split()
    return str(get(config, option.replace("-", "_"))) == wanted


def line(finding: Finding, source: Source) -> str:
    """Return the finding as one line: severity, what, the first examples, what to do."""
    named = []
    for example in finding.examples[:_NUM_NAMED]:
        paths = " = ".join(source.paths[row] for row in example.rows)
        named.append(f"{paths} ({example.detail})" if paths and example.detail else paths or example.detail)
    rest = finding.num_beyond(_NUM_NAMED)
    more = f", and {rest:,} more" if rest else ""
    message = f"{finding.message.rstrip('.')}: {', '.join(named)}{more}." if named else finding.message
    advice = finding.advice.replace("--fix", "tellapart check --fix")
    go_on = finding.override if finding.override not in finding.advice else ""
    go_on = f"To go on as it is: {go_on}." if go_on else ""
    return printable(" ".join(text for text in (f"{finding.severity}: {message}", advice, go_on) if text))
