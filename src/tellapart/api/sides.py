"""What `compare` can be given: a run, the runs of seeds or folds, or a file; and the tables that each of them has."""

from __future__ import annotations

import os
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tellapart.api.folds import FoldsRun, fold_path, is_folds
from tellapart.api.looks import looks_at, require_same_division, weights_hash
from tellapart.api.run import Run
from tellapart.api.seeds import SeedsRun, is_seeds, seed_path
from tellapart.errors import RunError
from tellapart.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Side:
    """What one argument names: a run, the runs of folds or seeds, or a table in a file."""

    label: str
    path: Path
    kind: str
    run: Run | None

    @property
    def name(self) -> str:
        """How it is called in an error: its letter and where it is."""
        return f"{self.label} ({self.path})"


@dataclass(frozen=True)
class Loaded:
    """The tables of a side, several where it has seeds, and the hashes of the pixels where they are known."""

    side: Side
    tables: tuple[Predictions, ...]
    hashes: dict[str, str] | None
    seed: int


def side_of(place: int, named: str | os.PathLike[str] | Run) -> Side:
    """Return what the argument at a place, from 0, names.

    Raises:
        RunError: there is nothing, or something without predictions.
    """
    path = named.path if isinstance(named, Run) else Path(named)
    label = string.ascii_uppercase[place] if place < 26 else f"R{place + 1}"
    if path.is_file():
        return Side(label, path, "file", None)
    if not path.is_dir():
        raise RunError(f"{path}: expected the folder of a run, or a file with a table of predictions; found nothing.")
    if (path / "model.safetensors").exists():
        raise RunError(f"{path}: this is a bundle, which has no predictions. Name the run that it is of.")
    run = Run(path)
    if is_seeds(run.config):
        return Side(label, path, "seeds", SeedsRun(path))
    if is_folds(run.config):
        return Side(label, path, "folds", FoldsRun(path))
    return Side(label, path, "run", run)


def refuse_mixed(sides: Sequence[Side]) -> None:
    """Refuse what has no common ground, before anybody is sent to look at test for it.

    Raises:
        RunError: seeds beside one run, of which there is no spread, so that nobody can say how far it is from its mean;
            or folds, which say something of every image, beside a run, which was judged on some.
    """
    several = next((side for side in sides if isinstance(side.run, SeedsRun)), None)
    single = next((side for side in sides if side.kind != "seeds"), None)
    if several and several.run and single:
        raise RunError(
            f"{several.name} has several seeds and {single.name} is one training, whose distance from the mean of its "
            f"kind nobody knows. Name one of the seeds, such as {seed_path(several.path, several.run.config.seed)}; or "
            "train the other with --seeds as well."
        )
    folds = next((side for side in sides if side.kind == "folds"), None)
    single = next((side for side in sides if side.kind == "run"), None)
    if folds and single:
        raise RunError(
            f"{folds.name} has folds, which together say something of every image, and {single.name} is one run, "
            f"judged on some. Name a run of each, such as {fold_path(folds.path, 1)}; or train the other with "
            "--data.folds."
        )


def choose_split(sides: Sequence[Side]) -> str:
    """Return test where every run has looked at it, else val; beside files, the one whose images they have."""
    runs = [side for side in sides if side.run is not None]
    if not runs or any(side.kind == "folds" for side in runs):
        return "test"
    has_test = all(file.exists() for side in runs for file in _table_files(side, "test"))
    choices = ["test", "val"] if has_test else ["val"]
    for side in sides:
        if side.kind == "file":
            paths = set(_read_file(side.path).paths)
            fitting = [name for name in choices if all(_paths_of(run, name) == paths for run in runs)]
            choices = fitting or choices
    return choices[0]


def _paths_of(side: Side, split: str) -> set[str]:
    files = _table_files(side, split)
    return set(Predictions.load(files[0]).paths) if files[0].exists() else set()


def _table_files(side: Side, split: str) -> list[Path]:
    if isinstance(side.run, SeedsRun):
        return [seed_path(side.path, seed) / "predictions" / f"{split}.parquet" for seed in side.run.seeds]
    name = "folds" if side.kind == "folds" else split
    return [side.path / "predictions" / f"{name}.parquet"]


def load_side(side: Side, split: str) -> Loaded:
    """Return the tables of a side on a split, each checked against its run."""
    if side.run is None:
        return Loaded(side, (_read_file(side.path),), None, 0)
    if side.kind == "folds" and split == "val":
        raise RunError(f"{side.name} has folds, whose tables are of what each tested on. Take --split test.")
    files = _table_files(side, split)
    for file in files:
        if not file.exists():
            raise RunError(_why_missing(side, Run(file.parents[1]), split))
    tables = tuple(Predictions.load(file) for file in files)
    if isinstance(side.run, FoldsRun):
        # Every fold divides the same images, and `predictions/folds.parquet` was checked against them when it was made.
        stored = side.run.runs[0].split
    else:
        for file, table in zip(files, tables, strict=True):
            _check_current(Run(file.parents[1]), table, split)
        stored = side.run.split
    return Loaded(side, tables, dict(zip(stored.paths, stored.pixel_hashes, strict=True)), side.run.config.seed)


def _read_file(path: Path) -> Predictions:
    from tellapart.evaluation.foreign import read_table

    return read_table(path)


def _why_missing(side: Side, run: Run, split: str) -> str:
    if (side.run or run).result is None:
        return f"{side.name} has not ended. Go on with: tellapart train --resume {side.path}"
    if split == "test" and side.kind == "run" and not len(run.split.rows("test")):
        return f"{side.name} has no test images, so there is nothing on test to compare."
    where = f" of {run.path}" if run.path != side.path else ""
    return (
        f"{side.name}: no predictions{where} on {split} yet. Make them: tellapart evaluate {side.path} --split {split}"
    )


def _check_current(run: Run, table: Predictions, split: str) -> None:
    """Refuse a table that is not of the run's weights and division as they are now.

    Raises:
        RunError: the division was edited, or the weights changed, after the table was written.
    """
    again = f"Make them again: tellapart evaluate {run.path} --split {split}"
    require_same_division(run)
    stored = run.split
    if {stored.paths[row] for row in stored.rows(split)} != set(table.paths):
        raise RunError(f"{run.path}: split.parquet changed after the predictions on {split} were made. {again}")
    # Those over several views of an image are in a table of their own.
    looks = [look for look in looks_at(run, split) if look.get("tta", "none") == "none"]
    if looks and (run.bundle / "model.safetensors").exists() and looks[-1].get("weights") != weights_hash(run):
        raise RunError(f"{run.path}: the weights changed after the predictions on {split} were made. {again}")
