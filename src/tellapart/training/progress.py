"""What a person sees while something long runs: a live line in a terminal, plain lines in a pipe, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from tellapart.evaluation.intervals import wilson


@dataclass(frozen=True)
class StepReport:
    """Where an epoch stands."""

    epoch: int
    num_epochs: int
    batch: int
    num_batches: int
    loss: float | None
    images_per_s: float
    wait_share: float
    left_s: float
    title: str = ""


@dataclass(frozen=True)
class EpochReport:
    """How an epoch ended; `metrics` are those on val."""

    epoch: int
    num_epochs: int
    train_loss: float
    metrics: dict[str, float]
    num_val: int
    images_per_s: float
    wait_share: float
    left_s: float
    title: str = ""


class Progress:
    """Shows nothing; the displays below override what they show."""

    def say(self, text: str) -> None:
        """Show a sentence."""

    def step(self, report: StepReport) -> None:
        """Show where the epoch stands; called a few times a second at most."""

    def epoch(self, report: EpochReport) -> None:
        """Show how an epoch ended."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar while the block runs; the block calls what it is given with the number of items just done."""
        yield lambda count: None

    def close(self) -> None:
        """Leave the screen in order."""


class PlainProgress(Progress):
    """A line an epoch, for pipes and log files."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def say(self, text: str) -> None:
        """Print a sentence."""
        print(text, file=self.stream, flush=True)

    def epoch(self, report: EpochReport) -> None:
        """Print the epoch's line."""
        self.say(epoch_line(report))


class LiveProgress(Progress):
    """One live line below the epochs' lines, for a terminal."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(file=stream, highlight=False)
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self._val = ""

    def say(self, text: str) -> None:
        """Print a sentence above the live line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def step(self, report: StepReport) -> None:
        """Redraw the live line."""
        from rich.text import Text

        self.live.start()
        line = step_line(report, self._val, self.console.width)
        self.live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def epoch(self, report: EpochReport) -> None:
        """Print the epoch's line above the live line."""
        self._val = val_text(report)
        self.say(epoch_line(report))

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar with its count and the time left."""
        from rich import progress

        columns: list[Any] = ["{task.description}", progress.BarColumn(), progress.MofNCompleteColumn()]
        bar = progress.Progress(*columns, progress.TimeRemainingColumn(), console=self.console, transient=True)
        with bar:
            number = bar.add_task(title, total=total)
            yield lambda count: bar.advance(number, count)

    def close(self) -> None:
        """Take the live line away."""
        self.live.stop()


def make_progress(show: bool = True, stream: TextIO | None = None) -> Progress:
    """Return the display that suits the stream: live in a terminal, plain lines elsewhere, silent if not `show`."""
    if not show:
        return Progress()
    chosen = stream if stream is not None else sys.stdout
    return LiveProgress(chosen) if chosen.isatty() else PlainProgress(chosen)


def step_line(report: StepReport, val: str, width: int = 120) -> str:
    """Return the live line; below 110 columns it drops the words that its order makes plain."""
    loss = "" if report.loss is None else f"loss {report.loss:.3f}"
    wide = width >= 110
    parts = [
        report.title,
        f"epoch {report.epoch}/{report.num_epochs}" if wide else f"{report.epoch}/{report.num_epochs}",
        f"step {report.batch}/{report.num_batches}" if wide else f"{report.batch}/{report.num_batches}",
        loss,
        val if wide else val.split(", n =")[0] + (")" if ", n =" in val else ""),
        f"{report.images_per_s:,.0f} images/s" if wide else f"{report.images_per_s:,.0f}/s",
        f"waiting for data {report.wait_share:.0%}" if wide else f"wait {report.wait_share:.0%}",
        f"{clock(report.left_s)} left",
    ]
    return " · ".join(part for part in parts if part)


def epoch_line(report: EpochReport) -> str:
    """Return an epoch's line: loss, val accuracy with its interval, speed, waiting, time left."""
    digits = len(str(report.num_epochs))
    parts = [
        *filter(None, [report.title]),
        f"epoch {report.epoch:{digits}d}/{report.num_epochs}",
        f"loss {report.train_loss:.4f}",
        val_text(report),
        f"{report.images_per_s:,.0f} images/s",
        f"waiting for data {report.wait_share:.0%}",
        f"{clock(report.left_s)} left",
    ]
    return "  ".join(parts)


def val_text(report: EpochReport) -> str:
    """Return the headline metric on val: an accuracy with its interval and n, or a plain value."""
    if "top1" in report.metrics:
        value = report.metrics["top1"]
        low, high = wilson(round(value * report.num_val), report.num_val)
        return f"val {value:.1%} ({100 * low:.1f} to {100 * high:.1f}, n = {report.num_val:,})"
    name = next((name for name in report.metrics if name != "loss"), "loss")
    return f"val {name} {report.metrics[name]:.4f} (n = {report.num_val:,})"


def clock(seconds: float) -> str:
    """Return a duration as minutes and seconds, or with hours in front.

    >>> clock(3723)
    '1:02:03'
    """
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
