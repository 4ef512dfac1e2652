"""The table of what a model said about each image, which every metric, report and calibration reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tellapart.errors import RunError, unknown_name

if TYPE_CHECKING:
    import pyarrow as pa

TASKS = ("multiclass", "multilabel", "regression")

# A class of a multi-label image is predicted when its probability is above this.
THRESHOLD = 0.5

_METADATA_KEY = b"tellapart.predictions"
_FORMAT = 1
_ROW_SUM_TOLERANCE = 1e-3
# The mean of several float32 probabilities can round to just above 1.
_RANGE_TOLERANCE = 1e-6
_MAKE_AGAIN = "Make it again with `tellapart evaluate`."


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about the images of one split, one row an image.

    Attributes:
        task: "multiclass", "multilabel" or "regression".
        classes: the names, one a column of `outputs`. A regression may have none, or one name a predicted number.
        indices: sample indices, int64 `(N,)`, each once.
        paths: where the images are, N of them. A path that is not valid Unicode may hold surrogates.
        targets: multiclass: class indices, int64 `(N,)`; multilabel: 0 or 1, float32 `(N, K)`; regression: true
            values, float32 `(N, K)`.
        outputs: float32 `(N, K)`: probabilities in [0, 1], of a multiclass row summing to one, or predicted values.
        num_given: how many images the split has, those that could not be read included; at least N.
    """

    task: str
    classes: tuple[str, ...]
    indices: np.ndarray
    paths: list[str]
    targets: np.ndarray
    outputs: np.ndarray
    num_given: int

    def __len__(self) -> int:
        return len(self.indices)

    def predicted(self) -> np.ndarray:
        """Return the predicted classes: multiclass int64 `(N,)`, ties to the lowest index; multilabel bool `(N, K)`.

        Raises:
            RunError: the task is a regression, which predicts no classes.
        """
        if self.task == "multiclass":
            return self.outputs.argmax(axis=1)
        if self.task == "multilabel":
            return self.outputs > THRESHOLD
        raise RunError(f"predicted: expected a multiclass or multilabel table, found {self.task}: it has no classes.")

    def sorted_by_index(self) -> Predictions:
        """Return the same table in the order of the sample indices, which no number of workers or ranks changes."""
        order = np.argsort(self.indices, kind="stable")
        return replace(
            self,
            indices=self.indices[order],
            paths=[self.paths[i] for i in order],
            targets=self.targets[order],
            outputs=self.outputs[order],
        )

    def check(self, where: str | os.PathLike[str] = "predictions", advice: str = "Look at these images first.") -> None:
        """Raise a RunError that lists everything that is wrong with the table, if anything is."""
        # Values are only looked at once the shapes are right.
        problems = _shape_problems(self) or _value_problems(self)
        if problems:
            head = f"{os.fspath(where)}: this table of predictions cannot be used:"
            raise RunError("\n".join([head, *(f"  - {problem}" for problem in problems), advice]))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as Parquet: to a temporary name, synced, then renamed.

        Columns: index, path, path_raw (UTF-8 with surrogates, only where `path` had to be escaped), class, target,
        predicted, prob (of the predicted class), and probabilities (of a regression: values). Task, classes and
        num_given are JSON in the metadata of the schema, under `tellapart.predictions`, with a SHA-256 of the contents.

        Raises:
            RunError: the table is not valid, so it could not be loaded again.
        """
        import pyarrow.parquet as pq

        path = Path(path)
        self.check(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            # A Python file, because a folder's name that is not valid Unicode is beyond pyarrow.
            with temporary.open("wb") as file:
                pq.write_table(_to_table(self), file, compression="zstd", write_page_checksum=True)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictions:
        """Read a table that `save` wrote; every array comes back with the same bits.

        Raises:
            RunError: there is no such file, it is damaged or of another kind, or its contents contradict each other.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = Path(path)
        if not path.is_file():
            raise RunError(f"{path}: expected a table of predictions, found no file. `tellapart evaluate` writes it.")
        try:
            with path.open("rb") as file, pq.ParquetFile(file, page_checksum_verification=True) as parquet:
                table = parquet.read()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RunError(
                f"{path}: expected a whole Parquet file, found one that cannot be read: {error}. {_MAKE_AGAIN}"
            ) from error
        predictions = _from_table(cls, table, path)
        predictions.check(path, advice=_MAKE_AGAIN)
        if _about(predictions) != json.loads(table.schema.metadata[_METADATA_KEY]):
            raise RunError(f"{path}: the contents changed after they were written: SHA-256 differs. {_MAKE_AGAIN}")
        return predictions


