"""A corrected manifest: what is to be left out, what stays together, what a person has to look at.

The images themselves are never touched, and no label is changed. Which copy goes, where a picture is there twice:

- in two splits: the copy in train, or of val and test the one in val. Test is never changed, so that numbers stay
  comparable with those measured on it before. The same for images that only look alike.
- twice in one split under one label: all but the first in order; in test none.
- twice in one split under different labels: none, as nobody knows which label is right. They are marked.
- what cannot be read is left out everywhere: there is nothing to train on or to evaluate.
"""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tellapart.auditing.audit import Audit
from tellapart.auditing.duplicates import Pair, exact_groups
from tellapart.auditing.findings import Subject
from tellapart.config import DataConfig
from tellapart.data.sources import Source
from tellapart.data.sources.base import part_of
from tellapart.data.sources.found import MANIFEST_NAMES
from tellapart.data.sources.tree import to_text
from tellapart.data.splits import UNUSED, make_split
from tellapart.errors import DataError

# Which split gives way where a picture is in two.
_RANK = {"test": 0, "val": 1, "train": 2, "": 3}
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass
class Correction:
    """What is to be done with each row: `issues` and `actions` in words, `is_dropped` bool `(N,)`, `groups` by name."""

    issues: list[str]
    actions: list[str]
    is_dropped: np.ndarray
    groups: list[str]


@dataclass(frozen=True)
class Fixed:
    """What was written: the manifest, the list of what was left out ("" where nothing was), and the counts."""

    manifest: Path
    left_out: Path | None
    num_kept: int
    num_left_out: int
    num_marked: int
    advice: str


def correct(audit: Audit) -> Correction:
    """Return what is to be done with each image of an audited source; see the module for the rules."""
    subject, count = audit.subject, len(audit.subject)
    fixed = Correction([""] * count, [""] * count, np.zeros(count, dtype=bool), _groups(audit))
    for row, reason in audit.examination.errors.items():
        _drop(fixed, row, f"unreadable: {reason}", "left out")
    exact = [Pair(rows[0], row) for rows in exact_groups(audit.examination.pixel_hashes) for row in rows[1:]]
    _drop_copies(subject, audit.examination.pixel_hashes, fixed)
    if subject.is_own:
        _drop_alike(subject, audit.near_pairs, fixed)
    _mark_conflicts(subject, [*exact, *audit.near_pairs], fixed)
    for suspect in audit.suspects:
        _mark(fixed, suspect.row, f"label doubted: perhaps '{suspect.suggested}'", "look at its label")
    return fixed


def _drop(fixed: Correction, row: int, issue: str, action: str) -> None:
    if not fixed.is_dropped[row]:
        fixed.is_dropped[row], fixed.issues[row], fixed.actions[row] = True, issue, action


def _mark(fixed: Correction, row: int, issue: str, action: str) -> None:
    if not fixed.is_dropped[row]:
        fixed.issues[row] = f"{fixed.issues[row]}; {issue}" if fixed.issues[row] else issue
        fixed.actions[row] = action


def _drop_copies(subject: Subject, pixel_hashes: Sequence[str], fixed: Correction) -> None:
    paths, splits, label_name = subject.source.paths, subject.splits, subject.source.label_name
    for rows in exact_groups(pixel_hashes):
        best = min(_RANK.get(splits[row], 3) for row in rows) if subject.is_own else 3
        keeper: dict[str, int] = {}
        for row in sorted(rows, key=lambda row: (_RANK.get(splits[row], 3), row)):
            rank = _RANK.get(splits[row], 3) if subject.is_own else 3
            if rank > best:
                first = next(other for other in rows if _RANK.get(splits[other], 3) == best)
                _drop(fixed, row, f"same pixels as {paths[first]} in {splits[first]}", "left out")
            elif rank == 0:
                continue
            elif (label := label_name(row)) in keeper:
                _drop(fixed, row, f"same pixels as {paths[keeper[label]]}", "left out")
            else:
                keeper[label] = row


def _drop_alike(subject: Subject, pairs: Iterable[Pair], fixed: Correction) -> None:
    paths, splits = subject.source.paths, subject.splits
    for pair in pairs:
        ranks = [_RANK.get(splits[row], 3) for row in (pair.first, pair.second)]
        if ranks[0] != ranks[1]:
            worse, better = (pair.first, pair.second) if ranks[0] > ranks[1] else (pair.second, pair.first)
            _drop(fixed, worse, f"looks like {paths[better]} in {splits[better]} ({pair.relation})", "left out")


