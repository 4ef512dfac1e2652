"""When a page is written along the way: at the end of a training, and again when more is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tellapart.api.run import Run
from tellapart.data.sources import Source
from tellapart.exporting.classifier import Classifier
from tellapart.training.progress import Progress


def renew_page(run: Run, display: Progress, source: Source | None = None, classifier: Classifier | None = None) -> None:
    """Write the page of a run, or of several, once more where there is one, so that it says what is known by now."""
    from tellapart.api.report import PAGE_NAME, report, write_report

    if run.config.train.report == "no" or not (run.path / PAGE_NAME).is_file():
        return
    if source is None:
        say_where(run, display, lambda: report(run))
    else:
        say_where(run, display, lambda: write_report(run, source=source, classifier=classifier))


def say_where(run: Run, display: Progress, write: Callable[[], Path]) -> None:
    """Write a page and say where it is, or why it is not: no fault of a page may lose what was found before it."""
    try:
        text = f"report: {write()}"
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        text = f"warning: the report was not written: {reason}. To try again: tellapart report {run.path}"
    display.say(text)
