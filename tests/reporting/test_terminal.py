"""What a terminal shows: within 80 cells, without colours, and true to the numbers."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.file_proxy import FileProxy

from tellapart.evaluation.metrics import Estimate, evaluate_predictions
from tellapart.evaluation.predictions import Predictions
from tellapart.reporting import terminal
from tellapart.reporting.sparklines import interval_bar, is_ascii_only, shortened, sparkline

HOSTILE = (
    "a\x1b[31mred\x1b[0m",
    "line\nbreak",
    "日本語のとても長い名前を持つクラスです、まだ続きます",
    "x" * 300,
    "\u202eright to left",
    "👩‍🔬 scientist",
    "",
    "tab\there",
)


def multiclass(num_classes: int, targets: list[int], guesses: list[int], names: tuple[str, ...] = ()) -> Predictions:
    outputs = np.full((len(targets), num_classes), 0.1 / max(1, num_classes - 1), np.float32)
    outputs[np.arange(len(guesses)), guesses] = 0.9
    outputs /= outputs.sum(axis=1, keepdims=True)
    return Predictions(
        task="multiclass",
        classes=names or tuple(f"class {k}" for k in range(num_classes)),
        indices=np.arange(len(targets)),
        paths=[f"{row}.png" for row in range(len(targets))],
        targets=np.array(targets, np.int64),
        outputs=outputs,
        num_given=len(targets),
    )


def history(num_epochs: int, **more: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"kind": "step", "step": 1, "epoch": 1, "lr": 0.1, "train/loss": 9.0}]
    for epoch in range(1, num_epochs + 1):
        line = {"kind": "epoch", "epoch": epoch, "train/loss": 2 / epoch, "val/loss": 2.5 / epoch}
        lines.append({**line, "val/top1": 1 - 0.9 / epoch, **more})
    return lines


def rows(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        {"class": name, "support": 1_234_567, "precision": 0.5, "recall": 0.25, "recall_low": 0.2, "recall_high": 0.3}
        for name in names
    ]


def test_a_sparkline_has_a_cell_a_value_and_spans_its_scale() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([5.0], 8) == "▄"
    assert sparkline([3.0, 3.0, 3.0], 8) == "▄▄▄"
    assert sparkline([], 8) == ""
    assert sparkline([1.0, 2.0], 8, ascii_only=True) == "_#"


def test_what_is_not_a_number_is_a_gap() -> None:
    assert sparkline([1.0, math.nan, None, math.inf, 2.0], 8) == "▁   █"
    assert sparkline([math.nan, None], 8) == "  "


def test_many_values_are_resampled_by_their_means() -> None:
    # Two stretches of four values, with means 1 and 3; the gap in the first is left out of its mean.
    assert sparkline([1.0, None, 1.0, 1.0, 2.0, 4.0, 3.0, 3.0], 2) == "▁█"
    assert len(sparkline([float(n % 7) for n in range(500)], 30)) == 30


@given(st.lists(st.one_of(st.none(), st.floats(width=64)), max_size=60), st.integers(1, 40), st.booleans())
def test_any_curve_is_drawn_within_its_width(values: list[float | None], width: int, ascii_only: bool) -> None:
    line = sparkline(values, width, ascii_only=ascii_only)
    assert len(line) == min(len(values), width)
    assert cell_len(line) == len(line)
    assert not ascii_only or line.isascii()


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(2, 60), st.booleans())
def test_an_interval_is_drawn_where_it_is(a: float, b: float, c: float, width: int, ascii_only: bool) -> None:
    low, value, high = sorted((a, b, c))
    line = interval_bar(value, low, high, width, ascii_only=ascii_only)
    assert len(line) == width
    point, beside = ("o", ".") if ascii_only else ("●", "·")
    assert line.index(point) == round(value * (width - 1))
    drawn = [place for place, letter in enumerate(line) if letter != beside]
    assert drawn == list(range(round(low * (width - 1)), round(high * (width - 1)) + 1))


def test_an_interval_that_is_not_defined_is_blank() -> None:
    assert interval_bar(math.nan, 0.0, 1.0, 5) == "     "


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_name_fits_and_cannot_reach_the_terminal(name: str, ascii_only: bool) -> None:
    for width in (1, 2, 7, 20):
        text = shortened(name, width, ascii_only=ascii_only)
        assert cell_len(text) <= width
        assert text.isprintable()
        assert not ascii_only or text.isascii()


def test_the_encoding_of_a_stream_decides_what_is_drawn() -> None:
    assert not is_ascii_only(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    for encoding in ("ascii", "latin-1", "cp1252"):
        assert is_ascii_only(io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert is_ascii_only(io.StringIO())


def test_a_live_line_does_not_hide_the_encoding() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    proxy: Any = FileProxy(Console(file=stream), stream)
    assert not is_ascii_only(proxy)


def test_curves_say_first_last_and_best_with_its_epoch() -> None:
    lines = history(4)
    lines[2]["val/top1"] = 0.9
    found = terminal.curve_lines(lines)
    assert found[0].split() == ["epoch", "1", "to", "4", "first", "last", "best"]
    assert found[1].split()[:2] == ["train", "loss"]
    assert found[1].split()[-5:] == ["2.000", "0.500", "0.500", "epoch", "4"]
    assert found[3].split()[-5:] == ["10.0%", "77.5%", "90.0%", "epoch", "2"]


def test_curves_of_one_epoch_of_none_and_of_no_accuracy() -> None:
    assert terminal.curve_lines([]) == []
    one = terminal.curve_lines(history(1))
    assert one[0].split() == ["epoch", "1", "first", "last", "best"]
    assert "▄" in one[1]
    lines = [{"kind": "epoch", "epoch": n, "train/loss": None, "val/loss": 1.0, "val/mse": 0.25 / n} for n in (1, 2)]
    found = terminal.curve_lines(lines)
    assert [line.split()[1] for line in found[1:]] == ["loss", "mse"]
    assert found[-1].split()[-3:] == ["0.125", "epoch", "2"]


def test_500_epochs_fit() -> None:
    for width in (70, 80, 120):
        assert max(map(cell_len, terminal.curve_lines(history(500), width=width))) <= width


def test_pairs_are_counted_of_the_true_class() -> None:
    table = multiclass(3, [0] * 10 + [1] * 5 + [2] * 4, [1, 1, 1, *[0] * 6, 2, 1, 1, 0, 0, 0, 2, 2, 2, 1])
    assert terminal.confused_pairs(table) == [(1, 0, 3, 5), (0, 1, 3, 10), (2, 1, 1, 4), (0, 2, 1, 10)]
    lines = terminal.pair_lines(table)
    assert lines[0] == "most confused, of 8 mistakes:"
    assert lines[1] == "  class 1 taken for class 0: 3 of 5 (60.0%)"
    assert len(terminal.pair_lines(table, 2)) == 3


def test_the_issues_example_reads_as_it_says() -> None:
    targets, guesses = [0] * 1000 + [1] * 10, [1] * 112 + [0] * 888 + [1] * 10
    line = terminal.pair_lines(multiclass(2, targets, guesses, ("cat", "dog")))[1]
    assert line == "  cat taken for dog: 112 of 1,000 (11.2%)"


def test_without_a_mistake_it_says_so() -> None:
    assert terminal.pair_lines(multiclass(2, [0, 1], [0, 1])) == ["no image was taken for another class"]


def test_pairs_agree_with_the_confusion_matrix() -> None:
    rng = np.random.default_rng(0)
    targets, guesses = rng.integers(0, 7, 400), rng.integers(0, 7, 400)
    matrix = np.zeros((7, 7), int)
    np.add.at(matrix, (targets, guesses), 1)
    np.fill_diagonal(matrix, 0)
    pairs = terminal.confused_pairs(multiclass(7, targets.tolist(), guesses.tolist()), most=100)
    assert sum(count for _, _, count, _ in pairs) == matrix.sum()
    assert [count for _, _, count, _ in pairs] == sorted(matrix[matrix > 0].tolist(), reverse=True)
    assert all(matrix[true, taken] == count for true, taken, count, _ in pairs)


def test_calibration_before_and_after() -> None:
    after = {"ece": Estimate(0.011, 0.008, 0.02), "ece_classwise": Estimate(0.005, math.nan, math.nan)}
    before = {"ece": Estimate(0.042, 0.03, 0.05)}
    assert terminal.calibration_lines(after, before, temperature=1.31, split="test") == [
        "calibration error: 4.2% before, 1.1% (0.8 to 2.0) after",
        "calibration error, class by class: 0.5%",
        "  the temperature 1.31, fitted on val, softens the probabilities",
    ]
    assert "these very images, sharpens" in terminal.calibration_lines(after, before, temperature=0.5)[-1]
    assert terminal.calibration_lines({}, before) == []
    assert len(terminal.calibration_lines(after, before, temperature=math.nan)) == 2


def test_metrics_that_are_not_defined_are_named_as_such() -> None:
    lines = terminal.metric_lines(
        {"top1": Estimate(0.5, 0.25, 0.75), "roc_auc": Estimate(math.nan, math.nan, math.nan)}
    )
    assert lines[1].split() == ["top1", "0.5000", "0.2500", "to", "0.7500"]
    assert lines[2].split() == ["roc_auc", "-", "not", "defined", "here"]
    assert terminal.metric_lines({}) == []


def test_the_classes_with_the_lowest_recall_are_shown_where_there_are_many() -> None:
    found = [{**row, "recall": k / 100} for k, row in enumerate(rows(tuple(f"c{k}" for k in range(100))))]
    found[50]["recall"] = None
    lines = terminal.class_lines(found[::-1], most=3)
    assert [line.split()[0] for line in lines[1:4]] == ["c0", "c1", "c2"]
    assert lines[-1] == "  the 3 classes of lowest recall, of 100"
    assert len(terminal.class_lines(found[:3], most=3)) == 4
    assert terminal.class_lines([]) == []


@pytest.mark.parametrize("width", [60, 80, 120])
def test_classes_and_pairs_fit_any_width(width: int) -> None:
    k = len(HOSTILE)
    table = multiclass(k, [*range(k)] * 3, [*range(1, k), 0] * 3, HOSTILE)
    for line in [*terminal.class_lines(rows(HOSTILE), width=width), *terminal.pair_lines(table, width=width)]:
        assert cell_len(line) <= width, line


@pytest.mark.parametrize("ascii_only", [False, True])
def test_everything_fits_80_cells_whatever_the_classes_are_called(ascii_only: bool) -> None:
    k = len(HOSTILE)
    table = multiclass(k, [*range(k)] * 3, [*range(1, k), 0] * 3, HOSTILE)
    metrics = evaluate_predictions(table)
    before = {"ece": Estimate(0.5, 0.4, 0.6)}
    evaluated = terminal.evaluation_summary(
        table, metrics, split="a name\x1b" * 20, classes=rows(HOSTILE), uncalibrated=before, ascii_only=ascii_only
    )
    trained = terminal.training_summary(history(500), table, metrics, uncalibrated=before, ascii_only=ascii_only)
    for line in [*evaluated, *trained]:
        assert cell_len(line) <= 80, line
        assert line.isprintable(), line
        assert not ascii_only or line.isascii(), line


def test_a_training_is_summed_up_with_its_number_and_n() -> None:
    table = multiclass(2, [0] * 50 + [1] * 50, [0] * 45 + [1] * 55)
    lines = terminal.training_summary(history(2), table, evaluate_predictions(table))
    text = "\n".join(lines)
    assert "accuracy on val: 95.0% (88.8 to 97.8, n = 100)" in text
    assert "class 0 taken for class 1: 5 of 50 (10.0%)" in text
    assert lines[0] == lines[-1] == ""


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_other_tasks_have_their_own_headline_and_no_pairs(task: str) -> None:
    rng = np.random.default_rng(0)
    outputs = rng.random((40, 2)).astype(np.float32)
    targets = (outputs > 0.4).astype(np.float32)
    table = Predictions(task, ("a", "b"), np.arange(40), [str(n) for n in range(40)], targets, outputs, 41)
    metrics = evaluate_predictions(table)
    lines = terminal.evaluation_summary(table, metrics, split="test")
    assert lines[0].startswith("map on test: " if task == "multilabel" else "mse on test: ")
    assert "n = 40 of 41 given)" in lines[0]
    assert not any("taken for" in line for line in lines)
