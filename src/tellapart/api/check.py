"""`check`: what is wrong with a data set, before it misleads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tellapart.api.folds import fold_path, is_folds
from tellapart.api.opening import open_data
from tellapart.api.prepare import summarize
from tellapart.api.run import Run
from tellapart.auditing.audit import Audit, audit
from tellapart.auditing.files import Recorded
from tellapart.auditing.findings import LabelSuspect, Subject, subject_of
from tellapart.auditing.fix import Fixed, check_free, write_fixed
from tellapart.auditing.page import write_page
from tellapart.auditing.summary import as_text
from tellapart.data.sources import ColumnNames, Source, open_source
from tellapart.data.splits.stored import read_columns
from tellapart.errors import DataError, RunError
from tellapart.recipes import RECIPES
from tellapart.training.progress import Progress, make_progress

# The page shows more of each finding than a terminal has room for.
_PAGE_EXAMPLES = 24


@dataclass(frozen=True)
class Checked:
    """What a check found, and what it wrote.

    `audit` has everything: findings, measures, pairs. `fixed` says what `fix` wrote.
    """

    audit: Audit
    max_examples: int
    page: Path | None = None
    fixed: Fixed | None = None

    @property
    def findings(self) -> tuple[Any, ...]:
        """The findings, worst first; see `tellapart.auditing.findings.Finding`."""
        return self.audit.findings

    @property
    def is_clean(self) -> bool:
        """Whether there are neither errors nor warnings; notes do not count."""
        counts = self.audit.severity_counts()
        return not counts["error"] and not counts["warning"]

    def as_dict(self) -> dict[str, Any]:
        """Return what `check --json` prints."""
        fixed = self.fixed
        return {
            **self.audit.as_dict(self.max_examples),
            "html": None if self.page is None else str(self.page),
            "fix": None
            if fixed is None
            else {
                "manifest": str(fixed.manifest),
                "left_out": None if fixed.left_out is None else str(fixed.left_out),
                "num_kept": fixed.num_kept,
                "num_left_out": fixed.num_left_out,
                "num_marked": fixed.num_marked,
            },
        }

    def __str__(self) -> str:
        return as_text(self.audit, self.max_examples)


class UnwrittenError(DataError):
    """A file that was asked for could not be written; `checked` has what was found nevertheless."""

    def __init__(self, message: str, checked: Checked) -> None:
        super().__init__(message)
        self.checked = checked


def check(
    data: Any = None,
    *,
    run: str | os.PathLike[str] | Run | None = None,
    verify: str | os.PathLike[str] | None = None,
    quick: bool = False,
    html: str | os.PathLike[str] | None = None,
    fix: str | os.PathLike[str] | None = None,
    max_examples: int = 5,
    data_dir: str = "",
    task: str = "auto",
    columns: ColumnNames | None = None,
    progress: bool | Progress = True,
) -> Checked:
    """Read every image of a data set and say what is wrong with it. No file of the data is changed.

    Args:
        data: what `tellapart.train` takes; left out, the data of `run`.
        run: a run on this data or its folder: its division is judged, its predictions tell doubtful labels (those of
            `data.folds` of every image), and its hashes tell files that changed since.
        verify: a run's split.parquet or a manifest of `fix`; files that changed since it was written are found.
        quick: leave out the search for near duplicates.
        html: where to write a page with pictures.
        fix: where to write a corrected manifest (.csv, .tsv or .parquet); nothing may be there yet.
        max_examples: how many examples of each finding to name.
        data_dir: where downloaded data sets lie or go.
        task: "auto" or a key of `TASKS`.
        columns: which columns of a manifest or Parquet file to read.
        progress: whether to show progress bars.

    Raises:
        DataError: the data cannot be opened, or there is no place for `fix` or `html`.
        UnwrittenError: `fix` or `html` could not be written in the end; the error has the findings.
        RunError: no such run, or `verify` is no table of hashes.
    """
    if max_examples < 1:
        raise DataError(f"max_examples: expected at least 1, found {max_examples}.")
    if data is None and run is None:
        raise DataError("check: expected data, or a run whose data to check.")
    if fix is not None:
        check_free(Path(fix))
    if html is not None:
        _require_place(Path(html))
    the_run = None if run is None else run if isinstance(run, Run) else Run(Path(run))
    source = _open(data, the_run, data_dir, task, columns)
    if fix is not None:
        check_free(Path(fix), source)
    subject = _subject(source, the_run, max(max_examples, _PAGE_EXAMPLES if html is not None else 0))
    recorded = [] if verify is None else [_recorded(Path(verify))]
    if the_run is not None:
        # All folds divide the same images, so the first knows the hashes of all.
        folder = fold_path(the_run.path, 1) if is_folds(the_run.config) else the_run.path
        recorded.append(_recorded(folder / "split.parquet"))
    display = progress if isinstance(progress, Progress) else make_progress(progress)
    found = audit(
        subject,
        display.task,
        size_px=_training_px(source, the_run),
        compare=not quick,
        suspects=_suspects(source, the_run),
        recorded=recorded,
    )
    page, fixed = None, None
    try:
        page = None if html is None else write_page(found, Path(html))
        fixed = None if fix is None else write_fixed(found, fix)
    except DataError as error:
        raise UnwrittenError(str(error), Checked(found, max_examples, page)) from error
    return Checked(found, max_examples, page, fixed)


def _require_place(path: Path) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise DataError(f"--html {path}: expected the name of a file in a folder that is there.")


def _open(data: Any, run: Run | None, data_dir: str, task: str, columns: ColumnNames | None) -> Source:
    """Open the data; what the caller does not say of it, a run's config does."""
    if run is None:
        return open_source(data, data_dir=data_dir, task=task, columns=columns)
    settings = run.config.data
    if data is None and settings.source == "<arrays>":
        raise RunError(f"{run.path}: this run was trained on arrays; give them again as `data`.")
    if columns is not None:
        return open_source(settings.source if data is None else data, data_dir=data_dir, task=task, columns=columns)
    changes = {"data_dir": data_dir or settings.data_dir, "task": settings.task if task == "auto" else task}
    return open_data(settings.source if data is None else data, replace(settings, **changes))