def _shape_problems(p: Predictions) -> list[str]:
    if p.task not in TASKS:
        return [unknown_name("task", p.task, TASKS)]
    if p.outputs.ndim != 2:
        return [f"outputs: expected two axes (N, K), found {p.outputs.shape}"]
    problems = []
    n, num_outputs = len(p.indices), p.outputs.shape[1]
    if len(p.classes) != num_outputs and (p.classes or p.task != "regression"):
        problems.append(f"outputs: expected one column for each of {len(p.classes)} classes, found {num_outputs}")
    if len(p.paths) != n:
        problems.append(f"paths: expected {n}, one an index, found {len(p.paths)}")
    target = (np.int64, (n,)) if p.task == "multiclass" else (np.float32, (n, num_outputs))
    expected = {"indices": (np.int64, (n,)), "targets": target, "outputs": (np.float32, (n, num_outputs))}
    for name, (dtype, shape) in expected.items():
        array = getattr(p, name)
        if array.dtype != dtype or array.shape != shape:
            problems.append(f"{name}: expected {np.dtype(dtype)} {shape}, found {array.dtype} {array.shape}")
    return problems


def _value_problems(p: Predictions) -> list[str]:
    problems = []
    if repeated := [name for name, count in Counter(p.classes).items() if count > 1]:
        problems.append(f"classes: expected every name once, found {_first(repeated)} more than once")
    indices, counts = np.unique(p.indices, return_counts=True)
    if (counts > 1).any():
        problems.append(f"indices: expected every image once, found {_first(indices[counts > 1])} more than once")
    if len(p) > p.num_given:
        problems.append(f"num_given: expected at least the {len(p)} images in the table, found {p.num_given}")
    bad = {"outputs: expected finite numbers, found others": ~np.isfinite(p.outputs).all(axis=1)}
    if p.task == "multiclass":
        num_classes = len(p.classes)
        with np.errstate(invalid="ignore"):
            sums = p.outputs.sum(axis=1, dtype=np.float64)
        off = ~(np.abs(sums - 1) <= _ROW_SUM_TOLERANCE)
        bad[f"targets: expected 0 to {num_classes - 1}, found others"] = (p.targets < 0) | (p.targets >= num_classes)
        bad[f"outputs: expected probabilities that sum to 1 within {_ROW_SUM_TOLERANCE}, found other sums"] = off
    elif p.task == "multilabel":
        bad["targets: expected 0 or 1, found others"] = ~np.isin(p.targets, (0, 1)).all(axis=1)
    else:
        bad["targets: expected finite numbers, found others"] = ~np.isfinite(p.targets).all(axis=1)
    if p.task != "regression":
        outside = (p.outputs < -_RANGE_TOLERANCE) | (p.outputs > 1 + _RANGE_TOLERANCE)
        bad["outputs: expected probabilities from 0 to 1, found others"] = outside.any(axis=1)
    problems += [f"{text} for image {_first(p.indices[rows])}" for text, rows in bad.items() if rows.any()]
    return problems


def _first(items: Any, num_shown: int = 3) -> str:
    shown = ", ".join(repr(x) if isinstance(x, str) else str(x) for x in items[:num_shown])
    return shown if len(items) <= num_shown else f"{shown} and {len(items) - num_shown} more"


def _to_table(p: Predictions) -> pa.Table:
    import pyarrow as pa

    n = len(p)
    text = [_printable(path) for path in p.paths]
    raw = [None if t == path else path.encode("utf-8", "surrogatepass") for t, path in zip(text, p.paths, strict=True)]
    strings = pa.list_(pa.string()) if p.task == "multilabel" else pa.string()
    columns = {
        "index": pa.array(p.indices),
        "path": pa.array(text, pa.string()),
        "path_raw": pa.array(raw, pa.binary()),
        "class": pa.nulls(n, strings),
        "target": pa.array(p.targets) if p.task == "multiclass" else _rows(p.targets),
        "predicted": pa.nulls(n, strings),
        "prob": pa.nulls(n, pa.float32()),
        _output_column(p.task): _rows(p.outputs),
    }
    if p.task != "regression":
        columns["class"] = _names(p.classes, p.targets)
        columns["predicted"] = _names(p.classes, p.predicted())
    if p.task == "multiclass":
        columns["prob"] = pa.array(p.outputs.max(axis=1, initial=-np.inf))
    return pa.table(columns, metadata={_METADATA_KEY: json.dumps(_about(p)).encode()})


