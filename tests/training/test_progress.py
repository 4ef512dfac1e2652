"""What a person sees: exact lines, and a display that leaves the terminal in order."""

from __future__ import annotations

import io

import pytest

from tellapart.evaluation.intervals import wilson
from tellapart.training.progress import (
    EpochReport,
    LiveProgress,
    PlainProgress,
    Progress,
    StepReport,
    clock,
    epoch_line,
    make_progress,
    step_line,
    val_text,
)

STEP = StepReport(
    epoch=3, num_epochs=15, batch=7, num_batches=23, loss=0.51234, images_per_s=12345.6, wait_share=0.031, left_s=75.2
)
EPOCH = EpochReport(
    epoch=3,
    num_epochs=15,
    train_loss=0.512345,
    metrics={"loss": 0.4, "top1": 0.95, "nll": 0.2},
    num_val=180,
    images_per_s=12345.6,
    wait_share=0.031,
    left_s=75.2,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_an_epochs_line() -> None:
    low, high = wilson(171, 180)
    assert epoch_line(EPOCH) == (
        f"epoch  3/15  loss 0.5123  val 95.0% ({100 * low:.1f} to {100 * high:.1f}, n = 180)  12,346 images/s  "
        "waiting for data 3%  1:15 left"
    )


def test_the_interval_is_that_of_the_number_beside_it() -> None:
    # 0.95 of 180 is 171.00000000000003 in floats: the count behind it is a whole number.
    assert "95.0% (90.8 to 97.3, n = 180)" in val_text(EPOCH)


def test_a_task_without_accuracy_shows_its_own_metric() -> None:
    report = EpochReport(1, 2, 0.5, {"loss": 0.4, "mse": 1.25, "mae": 0.9}, 1200, 10.0, 0.0, 1.0)
    assert val_text(report) == "val mse 1.2500 (n = 1,200)"


def test_the_live_line_wide_and_narrow() -> None:
    val = val_text(EPOCH)
    assert step_line(STEP, val) == (
        f"epoch 3/15 · step 7/23 · loss 0.512 · {val} · 12,346 images/s · waiting for data 3% · 1:15 left"
    )
    narrow = step_line(STEP, val, width=80)
    assert narrow == "3/15 · 7/23 · loss 0.512 · val 95.0% (90.8 to 97.3) · 12,346/s · wait 3% · 1:15 left"


def test_a_loss_that_would_wait_for_the_device_is_left_out() -> None:
    report = StepReport(1, 1, 1, 1, None, 1.0, 0.0, 0.0)
    assert step_line(report, "") == "epoch 1/1 · step 1/1 · 1 images/s · waiting for data 0% · 0:00 left"


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599.7, "1:00:00"), (-3, "0:00")])
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_display_suits_the_stream() -> None:
    assert type(make_progress(False)) is Progress
    assert isinstance(make_progress(True, io.StringIO()), PlainProgress)
    assert isinstance(make_progress(True, Terminal()), LiveProgress)


def test_a_pipe_gets_a_line_an_epoch_and_no_control_characters() -> None:
    stream = io.StringIO()
    display = make_progress(True, stream)
    with display.task("reading", 10) as advance:
        advance(10)
    display.step(STEP)
    display.epoch(EPOCH)
    display.say("done")
    display.close()
    assert stream.getvalue() == f"{epoch_line(EPOCH)}\ndone\n"


def test_a_terminal_gets_the_lines_and_its_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "150")
    stream = Terminal()
    display = make_progress(True, stream)
    with display.task("reading images", 10) as advance:
        advance(10)
    for _ in range(3):
        display.step(STEP)
    display.epoch(EPOCH)
    display.say("[not markup] done")
    display.close()
    display.close()
    text = stream.getvalue()
    assert "step 7/23" in text
    assert epoch_line(EPOCH) in text
    assert "[not markup] done" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is left hidden"


def test_a_silent_display_takes_everything() -> None:
    display = make_progress(False)
    with display.task("reading", 3) as advance:
        advance(3)
    display.step(STEP)
    display.epoch(EPOCH)
    display.say("text")
    display.close()