def _subject(source: Source, run: Run | None, max_examples: int) -> Subject:
    """Return the source as the run divided it; images that the run does not know are in no split.

    The runs of several folds divide it in as many ways, none of which is to be judged.
    """
    if run is None or is_folds(run.config):
        return subject_of(source, max_examples)
    stored = run.split
    place = {path: row for row, path in enumerate(stored.paths)}
    rows = [place.get(path, -1) for path in source.paths]
    splits = tuple(stored.splits[row] if row >= 0 else "" for row in rows)
    groups = tuple(stored.groups[row] if row >= 0 else "" for row in rows)
    if not any(row >= 0 for row in rows):
        raise RunError(f"{run.path}: this run knows none of the images of {source.name}; was it trained on other data?")
    return Subject(source, splits, is_own=True, groups=groups, max_examples=max_examples)


def _training_px(source: Source, run: Run | None) -> int:
    if run is not None:
        return run.config.preprocess.size_px
    return RECIPES["auto"](summarize(source)).preprocess.size_px


def _suspects(source: Source, run: Run | None) -> Sequence[LabelSuspect]:
    """Return what the run's stored predictions doubt; those on train are left out, as they were learnt by heart."""
    if run is None or source.task == "regression":
        return ()
    files = [path for path in sorted((run.path / "predictions").glob("*.parquet")) if path.stem != "train"]
    if not files:
        return ()
    from tellapart.auditing.label_suspects import find_label_suspects
    from tellapart.evaluation.predictions import Predictions

    row_of = {path: row for row, path in enumerate(source.paths)}
    found: dict[int, LabelSuspect] = {}
    for table in map(Predictions.load, files):
        path_of = dict(zip(table.indices.tolist(), table.paths, strict=True))
        for suspect in find_label_suspects(table):
            row = row_of.get(path_of[suspect.row])
            # A label that was corrected since is no longer in doubt.
            if row is not None and source.label_name(row) == suspect.given:
                found.setdefault(row, replace(suspect, row=row))
    return sorted(found.values(), key=lambda suspect: (-suspect.score, suspect.row))


def _recorded(path: Path) -> Recorded:
    """Return the hashes that a run's division or a manifest of `fix` holds."""
    try:
        columns = read_columns(path)
        paths = [str(text) for text in columns["path"]]
        hashes = [[str(text or "") for text in columns.get(name, ())] for name in ("content_hash", "pixel_hash")]
    except (OSError, KeyError, ValueError) as error:
        raise RunError(
            f"{path}: expected a run's split.parquet or a manifest that `check --fix` wrote, found "
            f"{type(error).__name__}: {error}"
        ) from None
    content, pixels = (dict(zip(paths, texts, strict=False)) for texts in hashes)
    return Recorded(str(path), content, pixels)