def _about(p: Predictions) -> dict[str, Any]:
    """Return what the metadata says, with a SHA-256 over all of it and every column that `load` reads."""
    about = {"format": _FORMAT, "task": p.task, "classes": list(p.classes), "num_given": int(p.num_given)}
    digest = hashlib.sha256(json.dumps([about, p.paths]).encode())
    for array in (p.indices, p.targets, p.outputs):
        digest.update(np.ascontiguousarray(array).data)
    return {**about, "sha256": digest.hexdigest()}


def _from_table(kind: type[Predictions], table: pa.Table, path: Path) -> Predictions:
    try:
        about = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        version = about["format"]
        task, classes, num_given = str(about["task"]), tuple(map(str, about["classes"])), int(about["num_given"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{path}: expected a Parquet file that Tellapart wrote, found one whose metadata has no sound "
            f"`{_METADATA_KEY.decode()}` ({error!r}). {_MAKE_AGAIN}"
        ) from error
    if version != _FORMAT:
        raise RunError(f"{path}: expected format {_FORMAT}, found {version}. Read it with the Tellapart that wrote it.")
    _check_columns(table, task, len(classes), path)
    raw = table["path_raw"].to_pylist()
    text = table["path"].to_pylist()
    return kind(
        task=task,
        classes=classes,
        indices=np.array(table["index"]),
        paths=[t if r is None else r.decode("utf-8", "surrogatepass") for r, t in zip(raw, text, strict=True)],
        targets=np.array(table["target"]) if task == "multiclass" else _matrix(table["target"]),
        outputs=_matrix(table[_output_column(task)]),
        num_given=num_given,
    )


def _check_columns(table: pa.Table, task: str, num_classes: int, path: Path) -> None:
    """Raise a RunError if a column is missing, of another type, or has nulls where there must be none."""
    import pyarrow as pa

    if task not in TASKS:
        raise RunError(f"{path}: {unknown_name('task', task, TASKS)}. {_MAKE_AGAIN}")
    found = {field.name: field.type for field in table.schema}
    output = _output_column(task)
    # A regression need not name what it predicts; its width is then whatever was written.
    width = num_classes or getattr(found.get(output), "list_size", 1)
    rows = pa.list_(pa.float32(), width)
    types = {"index": pa.int64(), "path": pa.string(), "path_raw": pa.binary(), output: rows}
    types["target"] = pa.int64() if task == "multiclass" else rows
    for name, kind in types.items():
        if found.get(name) != kind:
            what = found.get(name, "no such column")
            raise RunError(f"{path}: column {name}: expected {kind}, found {what}. {_MAKE_AGAIN}")
        if name != "path_raw" and table[name].null_count:
            nulls = table[name].null_count
            raise RunError(f"{path}: column {name}: expected a value in every row, found {nulls} nulls. {_MAKE_AGAIN}")


def _names(classes: tuple[str, ...], chosen: np.ndarray) -> pa.Array:
    """Return class names: of indices `(N,)` one name a row; of a table of 0 and 1 `(N, K)` a list a row."""
    import pyarrow as pa

    names = pa.array([_printable(name) for name in classes], pa.string())
    if chosen.ndim == 1:
        return names.take(pa.array(chosen))
    mask = chosen.astype(bool)
    ends = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), names.take(pa.array(mask.nonzero()[1])))


def _rows(matrix: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    width = column.type.list_size
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.empty(0, np.float32), *parts]).astype(np.float32, copy=False).reshape(-1, width)


def _output_column(task: str) -> str:
    return "values" if task == "regression" else "probabilities"


def _printable(text: str) -> str:
    """Return text that UTF-8 can hold: a surrogate, which stands for a byte that is not Unicode, is written out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _sync_folder(folder: Path) -> None:
    """Make the rename last through a power cut, where the system lets a folder be synced."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