def _mark_conflicts(subject: Subject, pairs: Iterable[Pair], fixed: Correction) -> None:
    paths, label_name = subject.source.paths, subject.source.label_name
    marked: set[int] = set()
    for pair in pairs:
        if label_name(pair.first) != label_name(pair.second):
            for row, other in ((pair.first, pair.second), (pair.second, pair.first)):
                if row not in marked:
                    how = "same pixels as" if pair.score == 1.0 else "looks like"
                    _mark(fixed, row, f"{how} {paths[other]}, which is '{label_name(other)}'", "look at its label")
                    marked.add(row)


def _groups(audit: Audit) -> list[str]:
    """Return a name for each group of images that belong on one side: the source's own groups, joined with copies."""
    count, named = len(audit.subject), audit.subject.groups or ("",) * len(audit.subject)
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    def join(first: int, second: int) -> None:
        low, high = sorted((root(first), root(second)))
        parent[high] = low

    first_of: dict[str, int] = {}
    for row, name in enumerate(named):
        if name:
            join(first_of.setdefault(name, row), row)
    for rows in exact_groups(audit.examination.pixel_hashes):
        for row in rows[1:]:
            join(rows[0], row)
    for pair in audit.near_pairs:
        join(pair.first, pair.second)
    roots = [root(row) for row in range(count)]
    sizes, names = np.bincount(roots, minlength=count), dict[int, str]()
    for row, name in enumerate(named):
        if name:
            names.setdefault(roots[row], name)
    return [names.get(each, f"alike-{each:06d}" if sizes[each] > 1 else "") for each in roots]


def write_fixed(audit: Audit, path: str | os.PathLike[str]) -> Fixed:
    """Write the corrected manifest, as CSV, TSV or Parquet by its ending.

    Of images that are files, the manifest is a data set: `tellapart train OUT`; what was left out is listed in a
    second file beside it. Of all others (Parquet, tar, arrays) it is a division, to be given as `--data.split OUT`,
    in which what is left out is "unused"; where parts were lacking, they are drawn.

    Columns: path, label, split, group, issue, action, content_hash, pixel_hash.

    Raises:
        DataError: `path` is there already, has another ending, or its folder is not there.
    """
    path = Path(path)
    check_free(path, audit.subject.source)
    fixed, root = correct(audit), audit.subject.source.root
    marked = sum(bool(action) and not dropped for action, dropped in zip(fixed.actions, fixed.is_dropped, strict=True))
    dropped = np.flatnonzero(fixed.is_dropped)
    kept = np.flatnonzero(~fixed.is_dropped)
    counts = {"num_kept": len(kept), "num_left_out": len(dropped), "num_marked": marked}
    if root is None:
        splits = _divided(audit, fixed)
        _write(_columns(audit, fixed, np.arange(len(splits)), splits, audit.subject.source.paths), path)
        return Fixed(path, None, **counts, advice=f"tellapart train DATA --data.split {shlex.quote(str(path))}")
    paths = [_relative(root, text, path.absolute().parent) for text in audit.subject.source.paths]
    splits = list(audit.subject.splits if audit.subject.is_own else [""] * len(paths))
    left_out = left_out_path(path) if len(dropped) else None
    if left_out:
        _write(_columns(audit, fixed, dropped, splits, paths), left_out)
    _write(_columns(audit, fixed, kept, splits, paths), path)
    advice = f"tellapart train {shlex.quote(str(path))}{_reading_options(audit.subject.source)}"
    return Fixed(path, left_out, **counts, advice=advice)


def check_free(path: Path, source: Source | None = None) -> None:
    """Refuse a place where something is, or where nothing can be put, before hours of reading.

    Raises:
        DataError: as `write_fixed`; or the folder of the source's images would be read as another data set with it.
    """
    if path.suffix.lower() not in (*_DELIMITERS, ".parquet"):
        raise DataError(f"--fix {path}: expected a name that ends in .csv, .tsv or .parquet.")
    for taken in (path, left_out_path(path)):
        if taken.exists() or taken.is_symlink():
            raise DataError(f"--fix {path}: {taken} is there already, and nothing is overwritten. Choose another name.")
    if not path.absolute().parent.is_dir():
        raise DataError(f"--fix {path}: there is no folder {path.absolute().parent}.")
    root = None if source is None else source.root
    is_known = path.stem.lower() in MANIFEST_NAMES or part_of(path.stem) or path.suffix.lower() == ".parquet"
    if root is not None and is_known and path.absolute().is_relative_to(root):
        raise DataError(
            f"--fix {path}: a table of this name in {root} would be taken for the labels of all images there. "
            "Give it another name, such as clean.csv, or another place."
        )


