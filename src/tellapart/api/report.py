"""`report`: a run as one page that shows why to believe its number, or many runs as an overview."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tellapart.api.folds import is_folds
from tellapart.api.load import load
from tellapart.api.looks import all_looks, require_same_division
from tellapart.api.opening import open_data
from tellapart.api.overview import gather_runs, is_run_folder
from tellapart.api.run import Run
from tellapart.api.seeds import is_seeds
from tellapart.data.sources import Source
from tellapart.data.splits import SPLITS
from tellapart.errors import RunError, TellapartError
from tellapart.evaluation.metrics import Estimate, calibration_metrics, evaluate_predictions
from tellapart.evaluation.predictions import Predictions
from tellapart.exporting.classifier import Classifier
from tellapart.reporting.facts import RunFacts
from tellapart.reporting.overview import render_overview
from tellapart.reporting.page import render_page
from tellapart.reporting.robustness import is_ood, is_robustness

PAGE_NAME = "report.html"


def report(run: str | os.PathLike[str] | Run, out: str | os.PathLike[str] | None = None, *, data: Any = None) -> Path:
    """Write a page about a run, or an overview of a folder of runs, and return its path.

    The page is one file that needs no other: it can be sent, printed, and opened without a network.

    Args:
        run: a run or its folder; or a folder that holds runs, such as `runs` or that of several seeds or folds.
        out: where to write it; by default `report.html` in the folder.
        data: the data again, for the pictures of a run that was trained on arrays.

    Raises:
        RunError: there is no such run, it has not ended, or the page cannot be written.
    """
    path = run.path if isinstance(run, Run) else Path(run)
    holds_runs = _holds_runs(path)
    target = path / PAGE_NAME if out is None else Path(out)
    _require_place(target)
    if holds_runs:
        return _write_overview(path, target)
    the_run = run if isinstance(run, Run) else Run(path)
    require_same_division(the_run)
    return write_report(the_run, target, data=data)


def _holds_runs(path: Path) -> bool:
    """Return whether a folder is no run of its own, but may hold some."""
    if not path.is_dir():
        raise RunError(f"{path}: expected a run's folder, or one that holds runs; found {_what(path)}.")
    if not is_run_folder(path):
        return True
    config = Run(path).config
    return is_folds(config) or is_seeds(config)


def _what(path: Path) -> str:
    return "a file" if path.exists() else "nothing"


def _write_overview(path: Path, target: Path) -> Path:
    rows = gather_runs(path)
    if not rows:
        raise RunError(f"{path}: expected a run's folder, or one that holds runs; found no run in it.")
    return _write(render_overview(rows, path.resolve().name, target.absolute().parent), target)


def write_report(
    run: Run,
    out: Path | None = None,
    *,
    data: Any = None,
    source: Source | None = None,
    classifier: Classifier | None = None,
    metrics: Mapping[str, Mapping[str, Estimate]] | None = None,
) -> Path:
    """Write the page of one run and return its path. What the caller has at hand is not read again.

    Args:
        run: a run that has ended.
        out: where to write it; by default `report.html` in the run's folder.
        data: see `report`.
        source: the images, opened.
        classifier: what is shipped.
        metrics: what `evaluate_predictions` says of the stored predictions, by split.

    Raises:
        RunError: the run has no predictions, or the page cannot be written.
    """
    target = run.path / PAGE_NAME if out is None else out
    facts = gather(run, data=data, source=source, classifier=classifier, metrics=metrics)
    return _write(render_page(facts), target)


def gather(
    run: Run,
    *,
    data: Any = None,
    source: Source | None = None,
    classifier: Classifier | None = None,
    metrics: Mapping[str, Mapping[str, Estimate]] | None = None,
) -> RunFacts:
    """Return everything that a report of a run reads; see `write_report` for the arguments.

    Raises:
        RunError: the run has not ended, or lacks what every run has.
    """
    shipped = load(run) if classifier is None else classifier
    predictions, looks = _predictions(run), all_looks(run)
    seed = run.config.seed
    known = {**_recorded(looks, predictions, shipped), **(metrics or {})}
    problem = ""
    if source is None:
        source, problem = _open_again(run, data)
    judged = {
        name: known[name] if name in known else evaluate_predictions(table, seed=seed)
        for name, table in predictions.items()
    }
    return RunFacts(
        name=run.path.resolve().name,
        path=str(run.path),
        config=run.config,
        split=run.split,
        source=source,
        classifier=shipped,
        predictions=predictions,
        metrics=judged,
        uncalibrated={
            name: _uncalibrated(table, judged[name], seed)
            for name, table in predictions.items()
            if table.task != "regression"
        },
        history=run.history,
        result=run.result or {},
        environment=_read_json(run.path / "environment.json"),
        looks=looks,
        findings=_read_json(run.path / "findings.json").get("findings", []),
        unreadable=_read_json(run.path / "unreadable.json"),
        robustness=_measured(run.path / "robustness.json", is_robustness, shipped),
        ood=_measured(run.path / "ood.json", is_ood, shipped),
        source_problem=problem,
    )


def _predictions(run: Run) -> dict[str, Predictions]:
    """Return the stored tables by split. Every run that has ended has one of val."""
    folder = run.path / "predictions"
    if not (folder / "val.parquet").is_file():
        raise RunError(
            f"{run.path}: expected the predictions on val that every run stores, found none. Make them again with: "
            f"tellapart evaluate {run.path}"
        )
    files = {name: folder / f"{name}.parquet" for name in SPLITS}
    return {name: Predictions.load(file) for name, file in files.items() if file.is_file()}


def _recorded(
    looks: Sequence[Mapping[str, Any]], predictions: Mapping[str, Predictions], shipped: Classifier
) -> dict[str, dict[str, Estimate]]:
    """Return the metrics by split that a look noted when it stored the table that is there.

    They are those that were printed, and need no second bootstrap. A look of before a metric was known, with other
    weights, or of which it is not known whether it stored this table, does not count.
    """
    weights = _weights(shipped)
    found: dict[str, dict[str, Estimate]] = {}
    for look in looks:
        table = predictions.get(look["split"])
        # Looks through several views or at other images store other tables.
        if table is None or look.get("data") or look.get("tta", "none") != "none":
            continue
        found.pop(look["split"], None)
        same = (look.get("weights"), look.get("n"), look.get("temperature")) == (weights, len(table), table.temperature)
        if weights and same and "ece" in (look.get("metrics") or {}):
            found[look["split"]] = _estimates(look["metrics"])
    return found


def _weights(shipped: Classifier) -> str | None:
    return shipped.info.get("files", {}).get("model.safetensors")


def _measured(path: Path, is_whole: Callable[[Mapping[str, Any]], bool], shipped: Classifier) -> dict[str, Any]:
    """Return what an evaluation added on request, or nothing where it is damaged or of other weights."""
    found, weights = _read_json(path), _weights(shipped)
    is_stale = bool(weights) and (found.get("weights") or weights) != weights
    return found if is_whole(found) and not is_stale else {}


def _estimates(metrics: Mapping[str, Mapping[str, float | None]]) -> dict[str, Estimate]:
    """Return metrics as they were before JSON, which has no NaN."""
    return {
        name: Estimate(
            *(math.nan if each.get(key) is None else float(each[key] or 0.0) for key in ("value", "low", "high"))
        )
        for name, each in metrics.items()
    }


def _uncalibrated(table: Predictions, judged: Mapping[str, Estimate], seed: int) -> dict[str, Estimate]:
    before = table.uncalibrated()
    if before is table:
        return {name: judged[name] for name in ("nll", "brier", "ece", "ece_classwise") if name in judged}
    return calibration_metrics(before, seed=seed)


def _open_again(run: Run, data: Any) -> tuple[Source | None, str]:
    """Return the run's images, or None and a sentence that says why there are no pictures."""
    settings = run.config.data
    if data is None and settings.source == "<arrays>":
        return None, "There are no pictures in this page: the run was trained on arrays, which only its maker has."
    try:
        return open_data(settings.source if data is None else data, settings), ""
    except (TellapartError, OSError) as error:
        return None, f"There are no pictures in this page, because the images could not be opened again: {error}"


def _read_json(path: Path) -> dict[str, Any]:
    """Return what a file holds, or nothing where an older run has none or it is damaged: the page then lacks a part."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _require_place(path: Path) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise RunError(f"--out {path}: expected the name of a file in a folder that is there.")


def _write(page: str, path: Path) -> Path:
    """Write the page under a temporary name first, so that no half of one is ever there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise RunError(f"{path}: the report cannot be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return path
