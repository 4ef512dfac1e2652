"""What was learned from: how many images of what, how they were divided, what they look like, what is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.auditing.findings import counted, printable
from tellapart.data.splits import UNUSED
from tellapart.reporting.augmented import draws_any, mixes, views
from tellapart.reporting.charts import Axis, Bars, Chart, draw
from tellapart.reporting.division import how_divided
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import Section, render

_SPLITS = ("train", "val", "test", UNUSED)
_MOST_BARS = 30
_GRID_PICTURES = 72
_MOST_CLASSES, _MOST_EACH, _FEWEST_EACH = 24, 6, 2
_NUM_AUGMENTED, _MOST_EPOCHS = 4, 5
_MOST_FINDING_PICTURES, _MOST_FINDINGS_SHOWN = 6, 12
_MOST_UNREADABLE = 20
_NUM_TARGET_BARS = 20


@dataclass(frozen=True)
class Picture:
    """A picture, what it shows in words, and what stands below it."""

    uri: str
    alt: str
    words: str = ""


def section(facts: RunFacts, pictures: Pictures) -> Section | None:
    """Return counts, samples, augmented examples, findings; what needs the images only where they are to be had."""
    labels = labels_of_rows(facts)
    samples = _samples(facts, labels, pictures)
    html = render(
        "data.html",
        totals=_totals(facts),
        division=how_divided(facts),
        bars=_bars(facts, labels),
        targets=_targets_chart(facts),
        samples=samples,
        num_classes=len(facts.classifier.classes),
        examples=_examples(facts, labels, pictures),
        findings=_findings(facts, pictures),
        unreadable=[(printable(p), printable(why)) for p, why in list(facts.unreadable.items())[:_MOST_UNREADABLE]],
        num_unreadable=len(facts.unreadable),
        num_more_unreadable=max(0, len(facts.unreadable) - _MOST_UNREADABLE),
        is_crisp=facts.config.preprocess.size_px <= 64,
    )
    return Section("data", "The data", html)


def labels_of_rows(facts: RunFacts) -> list[tuple[str, ...]]:
    """Return the class names of each row of the division; none for numbers."""
    if facts.config.data.task == "regression":
        return [()] * len(facts.split.paths)
    if facts.config.data.task != "multilabel":
        return [(name,) for name in facts.split.classes]
    known = set(facts.classifier.classes)
    return [tuple(_unjoined(text, known)) for text in facts.split.classes]


def _unjoined(text: str, known: set[str]) -> list[str]:
    """Return the classes that a row's text joins with "|", which a name may hold itself."""
    found, waiting = [], ""
    for piece in text.split("|") if text else []:
        waiting = f"{waiting}|{piece}" if waiting else piece
        if waiting in known:
            found.append(waiting)
            waiting = ""
    return [*found, waiting] if waiting else found


# --- how many --------------------------------------------------------------------------------------------------------


def class_counts(facts: RunFacts, labels: Sequence[tuple[str, ...]]) -> dict[str, dict[str, int]]:
    """Return, for each class, the number of its images that could be read in each split that has any."""
    found: Counter[tuple[str, str]] = Counter()
    for names, split, pixels in zip(labels, facts.split.splits, facts.split.pixel_hashes, strict=True):
        if pixels:
            found.update((name, split) for name in names)
    named = list(dict.fromkeys([*facts.classifier.classes, *(name for name, _ in found)]))
    return {name: {split: found[name, split] for split in _SPLITS if found[name, split]} for name in named}


def _totals(facts: RunFacts) -> list[tuple[str, int, int]]:
    """Return (split, images that could be read, images given) for each split that was given any."""
    found = [(name, len(facts.split.rows(name)), facts.split.num_given(name)) for name in _SPLITS]
    return [(name, read, given) for name, read, given in found if given]


def _bars(facts: RunFacts, labels: Sequence[tuple[str, ...]]) -> dict[str, Any] | None:
    """Return the bars of class counts: parts in percent of the longest; of very many classes the first and the last."""
    if facts.config.data.task == "regression":
        return None
    counts = class_counts(facts, labels)
    totals = {name: sum(numbers.values()) for name, numbers in counts.items()}
    longest = max([*totals.values(), 1])
    # Where all are about alike their own order is easier to read.
    is_even = min(totals.values(), default=0) * 2 >= longest
    names = list(totals) if is_even else sorted(totals, key=lambda name: (-totals[name], name))
    shown = names if len(names) <= _MOST_BARS else [*names[: _MOST_BARS - 1], names[-1]]
    rows = []
    for name in shown:
        start, parts = 0.0, []
        for split, count in counts[name].items():
            parts.append((split, f"{start:.2f}", f"{100 * count / longest:.2f}"))
            start += 100 * count / longest
        said = ", ".join(f"{split} {count:,}" for split, count in counts[name].items()) or "none"
        rows.append({"name": printable(name), "parts": parts, "total": totals[name], "said": said})
    return {"rows": rows, "splits": [name for name, _, _ in _totals(facts)], "num_left_out": len(names) - len(shown)}