def left_out_path(path: Path) -> Path:
    """Return where the list of what a manifest leaves out lies: `clean.csv` has `clean.left-out.csv`."""
    return path.with_name(f"{path.stem}.left-out{path.suffix}")


def _relative(root: Path, text: str, folder: Path) -> str:
    """Return a path for a table in `folder`: relative to it where the images lie below it, else absolute."""
    if text.startswith("/"):
        return text
    if root.is_relative_to(folder):
        below = root.relative_to(folder).as_posix()
        return text if below == "." else f"{to_text(below)}/{text}"
    return f"{to_text(str(root))}/{text}"


def _divided(audit: Audit, fixed: Correction) -> list[str]:
    """Return a whole division, with "unused" for what is left out: such a file says where every image goes."""
    source = audit.subject.source
    number = {name: place for place, name in enumerate(dict.fromkeys(fixed.groups)) if name}
    groups = np.array([number.get(name, -1) for name in fixed.groups], dtype=np.int64)
    hashes = audit.examination.pixel_hashes
    try:
        splits = list(make_split(source, hashes, DataConfig(), 0, near_groups=groups).splits)
    except DataError:  # Too few images to draw from. Whoever edits the file decides; training says what is lacking.
        splits = [part or "train" for part in source.parts]
    return [UNUSED if dropped else split for split, dropped in zip(splits, fixed.is_dropped, strict=True)]


def _columns(
    audit: Audit, fixed: Correction, rows: np.ndarray, splits: Sequence[str], paths: Sequence[str]
) -> dict[str, list[Any]]:
    def of(values: Sequence[str]) -> list[Any]:
        return [values[row] for row in rows]

    columns = {"path": of(paths), **_labels(audit.subject.source, rows)}
    # A column that is empty would only be announced when the manifest is opened.
    columns |= {name: of(cells) for name, cells in (("split", splits), ("group", fixed.groups)) if any(cells)}
    columns |= {"issue": of(fixed.issues), "action": of(fixed.actions)}
    examined = audit.examination
    hashes = (("content_hash", examined.content_hashes), ("pixel_hash", examined.pixel_hashes))
    return columns | {name: of(cells) for name, cells in hashes if any(cells)}


def _labels(source: Source, rows: np.ndarray) -> dict[str, list[Any]]:
    if source.task == "regression":
        names = ["label"] if source.targets.shape[1] == 1 else [f"label_{n}" for n in range(source.targets.shape[1])]
        # str of a float32 is the shortest text that gives the same float32 back.
        return {name: [str(value) for value in source.targets[rows, place]] for place, name in enumerate(names)}
    if source.task == "multilabel":
        sign = label_separator(source)
        return {"label": [sign.join(np.array(source.classes)[source.targets[row] > 0]) for row in rows]}
    return {"label": [source.classes[source.targets[row]] for row in rows]}


def label_separator(source: Source) -> str:
    """Return a sign that is in no class name."""
    return next(sign for sign in ("|", ";", ",", "/", "\t", "\n") if not any(sign in name for name in source.classes))


def _reading_options(source: Source) -> str:
    """Return the options of `train` without which the labels of the manifest would be read as something else."""
    if source.task == "multilabel":
        return f" --data.task multilabel --data.label-separator {shlex.quote(label_separator(source))}"
    if source.task == "regression":
        several = ",".join(f"label_{n}" for n in range(source.targets.shape[1]))
        named = f" --data.label-column {several}" if source.targets.shape[1] > 1 else ""
        return f" --data.task regression{named}"
    return " --data.task multiclass" if any(name[:1] in "0123456789.+-" for name in source.classes) else ""


def _write(columns: dict[str, list[Any]], path: Path) -> None:
    """Write a table that must not be there yet, under a temporary name first."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if delimiter := _DELIMITERS.get(path.suffix.lower()):
            with temporary.open("x", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter=delimiter)
                writer.writerow(columns)
                writer.writerows(zip(*columns.values(), strict=True))
        else:
            _write_parquet(columns, temporary)
        _put(temporary, path)
    except FileExistsError:
        raise DataError(f"--fix: {path} is there already, and nothing is overwritten. Choose another name.") from None
    except OSError as error:
        raise DataError(f"--fix: {path} cannot be written: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def _put(temporary: Path, path: Path) -> None:
    """Give a file its name, without overwriting what somebody put there in the meantime."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, such as exFAT
        if path.exists():
            raise FileExistsError from None
        temporary.rename(path)


def _write_parquet(columns: dict[str, list[Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with path.open("xb") as file:
        pq.write_table(pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()}), file)
