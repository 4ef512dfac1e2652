"""How the training went: losses, the metric that chose, learning rate, speed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tellapart.evaluation.intervals import wilson
from tellapart.evaluation.metrics import HEADLINE
from tellapart.reporting.answer import METRICS
from tellapart.reporting.charts import Axis, Chart, Line, multiples
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.pictures import Pictures
from tellapart.reporting.section import Section, count, number, percent, render

# With so few epochs, the loss of single steps is what there is to see.
_FEW_EPOCHS = 5
_EPOCHS = Axis("epoch", style="count")


def section(facts: RunFacts, pictures: Pictures) -> Section | None:
    """Return the curves, or None where the history has no epoch that ended."""
    epochs = [line for line in facts.history if line.get("kind") == "epoch" and "epoch" in line]
    if not epochs:
        return None
    steps = [line for line in facts.history if line.get("kind") == "step" and "step" in line]
    best = facts.result.get("best_epoch")
    marks = [(float(best), f"best: {best}")] if best and len(epochs) > 1 else []
    charts = [
        _loss(epochs, steps, marks),
        _chosen_by(facts, epochs, marks),
        _learning_rate(epochs, steps),
        _speed(epochs),
        _waiting(epochs),
    ]
    return Section(
        "curves",
        "Curves",
        render(
            "curves.html",
            summary=_summary(facts, epochs),
            charts=multiples([chart for chart in charts if chart is not None]),
        ),
    )


def _summary(facts: RunFacts, epochs: Sequence[Mapping[str, Any]]) -> str:
    """Return the training in a sentence or three."""
    last, planned = epochs[-1]["epoch"], facts.config.train.epochs
    text = f"{count(last)} epoch{'' if last == 1 else 's'}"
    if last < planned:
        text += f" of {count(planned)}, as val made no more progress"
    seconds = facts.result.get("seconds")
    text += f", {duration(seconds)} in all, reading and judging included" if seconds else ""
    best = facts.result.get("best_epoch")
    if last > 1 and best:
        is_shipped = facts.config.train.select == "best" or best == last
        text += f". Epoch {best} " + (
            "was the best on val, and is shipped" if is_shipped else "was the best on val; the last is shipped"
        )
    return f"{text}."


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(6.07), duration(439.053), duration(7322)
    ('6.1 s', '7 min 19 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _column(lines: Sequence[Mapping[str, Any]], key: str) -> list[float | None]:
    return [None if line.get(key) is None else float(line[key]) for line in lines]


def _numbers(lines: Sequence[Mapping[str, Any]]) -> list[float]:
    return [float(line["epoch"]) for line in lines]


def _in_epochs(epochs: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return where in the training each step is, in epochs: 1.0 is the end of the first."""
    per_epoch = epochs[-1]["step"] / epochs[-1]["epoch"] if epochs[-1].get("step") else 1.0
    return [line["step"] / per_epoch for line in steps]


def _loss(
    epochs: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]], marks: list[tuple[float, str]]
) -> Chart | None:
    xs, train, val = _numbers(epochs), _column(epochs, "train/loss"), _column(epochs, "val/loss")
    layers = [
        Line("train", xs, train, color="train", is_dashed=True),
        Line("val", xs, val, color="val"),
    ]
    if len(epochs) < _FEW_EPOCHS and len(steps) > 2:
        layers.insert(
            0, Line("single steps", _in_epochs(epochs, steps), _column(steps, "train/loss"), color="soft", is_thin=True)
        )
    shown = [layer for layer in layers if any(y is not None for y in layer.ys)]
    if not shown:
        return None
    return Chart(
        "chart-loss",
        "Loss",
        shown,
        _EPOCHS,
        Axis(""),
        f"Loss over the epochs: {_from_to('train', train)}; {_from_to('val', val)}.",
        marks=marks,
        note="Train is measured while it learns, on varied images; val afterwards, on images as they are.",
    )


def _from_to(name: str, ys: Sequence[float | None], write: Any = number) -> str:
    known = [y for y in ys if y is not None]
    if not known:
        return f"{name} is not known"
    return f"{name} from {write(known[0])} to {write(known[-1])}" if len(known) > 1 else f"{name} {write(known[0])}"


def _chosen_by(facts: RunFacts, epochs: Sequence[Mapping[str, Any]], marks: list[tuple[float, str]]) -> Chart | None:
    """Return the chart of the metric on val that epochs are compared by, with Wilson's interval where it is a share."""
    table = facts.predictions["val"]
    metric = HEADLINE[table.task]
    name, style, _ = METRICS[metric]
    is_share = style == "share"
    ys = _column(epochs, f"val/{metric}")
    if all(y is None for y in ys):
        return None
    low: list[float | None] = []
    high: list[float | None] = []
    if metric == "top1":
        ends = [(None, None) if y is None else wilson(round(y * len(table)), len(table)) for y in ys]
        low, high = [a for a, _ in ends], [b for _, b in ends]
    write = percent if is_share else number
    note = f"The band is the 95% interval of each epoch by itself, n = {count(len(table))}." if low else ""
    return Chart(
        "chart-metric",
        f"{name} on val",
        [Line(name, _numbers(epochs), ys, low, high, color="val")],
        _EPOCHS,
        Axis("", low=None if not is_share or _is_high(ys) else 0.0, style="percent" if is_share else "number"),
        f"{name} over the epochs: {_from_to('val', ys, write)}.",
        marks=marks,
        note=note,
    )


def _is_high(ys: Sequence[float | None]) -> bool:
    """Return whether all values are so high that an axis from 0 would leave the difference too small to see."""
    return min((y for y in ys if y is not None), default=0.0) > 0.5


def _learning_rate(epochs: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]) -> Chart | None:
    lines = sorted([*epochs, *steps], key=lambda line: line.get("step") or 0)
    lines = [line for line in lines if line.get("step") and line.get("lr") is not None]
    if not lines:
        return None
    ys = _column(lines, "lr")
    return Chart(
        "chart-lr",
        "Learning rate",
        [Line("learning rate", _in_epochs(epochs, lines), ys, color="accent")],
        _EPOCHS,
        Axis("", low=0.0),
        f"Learning rate over the epochs: {_from_to('it goes', ys)}.",
        table=False,
    )


def _speed(epochs: Sequence[Mapping[str, Any]]) -> Chart | None:
    ys = _column(epochs, "images_per_s")
    if all(y is None for y in ys):
        return None
    return Chart(
        "chart-speed",
        "Images per second",
        [Line("images/s", _numbers(epochs), ys, color="accent")],
        _EPOCHS,
        Axis("", low=0.0),
        f"Training images per second: {_from_to('speed', ys)}.",
    )


def _waiting(epochs: Sequence[Mapping[str, Any]]) -> Chart | None:
    ys = _column(epochs, "wait_share")
    if all(y is None for y in ys):
        return None
    most = max(y for y in ys if y is not None)
    return Chart(
        "chart-wait",
        "Time spent waiting for images",
        [Line("share of the time", _numbers(epochs), ys, color="accent")],
        _EPOCHS,
        # Less than a tenth is nothing to mend, and is to look like it.
        Axis("", low=0.0, high=max(0.1, math.ceil(most * 10) / 10), style="percent"),
        f"Share of the time in which the network waited for images: {_from_to('waiting', ys, percent)}.",
        note="Near 0 the network is what takes the time; above 20% reading does (data.num_workers)."
        if most > 0.2
        else "",
    )
