"""What a person reads in a terminal of 80 columns: curves, mistakes, calibration, metrics, classes.

Every function returns lines of plain text: no colours and no escape sequences, so a pipe and a log file get the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tellapart.evaluation.metrics import HEADLINE, HIGHER_IS_BETTER, Estimate, format_accuracy
from tellapart.evaluation.predictions import Predictions
from tellapart.reporting.sparklines import interval_bar, padded, shortened, sparkline

WIDTH = 80
_NUM_PAIRS = 5
_MOST_CLASSES = 20
# Metrics that are shares of images, or means of such shares, and are read as percentages.
_SHARES = frozenset({"top1", "top5", "balanced_accuracy", "exact_match"})
_CURVE_NAMES = {"train/loss": "train loss", "val/loss": "val loss", "top1": "val accuracy"}


def training_summary(
    history: Sequence[Mapping[str, Any]],
    predictions: Predictions,
    metrics: Mapping[str, Estimate],
    *,
    uncalibrated: Mapping[str, Estimate] | None = None,
    width: int = WIDTH,
    ascii_only: bool = False,
) -> list[str]:
    """Return what a training came to: its curves, its accuracy on val, its calibration and its worst mistakes.

    An empty line sets it off from what was said before it and what follows.

    Args:
        history: the lines of history.jsonl.
        predictions: the table of val.
        metrics: of that table; those that are missing are left out.
        uncalibrated: the same metrics of the probabilities before the temperature.
        width: cells of a line, at least 70.
        ascii_only: whether the terminal has ASCII alone; see `sparklines.is_ascii_only`.
    """
    blocks = [
        curve_lines(history, width=width, ascii_only=ascii_only),
        [
            *headline_lines(predictions, metrics, split="val"),
            *calibration_lines(metrics, uncalibrated, temperature=_temperature(predictions)),
        ],
        pair_lines(predictions, width=width, ascii_only=ascii_only),
    ]
    return ["", *_joined(blocks), ""]


def evaluation_summary(
    predictions: Predictions,
    metrics: Mapping[str, Estimate],
    *,
    split: str,
    classes: Sequence[Mapping[str, Any]] = (),
    uncalibrated: Mapping[str, Estimate] | None = None,
    width: int = WIDTH,
    ascii_only: bool = False,
) -> list[str]:
    """Return an evaluation: the headline, every metric with its interval, calibration, mistakes, classes.

    Args:
        predictions: the table that was judged.
        metrics: of that table, as `evaluate_predictions` gives them.
        split: what was judged: a split's name, or that of other data.
        classes: rows of `per_class_table`; none leaves the classes out.
        uncalibrated: metrics of the probabilities before the temperature.
        width: cells of a line, at least 70.
        ascii_only: whether the terminal has ASCII alone; see `sparklines.is_ascii_only`.
    """
    blocks = [
        headline_lines(predictions, metrics, split=shortened(split, width // 2, ascii_only=ascii_only)),
        metric_lines(metrics),
        calibration_lines(metrics, uncalibrated, temperature=_temperature(predictions), split=split),
        pair_lines(predictions, width=width, ascii_only=ascii_only),
        class_lines(classes, width=width, ascii_only=ascii_only),
    ]
    return _joined(blocks)


def curve_lines(history: Sequence[Mapping[str, Any]], *, width: int = WIDTH, ascii_only: bool = False) -> list[str]:
    """Return a sparkline a curve, with its first, last and best value in numbers; nothing before the first epoch."""
    epochs = [line for line in history if line.get("kind") == "epoch"]
    if not epochs:
        return []
    headline = next((name for name in HEADLINE.values() if f"val/{name}" in epochs[0]), "")
    curves = {"train/loss": False, "val/loss": False}
    if headline:
        curves[f"val/{headline}"] = HIGHER_IS_BETTER[headline]
    # Beside the curve: its name, three numbers of 9 cells with a blank before each, and the epoch of the best.
    beside = 14 + 30 + len(f"  epoch {epochs[-1].get('epoch', len(epochs))}")
    num_cells = min(width - beside, len(epochs))
    span = f"epoch {epochs[0].get('epoch', 1)} to {epochs[-1].get('epoch', len(epochs))}"
    if len(epochs) == 1:
        span = "epoch 1"
    column = max(num_cells, len(span))
    lines = [f"{'':13} {span:{column}} {'first':>9} {'last':>9} {'best':>9}"]
    for key, is_up in curves.items():
        values = [_number(line.get(key)) for line in epochs]
        if not any(map(math.isfinite, values)):
            continue
        metric = key.removeprefix("val/")
        name = _CURVE_NAMES.get(key) or _CURVE_NAMES.get(metric) or f"val {metric}"
        spark = sparkline(values, num_cells, ascii_only=ascii_only)
        numbers = " ".join(f"{_shown(metric, value):>9}" for value in (values[0], values[-1]))
        best, epoch = _best(values, is_up, epochs)
        lines.append(f"{name:13} {spark:{column}} {numbers} {_shown(metric, best):>9}  epoch {epoch}")
    return lines


def headline_lines(predictions: Predictions, metrics: Mapping[str, Estimate], *, split: str) -> list[str]:
    """Return the one number that stands for all, with its interval and what it was measured on."""
    name = HEADLINE[predictions.task]
    if name not in metrics:
        return []
    found, n = metrics[name], len(predictions)
    if name == "top1":
        return [f"accuracy on {split}: {format_accuracy(found, n, predictions.num_given)}"]
    given = f" of {predictions.num_given:,} given" if predictions.num_given > n else ""
    return [f"{name} on {split}: {found.value:.4f} ({found.low:.4f} to {found.high:.4f}, n = {n:,}{given})"]


def metric_lines(metrics: Mapping[str, Estimate]) -> list[str]:
    """Return a line a metric: name, value and 95% interval."""
    if not metrics:
        return []
    name_width = max(18, *map(len, metrics))
    lines = [f"  {'':{name_width}} {'value':>9}   95% interval"]
    for name, found in metrics.items():
        if not math.isfinite(found.value):
            lines.append(f"  {name:{name_width}} {'-':>9}   not defined here")
            continue
        bounds = [_plain_number(bound) for bound in (found.low, found.high)]
        interval = "-" if "-" in bounds else f"{bounds[0]} to {bounds[1]}"
        lines.append(f"  {name:{name_width}} {_plain_number(found.value):>9}   {interval}")
    return lines


def calibration_lines(
    metrics: Mapping[str, Estimate],
    uncalibrated: Mapping[str, Estimate] | None = None,
    *,
    temperature: float = math.nan,
    split: str = "val",
) -> list[str]:
    """Return how far probabilities are from how often they are right, before and after the temperature."""
    names = {"ece": "calibration error", "ece_classwise": "calibration error, class by class"}
    lines = []
    for key, name in names.items():
        after = metrics.get(key)
        before = (uncalibrated or {}).get(key)
        if after is None or not math.isfinite(after.value):
            continue
        if before is None or not math.isfinite(before.value):
            lines.append(f"{name}: {_share_with_interval(after)}")
        else:
            lines.append(f"{name}: {before.value:.1%} before, {_share_with_interval(after)} after")
    if lines and uncalibrated and math.isfinite(temperature):
        effect = "softens" if temperature > 1 else "sharpens" if temperature < 1 else "leaves"
        fitted = "fitted on these very images" if split == "val" else "fitted on val"
        lines.append(f"  the temperature {temperature:.3g}, {fitted}, {effect} the probabilities")
    return lines


def confused_pairs(predictions: Predictions, most: int = _NUM_PAIRS) -> list[tuple[int, int, int, int]]:
    """Return (true class, predicted class, how often, images of the true class), the most frequent first.

    Equally frequent pairs are in the order of their share, then of their classes. Only a multiclass table has pairs.
    """
    if predictions.task != "multiclass" or not len(predictions):
        return []
    num_classes = len(predictions.classes)
    support = np.bincount(predictions.targets, minlength=num_classes)
    guesses = predictions.predicted()
    wrong = guesses != predictions.targets
    # Only the cells that are not empty: a table of K x K is large where there are tens of thousands of classes.
    cells, counts = np.unique(predictions.targets[wrong] * num_classes + guesses[wrong], return_counts=True)
    true, taken = cells // num_classes, cells % num_classes
    order = np.lexsort((taken, true, -counts / support[true], -counts))[:most]
    return [(int(true[i]), int(taken[i]), int(counts[i]), int(support[true[i]])) for i in order]


def pair_lines(
    predictions: Predictions, most: int = _NUM_PAIRS, *, width: int = WIDTH, ascii_only: bool = False
) -> list[str]:
    """Return the most frequent mistakes in words, such as "cat taken for dog: 112 of 1,000 (11.2%)"."""
    if predictions.task != "multiclass":
        return []
    pairs = confused_pairs(predictions, most)
    if not pairs:
        return ["no image was taken for another class"]
    num_wrong = int((predictions.predicted() != predictions.targets).sum())
    lines = [f"most confused, of {num_wrong:,} mistake{'s' * (num_wrong != 1)}:"]
    for true, taken, count, support in pairs:
        numbers = f": {count:,} of {support:,} ({count / support:.1%})"
        room = (width - 2 - len(" taken for ") - len(numbers)) // 2
        names = [shortened(predictions.classes[k], room, ascii_only=ascii_only) for k in (true, taken)]
        lines.append(f"  {names[0]} taken for {names[1]}{numbers}")
    return lines


def class_lines(
    rows: Sequence[Mapping[str, Any]],
    most: int = _MOST_CLASSES,
    *,
    width: int = WIDTH,
    ascii_only: bool = False,
) -> list[str]:
    """Return a line a class: images, precision, recall, and recall's interval drawn on a scale from 0 to 100%.

    Of more than `most` classes those with the lowest recall are shown, the lowest first.
    """
    if not rows:
        return []
    shown, title = list(rows), "class"
    if len(rows) > most:
        shown = sorted(rows, key=lambda row: math.inf if row["recall"] is None else row["recall"])[:most]
    # The numbers take 33 cells, and a scale of less than 16 shows nothing.
    longest = max(8, min(20, width - 33 - 16))
    names = [shortened(str(row["class"]), longest, ascii_only=ascii_only) for row in shown]
    name_width = max(len(title), *(_cells(name) for name in names))
    bar_width = max(16, width - name_width - 33)
    scale = f"0{'recall':^{bar_width - 5}}100%"
    lines = [f"  {title:{name_width}} {'n':>8} {'precision':>9} {'recall':>7}  {scale}"]
    for row, name in zip(shown, names, strict=True):
        value, low, high = (_number(row.get(key)) for key in ("recall", "recall_low", "recall_high"))
        bar = interval_bar(value, low, high, bar_width, ascii_only=ascii_only)
        precision, recall = (_percent(row.get(key)) for key in ("precision", "recall"))
        lines.append(f"  {padded(name, name_width)} {row['support']:>8,} {precision:>9} {recall:>7}  {bar}".rstrip())
    if len(shown) < len(rows):
        lines.append(f"  the {len(shown)} classes of lowest recall, of {len(rows):,}")
    return lines


def _best(values: Sequence[float], is_up: bool, epochs: Sequence[Mapping[str, Any]]) -> tuple[float, Any]:
    """Return the best finite value and its epoch; the first of equals."""
    finite = [place for place, value in enumerate(values) if math.isfinite(value)]
    place = min(finite, key=lambda place: -values[place] if is_up else values[place])
    return values[place], epochs[place].get("epoch", place + 1)


def _joined(blocks: Sequence[list[str]]) -> list[str]:
    """Return the blocks that say something, an empty line between two."""
    lines: list[str] = []
    for block in filter(None, blocks):
        lines += ["", *block] if lines else block
    return lines


def _temperature(predictions: Predictions) -> float:
    return float(getattr(predictions, "temperature", math.nan))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _percent(value: Any) -> str:
    return f"{value:.1%}" if math.isfinite(_number(value)) else "-"


def _shown(metric: str, value: float) -> str:
    return _percent(value) if metric in _SHARES else _plain_number(value, 3)


def _plain_number(value: float, decimals: int = 4) -> str:
    if not math.isfinite(value):
        return "-"
    is_plain = value == 0 or 0.001 <= abs(value) < 10_000
    return f"{value:.{decimals}f}" if is_plain else f"{value:.2e}"


def _share_with_interval(found: Estimate) -> str:
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{found.value:.1%}"
    return f"{found.value:.1%} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