def _targets_chart(facts: RunFacts) -> Any:
    """Return a histogram of the numbers that a regression learns, of its first number where there are several."""
    if facts.config.data.task != "regression":
        return None
    rows = facts.split.rows("train").tolist()
    try:
        values = np.array([float(facts.split.classes[row].split(",")[0]) for row in rows])
    except ValueError:
        return None
    if not len(values) or not np.isfinite(values).all():
        return None
    heights, edges = np.histogram(values, _NUM_TARGET_BARS)
    return draw(
        Chart(
            id="targets",
            title="The numbers in train",
            layers=(Bars("train", edges.tolist(), heights.tolist(), "train"),),
            x=Axis("value"),
            y=Axis("images", 0.0, style="count"),
            description=f"{len(values):,} numbers from {values.min():g} to {values.max():g}.",
        )
    )


# --- what it looks like ----------------------------------------------------------------------------------------------


def sample_rows(facts: RunFacts, labels: Sequence[tuple[str, ...]]) -> dict[str, list[int]]:
    """Return, for the classes that are shown, rows of train that lie evenly over the class; "" where there are none."""
    of_class: dict[str, list[int]] = {}
    for row in facts.split.rows("train").tolist():
        for name in labels[row] or ("",):
            of_class.setdefault(name, []).append(row)
    order = [*facts.classifier.classes, *of_class]
    names = [name for name in dict.fromkeys(order) if name in of_class][:_MOST_CLASSES]
    most = max(_FEWEST_EACH, min(_MOST_EACH, _GRID_PICTURES // max(1, len(names))))
    most = 2 * _MOST_EACH if names == [""] else most
    chosen = {}
    for name in names:
        rows = of_class[name]
        places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
        chosen[name] = [rows[place] for place in places]
    return chosen


def example_rows(samples: Mapping[str, Sequence[int]]) -> list[int]:
    """Return up to four of the sampled rows: the first of each class, then the second of each, and so on.

    >>> example_rows({"ant": [3, 5, 8], "bee": [4]})
    [3, 4, 5, 8]
    """
    turns = [rows[place] for place in range(_MOST_EACH) for rows in samples.values() if place < len(rows)]
    return list(dict.fromkeys(turns))[:_NUM_AUGMENTED]


def _samples(facts: RunFacts, labels: Sequence[tuple[str, ...]], pictures: Pictures) -> list[dict[str, Any]]:
    if pictures.source is None:
        return []
    split, found = facts.split, []
    for name, rows in sample_rows(facts, labels).items():
        shown = printable(name)
        cards = []
        for row in rows:
            path = printable(split.paths[row])
            words = "" if name else printable(split.classes[row])
            cards.append(Picture(pictures.uri_of_path(split.paths[row]), f"{path}: {shown or words}", words))
        found.append({"name": shown, "pictures": cards})
    return found


def _examples(facts: RunFacts, labels: Sequence[tuple[str, ...]], pictures: Pictures) -> dict[str, Any] | None:
    """Return a few training images as the network was given them in the first epochs, beside what judging does."""
    config, split = facts.config, facts.split
    chosen = [(row, split.paths[row], split.classes[row]) for row in example_rows(sample_rows(facts, labels))]
    epochs = range(min(_MOST_EPOCHS, config.train.epochs)) if draws_any(config) else range(0)
    found = views(pictures, facts.classifier.module.preprocess, config, chosen, epochs)
    if not found:
        return None
    return {
        "rows": [
            {
                "path": printable(view.path),
                "label": printable(view.label),
                "judged": view.judged,
                "trained": list(enumerate(view.trained, start=1)),
            }
            for view in found
        ],
        "epochs": [epoch + 1 for epoch in epochs],
        "names": [name for name in config.augment.transforms if name != "none"],
        "mixes": mixes(config),
        "size_px": config.preprocess.size_px,
        "seed": config.seed,
    }


# --- what is odd -----------------------------------------------------------------------------------------------------


def _findings(facts: RunFacts, pictures: Pictures) -> dict[str, Any]:
    shown = [_finding(finding, pictures) for finding in facts.findings[:_MOST_FINDINGS_SHOWN]]
    # Runs of before the findings were stored have no such file, and nothing found is another thing than not looked.
    is_known = (Path(facts.path) / "findings.json").is_file()
    return {"shown": shown, "num_more": max(0, len(facts.findings) - len(shown)), "is_known": is_known}


def _finding(finding: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
    """Return a finding as the quick audit stored it, with pictures where it names images that can be shown."""
    cards, lines = [], []
    for example in finding.get("examples", ()):
        paths = [str(path) for path in example.get("paths", ())]
        detail, splits = printable(str(example.get("detail", ""))), example.get("splits", ())
        if not paths or pictures.source is None or finding.get("kind") in ("unreadable", "truncated"):
            lines.append(" = ".join([*map(printable, paths)]) + (f": {detail}" if paths and detail else detail))
            continue
        for place, path in enumerate(paths):
            if len(cards) < _MOST_FINDING_PICTURES:
                split = str(splits[place]) if place < len(splits) else ""
                words = ": ".join(text for text in (split, printable(path)) if text)
                cards.append(Picture(pictures.uri_of_path(path), printable(path), words))
    count = int(finding.get("count", 0))
    return {
        "severity": str(finding.get("severity", "note")),
        "message": printable(str(finding.get("message", ""))),
        "advice": printable(str(finding.get("advice", ""))),
        "cards": cards,
        "lines": lines,
        "count": counted(count, "image"),
    }
