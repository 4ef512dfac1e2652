"""What a comparison of runs found: the numbers for JSON, and the words for a terminal."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tellapart.evaluation.comparison import Compared
from tellapart.evaluation.estimates import HIGHER_IS_BETTER, Estimate, metrics_json, plain
from tellapart.evaluation.paired import Difference
from tellapart.evaluation.spread import Spread

_WIDTH = 80
_TESTS = {
    "mcnemar": "McNemar's exact test",
    "bootstrap": "paired bootstrap",
    "welch": "Welch's test over the seeds",
}


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs: its letter, what and where it is, its metrics, and the spread over its seeds if it has some."""

    label: str
    path: str
    kind: str
    metrics: Mapping[str, Estimate]
    spread: Spread | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the run for JSON."""
        found = {"label": self.label, "run": self.path, "kind": self.kind, "metrics": metrics_json(self.metrics)}
        return found if self.spread is None else {**found, "over_seeds": self.spread.as_dict()}


@dataclass(frozen=True)
class Pair:
    """The comparison of a run with the first; `p` is adjusted for the other comparisons made beside it."""

    first: ComparedRun
    second: ComparedRun
    found: Compared
    p: float
    num_pairs: int
    n: int

    @property
    def better(self) -> str | None:
        """The letter of the better run, or None where these images cannot tell."""
        place = self.found.better(self.p)
        return (None, self.first.label, self.second.label)[place]

    @property
    def sentence(self) -> str:
        """What the comparison says, in words."""
        return _sentence(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the pair for JSON."""
        found, counts = self.found, self.found.counts
        return {
            "first": self.first.label,
            "second": self.second.label,
            "differences": {name: _as_dict(each) for name, each in found.differences.items()},
            "over_seeds": None if found.seeds is None else _as_dict(found.seeds, "difference"),
            "test": found.test,
            "p": plain(found.p),
            "p_adjusted": plain(self.p),
            "counts": None
            if counts is None
            else {
                "both": counts.both,
                "only_first": counts.only_first,
                "only_second": counts.only_second,
                "neither": counts.neither,
            },
            "better": self.better,
            "is_same": found.is_same,
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class Comparison:
    """Two or more runs on the same images; every pair is one of the runs with the first.

    Attributes:
        split: "val", "test", "all" where every image was tested on in turn, as in folds, or "table" of files alone.
        task: "multiclass", "multilabel" or "regression".
        n: how many images there are, of the `num_given` with those that cannot be read.
        runs: in the order in which they were named.
        config: the fields in which their configs differ, by dotted name, with a value a run.
        pairs: each run after the first, compared with the first.
        notes: what to keep in mind.
    """

    split: str
    task: str
    n: int
    num_given: int
    runs: tuple[ComparedRun, ...]
    pairs: tuple[Pair, ...]
    config: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return what `compare --json` prints."""
        return {
            "split": self.split,
            "task": self.task,
            "metric": self.pairs[0].found.metric,
            "n": self.n,
            "num_given": self.num_given,
            "runs": [run.as_dict() for run in self.runs],
            "config": {name: list(values) for name, values in self.config.items()},
            "pairs": [pair.as_dict() for pair in self.pairs],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        blocks = [list(_run_lines(self)), list(_config_lines(self))]
        blocks += [list(_pair_lines(pair)) for pair in self.pairs]
        blocks.append([line for note in self.notes for line in _wrap(note, "note: ")])
        return "\n\n".join("\n".join(block) for block in blocks if block)


def _as_dict(found: Any, value: str = "value") -> dict[str, float | None]:
    numbers = {"value": getattr(found, value), "low": found.low, "high": found.high}
    return {name: plain(number) for name, number in numbers.items()}


def _run_lines(comparison: Comparison) -> Iterator[str]:
    where = (
        "all images, each judged by a run that was not trained on it" if comparison.split == "all" else comparison.split
    )
    given = f" of {comparison.num_given:,} given" if comparison.num_given > comparison.n else ""
    yield f"{where} (n = {comparison.n:,}{given})"
    names = [name for name in comparison.runs[0].metrics if all(name in run.metrics for run in comparison.runs)]
    cells = [["", *("accuracy" if name == "top1" else name for name in names), "run"]]
    cells += [[run.label, *(_shown(name, run.metrics[name]) for name in names), run.path] for run in comparison.runs]
    widths = [max(len(row[place]) for row in cells) for place in range(len(names) + 1)]
    for row in cells:
        yield (
            "  " + "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=False)) + "  " + row[-1]
        ).rstrip()
    for run in comparison.runs:
        if run.spread is not None:
            unit, digits = _unit(comparison.pairs[0].found.metric)
            mean, std = (f"{unit * value:.{digits}f}" for value in (run.spread.mean, run.spread.std))
            yield f"  {run.label}: mean of {run.spread.num_runs} seeds {mean}, standard deviation {std}"


def _shown(name: str, found: Estimate) -> str:
    if name == "top1":
        return f"{found.value:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f})"
    return f"{found.value:.4f}" if math.isfinite(found.value) else "-"


def _config_lines(comparison: Comparison) -> Iterator[str]:
    if not comparison.config:
        return
    yield "what differs in their configs"
    width = max(map(len, comparison.config))
    for name, values in comparison.config.items():
        shown = ", ".join(f"{run.label} {_value(value)}" for run, value in zip(comparison.runs, values, strict=True))
        yield from _wrap(shown, f"  {name:{width}}  ")


def _value(value: Any) -> str:
    if value is None:
        return "?"
    return (",".join(value) if isinstance(value, tuple) else str(value)) or "''"


def _pair_lines(pair: Pair) -> Iterator[str]:
    a, b, found = pair.first.label, pair.second.label, pair.found
    if found.is_same:
        yield pair.sentence
        return
    yield f"{b} - {a}"
    for name, each in found.differences.items():
        yield f"  {'accuracy' if name == 'top1' else name:11}  {_signed(name, each)}"
    if (counts := found.counts) is not None:
        yield (
            f"  both right {counts.both:,}, only {a} {counts.only_first:,}, only {b} {counts.only_second:,}, "
            f"neither {counts.neither:,}"
        )
    yield from _wrap(pair.sentence, "  ")


def _signed(name: str, found: Difference) -> str:
    unit, digits = _unit(name)
    if math.isnan(found.low):
        return f"{_plus(unit * found.value, digits)} (too few images for an interval)"
    value, low, high = (_plus(unit * number, digits) for number in (found.value, found.low, found.high))
    return f"{value} ({low} to {high})" + (" points" if name in ("top1", "exact_match") else "")


def _plus(value: float, digits: int) -> str:
    """Return a number with its sign, and nought without one.

    >>> _plus(0.04, 1), _plus(-0.04, 1), _plus(1.25, 2)
    ('0.0', '0.0', '+1.25')
    """
    rounded = round(value, digits) + 0.0
    return f"{rounded:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def _unit(metric: str) -> tuple[float, int]:
    """Return what a metric is multiplied by for the screen, and its decimals."""
    return (100.0, 1) if metric in ("top1", "exact_match") else (1.0, 4)


def _sentence(pair: Pair) -> str:
    a, b, found = pair.first.label, pair.second.label, pair.found
    if found.is_same:
        return f"{a} and {b} say the same of every image, to the last bit."
    place = found.better(pair.p)
    how = f"{_TESTS[found.test]} {_p_in_words(pair)}"
    difference = found.differences[found.metric]
    if place:
        better, worse = (a, b) if place == 1 else (b, a)
        return f"{better} is better than {worse} by {_amount(found, difference)}; {how}: more than chance."
    what = f"The {pair.n:,} images cannot tell {a} and {b} apart"
    if found.seeds is not None:
        what = f"The {pair.n:,} images and these seeds cannot tell {a} and {b} apart"
    if not difference.value:
        return f"{what}: on average they are the same; {how}."
    is_second = (difference.value > 0) == HIGHER_IS_BETTER[found.metric]
    ahead = f"{b if is_second else a} is ahead by {_amount(found, difference)}"
    return f"{what}: {ahead}; {how}."


def _amount(found: Compared, difference: Difference) -> str:
    """Return by how much, as a number above 0, with the intervals of both chances where there are two."""
    unit, digits = _unit(found.metric)
    sign = 1 if difference.value > 0 else -1

    def between(low: float, high: float) -> str:
        ends = sorted(round(sign * unit * end, digits) + 0.0 for end in (low, high))
        return f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"

    by = f"{abs(unit * difference.value):.{digits}f}"
    name = " points" if found.metric == "top1" else f" in {found.metric}"
    images = between(difference.low, difference.high)
    if found.seeds is None:
        return f"{by}{name} ({images})"
    seeds = "they do not vary" if math.isnan(found.seeds.low) else between(found.seeds.low, found.seeds.high)
    return f"{by}{name} (over images {images}; over seeds {seeds})"


def _p_in_words(pair: Pair) -> str:
    """Return the p-value, and what the other comparisons make of it."""
    own = _p(pair.found.p)
    if pair.num_pairs == 1:
        return own
    return f"{own} ({_p(pair.p)} among {pair.num_pairs} comparisons, by Holm)"


def _p(p: float) -> str:
    """Return a p-value in words.

    >>> _p(0.0123), _p(0.00001), _p(0.2891), _p(1.0)
    ('p = 0.012', 'p < 0.001', 'p = 0.29', 'p = 1')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def _wrap(text: str, head: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
