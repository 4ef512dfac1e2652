"""`compare`: two or more runs on the same images, from what they said there before; nothing is computed again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tellapart.api.compared import ComparedRun, Comparison, Pair
from tellapart.api.looks import looks_at
from tellapart.api.prepare import same_bits
from tellapart.api.run import Run
from tellapart.api.sides import Loaded, Side, choose_split, load_side, refuse_mixed, side_of
from tellapart.config import get, options
from tellapart.errors import RunError, unknown_name
from tellapart.evaluation.alignment import align
from tellapart.evaluation.comparison import Compared, compare_seeds, compare_tables, per_image
from tellapart.evaluation.estimates import HEADLINE, Estimate
from tellapart.evaluation.paired import holm
from tellapart.evaluation.predictions import Predictions
from tellapart.evaluation.spread import spread_over_runs

SPLITS = ("val", "test")
# What the table of runs shows of each task, where it is known.
_SHOWN = {
    "multiclass": ("top1", "nll", "ece"),
    "multilabel": ("map", "nll", "ece"),
    "regression": ("mse", "mae", "r2"),
}


def compare(*runs: str | os.PathLike[str] | Run, split: str | None = None) -> Comparison:
    """Compare two or more runs on the same images, each with the first, from the stored tables of predictions.

    Args:
        runs: runs or their folders; folders of seeds, whose means are then compared; folders of folds, whose tables of
            all images are; or files with a table of predictions, of Tellapart or another tool.
        split: "val" or "test"; by default test where every run has looked at it, else val.

    Returns:
        A `Comparison`; printed, it is what the command shows.

    Raises:
        RunError: fewer than two runs, no predictions on the split, or images, labels, classes or pixels that differ.
    """
    if len(runs) < 2:
        raise RunError(f"compare: expected two runs or more, found {len(runs)}.")
    if split is not None and split not in SPLITS:
        raise RunError(unknown_name("split", split, SPLITS))
    sides = [side_of(place, run) for place, run in enumerate(runs)]
    refuse_mixed(sides)
    chosen = choose_split(sides) if split is None else split
    loaded = _aligned([load_side(side, chosen) for side in sides])
    shown = tuple(_compared_run(each) for each in loaded)
    first = loaded[0]
    found = [_compare_two(first, other) for other in loaded[1:]]
    adjusted = holm([each.p for each in found])
    n, num_given = len(first.tables[0]), first.tables[0].num_given
    pairs = tuple(
        Pair(shown[0], run, each, p, len(found), n) for run, each, p in zip(shown[1:], found, adjusted, strict=True)
    )
    is_all = all(side.kind == "folds" for side in sides)
    return Comparison(
        split="all" if is_all else "table" if all(side.run is None for side in sides) else chosen,
        task=first.tables[0].task,
        n=n,
        num_given=num_given,
        runs=shown,
        pairs=pairs,
        config=_config_differences(sides),
        notes=tuple(_notes(loaded, chosen)),
    )


def _aligned(loaded: list[Loaded]) -> list[Loaded]:
    """Return all tables in the order of the first one's images.

    Raises:
        RunError: the images are not the same.
    """
    reference = loaded[0].tables[0].sorted_by_index()
    names = loaded[0].side.name
    result = []
    for each in loaded:
        hashes = (loaded[0].hashes, each.hashes)
        tables = tuple(_align(reference, table, (names, each.side.name), hashes, each.side) for table in each.tables)
        result.append(replace(each, tables=tables))
    return result


def _align(reference: Predictions, table: Predictions, names: tuple[str, str], hashes: Any, side: Side) -> Predictions:
    try:
        return align(reference, table.sorted_by_index(), names, hashes)
    except RunError as error:
        if set(reference.paths) == set(table.paths) or set(reference.classes) != set(table.classes):
            raise
        advice = (
            "A table in a file needs a column path that names the images as the run does, or a column index."
            if side.kind == "file"
            else "To compare two trainings, give them one division: train one with --data.split and the folder of the "
            "other, or both with --seeds or the same --data.split-seed."
        )
        raise RunError(f"{error}\n{advice}") from None


def _compare_two(first: Loaded, second: Loaded) -> Compared:
    if first.side.kind == "seeds":
        return compare_seeds(first.tables, second.tables, seed=first.seed)
    return compare_tables(first.tables[0], second.tables[0], seed=first.seed)


def _compared_run(loaded: Loaded) -> ComparedRun:
    """Return the row of a side; of seeds, the means of the metrics and of their intervals' ends."""
    each = [_metrics(table, loaded.seed) for table in loaded.tables]
    names = [name for name in each[0] if all(name in found for found in each)]
    means = {
        name: Estimate(
            *(float(np.mean([getattr(found[name], end) for found in each])) for end in ("value", "low", "high"))
        )
        for name in names
    }
    headline = HEADLINE[loaded.tables[0].task]
    spread = None
    if loaded.side.kind == "seeds":
        spread = spread_over_runs([found[headline].value for found in each], headline)
    return ComparedRun(loaded.side.label, str(loaded.side.path), loaded.side.kind, means, spread)


def _metrics(table: Predictions, seed: int) -> dict[str, Estimate]:
    """Return what the table of runs shows of one; no more is computed than that."""
    from tellapart.evaluation.intervals import wilson
    from tellapart.evaluation.metrics import calibration_metrics, evaluate_predictions

    if table.task != "multiclass":
        found = evaluate_predictions(table, seed=seed)
    else:
        hits = per_image(table)["top1"]
        low, high = wilson(int(hits.sum()), len(hits))
        found = {"top1": Estimate(float(hits.mean()), low, high), **calibration_metrics(table, seed=seed)}
    return {name: found[name] for name in _SHOWN[table.task] if name in found}


def _config_differences(sides: Sequence[Side]) -> dict[str, tuple[Any, ...]]:
    """Return the fields in which the configs differ; those that change no bit are left out, and a file has none."""
    configs = [None if side.run is None else side.run.config for side in sides]
    differences = {}
    for name in options():
        values = tuple(None if config is None else get(config, name) for config in configs)
        if name == "data.split_seed" and any(value is not None and value >= 0 for value in values):
            # That of the run's own seed, where the config names no other.
            values = tuple(c and (c.data.split_seed if c.data.split_seed >= 0 else c.seed) for c in configs)
        known = [value for value in values if value is not None]
        if any(value != known[0] for value in known) and not same_bits(name):
            differences[name] = values
    return differences


def _notes(loaded: Sequence[Loaded], split: str) -> list[str]:
    kinds = {each.side.kind for each in loaded}
    notes = []
    if kinds <= {"run", "seeds", "file"} and kinds != {"file"}:
        if split == "val":
            notes.append(
                "val chose the weights and the temperature of each run, so these numbers flatter all of them. The "
                "final number is that on test: choose first, then look."
            )
        else:
            notes.append(
                "whoever chooses a run by this comparison has used up test: the number of the chosen one is too good."
            )
    if "folds" in kinds:
        notes.append(
            "each image was judged by the one of the fold's runs that was tested on it; the others trained on it."
        )
    if "file" in kinds:
        notes.append(
            "of a table in a file, images are known by their paths alone: whether pixels differ cannot be seen."
        )
    looked = [(each, len(looks_at(Run(each.side.path), "test"))) for each in loaded if each.side.kind == "run"]
    if split == "test":
        notes += [f"test of {each.side.label} was looked at {count} times." for each, count in looked if count > 1]
    if len(loaded) > 2:
        notes.append("each run is compared with the first; the order in which they are named says which that is.")
    return notes
